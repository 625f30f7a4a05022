"""The command ``verify``: judge any wheel of torch_npu, also against a PyTorch and a CANN that are not running."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import Version
from rich.markup import escape
from rich.table import Table

from builder.audit.index import FETCHED, open_index
from builder.core.digests import sha256_of
from builder.core.errors import EXIT_OK, EXIT_TARGET_FAILED, FailureKind, RequestError, TargetError
from builder.core.workspace import Workspace
from builder.environments.pytorch import packages_folder
from builder.matrix.loader import Matrix
from builder.matrix.model import ReleaseLine, Target
from builder.progress.reporter import Reporter, standard_output
from builder.wheels.findings import RULES, Finding, Severity, errors, finding
from builder.wheels.here import cann_here, torch_here
from builder.wheels.inspect import Wheel
from builder.wheels.loading import Surroundings
from builder.wheels.record import RecordError, WheelRecord, read_record, record_path
from builder.wheels.surroundings import Libraries, cann_of_toolkit, torch_of
from builder.wheels.verify import MACHINES, Expectation, Judged, expectation_of, judge

_STYLES = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.NOTE: "dim"}


@dataclass(frozen=True)
class Asked:
    """What was asked of ``verify``; ``here`` means the torch and the CANN of this machine."""

    wheels: Sequence[str]
    target: Target | None = None
    torch: Path | None = None
    cann: Path | None = None
    here: bool = False
    python: Sequence[str] = ()
    arch: Sequence[str] = ()
    as_json: bool = False
    all_findings: bool = False


@dataclass
class Verification:
    """Judges wheels one after the other; what they are held against is read once."""

    asked: Asked
    matrix: Matrix
    workspace: Workspace
    reporter: Reporter
    _torches: dict[Path, Libraries] = field(default_factory=dict)

    def run(self) -> int:
        """Judge every wheel, show what was found, and return the exit code: 1 where one has errors."""
        cann = self._cann()
        told, failed = [], 0
        for path in self._wheels():
            judged, around = self._judged(path, cann)
            failed += bool(errors(judged.findings))
            if self.asked.as_json:
                told.append(_as_json(path, judged, around))
            else:
                self._show(path, judged, around)
        if self.asked.as_json:
            print(json.dumps(told, indent=2))
        return EXIT_TARGET_FAILED if failed else EXIT_OK

    def _judged(self, path: Path, cann: Libraries | None) -> tuple[Judged, Surroundings]:
        expected: Expectation | None = None
        more: list[Finding] = []
        around = Surroundings(cann=cann)
        try:
            with Wheel(path) as wheel:
                expected, more = self._expected(wheel)
                around = Surroundings(self._torch(expected, wheel), cann)
                more += _of_versions(expected, around, self._lines(wheel.version))
            judged = judge(path, expected, around)
        except TargetError as error:
            if error.kind is not FailureKind.VERIFY:
                raise
            unread = finding("archive", error.message.removeprefix(f"{path.name}: "))
            return Judged((unread,), None), around
        found = sorted([*more, *judged.findings], key=lambda one: one.rule.severity.rank)
        return Judged(tuple(found), judged.verified), around

    def _expected(self, wheel: Wheel) -> tuple[Expectation, list[Finding]]:
        """What the wheel must be: by the target asked for, by its record, else by its own name."""
        expected, target = expectation_of(wheel), self.asked.target
        lines = self._lines(wheel.version)
        expected = replace(expected, requires_torch=all(line.torch_requirement for line in lines))
        if target is not None:
            expected = replace(
                expected,
                python_tag=target.tag,
                arch=target.arch,
                pytorch=target.release.pytorch,
                gcc=target.toolchain.gcc,
            )
        if not record_path(wheel.path).exists():
            return expected, []
        try:
            record = read_record(wheel.path)
        except (RecordError, OSError) as error:
            return expected, [finding("record", str(error))]
        commit = record.commits.get("torch_npu")
        return replace(expected, git_version=commit), list(_of_record(wheel.path, record))

    def _torch(self, expected: Expectation, wheel: Wheel) -> Libraries | None:
        """The PyTorch to look symbols up in: the one named, else one of the same version that builds have used here."""
        if self.asked.torch is not None:
            return self._read_torch(self.asked.torch)
        if self.asked.here:
            return self._read_torch(torch_here(os.environ))
        wanted = Version(expected.pytorch)
        for site in sorted(packages_folder().glob("pytorch/*/site")):
            if (site / "torch" / "version.py").is_file():
                found = self._read_torch(site)
                if found.machine == MACHINES.get(expected.arch) and _public(found.version) == wanted:
                    return found
        return None

    def _read_torch(self, site: Path) -> Libraries:
        if site not in self._torches:
            self._torches[site] = torch_of(site)
        return self._torches[site]

    def _cann(self) -> Libraries | None:
        if self.asked.cann is not None:
            return cann_of_toolkit(self.asked.cann)
        return cann_of_toolkit(cann_here(os.environ)) if self.asked.here else None

    def _lines(self, version: Version) -> list[ReleaseLine]:
        """The release lines that a wheel of that version can be of."""
        if self.asked.target is not None:
            return [self.asked.target.release]
        lines = self.matrix.releases
        exact = [line for line in lines if str(version.public) in (line.package_version, *line.released)]
        return exact or [line for line in lines if Version(line.pytorch).release == version.release[:3]]

    def _wheels(self) -> Iterator[Path]:
        for text in self.asked.wheels:
            path = Path(text)
            if "://" in text:
                yield self._fetched(text)
            elif path.is_dir():
                found = sorted(path.glob("[!.]*.whl"))
                if not found:
                    raise RequestError(f"{path} holds no wheel", hint="name a folder with *.whl files, or a wheel")
                yield from found
            elif path.name.endswith(".whl") or path.exists():
                if not path.is_file():
                    raise RequestError(f"there is no wheel {path}", hint="'ls dist' shows what builds have published")
                yield path
            else:
                yield from self._released(text)

    def _fetched(self, url: str) -> Path:
        name = unquote(urlsplit(url).path.rpartition("/")[2])
        digest = urlsplit(url).fragment.removeprefix("sha256=") or None
        if not name.endswith(".whl"):
            raise RequestError(f"{url} names no wheel", hint="its last part must be the name of a *.whl file")
        return open_index(self.workspace, self.reporter).download(
            url.partition("#")[0], name, digest, self.workspace.root / FETCHED
        )

    def _released(self, text: str) -> Iterator[Path]:
        """The wheels of ``torch-npu==2.7.1.post2`` on the index that pip is set to."""
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            raise RequestError(
                f"{text} is neither a wheel, a folder, a URL nor a requirement",
                hint="for example dist/, a *.whl file, or torch-npu==2.7.1.post2 from PyPI",
            ) from None
        index = open_index(self.workspace, self.reporter)
        arches, pythons = self.asked.arch or [os.uname().machine], self.asked.python
        every = [
            file
            for file in index.files(requirement.name)
            if requirement.specifier.contains(file.version, prereleases=True)
        ]
        files = [file for file in every if file.arch in arches and (not pythons or file.python in pythons)]
        if not files:
            have = sorted({f"Python {file.python} on {file.arch}" for file in every})
            raise RequestError(
                f"the index has no wheel {text} for {', '.join(pythons) or 'any Python'} on {', '.join(arches)}",
                hint=f"it has {', '.join(have)}" if have else "'list' shows which versions were released",
            )
        for file in files:
            with self.reporter.task(f"fetching {file.filename}"):
                yield index.download(file.url, file.filename, file.sha256, self.workspace.root / FETCHED)

    def _show(self, path: Path, judged: Judged, around: Surroundings) -> None:
        console = standard_output()
        shown = [one for one in judged.findings if self.asked.all_findings or one.rule.severity is not Severity.NOTE]
        wrong = len(errors(judged.findings))
        verdict = f"[bold red]{wrong} error{'' if wrong == 1 else 's'}[/]" if wrong else "[green]right[/]"
        console.print(f"{escape(path.name)}: {verdict}", soft_wrap=True)
        for one in shown:
            style = _STYLES[one.rule.severity]
            console.print(f"  [{style}]{one.rule.severity.value}[/] {one.rule.id}: {escape(str(one))}", soft_wrap=True)
        for advice in dict.fromkeys(one.rule.advice for one in shown if one.rule.severity is not Severity.NOTE):
            console.print(f"  next step: {escape(advice)}", soft_wrap=True)
        against = [place.name for place in (around.torch, around.cann) if place is not None]
        lacking = [one for one in judged.findings if one.rule.id == "not-checked"]
        console.print(f"  held against {escape(', '.join(against)) or 'its own files alone'}", soft_wrap=True)
        for one in [] if self.asked.all_findings else lacking:
            console.print(f"  {escape(str(one))}", soft_wrap=True)


def show_rules(*, as_json: bool) -> None:
    """List every rule: its id, its severity, and what it asks for."""
    if as_json:
        rules = [
            {"rule": rule.id, "severity": rule.severity.value, "title": rule.title, "advice": rule.advice}
            for rule in RULES.values()
        ]
        print(json.dumps(rules, indent=2))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("rule", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("what holds of a right wheel", overflow="fold")
    for rule in RULES.values():
        table.add_row(rule.id, f"[{_STYLES[rule.severity]}]{rule.severity.value}[/]", escape(rule.title))
    standard_output().print(table)


def _as_json(path: Path, judged: Judged, around: Surroundings) -> dict[str, object]:
    return {
        "wheel": path.name,
        "sha256": sha256_of(path),
        "right": not errors(judged.findings),
        "torch": around.torch.name if around.torch is not None else None,
        "cann": around.cann.name if around.cann is not None else None,
        "findings": [one.to_json() for one in judged.findings],
        "needs_cann": judged.verified.needs.cann if judged.verified is not None else None,
    }


def _of_record(path: Path, record: WheelRecord) -> Iterator[Finding]:
    size = path.stat().st_size
    if record.size != size:
        yield finding("record", f"it is of a wheel of {record.size} bytes, this one has {size}")
    elif record.sha256 != sha256_of(path):
        yield finding("record", "it is of a wheel with another SHA-256")


def _of_versions(expected: Expectation, around: Surroundings, lines: Sequence[ReleaseLine]) -> Iterator[Finding]:
    """Whether torch and CANN at hand are those that the wheel is for."""
    torch, cann = around.torch, around.cann
    if torch is not None and torch.version and _public(torch.version) != Version(expected.pytorch):
        yield finding("torch-version", f"it is for PyTorch {expected.pytorch}, that one is {torch.version}")
    if torch is not None and torch.machine not in ("", MACHINES[expected.arch]):
        yield finding("torch-version", f"it is for {expected.arch}, that PyTorch for {torch.machine}")
    wanted = [line.cann for line in lines if line.cann]
    if cann is not None and cann.version and wanted and not any(_same_cann(cann.version, one) for one in wanted):
        names = ", ".join(dict.fromkeys(f"{line.cann} ({line.branch})" for line in lines if line.cann))
        yield finding("cann-version", f"the toolkit is CANN {cann.version}, the wheel's line is for {names}")


def _public(version: str) -> Version | None:
    try:
        return Version(Version(version).public)
    except ValueError:
        return None


def _same_cann(found: str, wanted: str) -> bool:
    """``8.2.RC1`` is 8.2.RC1, also where a file writes 8.2.RC1.alpha001 or 8.2.rc1."""
    found, wanted = found.lower(), wanted.lower()
    return found == wanted or found.startswith(f"{wanted}.")
