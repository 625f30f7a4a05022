"""Where sources come from: each repository's hosts in order, and every URL by which it is known."""

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from builder.core.errors import RequestError
from builder.core.redaction import holds_password
from builder.core.workspace import expanded
from builder.matrix import patterns

Registry = Annotated[str, Field(pattern=patterns.REGISTRY, max_length=200)]
ImagePlace = Annotated[str, Field(pattern=patterns.IMAGE_PLACE, max_length=200)]
Url = Annotated[str, Field(pattern=patterns.URL, max_length=1000)]

_REMOTE = re.compile(r"(?:[a-z][a-z0-9+.-]*://|[A-Za-z0-9._]+@[A-Za-z0-9][A-Za-z0-9.-]*:)", re.IGNORECASE)
_PASSWORD = re.compile(r"[a-z][a-z0-9+.-]*://[^/@]*:[^/@]*@", re.IGNORECASE)


def is_remote(text: str) -> bool:
    """True for a URL or ``user@host:path``; False for a local path."""
    return _REMOTE.match(text) is not None


def normalised(url: str) -> str:
    """``host/path`` of a git URL, so that spellings of one repository compare equal.

    Scheme, user, port, case, a trailing slash and ``.git`` do not count. A local path keeps its case.
    """
    text = url.strip()
    local = not is_remote(text)
    if text.lower().startswith("file://"):
        text, local = text[len("file://") :], True
    elif not local and "://" in text:
        host, _, path = text.split("://", 1)[1].partition("/")
        text = re.sub(r":\d+$", "", host.rpartition("@")[2]) + "/" + path
    elif not local:
        host, _, path = text.partition(":")
        text = host.rpartition("@")[2] + "/" + path.lstrip("/")
    text = re.sub(r"/{2,}", "/", text).rstrip("/")
    text = re.sub(r"\.git$", "", text, flags=re.IGNORECASE).rstrip("/")
    return text if local else text.lower()


def resolved(url: str, base: Path) -> str:
    """``url`` as given when it is remote, else the absolute path it means, relative to the folder ``base``."""
    return url if is_remote(url) else os.path.normpath(base / expanded(url))


