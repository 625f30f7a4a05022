"""The audit command on small repositories and an index on loopback."""

from __future__ import annotations

import functools
import http.server
import io
import json
import shutil
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from audit_support import (
    ARCHITECTURES,
    CMAKE,
    DEVELOPMENT,
    FILES,
    LEGACY,
    LINE,
    MODULES,
    NIGHTLY,
    OVERLAID,
    PYTHONS,
    REDEFINED,
    SCRIPT,
    TORCH_NPU,
    UNKNOWN,
    Hosts,
    Tree,
    changed,
    torch_content,
    write_matrix,
)
from index_site import NEW, OLD, Site, library, serving
from rich.console import Console

from builder.audit.command import run_audit
from builder.audit.facts import BRANCH_FACTS
from builder.core.errors import MachineError, RequestError
from builder.core.workspace import Workspace
from builder.matrix.loader import load_matrix
from builder.progress.reporter import Reporter
from builder.wheels.upstream_wheels import LIBRARY

ROWS = "pytorch-2.6.yaml"


class World:
    """Upstream's repositories, a matrix that agrees with them, and the audit between the two."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.capsys = capsys
        self.hosts = Hosts.create(folder / "upstream")
        self.matrix = write_matrix(folder / "matrices")
        self.said = io.StringIO()

    def edit(self, file: str, old: str, new: str) -> None:
        text = (self.matrix / file).read_text()
        assert text.count(old) == 1, old
        (self.matrix / file).write_text(text.replace(old, new))

    def run(self, *, lines: tuple[str, ...] = (), **options: bool) -> int:
        matrix = load_matrix(self.matrix)
        chosen = [line for line in matrix.releases if line.branch in lines] if lines else None
        settings: dict[str, bool] = dict.fromkeys(("released", "update", "as_json", "offline", "refresh"), False)
        settings.update(options)
        reporter = Reporter(Console(file=self.said))
        workspace = Workspace(self.folder / "build", self.folder / "dist")
        return run_audit(matrix, chosen, workspace, reporter=reporter, **settings)

    def audit(self, *, code: int, lines: tuple[str, ...] = (), **options: bool) -> dict[str, Any]:
        """Run an audit, check its exit code, return its JSON."""
        self.capsys.readouterr()
        assert self.run(lines=lines, as_json=True, **options) == code
        outcome: dict[str, Any] = json.loads(self.capsys.readouterr().out)
        assert (code == 0) == (outcome["drift"] == [])
        return outcome


@pytest.fixture
def world(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> World:
    return World(tmp_path, capsys)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Bare repositories over HTTP, as files."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def remote(world: World, url: str) -> None:
    """Let the matrix name repositories on a host instead of those on this machine."""
    for name in ("torch_npu", "op-plugin"):
        world.hosts.git("update-server-info", repository=name)
        text = (world.matrix / "sources.yaml").read_text()
        (world.matrix / "sources.yaml").write_text(text.replace(f'"../upstream/{name}.git"', f'"{url}/{name}.git"'))


def test_a_matrix_that_agrees_is_clean(world: World) -> None:
    outcome = world.audit(code=0)
    assert (outcome["schema"], outcome["lines"]) == (1, 4)
    assert [(entry["line"], entry["fact"], entry["reason"]) for entry in outcome["accepted"]] == [
        (NIGHTLY, "uses_mold", "switched off by hand")
    ]
    assert outcome["notes"] == [
        {"line": NIGHTLY, "fact": "op_plugin_pin", "text": f"pins {world.hosts.pin[:12]}, the newest commit of master"},
        {"line": LINE, "fact": "op_plugin_pin", "text": f"pins {world.hosts.pin[:12]}, 1 commit behind 7.1.0"},
    ]
    assert world.run() == 0
    out = world.capsys.readouterr().out
    assert out.splitlines()[-1] == f"4 lines, {outcome['compared']} facts compared, 0 drift, 1 accepted"


def files(**texts: tuple[str, str]) -> Callable[[World], object]:
    """Another text in files of the branch, by their short names."""

    def change(world: World) -> None:
        tree: Tree = TORCH_NPU
        for name, (old, new) in texts.items():
            tree = changed(tree, NAMES[name], old, new)
        world.hosts.commit("torch_npu", LINE, tree)

    return change


NAMES = {
    "build": "ci/build.sh",
    "setup": "setup.py",
    "version": "version.txt",
    "cmake": "CMakeLists.txt",
    "modules": ".gitmodules",
    "x86": "ci/docker/X86/Dockerfile",
}


def op_plugin(tree: Tree) -> Callable[[World], object]:
    """Another tree on the op-plugin branch."""
    return lambda world: world.hosts.commit("op-plugin", "7.1.0", tree, parent=world.hosts.pin)


def other_pin(world: World) -> None:
    """The line pins a commit that is not on its op-plugin branch."""
    beside = world.hosts.commit("op-plugin", "side", {"README.md": "beside\n"})
    pins = {"third_party/op-plugin": beside, "third_party/nlohmann": "c" * 40}
    world.hosts.commit("torch_npu", LINE, TORCH_NPU, pins=pins)


def lost_pin(world: World) -> None:
    """The line pins a commit that op-plugin does not have."""
    pins = {"third_party/op-plugin": "9" * 40, "third_party/nlohmann": "c" * 40}
    world.hosts.commit("torch_npu", LINE, TORCH_NPU, pins=pins)


#: By fact: what changes in a branch, and what else is drift then.
BRANCH_CHANGES: dict[str, list[tuple[Callable[[World], object], set[str]]]] = {
    "legacy": [
        (lambda world: world.hosts.commit("torch_npu", LEGACY, {"ci/build.sh": SCRIPT}, pins={}),
         {"build_options", "pythons"}),
    ],
    "build_options": [(files(build=("--disable_rpc)", "--disable_more)")), set())],
    "pythons": [(files(build=("3.8 3.9", "3.8")), set())],
    "op_plugin": [(files(modules=("branch = 7.1.0", "branch = 7.2.0")), set())],
    "op_plugin_pin": [(other_pin, set()), (lost_pin, set())],
    "overlay": [(op_plugin(changed(OVERLAID, "ci/build.sh", "*.sh", "test")), set())],
    "custom_operators": [(op_plugin({"ci/build.sh": OVERLAID["ci/build.sh"]}), set())],
    "package_version": [(files(version=("post3", "post4")), set())],
    "next_version": [(files(version=("post3", "post1")), {"package_version"})],
    "version_source": [(files(setup=("version_f.read().strip()", "'2.6.0.post3'")), set())],
    "torch_requirement": [(files(setup=("'torch==2.6.0+cpu'", "'torch==2.6.0'")), set())],
    "base_image": [(files(x86=("old:1", "old:2")), {"ci_images"})],
    "cxx11_abi": [(files(setup=('== "aarch64"', '== "x86_64"')), set())],
    "ci_images": [(files(x86=("old:1", "old:2")), {"base_image"})],
    "cmake_minimum": [(files(cmake=("VERSION 3.18", "VERSION 3.12")), set())],
    "honours_max_jobs": [(files(setup=("MAX_JOBS", "MIN_JOBS")), set())],
    "finds_ccache": [(files(cmake=("CCACHE ccache", "SCCACHE sccache")), set())],
    "redefines_file": [(files(cmake=(REDEFINED, "")), set())],
    "uses_ninja": [(files(setup=("requirements = [", "generator = '-GNinja'\nrequirements = [")), set())],
    "uses_mold": [(files(setup=("requirements = [", "link = ['-fuse-ld=mold']\nrequirements = [")), set())],
    "submodules": [
        (lambda world: world.hosts.commit(
            "torch_npu", LINE, TORCH_NPU, pins={"third_party/op-plugin": world.hosts.pin}), set()),
    ],
    "submodule_urls": [(files(modules=("code.example/json.git", "code.example/other.git")), {"submodules"})],
    "readable": [(files(setup=("import os\n", "import os os\n")),
                  {"torch_requirement", "version_source", "honours_max_jobs"})],
}  # fmt: skip


@pytest.mark.parametrize(
    ("fact", "number"), [(fact, number) for fact in BRANCH_CHANGES for number in range(len(BRANCH_CHANGES[fact]))]
)
def test_each_fact_changed_in_a_branch_fails_the_audit_by_name(world: World, fact: str, number: int) -> None:
    change, also = BRANCH_CHANGES[fact][number]
    change(world)
    outcome = world.audit(code=1)
    assert {drift["fact"] for drift in outcome["drift"]} == {fact, *also}
    assert {drift["line"] for drift in outcome["drift"]} == {LEGACY if fact == "legacy" else LINE}


def test_every_fact_of_a_branch_is_tested() -> None:
    assert set(BRANCH_CHANGES) == set(BRANCH_FACTS)


def test_branches_come_and_go(world: World) -> None:
    world.hosts.commit("torch_npu", UNKNOWN, TORCH_NPU)
    world.hosts.commit("torch_npu", "v2.7.0-7.3.0", TORCH_NPU)
    world.hosts.remove("torch_npu", LINE)
    world.hosts.remove("torch_npu", "ci-test")
    found = {(drift["line"], drift["fact"], drift["found"]) for drift in world.audit(code=1)["drift"]}
    assert found == {
        (LINE, "branch", "there is no such branch"),
        (UNKNOWN, "branch", "a branch is known now"),
        ("v2.7.0-7.3.0", "unlisted", "a branch without a row"),
        ("ci-*", "left_out", "no branch is called so"),
    }


def test_an_op_plugin_branch_that_is_not_there(world: World) -> None:
    world.hosts.remove("op-plugin", "7.1.0")
    (drift,) = world.audit(code=1)["drift"]
    assert (drift["line"], drift["fact"], drift["found"]) == (LINE, "op_plugin", "op-plugin has no such branch")


def test_some_lines_are_compared_alone(world: World) -> None:
    world.hosts.commit("torch_npu", LINE, changed(TORCH_NPU, "version.txt", "post3", "post4"))
    world.hosts.commit("torch_npu", "v2.7.0-7.3.0", TORCH_NPU)
    outcome = world.audit(code=0, lines=(NIGHTLY,))
    assert outcome["lines"] == 1
    assert {drift["fact"] for drift in world.audit(code=1, lines=(LINE,))["drift"]} == {"package_version"}


# -- hosts --------------------------------------------------------------------------------------------------


def test_a_host_is_asked_once_and_again_on_demand(world: World) -> None:
    with served(world.folder / "upstream") as url:
        remote(world, url)
        world.audit(code=0)
        world.hosts.commit("torch_npu", LINE, changed(TORCH_NPU, "version.txt", "post3", "post4"))
        world.hosts.git("update-server-info", repository="torch_npu")
        world.audit(code=0)
        world.audit(code=0, offline=True)
        assert [drift["fact"] for drift in world.audit(code=1, refresh=True)["drift"]] == ["package_version"]
        # What the host has removed is gone, although the mirror keeps it.
        world.hosts.remove("torch_npu", NIGHTLY)
        world.hosts.git("update-server-info", repository="torch_npu")
        found = {(drift["line"], drift["fact"]) for drift in world.audit(code=1, refresh=True)["drift"]}
        assert found == {(NIGHTLY, "branch"), (NIGHTLY, "accepted"), (LINE, "package_version")}
    assert [drift["fact"] for drift in world.audit(code=1, offline=True)["drift"]] == ["package_version"]


def test_a_branch_that_the_mirror_lacks_is_fetched(world: World) -> None:
    with served(world.folder / "upstream") as url:
        remote(world, url)
        world.audit(code=0)
        world.hosts.commit("torch_npu", "v2.6.0-7.3.0", TORCH_NPU)
        world.hosts.git("update-server-info", repository="torch_npu")
        row = FILES[ROWS].partition("  # The line that most")[2].partition("\n")[2].partition("\n\n")[0]
        with (world.matrix / ROWS).open("a") as rows:
            rows.write("\n" + row.replace("7.1.0", "7.3.0", 2).replace('["2.6.0", "2.6.0.post2"]', "[]") + "\n")
        assert world.audit(code=0)["lines"] == 5


def test_no_host_answers(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    remote(world, "http://127.0.0.1:9")
    with pytest.raises(MachineError) as caught:
        world.run()
    assert caught.value.exit_code == 3
    assert caught.value.message == "no host of torch_npu answers, so its branches cannot be compared"
    assert "http://127.0.0.1:9/torch_npu.git: " in str(caught.value.details)
    assert "--sources" in str(caught.value.hint)


def test_offline_without_a_mirror(world: World) -> None:
    # What stands on this machine needs no mirror.
    world.audit(code=0, offline=True)
    assert not (world.folder / "build" / "mirrors").exists()
    remote(world, "http://127.0.0.1:9")
    with pytest.raises(MachineError) as caught:
        world.run(offline=True)
    assert "--offline forbids fetching it" in caught.value.message
    assert caught.value.hint == "run once without --offline"
    with pytest.raises(RequestError, match="--released reads the package index, which --offline forbids"):
        world.run(offline=True, released=True)


def test_a_branch_that_its_host_does_not_give(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = world.hosts.heads["torch_npu", NIGHTLY]
    with served(world.folder / "upstream") as url:
        remote(world, url)
        # A host whose repository has lost the commit that a branch stands at.
        lost = broken[:-1] + ("0" if broken[-1] != "0" else "1")
        head = world.folder / "upstream" / "torch_npu.git" / "refs" / "heads" / NIGHTLY
        head.write_text(lost + "\n")
        info = world.folder / "upstream" / "torch_npu.git" / "info" / "refs"
        info.write_text(info.read_text().replace(broken, lost))
        found = {(drift["line"], drift["fact"]): drift["found"] for drift in world.audit(code=1)["drift"]}
    assert set(found) == {(NIGHTLY, "branch"), (NIGHTLY, "accepted")}
    assert found[NIGHTLY, "branch"].startswith("the host lists it and does not give it: ")


def test_a_mirror_that_cannot_be_read(world: World) -> None:
    with served(world.folder / "upstream") as url:
        remote(world, url)
        world.audit(code=0)
        mirror = world.folder / "build" / "mirrors" / "torch_npu.git"
        (mirror / "packed-refs").write_text("what?\n")
        with pytest.raises(MachineError, match="cannot be read"):
            world.run()


# -- corrections --------------------------------------------------------------------------------------------


def test_an_update_writes_what_is_certain_and_the_next_audit_is_clean(world: World) -> None:
    tree = changed(TORCH_NPU, "version.txt", "post3", "post4")
    tree = changed(tree, "ci/docker/X86/Dockerfile", "old:1", "old:2")
    world.hosts.commit("torch_npu", LINE, {**tree, "CMakeLists.txt": CMAKE})
    before = {path.name: path.read_text() for path in world.matrix.iterdir()}
    outcome = world.audit(code=1, update=True)
    # Which toolchain has the image is for a person.
    written = {"package_version", "ci_images", "redefines_file"}
    assert {drift["fact"] for drift in outcome["drift"]} == {*written, "base_image"}
    assert {drift["fact"] for drift in outcome["drift"] if drift["written"]} == written
    after = {path.name: path.read_text() for path in world.matrix.iterdir()}
    assert {name for name, text in after.items() if text != before[name]} == {ROWS}
    assert len(outcome["updated"]) == 3
    for change in outcome["updated"]:
        line = after[ROWS].splitlines()[int(change["place"].split(":")[1]) - 1].strip()
        assert line in {'package_version: "2.6.0.post4"', "redefines_file: false", "x86_64: images.example/old:2"}
    assert "# The line that most tests change." in after[ROWS]
    (left,) = world.audit(code=1, update=True)["drift"]
    assert (left["fact"], left["written"]) == ("base_image", False)
    assert {path.name: path.read_text() for path in world.matrix.iterdir()} == after
    world.run(update=True)
    assert "1 drift, 1 accepted, 0 written, 1 left" in world.capsys.readouterr().out


@pytest.mark.parametrize("lost", ["setup.py", "CMakeLists.txt", "ci/build.sh"])
def test_a_file_that_cannot_be_read_corrects_nothing(world: World, lost: str) -> None:
    tree = changed(TORCH_NPU, "version.txt", "post3", "post4")
    trees = [{path: text for path, text in tree.items() if path != lost}]
    if lost == "setup.py":
        trees.append(changed(tree, lost, "import os\n", "import os os\n"))
    elif lost == "ci/build.sh":
        trees.append(changed(tree, lost, "SUPPORTED_PY_VERSION", "PY_VERSION"))
    before = {path: path.read_bytes() for path in world.matrix.iterdir()}
    for branch in trees:
        world.hosts.commit("torch_npu", LINE, branch)
        outcome = world.audit(code=1, update=True)
        (found,) = [drift["found"] for drift in outcome["drift"] if drift["fact"] == "readable"]
        assert found.startswith(f"{lost}: ")
        assert len(outcome["drift"]) > 1
        assert outcome["updated"] == []
        assert not any(drift["written"] for drift in outcome["drift"])
    assert {path: path.read_bytes() for path in world.matrix.iterdir()} == before


def test_what_was_found_is_shown_although_nothing_can_be_written(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    world.hosts.commit("torch_npu", LINE, changed(TORCH_NPU, "version.txt", "post3", "post4"))
    monkeypatch.setattr("builder.audit.update.atomic_write", refuse)
    for as_json in (False, True):
        with pytest.raises(MachineError, match="cannot be written"):
            world.run(update=True, as_json=as_json)
        assert "2.6.0.post4" in world.capsys.readouterr().out


def test_op_plugin_with_a_part_of_its_history(world: World) -> None:
    lost_pin(world)
    head = world.hosts.heads["op-plugin", "7.1.0"]
    (world.folder / "upstream" / "op-plugin.git" / "shallow").write_text(f"{head}\n")
    notes = {(note["line"], note["text"]) for note in world.audit(code=0)["notes"]}
    assert (LINE, "pins 999999999999, which is not in the part of op-plugin's history that is here") in notes


def test_what_is_not_certain_is_not_written(world: World) -> None:
    world.hosts.commit("torch_npu", LINE, changed(TORCH_NPU, "version.txt", "2.6.0.post3", "2.6.1"))
    before = (world.matrix / ROWS).read_bytes()
    assert world.audit(code=1, update=True)["updated"] == []
    assert (world.matrix / ROWS).read_bytes() == before
    # Accepted drift stays as it is, too: its value would be certain.
    assert "uses_mold: true" not in before.decode()


# -- released wheels ----------------------------------------------------------------------------------------

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("elf")
    newer = "GCC: (GNU) 11.2.1 20220127 (Red Hat 11.2.1-9)"
    return {"x86_64": library(folder, OLD), "aarch64": library(folder, NEW, comments=(newer,))}


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "BUILDER_PIP_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    with serving() as site:
        monkeypatch.setenv("PIP_INDEX_URL", site.url)
        for arch in ARCHITECTURES:
            for python in PYTHONS:
                tag = "cp" + python.replace(".", "")
                site.add(f"torch-2.6.0-{tag}-{tag}-manylinux_2_28_{arch}.whl", torch_content(arch, python))
        yield site


def release(site: Site, world: World, libraries: dict[str, bytes], version: str, **replaced: str | bytes) -> None:
    """Put the wheels of a version on the index; ``replaced`` are members of the one for x86_64."""
    commit, info = world.hosts.heads["torch_npu", LINE], f"torch_npu-{version}.dist-info"
    for arch in ARCHITECTURES:
        policy = "manylinux_2_17" if arch == "x86_64" else "manylinux_2_28"
        torch = "torch==2.6.0+cpu" if arch == "x86_64" else "torch==2.6.0"
        members: dict[str, Any] = {
            "METADATA": f"Metadata-Version: 2.1\nName: torch_npu\nVersion: {version}\nRequires-Dist: {torch}\n",
            "torch_npu/version.py": f"__version__ = '{version}'\ngit_version = '{commit}'\n",
        }
        if arch == "x86_64":
            members.update(replaced)
        members.setdefault("library", libraries[arch])
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for name, content in members.items():
                archive.writestr({"METADATA": f"{info}/METADATA", "library": LIBRARY}.get(name, name), content)
        for python in PYTHONS:
            tag = "cp" + python.replace(".", "")
            site.add(f"torch_npu-{version}-{tag}-{tag}-{policy}_{arch}.whl", packed.getvalue())


@needs_compiler
def test_released_wheels_are_the_second_witness(world: World, site: Site, libraries: dict[str, bytes]) -> None:
    for version in ("2.6.0", "2.6.0.post2", "2.6.0.post4"):
        release(site, world, libraries, version)
    outcome = world.audit(code=0, released=True)
    assert outcome["compared"] > world.audit(code=0)["compared"] + 40
    assert len(list((world.folder / "build" / "released").glob("*.json"))) == 6
    # What was read is kept: the second audit asks for pages only.
    site.asked.clear()
    world.audit(code=0, released=True)
    assert {path for path, _ in site.asked} == {"/simple/torch-npu/", "/simple/torch/"}
    world.edit("toolchains.yaml", 'arch: x86_64\n    gcc: "9.3.1"', 'arch: x86_64\n    gcc: "11.2.1"')
    found = {(drift["line"], drift["fact"]) for drift in world.audit(code=1, released=True)["drift"]}
    assert found == {(LINE, "gcc"), (UNKNOWN, "gcc")}
    world.audit(code=0)


@needs_compiler
@pytest.mark.parametrize(
    ("replaced", "fact"),
    [
        ("library", "gcc"),
        ("METADATA", "wheel_requirement"),
        ("torch_npu/version.py", "wheel_commit"),
    ],
)
def test_a_wheel_that_says_something_else(
    world: World, site: Site, libraries: dict[str, bytes], tmp_path: Path, replaced: str, fact: str
) -> None:
    others: dict[str, str | bytes] = {
        "library": library(tmp_path, OLD, comments=("GCC: (GNU) 10.2.1 20210130 (Red Hat 10.2.1-11)",)),
        "METADATA": "Metadata-Version: 2.1\nName: torch_npu\nVersion: 2.6.0\n",
        "torch_npu/version.py": f"__version__ = '2.6.0'\ngit_version = '{world.hosts.heads['torch_npu', NIGHTLY]}'\n",
    }
    release(site, world, libraries, "2.6.0", **{replaced: others[replaced]})
    for version in ("2.6.0.post2", "2.6.0.post4"):
        release(site, world, libraries, version)
    (drift,) = world.audit(code=1, released=True)["drift"]
    assert (drift["line"], drift["fact"]) == (LINE, fact)
    assert drift["found"].endswith("(2.6.0)")


@needs_compiler
def test_a_new_version_is_written_into_the_line_that_it_was_built_from(
    world: World, site: Site, libraries: dict[str, bytes]
) -> None:
    # The commit is on the release line and on no other.
    commit = world.hosts.commit("torch_npu", NIGHTLY, DEVELOPMENT)
    assert commit != world.hosts.heads["torch_npu", LINE]
    for version in ("2.6.0", "2.6.0.post2", "2.6.0.post4", "2.6.0.post3"):
        release(site, world, libraries, version)
    site.add("torch-2.6.0-3-cp39-cp39-manylinux_2_28_x86_64.whl", b"a later build of the same version")
    outcome = world.audit(code=1, released=True, update=True)
    assert {(drift["line"], drift["fact"]) for drift in outcome["drift"]} == {
        (LINE, "released"),
        ("torch-2.6.0", "torch_wheels"),
    }
    assert 'released: ["2.6.0", "2.6.0.post2", "2.6.0.post3"]' in (world.matrix / ROWS).read_text()
    world.audit(code=0, released=True)


@needs_compiler
def test_only_the_wheels_of_the_chosen_lines_are_read(world: World, site: Site, libraries: dict[str, bytes]) -> None:
    for version in ("2.6.0", "2.6.0.post2", "2.6.0.post4", "2.6.0.post9"):
        release(site, world, libraries, version)
    world.audit(code=0, lines=(UNKNOWN,), released=True)
    assert {path.split("-")[1] for path, _ in site.asked if path.startswith("/files/torch_npu")} == {"2.6.0.post4"}


def test_an_index_that_does_not_answer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from builder.wheels import indexclient

    monkeypatch.setattr(indexclient, "FIRST_WAIT", 0.01)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple/")
    with pytest.raises(MachineError, match=r"the index page of torch-npu could not be fetched") as caught:
        world.run(released=True)
    assert caught.value.exit_code == 3


def test_submodules_named_by_other_urls_are_known(world: World) -> None:
    # Scheme, user and the ending do not make another repository.
    modules = MODULES.replace("https://code.example/json.git", "git@code.example:json")
    world.hosts.commit("torch_npu", LINE, {**TORCH_NPU, ".gitmodules": modules})
    world.audit(code=0)
