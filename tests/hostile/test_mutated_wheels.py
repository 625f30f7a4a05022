"""Damaged wheels, and wheels around damaged libraries: a finding or a clear error each, in bounded memory and time."""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path

import pytest
from library_support import make_library
from mutation_support import Deck, damage
from wheel_support import ENTRY_POINTS, INFO, METADATA, make_wheel

from builder.core.errors import TargetError
from builder.core.untrusted import remove_tree
from builder.wheels.compare import differences, read_side
from builder.wheels.verify import judge

#: Wheels of each kind of damage, and the seed.
WHEELS = int(os.environ.get("BUILDER_MUTATED_WHEELS", "30"))
SEED = os.environ.get("BUILDER_FUZZ_SEED", "11")
#: Seconds and bytes that one wheel may take.
PATIENCE, MEMORY = 10, 512 << 20

SOURCE = """
#include <string>
namespace at { void empty(int); }
namespace c10 { void fail(const std::string& message); }
extern "C" int aclrtSetDevice(int);
void run(const std::string& message) { at::empty(aclrtSetDevice(0)); c10::fail(message); }
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_library(tmp_path_factory.mktemp("library") / "l.so", SOURCE, "-Wl,-z,now").read_bytes()


def _damaged(kind: str, number: int, library: bytes, folder: Path) -> Path:
    """A wheel with one damage: to the archive, to a library that RECORD knows so, or to a text that it knows so."""
    random = Deck(f"{SEED} {kind} {number}")
    if kind == "archive":
        wheel = make_wheel(folder, library=library)
        damage(random, wheel)
        return wheel
    member = folder / "member"
    if kind == "library":
        member.write_bytes(library)
        damage(random, member)
        return make_wheel(folder, library=_content(member))
    name, text = random.draw(
        (("METADATA", METADATA), ("entry_points.txt", ENTRY_POINTS), ("WHEEL", "Wheel-Version: 1.0\nTag: x-y-z\n"))
    )
    member.write_text(text)
    damage(random, member)
    return make_wheel(folder, library=library, replaced={f"{INFO}/{name}": _content(member)})


def _content(member: Path) -> bytes:
    """What damage has left of a member; nothing where it is no file any more, or one of gigabytes."""
    small = member.is_file() and member.stat().st_size <= 16 << 20
    return member.read_bytes() if small else b""


def _tried(kind: str, library: bytes, folder: Path) -> list[str]:
    """What went wrong: everything but findings, and errors that the builder has a word for."""
    whole = folder / "whole"
    whole.mkdir(parents=True)
    other = read_side(make_wheel(whole, library=library))
    wrong = []
    for number in range(WHEELS):
        place = folder / str(number)
        place.mkdir()
        wheel = _damaged(kind, number, library, place)
        signal.alarm(PATIENCE)
        try:
            judge(wheel)
            differences(other, read_side(wheel))
        except (TargetError, OSError):
            # OSError: damage may have made a folder or a pipe of it, which commands tell of as what it is.
            pass
        except BaseException as error:
            wrong.append(f"{kind} {number}: {type(error).__name__}: {error}")
        finally:
            signal.alarm(0)
    return wrong


@pytest.mark.parametrize("kind", ["archive", "library", "text"])
@pytest.mark.timeout(1800)
def test_damage_is_a_finding_or_a_clear_error(kind: str, library: bytes, tmp_path: Path) -> None:
    said = tmp_path / "said"
    child = os.fork()
    if child == 0:
        # In a process of its own: its memory has a limit, and nothing of pytest catches what escapes.
        code = 1
        try:
            size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
            signal.signal(signal.SIGALRM, _too_long)
            wrong = _tried(kind, library, tmp_path / "wheels")
            said.write_text("\n".join(wrong))
            code = 0
        except BaseException as error:
            said.write_text(f"{type(error).__name__}: {error}")
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    # Folders thousands deep are among the damage, more than pytest's own removal can take.
    remove_tree(tmp_path / "wheels")
    assert (os.waitstatus_to_exitcode(status), said.read_text()) == (0, "")


def _too_long(*_: object) -> None:
    raise AssertionError(f"it took more than {PATIENCE} seconds")
