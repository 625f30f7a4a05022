"""What a release line states, against what its branches state: one small check for each fact.

A check gets what was read and returns the differences, none where matrix and branch agree, and None where the
branch does not tell the fact. It touches neither disk nor network.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from packaging.version import InvalidVersion, Version

from builder.audit.drift import Correction, Difference, Drift, Fact, Facts, Outcome, Value, counted, shown
from builder.matrix.base import python_key
from builder.matrix.loader import Matrix
from builder.matrix.model import ReleaseLine
from builder.sources.branch_facts import INSTALLED_TORCH, BranchFacts, OverlayFacts

OP_PLUGIN = "op-plugin"


@dataclass(frozen=True)
class Pin:
    """Where a branch's pinned op-plugin commit lies: ``known`` to the mirror, and how far from the matrix's branch.

    ``behind`` counts the commits of the branch that the pin lacks, ``ahead`` those of the pin that the branch
    lacks; both are None where there is no such branch, or the mirror has only a part of its history (``shallow``):
    then a commit that it lacks may well be in op-plugin.
    """

    commit: str
    known: bool
    behind: int | None = None
    ahead: int | None = None
    shallow: bool = False


@dataclass(frozen=True)
class Seen:
    """A release line and all that was read of its branches.

    ``overlay`` is None where op-plugin has no such branch, or the line has none. ``names`` gives the name in
    sources.yaml of each submodule's URL, None for one that nobody knows; ``direct`` are the names that any branch
    has as a submodule of its own, so that their absence tells something. ``missing`` are files that state facts about
    every line that can be built, and that the branch does not have.
    """

    line: ReleaseLine
    facts: BranchFacts
    overlay: OverlayFacts | None = None
    pin: Pin | None = None
    names: Mapping[str, str | None] = field(default_factory=dict)
    direct: frozenset[str] = frozenset()
    missing: tuple[str, ...] = ()

    @property
    def cmake(self) -> str | None:
        """The CMake that the branch requires, as the matrix writes it: 3.18.0 asks for the same as 3.18."""
        version = self.facts.cmake_minimum
        return ".".join(version.split(".")[:2]) if version is not None else None


Check = Callable[[Seen], Iterable[Difference] | None]
#: Facts that the branch of a release line, or of op-plugin, states.
BRANCH_FACTS: Facts[Check] = Facts()


def compare(matrix: Matrix, seen: Seen, outcome: Outcome) -> None:
    """Compare all facts of one release line with its branch, into ``outcome``."""
    # The facts of a file that could not be read look as if the branch had dropped them.
    understood = not _unread(seen)
    for fact in BRANCH_FACTS.values():
        found = fact.check(seen)
        if found is not None:
            found = [item if understood else replace(item, sure=False) for item in found]
            outcome.add(fact.name, [_drift(matrix, seen, fact, difference) for difference in found])


def _drift(matrix: Matrix, seen: Seen, fact: Fact[Check], difference: Difference) -> Drift:
    branch = seen.line.branch
    return Drift(
        line=branch,
        fact=fact.name,
        stated=difference.stated,
        found=difference.found,
        place=matrix.place_of(branch, *difference.keys),
        source=_source(seen, fact.of),
        correction=row_correction(matrix, branch, difference) if difference.sure else None,
    )


def row_correction(matrix: Matrix, branch: str, difference: Difference) -> Correction:
    """The correction of a value of a release line's row."""
    document, index = matrix.rows[branch]
    return Correction(document.path, ("releases", index, *difference.keys), difference.value)


def _source(seen: Seen, of: str) -> str:
    if of.startswith(f"{OP_PLUGIN}: "):
        commit = seen.overlay.commit[:12] if seen.overlay is not None else "none"
        return f"{of.removeprefix(f'{OP_PLUGIN}: ')} of {OP_PLUGIN} {seen.line.op_plugin} at {commit}"
    return f"{of} of {seen.facts.branch} at {seen.facts.commit[:12]}"


