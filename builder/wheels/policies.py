"""What a manylinux tag promises of the system: auditwheel's own tables, which it repairs wheels by.

https://peps.python.org/pep-0600/
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache


@dataclass(frozen=True)
class Policy:
    """One tag: the system's libraries that a wheel may need, and the versions of symbols that they have."""

    name: str
    libraries: frozenset[str] = field(repr=False)
    versions: frozenset[str] = field(repr=False)

    def allows(self, library: str) -> bool:
        """True for a library that the system of this policy has."""
        return library in self.libraries or library.startswith("ld-linux")

    def has(self, version: str) -> bool:
        """True where the system's libraries have that version (``GLIBC_2.17``) of their symbols."""
        family, _, number = version.partition("_")
        return (
            not number or version in self.versions or not any(known.startswith(f"{family}_") for known in self.versions)
        )


def policy_of(platforms: frozenset[str], arch: str) -> Policy | None:
    """The strictest policy among a wheel's platform tags; None where none of them is a manylinux tag that is known."""
    found = [policy for policy in _policies(arch) if policy[1] & platforms]
    return found[0][2] if found else None


@cache
def _policies(arch: str) -> tuple[tuple[int, frozenset[str], Policy], ...]:
    """All of one architecture, the oldest system first: rank, the names of its tag, and what it allows."""
    from auditwheel.architecture import Architecture
    from auditwheel.libc import Libc
    from auditwheel.policy import WheelPolicies

    known = WheelPolicies(libc=Libc.GLIBC, arch=Architecture(arch))
    found = []
    for policy in known:
        if policy.name.startswith("manylinux"):
            versions = frozenset(
                f"{family}_{number}" for family, all_ in policy.symbol_versions.items() for number in all_
            )
            names = frozenset({policy.name, *policy.aliases})
            found.append((policy.priority, names, Policy(policy.name, frozenset(policy.whitelist), versions)))
    return tuple(sorted(found, key=lambda item: -item[0]))
