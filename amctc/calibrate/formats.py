"""Which form samples have, by the path that names them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from amctc.calibrate.arrays import ArrayFile, ArrayStore, MemoryArrays
from amctc.calibrate.images import SUFFIXES, open_folder
from amctc.calibrate.inputs import Feed
from amctc.calibrate.labels import array_labels
from amctc.calibrate.raw import SEPARATOR, SUFFIX, RawArrays, raw_inputs
from amctc.calibrate.sources import ArraySource, SampleSource
from amctc.calibrate.spool import SpooledSource, as_arrays
from amctc.calibrate.tokens import read_sequences
from amctc.calibrate.user_function import UserFunction, is_user_function, load_function
from amctc.errors import InputError, UsageError

KNOWN = "a folder of images or of .bin files, an .npz, .npy or .jsonl file, or file.py:function"

AnyPath = str | os.PathLike[str]


def open_source(
    where: str,
    feed: Feed,
    *,
    labels: AnyPath | None = None,
    limit: int | None = None,
    input_shape: str | None = None,
    data_types: str | None = None,
) -> SampleSource:
    """The source of the samples that ``where`` names; parameters and errors as those of ``open_samples``."""
    stated = input_shape is not None or data_types is not None
    paths = raw_paths(where, stated)
    if paths is not None:
        return _arrays(RawArrays(raw_inputs(paths, feed.inputs, input_shape, data_types), where), feed, labels)
    if stated:
        raise UsageError(f"--input-shape and --data-types describe {SUFFIX} files, and these samples are none",
                         where=where, remedy=f"leave them out, or name folders of {SUFFIX} files")  # fmt: skip
    if os.path.isdir(where):
        return open_folder(Path(where), feed.inputs, feed.preprocess, labels)
    lower = where.lower()
    if lower.endswith((".npz", ".npy")):
        return _arrays(ArrayFile(where), feed, labels)
    if lower.endswith(".jsonl"):
        return _arrays(read_sequences(where, feed.inputs), feed, labels)
    if is_user_function(where):
        if labels is not None:
            raise UsageError("labels in a file do not go with samples from a function", where=where,
                             remedy="yield the classes of each batch as the array 'y'")  # fmt: skip
        return _made(load_function(where, option="--data"), where, feed, limit)
    reason = f"samples are {KNOWN}" if os.path.lexists(where) else "no such samples"
    raise InputError(reason, where=where, remedy=f"give {KNOWN}")


def _arrays(store: ArrayStore, feed: Feed, labels: AnyPath | None) -> ArraySource:
    source = ArraySource(store, feed)
    return source if labels is None else ArraySource(store, feed, array_labels(labels, len(source)))


def _made(function: UserFunction, where: str, feed: Feed, limit: int | None) -> SampleSource:
    """What a function of the user returns: all samples at once, or batches, which are taken as far as ``limit``."""
    result = function.call()
    if isinstance(result, Mapping | np.ndarray):
        return ArraySource(MemoryArrays(as_arrays(result, feed), where), feed)
    return SpooledSource(function.iterate(result), feed, limit, where=where)


def raw_paths(where: str, stated: bool) -> list[str] | None:
    """The folders or files of raw samples that ``where`` names, one per input; ``None`` for samples of another form.

    ``stated`` tells that shapes or types are given: then a folder holds raw files whatever else is in it.
    """
    paths = [part for part in where.split(SEPARATOR) if part.strip()]
    if SEPARATOR in where and paths and not os.path.lexists(where):
        return paths
    raw = where.lower().endswith(SUFFIX) or (os.path.isdir(where) and (stated or _only_raw(where)))
    return [where] if raw else None


def _only_raw(folder: str) -> bool:
    try:
        names = [entry.name.lower() for entry in os.scandir(folder)]
    except OSError:
        return False  # opening it as a folder of images says why
    return any(n.endswith(SUFFIX) for n in names) and not any(n.endswith(SUFFIXES) for n in names)
