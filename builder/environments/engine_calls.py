"""Calls to the container engine that end well or in a message: patience, liveness, and what is asked afterwards."""

from __future__ import annotations

import re
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as NotYetError
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from builder.core.cancellation import begin, patience, registered
from builder.core.errors import FailureKind, MachineError, TargetError
from builder.environments.engine_search import (
    DockerEngine,
    answers,
    ask_again,
    is_away,
    known_engines,
    left_behind,
    went_away,
)
from builder.environments.ownership import LABEL

T = TypeVar("T")

#: Seconds between two pings while something else is waited for.
PULSE = 20.0
#: How many pings in a row stay unanswered, each for 10 s, until an engine has gone away: a machine can be that busy.
TRIES = 3
#: Seconds that an engine gets to show an image whose commit it did not answer: ending one of several GB takes as long.
GRACE = 90.0

#: What an engine says that could not give a container its network: no fault of what was to run in it.
_NO_NETWORK = re.compile(r"failed to (?:create endpoint|set up container networking)", re.IGNORECASE)


#: What engines say of a folder that is to be mounted and that they do not see: Docker, Docker Desktop, podman.
_NOT_SEEN = re.compile(
    r"bind source path does not exist|mounts denied|is not shared from the host|(?:l?stat|statfs) \S+: no such file",
    re.IGNORECASE,
)


class GoneError(ConnectionError):
    """The engine did not answer pings while it was waited for."""


def is_own_fault(said: str) -> bool:
    """True where an engine's message is about the engine itself, whatever it was asked to do."""
    return _NO_NETWORK.search(said) is not None


@contextmanager
def engine_errors(
    doing: str, *, kind: FailureKind = FailureKind.ENGINE, engine: DockerEngine | None = None
) -> Iterator[None]:
    """Turn whatever the SDK raises inside the block into one TargetError; a refusal for the engine's own reasons and a
    lost connection are of kind ENGINE, any other one of ``kind``.

    After a lost connection ``engine``, or whichever this process uses, is asked whether it really went away.
    """
    import requests
    from docker.errors import APIError, DockerException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except APIError as error:
        text = str(error.explanation or error)
        if _NOT_SEEN.search(text):
            temporary = tempfile.gettempdir()
            if re.search(rf"(?<![\w/]){re.escape(temporary)}/", text):
                raise MachineError(
                    f"the container engine does not see {temporary}, or has one of its own ({text})",
                    hint="set TMPDIR to a folder that it sees, such as one beside the workspace",
                ) from error
            raise MachineError(
                f"the container engine does not see this machine's folders ({text})",
                hint="builds mount folders of the workspace and of TMPDIR into containers: use an engine of this "
                "machine and folders that it sees; 'doctor' tells which it does not",
            ) from error
        if "no space left on device" in text:
            raise TargetError(f"{doing}: the engine's disk is full ({text})", kind=FailureKind.DISK) from error
        kind = FailureKind.ENGINE if is_own_fault(text) else kind
        raise TargetError(f"{doing}: the container engine refused: {text}", kind=kind) from error
    except (requests.RequestException, HTTPError, ConnectionError) as error:
        ask_again()
        raise TargetError(f"{doing}: {_lost(error, engine)}", kind=FailureKind.ENGINE) from error
    except DockerException as error:
        # Of the SDK itself: a setting that it cannot use, an answer that it does not understand.
        raise TargetError(f"{doing}: {error}", kind=kind) from error


def _lost(error: Exception, engine: DockerEngine | None) -> str:
    """What to say of a call without an answer: whether the engine went away is asked, not guessed."""
    import requests

    engines = known_engines() if engine is None else [engine]
    if isinstance(error, GoneError) or not engines or not all(one.answers(tries=2) for one in engines):
        return f"the container engine went away ({error})"
    if isinstance(error, requests.Timeout):
        return f"the container engine answers, but gave {error}"
    return f"the connection to the container engine broke off ({error}); it answers again"


@contextmanager
def watched(engine: DockerEngine, stop: Callable[[], object]) -> Iterator[None]:
    """A block that waits for ``engine`` without limit: it is pinged meanwhile, by another connection.

    Where it answers no more, ``stop`` is called (from another thread: it has to end the waiting), and the block
    ends in GoneError.
    """
    over, gone = threading.Event(), threading.Event()

    def watch() -> None:
        while not over.wait(PULSE):
            if not engine.answers(tries=TRIES) and not over.is_set():
                went_away(engine)
                gone.set()
                stop()
                return

    threading.Thread(target=watch, name=f"{threading.current_thread().name} pings", daemon=True).start()
    try:
        yield
    except Exception as error:
        if gone.is_set():
            raise GoneError("it answers no ping") from error
        raise
    finally:
        over.set()
    if gone.is_set():
        raise GoneError("it answers no ping")


def patiently(engine: DockerEngine, what: str, call: Callable[[], T], limit: float | None) -> T:
    """What ``call`` returns or raises, waited for at most ``limit`` seconds; None: as long as ``engine`` answers pings.

    Raises requests.ReadTimeout, GoneError, and KeyboardInterrupt where the waiting is ended. A call that is waited
    for no longer goes on in a thread of its own, as the SDK has no way to end it; it must not change anything here.
    """
    import requests

    answer: Future[T] = Future()
    with registered(answer.cancel, f"the engine: {what}"):
        begin(call, answer)
        gone = threading.Event()

        def stop() -> None:
            gone.set()
            answer.cancel()

        try:
            with watched(engine, stop):
                return answer.result(limit)
        except NotYetError:
            if answer.done():
                raise
            raise requests.ReadTimeout(f"no answer to {what} within {limit:g} s") from None
        except CancelledError:
            raise KeyboardInterrupt from None