def differs(key: str, stated: object, found: object, value: Value, *, sure: bool = True) -> list[Difference]:
    """The difference of a row's value from what is right, as far as ``sure``; ``value`` is ``found`` as YAML has it."""
    if stated == found:
        return []
    if isinstance(stated, Mapping) and isinstance(found, Mapping):
        # What agrees would only hide what does not.
        names = [name for name in dict.fromkeys((*stated, *found)) if stated.get(name) != found.get(name)]
        stated, found = {name: stated.get(name) for name in names}, {name: found.get(name) for name in names}
    return [Difference(shown(stated), shown(found), (key,), sure=sure, value=value)]


@BRANCH_FACTS("legacy", of="ci/build.sh")
def _legacy(seen: Seen) -> Iterable[Difference]:
    """A line that is legacy for want of ci/build.sh has none, and every line without one says why it is legacy."""
    script = seen.facts.build_options is not None
    if script == (seen.line.legacy is None):
        return []
    stated = "legacy" if seen.line.legacy is not None else "can be built"
    return [Difference(stated, "there is a ci/build.sh" if script else "there is no ci/build.sh", ("legacy",))]


@BRANCH_FACTS("build_options", of="ci/build.sh")
def _build_options(seen: Seen) -> Iterable[Difference]:
    """Options of ci/build.sh besides --python."""
    stated, found = seen.line.build_options, seen.facts.build_options
    same = None if stated is None else tuple(sorted(stated))
    return differs("build_options", same, found, None if found is None else list(found), sure=found is not None)


@BRANCH_FACTS("pythons", of="ci/build.sh")
def _pythons(seen: Seen) -> Iterable[Difference] | None:
    """SUPPORTED_PY_VERSION of ci/build.sh, cut with the Pythons that torch has wheels for. A Python that comes is for
    a person, who chooses the versions to build with."""
    if not seen.facts.pythons:
        return None
    torch = seen.line.torch
    found = [python for python in seen.facts.pythons if python in torch.pythons or not torch.wheels]
    found = sorted(dict.fromkeys(found), key=python_key)
    sure = bool(found) and set(found) <= set(seen.line.pythons)
    return differs("pythons", seen.line.pythons, tuple(found), found, sure=sure)


@BRANCH_FACTS("op_plugin", of=".gitmodules")
def _op_plugin(seen: Seen) -> Iterable[Difference]:
    """The op-plugin branch that .gitmodules names, and that op-plugin has it."""
    stated, found = seen.line.op_plugin, seen.facts.op_plugin_branch
    if found is None and seen.facts.op_plugin_commit is not None:
        # No branch is named: the row's choice cannot be judged by the name, only by the pinned commit.
        if stated is None:
            return [Difference("none", f"pins {seen.facts.op_plugin_commit[:12]}, names no branch", ("op_plugin",))]
        found = stated
    if stated == found and stated is not None and seen.overlay is None:
        return [Difference(stated, "op-plugin has no such branch", ("op_plugin",))]
    return differs("op_plugin", stated, found, found)


@BRANCH_FACTS("op_plugin_pin", of="third_party/op-plugin")
def _op_plugin_pin(seen: Seen) -> Iterable[Difference] | None:
    """The pinned commit is in op-plugin, for a release line on its op-plugin branch."""
    pin, branch = seen.pin, seen.line.op_plugin
    if pin is None or branch is None:
        return None
    if not pin.known:
        if pin.shallow:
            return None
        return [Difference(f"on {branch}", f"op-plugin has no commit {pin.commit[:12]}", ("op_plugin",))]
    if seen.line.channel == "release" and pin.ahead:
        beside = f"{pin.commit[:12]} has {counted(pin.ahead, 'commit')} that it lacks"
        return [Difference(f"on {branch}", beside, ("op_plugin",))]
    return []


@BRANCH_FACTS("overlay", of=f"{OP_PLUGIN}: ci/build.sh")
def _overlay(seen: Seen) -> Iterable[Difference] | None:
    """What op-plugin's ci/build.sh lays over torch_npu, in its order."""
    if seen.line.op_plugin is not None and seen.overlay is None:
        return None
    found = seen.overlay.overlay if seen.overlay is not None else None
    return differs("overlay", seen.line.overlay, found, None if found is None else list(found), sure=found is not None)


