#!/bin/sh
# Gets PyTorch and what it needs, for one interpreter, into folders that builds share: pytorch.sh collect|unpack
#
#   collect   PLACE/wheels: the wheels that pip chooses for this interpreter, from KEPT where they are there
#   unpack    PLACE/site: those wheels unpacked, as they are mounted at /opt/torch, CPU-only; imported once
#
# Reads from its own folder: torch.txt (PyTorch alone, with its hashes), constraints.txt, requirements.txt (what the
# interpreter has already), torch_site.py, cpu_only_torch.py. Takes by environment:
#   PLACE          a folder that may be written; temporary files go there, too
#   KEPT           wheels of earlier times from the same source
#   PYTHON         3.11, or INTERPRETER, the folder of one (default: below /opt/python)
#   TORCH_SOURCE   cpu-index, pypi or find-links; TORCH_INDEX is PyTorch's CPU index
#   FIND_LINKS     folders of wheels, without spaces
#   OFFLINE        1: nothing but KEPT and FIND_LINKS may be used
# and pip's own variables.
set -eu
umask 022

here=$(cd "$(dirname "$0")" && pwd)
if [ -z "${INTERPRETER-}" ]; then
    # shellcheck disable=SC2153  # PYTHON comes by environment
    short=cp$(printf %s "$PYTHON" | tr -d .)
    INTERPRETER=/opt/python/$short-$short
fi
python=$INTERPRETER/bin/python
mkdir -p "$PLACE/tmp" "$PLACE/wheels"
# pip unpacks there before it moves: on one file system that costs nothing.
export TMPDIR="$PLACE/tmp" PIP_CACHE_DIR="$PLACE/tmp/pip"
export PIP_DEFAULT_TIMEOUT="${PIP_DEFAULT_TIMEOUT:-60}" PIP_RETRIES="${PIP_RETRIES:-5}"

links=''
for folder in ${FIND_LINKS-}; do
    links="$links --find-links $folder"
done

pip() { "$python" -m pip "$@"; }

collect() {
    # By environment, because an index URL may hold a password and arguments are for everyone to see.
    [ "$TORCH_SOURCE" != cpu-index ] || export PIP_EXTRA_INDEX_URL="${PIP_EXTRA_INDEX_URL-} $TORCH_INDEX"
    rm -rf "$PLACE/wheels"
    mkdir "$PLACE/wheels"
    echo "== PyTorch"
    # It comes first and alone, so that its hashes can be demanded without those of all that it needs.
    if [ "$TORCH_SOURCE" = find-links ]; then
        # The user's own folder may hold a source distribution: it is built here, with the tools just installed.
        # shellcheck disable=SC2086
        pip wheel --no-deps --no-index --no-build-isolation --wheel-dir "$PLACE/wheels" $links -r "$here/torch.txt"
    elif ! pip download --quiet --no-deps --only-binary :all: --no-index --find-links "$KEPT" --dest "$PLACE/wheels" \
        -r "$here/torch.txt" 2>/dev/null; then
        [ "${OFFLINE-}" != 1 ] || [ -n "$links" ] || { echo "builder-error: $(sed -n 1p "$here/torch.txt") is not here"; exit 1; }
        # Before pip 25.1 a connection that breaks off in the middle is either an error or a wrong digest.
        # shellcheck disable=SC2086
        pip download --no-deps --only-binary :all: --dest "$PLACE/wheels" $links -r "$here/torch.txt" ||
            { echo "== once more"; pip download --no-deps --only-binary :all: --dest "$PLACE/wheels" $links -r "$here/torch.txt"; }
    fi
    echo "== what PyTorch needs"
    # Some packages have no wheel for old Pythons: "wheel" builds one, "download" would not.
    # shellcheck disable=SC2086
    if ! pip wheel --quiet --no-index --find-links "$KEPT" $links --constraint "$here/constraints.txt" \
        --wheel-dir "$PLACE/wheels" "$PLACE"/wheels/torch-*.whl 2>/dev/null; then
        # shellcheck disable=SC2086
        pip wheel --find-links "$KEPT" $links --constraint "$here/constraints.txt" --wheel-dir "$PLACE/wheels" \
            "$PLACE"/wheels/torch-*.whl
    fi
}

unpack() {
    echo "== unpacking"
    rm -rf "$PLACE/site"
    mkdir "$PLACE/site"
    pip --no-cache-dir install --no-index --no-deps --target "$PLACE/site" "$PLACE"/wheels/*.whl
    "$python" "$here/torch_site.py" prune "$PLACE/site" "$here/requirements.txt"
    if [ "$(uname -m)" = x86_64 ] && "$python" "$here/torch_site.py" is-cuda "$PLACE/site"; then
        "$python" "$here/cpu_only_torch.py" "$PLACE/site"
    fi
    cd /
    PYTHONPATH=$PLACE/site "$python" -c 'import torch; print("torch", torch.__version__)'
}

case ${1-} in
    collect | unpack) "$1" ;;
    *) echo "Usage: pytorch.sh collect|unpack" >&2; exit 2 ;;
esac
rm -rf "$PLACE/tmp"
