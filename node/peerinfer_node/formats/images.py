"""Image files as the one image input of a model: decoded when their rows are asked for, never before.

The model's shape says channels, layout and size; what it leaves free the caller says, or the images themselves if they
agree. An image is turned as its EXIF tag says, converted to grey or RGB, stretched to the size (bilinear), scaled to
0..1 and normalised with mean and standard deviation. A model that takes uint8 gets the pixels as they are.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from peerinfer.binding import quoted, shape_text
from peerinfer.errors import InputError
from peerinfer.tensors import Port
from peerinfer_node.formats.source import Array, SourceFile, check_path, legible, reason_of, size_text, unreadable

if TYPE_CHECKING:
    from PIL import Image

IMAGE_EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff")
_PILLOW_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF")

IMAGE_PIXELS_MAX = 8192 * 8192
"""A file of a few kB may claim any number of pixels."""

IMAGE_FILE_BYTES_MAX = 1 << 30
"""A file is read whole to be decoded and hashed."""

# What Pillow thinks of a damaged tag belongs in no one's terminal: an image is read, or refused in our words.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())

_FLOATS = ("float16", "float32", "float64")


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """What the user says about images; see `control.JobRequest` for the meaning."""

    size: tuple[int, int] | None = None
    layout: str = "auto"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)


@dataclass(frozen=True, slots=True)
class _Plan:
    """How one image becomes one item."""

    dtype: str
    channels: int
    channels_last: bool | None
    """None: the model has no axis for channels."""
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def row(self) -> tuple[int, ...]:
        if self.channels_last is None:
            return (self.height, self.width)
        if self.channels_last:
            return (self.height, self.width, self.channels)
        return (self.channels, self.height, self.width)


class ImageColumn:
    """One item per image file."""

    def __init__(self, files: Sequence[SourceFile], plan: _Plan) -> None:
        self._files = tuple(files)
        self._plan = plan
        self.dtype = plan.dtype
        self.shape = (len(files), *plan.row)

    def read(self, start: int, stop: int) -> Array:
        rows = np.empty((stop - start, *self._plan.row), self.dtype)
        for row, file in zip(rows, self._files[start:stop], strict=True):
            row[...] = _decode(file, self._plan)
        return rows

    def digest(self, start: int, stop: int) -> bytes:
        """SHA-256 over the files' bytes and everything that turns them into numbers."""
        whole = hashlib.sha256(f"image/1 {self._plan}".encode())
        for file in self._files[start:stop]:
            whole.update(hashlib.sha256(file.read(0, file.size_bytes).data).digest())
        return whole.digest()


def open_images(
    paths: Sequence[str], ports: Sequence[Port], options: ImageOptions
) -> tuple[str, ImageColumn, tuple[str, ...], tuple[str, ...]]:
    """The input's name, its column, the files' names and warnings. Raises `InputError`."""
    if len(ports) != 1:
        names = ", ".join(quoted(port.name) for port in ports[:8])
        raise InputError(
            f"images fill one input, and the model takes {len(ports)}: {names}; give .npz, .parquet or .jsonl"
        )
    found, notes = _files(paths)
    files = [SourceFile(path) for path in found]
    sizes: dict[tuple[int, int], str] = {}
    several = 0
    for file in files:
        size, frames = _look(file)
        sizes.setdefault(size, file.path)
        several += frames > 1
    if several:
        notes.append(f"{several} images have several frames or pages; only the first of each is used")
    plan = _plan(ports[0], options, sizes)
    return ports[0].name, ImageColumn(files, plan), tuple(os.path.basename(path) for path in found), tuple(notes)


def _files(paths: Sequence[str]) -> tuple[list[str], list[str]]:
    found: list[str] = []
    notes: list[str] = []
    for path in paths:
        check_path(path, folder=True)
        if not os.path.isdir(path):
            found.append(path)
            continue
        try:
            names = sorted(entry.name for entry in os.scandir(path) if entry.is_file() and entry.name[0] != ".")
        except OSError as error:
            raise unreadable(path, error) from None
        images = [name for name in names if name.lower().endswith(IMAGE_EXTENSIONS)]
        if not images:
            raise InputError(
                f"the folder {legible(path)} holds no images ({', '.join(IMAGE_EXTENSIONS)}); subfolders are not read"
            )
        if len(images) < len(names):
            notes.append(f"{legible(path)}: {len(names) - len(images)} files that are not images were left out")
        found += [os.path.join(path, name) for name in images]
    return found, notes


def _look(file: SourceFile) -> tuple[tuple[int, int], int]:
    """Height and width as people see the image, and the number of frames; from the header alone."""
    if file.size_bytes > IMAGE_FILE_BYTES_MAX:
        raise InputError(f"{file.path} is larger than {size_text(IMAGE_FILE_BYTES_MAX)}; make the image smaller")
    with file.open() as raw:
        found: tuple[tuple[int, int], int] = _translated(file.path, lambda: _shape(_opened(raw)))
    return found


def _shape(image: Image.Image) -> tuple[tuple[int, int], int]:
    turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    width, height = image.size
    return ((width, height) if turned else (height, width)), int(getattr(image, "n_frames", 1))


