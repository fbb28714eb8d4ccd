"""How commands, their options and their help are worded, apart from what each of them does."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

FILE = "<path>"
LONGEST_SENTENCE = 200


class Commands(TyperGroup):
    """A group whose help tells of each command in a whole sentence."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        named = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, each.get_short_help_str(LONGEST_SENTENCE)) for name, each in named if each and not each.hidden]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def examples(*lines: str) -> str:
    """What ends a command's help, with its line breaks."""
    return "\n".join(["\b", "Examples:" if len(lines) > 1 else "Example:", *(f"  {line}" for line in lines)])


def file_option(help_text: str, *names: str) -> Any:
    """An option that names a file or folder."""
    return typer.Option(*names, metavar=FILE, callback=_not_empty, help=help_text)


def file_argument(help_text: str, metavar: str) -> Any:
    """An argument that names a file, or several that do."""
    return typer.Argument(metavar=metavar, callback=_not_empty, help=help_text)


def _not_empty(value: Any) -> Any:
    """Refuses what an unset variable has left empty: as a path it would be the working folder."""
    if value == "" or (isinstance(value, list | tuple) and "" in value):
        raise typer.BadParameter("expected a path, got an empty text")
    return value
