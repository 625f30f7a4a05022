import glob
import multiprocessing
import os
import shutil
import stat
import subprocess
import sys
import traceback
import platform
from pathlib import Path

# As upstream's: distutils comes before setuptools. Since Python 3.12 that works only where setuptools' own .pth
# file is processed, which is in an interpreter's site-packages and not in a folder on PYTHONPATH.
import distutils.command.clean
from distutils.command.build_py import build_py
from sysconfig import get_paths

from setuptools import Extension, setup
from setuptools.command.build_clib import build_clib
from setuptools.command.build_ext import build_ext
from setuptools.command.egg_info import egg_info
from setuptools.command.install import install
from wheel.bdist_wheel import bdist_wheel

BASE_DIR = os.path.dirname(os.path.realpath(__file__))
PACKAGES = os.path.join(BASE_DIR, "build", "packages")
with open(os.path.join(BASE_DIR, "version.txt")) as version_f:
    VERSION = version_f.read().strip()
UNKNOWN = "Unknown"
BUILD_PERMISSION = stat.S_IRUSR | stat.S_IWUSR | stat.S_IXUSR | stat.S_IRGRP | stat.S_IXGRP

USE_CXX11_ABI = False
if os.environ.get("_GLIBCXX_USE_CXX11_ABI") == "1":
    USE_CXX11_ABI = True
    VERSION += "+cxx11-abi"


def check_submodules():
    """Fetch the submodules, but only when every one of them is missing."""
    with open(os.path.join(BASE_DIR, ".gitmodules")) as stream:
        folders = [line.split("=", 1)[1].strip() for line in stream if line.strip().startswith("path")]
    folders = [os.path.join(BASE_DIR, folder) for folder in folders]
    if all(not os.path.exists(folder) or not os.listdir(folder) for folder in folders):
        try:
            print(" --- Trying to initialize submodules")
            subprocess.check_call(["git", "submodule", "update", "--init", "--recursive"], cwd=BASE_DIR)
        except Exception:
            print("Please run:\n\tgit submodule init && git submodule update")
            sys.exit(1)


def get_sha():
    """The commit of the tree; any failure is swallowed."""
    try:
        return subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=BASE_DIR).decode("ascii").strip()
    except Exception:
        return UNKNOWN


def generate_torch_npu_version():
    """Write torch_npu/version.py, unless BUILD_WITHOUT_SHA is set with the commit in the version."""
    global VERSION
    path = os.path.join(BASE_DIR, "torch_npu", "version.py")
    if os.path.exists(path):
        os.unlink(path)
    sha = get_sha()
    if os.getenv("BUILD_WITHOUT_SHA") is None:
        VERSION += (".git" if "+" in VERSION else "+git") + sha[:7]
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, stat.S_IWUSR | stat.S_IRUSR), "w") as stream:
        stream.write("__version__ = %r\ngit_version = %r\n" % (VERSION, sha))
    os.chmod(path, stat.S_IRUSR | stat.S_IXUSR | stat.S_IRGRP | stat.S_IXGRP)


def get_pytorch_dir():
    """Where torch is installed; when it cannot be imported, the folder of whatever file raised."""
    try:
        import torch

        return os.path.dirname(os.path.realpath(torch.__file__))
    except Exception:
        return os.path.dirname(traceback.extract_tb(sys.exc_info()[2])[-1].filename)


def run_script(command, message):
    """Run a script and believe its status."""
    if subprocess.call(command) != 0:
        print("%s: %s" % (message, command), file=sys.stderr)
        sys.exit(1)


def get_build_type():
    """CMake's build type, by the environment."""
    return "Debug" if os.getenv("DEBUG", "0").upper() in ("ON", "1", "YES", "TRUE", "Y") else "Release"


