#!/bin/sh
# Makes the Python part of an environment: in a container that the builder then commits, or in a folder
# of this machine for builds without a container.
#
# Reads from its own folder: requirements.txt (for the interpreter's site-packages), constraints.txt,
# torch.txt (PyTorch alone), tools.txt, torch_site.py, cpu_only_torch.py. Takes by environment:
#   PYTHON         3.11
#   CMAKE          the oldest version that will do
#   TORCH_SOURCE   cpu-index, pypi or find-links; TORCH_INDEX is PyTorch's CPU index
#   FIND_LINKS     folders of wheels, without spaces
#   INTERPRETER    its folder (default: below /opt/python); TOOLS_PYTHON makes the tools' venv
#   TORCH_FOLDER, TOOLS_FOLDER   default /opt/torch and /opt/builder
# and pip's own variables. Exit code 64: this base lacks the interpreter.
set -eu
umask 022

here=$(cd "$(dirname "$0")" && pwd)
torch=${TORCH_FOLDER:-/opt/torch}
tools=${TOOLS_FOLDER:-/opt/builder}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [ -z "${INTERPRETER-}" ]; then
    short=cp$(printf %s "$PYTHON" | tr -d .)
    INTERPRETER=/opt/python/$short-$short
    # Python 3.7's folder ends in "m" on manylinux images; every environment shows the same name.
    if [ ! -e "$INTERPRETER" ] && [ -e "${INTERPRETER}m" ]; then ln -s "${INTERPRETER}m" "$INTERPRETER"; fi
    if [ ! -x "$INTERPRETER/bin/python" ]; then
        echo "install.sh: there is no $INTERPRETER in: $(ls /opt/python 2>/dev/null | tr '\n' ' ')" >&2
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

# pip_in PYTHON ARGUMENT...: pip's cache would only end up in a layer.
pip_in() {
    program=$1
    shift
    "$program" -m pip --no-cache-dir --retries 5 --timeout 120 "$@"
}

echo "== build requirements"
# shellcheck disable=SC2086
[ ! -s "$here/requirements.txt" ] || pip_in "$python" install $links -r "$here/requirements.txt"

echo "== PyTorch"
mkdir -p "$torch" "$work/torch"
# By environment, because an index URL may hold a password and arguments are for everyone to see.
[ "$TORCH_SOURCE" != cpu-index ] || export PIP_EXTRA_INDEX_URL="${PIP_EXTRA_INDEX_URL-} $TORCH_INDEX"
# PyTorch comes first and alone, so that its hashes can be demanded without those of all it needs.
if [ "$TORCH_SOURCE" = find-links ]; then
    # The user's own folder may hold a source distribution: it is built here, with the tools just installed.
    # shellcheck disable=SC2086
    pip_in "$python" wheel --no-deps --no-index --no-build-isolation --wheel-dir "$work/torch" $links -r "$here/torch.txt"
else
    # shellcheck disable=SC2086
    pip_in "$python" download --no-deps --only-binary :all: --dest "$work/torch" $links -r "$here/torch.txt"
fi
# shellcheck disable=SC2086
pip_in "$python" install --target "$torch" $links --constraint "$here/constraints.txt" "$work"/torch/*.whl
rm -rf "$work/torch"
"$python" "$here/torch_site.py" prune "$torch" "$here/requirements.txt"
if [ "$(uname -m)" = x86_64 ] && "$python" "$here/torch_site.py" is-cuda "$torch"; then
    "$python" "$here/cpu_only_torch.py" "$torch"
fi
# Upstream's code generation writes a template inside torchgen, as whatever user the build runs.
[ ! -d "$torch/torchgen" ] || chmod -R a+rwX "$torch/torchgen"

echo "== tools"
# at_least PROGRAM VERSION: whether the one on PATH is that new.
at_least() {
    command -v "$1" >/dev/null 2>&1 || return 1
    found=$("$1" --version 2>/dev/null | sed -n '1s/^[^0-9]*\([0-9][0-9.]*\).*/\1/p')
    [ -n "$found" ] && [ "$(printf '%s\n%s\n' "$2" "$found" | sort -V | head -n 1)" = "$2" ]
}
wanted=''
at_least cmake "$CMAKE" || wanted="$wanted cmake"
# auditwheel 6 repairs nothing with an older one, although 0.14 is what it asks for.
at_least patchelf 0.14.5 || wanted="$wanted patchelf"
at_least auditwheel 5.0 || wanted="$wanted auditwheel"
at_least ninja 1.10 || wanted="$wanted ninja"
mkdir -p "$tools/bin"
if [ -n "$wanted" ]; then
    if [ -z "${TOOLS_PYTHON-}" ]; then
        # The newest of the base's interpreters; free-threaded ones and PyPy lack wheels of some tools.
        TOOLS_PYTHON=$(for folder in /opt/python/cp3*; do
            case $folder in *t) ;; *) echo "$folder/bin/python" ;; esac
        done | sort -V | tail -n 1)
    fi
    "$TOOLS_PYTHON" -m venv "$tools/tools"
    for name in $wanted; do
        grep "^$name==" "$here/tools.txt" >"$work/tools.txt"
        # shellcheck disable=SC2086
        pip_in "$tools/tools/bin/python" install $links -r "$work/tools.txt"
        ln -sf "../tools/bin/$name" "$tools/bin/$name"
    done
fi

echo "== checks"
PATH=$tools/bin:$PATH
for name in cmake patchelf auditwheel ninja git make gcc g++; do
    "$name" --version 2>&1 | sed -n "1s|^|$name: |p"
done
if [ "$("$python" -c 'import sys; print(sys.version_info >= (3, 12))')" = True ]; then
    "$python" -c 'import distutils' || { echo "install.sh: setuptools gives Python $PYTHON no distutils" >&2; exit 1; }
fi
cd /
PYTHONPATH=$torch "$python" -c 'import torch; print("torch", torch.__version__, "from", torch.__file__)'
