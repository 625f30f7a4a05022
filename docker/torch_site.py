"""Two questions about a folder made by ``pip install --target`` that holds PyTorch and what it needs.

Usage: torch_site.py prune FOLDER REQUIREMENTS     remove what the interpreter's site-packages have already
       torch_site.py is-cuda FOLDER                exit code 0 where this PyTorch is a CUDA build, else 1

Runs inside images on Python 3.7 or later, standard library only.
"""

import csv
import os
import re
import sys


def canonical(name):
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def required(path):
    """Names of the distributions that a requirements file lists."""
    with open(path, encoding="utf-8") as stream:
        # Comments and options do not begin as names do.
        matches = [re.match(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)", line) for line in stream]
    return {canonical(match.group(1)) for match in matches if match}


def prune(folder, requirements):
    """Remove distributions from ``folder`` that ``requirements`` put into site-packages.

    ``folder`` comes first on the module path, and a ``.pth`` file in it is not read: a setuptools there
    would hide the one whose ``.pth`` gives Python 3.12 its distutils.
    """
    unwanted = required(requirements) | {"setuptools", "wheel", "pip"}
    for entry in sorted(os.listdir(folder)):
        if not entry.endswith(".dist-info") or canonical(entry.rsplit("-", 2)[0]) not in unwanted:
            continue
        with open(os.path.join(folder, entry, "RECORD"), encoding="utf-8", newline="") as stream:
            names = [row[0] for row in csv.reader(stream) if row]
        folders = set()
        for name in names:
            path = os.path.normpath(os.path.join(folder, name))
            if not path.startswith(os.path.normpath(folder) + os.sep):
                continue
            if os.path.lexists(path):
                os.unlink(path)
            folders.add(os.path.dirname(path))
        for path in sorted(folders, key=len, reverse=True):
            while path != os.path.normpath(folder) and os.path.isdir(path):
                leftover = os.listdir(path)
                if leftover == ["__pycache__"]:
                    cache = os.path.join(path, "__pycache__")
                    for compiled in os.listdir(cache):
                        os.unlink(os.path.join(cache, compiled))
                    os.rmdir(cache)
                elif leftover:
                    break
                os.rmdir(path)
                path = os.path.dirname(path)
        print("torch_site: %s stays in site-packages only" % entry)
    return 0


def is_cuda(folder):
    """Whether torch/version.py names a CUDA release."""
    try:
        with open(os.path.join(folder, "torch", "version.py"), encoding="utf-8") as stream:
            return 0 if re.search(r"^cuda\s*(:[^=]*)?=\s*['\"]", stream.read(), flags=re.M) else 1
    except OSError:
        return 1


def main(arguments):
    if len(arguments) == 3 and arguments[0] == "prune":
        return prune(arguments[1], arguments[2])
    if len(arguments) == 2 and arguments[0] == "is-cuda":
        return is_cuda(arguments[1])
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