class CPPLibBuild(build_clib):
    """libtorch_npu.so with CMake and make."""

    def run(self):
        if shutil.which("cmake") is None:
            raise RuntimeError("CMake must be installed to build torch_npu")
        build_dir = os.path.join(BASE_DIR, "build")
        library_dir = os.path.join(PACKAGES, "torch_npu", "lib")
        os.makedirs(library_dir, exist_ok=True)
        os.chmod(build_dir, BUILD_PERMISSION)
        arguments = [
            "-DCMAKE_BUILD_TYPE=" + get_build_type(),
            "-DCMAKE_INSTALL_PREFIX=" + library_dir,
            "-DTORCHNPU_INSTALL_LIBDIR=" + library_dir,
            "-DPYTHON_INCLUDE_DIR=" + get_paths().get("include"),
            "-DTORCH_VERSION=" + VERSION,
            "-DPYTORCH_INSTALL_DIR=" + get_pytorch_dir(),
        ]
        if USE_CXX11_ABI:
            arguments.append("-DGLIBCXX_USE_CXX11_ABI=1")
        subprocess.check_call(["cmake", BASE_DIR] + arguments, cwd=build_dir, env=os.environ)
        # Whoever builds must own everything here.
        for base, folders, files in os.walk(build_dir):
            for name in folders + files:
                os.chmod(os.path.join(base, name), BUILD_PERMISSION)
        jobs = os.getenv("MAX_JOBS", str(multiprocessing.cpu_count()))
        subprocess.check_call(["make", "-j", jobs], cwd=build_dir, env=os.environ)


class Build(build_ext):
    """The extension module, after the library."""

    def run(self):
        self.run_command("build_clib")
        self.build_lib = os.path.relpath(PACKAGES)
        self.build_temp = os.path.relpath(os.path.join(BASE_DIR, "build"))
        self.library_dirs.append(os.path.relpath(os.path.join(PACKAGES, "torch_npu", "lib")))
        super().run()


class InstallCmd(install):
    """What is installed, and so what enters the wheel, is all that build/packages holds."""

    def finalize_options(self):
        self.build_lib = os.path.relpath(PACKAGES)
        return super().finalize_options()


def get_src_py_and_dst():
    """[(source, destination)] of the files that are copied into build/packages; nothing is ever removed there."""
    pairs = []

    def add(base, pattern, folder):
        for source in glob.glob(os.path.join(BASE_DIR, base, pattern), recursive=True):
            target = os.path.join(PACKAGES, "torch_npu", folder, os.path.relpath(source, os.path.join(BASE_DIR, base)))
            os.makedirs(os.path.dirname(target), exist_ok=True)
            pairs.append((source, target))

    add("torch_npu", "**/*.py", "")
    add("torch_npu", "**/*.yaml", "")
    add("torch_npu", "csrc/**/*.h", "include/torch_npu")
    add("third_party/acl/inc", "*/*.h", "include/third_party/acl/inc")
    add("third_party/hccl/inc", "*/*.h", "include/third_party/hccl/inc")
    add("third_party/op-plugin/op_plugin/include", "*.h", "include/third_party/op-plugin/op_plugin/include")
    add("third_party/op-plugin/op_plugin/python", "**/*.py", "op_plugin")
    return pairs


class EggInfoBuild(egg_info):
    """Metadata beside the packages."""

    def finalize_options(self):
        self.egg_base = os.path.relpath(PACKAGES)
        for source, target in get_src_py_and_dst():
            self.copy_file(source, target)
        super().finalize_options()


class PythonPackageBuild(build_py):
    """Copies files; setuptools' own step does not run."""

    def run(self):
        for source, target in get_src_py_and_dst():
            self.copy_file(source, target)


class BdistWheelBuild(bdist_wheel):
    """Strips the libraries where the tools are found, makes the wheel, and repairs the first one in sight."""

    def run(self):
        libraries = [str(path) for path in Path(PACKAGES, "torch_npu").rglob("*.so")]
        if shutil.which("patchelf") is not None:
            for library in libraries:
                if os.path.basename(os.path.dirname(library)) == "lib":
                    subprocess.check_call(["patchelf", "--remove-needed", "libgomp.so.1", library], cwd=BASE_DIR)
        if get_build_type() != "Debug" and shutil.which("eu-strip") is not None:
            debug_dir = os.path.join(BASE_DIR, "build", "dbg")
            os.makedirs(debug_dir, exist_ok=True)
            for library in libraries:
                debug = os.path.join(debug_dir, os.path.basename(library) + ".debug")
                subprocess.check_call(["eu-strip", library, "-f", debug], cwd=BASE_DIR)

        torch_dependencies = ["libc10.so", "libtorch.so", "libtorch_cpu.so", "libtorch_python.so"]
        cann_dependencies = ["libhccl.so", "libascendcl.so", "libacl_op_compiler.so", "libge_runner.so", "libgraph.so"]
        other_dependencies = ["libtorch_npu.so", "libnpu_profiler.so", "libgomp.so.1"]

        bdist_wheel.run(self)

        if is_manylinux:
            wheel = glob.glob(os.path.join(self.dist_dir, "*linux*.whl"))[0]
            command = ["auditwheel", "-v", "repair", "-w", self.dist_dir, wheel]
            for name in torch_dependencies + cann_dependencies + other_dependencies:
                command += ["--exclude", name]
            try:
                subprocess.run(command, check=True, stdout=subprocess.PIPE)
            finally:
                os.remove(wheel)


