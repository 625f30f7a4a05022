"""A small tree with a code generation of upstream's vices, and builds of it that go through the cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from builder.compilation import codegen_cache
from builder.core.trust import Trust
from builder.payload.codegen.key import COMPILERS

LINE = "v2.5.1-7.1.0"

#: Writes files that nobody may write, edits one in place, removes one, makes a folder, and reads one header of two.
SCRIPT = r"""#!/bin/bash
CDIR="$(cd "$(dirname "$0")" ; pwd -P)"
cd $CDIR
echo ran >> "$RUNS"
sed -i "1r config/base.yaml" config/info.yaml
mkdir -p made/deep
cat include/read.h > made/deep/copy.txt
$1 codegen/gen.py "$2"
chmod 550 made/generated.cpp
rm -rf sources/removed sources/old.cpp
echo '#!/bin/sh' > made/run.sh
chmod 750 made/run.sh
touch untouched.txt
"""
GENERATOR = """import pathlib, sys
names = pathlib.Path("config/functions.yaml").read_text().split()
parts = sys.argv[1].split(".")
text = "".join("// %s\\n" % name for name in names)
pathlib.Path("made/generated.cpp").write_text("// v%sr%s\\n%s" % (parts[0], parts[1], text))
"""
FILES = {
    "generate_code.sh": SCRIPT,
    "codegen/gen.py": GENERATOR,
    "config/base.yaml": "- base\n",
    "config/info.yaml": "- first\n- last\n",
    "config/functions.yaml": "one two\n",
    "include/read.h": "read\n",
    "include/unread.h": "unread\n",
    "sources/op.cpp": "op\n",
    "sources/old.cpp": "old\n",
    "sources/removed/a.txt": "a\n",
    "sources/removed/b/c.txt": "c\n",
    "package/module.py": "module\n",
    "untouched.txt": "untouched\n",
    "version.txt": "2.5.1\n",
}

State = dict[str, tuple[str, int, str]]


def write_tree(root: Path) -> None:
    """The tree before code generation."""
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "link.yaml").symlink_to("config/base.yaml")


def state(root: Path) -> State:
    """Every path below ``root``: kind, permissions, content."""
    found: State = {}
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            path = Path(folder, name)
            mode = path.lstat().st_mode & 0o777
            shown = str(path.relative_to(root))
            if shown == ".git" or shown.startswith(".git/"):
                continue
            if path.is_symlink():
                found[shown] = ("link", 0, os.readlink(path))
            elif path.is_dir():
                found[shown] = ("folder", mode, "")
            else:
                found[shown] = ("file", mode, path.read_bytes().hex())
    return found


@dataclass
class Place:
    """Where builds happen: always in the same folder, as in an environment.

    What ``root`` holds of earlier builds is gone on with.
    """

    root: Path
    #: What the variables of a build have besides the usual.
    variables: dict[str, str] = field(default_factory=dict)
    version: str = "2.5.1.post3"
    order_is_fixed: bool = False
    check: bool = False
    cached: bool = True
    python: str = sys.executable
    trust: Trust = Trust.RELEASE

    def __post_init__(self) -> None:
        self.said = ""
        self.warning: str | None = None
        if self.source.exists():
            return
        write_tree(self.source)
        for folder in (self.cache, self.out, self.tools):
            folder.mkdir()
        # Hashing the real compilers takes longer than all the rest of a small generation.
        for name in COMPILERS:
            (self.tools / name).write_text("#!/bin/sh\nexit 1\n")
            (self.tools / name).chmod(0o755)

    @property
    def source(self) -> Path:
        return self.root / "source"

    @property
    def tree(self) -> Path:
        return self.root / "work" / "pytorch"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def out(self) -> Path:
        return self.root / "out"

    @property
    def store(self) -> Path:
        """The folder of the entries that a build of ``trust`` leaves."""
        return codegen_cache.store(self.cache, self.trust, LINE)

    @property
    def tools(self) -> Path:
        """A folder on PATH."""
        return self.root / "bin"

    @property
    def entries(self) -> list[Path]:
        return sorted(self.store.glob("*.zip"))

    @property
    def runs(self) -> int:
        """How often upstream's script has run so far."""
        log = self.root / "runs"
        return len(log.read_text().splitlines()) if log.exists() else 0

    def environment(self) -> dict[str, str]:
        variables = {
            "PATH": f"{codegen_cache.INSIDE}:{self.tools}:{os.environ['PATH']}",
            "HOME": str(self.root),
            "LC_ALL": "C",
            "PYTHONHASHSEED": "0",
            "PYTHONUTF8": "1",
            "RUNS": str(self.root / "runs"),
        }
        if self.cached:
            shown = [str(folder) for folder in codegen_cache.folders(self.cache, self.trust, LINE)]
            variables.update(
                codegen_cache.environment(shown, str(self.out), order_is_fixed=self.order_is_fixed, check=self.check)
            )
        return {**variables, **self.variables}

    def prepare(self) -> None:
        """What comes before a compile: a fresh tree, and an empty folder of results."""
        shutil.rmtree(self.tree, ignore_errors=True)
        shutil.copytree(self.source, self.tree, symlinks=True)
        shutil.rmtree(self.out)
        self.out.mkdir()

    def generate(self) -> subprocess.CompletedProcess[str]:
        """As upstream's setup.py does it."""
        command = ["bash", str(self.tree / "generate_code.sh"), self.python, self.version]
        # The command is looked up on the PATH of the build, not on this process's.
        return subprocess.run(
            ["env", *command], env=self.environment(), cwd=self.root, capture_output=True, text=True, check=False
        )

    def build(self, *, status: int = 0) -> codegen_cache.Outcome:
        """One build whose compile ends well; what became of its code generation."""
        self.prepare()
        done = self.generate()
        assert done.returncode == status, done.stdout + done.stderr
        self.said = done.stdout + done.stderr
        outcome = codegen_cache.outcome(self.out)
        assert outcome is not None
        if status == 0:
            self.warning = codegen_cache.keep(self.out, self.store)
        return outcome
