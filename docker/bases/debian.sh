#!/bin/sh
# Makes a base image from Debian's packages alone, for places that have no image registry.
#
# The image follows the conventions of manylinux images that the builder relies on: a C++ compiler on
# PATH and one interpreter for each Python below /opt/python/cpXY-cpXY, each with pip.
set -eu

usage() {
    cat <<'TEXT'
Usage: debian.sh [options]      (needs root, debootstrap and the docker command)

  --suite NAME               bookworm (default; gcc 12, Python 3.11) or bullseye (gcc 10, Python 3.9)
  --arch ARCH                amd64/x86_64 or arm64/aarch64 (default: this machine's)
  --with-bullseye-python     on bookworm: also Python 3.9, from bullseye's packages
  --python VERSION=PREFIX    also a copy of the interpreter installed below PREFIX on this machine, for
                             example 3.10=/usr/local; it must be of ARCH. May be repeated
  --tag NAME                 name of the image (default: torch-npu-builder/base:SUITE-x86_64 or -aarch64)
  --mirror URL               Debian mirror (default: DEBIAN_MIRROR, else debootstrap's own default)
  --if-absent                do nothing when the engine has an image of that name
  --work DIR                 folder for the root file system, about 1.5 GB (default: below TMPDIR)
  --help                     this text

Proxies are taken from http_proxy and https_proxy.
TEXT
}

say() { printf '%s\n' "debian.sh: $*" >&2; }

# fail CODE MESSAGE: 2 is a wrong request, 3 a machine that lacks something, 1 the rest.
fail() {
    code=$1
    shift
    say "error: $*"
    exit "$code"
}

suite=bookworm
arch=$(uname -m)
bullseye_python=no
pythons=''
tag=''
mirror=${DEBIAN_MIRROR:-}
if_absent=no
work=''

while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) usage; exit 0 ;;
        --with-bullseye-python) bullseye_python=yes; shift; continue ;;
        --if-absent) if_absent=yes; shift; continue ;;
        --suite | --arch | --python | --tag | --mirror | --work)
            [ $# -ge 2 ] || fail 2 "$1 needs a value (--help lists the options)" ;;
        *) fail 2 "unknown option $1 (--help lists them)" ;;
    esac
    case $1 in
        --suite) suite=$2 ;;
        --arch) arch=$2 ;;
        --tag) tag=$2 ;;
        --mirror) mirror=$2 ;;
        --work) work=$2 ;;
        --python)
            case $2 in
                3.*=/*) ;;
                *) fail 2 "--python $2: expected VERSION=PREFIX, for example 3.10=/usr/local" ;;
            esac
            case $2 in *[[:space:]]*) fail 2 "--python $2: a prefix with a space is not supported" ;; esac
            [ -x "${2#*=}/bin/python${2%%=*}" ] || fail 2 "--python $2: there is no ${2#*=}/bin/python${2%%=*}"
            pythons="$pythons $2" ;;
    esac
    shift 2
done

case $suite in
    bookworm) own_python=3.11 ;;
    bullseye) own_python=3.9 ;;
    *) fail 2 "--suite $suite: expected bookworm or bullseye" ;;
esac
if [ "$suite" = bullseye ] && [ "$bullseye_python" = yes ]; then
    fail 2 "--with-bullseye-python belongs to bookworm; bullseye's own Python is 3.9 already"
fi
case $arch in
    amd64 | x86_64) arch=amd64 machine=x86_64 ;;
    arm64 | aarch64) arch=arm64 machine=aarch64 ;;
    *) fail 2 "--arch $arch: expected amd64 or arm64" ;;
esac
: "${tag:=torch-npu-builder/base:$suite-$machine}"

command -v docker >/dev/null || fail 3 "the docker command is missing; install docker.io or docker-ce-cli"
docker version >/dev/null 2>&1 || fail 3 "no container engine answers; start it or set DOCKER_HOST"
if [ "$if_absent" = yes ] && docker image inspect "$tag" >/dev/null 2>&1; then
    say "$tag is there already"
    exit 0
fi
[ "$(id -u)" = 0 ] || fail 3 "debootstrap needs root; run this script with sudo"
command -v debootstrap >/dev/null || fail 3 "debootstrap is missing; run: apt-get install debootstrap"
if [ "$machine" != "$(uname -m)" ] && ! grep -qs '^enabled' "/proc/sys/fs/binfmt_misc/qemu-$machine"; then
    fail 3 "this machine cannot run $machine programs; run: apt-get install qemu-user-static binfmt-support" \
        "(or docker/bases/binfmt.sh $machine where no init system registers it)"
fi

folder=$(mktemp -d "${work:-${TMPDIR:-/tmp}}/torch-npu-builder-base.XXXXXX")
root=$folder/root
clean_up() {
    # debootstrap mounts proc and sys in there while it runs; removal must not reach through them.
    for mounted in "$root/proc" "$root/sys" "$root/dev"; do
        while umount "$mounted" 2>/dev/null; do :; done
    done
    rm -rf --one-file-system "$folder"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# Commands in the new root see none of this machine's environment but the proxies.
in_root() {
    env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
        ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} \
        PYTHONDONTWRITEBYTECODE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore \
        chroot "$root" "$@"
}

say "unpacking $suite for $machine (some 25 seconds; under emulation some minutes)"
packages=build-essential,ca-certificates,patchelf,python3,python3-dev,python3-venv
if ! debootstrap --arch="$arch" --variant=minbase --include="$packages" \
    "$suite" "$root" ${mirror:+"$mirror"} >"$folder/log" 2>&1; then
    tail -n 15 "$folder/log" "$root/debootstrap/debootstrap.log" >&2 2>/dev/null || true
    fail 1 "debootstrap failed (its last lines stand above)"
fi

# What debootstrap used, where nothing was asked for.
: "${mirror:=$(sed -n 's/^deb \([^ ]*\) .*/\1/p' "$root/etc/apt/sources.list" | head -n 1)}"

