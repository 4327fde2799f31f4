"""How commands present themselves and fail: grouped help with examples, errors as one line, an exit status per kind."""

from __future__ import annotations

import difflib
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn

import click

from amctc.errors import AmctcError, LimitError, printable
from amctc.files.writing import NO_SPACE

DEBUG = "--debug"

INTERRUPTED = 130
"""128 and SIGINT, as shells have it."""


class Command(click.Command):
    """A command with ``examples``: command lines for its help, the first one for the overview too."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = tuple(examples)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, line by line."""
        if self.examples:
            with formatter.section("Examples"):
                for line in self.examples:
                    formatter.write(f"{'':{formatter.current_indent}}{line}\n")
        super().format_epilog(ctx, formatter)


class Program(click.Group):
    """The group of all commands, in sections."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sections: list[tuple[str, list[str]]] = []

    def add_section(self, title: str, *commands: click.Command) -> None:
        """Add commands under a heading of the overview."""
        self._sections.append((title, [c.name or "" for c in commands]))
        for command in commands:
            self.add_command(command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each command with one line of what it does and an example."""
        margin = max(len(name) for name in self.commands) + 4
        for title, names in self._sections:
            with formatter.section(title):
                for name in names:
                    command = self.commands[name]
                    formatter.write(f"  {name:{margin - 2}}{command.get_short_help_str(110)}\n")
                    for line in getattr(command, "examples", ())[:1]:
                        formatter.write(f"{'':{margin}}{click.style('$ ' + line, dim=True)}\n")

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is meant; for an unknown name :class:`click.UsageError` with the nearest ones."""
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            near = difflib.get_close_matches(args[0], self.commands, 2, 0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"commands: {', '.join(self.commands)}"
            raise click.UsageError(f"unknown command {args[0]!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any) -> NoReturn:  # type: ignore[override]
        """Run a command line and exit. ``--debug`` may stand anywhere in it."""
        words = list(sys.argv[1:] if args is None else args)
        debug = DEBUG in words
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError, ValueError):  # a terminal that cannot show µ still gets its report
                stream.reconfigure(errors="replace")  # type: ignore[union-attr]
        try:
            given = [w for w in words if w != DEBUG]
            status = super().main(given, prog_name or "amctc", standalone_mode=False, **extra)
            sys.stdout.flush()
        except (Exception, KeyboardInterrupt) as error:
            if debug and not isinstance(error, click.ClickException | click.Abort):
                traceback.print_exc()
            status = failed(error, debug)
        sys.exit(status if isinstance(status, int) else 0)


def failed(error: BaseException, debug: bool) -> int:
    """Tell the user about an error, in one line where it can be; gives the exit status."""
    if isinstance(error, BrokenPipeError):
        _close_stdout()
        return 1
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return _say("interrupted", INTERRUPTED)
    if isinstance(error, click.ClickException):
        return _say(f"error: {_usage(error)}", error.exit_code)
    if isinstance(error, MemoryError):
        return _say("error: not enough memory; use a smaller --batch-size or a smaller model", LimitError.exit_status)
    if isinstance(error, OSError) and error.errno in NO_SPACE:  # files are written by those who say so themselves
        _close_stdout()
        return _say("error: there is no space left for what is printed; free some, run again", LimitError.exit_status)
    if isinstance(error, AmctcError):
        _say(f"error: {error}", error.exit_status)
        _show_detail(error.detail or "", debug)
        return error.exit_status
    finding = f"{type(error).__name__}: {printable(error, 300)}"
    return _say(f"internal error: {finding}; run with {DEBUG} for the traceback", 1)


def _close_stdout() -> None:
    """Drop what is still to be printed: the interpreter flushes once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(line: str, status: int) -> int:
    click.echo(f"amctc: {line}", err=True)
    return status


def _usage(error: click.ClickException) -> str:
    """The message of a wrong command line, without the line break and capital that click gives it."""
    message = " ".join(error.format_message().split()).rstrip(".")
    context = error.ctx if isinstance(error, click.UsageError) else None
    command = context.command_path if context else "amctc"
    return printable(f"{message[:1].lower()}{message[1:]} (see '{command} --help')", 600)


def _show_detail(detail: str, debug: bool) -> None:
    """The text with a caret under what is wrong; other details, such as graph excerpts, when debugging."""
    lines = detail.split("\n")
    if detail and (debug or lines[-1].strip() == "^"):
        for line in lines:
            click.echo(f"  {printable(line, 400)}", err=True)
