"""Which headers a source includes first, and how much text they bring with them.

Runs inside environments, on Python 3.7 and later, without packages.
"""

from __future__ import annotations

import os
import re

_COMMENT = r"/\*(?:[^*]|\*(?!/))*\*/"
_SPACE = rf"(?:[ \t\r\f\v]|{_COMMENT})*"
#: Blank lines and comments.
_NOTHING = re.compile(rf"(?:[ \t\r\n\f\v]|{_COMMENT}|//(?:\\[ \t\r]*\n|[^\n])*)*")
#: One include, to the end of its line; a comment that goes on after the line's end belongs to the line.
_INCLUDE = re.compile(rf'#{_SPACE}include{_SPACE}("[^"\\\n]+"|<[^>\\\n]+>){_SPACE}(?://[^\\\n]*)?(?:\n|\Z)')
_ANY_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*("[^"\n]+"|<[^>\n]+>)', re.MULTILINE)
_ONCE = re.compile(r"#[ \t]*pragma[ \t]+once\b")
_GUARD = re.compile(
    r"#[ \t]*(?:ifndef[ \t]+(\w+)|if[ \t]+![ \t]*defined[ \t]*\(?[ \t]*(\w+)[ \t]*\)?)"
    r"[ \t\r]*(?://[^\n]*|/\*[^\n]*\*/[ \t\r]*)?\n"
)
_CONDITION = re.compile(r"^[ \t]*#[ \t]*(if|ifdef|ifndef|endif|else|elif)\b", re.MULTILINE)


def leading_includes(text: str) -> list[tuple[str, int]]:
    """The includes with which a source begins, as they are spelt, and their lines; anything but comments ends them."""
    found: list[tuple[str, int]] = []
    at = 0
    while True:
        start = _NOTHING.match(text, at)
        at = start.end() if start else at
        match = _INCLUDE.match(text, at)
        if match is None:
            return found
        found.append((match.group(1), text.count("\n", 0, match.start(1)) + 1))
        at = match.end()


def is_guarded(text: str) -> bool:
    """True where including a header a second time adds nothing, whatever was defined meanwhile."""
    start = _NOTHING.match(text)
    at = start.end() if start else 0
    if _ONCE.match(text, at):
        return True
    guard = _GUARD.match(text, at)
    if guard is None:
        return False
    name = guard.group(1) or guard.group(2)
    after = _NOTHING.match(text, guard.end())
    if not re.compile(rf"#[ \t]*define[ \t]+{name}\b").match(text, after.end() if after else guard.end()):
        return False
    depth, end = 0, 0
    for condition in _CONDITION.finditer(text, at):
        word = condition.group(1)
        if depth == 1 and word in ("else", "elif"):
            return False
        depth += {"endif": -1, "else": 0, "elif": 0}.get(word, 1)
        if depth == 0:
            end = condition.end()
            break
    # Behind the guard's end only the rest of that line, and comments.
    rest = text[end:].split("\n", 1)
    tail = _NOTHING.match(rest[1]) if len(rest) == 2 else None
    return end > 0 and (len(rest) == 1 or (tail is not None and tail.end() == len(rest[1])))


class Headers:
    """The headers that a compile finds, each read once."""

    def __init__(self, quoted: list[str], folders: list[str], cwd: str) -> None:
        """``quoted`` are the folders of ``-iquote``, ``folders`` those searched for every include; both in order."""
        self._angled = [os.path.join(cwd, folder) for folder in folders]
        self._quoted = [os.path.join(cwd, folder) for folder in quoted] + self._angled
        self._texts: dict[str, str] = {}
        self._places: dict[str, str | None] = {}
        self._includes: dict[str, list[str]] = {}
        self._guarded: dict[str, bool] = {}

    def find(self, include: str, beside: str | None) -> str | None:
        """The path of an include as it is spelt; ``beside`` is the folder of the file that includes it."""
        name = include[1:-1]
        if os.path.isabs(name):
            return name if os.path.isfile(name) else None
        if include[0] == '"' and beside is not None:
            near = os.path.join(beside, name)
            if os.path.isfile(near):
                return near
        if include not in self._places:
            paths = (os.path.join(folder, name) for folder in (self._quoted if include[0] == '"' else self._angled))
            self._places[include] = next(filter(os.path.isfile, paths), None)
        return self._places[include]

    def guarded(self, path: str) -> bool:
        """See is_guarded."""
        if path not in self._guarded:
            self._guarded[path] = is_guarded(self._text(path))
        return self._guarded[path]

    def reach(self, path: str, have: dict[str, int]) -> dict[str, int]:
        """``have``, and all headers that ``path`` may bring in, with their sizes in bytes; conditions are taken to
        hold.
        """
        found = dict(have)
        todo = [path]
        while todo:
            header = todo.pop()
            if header not in found:
                found[header] = len(self._text(header))
                todo += self._includes.get(header) or self._included(header)
        return found

    def _included(self, path: str) -> list[str]:
        folder = os.path.dirname(path)
        places = (self.find(include, folder) for include in _ANY_INCLUDE.findall(self._text(path)))
        self._includes[path] = [place for place in places if place is not None]
        return self._includes[path]

    def _text(self, path: str) -> str:
        if path not in self._texts:
            self._texts[path] = read(path)
        return self._texts[path]


def read(path: str) -> str:
    """A source's text; each byte is one character."""
    with open(path, encoding="latin-1", newline="") as file:
        return file.read()
