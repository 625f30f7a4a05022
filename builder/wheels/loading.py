"""Whether a wheel will load: each symbol and library that it needs, held against who could offer it.

None of upstream's lines links with ``-z defs``: an undefined symbol passes the linker, and since the libraries are
linked with ``-z now`` it is ``import torch_npu`` that fails, at whoever installed the wheel.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

from builder.wheels.elf import SharedObject, Undefined
from builder.wheels.findings import Finding, finding
from builder.wheels.inspect import shown
from builder.wheels.policies import Policy
from builder.wheels.surroundings import Libraries, system_libraries

#: Symbols that are told one by one; the rest is counted.
_TOLD = 8
#: The interpreter's own, which no library of a wheel links to (PEP 513).
_OF_PYTHON = re.compile(r"_?Py[A-Z_]\w*|_PyRuntime")
#: Called only where somebody defines them: initialisers of thread-local variables.
_THREAD_LOCAL = re.compile(r"_ZTH|_ZTW")
#: Namespaces of PyTorch in a mangled name. https://itanium-cxx-abi.github.io/cxx-abi/abi.html#mangling
_OF_TORCH = re.compile(
    r"_Z(?:T[ISVTWHCv]|GVT?)?N?[rVK]*[RO]?(?:2at|3c10|5torch|6caffe2|4c10d)(?![0-9]*_npu)|TH[PCN]?[A-Z]|_Z\d+TH"
)
#: The same without data: what proves which C++ ABI PyTorch has. Red Hat's toolsets link parts of a newer libstdc++
#: statically, so that a library of the old ABI refers to members of std::__cxx11, too.
_FUNCTION_OF_TORCH = re.compile(r"_ZN[rVK]*[RO]?(?:3c10|2at|5torch)\d")
#: Namespaces of torch_npu and op-plugin, which nobody else can offer.
_OWN = re.compile(
    r"_Z(?:T[ISV])?N?[rVK]*(?:6op_api|6acl_op|9op_plugin|6at_npu|9torch_npu|7c10_npu|8c10d_npu|4hccl|12npu_profiler)"
)
#: Names of CANN's functions.
_OF_CANN = re.compile(r"acl\w+|(?:ge|hccl|Hccl|hcom|Hcom|rt|mstx|dcmi|halHost)[A-Z_]\w*")
#: Its C++ namespaces, and the bounded C functions that it brings (libc_sec.so): no header of a tree declares those.
_MORE_OF_CANN = re.compile(
    r"_Z(?:T[ISVTWHC])?N?[rVK]*[RO]?(?:2ge|4hccl|3tdt|3atb|14ascend_private)\d|_ZN?K?\w*3atb"
    r"|(?:mem|str|wcs|v?s?n?w?printf|v?s?n?w?scanf)\w*_s$"
)
#: Libraries whose part of CANN the stubs of a tree have; what torchair and ATB's bridge need stands in no stub.
_PLUG_IN = re.compile(r"torch_npu/(lib/lib(torch_npu|npu_profiler)\.so|_C\.)")
_OPERATOR = re.compile(r"(?:op_api|acl_op|op_plugin)::(\w+)\(")


@dataclass(frozen=True)
class Needs:
    """What a wheel takes from others, as far as it could be told.

    ``cann`` maps CANN's libraries to the symbols that the wheel takes of each, sorted.
    """

    cann: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Surroundings:
    """Who can offer symbols: a PyTorch, CANN, a policy; None where there is none to ask.

    ``custom_operators`` are the functions that ``--custom-ops`` declared, for messages.
    """

    torch: Libraries | None = None
    cann: Libraries | None = None
    policy: Policy | None = None
    custom_operators: tuple[str, ...] = ()


@dataclass(frozen=True)
class Loading:
    """The libraries of one wheel, by member, and what surrounds them."""

    libraries: dict[str, SharedObject]
    around: Surroundings

    def findings(self) -> Iterator[Finding]:
        """What keeps the wheel from loading, and what could not be told."""
        yield from self._needed()
        yield from self._symbol_versions()
        yield from self._symbols()

    def needs(self) -> Needs:
        """What the wheel takes of CANN, by library."""
        found: dict[str, set[str]] = {}
        cann = self.around.cann
        for _, symbol in self._foreign() if cann is not None else ():
            # Stubs and toolkits also offer what their C++ brings along: templates of the standard library.
            if cann is not None and (_OF_CANN.match(symbol.name) or _MORE_OF_CANN.match(symbol.name)):
                library = cann.exported.get(symbol.name)
                library = library or ("declared" if symbol.name in cann.declared else None)
                if library is not None:
                    found.setdefault(library, set()).add(symbol.name)
        return Needs({library: sorted(symbols) for library, symbols in sorted(found.items())})

    def _own_names(self) -> set[str]:
        return {
            name for path, library in self.libraries.items() for name in (path.rsplit("/", 1)[-1], library.soname or "")
        }

    def _needed(self) -> Iterator[Finding]:
        policy, torch, cann = self.around.policy, self.around.torch, self.around.cann
        known = self._own_names() | _TORCH_LIBRARIES | _CANN_LIBRARIES
        known |= torch.names if torch is not None else set()
        known |= cann.names if cann is not None else set()
        for path, library in self.libraries.items():
            for name in library.needed:
                if name in known or (policy is not None and policy.allows(name)):
                    continue
                if policy is not None:
                    yield finding(
                        "needed",
                        f"it needs {shown(name)}, which is neither torch's nor CANN's nor in {policy.name}",
                        path,
                    )

    def _symbol_versions(self) -> Iterator[Finding]:
        policy = self.around.policy
        if policy is None:
            return
        for path, library in self.libraries.items():
            newer = sorted(
                {s.version for s in library.undefined if s.version and self._of_system(s) and not policy.has(s.version)}
            )
            if newer:
                yield finding("symbol-versions", f"it needs {shown(', '.join(newer))}, which {policy.name} lacks", path)

    def _foreign(self) -> Iterator[tuple[str, Undefined]]:
        """Every symbol that some library of the wheel must get from outside of it and of the system."""
        own = {symbol for library in self.libraries.values() for symbol in library.exported}
        for path, library in self.libraries.items():
            for symbol in library.undefined:
                if symbol.weak or symbol.name in own or self._of_system(symbol):
                    continue
                if _OF_PYTHON.match(symbol.name) or _THREAD_LOCAL.match(symbol.name):
                    continue
                yield path, symbol

    def _of_system(self, symbol: Undefined) -> bool:
        return symbol.library is not None and _SYSTEM.match(symbol.library) is not None

    def _symbols(self) -> Iterator[Finding]:
        torch, cann = self.around.torch, self.around.cann
        missing: dict[str, list[str]] = {}
        unknown: Counter[str] = Counter()
        abi_of_wheel = _abi(symbol.name for library in self.libraries.values() for symbol in library.undefined)
        for path, symbol in self._foreign():
            name = symbol.name
            if any(place is not None and place.has(name) for place in (torch, cann, system_libraries())):
                continue
            whose = self._not_at_hand(path, name)
            if whose is None:
                missing.setdefault(path, []).append(name)
            else:
                unknown[whose] += 1
        abi_of_torch = _abi(torch.exported) if torch is not None else None
        if torch is not None and None not in (abi_of_torch, abi_of_wheel) and abi_of_torch != abi_of_wheel:
            yield finding(
                "cxx-abi",
                f"it was compiled with _GLIBCXX_USE_CXX11_ABI={abi_of_wheel}, {torch.name} with {abi_of_torch}",
            )
        for path, names in missing.items():
            yield from self._told(path, sorted(set(names)))
        for whose, count in unknown.items():
            option = "--cann DIR" if whose == "CANN" else "--torch DIR"
            symbols = f"{count} symbol{'' if count == 1 else 's'} of {whose}"
            yield finding("not-checked", f"{symbols} not looked up: none at hand has them; name one with {option}")

    def _not_at_hand(self, path: str, name: str) -> str | None:
        """Who alone could offer a symbol that nobody here has, and is not at hand; None where it is missing."""
        torch, cann = self.around.torch, self.around.cann
        if _OWN.match(name):
            return None
        if _OF_CANN.match(name):
            return "CANN" if cann is None else None
        if _MORE_OF_CANN.match(name):
            known = cann is not None and (cann.complete or _PLUG_IN.match(path) is not None)
            return None if known else "CANN"
        return "PyTorch" if torch is None else None

    def _told(self, path: str, names: list[str]) -> Iterator[Finding]:
        for name in names[:_TOLD]:
            yield finding("symbols", f"undefined symbol {self._described(name)}", path)
        if len(names) > _TOLD:
            yield finding("symbols", f"and {len(names) - _TOLD} more undefined symbols", path)

    def _described(self, name: str) -> str:
        """The symbol as a person reads it, and whose it should have been."""
        plain = demangled(name)
        text = shown(plain, quote=False)
        operator = _OPERATOR.match(plain)
        if operator is not None:
            declared = operator[1] in self.around.custom_operators
            whose = "the custom operator" if declared else "op-plugin's operator"
            return (
                f"{text}: {whose} {operator[1]} is declared, "
                "and no function of that name with these parameters is defined"
            )
        if (_OF_CANN.match(name) or _MORE_OF_CANN.match(name)) and self.around.cann is not None:
            return f"{text}: {self.around.cann.name} does not have it"
        if _OF_TORCH.match(name) and self.around.torch is not None:
            return f"{text}: {self.around.torch.name} does not have it"
        return text


@cache
def demangled(name: str) -> str:
    """The C++ name of a symbol, or the symbol itself where it has none or libstdc++ is absent."""
    try:
        import cxxfilt

        return str(cxxfilt.demangle(name))
    except Exception:  # no C++ library here (cxxfilt.LibraryNotFound at import), or no mangled name
        return name


def _abi(symbols: Iterable[str]) -> Literal[0, 1] | None:
    """Which C++ ABI these functions of PyTorch have; None where there are none, or none that would tell."""
    seen = False
    for name in symbols:
        if _FUNCTION_OF_TORCH.match(name):
            if "__cxx11" in name:
                return 1
            seen = seen or "Ss" in name
    return 0 if seen else None


#: Who has versioned symbols that a policy judges.
_SYSTEM = re.compile(
    r"(lib(c|m|dl|rt|pthread|util|resolv|nsl|anl|mvec|stdc\+\+|gcc_s|atomic|z)|ld-linux[\w-]*)\.so\.\d+"
)
_TORCH_LIBRARIES = frozenset(
    f"lib{name}.so" for name in ("torch", "torch_cpu", "torch_python", "c10", "shm", "torch_global_deps", "caffe2")
)
#: Libraries of CANN that wheels of any era need.
_CANN_LIBRARIES = frozenset(
    f"lib{name}.so"
    for name in (
        "hccl", "ascendcl", "acl_op_compiler", "ge_runner", "graph", "acl_tdt_channel", "ascend_ml", "acl_dvpp",
        "graph_base", "gert", "ge_compiler", "register", "error_manager", "ge_common", "ge_common_base", "ge_executor",
        "fmk_parser", "runtime", "msprofiler", "ascendalog", "unified_dlog", "aml_fwk_detect", "exe_graph", "dcmi",
        "ascend_protobuf", "atb", "opapi", "nnopbase", "cust_opapi", "shmem",
    )
)  # fmt: skip
