"""What killed builders leave in the engine, and what can be made again: found and removed."""

from __future__ import annotations

from builder.environments.docker_engine import (
    LABEL,
    OWNER_LABEL,
    DockerEngine,
    NoEngine,
    engine_errors,
    find_engine,
    owner_lives,
    remove_container,
)
from builder.environments.images import REPOSITORY, SYSTEM_REPOSITORY


def remove_leftovers(engine: DockerEngine | None = None, *, images: bool = False) -> list[str]:
    """Remove containers and half-made images of builders that were killed; return what was removed.

    Those of builders that still run stay. ``images`` removes the finished build images too; base images
    stay. Without an engine there is nothing to remove.
    """
    if engine is None:
        found = find_engine()
        if isinstance(found, NoEngine):
            return []
        engine = found
    removed = []
    with engine_errors("removing leftovers"):
        for container in engine.client.containers.list(all=True, filters={"label": f"{LABEL}=1"}, ignore_removed=True):
            owner = container.labels.get(OWNER_LABEL, "")
            # Without an owner it has its labels from its image: somebody started it by hand.
            if owner and not owner_lives(owner):
                remove_container(container)
                removed.append(f"container {container.name}")
        # As the engine lists them: the SDK's own list asks for each image again, which may be gone by then.
        for image in engine.client.api.images(filters={"label": f"{LABEL}=1", "dangling": True}):
            if not owner_lives((image.get("Labels") or {}).get(OWNER_LABEL, "")):
                removed += _remove_image(engine, str(image["Id"]))
        for repository in (REPOSITORY, SYSTEM_REPOSITORY) if images else ():
            for image in engine.client.api.images(repository):
                for tag in image.get("RepoTags") or ():
                    removed += _remove_image(engine, tag)
    return removed


def _remove_image(engine: DockerEngine, name: str) -> list[str]:
    from docker.errors import APIError

    try:
        engine.client.images.remove(name)
    except APIError:
        # In use by a container or another image: its user removes it.
        return []
    return [f"image {name}"]
