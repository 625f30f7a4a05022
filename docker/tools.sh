#!/bin/sh
# Lays out what builds need beside the interpreter, below TOOLS_FOLDER (default /opt/builder): tools.sh [NAME...]
#
#   toolset/bin   first on PATH: the compiler COMPILER (the path of a g++), where it is not simply the one on PATH
#   bin           eu-strip where EU_STRIP is 1, and each tool NAME of tools.txt
#   tools         the virtual environment that they come from
#
# TOOLS_PYTHON makes that environment (default: the newest below /opt/python); FIND_LINKS are folders of wheels,
# without spaces. pip's own variables count. A line "builder-warning: ..." says what is lost; ccache alone may be missing.
set -eu
umask 022

here=$(cd "$(dirname "$0")" && pwd)
tools=${TOOLS_FOLDER:-/opt/builder}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$tools/bin"

echo "== compiler"
rm -rf "$tools/toolset"
case ${COMPILER-} in
    /opt/rh/*/bin/g++) ln -s "${COMPILER%/bin/g++}" "$tools/toolset" ;;
    */g++-[0-9]*)
        mkdir -p "$tools/toolset/bin"
        version=${COMPILER##*-}
        for name in gcc g++ cpp gcc-ar gcc-nm gcc-ranlib gcov; do
            [ ! -x "${COMPILER%/*}/$name-$version" ] || ln -s "${COMPILER%/*}/$name-$version" "$tools/toolset/bin/$name"
        done
        ln -s gcc "$tools/toolset/bin/cc"
        ln -s g++ "$tools/toolset/bin/c++" ;;
    *) mkdir -p "$tools/toolset/bin" ;;
esac
PATH=$tools/toolset/bin:$PATH
g++ --version 2>&1 | sed -n 1p

if [ "${EU_STRIP-}" = 1 ]; then
    cp "$here/eu-strip" "$tools/bin/eu-strip"
    chmod 755 "$tools/bin/eu-strip"
fi

[ $# -gt 0 ] || exit 0
echo "== tools: $*"
if [ -z "${TOOLS_PYTHON-}" ]; then
    # Free-threaded interpreters and PyPy lack wheels of some tools.
    TOOLS_PYTHON=$(for folder in /opt/python/cp3*; do
        case $folder in *t) ;; *) echo "$folder/bin/python" ;; esac
    done | sort -t 3 -k 2 -n | tail -n 1)
fi
links=''
for folder in ${FIND_LINKS-}; do
    links="$links --find-links $folder"
done
export PIP_DEFAULT_TIMEOUT="${PIP_DEFAULT_TIMEOUT:-60}" PIP_RETRIES="${PIP_RETRIES:-5}"
"$TOOLS_PYTHON" -m venv "$tools/tools"
for name in "$@"; do
    # Its lines, continued ones with hashes too: from the name to a line that does not end in a backslash.
    sed -n "/^$name==/,/[^\\\\]\$/p" "$here/tools.txt" >"$work/$name.txt"
    code=0
    # shellcheck disable=SC2086
    "$tools/tools/bin/python" -m pip --no-cache-dir install $links -r "$work/$name.txt" || code=$?
    program=${name%-bin}
    if [ "$code" -ne 0 ] && [ "$program" = ccache ]; then
        echo "builder-warning: ccache cannot be had: every build compiles all of its files"
        continue
    elif [ "$code" -ne 0 ]; then
        echo "builder-error: $name cannot be installed"
        exit 1
    fi
    ln -sf "../tools/bin/$program" "$tools/bin/$program"
    PATH=$tools/bin:$PATH "$program" --version 2>&1 | sed -n "1s|^|$program: |p"
done
