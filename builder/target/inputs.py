"""What decides a wheel: the parts of a target's fingerprint, and how to speak of what changed in them.

All of it is known before anything is made, so that a plan and a build reach the same fingerprint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from builder.core.build_options import BuildOptions
from builder.environments.interface import EnvironmentRequest, Toolset
from builder.matrix.model import Target
from builder.matrix.repositories import SourceTable
from builder.matrix.toolchains import Compiler
from builder.sources.prepared_record import Origin
from builder.target import compile_spec
from builder.target.cann_toolkit import describe_cann
from builder.target.fingerprint import RECIPE_VERSION

#: Parts of a tree's origin that the tree's content follows from. How they were asked for does not matter.
_SOURCES = ("torch_npu", "submodules", "op_plugin", "patches", "custom_operators")
#: The part that changes what a wheel is called and nothing else; it is there where one was asked for.
VERSION_SUFFIX = "version_suffix"


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
    environment: Mapping[str, object],
    options: BuildOptions,
    *,
    changed_tree: str | None,
) -> dict[str, Any]:
    """Everything that can change the wheel of ``target``: the parts of its fingerprint, as JSON.

    ``origin`` is what its tree is made of, ``environment`` the identity of where it is
    compiled, ``changed_tree`` the digest of a tree that a person has changed.
    """
    toolchain, made_of = target.toolchain, origin.to_json()
    return {
        "recipe": RECIPE_VERSION,
        "target": target.id,
        "sources": {name: made_of[name] for name in _SOURCES},
        "changes_by_hand": changed_tree,
        "environment": dict(environment),
        "toolchain": {"gcc": toolchain.gcc_minor, "manylinux": toolchain.manylinux, "cxx11_abi": toolchain.cxx11_abi},
        "components": options.components,
        "variables": dict(target.release.environment),
        "cann": describe_cann(options.cann_home) if options.cann_home else None,
        **({"pch": True} if options.pch else {}),
        **({} if options.version_suffix is None else {VERSION_SUFFIX: options.version_suffix}),
    }


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
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