class Clean(distutils.command.clean.clean):
    """Removes what .gitignore names, up to its marker, and some of the generated files."""

    def run(self):
        with open(os.path.join(BASE_DIR, ".gitignore")) as stream:
            patterns = stream.read().split("# BEGIN NOT-CLEAN-FILES")[0].split()
        for pattern in patterns:
            for path in glob.glob(os.path.join(BASE_DIR, pattern)):
                shutil.rmtree(path, ignore_errors=True)
        super().run()
        remove_files = [
            "torch_npu/csrc/aten/RegisterNPU.cpp",
            "torch_npu/csrc/aten/NPUNativeFunctions.h",
            "torch_npu/csrc/aten/CustomRegisterSchema.cpp",
            "torch_npu/utils/custom_ops.py",
            "torch_npu/version.py",
        ]
        for name in remove_files:
            if os.path.exists(os.path.join(BASE_DIR, name)):
                os.remove(os.path.join(BASE_DIR, name))


manylinux_tags = [
    "manylinux2014_x86_64",
    "manylinux2014_aarch64",
    "manylinux_2_17_x86_64",
    "manylinux_2_17_aarch64",
    "manylinux_2_24_x86_64",
    "manylinux_2_24_aarch64",
    "manylinux_2_27_x86_64",
    "manylinux_2_27_aarch64",
    "manylinux_2_28_x86_64",
    "manylinux_2_28_aarch64",
    "manylinux_2_31_x86_64",
    "manylinux_2_31_aarch64",
    "manylinux_2_34_x86_64",
    "manylinux_2_34_aarch64",
    "manylinux_2_35_x86_64"
    "manylinux_2_35_aarch64",
]
is_manylinux = os.environ.get("AUDITWHEEL_PLAT", None) in manylinux_tags

check_submodules()
generate_torch_npu_version()
if "clean" not in sys.argv:
    script = os.path.join(BASE_DIR, "generate_code.sh")
    run_script(["bash", script, sys.executable, VERSION], "Failed to generate ATEN bindings")
    run_script(["sh", os.path.join(BASE_DIR, "third_party/acl/libs/build_stub.sh")], "Failed to build stub")

pytorch_dir = get_pytorch_dir()
abi = "1" if USE_CXX11_ABI else "0"
requirements = ["torch==2.5.1"]

setup(
    name=os.environ.get("TORCH_NPU_PACKAGE_NAME", "torch_npu"),
    version=VERSION,
    description="NPU bridge for the stand-in torch",
    long_description=Path(BASE_DIR, "README.md").read_text(),
    long_description_content_type="text/markdown",
    packages=["torch_npu"],
    libraries=[("torch_npu", {"sources": list()})],
    package_dir={"": os.path.relpath(PACKAGES)},
    ext_modules=[
        Extension(
            "torch_npu._C",
            sources=["torch_npu/csrc/InitNpuBindings.cpp"],
            libraries=["torch_npu", "c10", "torch", "torch_cpu", "torch_python", "hccl"],
            include_dirs=[BASE_DIR, os.path.join(pytorch_dir, "include")],
            library_dirs=["lib", os.path.join(pytorch_dir, "lib"), os.path.join(BASE_DIR, "third_party/acl/libs")],
            extra_compile_args=["-std=c++17", "-DNDEBUG", "-fstack-protector-all", '-D__FILENAME__="InitNpuBindings.cpp"'],
            extra_link_args=["-Wl,-z,now", "-Wl,-rpath,$ORIGIN/lib"],
            define_macros=[("_GLIBCXX_USE_CXX11_ABI", abi)],
            language="c++",
        )
    ],
    install_requires=requirements,
    package_data={"torch_npu": ["*.so", "lib/*.so*"]},
    cmdclass={
        "build_clib": CPPLibBuild,
        "build_ext": Build,
        "build_py": PythonPackageBuild,
        "egg_info": EggInfoBuild,
        "bdist_wheel": BdistWheelBuild,
        "install": InstallCmd,
        "clean": Clean,
    },
)
