#!/bin/sh
# Puts a target's build requirements into the interpreter's own site-packages.
#
# Reads requirements.txt beside it. Takes by environment: PYTHON (3.11), INTERPRETER (its folder; default: below
# /opt/python), FIND_LINKS (folders of wheels, without spaces), and pip's own variables.
# Exit code 64: there is no such interpreter.
set -eu
umask 022

here=$(cd "$(dirname "$0")" && pwd)
if [ -z "${INTERPRETER-}" ]; then
    # shellcheck disable=SC2153  # PYTHON comes by environment
    short=cp$(printf %s "$PYTHON" | tr -d .)
    INTERPRETER=/opt/python/$short-$short
    # Python 3.7's folder ends in "m" on manylinux images; every environment shows the same name.
    if [ ! -e "$INTERPRETER" ] && [ -e "${INTERPRETER}m" ]; then ln -s "${INTERPRETER}m" "$INTERPRETER"; fi
    if [ ! -x "$INTERPRETER/bin/python" ]; then
        # shellcheck disable=SC2012  # for people to read
        echo "builder-error: there is no $INTERPRETER in: $(ls /opt/python 2>/dev/null | tr '\n' ' ')"
        exit 64
    fi
fi
python=$INTERPRETER/bin/python
# Upstream's scripts call python3.11, not python.
[ -e "$INTERPRETER/bin/python$PYTHON" ] || ln -s python "$INTERPRETER/bin/python$PYTHON"
"$python" -m pip --version >/dev/null 2>&1 || "$python" -m ensurepip

links=''
for folder in ${FIND_LINKS-}; do
    links="$links --find-links $folder"
done
export PIP_DEFAULT_TIMEOUT="${PIP_DEFAULT_TIMEOUT:-60}" PIP_RETRIES="${PIP_RETRIES:-5}"
echo "== build requirements"
# shellcheck disable=SC2086
[ ! -s "$here/requirements.txt" ] ||
    "$python" -m pip --no-cache-dir install $links -r "$here/requirements.txt"
if [ "$("$python" -c 'import sys; print(sys.version_info >= (3, 12))')" = True ]; then
    "$python" -c 'import distutils' || { echo "builder-error: setuptools gives Python $PYTHON no distutils"; exit 1; }
fi
