#!/bin/sh
# Makes base images that behave like the images that the matrix names, from Debian's packages alone.
#
# Of the real ones they have what a builder trips over: rpm and dnf or yum as the only package manager that can be found,
# /etc/os-release of CentOS Linux 7 or AlmaLinux 8, repositories whose hosts do not resolve, the compiler below /opt/rh,
# which only PATH in the image's configuration leads to, interpreters below /opt/_internal that /opt/python links to, an
# entry point, no C.UTF-8, no python and no python3 on PATH, no ccache, no eu-strip. Of Debian they keep the C library.
set -eu

program=enterprise.sh
here=$(cd "$(dirname "$0")" && pwd)
bases=$here/../../docker/bases
# shellcheck source=docker/bases/common.sh
. "$bases/common.sh"

usage() {
    cat <<'TEXT'
Usage: enterprise.sh [options]      (needs root, debootstrap and the docker command)

  --release N      7 (CentOS Linux 7, devtoolset-9) or 8 (AlmaLinux 8, gcc-toolset-11). May be repeated (default: both)
  --if-absent      do nothing for a release whose images the engine has
  --work DIR       folder for the root file system, about 2 GB (default: below TMPDIR)

Makes torch-npu-builder/test-base:elN-VARIANT for each variant: "full" has what the real images bring (make, git, xz,
patch, patchelf, cmake, auditwheel), "bare" lacks these, "nothing" lacks the package manager, too. And an image
torch-npu-builder/test-base:packages with nothing but rpms of make, git, xz and patch, for package servers of tests.
TEXT
}

releases='' if_absent=no work=''
while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) usage; exit 0 ;;
        --if-absent) if_absent=yes; shift; continue ;;
        --release | --work) [ $# -ge 2 ] || fail 2 "$1 needs a value (--help lists the options)" ;;
        *) fail 2 "unknown option $1 (--help lists them)" ;;
    esac
    case $1 in
        --work) work=$2 ;;
        --release)
            case $2 in 7 | 8) ;; *) fail 2 "--release $2: expected 7 or 8" ;; esac
            releases="$releases $2" ;;
    esac
    shift 2
done
: "${releases:=7 8}"
name=torch-npu-builder/test-base
machine=$(uname -m)
case $machine in
    x86_64) arch=amd64 ;;
    aarch64) arch=arm64 ;;
    *) fail 3 "these images are made on x86_64 and aarch64 only" ;;
esac

command -v docker >/dev/null || fail 3 "the docker command is missing; install docker.io or docker-ce-cli"
docker version >/dev/null 2>&1 || fail 3 "no container engine answers; start it or set DOCKER_HOST"
wanted=''
for release in $releases; do
    there=$if_absent
    for tag in "el$release-full" "el$release-bare" "el$release-nothing" packages; do
        docker image inspect "$name:$tag" >/dev/null 2>&1 || there=no
    done
    [ "$there" = yes ] || wanted="$wanted $release"
done
if [ -z "$wanted" ]; then
    say "the images are there already"
    exit 0
fi
[ "$(id -u)" = 0 ] || fail 3 "this needs root; run it with sudo"

from=torch-npu-builder/base:bookworm-$machine
sh "$bases/debian.sh" --suite bookworm --with-bullseye-python --if-absent
work_in "${work:-${TMPDIR:-/tmp}}" enterprise
mkdir "$root"
say "unpacking $from"
container=$(docker create "$from" true)
docker export "$container" | tar -C "$root" -xf - --exclude=dev/* --exclude=usr/share/doc/* --exclude=usr/share/man/*
docker rm "$container" >/dev/null

say "Debian's packages"
cp /etc/resolv.conf "$root/etc/resolv.conf"
mirror=$(sed -n 's/^deb \([^ ]*\) .*/\1/p' "$root/etc/apt/sources.list" | head -n 1)
printf 'deb %s bullseye main\n' "$mirror" >>"$root/etc/apt/sources.list"
mkdir -p "$root/made"
cp "$here/rearrange.sh" "$root/made/"
mount -t proc proc "$root/proc"
for device in null:1:3 zero:1:5 urandom:1:9; do
    mknod -m 666 "$root/dev/${device%%:*}" c "$(echo "$device" | cut -d: -f2)" "${device##*:}"
done
# One program comes from PyPI, as the builder itself would fetch it.
for bundle in "${BUILDER_CA_BUNDLE-}" "${PIP_CERT-}" "${SSL_CERT_FILE-}" "${REQUESTS_CA_BUNDLE-}" "${CURL_CA_BUNDLE-}"; do
    [ -f "$root/made/ca.crt" ] || [ ! -f "$bundle" ] || cp "$bundle" "$root/made/ca.crt"
done
set -- sh /made/rearrange.sh "$machine"
[ ! -f "$root/made/ca.crt" ] || set -- env PIP_CERT=/made/ca.crt "$@"
index=${BUILDER_PIP_INDEX_URL:-${PIP_INDEX_URL-}}
[ -z "$index" ] || set -- env PIP_INDEX_URL="$index" "$@"
if ! in_root "$@" >"$folder/log" 2>&1; then
    tail -n 20 "$folder/log" >&2
    fail 1 "the packages could not be arranged (the last lines stand above)"
fi
umount "$root/proc"
rm -f "$root/etc/resolv.conf" "$root/dev/"*

# Layers, from what all variants have to what only the fullest has. What a layer was packed from is taken away before
# the next is packed, so that each file is in one.
say "layers"
for layer in tools manager; do
    reproducible "$folder/$layer.tar" --no-recursion --files-from "$root/made/$layer"
    (cd "$root" && xargs -d '\n' rm -f) <"$root/made/$layer"
done
find "$root/opt/_internal" -depth -type d -empty -delete
mv "$root/made" "$folder/made"
reproducible "$folder/user-land.tar" --one-file-system .
rm -rf --one-file-system "$root"

root=$folder/made
reproducible "$folder/packages.tar" packages
sh "$bases/load.sh" --arch "$arch" "$folder/packages.tar" --tag "$name:packages" || fail 1 "the engine took no packages"
for release in $wanted; do
    root=$folder/made/el$release
    case $release in
        7) toolset=devtoolset-9 ;;
        8) toolset=gcc-toolset-11 ;;
    esac
    for part in release programs; do
        reproducible "$folder/$part.tar" -C "$part" .
    done
    usr=/opt/rh/$toolset/root/usr
    sh "$bases/load.sh" --arch "$arch" --label "torch-npu-builder.base=el$release" --entrypoint manylinux-entrypoint \
        --env "PATH=$usr/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" \
        --env "LD_LIBRARY_PATH=$usr/lib64:$usr/lib" --env LC_ALL=en_US.UTF-8 --env LANG=en_US.UTF-8 \
        "$folder/user-land.tar" "$folder/release.tar" --tag "$name:el$release-nothing" \
        "$folder/manager.tar" "$folder/programs.tar" --tag "$name:el$release-bare" \
        "$folder/tools.tar" --tag "$name:el$release-full" || fail 1 "the engine did not take the images of el$release"
done
say "ready"
