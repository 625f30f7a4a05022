"""What the audit compares the matrix with: the facts that a branch of torch_npu or op-plugin states about itself.

Everything is read from a mirror's objects, without a work tree. Nothing of a branch is run: scripts are matched as
text, and ``setup.py`` is followed through its syntax tree as far as its text alone decides a value.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from packaging.version import VERSION_PATTERN

from builder.core.errors import FailureKind, TargetError
from builder.sources import gitcli as git
from builder.sources.build_scripts import read_build_script, read_setup_script
from builder.sources.mirrors import Mirror
from builder.sources.overlay import SCRIPT, read_recipe

T = TypeVar("T")
OP_PLUGIN_PATH = "third_party/op-plugin"
#: Stands in a requirement for the version of the torch that is installed while building.
INSTALLED_TORCH = "<version>"

_DOCKERFILES = {"x86_64": "ci/docker/X86/Dockerfile", "aarch64": "ci/docker/ARM/Dockerfile"}
_READ = re.compile(
    r"setup\.py|version\.txt|CMakeLists\.txt|\.gitmodules|ci/build\.sh|ci/docker/(X86|ARM)/Dockerfile"
    r"|cmake/.*\.cmake|tools/setup_helpers/.*\.py"  # what CMakeLists.txt may include, and setup.py import
)


@dataclass(frozen=True)
class BranchFacts:
    """What one commit of torch_npu says. A fact that it does not state is None or empty.

    ``build_options``: sorted long options of ``ci/build.sh`` without ``--python``; None where there is none to read.
    ``package_version``: what the next build is called, as written, without local part. ``version_source``: ``setup.py``
    (a literal), ``version.txt``, or ``torch``: then the installed torch decides and ``version_choices`` are what
    version.txt lists. ``torch_requirement``, ``cxx11_abi`` (0 or 1), ``ci_images``: by architecture, with no
    environment variable set. ``redefines_file``: ``__FILE__`` is given on each command line; ``maps_prefix``: paths
    in it are mapped. ``submodules``: path and URL. ``unread``: ``file: why`` for what could not be read.
    """

    branch: str
    commit: str
    build_options: tuple[str, ...] | None
    pythons: tuple[str, ...]
    package_version: str | None
    version_source: str | None
    version_choices: tuple[str, ...]
    torch_requirement: dict[str, str]
    cxx11_abi: dict[str, int]
    cmake_minimum: str | None
    honours_max_jobs: bool
    finds_ccache: bool
    redefines_file: bool
    maps_prefix: bool
    uses_ninja: bool
    uses_mold: bool
    ci_images: dict[str, str]
    op_plugin_branch: str | None
    op_plugin_commit: str | None
    submodules: tuple[tuple[str, str], ...]
    unread: tuple[str, ...] = ()


@dataclass(frozen=True)
class OverlayFacts:
    """What one commit of op-plugin says: the entries that its ``ci/build.sh`` lays over torch_npu, None where it names
    none; and whether it has the two places that a user's operator goes to. ``unread`` as in BranchFacts."""

    branch: str
    commit: str
    overlay: tuple[str, ...] | None
    custom_operators: bool
    sets_build_without_sha: bool
    unread: tuple[str, ...] = ()


