#!/bin/sh
# Runs in mount (and network, and process) namespaces of its own: makes a root in which the folders of a build stand at
# their fixed paths, what is hidden is empty and the rest of this machine is read-only, then runs a command there.
#
# Arguments: ROOT CWD PROC FREEZE [KIND SOURCE PLACE]... -- COMMAND...
# ROOT is an empty folder; PROC is "new" for a fresh /proc, "old" for this machine's; FREEZE is "all", or "some" where
# mounts that the kernel does not let be made read-only stay as they are. Kinds, of which those that hide come first:
#
#   hide    PLACE, a folder of this machine, is an empty one
#   use     PLACE, a folder of this machine, is SOURCE, and may be written
#   ro, rw  SOURCE stands at PLACE, which this machine need not have; a path without spaces
#   see     SOURCE stands at PLACE, which is below a hidden or used one, read-only
#   link    PLACE, below a hidden or used one, is a symbolic link to SOURCE
#   mask    PLACE, a socket of this machine, is nothing
set -eu
# What is made here has to be entered by another user.
umask 022
root=$1 cwd=$2 proc=$3 freeze=$4
shift 4
newline='
'

places='' hidden=$newline shown=''
kind='' count=0
for argument in "$@"; do
    [ "$argument" != -- ] || break
    count=$((count + 1))
    case $((count % 3)) in
        1) kind=$argument ;;
        0)
            case $kind in
                ro | rw) places="$places $argument" ;;
                hide | use) hidden="$hidden$argument$newline" ;;
            esac
            shown="$shown$kind $argument$newline"
            ;;
    esac
done

mount --make-rprivate /
mount -t tmpfs -o mode=0755 builder "$root"

# compose FOLDER: show what is in FOLDER, except for places, whose parents become folders of the new root.
compose() {
    for entry in "$1"/* "$1"/.[!.]*; do
        [ -e "$entry" ] || [ -h "$entry" ] || continue
        kind=other
        for place in $places; do
            case $place in
                "$entry") kind=place ;;
                "$entry"/*) [ "$kind" = place ] || kind=parent ;;
            esac
        done
        case $hidden in *"$newline$entry$newline"*) kind=hidden ;; esac
        if [ "$entry" = /proc ] && [ "$proc" = new ]; then
            mkdir "$root/proc"
            mount -t proc proc "$root/proc"
        elif [ "$entry" = /dev ]; then
            devices
        elif [ "$kind" = hidden ]; then
            mkdir "$root$entry"
        elif [ "$kind" = place ]; then
            :
        elif [ "$kind" = parent ] && [ -d "$entry" ]; then
            mkdir -p "$root$entry"
            compose "$entry"
        elif [ -h "$entry" ]; then
            ln -s "$(readlink "$entry")" "$root$entry"
        elif [ -d "$entry" ]; then
            mkdir "$root$entry"
            mount --rbind "$entry" "$root$entry"
        elif [ -f "$entry" ]; then
            : >"$root$entry"
            mount --bind "$entry" "$root$entry"
        fi
    done
}

# devices: a /dev of what every program may use. This machine's own has the terminals of whoever builds.
devices() {
    mkdir "$root/dev" "$root/dev/pts" "$root/dev/shm"
    for entry in null zero full random urandom tty; do
        [ -e "/dev/$entry" ] || continue
        : >"$root/dev/$entry"
        mount --bind "/dev/$entry" "$root/dev/$entry"
    done
    ln -s pts/ptmx "$root/dev/ptmx"
    ln -s /proc/self/fd "$root/dev/fd"
    ln -s /proc/self/fd/0 "$root/dev/stdin"
    ln -s /proc/self/fd/1 "$root/dev/stdout"
    ln -s /proc/self/fd/2 "$root/dev/stderr"
    mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts" 2>/dev/null || :
    mount -t tmpfs -o mode=1777,size=64m shm "$root/dev/shm"
    shown="${shown}use /dev/pts${newline}use /dev/shm$newline"
}

# place SOURCE PLACE: show SOURCE, a folder or a file, with all that is mounted below it.
place() {
    if [ -d "$1" ]; then
        mkdir -p "$root$2"
    else
        mkdir -p "$root${2%/*}"
        : >"$root$2"
    fi
    mount --rbind "$1" "$root$2"
}

# kind_of PLACE: sets kind to that of the innermost of the places that were asked for around PLACE, and at to that one.
kind_of() {
    at='' kind=ro
    IFS=$newline
    for line in $shown; do
        case $1/ in
            "${line#* }"/*)
                inner=${line#* }
                if [ ${#inner} -ge ${#at} ]; then at=$inner kind=${line%% *}; fi
                ;;
        esac
    done
    unset IFS
}

# frozen PLACE OPTIONS: make one mount read-only, whose options are OPTIONS; one that cannot be is covered.
frozen() {
    # The kernel wants the options said that a mount keeps, and in a user namespace lets go of none.
    mount -o "remount,bind,ro${2#rw}" "$1" 2>/dev/null && return
    [ "$freeze" = all ] || return 0
    if [ -d "$1" ]; then
        mount -t tmpfs -o ro,mode=0755 hidden "$1"
    else
        mount --bind /dev/null "$1"
    fi
}

# freeze_all: make each mount of the new root read-only, but for those that a build may write, and /proc.
freeze_all() {
    set -f
    # Spaces and the like are octal numbers behind a backslash there, of which printf wants them to begin with 0.
    sed 's/\\/\\0/g' /proc/self/mountinfo | while read -r _ _ _ _ mounted options _; do
        case $mounted in *\\*) mounted=$(printf '%b.' "$mounted") && mounted=${mounted%.} ;; esac
        case $mounted in "$root" | "$root"/*) ;; *) continue ;; esac
        case ${mounted#"$root"} in /proc | /proc/*) continue ;; esac
        case $options in rw | rw,*) ;; *) continue ;; esac
        kind_of "${mounted#"$root"}"
        case $kind in
            rw | use) continue ;;
            # What was mounted below a place that is hidden now is hidden, too.
            hide) [ "$mounted" = "$root$at" ] || continue ;;
        esac
        # Nor can the command reach what this user cannot.
        [ -e "$mounted" ] || continue
        frozen "$mounted" "$options"
    done
    set +f
}

compose ''
while [ "$1" != -- ]; do
    case $1 in
        hide) mount -t tmpfs -o mode=0755 hidden "$root$3" ;;
        use)
            [ -d "$root$3" ] || mkdir -p "$root$3"
            mount --rbind "$2" "$root$3"
            ;;
        ro | rw | see) place "$2" "$3" ;;
        link)
            mkdir -p "$root${3%/*}"
            ln -s "$2" "$root$3"
            ;;
        mask) [ ! -S "$root$3" ] || mount --bind /dev/null "$root$3" ;;
    esac
    shift 3
done
shift
freeze_all
# A person's PATH often lacks the system programs' folders; the command keeps the PATH that it was given.
chroot=$(PATH=$PATH:/usr/sbin:/sbin command -v chroot)
# The shell behind the new root stays: in a process namespace it is the first, whose end is that of all others, and the
# command, which may not signal it, cannot outlive it.
# shellcheck disable=SC2016  # the shell behind the new root expands them
exec "$chroot" "$root" /bin/sh -c 'cd "$1" || exit; shift; "$@"; exit $?' sh "$cwd" "$@"
