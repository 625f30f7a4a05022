"""HTTP to one package index: its project pages, and archives of which only parts are fetched.

Settings are plain values: whoever knows pip's configuration hands them over.
"""

from __future__ import annotations

import errno
import hashlib
import lzma
import struct
import threading
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

from builder import __version__
from builder.core.errors import FailureKind, MachineError, RequestError, TargetError
from builder.core.redaction import without_credentials
from builder.core.retry import retrying

if TYPE_CHECKING:
    from pypi_simple import DistributionPackage
    from requests import Response, Session

#: Seconds before the second try; doubled for each further one, with some chance in it.
FIRST_WAIT = 1.0
LONGEST_WAIT = 30.0
#: Bytes that are copied at once.
CHUNK = 1 << 20

# Answers that may be others a moment later.
_PASSING = {408, 425, 429, 500, 502, 503, 504}
# What reading a file raises that is no whole zip file of readable members.
_BROKEN = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error,
    ValueError, OverflowError, RuntimeError,
)  # fmt: skip

_Result = TypeVar("_Result")


class NoRanges(Exception):  # noqa: N818 - a way of answering, not an error
    """The server sends whole files only."""


class _Stopped(Exception):  # noqa: N818 - internal
    pass


class _NotReached(Exception):  # noqa: N818 - internal
    """Why an answer did not come; ``passing`` when another try may get it."""

    def __init__(self, reason: str, *, passing: bool) -> None:
        super().__init__(reason)
        self.passing = passing


