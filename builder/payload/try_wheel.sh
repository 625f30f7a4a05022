#!/bin/sh
# Installs the only wheel of a folder into a fresh virtual environment and calls an operator of the miniature through it.
#
#   sh -c "$(cat try_wheel.sh)" try FOLDER INTERPRETER OPERATOR
set -e
"$2" -m venv "$1/venv"
"$1/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps "$1"/*.whl
cd "$1"
"$1/venv/bin/python" - "$3" <<'PYTHON'
import sys
import torch, torch_npu
operator = getattr(torch_npu, sys.argv[1])
result = operator([1.0, 2.0], [3.0, 4.0])
print("torch_npu %s, commit %s" % (torch_npu.__version__, torch_npu.version.git_version[:12]))
print("%s([1, 2], [3, 4]) = %s" % (sys.argv[1], list(result)))
assert [float(value) for value in result] == [4.0, 6.0], result
PYTHON
