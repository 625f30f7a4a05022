"""What decides a wheel: the parts of a target's fingerprint, and how to speak of what changed in them.

All of it is known before anything is made, so that a plan and a build reach the same fingerprint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import JsonValue

from builder.core.build_options import BuildOptions
from builder.environments.interface import EnvironmentRequest, Toolset
from builder.matrix.model import Target
from builder.matrix.repositories import SourceTable
from builder.matrix.toolchains import Compiler
from builder.sources.prepared_record import Origin, Sources
from builder.target import compile_spec
from builder.target.cann_toolkit import describe_cann
from builder.target.fingerprint import RECIPE_VERSION, fingerprint

#: The part that changes what a wheel is called and nothing else; it is there where one was asked for.
VERSION_SUFFIX = "version_suffix"


@dataclass(frozen=True)
class ToolchainInputs:
    """What compiles: the line of gcc (``9.3``), the manylinux policy, the ABI of the C++ library (0 or 1)."""

    gcc: str
    manylinux: str
    cxx11_abi: int


@dataclass(frozen=True)
class Inputs:
    """Everything that can change a wheel: the parts of its fingerprint.

    ``changes_by_hand`` is the digest of a tree that a person has changed, ``environment`` the identity of where it is
    compiled, ``variables`` those of the release line, ``cann`` what the toolkit is. What a record or a lock holds stays
    JSON: another version of the builder may have written other parts, and they are compared as they are.
    """

    recipe: int
    target: str
    sources: Sources
    changes_by_hand: str | None
    environment: Mapping[str, JsonValue]
    toolchain: ToolchainInputs
    components: str
    variables: Mapping[str, str]
    cann: Mapping[str, str] | None
    pch: bool = False
    version_suffix: str | None = None

    @property
    def fingerprint(self) -> str:
        """SHA-256 in hexadecimal over all of them."""
        return fingerprint(self.to_json())

    def to_json(self) -> dict[str, JsonValue]:
        """As in a record and in a lock; what most builds do not ask for is left out where it was not."""
        return {
            "recipe": self.recipe,
            "target": self.target,
            "sources": self.sources.to_json(),
            "changes_by_hand": self.changes_by_hand,
            "environment": dict(self.environment),
            "toolchain": dict(asdict(self.toolchain)),
            "components": self.components,
            "variables": dict(self.variables),
            "cann": None if self.cann is None else dict(self.cann),
            **({"pch": True} if self.pch else {}),
            **({} if self.version_suffix is None else {VERSION_SUFFIX: self.version_suffix}),
        }


def environment_request(
    target: Target, options: BuildOptions, sources: SourceTable | None = None
) -> EnvironmentRequest:
    """What the target's matrix row and the options ask of an environment; ``sources`` knows mirrors of registries."""
    base_image = options.base_image or target.toolchain.base_image
    release, toolchain = target.release, target.toolchain
    source = options.torch_source or (
        "find-links" if any(_holds_torch(folder) for folder in options.find_links) else target.torch_index
    )
    return EnvironmentRequest(
        arch=target.arch,
        python=target.python,
        torch=release.pytorch,
        torch_source=source,
        requirements=release.requirements_for(target.python),
        base_image=base_image,
        base_image_digest=None if options.base_image else toolchain.base_image_digest,
        gcc=toolchain.gcc,
        find_links=options.find_links,
        torch_local=target.torch_local if source == "cpu-index" else "",
        # Each index has wheels of its own; who brings one means another than either.
        torch_hashes=release.torch.hashes(source, target.arch, target.python),
        toolsets=toolsets(target.compiler),
        image_mirrors=sources.image_mirrors(base_image) if sources is not None else (),
        base_made_by=_made_by(target),
    )


def _made_by(target: Target) -> str:
    """What makes a base image for ``target`` from Debian's packages; empty where nothing does."""
    made = compile_spec.debian_base(target, target.compiler) if target.compiler is not None else None
    if made is None:
        return ""
    # Debian's C library is newer than every policy of the matrix.
    newer = f"--allow-toolchain-mismatch, as its C library is too new for {target.toolchain.manylinux}"
    return f"'{made[0]}' makes one; build with --base-image {made[1]} and {newer}"


def toolsets(compiler: Compiler | None) -> tuple[Toolset, ...]:
    """Where a package holds this line of gcc: each distribution, by its /etc/os-release, with the package."""
    return tuple(
        Toolset(os_id, provider.base.version, provider.package)
        for provider in (compiler.providers if compiler else ())
        if provider.package is not None
        for os_id in provider.base.ids
    )


def inputs_of(
    target: Target,
    origin: Origin,
    environment: Mapping[str, JsonValue],
    options: BuildOptions,
    *,
    changed_tree: str | None,
) -> Inputs:
    """Everything that can change the wheel of ``target``: the parts of its fingerprint.

    ``origin`` is what its tree is made of, ``environment`` the identity of where it is
    compiled, ``changed_tree`` the digest of a tree that a person has changed.
    """
    toolchain = target.toolchain
    return Inputs(
        recipe=RECIPE_VERSION,
        target=target.id,
        sources=origin.sources,
        changes_by_hand=changed_tree,
        environment=environment,
        toolchain=ToolchainInputs(toolchain.gcc_minor, toolchain.manylinux, toolchain.cxx11_abi),
        components=options.components,
        variables=target.release.environment,
        cann=describe_cann(options.cann_home) if options.cann_home else None,
        pch=options.pch,
        version_suffix=options.version_suffix,
    )


def differences(
    before: Mapping[str, JsonValue], after: Mapping[str, JsonValue]
) -> Iterator[tuple[str, JsonValue, JsonValue]]:
    """Each part that differs: its name (``sources.torch_npu``), what it was and what it is."""
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            for part, was, now in differences(old, new):
                yield f"{name}.{part}", was, now
        else:
            yield name, old, new


def _holds_torch(folder: Any) -> bool:
    """True where a folder holds PyTorch itself, and not only other packages."""
    return any(file.name.startswith("torch-") for file in folder.iterdir())