def _opened(stream: Any) -> Image.Image:
    from PIL import Image

    image = Image.open(stream, formats=_PILLOW_FORMATS)
    if image.width * image.height > IMAGE_PIXELS_MAX:
        raise InputError(f"{image.width} x {image.height} pixels pass the limit of {IMAGE_PIXELS_MAX}; make it smaller")
    return image


def _translated(path: str, act: Callable[[], Any]) -> Any:
    """Pillow meets hostile bytes with OSError, SyntaxError, struct.error, its own bomb error and more."""
    try:
        return act()
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:
        reason = "" if "cannot identify" in str(error) else f" ({reason_of(error)})"
        raise InputError(f"{path} is not a whole image{reason}; convert or copy it anew, or take it out") from None


def _decode(file: SourceFile, plan: _Plan) -> Array:
    data = file.read(0, file.size_bytes)
    pixels: Array = _translated(file.path, lambda: _pixels(_opened(io.BytesIO(data.data)), plan))
    if plan.channels_last is None:
        pixels = pixels[:, :, 0]
    if plan.dtype != "uint8":
        floats: Array = pixels.astype(np.float32) / np.float32(255)
        if plan.mean != (0.0,) or plan.std != (1.0,):
            floats = (floats - np.asarray(plan.mean, np.float32)) / np.asarray(plan.std, np.float32)
        pixels = floats
    return pixels.transpose(2, 0, 1) if plan.channels_last is False else pixels


def _pixels(image: Image.Image, plan: _Plan) -> Array:
    """Height x width x channels, 0 to 255."""
    from PIL import Image, ImageOps

    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        # Pillow's own conversion would clip 16 bits to 255 instead of scaling them.
        image = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise InputError("32-bit pixels have no agreed range; convert it to 8 or 16 bits")
    image = image.convert("RGB" if plan.channels == 3 else "L")
    if image.size != (plan.width, plan.height):
        image = image.resize((plan.width, plan.height), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def _plan(port: Port, options: ImageOptions, sizes: dict[tuple[int, int], str]) -> _Plan:
    takes = f"input {quoted(port.name)}: the model takes {shape_text(port.dtype, port.shape)}"
    if port.dtype not in (*_FLOATS, "uint8"):
        raise InputError(f"{takes}, and images give float32 or uint8; prepare the pixels yourself and give .npz")
    if port.dtype == "uint8" and (options.mean != (0.0,) or options.std != (1.0,)):
        raise InputError(f"{takes}: pixels as they are; leave --image-mean and --image-std out")
    channels_last, axes = _layout(port, options.layout, takes)
    channels = 1
    if channels_last is not None:
        channels = axes.pop(2 if channels_last else 0)
        channels = 3 if channels < 0 else channels
    if channels not in (1, 3):
        raise InputError(f"{takes} with {channels} channels, and images give 1 or 3; try --image-layout or give .npz")
    for what, values in (("--image-mean", options.mean), ("--image-std", options.std)):
        if len(values) not in (1, channels):
            raise InputError(f"{takes}, so {what} is one number or {channels}, given {len(values)}")
    height, width = _size(axes, options.size, sizes, takes)
    return _Plan(port.dtype, channels, channels_last, height, width, options.mean, options.std)


def _layout(port: Port, layout: str, takes: str) -> tuple[bool | None, list[int]]:
    """Whether channels come last (None: no axis for them), and the dimensions of one image."""
    shape = list(port.shape)
    if len(shape) == 4:
        axes = shape[1:]
    elif len(shape) == 3 and (shape[0] in (1, 3) or shape[2] in (1, 3)):
        axes = shape
    elif len(shape) == 3:
        return None, shape[1:]
    else:
        raise InputError(f"{takes}, which is no image (3 or 4 axes); prepare the pixels yourself and give .npz")
    if layout != "auto":
        return layout == "nhwc", axes
    if axes[0] in (1, 3):
        return False, axes
    if axes[2] in (1, 3):
        return True, axes
    if axes[0] < 0 <= axes[2]:
        return False, axes
    raise InputError(f"{takes}, which does not tell where the channels are; say --image-layout nchw or nhwc")


def _size(
    axes: Sequence[int], wanted: tuple[int, int] | None, sizes: dict[tuple[int, int], str], takes: str
) -> tuple[int, int]:
    for side, have, name in zip(wanted or (), axes, ("high", "wide"), strict=False):
        if 0 <= have != side:
            raise InputError(f"{takes}, {have} pixels {name}; --image-size says {side}")
    if wanted is not None:
        height, width = wanted
    elif axes[0] >= 0 and axes[1] >= 0:
        height, width = axes
    elif len(sizes) == 1:
        own = next(iter(sizes))
        height, width = (have if have >= 0 else side for have, side in zip(axes, own, strict=True))
    else:
        (one, first), (two, second) = list(sizes.items())[:2]
        raise InputError(
            f"{takes} of any size, and the images differ ({first} is {one[0]}x{one[1]}, {second} is {two[0]}x{two[1]}); "
            "say --image-size HEIGHTxWIDTH"
        )
    if height < 1 or width < 1 or height * width > IMAGE_PIXELS_MAX:
        raise InputError(f"{takes}: images of {height}x{width} pixels are not possible")
    return height, width
