"""Make a CUDA build of PyTorch usable as a CPU-only build requirement.

PyPI's x86_64 wheel of PyTorch is the CUDA build. Its CMake package demands a CUDA toolkit, MKL and
oneDNN, and its target ``torch`` links ``libtorch_cuda.so`` into everything. torch_npu uses none of
them, so this script switches those parts of the installed CMake package off, in place. It runs while
the image is built, on the image's own Python (3.7 or later, standard library only).

Usage: cpu_only_torch.py SITE_DIRECTORY

The exit code is 0 when the package is CPU-only afterwards (it may have been so before), 1 when the
files do not look as expected: then nothing is written, because half a change links the wrong libraries.
"""

import os
import re
import sys

#: Files of ``public/`` that Caffe2Config.cmake includes only for accelerators and vendor libraries.
OPTIONAL_INCLUDES = ("cuda.cmake", "mkl.cmake", "mkldnn.cmake")
#: Entries of INTERFACE_LINK_LIBRARIES that exist only when those files were included.
OPTIONAL_LIBRARIES = ("torch_cuda_library", "caffe2::mkl", "caffe2::mkldnn", "torch::cudart", "torch::nvtoolsext")


class Unexpected(Exception):
    """The installed package differs from every layout that this script knows."""


def switch_off(text, needle, name):
    """Turn the outermost ``if(ON)`` that guards the line holding ``needle`` into ``if(OFF)``."""
    lines = text.split("\n")
    for number, line in enumerate(lines):
        if needle in line and not line.lstrip().startswith("#"):
            for above in range(number, -1, -1):
                if re.match(r"if\s*\((ON|OFF|0|1|TRUE|FALSE)\)", lines[above]):
                    lines[above] = re.sub(r"\((ON|1|TRUE)\)", "(OFF)", lines[above])
                    return "\n".join(lines)
            raise Unexpected("%s: no if(ON) stands above %r" % (name, needle))
    return text


def without_libraries(text):
    """Drop the optional targets from every INTERFACE_LINK_LIBRARIES but those of the CUDA targets."""

    def needed(libraries):
        return ";".join(entry for entry in libraries.group(0).split(";") if entry not in OPTIONAL_LIBRARIES)

    def block(match):
        if "cuda" in match.group("target"):
            return match.group(0)
        return re.sub(r'(?<=INTERFACE_LINK_LIBRARIES ")[^"\\]*(?=")', needed, match.group(0))

    return re.sub(r"set_target_properties\((?P<target>\S+) PROPERTIES.*?\n\)", block, text, flags=re.S)


def main(arguments):
    if len(arguments) != 1:
        print("usage: cpu_only_torch.py SITE_DIRECTORY", file=sys.stderr)
        return 2
    cmake = os.path.join(arguments[0], "torch", "share", "cmake")
    config, targets, torch = (
        os.path.join(cmake, *parts)
        for parts in (
            ("Caffe2", "Caffe2Config.cmake"),
            ("Caffe2", "Caffe2Targets.cmake"),
            ("Torch", "TorchConfig.cmake"),
        )
    )
    changed = {}
    try:
        for path in (config, targets, torch):
            with open(path, encoding="utf-8") as stream:
                changed[path] = stream.read()
        for include in OPTIONAL_INCLUDES:
            changed[config] = switch_off(changed[config], "/public/%s" % include, config)
        changed[torch] = switch_off(changed[torch], "set(TORCH_CUDA_LIBRARIES", torch)
        changed[targets] = without_libraries(changed[targets])
        linked = re.search(r"set_target_properties\(torch PROPERTIES.*?\n\)", changed[targets], flags=re.S)
        if linked is None or "cuda" in linked.group(0):
            raise Unexpected("%s: the target torch still links CUDA" % targets)
    except (OSError, Unexpected) as error:
        print("cpu_only_torch: %s" % error, file=sys.stderr)
        return 1
    for path, text in changed.items():
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(text)
    print("cpu_only_torch: %s needs no CUDA, MKL or oneDNN" % cmake)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
