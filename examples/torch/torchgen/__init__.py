"""A stand-in for PyTorch's code generator: schemas, templates, and a writer of files."""
