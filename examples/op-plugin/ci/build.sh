#!/bin/bash

set -e

CUR_DIR=$(dirname $(readlink -f $0))
PY_VERSION='3.8'
PYTORCH_VERSION='master'

function usage_error() {
    echo "ERROR Unsupported parameters: ${1}"
    exit 1
}

for argument in "$@"; do
    case "${argument}" in
    --python=*)
        PY_VERSION="${argument#*=}"
        ;;
    --pytorch=*)
        PYTORCH_VERSION="${argument#*=}"
        ;;
    *)
        usage_error "${argument}"
        ;;
    esac
done

function main()
{
    CODE_ROOT_PATH=${CUR_DIR}/../
    BUILD_PATH=${CODE_ROOT_PATH}/build
    PYTORCH_PATH=${BUILD_PATH}/pytorch
    # An existing tree is taken as it is, whatever it holds.
    if [ ! -d ${PYTORCH_PATH} ]; then
        git clone -b ${PYTORCH_VERSION} https://gitee.com/ascend/pytorch.git ${PYTORCH_PATH}
    fi

    cd ${PYTORCH_PATH}
    git submodule update --init --depth=1 --recursive

    # lay this op-plugin over the one that torch_npu pins
    PYTORCH_THIRD_PATH=${PYTORCH_PATH}/third_party/op-plugin
    if [ -d ${PYTORCH_THIRD_PATH}/op_plugin ]; then
        rm -r ${PYTORCH_THIRD_PATH}/*
    else
        mkdir -p ${PYTORCH_THIRD_PATH}
    fi

    cp -rf ${CODE_ROOT_PATH}/op_plugin ${PYTORCH_THIRD_PATH}/
    cp -rf ${CODE_ROOT_PATH}/codegen ${PYTORCH_THIRD_PATH}/
    cp -rf ${CODE_ROOT_PATH}/*.sh ${PYTORCH_THIRD_PATH}/
    cp -rf ${CODE_ROOT_PATH}/test ${PYTORCH_THIRD_PATH}/

    # compile torch_npu
    export BUILD_WITHOUT_SHA=1
    if [[ "${PYTORCH_VERSION}" == v1.11.0* ]] || [[ "${PYTORCH_VERSION}" == v2.0.1* ]]; then
        bash ${PYTORCH_PATH}/ci/build.sh --python=${PY_VERSION}
    else
        bash ${PYTORCH_PATH}/ci/build.sh --python=${PY_VERSION} --disable_torchair --disable_rpc
    fi

    if [ -d ${CODE_ROOT_PATH}/dist ]; then
        rm -r ${CODE_ROOT_PATH}/dist
    fi
    cp -rf ${PYTORCH_PATH}/dist ${CODE_ROOT_PATH}

    exit 0
}

main
