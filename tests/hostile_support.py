"""A miniature upstream that attacks whoever builds it, and what of this machine it is after."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from support import CommandLine, Ran

from builder.cli.demo_upstream import Miniature

LINE = "v2.5.1-7.1.0"
MACHINE = os.uname().machine
TARGET = f"{LINE}-py3.11-{MACHINE}"
#: What stands in files that no build may read or change.
SECRET = "of-the-machine-alone"

#: Where a build's folders are, as it sees them.
PLACES = """\
out=${BUILDER_COMPILE_LOG%/*}
cache=$CCACHE_DIR
tree=$(dirname "$(dirname "$(readlink -f "$0")")")
"""


@dataclass
class Victim:
    """Files of this machine outside of any workspace; ``changed`` says what became of them."""

    folder: Path
    _before: dict[str, tuple[int, bytes]] = field(default_factory=dict)

    @classmethod
    def make(cls, folder: Path) -> Victim:
        """Fill ``folder`` with what attacks were seen to reach: files of modes, zips, folders of folders."""
        (folder / "v9.9.9" / "below").mkdir(parents=True)
        for name in ("secret", "bash", "wheel.whl", "v9.9.9/below/file", *(f"{number}.zip" for number in range(20))):
            (folder / name).write_text(f"{SECRET} {name}")
            (folder / name).chmod(0o600)
        made = cls(folder)
        made.remember()
        return made

    def remember(self) -> None:
        """Take the files as they are now for what they must stay."""
        self._before = self._state()

    def _state(self) -> dict[str, tuple[int, bytes]]:
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {str(path.relative_to(self.folder)): (path.stat().st_mode, path.read_bytes()) for path in files}

    @property
    def changed(self) -> list[str]:
        """Names of files that are gone, new or other than they were."""
        now = self._state()
        return sorted(name for name in {*now, *self._before} if now.get(name) != self._before.get(name))


@dataclass
class Scene:
    """A workspace, the attacker's repositories, and the machine's files."""

    root: Path
    miniature: Miniature
    options: list[str]
    victim: Victim
    commits: int = 0
    #: Gives the workspace what a harmless build compiles, for attacks that do not care.
    warm: Callable[[], None] = lambda: None

    @property
    def cli(self) -> CommandLine:
        """The command line in the workspace's folder."""
        return CommandLine(self.root)

    @property
    def _repository(self) -> Path:
        return self.root / "torch_npu"

    def plant(self, script: str, **files: str) -> None:
        """Commit what ``ci/build.sh`` runs first, after PLACES; ``files`` are others below ``ci``, ``_`` for a dot."""
        if not self._repository.exists():
            command = [
                "git",
                "clone",
                "--quiet",
                "--branch",
                LINE,
                str(self.miniature.torch_npu),
                str(self._repository),
            ]
            subprocess.run(command, check=True)
            sources = yaml.safe_load(self.miniature.sources_file.read_text())
            sources["repositories"]["torch_npu"] = {"urls": [str(self._repository)]}
            (self.root / "sources.yaml").write_text(yaml.safe_dump(sources))
        build = self._repository / "ci" / "build.sh"
        first, *rest = build.read_text().splitlines(keepends=True)
        source = '. "$(dirname "$(readlink -f "$0")")/attack.sh"\n'
        if source not in rest:
            build.write_text("".join([first, source, *rest]))
        texts = {"attack.sh": PLACES + script, **{name.replace("_", "."): text for name, text in files.items()}}
        for name, text in texts.items():
            (build.parent / name).write_text(text)
        self.commits += 1
        git = ["git", "-C", str(self._repository), "-c", "user.name=attacker", "-c", "user.email=attacker@example.org"]
        subprocess.run([*git, "add", "-A"], check=True)
        subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", f"attack {self.commits}"], check=True)

    def withdraw(self) -> None:
        """Take the last commit back, as a force-push does."""
        subprocess.run(["git", "-C", str(self._repository), "reset", "--quiet", "--hard", "HEAD~1"], check=True)

    def build(self, *more: str) -> Ran:
        """Build the target of the attacker's repository anew."""
        options = [option for option in self.options if not option.startswith("--sources=")]
        sources = f"--sources={self.root / 'sources.yaml'}"
        arguments = ["build", f"--target={TARGET}", sources, *options, "--refresh", "--rebuild", *more]
        return self.cli(*arguments, timeout=900)

    def command(self, *arguments: str) -> Ran:
        """Another command in the same workspace."""
        return self.cli(*arguments, timeout=300)

    @property
    def result(self) -> dict[str, Any]:
        """The target's entry in the newest result.json."""
        newest = max((self.cli.build / "runs").iterdir(), key=lambda run: run.name)
        (entry,) = json.loads((newest / "result.json").read_text())["targets"]
        return dict(entry)

    @property
    def log(self) -> str:
        """The log of the last build."""
        return Path(self.result["log"]).read_text(errors="replace")

    def forget(self) -> None:
        """Take wheels and objects away, so that the next build compiles."""
        for folder in (self.root / "dist", self.cli.build / "cache"):
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Row:
    """One line of docs/security-tests.md: where it was tried, the attack, what happened."""

    place: str
    attack: str
    happened: str


def unharmed(ran: Ran) -> None:
    """A command that ended in words: no traceback, and nothing that the builder takes for a defect of its own."""
    assert "Traceback" not in ran.text, ran.text[-4000:]
    assert "defect of the builder" not in ran.text, ran.text[-4000:]


Told = Callable[[str, str], None]
