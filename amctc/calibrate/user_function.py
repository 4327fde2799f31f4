"""Functions in the user's own Python files: named ``file.py:function``, loaded on request, blamed by file and line.

This runs the code of that file, as ``python file.py`` would. It happens only to files that are named so, never to
models or arrays.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from amctc.errors import AmctcError, InputError, UsageError

SUFFIX = ".py"


@dataclass(frozen=True)
class UserFunction:
    """A function of a file: ``call`` turns whatever it raises into one line with the file and the line of code."""

    path: Path
    call: Callable[..., Any]

    @classmethod
    def of(cls, path: Path, function: Callable[..., Any]) -> UserFunction:
        """``function`` of the file ``path``; ``call`` has its name and signature."""

        @functools.wraps(function)
        def call(*arguments: object) -> Any:
            with blamed(path):
                return function(*arguments)

        return cls(path, call)

    def iterate(self, items: object) -> Iterator[Any]:
        """The items of what it returned, a generator that runs its code for instance."""
        if not isinstance(items, Iterable):
            raise InputError(f"the function returns {type(items).__name__}, not batches of samples",
                             where=self.path.name, remedy="yield {input name: array} for each batch")  # fmt: skip
        with blamed(self.path):
            iterator = iter(items)
        while True:
            with blamed(self.path):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item


def is_user_function(text: str) -> bool:
    """Whether a text names a function of a Python file, or the file and forgot the function."""
    return split_name(text) is not None


def split_name(text: str) -> tuple[str, str] | None:
    """``("file.py", "function")`` of ``file.py:function``; the function is empty where it is missing."""
    if text.endswith(SUFFIX):
        return text, ""
    path, colon, name = text.rpartition(":")
    return (path, name) if colon and path.endswith(SUFFIX) else None


def load_function(text: str, *, option: str) -> UserFunction:
    """The function that ``file.py:function`` names; the file's folder is searched for its imports, last.

    Raises :class:`UsageError` for another form of text, naming ``option``; :class:`InputError` for a file that is
    missing or fails to load, or has no such function.
    """
    parts = split_name(text)
    if parts is None or not parts[1]:
        example = f"{parts[0] if parts else 'file.py'}:function"
        raise UsageError(f"{option} {text!r} names no function", remedy=f"write {example}")
    path = Path(parts[0])
    if not os.path.isfile(path):
        raise InputError("no such Python file", where=parts[0], remedy="check the path before the colon")
    module = _loaded(path.resolve(), path.stat().st_mtime_ns)
    function = getattr(module, parts[1], None)
    if not callable(function):
        own = [n for n, v in vars(module).items() if inspect.isfunction(v) and v.__module__ == module.__name__]
        raise InputError(f"the file has no function {parts[1]!r}", where=parts[0],
                         remedy=f"its functions are {', '.join(own)}" if own else "it defines no function")  # fmt: skip
    return UserFunction.of(path.resolve(), function)


@functools.cache
def _loaded(path: Path, modified: int) -> ModuleType:
    """The module in a file, run once per version of the file."""
    name = f"amctc_user_{path.stem}"
    loader = SourceFileLoader(name, str(path))  # a link may have led to a file of another suffix
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # last: a file of theirs must not hide a package of ours
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.modules[name] = module
    try:
        with blamed(path):
            loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.dont_write_bytecode = before
    return module


@contextmanager
def blamed(path: Path) -> Iterator[None]:
    """What the block raises becomes an error at the line of ``path`` it went through last; ours are only located."""
    try:
        yield
    except AmctcError as error:
        raise error.located(_place(path, error)) from error.__cause__
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too: user code must not end the run without a word
        message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise InputError(" ".join(message.split()), where=_place(path, error),
                         remedy="correct this code; --debug shows the traceback") from error  # fmt: skip


def _place(path: Path, error: BaseException) -> str:
    """``file.py:12``, the deepest line of the file in the traceback."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f"{path.name}:{error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"{path.name}:{lines[-1]}" if lines else path.name