class Repository(BaseModel):
    """One upstream repository: URLs in the order in which hosts are tried, and other names of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    urls: tuple[Url, ...] = Field(min_length=1, description="Tried in this order")
    aliases: tuple[Url, ...] = Field(default=(), description="More URLs by which .gitmodules may name it")

    @field_validator("urls", "aliases")
    @classmethod
    def _no_secret(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for url in value:
            if holds_password(url):
                # Not quoted: error messages end in logs. The loader hides the value for this type.
                raise PydanticCustomError(
                    "secret", "a URL without a password (use a git credential helper or an ssh key)"
                )
        return value

    def replaced(self, urls: tuple[str, ...], aliases: tuple[str, ...] = ()) -> "Repository":
        """The same repository fetched from ``urls``; what it was called before stays known."""
        known = dict.fromkeys((*self.urls, *self.aliases, *aliases))
        return Repository(urls=urls, aliases=tuple(url for url in known if url not in urls))


class SourceTable(BaseModel):
    """``sources.yaml``: repositories by the short names that release lines use, and mirrors of image registries."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    repositories: Mapping[Annotated[str, Field(pattern=patterns.NAME, max_length=60)], Repository] = {}
    registries: Mapping[Registry, tuple[ImagePlace, ...]] = Field(
        default={}, description="Places that have a registry's images, tried in this order before the registry itself"
    )

    @model_validator(mode="after")
    def _one_owner_of_each_url(self) -> "SourceTable":
        owners: dict[str, str] = {}
        for name, repository in self.repositories.items():
            for url in (*repository.urls, *repository.aliases):
                owner = owners.setdefault(normalised(url), name)
                if owner != name:
                    raise PydanticCustomError(
                        "rule", "{reason}", {"reason": f"each URL under one repository; {url} is of {owner} and {name}"}
                    )
        return self

    def find(self, url: str) -> str | None:
        """The short name of the repository that ``url`` means, whatever its spelling; None where unknown."""
        wanted = normalised(url)
        for name, repository in self.repositories.items():
            if any(normalised(known) == wanted for known in (*repository.urls, *repository.aliases)):
                return name
        return None

    def urls(self, name: str) -> tuple[str, ...]:
        """URLs of a repository in the order in which to try them. Raises RequestError for an unknown name."""
        return self._repository(name).urls

    def with_override(self, name: str, url_or_path: str) -> "SourceTable":
        """This table with ``name`` fetched from one URL or local folder (relative to the current one) only.

        Raises RequestError for an unknown name, and for what is neither a URL nor an existing folder.
        """
        repository = self._repository(name)
        if not is_remote(url_or_path):
            path = expanded(url_or_path)
            if url_or_path.startswith("-") or not url_or_path or not path.exists():
                raise RequestError(
                    f"the source given for {name} is neither a URL nor an existing folder: {url_or_path!r}",
                    hint="give https://..., ssh://..., file:///... or the path of a local repository",
                )
            url_or_path = str(path.absolute())
        if re.fullmatch(patterns.URL, url_or_path) is None:
            raise RequestError(
                f"the source given for {name} is not usable: {url_or_path!r}",
                hint=f"expected {patterns.EXPECTED[patterns.URL]}",
            )
        if holds_password(url_or_path):
            raise RequestError(
                f"the URL given for {name} holds a password, which would end in logs and records",
                hint="use a git credential helper or an ssh key, and a URL without password",
            )
        return _table({**self.repositories, name: repository.replaced((url_or_path,))}, self.registries)

    def with_image_mirrors(self, mirrors: Iterable[str]) -> "SourceTable":
        """This table with places of images given as ``REGISTRY=PLACE``, which are asked before those that it has.

        Raises RequestError for what has another form.
        """
        given: dict[str, tuple[str, ...]] = {}
        for mirror in mirrors:
            registry, equals, place = mirror.partition("=")
            for text, form in ((registry, patterns.REGISTRY), (place, patterns.IMAGE_PLACE)):
                if not equals or re.fullmatch(form, text) is None:
                    raise RequestError(
                        f"--image-mirror: {mirror!r} is not usable",
                        hint="expected REGISTRY=PLACE, such as quay.io=harbor.example.org/quay",
                    )
            given[registry] = (*given.get(registry, ()), place)
        known = {name: (*given.get(name, ()), *self.registries.get(name, ())) for name in {**self.registries, **given}}
        return _table(self.repositories, known)

    def image_mirrors(self, reference: str) -> tuple[str, ...]:
        """Other references of the image that ``reference`` means, in the order in which they are asked.

        A reference without a registry means Docker Hub, ``docker.io``, where names of one part are in ``library``:
        https://pkg.go.dev/github.com/distribution/reference
        """
        first, slash, rest = reference.partition("/")
        if not slash or not (re.search(r"[.:]", first) or first == "localhost"):
            first, rest = "docker.io", reference if slash else f"library/{reference}"
        return tuple(f"{place}/{rest}" for place in self.registries.get(first, ()))

    def merged(self, other: "SourceTable") -> "SourceTable":
        """This table with the repositories of ``other`` fetched from ``other``'s URLs, and its new ones added.

        Raises RequestError when one URL would then mean two repositories.
        """
        repositories = dict(self.repositories)
        for name, theirs in other.repositories.items():
            ours = repositories.get(name)
            repositories[name] = ours.replaced(theirs.urls, theirs.aliases) if ours else theirs
        return _table(repositories, {**self.registries, **other.registries})

    def relative_to(self, base: Path) -> "SourceTable":
        """This table with relative local paths made absolute against the folder ``base``."""
        known = (url for repository in self.repositories.values() for url in (*repository.urls, *repository.aliases))
        if all(map(is_remote, known)):
            return self
        return SourceTable(
            repositories={
                name: Repository(
                    urls=tuple(resolved(url, base) for url in repository.urls),
                    aliases=tuple(resolved(url, base) for url in repository.aliases),
                )
                for name, repository in self.repositories.items()
            },
            registries=self.registries,
        )

    def _repository(self, name: str) -> "Repository":
        if name not in self.repositories:
            near = difflib.get_close_matches(name, self.repositories, n=1)
            raise RequestError(
                f"no repository is called {name!r}",
                hint=f"did you mean {near[0]}?" if near else f"known: {', '.join(self.repositories)}",
            )
        return self.repositories[name]


def _table(repositories: Mapping[str, Repository], registries: Mapping[str, tuple[str, ...]]) -> "SourceTable":
    try:
        return SourceTable(repositories=repositories, registries=registries)
    except ValidationError as error:
        raise RequestError(
            f"the sources do not fit together: expected {error.errors()[0]['msg']}",
            hint="give each repository a URL of its own",
        ) from None
