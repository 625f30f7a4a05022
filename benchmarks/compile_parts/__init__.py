"""The parts of ``benchmarks/compile.py``."""