def read_branch(mirror: Mirror, branch: str, commit: str) -> BranchFacts:
    """The facts of torch_npu's ``branch`` at ``commit``. Raises TargetError of kind SOURCE when the mirror lacks it."""
    tree = _Tree(mirror, commit)
    script = tree.parsed(SCRIPT, lambda text: read_build_script(text, branch=branch))
    setups = tree.parsed("setup.py", lambda text: {arch: _Setup(tree, arch, text) for arch in _DOCKERFILES}) or {}
    literals = {literal for setup in setups.values() for literal in setup.literals}
    commands = _cmake(tree)
    flags = [*literals, *(value for command, *values in commands if command != "message" for value in values)]
    version, source, choices = _version(tree, setups)
    submodules = tree.parsed(".gitmodules", lambda _: mirror.submodules(commit)) or ()
    pins = [(submodule.branch, submodule.commit) for submodule in submodules if submodule.path == OP_PLUGIN_PATH]
    pinned_branch, pinned_commit = pins[0] if pins else (None, None)
    return BranchFacts(
        branch, commit,
        build_options=tuple(sorted(script.options - {"--python"})) if script is not None else None,
        pythons=script.pythons if script is not None else (),
        package_version=version, version_source=source, version_choices=choices,
        torch_requirement=_torch_requirement(tree, setups), cxx11_abi=_cxx11_abi(tree, setups, commands),
        cmake_minimum=next((c[2] for c in commands if c[:2] == ("cmake_minimum_required", "VERSION")), None),
        honours_max_jobs=any(setup.reads_max_jobs for setup in setups.values()),
        finds_ccache=any(command == "find_program" and "ccache" in values for command, *values in commands)
        and ("set", "CMAKE_CXX_COMPILER_LAUNCHER") in {command[:2] for command in commands},
        redefines_file=any("-D__FILE__=" in flag for flag in flags),
        maps_prefix=any(re.search(r"-f(macro|file)-prefix-map=", flag) for flag in flags),
        uses_ninja=bool(literals & {"-GNinja", "-G Ninja", "Ninja"}),
        # Compilers that do not know mold are led to it by -B and a folder where it is called ld.
        uses_mold=any(re.search(r"-fuse-ld=mold|-B\S*mold", flag, flags=re.I) for flag in flags),
        ci_images={arch: image for arch, path in _DOCKERFILES.items() if (image := _image(tree, path))},
        op_plugin_branch=pinned_branch, op_plugin_commit=pinned_commit,
        submodules=tuple((one.path, one.url) for one in submodules), unread=tuple(dict.fromkeys(tree.unread)),
    )  # fmt: skip


def read_overlay(mirror: Mirror, branch: str, commit: str) -> OverlayFacts:
    """The facts of op-plugin's ``branch`` at ``commit``. Raises TargetError of kind SOURCE when the mirror lacks it."""
    tree = _Tree(mirror, commit)
    overlay = tree.parsed(SCRIPT, read_recipe)
    declared = "op_plugin/config/op_plugin_functions.yaml" in tree.modes
    custom = declared and any(path.startswith("op_plugin/ops/opapi/") for path in tree.modes)
    exported = re.search(r"^\s*(export\s+)?BUILD_WITHOUT_SHA=[^\s#]", tree.texts.get(SCRIPT, ""), flags=re.M)
    return OverlayFacts(branch, commit, overlay, custom, exported is not None, tuple(tree.unread))


def distance(mirror: Mirror, pinned: str, branch_commit: str) -> tuple[int, int] | None:
    """How many commits of the branch the pin lacks, and how many of the pin the branch lacks.

    None when the mirror does not have the pinned commit, or has only a part of the history (fetched with a depth),
    which gives other numbers. Raises TargetError of kind SOURCE when it does not have ``branch_commit``.
    """
    if not mirror.exists(pinned, "") or (mirror.path / "shallow").exists():
        return None
    try:
        return mirror.describe(pinned, branch_commit), mirror.describe(branch_commit, pinned)
    except git.GitFailed as error:
        raise TargetError(
            f"{mirror.name} lacks {branch_commit}", kind=FailureKind.SOURCE, details=error.reason
        ) from error


