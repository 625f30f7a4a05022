# What scripts that make images have in common: messages, and commands in a root of their own. Sourced, with $program set.
# shellcheck shell=sh disable=SC2154

say() { printf '%s\n' "$program: $*" >&2; }

# fail CODE MESSAGE: 2 is a wrong request, 3 a machine that lacks something, 1 the rest.
fail() {
    code=$1
    shift
    say "error: $*"
    exit "$code"
}

# work_in FOLDER NAME: makes $folder there, and removes it with $root inside, whatever happens.
work_in() {
    folder=$(mktemp -d "$1/torch-npu-builder-$2.XXXXXX")
    root=$folder/root
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
}

clean_up() {
    # debootstrap mounts proc and sys in there while it runs; removal must not reach through them.
    for mounted in "$root/proc" "$root/sys" "$root/dev"; do
        while umount "$mounted" 2>/dev/null; do :; done
    done
    rm -rf --one-file-system "$folder"
}

# Commands in the new root see none of this machine's environment but the proxies.
in_root() {
    env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
        ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} \
        PYTHONDONTWRITEBYTECODE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore \
        chroot "$root" "$@"
}

# The short name of an interpreter's folder, as manylinux images have it.
short() { printf 'cp%s-cp%s' "${1%%.*}${1#*.}" "${1%%.*}${1#*.}"; }

# reproducible ARCHIVE ARGUMENT...: what tar is told to pack, without anything of the day it was made.
reproducible() {
    archive=$1
    shift
    tar -C "$root" --sort=name --mtime=@0 --numeric-owner -cf "$archive" "$@"
}
