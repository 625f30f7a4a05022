"""Builds the stand-in torch: libraries with the C++ compiler ($CXX, else g++), then the extension module torch._C."""
import os
import platform
import shlex
import shutil
import subprocess
from pathlib import Path
from sysconfig import get_paths

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).resolve().parent
VERSION = (HERE / "version.txt").read_text().strip()
INCLUDE = HERE / "torch" / "include"
#: What the stubs of torch_npu's third_party/acl/libs stand for, and this package answers at run time.
CANN_LIBRARIES = ("hccl", "ascendcl", "acl_op_compiler", "ge_runner", "graph")


def cxx11_abi():
    """PyTorch's own rule: the old ABI up to 2.5, by architecture in 2.6, the new one later."""
    wanted = os.environ.get("_GLIBCXX_USE_CXX11_ABI")
    if wanted in ("0", "1"):
        return int(wanted)
    release = tuple(int(part) for part in VERSION.split(".")[:2])
    return int(release >= (2, 7) or (release == (2, 6) and platform.machine() == "aarch64"))


def files_below(package, *folders):
    """Package data, file by file: setuptools knows recursive patterns only since release 62.3."""
    base = HERE / package
    return [
        str(path.relative_to(base))
        for folder in folders
        for path in sorted((base / folder).rglob("*"))
        if path.is_file() and path.suffix != ".pyc"
    ]


class BuildLibraries(build_ext):
    """Compile torch/lib, write what depends on the compiler, then let setuptools compile torch._C."""

    def shared_library(self, name, sources, needs=()):
        output = self.folder / "lib" / ("lib%s.so" % name)
        compiler = shlex.split(os.environ.get("CXX", "g++"))
        subprocess.check_call(
            compiler
            + ["-std=c++17", "-O1", "-fPIC", "-shared", "-D_GLIBCXX_USE_CXX11_ABI=%d" % cxx11_abi()]
            + ["-I%s" % INCLUDE, "-I%s" % get_paths()["include"]]
            + [str(HERE / "csrc" / source) for source in sources]
            + ["-o", str(output), "-Wl,-soname,%s" % output.name, "-Wl,-rpath,$ORIGIN", "-Wl,--no-as-needed"]
            + ["-L%s" % output.parent]
            + ["-l%s" % library for library in needs]
        )

    def run(self):
        self.folder = Path(self.build_lib).resolve() / "torch"
        (self.folder / "lib").mkdir(parents=True, exist_ok=True)
        for name in CANN_LIBRARIES:
            self.shared_library(name, ["cann/%s.cpp" % name])
        self.shared_library("c10", ["c10/Exception.cpp"])
        self.shared_library("torch_cpu", ["aten/Dispatcher.cpp", "aten/Operators.cpp"], ["c10"])
        self.shared_library("torch", ["torch/torch.cpp"], ["torch_cpu", "c10"])
        self.shared_library("torch_python", ["python/values.cpp"], ["torch", "torch_cpu", "c10"])

        (self.folder / "version.py").write_text(
            "__version__ = %r\ncuda = None\ncxx11_abi = %r\n" % (VERSION, bool(cxx11_abi()))
        )
        source = HERE / "torch" / "share" / "cmake" / "Torch" / "TorchConfig.cmake"
        target = self.folder / "share" / "cmake" / "Torch"
        target.mkdir(parents=True, exist_ok=True)
        text = source.read_text().replace("@CXX11_ABI@", str(cxx11_abi()))
        if (target / source.name).exists():
            (target / source.name).unlink()
        (target / source.name).write_text(text)
        for extension in self.extensions:
            extension.library_dirs.append(str(self.folder / "lib"))
        super().run()

    def copy_extensions_to_source(self):
        """An editable install would need the libraries beside the sources too: not supported."""
        shutil.rmtree(self.build_lib, ignore_errors=True)
        raise RuntimeError("the stand-in torch cannot be installed in editable mode")


setup(
    name="torch",
    version=VERSION,
    description="A stand-in for PyTorch, for building the miniature torch_npu",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    packages=["torch", "torchgen"],
    package_data={"torch": files_below("torch", "include", "share"), "torchgen": files_below("torchgen", "packaged")},
    ext_modules=[
        Extension(
            "torch._C",
            sources=["csrc/python/module.cpp"],
            include_dirs=[str(INCLUDE)],
            define_macros=[("_GLIBCXX_USE_CXX11_ABI", str(cxx11_abi()))],
            libraries=["torch_python", "torch", "torch_cpu", "c10"],
            extra_compile_args=["-std=c++17", "-O1"],
            # Nothing here calls the CANN runtime; it is to be in the process before torch_npu is loaded.
            extra_link_args=["-Wl,-rpath,$ORIGIN/lib", "-Wl,--no-as-needed"] + ["-l%s" % n for n in CANN_LIBRARIES],
            language="c++",
        )
    ],
    cmdclass={"build_ext": BuildLibraries},
    python_requires=">=3.8",
    zip_safe=False,
)
