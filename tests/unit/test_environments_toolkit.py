"""A CANN toolkit at its own path in environments, and what keeps it from standing there."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.environments.interface import Paths
from builder.environments.namespace import Bind
from builder.environments.toolkit import in_containers, on_hosts
from builder.environments.visible import Visible

PATHS = Paths(generated=("/generated/0",))


@pytest.mark.parametrize(
    "folder",
    [
        "/usr/local/Ascend/cann-8.5.0",
        "/usr/local/Ascend/ascend-toolkit-8.5",
        "/opt/Ascend/ascend-toolkit",
        "/opt/torch-and-more",
        "/home/someone/Ascend/a b:c",
        "/home/builder/Ascend",
        "/root/Ascend",
        "/tmp/cann",
        "/workspace/cann",
        "/outer",
    ],
)
def test_a_toolkit_stands_at_its_own_path_too(folder: str) -> None:
    assert in_containers(Path(folder), PATHS) == ([(Path(folder), folder, True)], ())


def test_a_toolkit_at_the_fixed_path_needs_no_other() -> None:
    assert in_containers(Path(PATHS.cann), PATHS) == ([], ())
    assert in_containers(None, PATHS) == ([], ())


@pytest.mark.parametrize(
    ("folder", "clash"),
    [
        *((place, f"builds have {place} there") for place in ("/out", "/opt/torch", "/cache", "/mirrors")),
        ("/work", "builds have /work there"),
        ("/work/pytorch/cann", "builds have /work there"),
        ("/opt/python/cann", "builds have /opt/python there"),
        ("/generated/1", "builds have /generated there"),
        ("/home/builder", "builds have /home/builder there"),
        (f"{PATHS.cann}/8.5.0", f"builds have {PATHS.cann} there"),
        ("/usr/local/Ascend", f"builds have {PATHS.cann} there"),
        ("/", "the system of a container is there"),
        *((place, "the system of a container is there") for place in ("/usr", "/etc", "/opt", "/home", "/tmp", "/var")),
        *(
            (place, "the system of a container is there")
            for place in ("/usr/lib/cann", "/proc/1", "/lib64/x", "/dev/x")
        ),
    ],
)
def test_a_toolkit_in_the_way_of_others_stands_at_the_fixed_path_alone(folder: str, clash: str) -> None:
    mounts, (warning,) = in_containers(Path(folder), PATHS)
    assert mounts == []
    assert warning == (
        f"the CANN toolkit stands at {PATHS.cann} alone: not at its own path {folder}, as {clash}; "
        "where its scripts name that path, install it in another folder"
    )


def test_a_host_has_it_at_its_own_path_unless_that_is_covered_or_hidden() -> None:
    seen = Visible((Path("/home"), Path("/root")), (Path("/tmp"),), Path("/root"))
    binds = [Bind(Path("/x"), "/work/pytorch"), Bind(Path("/x"), PATHS.cann)]
    for folder in ("/usr/local/Ascend/cann-8.5.0", "/usr/lib/cann", "/usr/local", "/home/x/cann", PATHS.cann):
        assert on_hosts(Path(folder), PATHS, binds, seen) == (), folder
    for folder, clash in (
        ("/work/pytorch/cann", "builds have /work/pytorch there"),
        (f"{PATHS.cann}/8.5.0", f"builds have {PATHS.cann} there"),
        ("/home", "that folder is hidden from builds"),
        ("/tmp", "that folder is hidden from builds"),
    ):
        (warning,) = on_hosts(Path(folder), PATHS, binds, seen)
        assert f"not at its own path {folder}, as {clash};" in warning