# The loader finds a library beside a program ($ORIGIN) only where /proc tells it the program's place.
mount -t proc proc "$root/proc"

# The short name of an interpreter's folder, as manylinux images have it.
short() { printf 'cp%s-cp%s' "${1%%.*}${1#*.}" "${1%%.*}${1#*.}"; }

mkdir -p "$root/opt/python"

say "Python $own_python of $suite"
in_root "python$own_python" -m venv "/opt/python/$(short "$own_python")"

# Debian's interpreters install modules below /usr/local; a venv around one has the usual layout. pip
# comes from the wheels that Debian's own venv package carries, so no index is needed.
if [ "$bullseye_python" = yes ]; then
    say "Python 3.9 from bullseye's packages"
    prefix=/opt/interpreters/bullseye-3.9
    mkdir -p "$root/tmp/debs/lists/partial" "$root/tmp/debs/unpacked" "$root$prefix"
    printf 'deb %s bullseye main\n' "$mirror" >"$root/tmp/debs/sources.list"
    # shellcheck disable=SC2016 # the variables belong to the shell in the new root
    in_root sh -eu -c '
        cd /tmp/debs
        set -- -o Dir::Etc::SourceList=/tmp/debs/sources.list -o Dir::Etc::SourceParts=/dev/null \
            -o Dir::State::Lists=/tmp/debs/lists -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User=root -qq
        apt-get "$@" update
        apt-get "$@" download python3.9 python3.9-minimal libpython3.9-minimal libpython3.9-stdlib libpython3.9-dev \
            python3.9-venv python3-distutils/bullseye python3-lib2to3/bullseye libssl1.1 libffi7 libmpdec3
        for package in *.deb; do dpkg-deb -x "$package" unpacked; done
    ' >"$folder/log" 2>&1 || { tail -n 15 "$folder/log" >&2; fail 1 "bullseye's packages could not be fetched"; }
    from=$root/tmp/debs/unpacked/usr
    mkdir -p "$root$prefix/bin" "$root$prefix/lib" "$root$prefix/include"
    cp -a "$from/bin/python3.9" "$root$prefix/bin/"
    cp -a "$from/lib/python3.9" "$root$prefix/lib/"
    cp -a "$from/include/python3.9" "$root$prefix/include/"
    # Debian's pyconfig.h includes the architecture's from a folder that only its own gcc looks into.
    cp -a "$from/include/$machine-linux-gnu/python3.9/pyconfig.h" "$root$prefix/include/python3.9/"
    for library in libssl libcrypto libffi libmpdec; do
        cp -a "$from/lib/$machine-linux-gnu/$library".so* "$root$prefix/lib/"
    done
    # bookworm's setuptools wheel holds what bullseye has in a wheel of its own.
    sed -i "/_PROJECTS\|_projects/,/]/s/[\"']pkg_resources[\"'],\{0,1\} *//" "$root$prefix/lib/python3.9/ensurepip/__init__.py"
    rm -rf "$root$prefix/lib/python3.9/dist-packages" "$root$prefix/lib/python3.9/"config-*
    # shellcheck disable=SC2016
    in_root sh -eu -c '
        cd "$1/lib"
        for library in *.so*; do
            [ -h "$library" ] || patchelf --set-rpath "\$ORIGIN" "$library"
        done
        for module in _ssl _hashlib _ctypes _decimal; do
            patchelf --set-rpath "\$ORIGIN/../.." python3.9/lib-dynload/$module.cpython-39-*.so
        done
        "$1/bin/python3.9" -m venv /opt/python/cp39-cp39
    ' sh "$prefix" || fail 1 "bullseye's Python does not run in $suite"
