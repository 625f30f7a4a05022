#!/bin/bash

CDIR="$(cd "$(dirname "$0")" ; pwd -P)"

cd $CDIR/

# Every run inserts the common entries once more.
for minor_version in 1 5 6; do
    sed -i "1r test/unsupported_ops_info_base.yaml" test/test_v2r${minor_version}_ops/unsupported_ops_info.yaml
done

PYTORCH_VERSION="$1"
IFS='.' read -ra version_parts <<< "$PYTORCH_VERSION"
PYTORCH_VERSION_DIR="v${version_parts[0]}r${version_parts[1]}"
python_execute="$2"

export PYTORCH_VERSION="$PYTORCH_VERSION"

OUTPUT_DIR="$CDIR/op_plugin/config/$PYTORCH_VERSION_DIR"
if [ ! -d "$OUTPUT_DIR" ]; then
    mkdir "$OUTPUT_DIR"
fi

${python_execute} -m codegen.gen_op_plugin_functions  \
  --version="$PYTORCH_VERSION" \
  --output_dir="$OUTPUT_DIR/" \
  --source_yaml="$CDIR/op_plugin/config/op_plugin_functions.yaml"

${python_execute} -m codegen.gen_backend_stubs  \
  --version="$PYTORCH_VERSION" \
  --output_dir="$CDIR/op_plugin/" \
  --source_yaml="$OUTPUT_DIR/op_plugin_functions.yaml"
