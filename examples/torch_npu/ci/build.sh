#!/bin/bash

set -e

CUR_DIR=$(dirname $(readlink -f $0))
SUPPORTED_PY_VERSION=(3.9 3.10 3.11)
PY_VERSION="3.9"

function parse_script_args() {
    for argument in "$@"; do
        case "${argument}" in
        --python=*)
            PY_VERSION="${argument#*=}"
            ;;
        --disable_torchair)
            export DISABLE_INSTALL_TORCHAIR=TRUE
            ;;
        --disable_rpc)
            export DISABLE_RPC_FRAMEWORK=TRUE
            ;;
        *)
            echo "ERROR Unsupported parameters: ${argument}"
            return 1
            ;;
        esac
    done
}

function check_python_version() {
    for ver in ${SUPPORTED_PY_VERSION[*]}; do
        if [ "${PY_VERSION}" = "${ver}" ]; then
            return 0
        fi
    done
    echo "${PY_VERSION} is an unsupported python version, we suggest ${SUPPORTED_PY_VERSION[*]}"
    exit 1
}

function main()
{
    if ! parse_script_args "$@"; then
        echo "Failed to parse script args. Please check your inputs."
        exit 1
    fi
    check_python_version

    cd ${CUR_DIR}/..
    python"${PY_VERSION}" setup.py build bdist_wheel
    exit 0
}

main "$@"
