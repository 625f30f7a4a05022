"""``python codegen_inside BASH generate_code.sh ...``, from wherever the builder has copied this package to."""

import importlib
import os
import sys

sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.exit(importlib.import_module("codegen_inside.run").main(sys.argv[1:]))
