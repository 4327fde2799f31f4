"""From pixels to what a model was trained on: named presets and small files that say the same.

With ``x`` the pixel values 0…255 in float32, channels in the order the model takes them, a model is fed
``(x / divisor - mean) / std``, evaluated in float32 in this order. EXIF orientation is not applied.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray
from PIL import Image
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from amctc.calibrate import geometry
from amctc.calibrate.geometry import Dims, ImageInput, Interpolation, Layout, image_input
from amctc.calibrate.settings_file import SUFFIXES, read_settings
from amctc.errors import InputError, UsageError


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether ``dtype`` is a floating-point type, bfloat16 (not one of NumPy's own) included."""
    return dtype.kind == "f" or dtype.name == "bfloat16"


def _as_tuple(value: object) -> object:
    """A list as a tuple: TOML and YAML know lists only."""
    return tuple(value) if isinstance(value, list) else value


def _per_channel(value: object) -> object:
    """One number as a tuple of one, a list as a tuple."""
    return (value,) if isinstance(value, int | float) else _as_tuple(value)


Finite = Annotated[float, Field(allow_inf_nan=False)]
PerChannel = Annotated[tuple[Finite, ...], BeforeValidator(_per_channel), Field(min_length=1, max_length=3)]
Side = Annotated[int, Field(gt=0, le=1 << 14)]
Crop = Annotated[Side | tuple[Side, Side] | Literal["auto", "none"], BeforeValidator(_as_tuple)]