@BRANCH_FACTS("custom_operators", of=f"{OP_PLUGIN}: op_plugin/")
def _custom_operators(seen: Seen) -> Iterable[Difference] | None:
    """op-plugin has the two places that a user's operator goes to."""
    if seen.line.op_plugin is not None and seen.overlay is None:
        return None
    found = seen.overlay is not None and seen.overlay.custom_operators
    return differs("custom_operators", seen.line.custom_operators, found, found)


@BRANCH_FACTS("package_version", of="setup.py, version.txt")
def _package_version(seen: Seen) -> Iterable[Difference] | None:
    """What the branch's next build is called. Corrected when the branch has moved on to a later version of the
    same PyTorch; an earlier one or another PyTorch is for a person to judge."""
    stated = Version(seen.line.package_version)
    if seen.facts.version_source == "torch":
        choices = [version for text in seen.facts.version_choices if (version := _version(text)) is not None]
        if not choices or stated.release in {choice.release for choice in choices}:
            return [] if choices else None
        return [
            Difference(seen.line.package_version, f"one of {shown(seen.facts.version_choices)}", ("package_version",))
        ]
    text = seen.facts.package_version
    found = _version(text) if text is not None else None
    if found is None:
        return None
    if found == stated:
        return []
    moved_on = found.release == stated.release and found > stated
    return [Difference(seen.line.package_version, shown(text), ("package_version",), sure=moved_on, value=text)]


@BRANCH_FACTS("next_version", of="setup.py, version.txt")
def _next_version(seen: Seen) -> Iterable[Difference] | None:
    """The branch's next build is not called older than what was released from it."""
    found = _version(seen.facts.package_version or "")
    newest = max(seen.line.released, key=Version, default=None)
    if found is None or newest is None:
        return None
    if found >= Version(newest):
        return []
    return [Difference(f"{newest} is released", f"the next build is {seen.facts.package_version}", ("released",))]


@BRANCH_FACTS("version_source", of="setup.py")
def _version_source(seen: Seen) -> Iterable[Difference]:
    """Where the package version stands: setup.py, version.txt, or the installed torch."""
    found = seen.facts.version_source
    return differs("version_source", seen.line.version_source, found, found)


@BRANCH_FACTS("torch_requirement", of="setup.py")
def _torch_requirement(seen: Seen) -> Iterable[Difference]:
    """The torch that the wheel will require, by architecture. Another PyTorch is for a person to judge."""
    found = {arch: seen.facts.torch_requirement[arch] for arch in _known(seen, seen.facts.torch_requirement)}
    same = re.compile(rf"torch==({re.escape(seen.line.pytorch)}|{re.escape(INSTALLED_TORCH)})(\+\w+)?")
    sure = all(same.fullmatch(text) for text in found.values())
    return differs("torch_requirement", dict(seen.line.torch_requirement), found, dict(found), sure=sure)


@BRANCH_FACTS("cxx11_abi", of="setup.py, CMakeLists.txt")
def _cxx11_abi(seen: Seen) -> Iterable[Difference] | None:
    """The default C++ ABI by architecture is that of the line's toolchains."""
    known = _known(seen, seen.facts.cxx11_abi)
    if not known:
        return None
    stated = {arch: seen.line.toolchains[arch].cxx11_abi for arch in known}  # type: ignore[index]
    return [
        Difference(f"{arch}: {stated[arch]}", f"{arch}: {seen.facts.cxx11_abi[arch]}", ("toolchains", arch))
        for arch in known
        if stated[arch] != seen.facts.cxx11_abi[arch]
    ]


@BRANCH_FACTS("ci_images", of="ci/docker")
def _ci_images(seen: Seen) -> Iterable[Difference]:
    """The images that upstream's Dockerfiles start from."""
    found = {arch: seen.facts.ci_images[arch] for arch in _known(seen, seen.facts.ci_images)}
    return differs("ci_images", dict(seen.line.ci_images), found, dict(found))


@BRANCH_FACTS("base_image", of="ci/docker")
def _base_image(seen: Seen) -> Iterable[Difference] | None:
    """base_image of the line's toolchains is the image that upstream's Dockerfile starts from, where there is one."""
    known = _known(seen, seen.facts.ci_images)
    if not known:
        return None
    stated = {arch: seen.line.toolchains[arch].base_image for arch in known}  # type: ignore[index]
    return [
        Difference(f"{arch}: {stated[arch]}", shown(f"{arch}: {seen.facts.ci_images[arch]}"), ("toolchains", arch))
        for arch in known
        if stated[arch] != seen.facts.ci_images[arch]
    ]