class _Tree:
    """The files of a commit that say something, all read with one call of git, and a list of what could not be."""

    def __init__(self, mirror: Mirror, commit: str) -> None:
        self.unread: list[str] = []
        self.texts: dict[str, str] = {}
        try:
            entries = list(mirror.entries(commit))
            wanted = [e for e in entries if _READ.fullmatch(e.path)]
            files = [entry for entry in wanted if entry.mode in ("100644", "100755")]
            asked = "".join(f"{entry.object}\n" for entry in files).encode()
            said = git.run(["cat-file", "--batch"], git_dir=mirror.path, data=asked)
        except git.GitFailed as error:
            raise TargetError(f"{mirror.name} lacks {commit}", kind=FailureKind.SOURCE, details=error.reason) from error
        self.modes = {entry.path: entry.mode for entry in entries}
        self.unread += [f"{entry.path}: it is no plain file" for entry in wanted if entry not in files]
        for entry in files:
            head, _, said = said.partition(b"\n")
            if head.endswith(b" missing"):
                self.unread.append(f"{entry.path}: its content is not in the mirror")
                continue
            size = int(head.split()[-1])
            self.texts[entry.path] = said[:size].decode("utf-8-sig", errors="replace").replace("\r\n", "\n")
            said = said[size + 1 :]

    def parsed(self, path: str, parser: Callable[[str], T]) -> T | None:
        """What ``parser`` makes of the text of ``path``; None where there is none or it is not what was expected."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Python's about the script's own spelling
                return parser(self.texts[path]) if path in self.texts else None
        except TargetError as error:
            self.unread.append(f"{path}: {error.message}")
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            why = f"line {error.lineno}" if isinstance(error, SyntaxError) else error
            self.unread.append(f"{path}: not Python: {why}")
        return None


def _image(tree: _Tree, path: str) -> str | None:
    """The last base image of a Dockerfile, with defaults of ARG filled in and names of earlier stages followed."""
    defaults: dict[str, str] = {}
    stages: dict[str, str] = {}
    image = None
    for line in re.sub(r"\\[ \t]*\n", " ", tree.texts.get(path, "")).splitlines():
        words = [word for word in line.split() if not word.startswith("--")]
        if len(words) > 1 and words[0].upper() == "ARG" and image is None:
            name, _, value = words[1].partition("=")
            defaults[name] = value.strip("\"'")
        elif len(words) > 1 and words[0].upper() == "FROM":
            variables = re.compile(r"\$(?:\{(\w+)(?::-([^}]*))?\}|(\w+))")
            image = variables.sub(lambda name: defaults.get(name[1] or name[3]) or name[2] or name[0], words[1])
            image = stages.get(image.lower(), image)
            stages[words[-1].lower()] = image
    told = image is not None and "$" not in image
    if path in tree.modes and not told:
        tree.unread.append(f"{path}: its text does not tell the base image")
    return image if told else None


_QUOTED = r'"(?:\\.|[^"\\])*"'
_COMMENT = re.compile(rf"({_QUOTED})|#\[(=*)\[.*?\]\2\]|#[^\n]*", flags=re.S)
_COMMAND = re.compile(rf'\b(\w+)\s*\(((?:{_QUOTED}|[^()"])*)\)', flags=re.S)


def _cmake(tree: _Tree) -> list[tuple[str, ...]]:
    """Each command and its arguments: of CMakeLists.txt, and of the files below cmake/ that it includes."""
    waiting = ["CMakeLists.txt"]
    found: list[tuple[str, ...]] = []
    for path in waiting:
        for name, inner in _COMMAND.findall(_COMMENT.sub(lambda m: m[1] or "", tree.texts.get(path, ""))):
            found.append((name.lower(), *(word.strip('"') for word in re.findall(rf'{_QUOTED}|[^\s"]+', inner))))
            if len(found[-1]) > 1 and found[-1][0] == "include":
                included = f"cmake/{found[-1][1].rpartition('/')[2].removesuffix('.cmake')}.cmake"
                waiting += [included] if included not in waiting else []
    return found


def _version(tree: _Tree, setups: dict[str, _Setup]) -> tuple[str | None, str | None, tuple[str, ...]]:
    """The package version, what decides it, and what it may be where that is the installed torch."""
    said = [setup.arguments.get("version") for setup in setups.values()]
    if not said or not isinstance(said[0], str) or said != [said[0]] * len(said):
        tree.unread += ["setup.py: its text does not tell the version"] if said else []
        return None, None, ()
    if INSTALLED_TORCH in said[0]:
        lines = (line.strip() for line in tree.texts.get("version.txt", "").splitlines())
        return None, "torch", tuple(line for line in lines if line and not line.startswith("#"))
    source = "version.txt" if _VERSION_TXT in said[0] else "setup.py"
    version = said[0].replace(_VERSION_TXT, tree.texts.get("version.txt", "").strip()).partition("+")[0]
    if not re.fullmatch(VERSION_PATTERN, version, flags=re.X | re.I):
        tree.unread.append(f"{source}: {version[:80]!r} is not a version")
        return None, source, ()
    return version, source, ()


def _torch_requirement(tree: _Tree, setups: dict[str, _Setup]) -> dict[str, str]:
    found = {}
    for arch, setup in setups.items():
        required = setup.arguments.get("install_requires", [] if None not in setup.arguments else _UNKNOWN)
        items = required if isinstance(required, list) else [_UNKNOWN]
        torch = [item for item in items if isinstance(item, str) and re.match(r"torch(?![\w.-])", item)]
        if torch:
            found[arch] = torch[0]
        elif _UNKNOWN in items:
            tree.unread.append(f"setup.py: its text does not tell what is required on {arch}")
    return found


def _cxx11_abi(tree: _Tree, setups: dict[str, _Setup], commands: list[tuple[str, ...]]) -> dict[str, int]:
    """CMakeLists.txt has the default; later setup.py decides by architecture and hands a 1 on to CMake."""
    sets = [" ".join(command[:3]) for command in commands]
    defaults = {int(text[-1]) for text in sets if re.fullmatch(r"set _?GLIBCXX_USE_CXX11_ABI [01]", text)}
    found = {}
    for arch, setup in setups.items():
        chosen = setup.names.get("USE_CXX11_ABI") if "-DGLIBCXX_USE_CXX11_ABI=1" in setup.literals else False
        if chosen is True:
            found[arch] = 1
        elif chosen is not False or len(defaults) > 1:
            tree.unread.append(f"setup.py, CMakeLists.txt: their text does not tell the C++ ABI on {arch}")
        elif defaults:
            found[arch] = max(defaults)
    return found


#: Values that are not plain: what a text does not decide; the path, open file and content of version.txt.
_UNKNOWN, _VERSION_FILE, _VERSION_TXT = object(), object(), "<version.txt>"


class _Setup:
    """A Python script, followed on one architecture with no environment variable set. Nothing of it is run.

    Any statement but the common ones makes what it touches unknown, so a value is told rightly or not at all; except
    that settings of the environment, and of global names in functions, are not seen: upstream's do not decide a fact.
    """

    def __init__(self, tree: _Tree, arch: str, text: str) -> None:
        module = ast.parse(text)
        self.literals = {n.value for n in ast.walk(module) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        self.reads_max_jobs = read_setup_script(text).reads_max_jobs
        self.names: dict[str, object] = {"__name__": "__main__"}
        self.arguments: dict[str | None, object] = {"install_requires": _UNKNOWN}  # of setup()
        self._tree, self._arch, self._again = tree, arch, partial(_Setup, tree, arch)
        self._follow(module.body, self.names)

    def _follow(self, body: Sequence[ast.stmt], names: dict[str, object]) -> object:
        """Take ``body`` statement by statement; gives what it returns, None where it returns nothing."""
        returned: object = None
        for node in body:
            match node:
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    names[name] = self._value(value, names)
                case ast.AugAssign(target=ast.Name(id=name), op=ast.Add(), value=value):
                    names[name] = _add(names.get(name), self._value(value, names))
                case ast.ImportFrom(module=str() as module, names=aliases):
                    names.update({a.asname or a.name: (module.replace(".", "/") + ".py", a.name) for a in aliases})
                case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                    names[name] = node
                case ast.With(items=[ast.withitem(opened, ast.Name(id=name))], body=inner):
                    names[name] = self._value(opened, names)
                    returned = self._follow(inner, names)
                case ast.Try(body=inner, handlers=handlers):
                    returned = self._follow([*inner, *node.orelse, *node.finalbody], names)
                    for handler in handlers:
                        _forget(handler, names)
                case ast.If(test=test) if (truth := _truth(self._value(test, names))) is not None:
                    returned = self._follow(node.body if truth else node.orelse, names)
                case ast.Return(value=ast.expr() as value) if (held := self._value(value, names)) is not None:
                    returned = held
                case ast.Expr(ast.Call(ast.Name("setup") | ast.Attribute(attr="setup"), keywords=keywords)):
                    self.arguments = {word.arg: self._value(word.value, names) for word in keywords}
                case _:
                    _forget(node, names)
                    parts = [node] if names is self.names else ast.walk(node)
                    if any(isinstance(part, (ast.Raise, ast.Return)) for part in parts):
                        returned = _UNKNOWN
            if returned is not None:
                break
        return returned

    def _value(self, node: ast.expr, names: dict[str, object]) -> object:
        match node:
            case ast.Constant(value=constant):
                return constant
            case ast.Name(id=name):
                return names.get(name, _UNKNOWN)
            case ast.Attribute() if ast.unparse(node) == "torch.__version__":
                return INSTALLED_TORCH
            case ast.List(elts=items):
                flat: list[object] = []
                for item in items:
                    held = self._value(item.value if isinstance(item, ast.Starred) else item, names)
                    flat += held if isinstance(item, ast.Starred) and isinstance(held, list) else [held]
                return flat
            case ast.IfExp(test=test):
                truth = _truth(self._value(test, names))
                return _UNKNOWN if truth is None else self._value(node.body if truth else node.orelse, names)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return self._value(ast.IfExp(operand, ast.Constant(False), ast.Constant(True)), names)
            case ast.BoolOp(op=op, values=[first, *rest]):
                truth = _truth(held := self._value(first, names))
                if truth is isinstance(op, ast.Or) or not rest:
                    return held
                return _UNKNOWN if truth is None else self._value(ast.BoolOp(op, rest), names)
            case ast.Compare(left, [ast.Eq() | ast.Is() | ast.NotEq() | ast.IsNot() as op], [right]):
                sides = [self._value(side, names) for side in (left, right)]
                if None in map(_truth, sides) or "<version" in str(sides):
                    return _UNKNOWN
                return (sides[0] == sides[1]) is isinstance(op, (ast.Eq, ast.Is))
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return _add(self._value(left, names), self._value(right, names))
            case ast.Subscript(value=owner, slice=ast.Constant(value=0)):
                held = self._value(owner, names)
                return held[0] if isinstance(held, list) and held else _UNKNOWN
            case ast.Call():
                return self._call(node, names)
        return _UNKNOWN

    def _call(self, call: ast.Call, names: dict[str, object]) -> object:
        given = [self._value(argument, names) for argument in call.args]
        called = ast.unparse(call.func)
        if called == "platform.machine":
            return self._arch
        if called in ("os.getenv", "os.environ.get"):
            return [*given[1:], *(self._value(word.value, names) for word in call.keywords), None][0]
        if isinstance(call.func, ast.Attribute):
            held = self._value(call.func.value, names)
            if held is _VERSION_FILE and call.func.attr in ("read", "read_text", "readline"):
                return _VERSION_TXT
            if isinstance(held, str) and call.func.attr == "strip" and not given:
                return held.strip()
            if isinstance(held, str) and call.func.attr == "split" and given in (["+"], [".post"], [".dev"]):
                return list(held.split(str(given[0])))
        match self._value(call.func, names):
            case ast.FunctionDef(args=wanted, body=body) if not (given or call.keywords or ast.unparse(wanted)):
                return self._follow(body, dict(self.names))
            case (str() as file, str() as name) if other := self._tree.parsed(file, self._again):
                return other._call(ast.Call(ast.Name(name), call.args, call.keywords), other.names)
        return _VERSION_FILE if _VERSION_FILE in given or "version.txt" in given else _UNKNOWN


def _add(one: object, other: object) -> object:
    if isinstance(one, str) and isinstance(other, str) and len(one + other) < 1000:
        return one + other
    return [*one, *other] if isinstance(one, list) and isinstance(other, list) else _UNKNOWN


def _truth(value: object) -> bool | None:
    """Whether a plain value counts as true; None where it is not plain."""
    plain = value is None or isinstance(value, (str, int)) or (isinstance(value, list) and _UNKNOWN not in value)
    return bool(value) if plain else None


def _forget(node: ast.AST, names: dict[str, object]) -> None:
    """Make unknown what ``node`` sets, and the lists that it could change."""
    for inner in [inner for inner in ast.walk(node) if isinstance(inner, ast.Name)]:
        if not isinstance(inner.ctx, ast.Load) or isinstance(names.get(inner.id), list):
            names[inner.id] = _UNKNOWN
