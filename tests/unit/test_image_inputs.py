"""What decides an environment, and the shipped files that make one."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from shells import oldest_python

from builder.core.errors import FailureKind, RequestError
from builder.environments.docker_engine import owner, owner_lives
from builder.environments.image_inputs import (
    Log,
    folders_of_wheels,
    inputs_digest,
    python_inputs,
    pytorch_digest,
    script_failure,
    stage_files,
    system_inputs,
    torch_requirement,
)
from builder.environments.interface import EnvironmentRequest, Toolset
from builder.environments.network import NetworkSettings
from builder.environments.variables import merged

DOCKER = Path(__file__).resolve().parents[2] / "docker"
REQUEST = EnvironmentRequest(
    arch="x86_64",
    python="3.11",
    torch="2.5.1",
    torch_source="cpu-index",
    requirements=("numpy==1.26.4", "setuptools==75.8.0"),
    base_image="example/base:1",
)


def digest(request: EnvironmentRequest, folders: tuple[Path, ...] = ()) -> str:
    parts = [system_inputs(request, DOCKER), python_inputs(request, DOCKER), pytorch_digest(request, DOCKER, folders)]
    return inputs_digest(parts)


def test_every_input_changes_the_digest() -> None:
    changed = [
        replace(REQUEST, arch="aarch64"),
        replace(REQUEST, python="3.10"),
        replace(REQUEST, torch="2.6.0"),
        replace(REQUEST, torch_source="pypi"),
        replace(REQUEST, requirements=("numpy==1.26.4",)),
        replace(REQUEST, gcc="9.3.1"),
        replace(REQUEST, toolsets=(Toolset("debian", "11", "gcc-9"),)),
        replace(REQUEST, torch_hashes=("a" * 64,)),
    ]
    assert len({digest(REQUEST), *map(digest, changed)}) == len(changed) + 1
    assert digest(REQUEST) == digest(replace(REQUEST))


def test_pythons_share_the_system_part_and_release_lines_of_one_torch_share_it() -> None:
    other = replace(REQUEST, python="3.10", requirements=("numpy==1.24.4",))
    assert system_inputs(other, DOCKER) == system_inputs(REQUEST, DOCKER)
    # Whose base and toolchain differ.
    base = replace(REQUEST, base_image="example/other:2", gcc="11.2.1", image_mirrors=("mirror.example/other:2",))
    assert pytorch_digest(base, DOCKER, ()) == pytorch_digest(REQUEST, DOCKER, ())


@pytest.mark.parametrize(
    "name",
    [
        "torch-2.5.1.tar.gz",
        "torch-2.5.1-cp311-cp311-linux_x86_64.whl",
        "torch-2.5.1.zip",
        "Torch-2.5.1.tar.bz2",
        "torch-2.5.1+cpu.cxx11.abi.tgz",
        # What PyTorch needs is taken from the folder, too.
        "typing_extensions-4.12.2-py3-none-any.whl",
        "old-name-1.0.tar.xz",
    ],
)
def test_a_wheel_of_the_same_name_and_other_content_changes_the_digest(name: str, tmp_path: Path) -> None:
    request = replace(REQUEST, torch_source="find-links")
    wheel = tmp_path / name
    wheel.write_bytes(b"one")
    before = digest(request, (tmp_path,))
    wheel.write_bytes(b"two")
    assert digest(request, (tmp_path,)) != before


@pytest.mark.parametrize(
    ("local", "line"),
    [("+cpu", "torch==2.5.1+cpu"), ("", "torch==2.5.1")],
)
def test_torch_is_asked_for_as_its_index_names_it(local: str, line: str) -> None:
    assert torch_requirement(replace(REQUEST, torch_local=local)) == f"{line}\n"
    pinned = torch_requirement(replace(REQUEST, torch_local=local, torch_hashes=("ab12",)))
    assert pinned == f"{line} --hash=sha256:ab12\n"


def test_sources_that_lack_their_place_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="find-links"):
        folders_of_wheels(replace(REQUEST, torch_source="find-links"), NetworkSettings())
    with pytest.raises(RequestError, match="CPU index"):
        folders_of_wheels(REQUEST, NetworkSettings())
    with pytest.raises(RequestError, match="gone"):
        folders_of_wheels(replace(REQUEST, find_links=(tmp_path / "gone",)), NetworkSettings())


def test_the_log_is_redacted_and_keeps_its_warnings(tmp_path: Path) -> None:
    settings = NetworkSettings(proxies={"HTTPS_PROXY": "http://ann:hush@proxy.example"})
    shown: list[str] = []
    log = Log(tmp_path / "a" / "log", settings, shown.append)
    log.line("Retrying through http://ann:hush@proxy.example")
    log.line("WARNING: pip's own")
    log.line("ERROR: pip's own")
    log.line("builder-warning: ccache cannot be had")
    log.line("builder-error: make cannot be installed from http://ann:hush@proxy.example")
    log.close()
    assert "hush" not in (tmp_path / "a" / "log").read_text()
    assert not any("hush" in line for line in [*shown, *log.tail])
    assert log.warnings == ["ccache cannot be had"]
    assert log.error == "make cannot be installed from http://***@proxy.example"


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("OSError: [Errno 28] No space left on device", FailureKind.DISK),
        ("ReadTimeoutError: HTTPSConnectionPool(host='pypi.example', port=443): Read timed out.", FailureKind.NETWORK),
        ("ProtocolError('Connection broken: IncompleteRead(1024 bytes read)')", FailureKind.NETWORK),
        ("ERROR: No matching distribution found for torch==9.9.9", FailureKind.IMAGE),
    ],
)
def test_why_a_script_failed_is_read_off_its_last_lines(said: str, kind: FailureKind, tmp_path: Path) -> None:
    log = Log(tmp_path / "log", NetworkSettings(), lambda _: None)
    for line in (said, "Traceback (most recent call last):"):
        log.line(line)
    error = script_failure("PyTorch cannot be fetched", log)
    log.close()
    assert error.kind is kind
    assert said in str(error.details)
    assert error.log == tmp_path / "log"


def test_the_stage_holds_what_the_script_reads(tmp_path: Path) -> None:
    stage_files(
        tmp_path, replace(REQUEST, torch_local="+cpu", requirements=("numpy==1.26.4 --hash=sha256:ab",)), DOCKER
    )
    assert (tmp_path / "requirements.txt").read_text() == "numpy==1.26.4 --hash=sha256:ab\n"
    assert (tmp_path / "constraints.txt").read_text() == "numpy==1.26.4\n"
    assert (tmp_path / "torch.txt").read_text() == "torch==2.5.1+cpu\n"
    assert (tmp_path / "pytorch.sh").is_file()


def distribution(folder: Path, name: str, version: str, files: dict[str, str]) -> None:
    info = f"{name}-{version}.dist-info"
    for path, text in {**files, f"{info}/METADATA": f"Name: {name}\n"}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    record = "".join(f"{path},,\n" for path in (*files, f"{info}/METADATA", f"{info}/RECORD"))
    (folder / info / "RECORD").write_text(record)


@pytest.fixture(params=["this", "oldest"])
def inside_python(request: pytest.FixtureRequest) -> str:
    """Scripts for images are run by this Python and by the oldest that images have."""
    return sys.executable if request.param == "this" else oldest_python()


def test_what_site_packages_have_leaves_the_folder_of_torch(tmp_path: Path, inside_python: str) -> None:
    site = tmp_path / "torch"
    distribution(site, "torch", "2.5.1", {"torch/__init__.py": "", "torch/version.py": "cuda: str = None\n"})
    distribution(site, "setuptools", "75.8.0", {"setuptools/__init__.py": "", "distutils-precedence.pth": "import os"})
    distribution(site, "PyYAML", "6.0.2", {"yaml/__init__.py": "", "../../outside": "kept"})
    cache = site / "setuptools" / "__pycache__"
    cache.mkdir()
    (cache / "__init__.cpython-311.pyc").touch()
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("# pinned\npyyaml==6.0.2\n")
    subprocess.run(
        [inside_python, str(DOCKER / "torch_site.py"), "prune", str(site), str(requirements)],
        check=True,
        capture_output=True,
    )
    assert sorted(path.name for path in site.iterdir()) == ["torch", "torch-2.5.1.dist-info"]
    # A record cannot name a file outside.
    assert (tmp_path.parent / "outside").read_text() == "kept"
    (tmp_path.parent / "outside").unlink()


@pytest.mark.parametrize(
    ("version", "code"),
    [("cuda: Optional[str] = '12.4'\n", 0), ("cuda = '11.7'\n", 0), ("cuda = None\n", 1), ("cuda: str = None\n", 1)],
)
def test_a_cuda_build_is_recognised(tmp_path: Path, inside_python: str, version: str, code: int) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "version.py").write_text(f"__version__ = '1'\n{version}")
    done = subprocess.run([inside_python, str(DOCKER / "torch_site.py"), "is-cuda", str(tmp_path)], check=False)
    assert done.returncode == code


CONFIG = """
if(ON)
  include("${CMAKE_CURRENT_LIST_DIR}/public/cuda.cmake")