class IndexClient:
    """Fetches from one index, for several threads at once; ``fetched`` counts the bytes of all answers.

    The keys of ``proxies`` are variable names (``HTTPS_PROXY``, ``NO_PROXY``). Where ``ca_bundle`` or
    ``proxies`` are not given, requests' own rules hold. ``timeout`` is the longest silence in seconds,
    ``retries`` the number of further tries after a failure that may pass; ``warn`` is told of each.
    Raises RequestError for an index that HTTP cannot reach.
    """

    def __init__(
        self,
        index_url: str | None,
        *,
        ca_bundle: Path | None,
        proxies: Mapping[str, str] | None,
        timeout: float,
        retries: int,
        warn: Callable[[str], None] | None,
    ) -> None:
        from pypi_simple import PYPI_SIMPLE_ENDPOINT

        index = urlsplit(index_url or PYPI_SIMPLE_ENDPOINT)
        if index.scheme not in {"http", "https"} or not index.hostname:
            raise RequestError(
                f"the package index {shown(index.geturl())} is not an http or https URL",
                hint="released wheels are read over HTTP: name such an index in pip's settings",
            )
        self.fetched = 0
        self._endpoint = without_login(index.geturl()).rstrip("/")
        self._login = (unquote(index.username), unquote(index.password or "")) if index.username else None
        self._ca_bundle = ca_bundle
        self._proxies = dict(proxies) if proxies else None
        self._timeout = timeout
        self._retries = retries
        self._warn = warn
        self._lock = threading.Lock()

    def packages(self, project: str) -> list[DistributionPackage]:
        """The files on the page of ``project`` (its normalised name), in HTML or JSON.

        Raises TargetError: NETWORK when there is no answer, VERIFY when the answer is no page with files.
        """
        from pypi_simple import ACCEPT_JSON_PREFERRED, PyPISimple, UnexpectedRepoVersionWarning
        from pypi_simple.errors import UnsupportedRepoVersionError

        label = f"the index page of {project}"
        url = f"{self._endpoint}/{project}/"

        def once() -> list[DistributionPackage]:
            with self._session(url) as session, warnings.catch_warnings():
                # A newer minor version of the protocol adds fields and changes none.
                warnings.simplefilter("ignore", UnexpectedRepoVersionWarning)
                index = PyPISimple(self._endpoint, session=session, accept=ACCEPT_JSON_PREFERRED)
                try:
                    found = index.get_project_page(project, timeout=self._timeout).packages
                except UnsupportedRepoVersionError as error:
                    raise ValueError(str(error)) from error
                if not found:
                    # A login page or a proxy's notice must not pass for "nothing was ever released".
                    raise ValueError(f"{shown(url)} lists no files")
                return found

        return self.attempt(label, url, once)

    @contextmanager
    def archive(self, url: str) -> Iterator[zipfile.ZipFile]:
        """The zip file at ``url``, read by range requests. Raises NoRanges. Call it inside :meth:`attempt`."""
        from remotezip import RangeNotSupported, RemoteZip

        with self._session(url) as session:
            try:
                remote = RemoteZip(
                    url,
                    session=session,
                    fetcher=partial(_CountingFetcher, self._count),
                    timeout=self._timeout,
                    # Positions in the answer must be positions in the file.
                    headers={"Accept-Encoding": "identity"},
                )
            except RangeNotSupported as error:
                raise NoRanges from error
            # zipfile closes no stream that it was given.
            with closing(remote.fp), remote:
                yield remote

    def download(self, url: str, target: IO[bytes], stop: threading.Event | None = None) -> str:
        """Copy all of ``url`` to ``target``, and return its SHA-256. Call it inside :meth:`attempt`."""
        digest = hashlib.sha256()
        asked = {"Accept-Encoding": "identity"}
        with (
            self._session(url) as session,
            session.get(url, stream=True, timeout=self._timeout, headers=asked) as answer,
        ):
            for chunk in answer.iter_content(CHUNK):
                self._count(len(chunk))
                digest.update(chunk)
                target.write(chunk)
                go_on(stop)
        return digest.hexdigest()

    def attempt(
        self, label: str, url: str, once: Callable[[], _Result], stop: threading.Event | None = None
    ) -> _Result:
        """Call ``once``, again after failures that may pass; what is left becomes an error of the builder.

        TargetError NETWORK names ``label`` and ``url``, VERIFY names ``label`` and what is wrong with it;
        MachineError says that the disk cannot be written. ``stop``, once set, ends the work by an exception.
        """

        def tell(said: BaseException | None, coming: int, _wait: float) -> None:
            if self._warn is not None:
                self._warn(f"{label}: {said}; asking {shown(url)} again (try {coming})")

        def may_pass(error: BaseException) -> bool:
            return isinstance(error, _NotReached) and error.passing

        from tenacity import sleep_using_event

        asked = retrying(
            1 + self._retries,
            may_pass=may_pass,
            tell=tell,
            first_wait=FIRST_WAIT,
            longest_wait=LONGEST_WAIT,
            sleep=sleep_using_event(stop or threading.Event()),
        )
        try:
            result: _Result = asked(_judged, label, once, stop)
            return result
        except _NotReached as error:
            raise TargetError(
                f"{label} could not be fetched from {shown(url)}: {error}",
                kind=FailureKind.NETWORK,
                hint="check the network, the proxy and pip's index URL; the same command fetches only what is missing",
            ) from error
        except OSError as error:
            what = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
            place = f" ({error.filename})" if error.filename else ""
            raise MachineError(
                f"what was read of {label} could not be written: {what}{place}",
                hint="free some disk space, or correct the permissions of the cache folder",
            ) from error

    def _session(self, url: str) -> Session:
        """A session for ``url``; the index's login goes to the index's own host only."""
        import requests
        from requests.adapters import HTTPAdapter
        from requests.utils import should_bypass_proxies

        lock, bundle, variables = self._lock, self._ca_bundle, self._proxies

        class Transport(HTTPAdapter):
            """Settings enter here: a session prefers the environment to its own, and a redirect changes the host."""

            def send(self, request: Any, *args: Any, **settings: Any) -> Response:
                if bundle is not None:
                    settings["verify"] = str(bundle)
                if variables is not None:
                    with lock:  # It changes the environment for a moment.
                        direct = should_bypass_proxies(request.url, no_proxy=variables.get("NO_PROXY", ""))
                    settings["proxies"] = {} if direct else _by_scheme(variables)
                return super().send(request, *args, **settings)

        session = requests.Session()
        for scheme in ("https://", "http://"):
            session.mount(scheme, Transport())
        session.headers["User-Agent"] = f"torch-npu-builder/{__version__}"
        session.hooks["response"].append(self._answered)
        if urlsplit(url)[:2] == urlsplit(self._endpoint)[:2]:
            session.auth = self._login
        return session

    def _answered(self, answer: Response, *_: Any, **settings: Any) -> None:
        """Refuse an answer before its body is read; count it where nobody else does."""
        if answer.is_redirect:
            return
        if "Range" in answer.request.headers and answer.status_code in {200, 416}:
            answer.close()
            raise NoRanges
        if answer.status_code >= 400:
            answer.close()
            said = f"the server answers {answer.status_code} {answer.reason or ''}".rstrip()
            raise _NotReached(said, passing=answer.status_code in _PASSING)
        if not settings.get("stream"):
            self._count(len(answer.content))

    def _count(self, size: int) -> None:
        with self._lock:
            self.fetched += size


