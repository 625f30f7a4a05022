#!/bin/sh
# Runs as root while the system part of a build image is made: system.sh [GCC_TOOLSET]
#
# Adds the packages that upstream's build calls, and makes /opt/builder/toolset/bin the place of the
# wanted compiler. Lines that start with "WARNING:" reach the user.
set -eu

toolset=${1-}
here=$(cd "$(dirname "$0")" && pwd)
bundle=$here/ca-bundle.crt
export DEBIAN_FRONTEND=noninteractive LC_ALL=C

# add NAME...: install packages with the distribution's own program.
if command -v apt-get >/dev/null 2>&1; then
    add() { apt-get $options install -y -qq --no-install-recommends "$@"; }
    options=''
    [ ! -s "$bundle" ] || options="-o Acquire::https::CaInfo=$bundle"
    apt-get $options -qq update
    # ninja is not among them on purpose: the builder brings one version of it everywhere.
    add make git ca-certificates elfutils xz-utils
    optional='ccache cmake patchelf'
    finish() { rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb; }
elif command -v dnf >/dev/null 2>&1 || command -v yum >/dev/null 2>&1; then
    program=$(command -v dnf || command -v yum)
    options=''
    [ ! -s "$bundle" ] || options="--setopt=sslcacert=$bundle"
    add() { "$program" $options install -y -q "$@"; }
    add make git elfutils xz which
    # ccache lives in the extra packages of Enterprise Linux.
    add epel-release >/dev/null 2>&1 || true
    optional='ccache cmake patchelf'
    finish() { "$program" clean all >/dev/null; rm -rf /var/cache/dnf /var/cache/yum; }
else
    echo "system.sh: this base has none of apt-get, dnf and yum" >&2
    exit 65
fi
# cmake and patchelf come with the Python part where the distribution has none or an old one.
for name in $optional; do
    command -v "$name" >/dev/null 2>&1 || add "$name" ||
        { [ "$name" != ccache ] || echo "WARNING: the base's package sources have no ccache: compiles are not cached"; }
done

mkdir -p /opt/builder/bin
rm -rf /opt/builder/toolset
case $toolset in
    '')
        mkdir -p /opt/builder/toolset/bin
        # A base that already prefers a toolset (manylinux images set PATH) keeps its choice.
        preferred=$(command -v gcc || true)
        case $preferred in
            /opt/rh/*) rm -rf /opt/builder/toolset; ln -s "${preferred%/bin/gcc}" /opt/builder/toolset ;;
        esac ;;
    gcc-toolset-* | devtoolset-*)
        if command -v apt-get >/dev/null 2>&1; then
            # Toolsets are packages of Enterprise Linux. The builder compares the compiler with the matrix next.
            echo "WARNING: this base has no $toolset; its own gcc $(gcc -dumpfullversion) compiles"
            mkdir -p /opt/builder/toolset/bin
            toolset=
        fi
        [ -z "$toolset" ] || [ -x "/opt/rh/$toolset/root/usr/bin/g++" ] || add "$toolset-gcc" "$toolset-gcc-c++" "$toolset-binutils"
        [ -z "$toolset" ] || ln -s "/opt/rh/$toolset/root/usr" /opt/builder/toolset ;;
    gcc-[0-9]*)
        version=${toolset#gcc-}
        command -v "g++-$version" >/dev/null 2>&1 || add "gcc-$version" "g++-$version"
        mkdir -p /opt/builder/toolset/bin
        for name in gcc g++ cpp gcc-ar gcc-nm gcc-ranlib gcov; do
            ln -s "$(command -v "$name-$version")" "/opt/builder/toolset/bin/$name"
        done
        ln -s gcc /opt/builder/toolset/bin/cc
        ln -s g++ /opt/builder/toolset/bin/c++ ;;
    *)
        echo "system.sh: the gcc toolset $toolset is none that this script knows (gcc-toolset-N, devtoolset-N, gcc-N)" >&2
        exit 65 ;;
esac
PATH=/opt/builder/toolset/bin:$PATH
for name in gcc g++ make git eu-strip; do
    command -v "$name" >/dev/null 2>&1 || { echo "system.sh: there is no $name after the packages were installed" >&2; exit 65; }
done
finish
