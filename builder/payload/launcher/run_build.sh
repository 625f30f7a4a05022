#!/bin/sh
# Becomes a command of a build: with CANN's variables, and with the launcher before the compilers.
#
#   run_build.sh SET_ENV FIRST CACHED COMPILERS COMMAND...
#
# SET_ENV    the toolkit's set_env.sh, or nothing where none is mounted. It asks for BASH_SOURCE, so that bash runs this
#            script; the script itself is POSIX sh, and needs nothing that old systems lack.
# FIRST      folders that come first on PATH
# CACHED     anything, to look the real ccache up before the launcher hides it; nothing, to compile without
# COMPILERS  a folder to make. The extension module is compiled by setuptools, past CMake and its launcher, with the
#            compiler that the interpreter ($BUILDER_PYTHON) names; a file of that name in this folder asks ccache, and
#            the compiler itself where ccache fails.
umask 022
if [ -n "$1" ]; then
    [ -r "$1" ] || { echo "builder: $1 cannot be read"; exit 1; }
    # shellcheck source=/dev/null
    . "$1"
    status=$?
    # 1 is what a script gives that ends with a test that is false: its variables are set all the same.
    if [ "$status" -ne 0 ]; then
        echo "builder: the toolkit's $1 ended with status $status"
        [ "$status" -eq 1 ] || exit "$status"
    fi
fi
BUILDER_CCACHE=
[ -z "$3" ] || BUILDER_CCACHE=$(command -v ccache || true)
if [ -n "$BUILDER_CCACHE" ] && [ -n "${BUILDER_PYTHON:-}" ] && mkdir -p "$4"; then
    name=$("$BUILDER_PYTHON" -S -E -c 'import sysconfig; print((sysconfig.get_config_var("CC") or "").split(" ")[0])')
    real=$(command -v "$name" || true)
    case $name in
        */* | *"'"*) ;;
        *gcc | *gcc-[0-9]* | *g++ | *g++-[0-9]* | *clang | *clang-[0-9]*)
            case $BUILDER_CCACHE$real in *"'"*) real= ;; esac
            if [ -x "$real" ]; then
                printf "#!/bin/sh\n'%s' '%s' \"\$@\" || exec '%s' \"\$@\"\n" \
                    "$BUILDER_CCACHE" "$real" "$real" >"$4/$name" && chmod 755 "$4/$name" && PATH="$4:$PATH"
            fi ;;
    esac
fi
PATH="$2:$PATH"
export BUILDER_CCACHE PATH
shift 4
exec "$@"
