"""Size and place of images: cropping and resizing, and how a model's input shape says it takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from amctc.errors import InputError, LimitError, UnsupportedError

MAX_PIXELS = 1 << 26  # 8192 x 8192, 192 MiB as RGB; below the 89 million at which Pillow itself warns of a bomb
DEFAULT_SIDE = 224  # what ImageNet classifiers take; used when neither the model nor the preprocessing says a size
WHOLE_FRACTION = 224 / 256  # the usual ImageNet evaluation: shorter side to 256, central 224 of it

Layout = Literal["auto", "nchw", "nhwc"]
Interpolation = Literal["nearest", "box", "bilinear", "bicubic", "lanczos"]
Dims = Sequence[int | str | None]


@dataclass(frozen=True)
class ImageInput:
    """How a model takes images: the axis order (``nhw`` has no channel axis), channels and, where fixed, the size."""

    layout: Literal["nchw", "nhwc", "nhw"]
    channels: int
    height: int | None
    width: int | None

    @property
    def size(self) -> tuple[int, int] | None:
        """``(height, width)``, an unknown one taken from the other; ``None`` if both are unknown."""
        side = self.height or self.width
        return (self.height or side, self.width or side) if side else None


def image_input(shape: Dims, layout: Layout = "auto", channels: int | None = None) -> ImageInput:
    """How an input of ``shape`` takes images of ``channels`` channels (``None``: as many as the shape says, else 3).

    ``auto`` means channels first unless only the last dimension equals the number of channels. Raises
    :class:`UnsupportedError` when the rank is not 3 or 4, :class:`InputError` when the channels do not fit.
    """
    dims = [d if isinstance(d, int) and d > 0 else None for d in shape]
    if len(dims) == 3:
        found: ImageInput = ImageInput("nhw", 1, dims[1], dims[2])
    elif len(dims) == 4:
        wanted = channels or next((c for c in (3, 1) if c in (dims[1], dims[3])), 3)
        last = layout == "nhwc" or (layout == "auto" and dims[3] == wanted and dims[1] != wanted)
        axis, height, width = (3, dims[1], dims[2]) if last else (1, dims[2], dims[3])
        found = ImageInput("nhwc" if last else "nchw", dims[axis] or wanted, height, width)
    else:
        raise UnsupportedError(
            f"the model's input of shape {shape_text(shape)} does not take images",
            remedy="give its samples as an .npz of arrays in the model's own shape",
        )
    if found.channels not in (1, 3) or (channels and channels != found.channels):
        having = f", the images have {channels}" if channels else ""
        raise InputError(
            f"the model's input of shape {shape_text(shape)} takes {found.channels} channels{having}",
            remedy="give samples as the model takes them, or state the right layout in the preprocess file",
        )
    return found


def shape_text(shape: Dims) -> str:
    """A shape as users write it: ``[N,3,224,224]``, an unknown dimension as ``?``."""
    return "[" + ",".join("?" if d is None else str(d) for d in shape) + "]"


def central_crop(image: Image.Image, height: int, width: int) -> Image.Image:
    """The central ``height`` x ``width`` pixels; an odd margin leaves the larger part right and below."""
    if (image.height, image.width) == (height, width):
        return image
    if height > image.height or width > image.width:
        raise InputError(
            f"a crop of {height}x{width} does not fit into the image of {image.height}x{image.width}",
            remedy="state 'resize' (the shorter side) in the preprocess file",
        )
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def scale_shorter_side(image: Image.Image, side: int, interpolation: Interpolation) -> Image.Image:
    """``image`` with its shorter side at ``side`` pixels and the longer in proportion, rounded down."""
    shorter = min(image.size)
    if shorter == side:
        return image
    width, height = (side if length == shorter else side * length // shorter for length in image.size)
    return scale(image, height, width, interpolation)


def scale(image: Image.Image, height: int, width: int, interpolation: Interpolation) -> Image.Image:
    """``image`` at ``height`` x ``width`` pixels; raises :class:`LimitError` for more than ``MAX_PIXELS``."""
    if (image.height, image.width) == (height, width):
        return image
    require_pixels(height, width)
    return image.resize((width, height), Image.Resampling[interpolation.upper()])


def fractional_crop(image: Image.Image, fraction: float, size: tuple[int, int]) -> Image.Image:
    """The largest central rectangle with the aspect ratio of ``size``, times ``fraction``; its sides are rounded."""
    tall, wide = size
    if image.width * tall >= image.height * wide:
        height, width = image.height * fraction, image.height * fraction * (wide / tall)
    else:
        height, width = image.width * fraction * (tall / wide), image.width * fraction
    return central_crop(image, max(1, round(height)), max(1, round(width)))


def require_pixels(height: int, width: int) -> None:
    """Raise :class:`LimitError` if an image of that size is too large to decode or make."""
    if height * width > MAX_PIXELS:
        raise LimitError(
            f"an image of {height}x{width} has more than the {MAX_PIXELS} pixels allowed",
            remedy="scale the image down first",
        )
