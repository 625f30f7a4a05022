"""Commands and options whose ``--help`` a person can read at 80 columns: examples first, then options by subject."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from builder.core.process_start import has_control

Function = TypeVar("Function", bound=Callable[..., Any])

#: The section of what belongs to one command alone, and the others in their order.
OWN = "Options"
TARGETS, SOURCES, ENVIRONMENT = "Which targets", "Sources", "Environment"
SPEED, OUTPUT = "Speed and limits", "Places and output"
SECTIONS = (OWN, TARGETS, SOURCES, ENVIRONMENT, SPEED, OUTPUT)
_VARIABLES = (
    "Each option but those of one command's output has a variable, named by rule: BUILDER_BASE_IMAGE for --base-image. "
    "An option whose value ends in ,... repeats or takes commas. Defaults of your own go into torch-npu-builder.toml; "
    "`explain --options` shows each value and where it is from."
)


class Option(click.Option):
    """An option that belongs to a ``section`` of the help.

    Its text is trimmed, wherever it is from; text that holds control characters is refused.
    """

    def __init__(self, *args: Any, section: str | None = None, **attributes: Any) -> None:
        attributes.setdefault("show_default", True)
        super().__init__(*args, **attributes)
        self.section = section

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        """Convert trimmed text to the option's type. Raises click.BadParameter; one about a file names the place."""
        try:
            return super().type_cast_value(ctx, self._trimmed(ctx, value))
        except click.BadParameter as error:
            # Its source is not noted yet where the value is read.
            origin = origin_of(ctx, self)
            if origin is not None and value == ctx.lookup_default(self.name or ""):
                error.message = f"{origin}: {error.message}"
            raise

    def _trimmed(self, ctx: click.Context, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(self._trimmed(ctx, part) for part in value)
        if not isinstance(value, str):
            return value
        text = value.strip()
        if has_control(text):
            raise click.BadParameter(f"{text!r} holds a control character, expected plain text", ctx=ctx, param=self)
        return text


def origin_of(ctx: click.Context, parameter: click.Parameter) -> str | None:
    """Return ``file:line`` of the project file's value for a parameter of the command of ``ctx``, or None."""
    path: list[str] = []
    above: click.Context | None = ctx
    while above is not None and above.parent is not None:
        path.insert(0, above.info_name or "")
        above = above.parent
    origins: dict[tuple[str, str], str] = getattr(ctx.obj, "origins", {})
    return origins.get((" ".join(path), parameter.name or ""))


def options(*group: Callable[[Function], Function], section: str | None = None) -> Callable[[Function], Function]:
    """Combine decorators of options into one; options that have no section yet get ``section``."""

    def decorate(function: Function) -> Function:
        others = len(getattr(function, "__click_params__", ()))
        for decorator in reversed(group):
            function = decorator(function)
        for parameter in getattr(function, "__click_params__", ())[others:]:
            if isinstance(parameter, Option) and parameter.section is None:
                parameter.section = section
        return function

    return decorate


class Command(click.Command):
    """A command with ``examples`` (lines that can be typed) and the ``section`` of the overview that it stands in."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), section: str = OWN, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.examples = tuple(examples)
        self.section = section

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write examples, arguments and the sections of options."""
        write_examples(formatter, self.examples)
        write_options(ctx, formatter, self.get_params(ctx))
        if any(isinstance(parameter, Option) and parameter.envvar for parameter in self.params):
            formatter.write_paragraph()
            formatter.write_text(_VARIABLES)


class Group(click.Group):
    """A group of commands, shown by section; ``build`` is the command that options without a command are for."""

    command_class = Command

    def __init__(
        self,
        *args: Any,
        examples: Sequence[str] = (),
        section: str = OWN,
        default: str | None = None,
        common: Sequence[str] = (),
        **attributes: Any,
    ) -> None:
        super().__init__(*args, **attributes)
        self.examples = tuple(examples)
        self.section = section
        self._default = default
        self._common = tuple(common)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take options without a command for options of the default command."""
        if self._default and args and args[0].startswith("-") and args[0] not in {"--help", "-h", "--version"}:
            args = [self._default, *args]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; for a misspelt one name the nearest, for a release line in its place the option."""
        name = args[0]
        if name not in self.commands:
            near = get_close_matches(name, self.commands, n=1)
            if near:
                ctx.fail(f"No such command {name!r}. Did you mean {near[0]!r}?")
            if re.match(r"v?\d+\.\d+", name):
                ctx.fail(f"No such command {name!r}. To build that release line: --pytorch={name}")
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete commands, and options of the default command."""
        found = super().shell_complete(ctx, incomplete)
        if self._default and incomplete.startswith("-"):
            command = self.commands[self._default]
            with click.Context(command, info_name=self._default, parent=ctx, resilient_parsing=True) as inner:
                known = {item.value for item in found}
                found += [item for item in command.shell_complete(inner, incomplete) if item.value not in known]
        return found

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write examples, the options that most builds take, and the commands by section."""
        write_examples(formatter, self.examples)
        if self._default:
            command = self.commands[self._default]
            common = [each for each in command.params if each.name in self._common]
            common.sort(key=lambda each: self._common.index(each.name or ""))
            write_options(ctx, formatter, common, f"Options of a build (all: {self._default} --help)")
        sections: dict[str, list[tuple[str, str]]] = {}
        shown = [(name, command) for name in self.commands if (command := self.commands[name]) and not command.hidden]
        for name, command in shown:
            title = getattr(command, "section", OWN)
            sections.setdefault(title, []).append((name, command.get_short_help_str(limit=200)))
        for title, rows in sections.items():
            with formatter.section(title if self._default else "Commands"):
                formatter.write_dl(rows)
        write_options(ctx, formatter, self.get_params(ctx))


def write_examples(formatter: click.HelpFormatter, examples: Iterable[str]) -> None:
    """Write ``examples`` as they stand, whatever the width."""
    if lines := list(examples):
        with formatter.section("Examples"):
            for line in lines:
                formatter.write(f"{'':{formatter.current_indent}}{line}\n")


def write_options(
    ctx: click.Context, formatter: click.HelpFormatter, parameters: Iterable[click.Parameter], title: str | None = None
) -> None:
    """Write the help of ``parameters`` by section; all below ``title`` where it is given."""
    sections: dict[str, list[tuple[str, str]]] = {}
    for parameter in parameters:
        record = parameter.get_help_record(ctx)
        if record is not None:
            name = parameter.section if isinstance(parameter, Option) else OUTPUT  # click's own: --help, --version
            sections.setdefault(title or name or OWN, []).append(record)
    for name in sorted(sections, key=lambda name: SECTIONS.index(name) if name in SECTIONS else -1):
        with formatter.section(name):
            formatter.write_dl(sections[name])