fi

# An interpreter of this machine: copied without what builds never use, made to find its own library,
# and with the place it was installed at replaced by its new one in the files that record it.
for entry in $pythons; do
    version=${entry%%=*}
    source=$(readlink -f "${entry#*=}")
    target=/opt/python/$(short "$version")
    [ ! -e "$root$target" ] || fail 2 "--python $version: the image has this Python already"
    say "Python $version copied from this machine"
    mkdir -p "$root$target"
    # shellcheck disable=SC2086,SC2231 # the patterns are expanded here, in the interpreter's own folder
    (cd "$source" && for path in bin/python$version include/python$version* lib/python$version \
        lib/libpython$version*.so* lib/libpython3.so; do
        if [ -e "$path" ]; then printf '%s\n' "$path"; fi
    done) >"$folder/copied"
    tar -C "$source" -cf - --exclude='__pycache__' --exclude='*.pyc' --exclude='*.a' --exclude='test' --exclude='tests' \
        --exclude='idlelib' --exclude='turtledemo' --exclude='site-packages/*' --files-from "$folder/copied" |
        tar -C "$root$target" --no-same-owner -xf -
    ln -sf "python$version" "$root$target/bin/python"
    ln -sf "python$version" "$root$target/bin/python3"
    grep -rlIZ --include='_sysconfigdata*' --include=Makefile --include='*.py' -- "$source" "$root$target/lib/python$version" |
        xargs -0 -r sed -i "s|$source|$target|g"
    # shellcheck disable=SC2016
    in_root sh -eu -c '
        if [ -e "$1/lib" ] && ls "$1"/lib/libpython*.so* >/dev/null 2>&1; then
            patchelf --set-rpath "\$ORIGIN/../lib" "$1/bin/python$2"
        fi
        "$1/bin/python$2" -m ensurepip --upgrade >/dev/null
        [ -e "$1/bin/pip" ] || ln -s pip3 "$1/bin/pip"
    ' sh "$target" "$version" || fail 1 "the copy of Python $version does not run in $suite (another architecture or libc?)"
done

umount "$root/proc"

# Two runs on the same packages should differ in as little as possible.
rm -rf "$root/tmp/debs" "$root/var/cache/apt/archives/"*.deb "$root/var/lib/apt/lists/"* "$root/var/log/"*.log \
    "$root/var/log/apt" "$root/var/cache/ldconfig/aux-cache" "$root/var/cache/apt/"*.bin "$root/debootstrap"
find "$root/opt" "$root/usr/lib" "$root/usr/share" -depth -name __pycache__ -exec rm -rf {} +
: >"$root/etc/machine-id"
rm -f "$root/etc/resolv.conf" "$root/etc/hostname"
printf 'deb %s %s main\n' "$mirror" "$suite" >"$root/etc/apt/sources.list"

say "building $tag"
mkdir "$folder/context"
tar -C "$root" --one-file-system --sort=name --mtime=@0 --numeric-owner -cf "$folder/context/rootfs.tar" .
rm -rf --one-file-system "$root"
cat >"$folder/context/Dockerfile" <<TEXT
FROM scratch
ADD rootfs.tar /
LABEL torch-npu-builder.base="$suite-$machine"
CMD ["/bin/bash"]
TEXT
# An import would record this machine's architecture; a build records the one it is asked for.
docker build --platform "linux/$arch" --tag "$tag" "$folder/context" >"$folder/log" 2>&1 || {
    tail -n 15 "$folder/log" >&2
    fail 1 "the engine could not build $tag"
}

# shellcheck disable=SC2016
docker run --rm --network none --platform "linux/$arch" "$tag" sh -eu -c '
    gcc --version | head -n 1
    for python in /opt/python/cp*/bin/python; do
        "$python" -c "import ctypes, hashlib, lzma, sqlite3, ssl, sys, zlib, pip; print(sys.version.split()[0], \"at\", sys.prefix, ssl.OPENSSL_VERSION, \"pip\", pip.__version__)"
    done
    for folder in /opt/python/cp*/bin; do
        ls "$folder"/python3.* >/dev/null
        # Wheels are tried in fresh environments made by these interpreters.
        "$folder/python" -m venv /tmp/try && /tmp/try/bin/pip --version >/dev/null && rm -rf /tmp/try
    done
' || { docker image rm "$tag" >/dev/null; fail 1 "$tag was built but its interpreters do not work; it was removed"; }
say "$tag is ready"
