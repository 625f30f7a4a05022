"""What a check of a wheel can find: rules with an id, a severity and advice, and findings that name one of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class Severity(str, Enum):
    """How much a finding matters: an error is not published, a warning is told, a note is shown where asked."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"

    @property
    def rank(self) -> int:
        """0 for the gravest."""
        return list(Severity).index(self)


@dataclass(frozen=True)
class Rule:
    """One thing that is checked: its id, what holds of a right wheel, and how to mend one of which it does not."""

    id: str
    severity: Severity
    title: str
    advice: str


@dataclass(frozen=True)
class Finding:
    """A rule that does not hold: what was found, and in which member of the wheel (empty: the wheel as a whole)."""

    rule: Rule
    what: str
    where: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.where else self.what

    def to_json(self) -> dict[str, str]:
        """The finding as ``verify --json`` writes it."""
        return {
            "rule": self.rule.id,
            "severity": self.rule.severity.value,
            "what": self.what,
            "where": self.where,
            "advice": self.rule.advice,
        }


_E, _W, _N = Severity.ERROR, Severity.WARNING, Severity.NOTE
_BUILD_AGAIN = "build it again; a wheel that changed on its way is fetched again"
_UPSTREAM = "look at setup.py of the branch: it states this"

_RULES = (
    Rule("archive", _E, "members, places, kinds and sizes are those of a torch_npu wheel", _BUILD_AGAIN),
    Rule("metadata", _E, "METADATA and the files beside it say what upstream's say, and nothing more", _UPSTREAM),
    Rule("record-file", _E, "RECORD lists each member with its hash and size", _BUILD_AGAIN),
    Rule("name", _E, "it is called torch_npu, and its version is for the target's PyTorch", _UPSTREAM),
    Rule("tags", _E, "its tags are the target's Python, architecture and policy, in its name and in WHEEL", _UPSTREAM),
    Rule("version-file", _E, "torch_npu/version.py names the wheel's version and the commit", _UPSTREAM),
    Rule("machine", _E, "each library is for the wheel's architecture", "build it on or for that architecture"),
    Rule("cuda", _E, "no library needs CUDA", "compile against a CPU build of PyTorch"),
    Rule("members", _E, "the plug-in's library and its extension module are there", "look for what setup.py left out"),
    Rule(
        "needed", _E, "each library that is needed is torch's, CANN's, the wheel's own or the policy's",
        "link against it statically, or let auditwheel bring it along",
    ),
    Rule(
        "symbols", _E, "each symbol that is needed is offered by torch, CANN, Python, the system or the wheel itself",
        "import torch_npu would fail: define the function as it is declared, or compile against the torch and the "
        "CANN that it will be loaded with",
    ),
    Rule(
        "cxx-abi", _E, "its C++ ABI is torch's",
        "compile with the _GLIBCXX_USE_CXX11_ABI of that torch (torch.compiled_with_cxx11_abi())",
    ),
    Rule(
        "symbol-versions", _E, "no symbol is newer than the policy of its tags",
        "build it on a base with that glibc, or give it the tag that 'auditwheel show' names",
    ),
    Rule("rpath", _E, "libraries are looked for below the wheel's own folder", "set RPATH to $ORIGIN and below"),
    Rule("exec-stack", _E, "no library asks for an executable stack", "link with -Wl,-z,noexecstack"),
    Rule("requires", _E, "it requires the one torch that it was built for", f"{_UPSTREAM} as install_requires"),
    Rule("entry-points", _E, "each entry point leads to something that is there", "define it, or leave it out"),
    Rule("headers", _E, "the headers for extensions are there", "look for what setup.py left out of package_data"),
    Rule("record", _E, "the record beside it is this wheel's", "take wheel and record from the same place"),
    Rule("torch-version", _E, "the PyTorch at hand is the one that it requires", "install the torch that it requires"),
    Rule(
        "cann-version", _W, "the CANN toolkit at hand is the one that its release line is for",
        "install that CANN, or the wheel that is for this one ('explain LINE' shows a line's CANN)",
    ),
    Rule("bind-now", _W, "libraries resolve all symbols when they are loaded", "link with -Wl,-z,now"),
    Rule("compiler", _W, "it was compiled by the matrix's gcc", "build it on the image that the matrix names"),
    Rule("size", _W, "it is about as large as the last wheel of its target", "compare the two, member by member"),
    Rule("debuglink", _N, "stripped libraries name the file of their debug symbols", "have eu-strip at build time"),
    Rule("build-paths", _N, "no library names a place of the machine that built it", "compile with -ffile-prefix-map"),
    Rule(
        "not-checked", _N, "everything that it needs can be looked up here",
        "name the PyTorch with --torch DIR, the CANN toolkit with --cann DIR",
    ),
)  # fmt: skip

#: All rules, by id.
RULES = {rule.id: rule for rule in _RULES}


def finding(rule: str, what: str, where: str = "") -> Finding:
    """Make a finding of the rule with that id. Raises KeyError for an id that no rule has."""
    return Finding(RULES[rule], what, where)


def errors(findings: Iterable[Finding]) -> list[Finding]:
    """Those that forbid to publish."""
    return [found for found in findings if found.rule.severity is Severity.ERROR]