def commit(
    engine: DockerEngine, container: Any, repository: str, tag: str, changes: Sequence[str], limit: float | None
) -> None:
    """Make the image ``repository:tag`` of ``container``, which is not paused, with ``changes`` (Dockerfile lines).

    ``limit`` is of the whole, in seconds; None: as long as the engine answers pings. A call that was not answered,
    or whose connection broke, is no failure while the engine is there: it may be at work, and the image is looked for
    before anything is made again. Raises what ``engine_errors`` turns into a message.
    """
    import requests
    from docker.errors import APIError, NotFound
    from urllib3.exceptions import HTTPError

    identity = str(getattr(container, "id", container))
    until = float("inf") if limit is None else time.monotonic() + limit
    # The image of this very commit, not one that had the name before.
    mark = secrets.token_hex(8)
    lines = [*changes, f"LABEL {LABEL}.commit={mark}"]
    again = True
    while True:
        rest_of_limit = None if limit is None else max(1.0, until - time.monotonic())
        api = engine.patient(limit).api
        try:
            patiently(
                engine,
                f"the commit of {repository}:{tag}",
                lambda: api.commit(identity, repository, tag, changes=lines, pause=False),  # noqa: B023 - called at once
                rest_of_limit,
            )
            return
        except (GoneError, APIError):
            raise
        except (requests.RequestException, HTTPError, ConnectionError) as error:
            if not engine.answers(tries=TRIES):
                raise
            if _appears(engine, f"{repository}:{tag}", mark):
                return
            # One that broke off may have been given up by the engine; one that took all of its time is not repeated.
            if isinstance(error, requests.Timeout) or not again or time.monotonic() > until:
                raise
            again = False
            try:
                engine.client.api.inspect_container(identity)
            except NotFound:
                raise error from None


def _appears(engine: DockerEngine, name: str, mark: str) -> bool:
    """Whether the image of that commit is there by now, or in a while."""
    # Of a missing image podman speaks in other words than those that the SDK's ImageNotFound knows.
    from docker.errors import NotFound

    until = time.monotonic() + GRACE
    with patience() as rest:
        while True:
            with suppress(NotFound):
                attrs = engine.client.images.get(name).attrs
                if ((attrs.get("Config") or {}).get("Labels") or {}).get(f"{LABEL}.commit") == mark:
                    return True
            if time.monotonic() > until:
                return False
            rest(1.0)


@contextmanager
def listening() -> Iterator[Callable[[], object]]:
    """A block that reads the streamed answer which this thread has just been given, which another thread can end.

    It is given what ends the reading.

    However the block ends, the connection is closed: an engine gives up a build that nobody listens to.
    """
    response = answers.response

    def stop() -> None:
        # Read to its end meanwhile, or of a transport that has nothing to shut down.
        with suppress(OSError, ValueError, RuntimeError, AttributeError):
            response.raw.shutdown()

    try:
        with registered(stop, "the engine"):
            yield stop
    finally:
        response.close()


def remove_container(container: Any, patience: float = 10.0) -> None:
    """Remove a container whatever its state; gone already is fine.

    Another thread may be removing it: then this waits (at most ``patience`` seconds) until it is gone.
    Where the engine went away it is removed when that is found again.
    """
    import requests
    from docker.errors import APIError, DockerException, NotFound

    if is_away(container.client):
        left_behind(container)
        return
    until = time.monotonic() + patience
    try:
        while time.monotonic() < until:
            try:
                container.remove(force=True, v=True)
            except NotFound:
                return
            except APIError:
                # "Removal is already in progress": asked again, it ends in NotFound.
                time.sleep(0.05)
    except (DockerException, requests.RequestException):
        left_behind(container)


@contextmanager
def streamed(raw: Any, engine: DockerEngine | None = None) -> Iterator[Iterator[bytes]]:
    """The output on a socket that the SDK attached to a container or exec without terminal.

    With ``engine`` the block ends in GoneError when that answers no more. The SDK leaves such sockets to the garbage
    collector; a build makes many.
    """
    from docker.utils.socket import frames_iter

    try:
        output = (data for _, data in frames_iter(raw, tty=False))  # type: ignore[no-untyped-call]
        if engine is None:
            yield output
        else:
            with watched(engine, lambda: hang_up(raw)):
                yield output
    finally:
        close_attached(raw)


def hang_up(raw: Any) -> None:
    """End the waiting of whoever reads from an attached socket: it reads its end."""
    with suppress(OSError, AttributeError):
        getattr(raw, "_sock", raw).shutdown(socket.SHUT_RDWR)


def close_attached(raw: Any) -> None:
    """Close a socket of ``attach_socket`` or ``exec_start`` with all that it stands on."""
    under, response = getattr(raw, "_sock", None), getattr(raw, "_response", None)
    # The response first: it flushes what the socket still holds.
    for part in (response, raw, under):
        if part is not None:
            with suppress(OSError, ValueError):
                part.close()
