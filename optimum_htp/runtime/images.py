"""Image preprocessing with Pillow and numpy, equal to transformers' image processors.

`_CLASSES` contains the supported classes; other classes and settings are rejected. Pillow resizes the images, as in
transformers without fast image processors (which need torchvision).
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import ceil, isfinite
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from optimum_htp.errors import ArgumentError, MissingDependencyError
from optimum_htp.libraries.names import EXTRACTOR_CONFIG
from optimum_htp.parsing import json_or_none
from optimum_htp.runtime.rejections import unsupported_preprocessor

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

__all__ = ["ImageProcessor", "load_image_processor"]

Step = Callable[[Any], Any]

_unsupported: Final = partial(unsupported_preprocessor, "image processor")
_BILINEAR: Final = 2
_BICUBIC: Final = 3
_LONGEST: Final = 8192  # pixels
_FILTERS: Final = 6  # of Pillow
_LARGE: Final = 384  # pixels; from this size on, ConvNext's processor does not crop
_SUFFIXES: Final = ("ImageProcessorFast", "ImageProcessor", "FeatureExtractor")


@dataclass(frozen=True)
class _Class:
    """An image processor class.

    Attributes:
        resize: `exact` to height and width, `shortest` by the shortest edge, or the class name for its own rule.
        crops: Whether it crops by default; None if it never crops.
        flips: Whether it swaps red and blue by default.
        resample: Its Pillow filter.
        normalizes: Whether it normalizes.
    """

    resize: str
    crops: bool | None = None
    flips: bool = False
    resample: int = _BILINEAR
    normalizes: bool = True


_CLASSES: Final[Mapping[str, _Class]] = {
    "Beit": _Class("exact", True, resample=_BICUBIC),
    "Bit": _Class("shortest", True, resample=_BICUBIC),
    "Blip": _Class("exact", resample=_BICUBIC),
    "CLIP": _Class("shortest", True, resample=_BICUBIC),
    "ConvNext": _Class("ConvNext"),
    "DeiT": _Class("exact", True, resample=_BICUBIC),
    "Levit": _Class("Levit", True, resample=_BICUBIC),
    "MobileNetV1": _Class("shortest", True),
    "MobileNetV2": _Class("shortest", True),
    "MobileViT": _Class("shortest", True, flips=True, normalizes=False),
    "Pvt": _Class("exact"),
    "Segformer": _Class("exact"),
    "Siglip": _Class("exact", resample=_BICUBIC),
    "ViT": _Class("exact"),
}


@dataclass(frozen=True)
class ImageProcessor:
    """The image processor of a model: steps that run one after the other on pixels of shape (height, width, 3)."""

    steps: tuple[Step, ...]

    def __call__(self, image: Any) -> NDArray[np.float32]:
        """Return the pixels of an image, of shape (3, height, width).

        The image is a Pillow image, a path, the content of a file, or a `data:` URL.

        Raises:
            ArgumentError: It has another type, or Pillow cannot read it.
            MissingDependencyError: Pillow is not installed.
        """
        pixels = np.array(_opened(image))
        for step in self.steps:
            pixels = step(pixels)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32)


def _opened(image: Any) -> Image:
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise MissingDependencyError("Images need Pillow. Run `pip install pillow`.") from error
    if isinstance(image, str) and image.startswith(("http://", "https://")):
        raise ArgumentError(f"{image} is not downloaded. Use a path, the content of the file, or a Pillow image.")
    try:
        if isinstance(image, str) and image.startswith("data:image/"):
            image = base64.b64decode(image.partition(",")[2])
        if isinstance(image, (bytes, bytearray)):
            image = Image.open(io.BytesIO(image))
        elif isinstance(image, (str, os.PathLike)):
            image = Image.open(image)
        if not isinstance(image, Image.Image):
            raise ArgumentError(f"An image must be a path, bytes or a Pillow image, not {type(image).__name__}.")
        return ImageOps.exif_transpose(image).convert("RGB")
    except ArgumentError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ArgumentError(f"The image cannot be read: {error}.") from error


def load_image_processor(files: Mapping[str, bytes], name: str) -> ImageProcessor:
    """Return the image processor of a model from the contents of its preprocessor files.

    Raises:
        PreprocessorLoadError: It has no image processor, or an unsupported one.
    """
    settings = json_or_none(files[EXTRACTOR_CONFIG]) if EXTRACTOR_CONFIG in files else None
    if not isinstance(settings, dict):
        raise _unsupported(name, f"it has no {EXTRACTOR_CONFIG}")
    named = str(settings.get("image_processor_type") or settings.get("feature_extractor_type"))
    suffix = next((one for one in _SUFFIXES if named.endswith(one)), None)
    known = _CLASSES.get(named.removesuffix(suffix or ""))
    if known is None:
        raise _unsupported(name, f"its class {named} is unsupported")
    try:
        return ImageProcessor(tuple(_steps(settings, known)))
    except (KeyError, OverflowError, TypeError, ValueError) as error:
        raise _unsupported(name, f"a setting of its {EXTRACTOR_CONFIG} is unsupported ({error})") from error


def _steps(settings: Mapping[str, Any], known: _Class) -> list[Step]:
    steps = []
    if settings.get("do_resize", True):
        steps.append(_resize(settings, known))
    if known.crops is None and settings.get("do_center_crop"):
        raise ValueError("do_center_crop, which this class has only in transformers 5")
    if known.crops is not None and settings.get("do_center_crop", known.crops):
        height, width = _square(settings["crop_size"])
        steps.append(lambda pixels: _cropped(pixels, height, width))
    if settings.get("do_rescale", True):
        factor = float(settings.get("rescale_factor", 1 / 255))
        if not isfinite(factor):
            raise ValueError(f"rescale_factor={factor}")
        steps.append(lambda pixels: (pixels.astype(np.float64) * factor).astype(np.float32))
    if known.normalizes and settings.get("do_normalize", True):
        mean, std = _numbers(settings["image_mean"], zero=True), _numbers(settings["image_std"], zero=False)
        steps.append(lambda pixels: (pixels.astype(np.float32) - mean) / std)
    if known.flips and settings.get("do_flip_channel_order", True):
        steps.append(lambda pixels: pixels[..., ::-1])
    return steps


def _square(size: Any) -> tuple[int, int]:
    """Return height and width from an object, a pair, or one number for both."""
    if isinstance(size, Mapping):
        height, width = size["height"], size["width"]
    else:
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
    return _edge(height), _edge(width)


def _edge(size: Any) -> int:
    if not isinstance(size, int) or not 0 < size <= _LONGEST:
        raise ValueError(f"a size of {str(size)[:20]} pixels")
    return size


def _numbers(values: Any, *, zero: bool) -> NDArray[np.float32]:
    """Return one number, or one per colour."""
    found = np.array(values, dtype=np.float32)
    if found.shape not in ((), (3,)) or not np.isfinite(found).all() or (not zero and (found == 0).any()):
        raise ValueError("image_mean and image_std need three numbers, and image_std no zero")
    return found


def _resize(settings: Mapping[str, Any], known: _Class) -> Step:
    size, resample = settings["size"], settings.get("resample", known.resample)
    if not isinstance(resample, int) or resample not in range(_FILTERS):
        raise ValueError(f"resample={str(resample)[:20]}")
    is_exact = isinstance(size, Mapping) and {*size} == {"height", "width"} and known.resize != "ConvNext"
    if known.resize == "exact" or is_exact:
        height, width = _square(size)
        return lambda pixels: _resized(pixels, height, width, resample)
    edge = _edge(size["shortest_edge"] if isinstance(size, Mapping) else size)
    if isinstance(size, Mapping) and {*size} != {"shortest_edge"}:
        raise ValueError(f"size with {', '.join(map(str, size))}")
    if known.resize == "Levit":
        edge = int((256 / 224) * edge)
    elif known.resize == "ConvNext":
        fraction = float(settings.get("crop_pct") or 224 / 256)
        if not edge / _LONGEST <= fraction <= 1:
            raise ValueError(f"crop_pct={fraction}")
        return lambda pixels: _resized_as_convnext(pixels, edge, fraction, resample)
    return lambda pixels: _resized(pixels, *_by_shortest(pixels, edge), resample)


def _resized(pixels: Any, height: int, width: int, resample: int) -> Any:
    from PIL import Image

    if not (height > 0 and width > 0 and height * width <= _LONGEST**2):
        raise ArgumentError(f"The image would be resized to {height} x {width} pixels, which exceeds the limit.")
    return np.array(Image.fromarray(pixels).resize((width, height), resample=Image.Resampling(resample)))


def _by_shortest(pixels: Any, edge: int) -> tuple[int, int]:
    """Return the new height and width of an image if its shortest edge gets a given size."""
    height, width = pixels.shape[:2]
    longest = int(edge * max(height, width) / min(height, width))
    return (longest, edge) if width <= height else (edge, longest)


def _resized_as_convnext(pixels: Any, edge: int, fraction: float, resample: int) -> Any:
    if edge >= _LARGE:
        return _resized(pixels, edge, edge, resample)
    whole = _resized(pixels, *_by_shortest(pixels, int(edge / fraction)), resample)
    return _cropped(whole, edge, edge)


def _cropped(pixels: Any, height: int, width: int) -> Any:
    """Return the centre of an image. Add a black border if the image is too small."""
    own_height, own_width = pixels.shape[:2]
    top, left = (own_height - height) // 2, (own_width - width) // 2
    if top >= 0 and left >= 0:
        return pixels[top : top + height, left : left + width]
    whole = np.zeros((max(height, own_height), max(width, own_width), pixels.shape[2]), dtype=pixels.dtype)
    above, before = ceil((whole.shape[0] - own_height) / 2), ceil((whole.shape[1] - own_width) / 2)
    whole[above : above + own_height, before : before + own_width] = pixels
    top, left = top + above, left + before
    return whole[max(0, top) : top + height, max(0, left) : left + width]
