"""The half of the code generation's cache that runs inside an environment, in the place of ``bash generate_code.sh``.

Python 3.7 or later, standard library only, relative imports only: the builder copies this package into the folder of a
build (``builder.compilation.codegen_cache``), and the target's own interpreter runs it from there.

A generation is known by a key over everything that it depends on (``key``). Where an entry of that key stands in the
cache, its files are put into the tree, all or none (``entries``); else upstream's script runs, and what it has done to
the tree (``tree``) is left beside this package for the builder to keep, once it has seen the whole build succeed.
"""
