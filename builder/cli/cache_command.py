"""The command ``cache``: how large the compile caches are, why a build's files were no hits, and clearing them."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from builder.compilation import ccache, codegen_cache, compile_manifest
from builder.compilation.cache_misses import Group, Miss, groups_of, misses_of, shortened
from builder.compilation.compile_manifest import CompileManifest, DamagedError, Kept
from builder.core.errors import EXIT_OK, MachineError, RequestError
from builder.core.trust import Trust
from builder.core.untrusted import TooDeepError, UntrustedFolder, remove_tree
from builder.core.workspace import Workspace
from builder.ledger.entries import clean
from builder.progress.reporter import Reporter, print_table, standard_output

#: Files of a group, and differences of a file, that are shown to people; --json has all of them.
SHOWN = 5
#: How a folder that is being removed is named.
_CLEARED = ".cleared."
#: Characters of a reason on a terminal.
LONGEST = 300


def show_stats(workspace: Workspace, *, as_json: bool = False) -> None:
    """Print each compile cache with its size, limit and last build, and what is kept of code generation.

    Sizes are bytes on disk.
    """
    rows = [_stats_of(workspace, folder) for folder in ccache.stores(workspace.cache)]
    generated = [_generated_stats(folder) for folder in codegen_cache.stores(workspace.cache)]
    old = ccache.earlier_layouts(workspace.cache)
    old_bytes = sum(ccache.stored_bytes(path) if path.is_dir() else path.lstat().st_size for path in old)
    if as_json:
        _print_json({"folder": str(workspace.cache), "caches": rows, "generated": generated, "unused": old_bytes})
        return
    console = standard_output()
    if not rows:
        console.print(f"no compile cache stands in {escape(str(workspace.cache))}", soft_wrap=True)
    else:
        print_table(_stats_table(rows), console)
    if generated:
        print_table(_generated_table(generated), console)
    if old:
        console.print(
            f"{escape(str(workspace.cache))} also holds {_bytes(old_bytes)} of an earlier builder's caches, "
            "which nothing uses any more; `cache clear` removes them with all others",
            soft_wrap=True,
        )


def explain_misses(workspace: Workspace, target: str, file: str | None = None, *, as_json: bool = False) -> None:
    """Print why files of the last build of ``target`` (an id) were no cache hits; ``file``: of one file, in detail.

    Raises RequestError where no such build is known or no such file was compiled, MachineError where what was kept of
    it cannot be read.
    """
    stores = compile_manifest.stores_with(workspace, target)
    if not stores:
        raise RequestError(
            f"no build of {target!r} is known to the compile caches in {workspace.root}",
            hint=_known_targets(workspace),
        )
    everything = compile_manifest.kept(compile_manifest.folder_of(workspace, stores[0]))
    last = next(each for each in everything if each.target == target)
    try:
        build = last.read()
    except DamagedError as error:
        raise MachineError(f"what was kept of the last build cannot be read: {error}", hint="build it again") from error
    # Builds of one run may have filled the cache together; the one that ended first came first.
    earlier = [other for other in _readable(everything, skip=last) if other.built <= build.built]
    earlier.sort(key=lambda other: other.built, reverse=True)
    misses = misses_of(build, earlier)
    if file is not None:
        _explain_file(build, misses, file, as_json=as_json)
        return
    groups = groups_of(misses, build)
    if as_json:
        _print_json(_explained(stores[0], build, earlier, groups))
        return
    _show_groups(stores[0], build, earlier, groups, standard_output())


def clear_caches(workspace: Workspace, lines: Sequence[str], reporter: Reporter) -> int:
    """Remove the caches of ``lines`` (release lines or names of caches, also globs), of all of them for none.

    What is kept of a release line's code generation goes with the line. An earlier builder's caches go with all.
    Raises RequestError for what names no cache, MachineError while a build uses one of them; then nothing is removed.
    """
    if os.path.lexists(workspace.cache) and not workspace.cache.is_dir():
        raise MachineError(f"{workspace.cache} is no folder", hint="remove it: the next build makes a new one")
    stores = _relative(workspace, ccache.stores(workspace.cache)) | set(compile_manifest.stores(workspace))
    generated = _relative(workspace, codegen_cache.stores(workspace.cache))
    known = stores | generated
    chosen = {name for name in known if not lines or any(_names(name, line) for line in lines)}
    for line in lines:
        if not any(_names(name, line) for name in known):
            raise RequestError(
                f"no compile cache of {line!r} in {workspace.cache}",
                hint=f"there are: {', '.join(sorted(known)) or 'none'}",
            )
    with _nobody_builds(workspace, chosen):
        for name in sorted(chosen):
            if name in stores:
                remove_tree(compile_manifest.folder_of(workspace, name))
            if _clear(workspace, name):
                reporter.message(f"removed {workspace.cache / name}")
        if not lines:
            for path in [*ccache.earlier_layouts(workspace.cache), *_half_cleared(workspace)]:
                remove_tree(path)
                reporter.message(f"removed {path}")
    return EXIT_OK


def _relative(workspace: Workspace, folders: Iterable[Path]) -> set[str]:
    """Names of caches: the level of trust, and the folder below it."""
    return {folder.relative_to(workspace.cache).as_posix() for folder in folders}


def _clear(workspace: Workspace, name: str) -> bool:
    """Remove the folder ``name`` of the cache; False where there is none."""
    parent, _, last = name.rpartition("/")
    try:
        with UntrustedFolder(workspace.cache) as root, root.folder(parent) as folder:
            if last not in folder.folders():
                return False
            # In one step out of the way: what is half removed must not be found.
            away = f"{_CLEARED}{secrets.token_hex(4)}"
            folder.rename(last, away)
            folder.remove(away)
    except FileNotFoundError:
        return False
    return True


def _half_cleared(workspace: Workspace) -> list[Path]:
    """What a builder that was killed while it cleared caches has left."""
    levels = [trust.value for trust in Trust]
    found = []
    for parent in ("", *levels, *(f"{level}/{codegen_cache.CACHE}" for level in levels)):
        with suppress(OSError), UntrustedFolder(workspace.cache) as root, root.folder(parent) as folder:
            names = [name for name, _ in folder.entries() if name.startswith(_CLEARED)]
            found += [workspace.cache / parent / name for name in names]
    return found


def _stats_of(workspace: Workspace, folder: Path) -> dict[str, Any]:
    line, arch, gcc = ccache.parse_store(folder.name) or ("", "", "")
    name = folder.relative_to(workspace.cache).as_posix()
    last = next(_readable(compile_manifest.kept(compile_manifest.folder_of(workspace, name))), None)
    return {
        "name": name,
        "trust": folder.parent.name,
        "release_line": line,
        "arch": arch,
        "gcc": gcc,
        "size": _size(folder),
        "limit": None if last is None else last.limit,
        "last_build": None
        if last is None
        else {"target": last.target, "run": last.run, "built": last.built.isoformat(), **_counts(last)},
    }


def _generated_stats(folder: Path) -> dict[str, Any]:
    return {
        "release_line": folder.name,
        "trust": folder.parent.parent.name,
        # Another builder may clear it right now; a glob of what is gone is empty.
        "entries": sum(1 for _ in folder.glob("*.zip")),
        "size": _size(folder),
    }


def _size(folder: Path) -> int:
    """Bytes on disk. Raises MachineError for a cache that no compiler has made."""
    try:
        return ccache.stored_bytes(folder)
    except TooDeepError as error:
        raise MachineError(
            f"the compile cache {folder} is damaged: {error.strerror}",
            hint=f"python -m builder cache clear {folder.name}",
        ) from error


def _counts(build: CompileManifest) -> dict[str, int]:
    hits = sum(each.result.startswith("hit-") for each in build.objects)
    return {"files": len(build.objects), "hits": hits, "misses": sum(each.result == "miss" for each in build.objects)}


def _stats_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("cache", "size", "limit", "last build", "files", "hits"):
        table.add_column(heading, justify="right" if heading in {"size", "limit", "files", "hits"} else "left")
    for row in rows:
        last, limit = row["last_build"] or {}, row["limit"]
        table.add_row(
            escape(row["name"]),
            _bytes(row["size"]),
            "" if limit is None else _bytes(limit) if limit else "none",
            escape(clean(f"{last['target']} {last['built'][:16].replace('T', ' ')}")) if last else "",
            str(last.get("files", "")),
            str(last.get("hits", "")),
        )
    return table


def _generated_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("generated code", "size", "entries"):
        table.add_column(heading, justify="left" if heading == "generated code" else "right")
    for row in rows:
        table.add_row(escape(clean(f"{row['trust']}/{row['release_line']}")), _bytes(row["size"]), str(row["entries"]))
    return table


def _explained(
    store: str, build: CompileManifest, earlier: Sequence[CompileManifest], groups: Sequence[Group]
) -> dict[str, Any]:
    return {
        "cache": store,
        "target": build.target,
        "run": build.run,
        "built": build.built.isoformat(),
        "tree": build.tree,
        **_counts(build),
        "compared_with": [{"target": other.target, "run": other.run} for other in earlier],
        "groups": [
            {
                "reason": group.kind,
                "text": group.text,
                "count": len(group.misses),
                "files": [_miss_json(miss) for miss in group.misses],
            }
            for group in groups
        ],
    }


def _miss_json(miss: Miss) -> dict[str, Any]:
    against = None if miss.against is None else dict(zip(("target", "run"), miss.against, strict=True))
    return {
        "source": miss.source,
        "object": miss.object,
        "reason": miss.kind,
        "against": against,
        "differences": miss.difference.lines(),
    }


def _show_groups(
    store: str, build: CompileManifest, earlier: Sequence[CompileManifest], groups: Sequence[Group], console: Console
) -> None:
    counts = _counts(build)
    _say(console, f"{build.target}, run {build.run}: {counts['files']} files, {counts['hits']} from the cache {store}")
    if earlier:
        _say(console, "compared with " + ", ".join(f"{other.target} of {other.run}" for other in earlier))
    if not groups:
        _say(console, "every file came from the cache" if counts["files"] else "no file was compiled")
        return
    for group in groups:
        _say(console, "")
        _say(console, f"{len(group.misses):5}  {group.text}")
        for miss in group.misses[:SHOWN]:
            _say(console, f"         {shortened(miss.source, build.tree)}")
        if len(group.misses) > SHOWN:
            _say(console, f"         and {len(group.misses) - SHOWN} more")
    if any(group.kind == "evicted" for group in groups) and build.limit:
        _say(console, f"\nthe cache held {_bytes(build.size)} of {_bytes(build.limit)} after that build (--cache-size)")


def _explain_file(build: CompileManifest, misses: Sequence[Miss], file: str, *, as_json: bool) -> None:
    """One file in detail; ``file`` is its path, or the end of it."""
    wanted = {
        each.source for each in build.objects if each.source == file or each.source.endswith(f"/{file.lstrip('/')}")
    }
    if not wanted:
        raise RequestError(
            f"{file!r} was not compiled in the last build of {build.target}",
            hint="give a source's path, or the end of it, such as ops/opapi/AbsKernelNpuOpApi.cpp",
        )
    of_file = [miss for miss in misses if miss.source in wanted]
    missed = {(miss.source, miss.object) for miss in of_file}
    hits = [each for each in build.objects if each.source in wanted and (each.source, each.object) not in missed]
    if as_json:
        _print_json(
            [
                *({"source": each.source, "object": each.object, "reason": None} for each in hits),
                *(_miss_json(miss) for miss in of_file),
            ]
        )
        return
    console = standard_output()
    for each in hits:
        _say(console, f"{shortened(each.source, build.tree)}: from the cache")
    for group in groups_of(of_file, build):
        for miss in group.misses:
            against = f", against {miss.against[0]} of {miss.against[1]}" if miss.against else ""
            _say(console, f"{shortened(miss.source, build.tree)}: {group.text}{against}")
            for line in miss.difference.lines():
                _say(console, f"  {line.replace(f'{build.tree}/', '')}")


def _readable(builds: Sequence[Kept], *, skip: Kept | None = None) -> Iterator[CompileManifest]:
    """Those that can be read; an explanation does with the others gone."""
    for each in builds:
        if each != skip:
            try:
                yield each.read()
            except DamagedError:
                continue


def _known_targets(workspace: Workspace) -> str:
    known = {
        each.target
        for name in compile_manifest.stores(workspace)
        for each in compile_manifest.kept(compile_manifest.folder_of(workspace, name))
    }
    return f"known are: {', '.join(sorted(known))}" if known else "a build with the compile cache leaves what it takes"


def _names(store: str, wanted: str) -> bool:
    """True where ``wanted`` is the cache's name or its release line, or a glob over either."""
    line, short = _line_of(store), store.partition("/")[2]
    names = (store, short) if line is None else (store, short, line, line.removeprefix("v"))
    return any(fnmatchcase(name, wanted) for name in names)


