"""A workspace in which all has happened that commands read about, without a compiler."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml
from fork_support import Ended, Server
from nightly_support import FRIDAY, SATURDAY, World, compile_error, copy_of
from small_matrix import write_matrix
from support import MACHINE
from wheel_support import make_target_wheel, write_record

from builder.cli.demo_upstream import Miniature
from builder.compilation import compile_manifest
from builder.core.build_options import BuildOptions
from builder.core.untrusted import remove_tree
from builder.core.workspace import Workspace, resource
from builder.matrix.loader import load_matrix
from builder.matrix.selection import parse_target_id
from builder.nightly.staging import Bench
from builder.planning import planner
from builder.progress.reporter import Reporter
from builder.sources.version import suffix_of
from builder.target.resolve_sources import Gatherer

LINE = "v2.5.1-7.1.0"
TARGET, OTHER = f"{LINE}-py3.11-{MACHINE}", f"{LINE}-py3.10-{MACHINE}"
STORE = f"release/{LINE}-{MACHINE}-gcc12.2"
_LATER = f"v2.6.0-7.1.0-py3.11-{MACHINE}"
_CHANNEL = {"targets": {"target": [TARGET, _LATER]}, "keep": 9}
_PATCH = """\
--- a/version.txt
+++ b/version.txt
@@ -1 +1 @@
-2.5.1
+2.5.1
"""


@dataclass
class Everything:
    """A folder with a matrix, sources, and a workspace in which all has happened that commands read about."""

    root: Path
    server: Server
    options: list[str] = field(default_factory=list)

    @classmethod
    def make(cls, root: Path, upstream: Miniature, server: Server) -> Everything:
        """Fill ``root``. Nothing is compiled: wheels are small ones."""
        made = cls(root, server)
        made.options = [
            "--matrix=matrix",
            "--sources=sources.yaml",
            "--environment=host",
            "--allow-toolchain-mismatch",
        ]
        mine = copy_of(upstream, root.parent / "upstream")
        write_matrix(root / "matrix")
        shutil.copy(resource("matrices") / "sources.yaml", root / "matrix")
        (root / "matrix" / "nightly.yaml").write_text(yaml.safe_dump({"channels": {"night": _CHANNEL}}))
        repositories = {"torch_npu": mine.torch_npu, "op-plugin": mine.op_plugin, "nlohmann-json": mine.nlohmann}
        urls = {"repositories": {name: {"urls": [str(place)]} for name, place in repositories.items()}}
        (root / "sources.yaml").write_text(yaml.safe_dump(urls))
        made._own_folders(mine)
        made._nights(mine)
        made._tree()
        made._caches()
        made._run("ledger", "rebuild")
        made._run("lock", f"--target={TARGET}", f"--target={OTHER}", *made.options)
        made._wheel()
        # Leaves a failed run, its result, and what was read of wheels.
        made._run("rehearse", f"--target={OTHER}", *made.options, "--offline", codes=(1, 3))
        time.sleep(2.1)
        made._run("plan", f"--target={TARGET}", *made.options)
        return made

    @property
    def workspace(self) -> Workspace:
        """Its workspace and output folder."""
        return Workspace(root=self.root / "build", output=self.root / "dist")

    def _run(self, *arguments: str, codes: tuple[int, ...] = (0,)) -> Ended:
        ended = self.server(arguments, self.root)
        assert ended.code in codes, f"{arguments}: {ended}"
        return ended

    def _own_folders(self, upstream: Miniature) -> None:
        shutil.copytree(resource("examples") / "custom_ops", self.root / "custom_ops")
        shutil.copytree(upstream.wheelhouse, self.root / "wheelhouse")
        subprocess.run(
            ["git", "clone", "--quiet", "--branch", "7.1.0", str(upstream.op_plugin), str(self.root / "op-plugin")],
            check=True,
        )
        patches = self.root / "patches" / LINE / "torch_npu"
        patches.mkdir(parents=True)
        (patches / "series").write_text("# what is needed\none.patch [where it applies]\n")
        (patches / "one.patch").write_text(_PATCH)
        (self.root / "cann").mkdir()
        (self.root / "cann" / "set_env.sh").write_text("export ASCEND_HOME_PATH=/usr/local/Ascend\n")
        (self.root / "cann" / "version.info").write_text("version=8.2.RC1\n")

    def _nights(self, upstream: Miniature) -> None:
        """A night that has all, and one in which a target failed."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(planner, "environment_identity", lambda *_, **__: {"environment": "none"})
            world = World(self.root, upstream, load_matrix(self.root / "matrix"), **_CHANNEL)
            (self.root / "matrix" / "nightly.yaml").write_bytes((self.root / "nightly.yaml").read_bytes())
            (self.root / "nightly.yaml").unlink()
            world.night(FRIDAY)
            assert world.nights, world.text
            world.change_op_plugin("7.1.0-next")
            world.engine.failing = {_LATER: compile_error()}
            world.night(SATURDAY)
            assert len(world.nights) == 2, world.text
            commits = {LINE: {"torch_npu": "a" * 40, "op_plugin": "b" * 40}}
            Bench(self.workspace, "night").begin("2026-11-22", str(world.store.url), commits)

    def _tree(self) -> None:
        matrix = load_matrix(self.root / "matrix", self.root / "sources.yaml")
        options = BuildOptions(environment="host", allow_toolchain_mismatch=True)
        gatherer = Gatherer(matrix, self.workspace, options, Reporter(quiet=True))
        gatherer.gather(parse_target_id(matrix, TARGET))

    def _wheel(self) -> None:
        """A wheel that stands: a plan skips it."""
        (found,) = json.loads(self._run("plan", f"--target={TARGET}", "--json", *self.options).out)
        matrix = load_matrix(self.root / "matrix", self.root / "sources.yaml")
        suffix = suffix_of(BuildOptions().version_suffix, found["commits"])
        wheel = make_target_wheel(self.workspace.output, parse_target_id(matrix, TARGET), suffix)
        write_record(wheel, target=TARGET, fingerprint=found["fingerprint"], mismatches=[])

    def _caches(self) -> None:
        """Caches, and what builds have left of how they filled them."""
        kept = {
            "tree": "/work/pytorch",
            "python_include": "/out/python-include",
            "inputs": ["tool cc1plus aa"],
            "files": [["/work/pytorch/a.cpp", "aa", False], ["/work/pytorch/a.h", None, True]],
            "arguments": [["c++", "-O2"]],
            "objects": [
                {
                    "source": "/work/pytorch/a.cpp",
                    "object": "/work/pytorch/a.o",
                    "result": result,
                    "arguments": 0,
                    "files": [0, 2],
                }
                for result in ("miss", "hit-direct")
            ],
        }
        for minute, target in enumerate((TARGET, OTHER, TARGET)):
            self._manifest(kept, f"run{minute}", target, minute)
        generated = self.workspace.cache / "release" / "generated" / LINE
        store = self.workspace.cache / STORE / "0" / "a"
        for folder in (generated, store):
            folder.mkdir(parents=True)
        (generated / f"{'a' * 64}.{'b' * 64}.zip").write_bytes(b"PK\x05\x06" + bytes(18))
        (store / "stats").write_text("0\n1\n2\n")
        (store / "object").write_bytes(b"x" * 1000)

    def _manifest(self, content: dict[str, Any], run: str, target: str, minute: int) -> None:
        out = self.root / "out"
        out.mkdir(exist_ok=True)
        (out / compile_manifest.MANIFEST).write_bytes(gzip.compress(json.dumps(content).encode()))
        built = datetime(2026, 1, 1, 0, minute, tzinfo=timezone.utc)
        folder = compile_manifest.folder_of(self.workspace, STORE)
        assert compile_manifest.keep(out, folder, target=target, run=run, built=built, size=3000, limit=5 << 30)
        shutil.rmtree(out)

    @contextmanager
    def copy(self, folder: Path) -> Iterator[Path]:
        """A copy of it in ``folder``, which is removed at the end, whatever was made of it."""
        shutil.copytree(self.root, folder, symlinks=True)
        note = folder / "build" / "nightly" / "night" / "night.json"
        note.write_text(note.read_text().replace(str(self.root), str(folder)))
        try:
            yield folder
        finally:
            try:
                shutil.rmtree(folder)
            except (OSError, RecursionError):  # folders that are too deep for it
                remove_tree(folder)
