"""The exception tree: every error a user can cause, each kind with its own exit status.

An error says *what* is wrong, *where* (file, node, layer, graph text), which numbered *rule* it breaks
(T1… types, C1… op constraints, N1… target arithmetic) and the *remedy*. ``str(error)`` is one line.
"""

from __future__ import annotations

from typing import ClassVar

MAX_MESSAGE = 600


def printable(text: object, limit: int = 120) -> str:
    """``text`` on one line without control characters, at most ``limit`` characters.

    Names come from files we do not trust: an escape sequence in a node name must not reach a terminal.
    """
    cleaned = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))
    return cleaned if len(cleaned) <= limit else cleaned[: limit - 1] + "…"


class AmctcError(Exception):
    """Root of all errors amctc raises on purpose.

    ``what`` is the finding, ``where`` the place, ``remedy`` what the user can do, ``rule`` the label of the
    broken constraint, ``detail`` further lines (a graph excerpt) that ``--debug`` and tests see.
    """

    exit_status: ClassVar[int] = 1

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        remedy: str | None = None,
        rule: str | None = None,
        detail: str | None = None,
    ) -> None:
        self.what, self.where, self.remedy, self.rule, self.detail = what, where, remedy, rule, detail
        super().__init__(what)

    def __str__(self) -> str:
        place = f"{printable(self.where)}: " if self.where else ""
        rule = f" [{self.rule}]" if self.rule else ""
        remedy = f"; {printable(self.remedy, 300)}" if self.remedy else ""
        return printable(f"{place}{self.what}{rule}{remedy}", MAX_MESSAGE)

    def located(self, where: str) -> AmctcError:
        """The same error with ``where`` filled in if it was empty; returns ``self`` for re-raising."""
        if not self.where:
            self.where = where
        return self


class MiscompileError(AmctcError):
    """A pass changed results beyond its contract: a defect of the pass or of one of its rewrites, never of the model.

    Validation and bisection raise it; its exit status is that of internal errors.
    """


class UsageError(AmctcError):
    """The command or call itself is wrong: an unknown pass, a bad option, a missing argument."""

    exit_status = 2


class InputError(AmctcError):
    """A file or array the user gave is malformed: truncated model, wrong sample shape, NaN."""

    exit_status = 3


class TypeConstraintError(InputError):
    """A tensor type or an op breaks a numbered constraint (T… or C…)."""


class VerificationError(InputError):
    """A graph breaks an invariant that :mod:`amctc.verify` checks."""


class UnsupportedError(AmctcError):
    """Well-formed, but outside what amctc or the target can do."""

    exit_status = 4


class LimitError(AmctcError):
    """A size, time or count bound was reached."""

    exit_status = 5
