"""What an upstream branch says about itself: read from its own scripts, never assumed.

torch_npu's scripts differ by era (flags, Pythons, manylinux tags, exclusions of auditwheel), so the
builder asks the branch. Only text is parsed; nothing of the branch is run here.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

from builder.core.errors import FailureKind, RequestError, TargetError

#: Switches of torch_npu's ci/build.sh that leave a component out.
_WITHOUT_COMPONENT = ("--disable_torchair", "--disable_rpc")

#: Named by upstream's ``clean`` although no line of today generates them.
_NEVER_GENERATED = frozenset({"torch_npu/csrc/aten/RegisterCPU.cpp", "torch_npu/csrc/aten/RegisterUnsupprotNPU.cpp"})


@dataclass(frozen=True)
class BuildScript:
    """torch_npu's ``ci/build.sh``: the Pythons it accepts and the options it understands."""

    pythons: tuple[str, ...]
    options: frozenset[str]

    def arguments(self, python: str, components: str) -> tuple[str, ...]:
        """Arguments for one build. ``components`` is ``op-plugin`` (without torchair and RPC) or ``full``."""
        without = () if components == "full" else tuple(o for o in _WITHOUT_COMPONENT if o in self.options)
        return (f"--python={python}", *without)


@dataclass(frozen=True)
class SetupScript:
    """torch_npu's ``setup.py``: what it will do to the wheel."""

    manylinux_tags: frozenset[str]
    excluded_libraries: tuple[str, ...]
    generated_files: tuple[str, ...]
    reads_max_jobs: bool

    def repairs_for(self, platform: str) -> bool:
        """True when setup.py itself runs auditwheel for this ``AUDITWHEEL_PLAT``.

        The upstream list lacks a comma, which joins two tags into one string that never matches;
        evaluating the list as Python does tells the truth about it.
        """
        return platform in self.manylinux_tags


def read_build_script(text: str, *, branch: str) -> BuildScript:
    """Parse ``ci/build.sh`` of a torch_npu branch. Raises TargetError when it is not such a script."""
    supported = re.search(r"^\s*SUPPORTED_PY_VERSION=\(([^)]*)\)", text, flags=re.M)
    options = frozenset(re.findall(r"^\s*(--[A-Za-z][\w-]*)=?\*?\)\s*$", text, flags=re.M))
    if supported is None or "--python" not in options:
        raise TargetError(
            f"ci/build.sh of {branch} names no SUPPORTED_PY_VERSION or takes no --python",
            kind=FailureKind.SOURCE,
            hint="the branch is not one that this builder knows how to build; see 'list'",
        )
    return BuildScript(pythons=tuple(supported.group(1).split()), options=options)


def no_build_script(branch: str) -> RequestError:
    """The error for a branch without ``ci/build.sh`` (1.5.0 and older have none)."""
    return RequestError(
        f"branch {branch} has no ci/build.sh, so upstream offers no way to build it that the builder could run",
        hint="choose a release line of PyTorch 1.8.1 or later; 'list' shows them",
    )


def read_setup_script(text: str) -> SetupScript:
    """Parse ``setup.py``. What an older branch lacks comes back empty."""
    tags: frozenset[str] = frozenset()
    excluded: list[str] = []
    generated: list[str] = []
    for node in ast.walk(_parse(text)):
        if not isinstance(node, ast.Assign) or len(node.targets) != 1 or not isinstance(node.targets[0], ast.Name):
            continue
        values = _strings(node.value)
        if values is None:
            continue
        name = node.targets[0].id
        if name == "manylinux_tags":
            tags = frozenset(values)
        elif name.endswith("_dependencies"):
            excluded.extend(values)
        elif name == "remove_files":
            generated.extend(value for value in values if value not in _NEVER_GENERATED)
    return SetupScript(tags, tuple(dict.fromkeys(excluded)), tuple(generated), "MAX_JOBS" in text)


def _parse(text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except SyntaxError as error:
        raise TargetError(
            f"setup.py of torch_npu is not Python: line {error.lineno}: {error.msg}", kind=FailureKind.SOURCE
        ) from error


def _strings(node: ast.expr) -> list[str] | None:
    """The strings of a literal list, with adjacent literals joined as Python joins them."""
    if not isinstance(node, ast.List):
        return None
    values = [item.value for item in node.elts if isinstance(item, ast.Constant) and isinstance(item.value, str)]
    return values if len(values) == len(node.elts) else None
