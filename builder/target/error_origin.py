"""Name the user's own files in compile errors of op-plugin, and say when its head is not the pin."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from builder.core.build_options import BuildOptions
from builder.core.errors import FailureKind, TargetError
from builder.sources.custom_ops import SOURCES

#: A file of op-plugin as a compiler or an interpreter names it.
_FILE = re.compile(r"(?:[^\s:\"'()<>]*/)?third_party/op-plugin/(?P<name>[^\s:\"'()<>,]+)")
_OF_SOURCES = (FailureKind.COMPILE, FailureKind.CODE_GENERATION)


def tell_by_origin(error: TargetError, options: BuildOptions, commits: Mapping[str, str]) -> None:
    """Name in ``error`` the user's own files instead of their copies; where op-plugin is another commit than torch_npu
    pins, add that to the next step. ``commits`` are those of the prepared tree's record.
    """
    if error.kind not in _OF_SOURCES:
        return
    found = [each["name"] for text in (error.message, error.details or "") for each in _FILE.finditer(text)]

    def own(match: re.Match[str]) -> str:
        return next(map(str, _own_files(match["name"], options)), match[0])

    error.message = _FILE.sub(own, error.message)
    error.details = error.details and _FILE.sub(own, error.details)
    laid, pinned = commits.get("op-plugin", ""), commits.get("op-plugin (pinned)", "")
    theirs = found and not any(_own_files(found[0], options))
    if theirs and options.op_plugin == "branch" and laid and pinned and laid != pinned:
        error.hint = (
            f"{error.hint}; op-plugin is the head of its branch ({laid[:7]}), torch_npu pins {pinned[:7]}: "
            "--op-plugin pinned builds with that"
        )


def _own_files(name: str, options: BuildOptions) -> Iterator[Path]:
    """The files of the user that were laid as ``name`` into op-plugin."""
    place, _, last = name.rpartition("/")
    folder = options.op_plugin_folder
    if options.custom_ops is not None and place == SOURCES and (options.custom_ops / last).is_file():
        yield options.custom_ops / last
    elif folder is not None and (folder / name).is_file():
        yield folder / name
