"""The one way in which an image file is opened: its kind, which side is up, its values in 8 bit.

Audit, training, prediction, hashes and figures all read through here, so none sees another picture
than the others, and a file that cannot be read has the same reason everywhere.
"""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.ExifTags import Base as Tag

PICTURE_ENDINGS = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".gif", ".webp")
# All that Pillow may try: EPS would start a program.
_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "GIF", "WEBP")
_SIGNATURES = (b"\x89PNG", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"GIF8")
# Bytes; a larger file is no single scan, and several read at once would fill the memory.
_LARGEST_FILE = 2**28
_UPRIGHT = {  # value of the orientation tag -> how to turn the picture
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = [_UPRIGHT[value] for value in (5, 6, 7, 8)]
# Where the orientation of a PNG is said, which may be behind the pixels.
_TURNED_PNG = re.compile(rb"eXIf|Raw profile type|XML:com\.adobe\.xmp")


class UnreadableImage(ValueError):
    """A file that is not a whole image; the message says why, and from `read` also which file."""


def read(
    path: str | Path,
    mode: str = "L",
    least: tuple[int, int] | None = None,
    data: bytes | None = None,
    window: tuple[float, float] | None = None,
) -> Image.Image:
    """Read the picture in a file, upright as viewers show it.

    Parameters
    ----------
    path : str or Path
    mode : "L" (grey) or "RGB", always with 8 bits; deeper grey pixels are scaled by their own least
        and greatest, of deeper colors the high bytes count, which is what Pillow gives. A DICOM
        file is shown in its own window (see `dicom.picture`).
    least : (width, height) that suffices; a large JPEG then decodes straight to the half, quarter
        or eighth that is no smaller.
    data : bytes of the file where they have been read already; None reads them.
    window : (low, high), the values of deeper grey pixels that are shown black and white, in place
        of their own least and greatest; in a DICOM file those of any grey, after its rescale and in
        place of its own window. Colors and grey of 8 bits stay.

    Returns
    -------
    PIL.Image.Image

    Raises
    ------
    UnreadableImage
        Naming file and cause.
    """
    try:
        data = content(path) if data is None else data
        if _is_dicom(data):
            return _in_dicom(data, window).convert(mode)
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _check(image, data)
            height = image.height
            if least:
                image.draft(mode, least)
            _load(image, data, 4 * image.height // height or 1)
            picture, turn = _eight_bit(image, mode, window), _turn(image)
            return picture if turn is None else picture.transpose(turn)
    except Exception as error:
        raise UnreadableImage(f"{path}: {_reason(error, data or b'')}") from None


def look(data: bytes, decode: bool = True) -> tuple[tuple[int, int, str] | None, str]:
    """Look for damage in the bytes of a file.

    Parameters
    ----------
    data : bytes
    decode : bool, False leaves the pixels of a JPEG or PNG packed, and some damage unseen; a DICOM
        file is decoded in any case, as only that tells whether it can be.

    Returns
    -------
    tuple ((width, height, mode), problem): the size as it is seen, None where the file tells none;
        "" where all is well.
    """
    header = None
    try:
        if _is_dicom(data):
            image = _in_dicom(data)
            return (*image.size, image.mode), ""
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            header = (*image.size, image.mode)
            _check(image, data)
            packed_png = image.format == "PNG" and not _TURNED_PNG.search(data)
            if decode or not (packed_png or image.format in ("JPEG", "MPO")):
                _load(image, data, 4)
                if image.mode not in ("L", "RGB"):  # NaN, and colors that cannot be converted
                    _eight_bit(image, "L")
            turn = None if packed_png else _turn(image)
            header = (*(image.size[::-1] if turn in _SIDEWAYS else image.size), header[2])
    except Exception as error:
        return header, _reason(error, data)
    return header, ""


def content(path: str | Path) -> bytes:
    """Read the bytes of a file.

    Parameters
    ----------
    path : str or Path, of a file or of one in a tar file, `train-000003.tar/CNV/CNV-12.jpg`.

    Returns
    -------
    bytes

    Raises
    ------
    UnreadableImage
        For what is no file, cannot be read or is too large for a scan.
    """
    try:
        if place := _in_shard(path):
            if place.length > _LARGEST_FILE:
                raise UnreadableImage("larger than any single scan")
            return place.read()
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # a pipe would wait for ever
            raise UnreadableImage("not a file")
        if status.st_size > _LARGEST_FILE:
            raise UnreadableImage("larger than any single scan")
        with open(path, "rb") as file:  # a Path takes longer
            return file.read()
    except OSError as error:
        raise UnreadableImage(f"cannot be read ({error.strerror})") from None


def is_image(path: str | os.PathLike, root: str | os.PathLike = "") -> bool:
    """Whether a file is an image: by its ending, or by its first bytes where it lacks one.

    Parameters
    ----------
    path : str or path-like, as for `content`.
    root : str or path-like, the folder from which it starts.

    Returns
    -------
    bool
    """
    if os.fspath(path).lower().endswith(PICTURE_ENDINGS):
        return True
    from . import dicom

    return dicom.is_dicom(path, root)


def refuse_among(place: str | Path, root: str | Path, what: str, beside: str) -> None:
    """Refuse to make a folder among images in class folders: it would pass for a class there.

    Parameters
    ----------
    place : str or Path, the folder to make
    root : str or Path, the folder with the class folders
    what : str, what it would be, such as "feature store"
    beside : str, a folder beside `root` to propose

    Raises
    ------
    ValueError
        Where the place is `root` or below it.
    """
    if Path(os.path.realpath(place)).is_relative_to(os.path.realpath(root)):
        raise ValueError(
            f"the {what} would be {place}, which lies in {root}, the folder of the images, and "
            f"would pass for one of their classes; choose a folder beside it, such as {beside}"
        )


def _is_dicom(data: bytes) -> bool:
    return data[128:132] == b"DICM"


def _in_dicom(data: bytes, window: tuple[float, float] | None = None) -> Image.Image:
    from . import dicom

    try:
        return dicom.picture(data, window=window)
    except ValueError as error:
        raise UnreadableImage(str(error)) from None


def state(path: str | Path) -> tuple[int, int] | None:
    """What changes when an image file does, without reading it.

    Parameters
    ----------
    path : str or Path, as for `content`.

    Returns
    -------
    tuple (bytes, time of the last change in nanoseconds), of an image in a tar file its own bytes
        and the tar file's time; None where there is no such file.
    """
    try:
        if place := _in_shard(path):
            return place.length, place.changed
        status = os.stat(path)
    except (OSError, ValueError):  # a name that no file can have, a damaged tar file
        return None
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def _in_shard(path: str | Path) -> tuple | None:
    """The `tars.Place` of an image in a tar file; None for other paths."""
    if ".tar" not in os.fspath(path):
        return None
    from . import tars  # not above: copied alone, this file reads plain files

    try:
        return tars.locate(path)
    except ValueError as error:
        raise UnreadableImage(str(error)) from None


def _reason(error: Exception, data: bytes) -> str:
    if isinstance(error, (UnreadableImage, ImportError)):
        return str(error)
    if data.startswith(b"\xff\xd8\xff") and not _jpeg_ends(data):
        return "truncated JPEG (no end marker)"
    if isinstance(error, Image.DecompressionBombError):
        return "too many pixels (a decompression bomb)"
    if isinstance(error, Image.UnidentifiedImageError) and data.startswith(_SIGNATURES):
        return "damaged image, or of a kind that cannot be read"
    if isinstance(error, Image.UnidentifiedImageError):
        return f"not an image (begins with {data[:12]!r})" if data else "empty file"
    # Pillow raises OSError, SyntaxError, struct.error... for damaged files
    return f"damaged image ({str(error) or type(error).__name__})"


def _check(image: Image.Image, data: bytes) -> None:
    """Refuse an opened image that is cut, has a wrong checksum or is one of several."""
    if image.format in ("JPEG", "MPO"):  # the others of an MPO are previews
        if not _jpeg_ends(data):
            raise UnreadableImage("truncated JPEG (no end marker)")
        return
    if image.format == "PNG":  # all checksums; decoding looks at few
        Image.open(io.BytesIO(data), formats=_FORMATS).verify()
    size = image.size
    try:
        image.seek(1)
    except EOFError:
        return
    if image.size == size:  # a smaller one is a preview
        raise UnreadableImage("several pictures in one file; save each as a file of its own")
    image.seek(0)


def _jpeg_ends(data: bytes) -> bool:
    """Whether an end marker follows a JPEG's scan; one inside a segment belongs to a preview."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        at += 1 if data[at + 1] == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return data.find(b"\xff\xd9", at) >= 0


def _load(image: Image.Image, data: bytes, rows: int) -> None:
    """Decode, and refuse missing rows, which decoders silently fill: in JPEG with 128, else with 0.

    rows : so many at the bottom of a JPEG have to be what was filled in.
    """
    if image.format == "TIFF":
        stored = np.max([box for _, box, *_ in image.tile], axis=0)[2:]
        if stored.prod() < np.prod(image.size):
            raise UnreadableImage("truncated TIFF (rows are missing)")
    image.load()
    if image.format == "PNG":
        last = image.crop((0, image.height - 1, *image.size))
        if not np.asarray(last).any() and _png_lacks_rows(data):
            raise UnreadableImage("truncated PNG (rows are missing)")
    if image.format in ("JPEG", "MPO"):
        last = (0, max(0, image.height - rows), *image.size)
        if _is_filling(image, last) and not _is_filling(image, (0, 0, image.width, rows)):
            raise UnreadableImage("truncated JPEG (grey at the bottom)")


def _is_filling(image: Image.Image, box: tuple[int, int, int, int]) -> bool:
    return image.crop(box).convert("L").getextrema() == (128, 128)


def _png_lacks_rows(data: bytes) -> bool:
    width, height, depth, color, *_, interlaced = struct.unpack(">IIBBBBB", data[16:29])
    wanted = height * (1 + -(-width * depth * {2: 3, 4: 2, 6: 4}.get(color, 1) // 8))
    packed, at = [], 8
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        packed += [data[at + 8 : at + 8 + size]] if data[at + 4 : at + 8] == b"IDAT" else []
        at += size + 12
    unpack = zlib.decompressobj().decompress
    return not interlaced and len(unpack(b"".join(packed), wanted)) < wanted


def _turn(image: Image.Image) -> Image.Transpose | None:
    """How to turn the picture upright; a TIFF that is loaded has done so itself."""
    try:
        return _UPRIGHT.get(image.getexif().get(Tag.Orientation))
    except Exception:  # damaged metadata tell nothing; the pixels may be whole
        return None


def _eight_bit(
    image: Image.Image, mode: str, window: tuple[float, float] | None = None
) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        values = _deep(image)
        low, high = values.min(), values.max()
        if not np.isfinite([low, high]).all():
            raise UnreadableImage("pixels that are no finite numbers (NaN or infinite)")
        if window is not None:
            low, high = (-window[1], -window[0]) if _is_white_low(image) else window
        shares = ((values - low) / ((high - low) or 1)).clip(0, 1)
        image = Image.fromarray((shares * 255).astype(np.uint8))
    elif image.mode == "L" and _tag(image, Tag.SampleFormat) == 2:
        image = Image.fromarray(np.asarray(image) ^ 128)  # -128 ... 127 -> 0 ... 255
    return image.convert(mode)


def _deep(image: Image.Image) -> np.ndarray:
    """Deep pixels as float64, the brightest highest: Pillow minds a TIFF's tags in 8 bits only."""
    values = np.asarray(image)
    unsigned = _tag(image, Tag.SampleFormat) == 1 and _tag(image, Tag.BitsPerSample) == 32
    if image.mode == "I" and unsigned:
        values = values.view(np.uint32)
    values = values.astype(np.float64)
    return -values if _is_white_low(image) else values


def _is_white_low(image: Image.Image) -> bool:
    return _tag(image, Tag.PhotometricInterpretation) == 0


def _tag(image: Image.Image, number: int) -> int | None:
    """What a TIFF's tag says, of the first channel; None for other files."""
    value = image.tag_v2.get(number) if image.format == "TIFF" else None
    return value[0] if isinstance(value, tuple) else value
