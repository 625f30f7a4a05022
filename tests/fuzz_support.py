"""Damaged inputs of every kind, the commands that read them, and what came of them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
from everything_support import LINE, TARGET, Everything
from fork_support import Ended
from mutation_support import WORDS, Deck, damage, replaced

from builder.cli.main import cli


@dataclass(frozen=True)
class Kind:
    """A kind of input: globs of its files below the folder, and the commands that read them."""

    name: str
    globs: tuple[str, ...]
    commands: tuple[tuple[str, ...], ...]
    #: Records beside wheels are made to fit what became of the wheels, every other time.
    refit: bool = False


_M = ("--matrix=matrix", "--sources=sources.yaml")
_B = (*_M, "--environment=host", "--allow-toolchain-mismatch")
_T = f"--target={TARGET}"
_PLAN = ("plan", _T, *_B)
_DRY = ("build", _T, *_B, "--dry-run")
_MAY_BUILD = (*_B, "--offline", "--timeout=50")
_LOCK = ("lock", _T, *_B, "--file=new.lock.yaml")
_REHEARSE = ("rehearse", _T, *_MAY_BUILD)
#: Without an engine it ends before it would fetch packages, which nothing forbids it.
_PULL = ("pull", _T, *_M, "--environment=docker", "--timeout=50")
_BUILD = ("build", _T, *_MAY_BUILD)
_NIGHT = ("nightly", "night", "--night=2026-11-22", *_B, "--offline")
_REBUILD = ("ledger", "rebuild")
_SHELL = ("shell", TARGET, *_B, "--offline")
_VERIFY = ("verify-objects", TARGET, *_MAY_BUILD)
_CLEAN = ("clean", "--trees", "--cache", "--runs")

KINDS = (
    Kind(
        "matrix files",
        ("matrix/pytorch-*.yaml", "matrix/torch.yaml"),
        (
            ("list", "--json", *_M),
            ("list", "--markdown", *_M),
            ("explain", TARGET, "--json", *_M),
            ("plan", "--pytorch=2.5", "--all-lines", "--gitlab=2", *_B),
            ("audit", "--offline", *_M),
            _DRY,
        ),
    ),
    Kind(
        "sources, toolchains, life cycles, decisions",
        (
            "sources.yaml",
            "matrix/sources.yaml",
            "matrix/toolchains.yaml",
            "matrix/lifecycle.yaml",
            "matrix/decisions.yaml",
        ),
        (("list", *_M), ("explain", TARGET, *_M), (*_PLAN, "--github=4"), ("audit", "--offline", "--json", *_M), _PULL),
    ),
    Kind("channels", ("matrix/nightly.yaml",), ((*_NIGHT, "--dry-run"), ("list", *_M), ("nightly", *_B, "--dry-run"))),
    Kind(
        "patches",
        (f"patches/{LINE}/torch_npu/*", f"patches/{LINE}/torch_npu", f"patches/{LINE}"),
        ((*_PLAN, "--patches=patches"), (*_LOCK, "--patches=patches"), (*_REHEARSE, "--patches=patches")),
    ),
    Kind(
        "lock files",
        ("builder.lock.yaml",),
        (
            ("plan", "--locked=builder.lock.yaml", *_B),
            (*_DRY, "--locked=builder.lock.yaml"),
            ("pull", "--locked=builder.lock.yaml", *_M, "--environment=docker"),
            ("build", "--locked=builder.lock.yaml", *_MAY_BUILD),
        ),
    ),
    Kind("records of wheels", ("dist/*.whl.json",), (_PLAN, _BUILD, _REBUILD)),
    Kind(
        "wheels",
        ("dist/*.whl",),
        (_PLAN, _REBUILD, ("verify", "dist"), ("verify", "dist", "--json", "--all")),
        refit=True,
    ),
    Kind(
        "manifests and pointers of releases",
        (
            "dist/nightly/night/*/manifest.json",
            "dist/nightly/night/latest*",
            "dist/nightly/night/*/*.whl.json",
            "dist/nightly/night/*/*.whl",
            "dist/nightly/night/*/journal",
        ),
        ((*_NIGHT, "--dry-run"), _NIGHT),
    ),
    Kind(
        "failures and state of nights",
        ("dist/nightly/night/*/failures.json", "build/nightly/night/night.json", "build/nightly/night/*/*.json"),
        ((*_NIGHT, "--dry-run"), ("nightly", "night", "--retry", *_B, "--offline", "--dry-run"), ("clean",)),
    ),
    Kind(
        "ledger",
        ("build/ledger.sqlite",),
        (
            ("history",),
            ("history", "--json"),
            ("history", f"--target={TARGET}", "--since=2026-01-01"),
            _REBUILD,
            _PLAN,
            _PULL,
        ),
    ),
    Kind("digests of wheels", ("build/digests.json",), (_PLAN, _BUILD)),
    Kind(
        "prepared trees",
        (
            f"build/pytorch/{TARGET}/.git/torch-npu-builder*",
            f"build/pytorch/{TARGET}/.git/HEAD",
            f"build/pytorch/{TARGET}/.git/config",
            f"build/pytorch/{TARGET}/.git/index",
            f"build/pytorch/{TARGET}/.git/objects/info/alternates",
            f"build/pytorch/{TARGET}/version.txt",
            f"build/pytorch/{TARGET}/.git",
        ),
        (_PLAN, (*_PLAN, "--refresh"), _LOCK, _REHEARSE, ("clean", "--trees")),
    ),
    Kind("results of runs", ("build/runs/*/result.json", "build/runs/*"), (("history",), _PULL, _CLEAN, ("clean",))),
    Kind(
        "compile caches and what is kept of them",
        (
            "build/manifests/*/*/*.json.gz",
            "build/cache/release/*/0/a/*",
            "build/cache/release/generated/*/*",
            "build/cache/release/generated/*",
            "build/cache/release/*",
            "build/manifests/*",
            "build/cache",
        ),
        (
            ("cache", "stats"),
            ("cache", "stats", "--json"),
            ("cache", "explain", TARGET),
            ("cache", "explain", TARGET, "a.cpp"),
            ("cache", "explain", TARGET, "--json"),
            ("cache", "clear"),
            ("cache", "clear", LINE),
            _CLEAN,
        ),
    ),
    Kind(
        "folders of users",
        (
            "custom_ops/*",
            "op-plugin/.git/HEAD",
            "op-plugin/.git/config",
            "op-plugin/.git/index",
            "op-plugin/op_plugin",
            "op-plugin/op_plugin/config/*",
            "wheelhouse/*",
            "cann/*",
        ),
        (
            (*_PLAN, "--custom-ops=custom_ops"),
            (*_PLAN, "--op-plugin=op-plugin"),
            (*_PLAN, "--find-links=wheelhouse"),
            (*_PLAN, "--cann-home=cann"),
            (*_REHEARSE, "--custom-ops=custom_ops", "--op-plugin=op-plugin"),
            (*_LOCK, "--custom-ops=custom_ops", "--cann-home=cann"),
        ),
    ),
)


@dataclass
class Tally:
    """What came of the inputs of a kind."""

    inputs: int = 0
    runs: int = 0
    bad: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, what: str, command: Sequence[str], ended: Ended) -> None:
        """Count one run of a command."""
        self.runs += 1
        for fault in ended.faults:
            self.counts[fault] = self.counts.get(fault, 0) + 1
        if ended.faults:
            said = "\n    ".join(ended.text[-1500:].splitlines()[-8:])
            shown = " ".join(word if len(word) < 100 else f"{word[:100]}..." for word in command)
            self.bad.append(f"{', '.join(ended.faults)}: {what}: {shown} ({ended.seconds:.0f} s)\n    {said}")

    def __str__(self) -> str:
        names = ("traceback", "defect", "hang")
        more = [f"{count} {name}" for name, count in self.counts.items() if name not in names]
        told = ", ".join(f"{self.counts.get(name, 0)} {name}s" for name in names)
        return f"{self.inputs} inputs, {self.runs} commands: {told}" + "".join(f", {text}" for text in more)


def try_files(kind: Kind, seed: str, inputs: int, made: Everything, folder: Path, *, every: bool) -> Tally:
    """Damage a file of ``kind`` in that many ways, and feed it to every command that reads it, or to one in turn."""
    tally = Tally()
    following = Deck(f"{kind.name} {seed}")
    for number in range(inputs):
        tally.inputs += 1
        before = following
        for command in kind.commands if every else [kind.commands[number % len(kind.commands)]]:
            with made.copy(folder) as place:
                following = before.copy()
                what = _damaged(following, place, kind)
                tally.add(f"[{seed}.{number}] {what}", command, made.server(command, place))
    return tally


def _damaged(chance: Deck, place: Path, kind: Kind) -> str:
    glob = chance.draw([glob for glob in kind.globs if any(place.glob(glob))])
    path = chance.choice(sorted(place.glob(glob)))
    what = replaced(chance, path) if path.is_dir() else damage(chance, path)
    if kind.refit and path.is_file() and path.stat().st_size < 1 << 20 and chance.random() < 0.6:
        record = json.loads(path.with_name(f"{path.name}.json").read_bytes())
        data = path.read_bytes()
        record |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        path.with_name(f"{path.name}.json").write_text(json.dumps(record))
        what += ", with a record that fits"
    return f"{path.relative_to(place)}: {what}"


#: How commands are called that must not get as far as building: the option that is tried comes after these.
_CALLS: dict[str, tuple[str, ...]] = {
    "build": _DRY,
    "rehearse": _REHEARSE,
    "pull": _PULL,
    "plan": _PLAN,
    "nightly": (*_NIGHT, "--dry-run"),
    "lock": _LOCK,
    "audit": ("audit", "--offline", *_M),
    "history": ("history",),
    "ledger rebuild": _REBUILD,
    "list": ("list", *_M),
    "explain": ("explain", TARGET, *_M),
    "doctor": ("doctor", "--offline", *_M),
    "clean": ("clean",),
    "cache stats": ("cache", "stats"),
    "cache explain": ("cache", "explain", TARGET),
    "cache clear": ("cache", "clear"),
    "verify-objects": _VERIFY,
    "shell": _SHELL,
    # There is no such image, and no engine.
    "demo": ("demo", "--environment=docker", "--base-image=nothing:here"),
    "completion": ("completion",),
}
#: Of demo, what would let it build on this host.
_NEVER = {("demo", "environment"), ("demo", "base_image")}
_SYSTEM = (
    "HOME",
    "XDG_CACHE_HOME",
    "TMPDIR",
    "PATH",
    "COLUMNS",
    "LINES",
    "TERM",
    "LANG",
    "TZ",
    "DOCKER_HOST",
    "DOCKER_CONFIG",
    "https_proxy",
    "HTTP_PROXY",
    "NO_PROXY",
    "SOURCE_DATE_EPOCH",
    "GITHUB_ACTIONS",
    "GITHUB_STEP_SUMMARY",
    "GITLAB_CI",
    "NO_COLOR",
    "FORCE_COLOR",
    "GIT_DIR",
    "GIT_CONFIG_GLOBAL",
    "PIP_CONFIG_FILE",
    "PYTHONHASHSEED",
    "CCACHE_DIR",
    "XDG_RUNTIME_DIR",
    "USER",
    "MAX_JOBS",
)
_OWN = (
    "BUILDER_DEBUG",
    "BUILDER_PACKAGES",
    "BUILDER_REMOTE_CACHE",
    "BUILDER_REMOTE_CACHE_PASSWORD",
    "BUILDER_CA_BUNDLE",
)


def _command(name: str) -> click.Command:
    found: click.Command = cli
    for part in name.split():
        assert isinstance(found, click.Group)
        found = found.commands[part]
    return found


def try_options(seed: str, inputs: int, made: Everything, folder: Path) -> Tally:
    """Give options and arguments of commands values that nobody means."""
    tally = Tally()
    chance = Deck(f"options {seed}")
    for number in range(inputs):
        tally.inputs += 1
        name = chance.draw(list(_CALLS))
        call = list(_CALLS[name])
        parameters = [
            parameter
            for parameter in _command(name).params
            if (name, parameter.name) not in _NEVER and not getattr(parameter, "is_flag", False)
        ]
        word = chance.draw(list(WORDS))
        parameter = chance.choice(parameters)
        if isinstance(parameter, click.Option):
            option = parameter.opts[0]
            call = [each for each in call if each.partition("=")[0] != option]
            call.append(f"{option}={WORDS[word]}")
            what = f"{option} is {word}"
        else:
            call = [*call, "--", WORDS[word]]
            what = f"{parameter.name} is {word}"
        with made.copy(folder) as place:
            _places(place)
            tally.add(f"[{seed}.{number}] {what}", call, made.server(call, place))
    return tally


def try_variables(seed: str, inputs: int, made: Everything, folder: Path, *, every: bool) -> Tally:
    """Give variables values that nobody means, and run a command of every sort, or one in turn."""
    tally = Tally()
    chance = Deck(f"variables {seed}")
    own = [str(p.envvar) for name in _CALLS for p in _command(name).params if getattr(p, "envvar", None)]
    calls = (_DRY, ("list", *_M), ("doctor", "--offline", *_M), ("history",), _PULL)
    for number in range(inputs):
        tally.inputs += 1
        variable = chance.draw((chance.draw(sorted({*own, *_OWN})), chance.draw(_SYSTEM)))
        word = chance.draw(list(WORDS))
        for call in calls if every else [calls[number % len(calls)]]:
            if _option_of(variable) in {each.partition("=")[0] for each in call}:
                call = tuple(each for each in call if each.partition("=")[0] != _option_of(variable))
            with made.copy(folder) as place:
                _places(place)
                tally.add(
                    f"[{seed}.{number}] {variable} is {word}", call, made.server(call, place, {variable: WORDS[word]})
                )
    return tally


def _option_of(variable: str) -> str:
    return "--" + variable.removeprefix("BUILDER_").lower().replace("_", "-")


def _places(folder: Path) -> None:
    """What some words name."""
    (folder / "FILE").write_text("x")
    os.mkfifo(folder / "FIFO")
    (folder / "LOOP").symlink_to("LOOP")
