"""One wheel, step by step, from the sources to its publication."""
