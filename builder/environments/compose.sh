#!/bin/sh
# Runs in mount (and network, and process) namespaces of its own: makes a root in which the folders of a
# build stand at their fixed paths and everything else stands where it always does, then runs a command
# there. Arguments: ROOT CWD PROC [ro|rw SOURCE PLACE]... -- COMMAND...
# ROOT is an empty folder; PROC is "new" for a fresh /proc, "old" for this machine's.
set -eu
root=$1 cwd=$2 proc=$3
shift 3

places=''
count=0
for argument in "$@"; do
    [ "$argument" != -- ] || break
    count=$((count + 1))
    # Every third argument is a place; they are fixed paths without spaces.
    [ $((count % 3)) -ne 0 ] || places="$places $argument"
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
        if [ "$entry" = /proc ] && [ "$proc" = new ]; then
            mkdir "$root/proc"
            mount -t proc proc "$root/proc"
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
compose ''

while [ "$1" != -- ]; do
    mkdir -p "$root$3"
    mount --bind "$2" "$root$3"
    # What is mounted without some right keeps lacking it; where the kernel wants that said, it stays writable.
    [ "$1" != ro ] || mount -o remount,bind,ro "$root$3" 2>/dev/null || :
    shift 3
done
shift
# A person's PATH often lacks the system programs' folders; the command keeps the PATH that it was given.
chroot=$(PATH=$PATH:/usr/sbin:/sbin command -v chroot)
# shellcheck disable=SC2016  # the shell behind the new root expands them
exec "$chroot" "$root" /bin/sh -c 'cd "$1" && shift && exec "$@"' sh "$cwd" "$@"