class _CountingFetcher:
    """remotezip's fetcher; the bytes of each range are told to ``count``."""

    def __init__(self, count: Callable[[int], None], *args: Any, **settings: Any) -> None:
        from remotezip import RemoteFetcher

        self._count = count
        self._fetcher = RemoteFetcher(*args, **settings)

    def fetch(self, data_range: tuple[int, int | None], stream: bool = False) -> Any:
        part = self._fetcher.fetch(data_range, stream)
        self._count(len(part))
        return part


def broken(label: str, what: str) -> TargetError:
    """The error for ``label`` whose content is wrong."""
    return TargetError(
        f"{label}: {what}",
        kind=FailureKind.VERIFY,
        hint="nothing is concluded from it: compare it with the same file on another index",
    )


def go_on(stop: threading.Event | None) -> None:
    """Leave the work by an exception when ``stop`` is set."""
    if stop is not None and stop.is_set():
        raise _Stopped


def shown(url: str) -> str:
    """``url`` for messages: without login and query, which may be secrets."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def without_login(url: str) -> str:
    """``url`` without user name and password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _by_scheme(variables: Mapping[str, str]) -> dict[str, str]:
    """``HTTPS_PROXY`` and its like as requests wants them: ``https``."""
    return {name.removesuffix("_PROXY").lower(): value for name, value in variables.items() if name != "NO_PROXY"}


def _judged(label: str, once: Callable[[], _Result], stop: threading.Event | None) -> _Result:
    """``once``, its exceptions sorted: not reached, or reached and broken."""
    import requests
    from remotezip import OutOfBound, RemoteIOError, RemoteZipError
    from requests.exceptions import InvalidJSONError
    from urllib3.exceptions import HTTPError

    go_on(stop)
    try:
        return once()
    except (InvalidJSONError, OutOfBound, *_BROKEN) as error:
        # Bad URLs are ValueErrors too, for requests.
        if isinstance(error, requests.RequestException) and not isinstance(error, InvalidJSONError):
            raise _NotReached(_reason(error), passing=False) from error
        raise broken(label, " ".join(str(error).split())[:300] or type(error).__name__) from error
    except RemoteZipError as error:
        # RemoteIOError holds the text of the exception that it replaces, not the exception.
        cause = error.__context__ if isinstance(error, RemoteIOError) and error.__context__ else error
        raise _NotReached(_reason(cause), passing=_may_pass(cause)) from error
    except (requests.RequestException, HTTPError, EOFError) as error:
        raise _NotReached(_reason(error), passing=_may_pass(error)) from error


def _may_pass(error: BaseException) -> bool:
    """True for failures of the moment: no connection, no answer in time, an answer that broke off."""
    import requests
    from urllib3.exceptions import HTTPError

    moment = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError, HTTPError, EOFError)
    return isinstance(error, moment) and "certificate" not in str(error).lower()


def _reason(error: BaseException) -> str:
    """The innermost text of an exception of requests or urllib3, without logins."""
    while True:
        inner = [part for part in (getattr(error, "reason", None), *error.args) if isinstance(part, BaseException)]
        if not inner:
            break
        error = inner[0]
    if isinstance(error, EOFError):
        return "the answer ended early"
    return without_credentials(str(error).strip() or type(error).__name__)
