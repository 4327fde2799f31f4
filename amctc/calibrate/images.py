"""A folder of image files as samples: decoded a batch at a time, cropped, resized and normalised.

The decoders are those of Pillow for a few plain formats. EXIF orientation is not applied, as in the usual evaluation
scripts; sixteen-bit and floating-point images are refused, because Pillow would clip them.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from amctc.calibrate.geometry import DEFAULT_SIDE, image_input, require_pixels
from amctc.calibrate.inputs import InputSpec, cast, require_memory
from amctc.calibrate.labels import file_labels
from amctc.calibrate.preprocess import CHOICES, Preprocess
from amctc.errors import AmctcError, InputError, LimitError, UsageError
from amctc.files import open_regular

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm")
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "PPM")  # by content; Pillow's others run external programs or are rare
MAX_FILE_BYTES = 1 << 28
LABELS = "labels.csv"


class ImageFolder:
    """Image files of one folder for a model with one input; ``labels`` has one class per file, if known."""

    def __init__(
        self,
        folder: Path,
        files: Sequence[str],
        labels: NDArray[np.int64] | None,
        spec: InputSpec,
        preprocess: Preprocess,
    ) -> None:
        self.description = f"folder {folder} ({len(files)} images)"
        self.where = str(folder)
        self.labels = labels
        self._folder, self._files, self._spec, self._preprocess = folder, files, spec, preprocess
        self._wanted = image_input(spec.shape, preprocess.layout)
        self._size = preprocess.size_for(self._wanted) or (DEFAULT_SIDE, DEFAULT_SIDE)
        preprocess.check_values(self._wanted.channels, spec.dtype)

    def __len__(self) -> int:
        return len(self._files)

    def batches(self, start: int, stop: int, size: int) -> Iterator[dict[str, NDArray[Any]]]:
        """The images ``start`` to ``stop`` as model inputs, ``size`` at a time."""
        require_memory([self._spec], [(size, self._wanted.channels, *self._size)], size)
        for first in range(start, stop, size):
            names = self._files[first : min(first + size, stop)]
            images = np.stack([self._pixels(self._folder / name) for name in names])
            fed = self._preprocess.to_input(images, self._wanted, self._spec.dtype)
            yield {self._spec.name: cast(self._spec, fed, first)}

    def _pixels(self, path: Path) -> NDArray[np.uint8]:
        """One image as (H,W,C), of the size the model takes."""
        try:
            image = self._preprocess.frame(load_image(path, self._wanted.channels), self._size)
        except AmctcError as error:
            raise error.located(str(path)) from None
        pixels = np.asarray(image, np.uint8)
        return pixels if pixels.ndim == 3 else pixels[..., None]


def open_folder(
    path: Path, inputs: Sequence[InputSpec], preprocess: Preprocess | None, labels: str | os.PathLike[str] | None
) -> ImageFolder:
    """The images of the folder ``path``: those its labels name, in that order, else all in the order of their names.

    ``labels`` is a CSV file ``file,label``; without it ``labels.csv`` in the folder is used if it is there. Raises
    :class:`UsageError` without a preprocessing, :class:`InputError` for a folder without images or a missing image.
    """
    if preprocess is None:
        raise UsageError(
            "a folder of images needs a preprocessing: nothing in it says how to normalise",
            where=str(path),
            remedy=f"add --preprocess: {CHOICES}",
        )
    if len(inputs) != 1:
        raise UsageError(
            f"a folder of images feeds one input, the model has {len(inputs)}: {', '.join(i.name for i in inputs)}",
            where=str(path),
            remedy="give an .npz with one array per input",
        )
    names = _image_names(path)
    listed = labels if labels is not None else (path / LABELS if os.path.exists(path / LABELS) else None)
    if listed is None:
        if not names:
            raise InputError(
                "the folder has no images", where=str(path), remedy=f"put {', '.join(SUFFIXES)} files directly into it"
            )
        return _located(path, names, None, inputs[0], preprocess)
    rows = file_labels(listed)
    known = set(names)
    missing = next((name for name, _ in rows if name not in known and not os.path.isfile(path / name)), None)
    if missing is not None:
        raise InputError(
            f"the image {missing!r} is not in {path}", where=os.fspath(listed), remedy="correct the labels file"
        )
    classes = np.array([label for _, label in rows], np.int64)
    return _located(path, [name for name, _ in rows], classes, inputs[0], preprocess)


def _located(
    path: Path, names: list[str], labels: NDArray[np.int64] | None, spec: InputSpec, preprocess: Preprocess
) -> ImageFolder:
    try:
        return ImageFolder(path, names, labels, spec, preprocess)
    except AmctcError as error:
        raise error.located(str(path)) from None


def _image_names(path: Path) -> list[str]:
    try:
        names = [entry.name for entry in os.scandir(path)]
    except OSError as error:
        raise InputError(
            f"the folder cannot be read: {error.strerror}", where=str(path), remedy="check its permissions"
        ) from None
    return sorted(name for name in names if name.lower().endswith(SUFFIXES) and not name.startswith("."))


def load_image(path: Path, channels: int) -> Image.Image:
    """The image at ``path`` as RGB (``channels`` 3) or grey (1), 8 bits per channel.

    Raises :class:`InputError` when it is damaged or not 8 bits, :class:`LimitError` when it has too many pixels.
    """
    with open_regular(path, limit=MAX_FILE_BYTES, kind="image") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd but readable files
        try:
            with Image.open(file, formats=FORMATS) as image:
                require_pixels(image.height, image.width)
                if image.mode.startswith(("I", "F")):
                    raise InputError(
                        f"the image has more than 8 bits per channel (mode {image.mode})", remedy="convert it to 8 bits"
                    )
                return image.convert("RGB" if channels == 3 else "L")
        except AmctcError as error:
            raise error.located(str(path)) from None
        except Image.DecompressionBombError:
            raise LimitError("the image has too many pixels", where=str(path), remedy="scale it down") from None
        except Exception as error:  # Pillow's decoders raise whatever damaged bytes make them raise
            reason = "no known image format" if isinstance(error, UnidentifiedImageError) else error
            raise InputError(
                f"the image cannot be read: {reason}", where=str(path), remedy="replace the file or remove it"
            ) from None
