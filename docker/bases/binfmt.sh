#!/bin/sh
# Lets this machine run programs of another architecture, where no init system does it: registers
# the statically linked qemu with the kernel. Lasts until the next start of the machine.
set -eu

fail() {
    printf '%s\n' "binfmt.sh: error: $*" >&2
    exit 3
}

case ${1-} in
    aarch64 | arm64)
        machine=aarch64
        magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00' ;;
    x86_64 | amd64)
        machine=x86_64
        magic='\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x3e\x00' ;;
    *) printf '%s\n' "Usage: binfmt.sh aarch64|x86_64" >&2; exit 2 ;;
esac
mask='\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff'

if [ "$machine" = "$(uname -m)" ]; then
    echo "binfmt.sh: $machine is this machine's own architecture"
    exit 0
fi
[ "$(id -u)" = 0 ] || fail "needs root; run it with sudo"
qemu=$(command -v "qemu-$machine-static") || fail "qemu-$machine-static is missing; run: apt-get install qemu-user-static"
registry=/proc/sys/fs/binfmt_misc
[ -e "$registry/register" ] || mount -t binfmt_misc binfmt_misc "$registry" || fail "the kernel has no binfmt_misc"
if grep -qs '^enabled' "$registry/qemu-$machine"; then
    echo "binfmt.sh: $machine is registered already"
    exit 0
fi
# F opens qemu now, so that it also serves containers, which do not have the file.
printf '%s' ":qemu-$machine:M::$magic:$mask:$qemu:F" >"$registry/register"
echo "binfmt.sh: $machine programs now run through $qemu"
