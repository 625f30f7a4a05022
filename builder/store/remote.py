"""A store behind any URL that fsspec supports: ``s3://``, ``gs://``, ``sftp://``, ``memory://``, ..."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from builder.core.errors import RequestError
from builder.store.errors import explain, lacks_package
from builder.store.interface import CHUNK, Entry, Store

# Here folders are only parts of names. Asking for one could make a bucket, and a misspelt bucket is an error.
_WITHOUT_FOLDERS = {
    "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci", "obs", "tos", "cos", "memory",
}  # fmt: skip


class RemoteStore(Store):
    """Files below a URL. Options and credentials come from where the scheme's package looks for them."""

    def __init__(self, url: str) -> None:
        super().__init__(url.rstrip("/") if not url.endswith("://") else url)
        scheme = url.partition("://")[0].lower()
        try:
            # Untyped and optional: imported by name.
            fsspec = import_module("fsspec")
            core = import_module("fsspec.core")
            if scheme not in fsspec.available_protocols():
                raise RequestError(
                    f"no kind of store is called {scheme!r} ({self.url})",
                    hint="known are a folder, s3://, gs://, abfs://, sftp:// and what else fsspec lists",
                )
            self._fs: Any
            self._fs, base = core.url_to_fs(url)
        except ImportError as error:
            raise lacks_package(error, self.url) from None
        except RequestError:
            raise
        except Exception as error:
            if (found := explain(error, self.url, "to open it")) is not None:
                raise found from None
            raise
        self._base = str(base).rstrip("/")
        self._has_folders = scheme not in _WITHOUT_FOLDERS
        # A mv of its own is one rename; the inherited one is a copy that ends in a removal, which for
        # object stores is as good: a copy there appears whole or not at all.
        generic = import_module("fsspec.spec").AbstractFileSystem
        self._renames = type(self._fs).mv is not generic.mv

    def _path(self, name: str) -> str:
        return f"{self._base}/{name}" if name else self._base

    def _fresh(self) -> Any:
        """Return the file system after clearing its cache of listings, because other builders write there too.

        https://filesystem-spec.readthedocs.io/en/latest/features.html
        """
        self._fs.invalidate_cache()
        return self._fs

    def _upload(self, local: Path, name: str) -> None:
        self._make(name)
        self._fs.put_file(str(local), self._path(name))

    def _upload_bytes(self, data: bytes, name: str) -> None:
        self._make(name)
        self._fs.pipe_file(self._path(name), data)

    def _make(self, name: str) -> None:
        if self._has_folders:
            self._fresh().makedirs(self._path(name).rpartition("/")[0], exist_ok=True)

    def _publish(self, hidden: str, name: str, *, replace: bool) -> None:
        source, target = self._path(hidden), self._path(name)
        if not replace and self._size(name) is not None:
            raise FileExistsError(name)
        if self._renames:
            self._fs.mv(source, target)
        else:
            self._fs.cp_file(source, target)
            self._remove(hidden)

    def _chunks(self, name: str) -> Iterator[bytes]:
        size = self._size(name)
        if size is None or size < 0:
            raise FileNotFoundError(name)
        for start in range(0, size, CHUNK):
            yield self._fs.cat_file(self._path(name), start=start, end=min(start + CHUNK, size))

    def _size(self, name: str) -> int | None:
        try:
            found = self._fresh().info(self._path(name))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return int(found["size"]) if found["type"] == "file" and not found.get("islink") else -1

    def _entries(self, folder: str) -> list[Entry]:
        path = self._path(folder)
        try:
            found = self._fresh().ls(path, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        entries = []
        for item in found:
            last = str(item["name"]).rstrip("/").rpartition("/")[2]
            # Some object stores list an empty object for the folder itself.
            itself = str(item["name"]).strip("/") == path.strip("/")
            if itself or not last or item.get("islink") or item["type"] not in ("file", "directory"):
                continue
            folder_too = item["type"] == "directory"
            entries.append(Entry(last, folder_too, 0 if folder_too else int(item.get("size") or 0)))
        return entries

    def _remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._fs.rm_file(self._path(name))

    def _remove_folder(self, name: str, last: str) -> None:
        path = self._path(name)
        for file in self._fresh().find(path):
            if str(file).strip("/") != f"{path}/{last}".strip("/"):
                self._fs.rm_file(file)
        self._remove(f"{name}/{last}")
        if self._fresh().exists(path):
            # Only empty folders are left; object stores have none.
            self._fs.rm(path, recursive=True)

    def locked(self, name: str) -> AbstractContextManager[None]:
        """Return a context that locks nothing: object stores have no locks."""
        return nullcontext()

    def point(self, name: str, target: str) -> None:
        """Do nothing: object stores have no links."""