class Preprocess(BaseModel):
    """How images become the input of a model; immutable, equal if the fields are.

    ``resize``: scale the shorter side to so many pixels, then crop. ``crop``: so many central pixels (one side or
    ``(height, width)``); ``auto``: after ``resize`` the model's size, without it the central ``crop_fraction`` of an
    image file (arrays stay as they are); ``none``: the whole image. What then differs from the model's size is scaled
    to it. ``mean`` and ``std`` have one value or one per channel, in the order the model takes the channels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = "custom"
    resize: Side | None = Field(default=None, description="give the shorter side in pixels")
    crop: Crop = Field(default="auto", description="give one side, [height, width], 'auto' or 'none'")
    crop_fraction: float = Field(
        default=geometry.WHOLE_FRACTION, gt=0, le=1, description="give a fraction of the image"
    )
    interpolation: Interpolation = "bilinear"
    divisor: float = Field(
        default=1.0, ge=1, allow_inf_nan=False, description="pixels are divided by it: give 255, not 1/255"
    )
    mean: PerChannel = Field(default=(0.0,), description="give one number or one per channel")
    std: PerChannel = Field(default=(1.0,), description="give one number or one per channel")
    channel_order: Literal["rgb", "bgr"] = "rgb"
    layout: Layout = "auto"

    @model_validator(mode="after")
    def _check_channels(self) -> Self:
        for key, values in (("mean", self.mean), ("std", self.std)):
            if len(values) == 2:
                raise ValueError(f"{key} needs one value or one per channel (3)")
        if min(self.std) <= 0:
            raise ValueError("std must be positive")
        return self

    @classmethod
    def parse(cls, text: str | os.PathLike[str]) -> Preprocess:
        """The preset named ``text``, or what the ``.toml``, ``.yaml`` or ``.yml`` file at ``text`` says.

        Raises :class:`UsageError` for an unknown name, :class:`InputError` for a file that is malformed, has an unknown
        key or leaves open whether ``mean`` and ``std`` speak of pixels 0…1 or 0…255.
        """
        name = os.fspath(text)
        if name in PRESETS:
            return PRESETS[name]
        if Path(name).suffix.lower() not in SUFFIXES:
            near = difflib.get_close_matches(name, PRESETS, n=2)
            meant = f"did you mean {' or '.join(near)}? " if near else ""
            raise UsageError(f"there is no preprocessing {name!r}", remedy=f"{meant}{CHOICES}")
        table = read_settings(name, kind="preprocess file")
        return _from_table({"name": Path(name).stem} | table, where=name)

    @property
    def sets_size(self) -> bool:
        """Whether a size is stated, so that images in arrays may be resized too."""
        return self.resize is not None or self.crop != "auto"

    @property
    def normalises(self) -> bool:
        """Whether pixel values change (``raw`` leaves them)."""
        return self.divisor != 1 or any(self.mean) or any(s != 1 for s in self.std)

    def frame(self, image: Image.Image, size: tuple[int, int] | None) -> Image.Image:
        """``image`` cropped and resized to ``size``, the model's ``(height, width)`` if it has one."""
        if self.resize is not None:
            image = geometry.scale_shorter_side(image, self.resize, self.interpolation)
        if isinstance(self.crop, int):
            image = geometry.central_crop(image, self.crop, self.crop)
        elif isinstance(self.crop, tuple):
            image = geometry.central_crop(image, *self.crop)
        elif self.crop == "auto" and self.resize is None:
            image = geometry.fractional_crop(image, self.crop_fraction, size or (1, 1))
        elif self.crop == "auto" and size is not None:
            image = geometry.central_crop(image, *size)
        return geometry.scale(image, *size, self.interpolation) if size else image

    def size_for(self, wanted: ImageInput) -> tuple[int, int] | None:
        """The ``(height, width)`` of the images fed: the model's, else the stated crop, else ``None``."""
        if isinstance(self.crop, int):
            return wanted.size or (self.crop, self.crop)
        return wanted.size or (self.crop if isinstance(self.crop, tuple) else None)

    def check(self, images_shape: tuple[int, ...], input_shape: Dims, dtype: DTypeLike) -> ImageInput:
        """How an input of ``input_shape`` and ``dtype`` takes uint8 images of ``images_shape``, (N,H,W) or (N,H,W,C).

        Raises :class:`InputError` when channels, size or number type do not fit this preprocessing.
        """
        channels = images_shape[3] if len(images_shape) == 4 else 1
        if len(images_shape) not in (3, 4) or channels not in (1, 3):
            raise InputError(
                f"{geometry.shape_text(images_shape)} is not the shape of images, [N,H,W] or [N,H,W,C] with C 1 or 3",
                remedy="put the channel axis last",
            )
        wanted = image_input(input_shape, self.layout, channels)
        height, width = images_shape[1:3]
        if not self.sets_size and (wanted.height or height, wanted.width or width) != (height, width):
            raise InputError(
                f"the images are {height}x{width}, the model's input is {geometry.shape_text(input_shape)}",
                remedy="resize the images, or give a preprocess file with 'resize' or 'crop'",
            )
        self.check_values(channels, dtype)
        return wanted

    def check_values(self, channels: int, dtype: DTypeLike) -> None:
        """Raise :class:`InputError` unless the formula fits ``channels`` and its results fit ``dtype``."""
        longest = max(len(self.mean), len(self.std))
        if longest > channels:
            raise InputError(
                f"preprocessing {self.name!r} has {longest} values per pixel, the images have {channels} channel",
                remedy="for grey images use unit, tf, raw or a preprocess file with one mean and one std",
            )
        kind = np.dtype(dtype)
        whole = kind.kind in "iu" and np.iinfo(kind).max >= 255 and not self.normalises
        if not (whole or is_float(kind)):
            raise InputError(
                f"the model takes {kind.name}, which cannot hold pixels preprocessed by {self.name!r}",
                remedy="use --preprocess raw, or give the samples as an .npz of arrays in the model's own type",
            )

    def normalise(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (N,H,W,C), RGB, to float32 of the same shape in the model's channel order, by the formula above."""
        x: NDArray[np.float32] = images.astype(np.float32)
        if self.channel_order == "bgr":
            x = x[..., ::-1]
        if self.divisor != 1:
            x = np.divide(x, np.float32(self.divisor))
        if any(self.mean):
            x = np.subtract(x, np.asarray(self.mean, np.float32))
        if any(s != 1 for s in self.std):
            x = np.divide(x, np.asarray(self.std, np.float32))
        return x

    def apply(self, images: NDArray[np.uint8], input_shape: Dims, dtype: DTypeLike) -> NDArray[Any]:
        """uint8 images (N,H,W) or (N,H,W,C) as the model's input: normalised, in its layout and number type.

        The images keep their size unless it differs from the model's and this preprocessing states one (``sets_size``).
        Errors as :meth:`check`.
        """
        wanted = self.check(images.shape, input_shape, dtype)
        x = images if images.ndim == 4 else images[..., None]
        size = self.size_for(wanted)
        if self.sets_size and (size is None or x.shape[1:3] != size):
            squeezed = x[..., 0] if x.shape[3] == 1 else x
            x = np.stack([np.asarray(self.frame(Image.fromarray(image), size)) for image in squeezed])
            x = x if x.ndim == 4 else x[..., None]
        return self.to_input(x, wanted, dtype)

    def to_input(self, images: NDArray[np.uint8], wanted: ImageInput, dtype: DTypeLike) -> NDArray[Any]:
        """uint8 (N,H,W,C), as they are in size, normalised, in the wanted layout and number type."""
        y = self.normalise(images)
        if wanted.layout == "nchw":
            y = y.transpose(0, 3, 1, 2)
        elif wanted.layout == "nhw":
            y = y[..., 0]
        return np.ascontiguousarray(y).astype(dtype, copy=False)


# The scales are those the families of models were trained with: torchvision's ImageNet statistics; TensorFlow's -1…1;
# 0…1; Caffe's ImageNet means in BGR order; pixels as they are.
PRESETS: Mapping[str, Preprocess] = {
    "imagenet": Preprocess(name="imagenet", divisor=255.0, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    "tf": Preprocess(name="tf", divisor=127.5, mean=(1.0,)),
    "unit": Preprocess(name="unit", divisor=255.0),
    "caffe": Preprocess(name="caffe", mean=(104.0, 117.0, 123.0), channel_order="bgr"),
    "raw": Preprocess(name="raw"),
}
CHOICES = f"choose one of {', '.join(PRESETS)}, or a {' or '.join(SUFFIXES)} file"


def _from_table(table: Mapping[str, Any], where: str) -> Preprocess:
    unknown = next((key for key in table if key not in Preprocess.model_fields), None)
    if unknown is not None:
        known = ", ".join(Preprocess.model_fields)
        raise InputError(f"unknown key {unknown!r} in the preprocess file", where=where, remedy=f"the keys are {known}")
    try:
        found = Preprocess.model_validate(table)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        key = str(first["loc"][0]) if first["loc"] else ""
        message = first["msg"].removeprefix("Value error, ")
        remedy = Preprocess.model_fields[key].description if key else None
        raise InputError(f"{key}: {message}" if key else message, where=where, remedy=remedy) from None
    return found if "divisor" in table else found.model_copy(update={"divisor": _implied_divisor(found, where)})


def _implied_divisor(stated: Preprocess, where: str) -> float:
    """The divisor that ``mean`` and ``std`` presuppose: statistics of pixels 0…1 or of pixels 0…255.

    A wrong guess would spoil every result in silence, so a file that fits both is refused.
    """
    if max(map(abs, stated.mean)) > 1 or max(stated.std) > 1:
        return 1.0
    if max(stated.std) < 1:
        return 255.0
    raise InputError(
        "mean and std leave open whether pixels are 0…1 or 0…255",
        where=where,
        remedy="add 'divisor = 255' or 'divisor = 1'",
    )