endif()
if(ON)
  include("${CMAKE_CURRENT_LIST_DIR}/public/mkl.cmake")
endif()
if(0)
  include("${CMAKE_CURRENT_LIST_DIR}/public/mkldnn.cmake")
endif()
"""
TARGETS = """
set_target_properties(torch PROPERTIES
  INTERFACE_LINK_LIBRARIES "torch_cpu_library;torch_cuda_library"
)
set_target_properties(torch_cpu PROPERTIES
  INTERFACE_LINK_LIBRARIES "c10;caffe2::mkl"
)
set_target_properties(torch_cuda PROPERTIES
  INTERFACE_LINK_LIBRARIES "torch::cudart;c10_cuda"
)
"""
TORCH = """
if(ON)
  set(TORCH_CUDA_LIBRARIES ${CUDA_LIBRARIES})
endif()
"""


def cmake_package(site: Path, targets: str) -> Path:
    folder = site / "torch" / "share" / "cmake"
    for path, text in (
        ("Caffe2/Caffe2Config.cmake", CONFIG),
        ("Caffe2/Caffe2Targets.cmake", targets),
        ("Torch/TorchConfig.cmake", TORCH),
    ):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def test_the_cuda_builds_cmake_package_is_switched_off(tmp_path: Path, inside_python: str) -> None:
    folder = cmake_package(tmp_path, TARGETS)
    for _ in range(2):  # a second time changes nothing
        subprocess.run(
            [inside_python, str(DOCKER / "cpu_only_torch.py"), str(tmp_path)], check=True, capture_output=True
        )
        assert "if(ON)" not in (folder / "Caffe2/Caffe2Config.cmake").read_text()
        assert "if(ON)" not in (folder / "Torch/TorchConfig.cmake").read_text()
        targets = (folder / "Caffe2/Caffe2Targets.cmake").read_text()
        assert 'INTERFACE_LINK_LIBRARIES "torch_cpu_library"' in targets
        assert 'INTERFACE_LINK_LIBRARIES "c10"' in targets
        assert 'INTERFACE_LINK_LIBRARIES "torch::cudart;c10_cuda"' in targets


def test_an_unknown_cmake_package_is_left_alone(tmp_path: Path, inside_python: str) -> None:
    folder = cmake_package(tmp_path, TARGETS.replace("torch_cuda_library", "torch_cuda_renamed"))
    done = subprocess.run(
        [inside_python, str(DOCKER / "cpu_only_torch.py"), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "CUDA" in done.stderr
    assert (folder / "Caffe2/Caffe2Config.cmake").read_text() == CONFIG


def test_the_callers_git_configuration_is_added_to_the_environments() -> None:
    base = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*", "A": "1"}
    more = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "core.x", "GIT_CONFIG_VALUE_0": "y", "A": "2"}
    assert merged(base, more) == {
        "GIT_CONFIG_COUNT": "2",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
        "GIT_CONFIG_KEY_1": "core.x",
        "GIT_CONFIG_VALUE_1": "y",
        "A": "2",
    }


def test_a_dead_builders_leftovers_are_told_from_a_live_ones() -> None:
    assert owner_lives(owner())
    host, pid, started = owner().split(":")
    assert not owner_lives(f"{host}:{pid}:{int(started) + 1}")
    assert not owner_lives(f"{host}:999999999:{started}")
    assert owner_lives(f"another-machine:{pid}:{started}")
    assert not owner_lives("")


def test_what_pip_would_not_choose_does_not_count(tmp_path: Path) -> None:
    request = replace(REQUEST, torch_source="find-links")
    before = digest(request, (tmp_path,))
    for name in ("torch-2.5.0.tar.gz", "torch-2.5.10.zip", "torch_npu-2.5.1-cp311-cp311-linux_x86_64.whl", "notes.txt"):
        (tmp_path / name).write_bytes(b"one")
    assert digest(request, (tmp_path,)) == before


def test_a_folder_counts_for_an_index_too_unless_the_hashes_of_its_pytorch_are_known(tmp_path: Path) -> None:
    known = replace(REQUEST, torch_hashes=("ab12",))
    before = digest(REQUEST, (tmp_path,)), digest(known, (tmp_path,))
    (tmp_path / f"torch-2.5.1{REQUEST.torch_local}-cp311-cp311-linux_x86_64.whl").write_bytes(b"one")
    assert digest(REQUEST, (tmp_path,)) != before[0]
    assert digest(known, (tmp_path,)) == before[1]
