#!/bin/sh
# Says what a place for builds has already, a line for each fact: NAME VALUE...
#
#   os ID VERSION NAME          by /etc/os-release
#   libc NAME VERSION           glibc 2.17, or musl
#   interpreter FOLDER VERSION  below /opt/python
#   manager NAME                of the distribution's packages: apt-get, dnf or yum
#   program NAME VERSION PATH   VERSION is "-" where the program does not say
#   gcc VERSION FOLDER          each C++ compiler: the one on PATH first, then toolsets below /opt/rh and g++-N
#
# Runs on whatever shell and tools are there (dash, bash 4.2, busybox), and changes nothing.
set -u
LC_ALL=C
export LC_ALL

# field NAME: a value of os-release, without its quotes.
field() { sed -n "s/^$1=//p" /etc/os-release 2>/dev/null | sed "s/^[\"']//; s/[\"']\$//" | head -n 1; }

# number TEXT: the first version number in it.
number() {
    found=$(printf '%s\n' "$1" | sed -n 's/^[^0-9]*\([0-9][0-9]*\(\.[0-9][0-9]*\)*\).*/\1/p' | head -n 1)
    printf %s "${found:--}"
}

id=$(field ID)
version=$(field VERSION_ID)
echo "os ${id:--} ${version:--} $(field PRETTY_NAME)"

libc=$(getconf GNU_LIBC_VERSION 2>/dev/null) || libc=$(ldd --version 2>&1 | head -n 1)
case $libc in
    musl*) echo "libc musl -" ;;
    # The first line of ldd names the distribution's version before the library's.
    *) echo "libc glibc $(number "${libc##* }")" ;;
esac

for folder in /opt/python/cp*; do
    [ -x "$folder/bin/python" ] || continue
    echo "interpreter $folder $(number "$("$folder/bin/python" --version 2>&1)")"
done

for manager in apt-get dnf yum; do
    if command -v "$manager" >/dev/null 2>&1; then
        echo "manager $manager"
        break
    fi
done

for program in bash make git xz patch flock tar eu-strip objcopy strip patchelf cmake ninja auditwheel ccache; do
    path=$(command -v "$program" 2>/dev/null) || continue
    case $program in
        # busybox's have no --version, and one that waits for input would never end.
        flock | tar | xz | patch) said=$("$program" --version 2>/dev/null </dev/null | head -n 1) ;;
        *) said=$("$program" --version 2>&1 </dev/null | head -n 1) ;;
    esac
    # GNU's programs name their package in parentheses before the version.
    echo "program $program $(number "${said##*)}") $path"
done

# compiler PATH: a g++ that has its gcc beside it.
compiler() {
    [ -x "$1" ] || return 0
    full=$("$1" -dumpfullversion 2>/dev/null) || full=
    [ -n "$full" ] || full=$("$1" -dumpversion 2>/dev/null) || return 0
    echo "gcc $full $1"
}
path=$(command -v g++ 2>/dev/null) && compiler "$path"
for path in /opt/rh/*/root/usr/bin/g++; do
    compiler "$path"
done
for folder in /usr/local/bin /usr/bin; do
    for path in "$folder"/g++-[0-9] "$folder"/g++-[0-9][0-9]; do
        compiler "$path"
    done
done
exit 0