def _line_of(store: str) -> str | None:
    """The release line of a cache's name; None where it is none of the builder's names."""
    _, _, below = store.partition("/")
    if below.startswith(f"{codegen_cache.CACHE}/"):
        return below.removeprefix(f"{codegen_cache.CACHE}/")
    parts = ccache.parse_store(store)
    return parts[0] if parts else None


@contextmanager
def _nobody_builds(workspace: Workspace, stores: set[str]) -> Iterator[None]:
    """Hold the locks of every target that could use one of the caches. Raises MachineError where one is built."""
    # A compile cache is of one architecture, generated code of all.
    uses = [
        (f"target-{_line_of(name)}-py", f"-{parsed[1]}" if (parsed := ccache.parse_store(name)) else "")
        for name in stores
    ]
    locks = workspace.root / "locks"
    names = sorted(path.stem for path in locks.glob("target-*.lock")) if locks.is_dir() else []
    with ExitStack() as held:
        for name in names:
            if any(name.startswith(first) and name.endswith(last) for first, last in uses):
                held.enter_context(workspace.locked(name, wait_seconds=0))
        yield


def _bytes(number: int) -> str:
    size = float(number)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def _say(console: Console, text: str) -> None:
    """A line of what builds left, which could be anything: no control characters, no markup."""
    text = clean(text)
    console.print(text if len(text) <= LONGEST else f"{text[:LONGEST]}...", soft_wrap=True, markup=False)


def _print_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=2)
    sys.stdout.write("\n")
