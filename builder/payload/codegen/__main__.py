"""``python codegen BASH generate_code.sh ...``, from wherever this folder stands, under whatever name."""

import importlib
import importlib.util
import os
import sys

NAME = "codegen"

# Not by sys.path: the folder that this one stands in may hold anything.
del sys.path[0]
folder = os.path.dirname(os.path.abspath(__file__))
spec = importlib.util.spec_from_file_location(
    NAME, os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
)
if spec is None or spec.loader is None:
    raise ImportError(folder)
package = importlib.util.module_from_spec(spec)
sys.modules[NAME] = package
spec.loader.exec_module(package)
sys.exit(importlib.import_module(NAME + ".run").main(sys.argv[1:]))