@BRANCH_FACTS("cmake_minimum", of="CMakeLists.txt")
def _cmake_minimum(seen: Seen) -> Iterable[Difference]:
    """cmake_minimum_required."""
    found = seen.cmake
    return differs("cmake_minimum", seen.line.cmake_minimum, found, found)


@BRANCH_FACTS("honours_max_jobs", of="setup.py")
def _honours_max_jobs(seen: Seen) -> Iterable[Difference]:
    """setup.py reads MAX_JOBS."""
    return _switch("honours_max_jobs", seen.line.honours_max_jobs, seen.facts.honours_max_jobs)


@BRANCH_FACTS("finds_ccache", of="CMakeLists.txt")
def _finds_ccache(seen: Seen) -> Iterable[Difference]:
    """CMakeLists.txt looks ccache up itself."""
    return _switch("finds_ccache", seen.line.finds_ccache, seen.facts.finds_ccache)


@BRANCH_FACTS("redefines_file", of="CMakeLists.txt")
def _redefines_file(seen: Seen) -> Iterable[Difference]:
    """CMakeLists.txt redefines __FILE__ for every file."""
    return _switch("redefines_file", seen.line.redefines_file, seen.facts.redefines_file)


@BRANCH_FACTS("uses_ninja", of="setup.py")
def _uses_ninja(seen: Seen) -> Iterable[Difference]:
    """setup.py takes ninja where it finds it."""
    return _switch("uses_ninja", seen.line.uses_ninja, seen.facts.uses_ninja)


@BRANCH_FACTS("uses_mold", of="setup.py, CMakeLists.txt")
def _uses_mold(seen: Seen) -> Iterable[Difference]:
    """The branch links with mold where it finds it."""
    return _switch("uses_mold", seen.line.uses_mold, seen.facts.uses_mold)


@BRANCH_FACTS("submodules", of=".gitmodules")
def _submodules(seen: Seen) -> Iterable[Difference]:
    """Each submodule that the row asks for is one of the branch; one that only stands inside others is not judged."""
    own = {seen.names.get(url) for _, url in seen.facts.submodules}
    for part in ("required", "full"):
        missing = [name for name in getattr(seen.line.submodules, part) if name in seen.direct and name not in own]
        if missing:
            yield Difference(shown(missing), "no submodule of the branch", ("submodules", part))


@BRANCH_FACTS("submodule_urls", of=".gitmodules")
def _submodule_urls(seen: Seen) -> Iterable[Difference]:
    """sources.yaml knows the URL of every submodule."""
    for path, url in seen.facts.submodules:
        if seen.names.get(url) is None:
            yield Difference("a repository of sources.yaml", shown(f"{path} is {url}"), ("submodules",))


@BRANCH_FACTS("readable", of="the files")
def _readable(seen: Seen) -> Iterable[Difference]:
    """Every file that states a fact is there and could be understood, so that no comparison is left out in silence.
    Otherwise nothing that the branch says is certain."""
    return [Difference("understood", shown(text), ()) for text in _unread(seen)]


def _unread(seen: Seen) -> list[str]:
    """``file: why`` for what a line that can be built needs and the branch does not tell."""
    line, unread = seen.line, [*seen.facts.unread]
    # Old branches have no CMakeLists.txt at the top, and their rows state nothing of one.
    cmake = line.cmake_minimum is not None or line.finds_ccache
    missing = [path for path in seen.missing if cmake or path != "CMakeLists.txt"]
    unread += [f"{path}: there is no such file" for path in missing if line.refusal is None]
    return unread + [f"op-plugin's {text}" for text in (seen.overlay.unread if seen.overlay is not None else ())]


def _known(seen: Seen, by_arch: Mapping[str, object]) -> list[str]:
    """The line's architectures for which the branch tells something."""
    return [arch for arch in seen.line.architectures if arch in by_arch]


def _switch(key: str, stated: bool, found: bool) -> list[Difference]:
    return differs(key, stated, found, found)


def _version(text: str) -> Version | None:
    try:
        return Version(text)
    except InvalidVersion:
        return None
