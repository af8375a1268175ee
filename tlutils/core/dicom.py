"""The picture in a DICOM file as viewers first show it, and the patient whom the file names.

Grey values go through the modality transformation (rescale or lookup table), the window (VOI: the
first lookup table, else the first window center and width), then MONOCHROME1, where low is light,
is inverted. Overlays and annotations that are no pixels are left out; those burned in stay.
"""

from __future__ import annotations

import io
import os
import re
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from PIL import Image

from . import tars
from .packages import needed

if TYPE_CHECKING:
    from pydicom import Dataset

ENDINGS = (".dcm", ".dicom", ".ima")  # of files' names
_PACKAGE = "'pydicom>=3.0.1'"
LACKS_PACKAGE = f"this needs {_PACKAGE}"  # how it begins what `needed` says of it
_VERSION = re.compile(r";\d+$")
_DEFLATED = "1.2.840.10008.1.2.1.99"
# Bytes, packed or unpacked, as of any image file.
_LARGEST = 2**28
_COLORS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_PATIENT_ID, _COLUMNS = 0x00100020, 0x00280011


class _Refused(ValueError):
    """What is whole, but shows no one picture that can be read here."""


def lacks_ending(path: str | os.PathLike) -> bool:
    """Whether a file's name leaves open what it is, so that its first bytes must tell.

    Archives and CDs name DICOM files IM000001 or 1.2.840.10008.5.1. A CD's DICOMDIR lists them and
    has no picture. A version behind a name, as CDs have it (IM000001.;1), does not count.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    bool
    """
    name = _VERSION.sub("", os.path.basename(path))
    ending = os.path.splitext(name)[1][1:]
    return (not ending or ending.isdecimal()) and name.rstrip(".").upper() != "DICOMDIR"


def is_dicom(path: str | os.PathLike, root: str | os.PathLike = "") -> bool:
    """Whether a file is DICOM: by its ending, or by its first bytes where it lacks one.

    Parameters
    ----------
    path : str or path-like, of a file or of one in a tar file, as for `images.content`.
    root : str or path-like, the folder from which it starts.

    Returns
    -------
    bool
    """
    if not lacks_ending(path):
        return _VERSION.sub("", os.fspath(path)).lower().endswith(ENDINGS)
    path = os.path.join(root, path)
    try:
        if place := tars.locate(path):
            return place._replace(length=min(132, place.length)).read()[128:] == b"DICM"
        if not os.path.isfile(path):  # a pipe would wait for ever
            return False
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except (OSError, ValueError):
        return False


def picture(
    data: bytes, frame: int | None = None, window: tuple[float, float] | None = None
) -> Image.Image:
    """The picture in the bytes of a DICOM file.

    Parameters
    ----------
    data : bytes
    frame : int, which of several frames is meant, from 0; None is for files that have one.
    window : (low, high), the values after the modality transformation that are shown black and
        white; None takes the file's own.

    Returns
    -------
    PIL.Image.Image
        Of mode L or RGB, 8 bit. Without a window, grey of more than 8 bits is scaled by its own
        least and greatest, grey of up to 8 bits by what so many bits can hold; of deeper colors the
        high bytes count. Padding is black, and counts for no least or greatest.

    Raises
    ------
    ImportError
        Where pydicom is not there, naming what to install.
    ValueError
        Saying why there is no picture: none or several in the file, too many pixels, a compression
        that no installed package decodes (naming those that would), damage.
    """
    needed("pydicom.pixels", _PACKAGE)
    try:
        dataset = _opened(io.BytesIO(data))
        _use_values_of_frame(dataset, frame or 0)
        _check(dataset, frame)
        return Image.fromarray(_eight_bit(dataset, _decoded(dataset, frame or 0), window))
    except _Refused:
        raise
    except Exception as error:  # pydicom raises all kinds for damaged files
        raise ValueError(f"damaged DICOM file ({str(error) or type(error).__name__})") from None


def size(data: bytes) -> tuple[int, int] | None:
    """How many pixels the header of a DICOM file names; none is decoded.

    Parameters
    ----------
    data : bytes

    Returns
    -------
    (width, height), None for other files and where the header cannot be read.
    """
    if data[128:132] != b"DICM":
        return None
    try:
        dataset = _opened(io.BytesIO(data), lambda tag, *_: tag > _COLUMNS)
        return int(dataset.Columns), int(dataset.Rows)
    except Exception:  # reading the picture will say what is wrong
        return None


def patient(path: str | os.PathLike) -> str:
    """The PatientID in the head of a DICOM file; the patient's name is never looked at.

    Parameters
    ----------
    path : str or path-like, of a file or of one in a tar file, as for `images.content`.

    Returns
    -------
    str, "" where the file cannot be read or names none.

    Raises
    ------
    ImportError
        Where pydicom is not there, naming what to install.
    """
    needed("pydicom", _PACKAGE)
    try:
        place = tars.locate(path)
        # a pipe would wait for ever
        if not (place or os.path.isfile(path)):
            return ""
        if (place.length if place else os.path.getsize(path)) > _LARGEST:
            return ""
        with io.BytesIO(place.read()) if place else open(path, "rb") as file:
            dataset = _opened(file, lambda tag, *_: tag > _PATIENT_ID)
            return str(dataset.get("PatientID") or "").strip()
    except Exception:  # reading the picture will say what is wrong
        return ""


def _opened(file: BinaryIO, stop: Callable[..., bool] | None = None) -> Dataset:
    """What a file holds, up to where it may stop; of a deflated one never more than fits."""
    reader = needed("pydicom.filereader", _PACKAGE)
    reader.read_preamble(file, force=False)
    meta = reader.read_dataset(file, False, True, stop_when=lambda tag, *_: tag >> 16 != 2)
    if meta.get("TransferSyntaxUID") == _DEFLATED:
        unpack = zlib.decompressobj(-zlib.MAX_WBITS).decompress
        if len(unpack(file.read(), _LARGEST + 1)) > _LARGEST:
            raise _Refused("unpacks to more than any single scan (a decompression bomb)")
    file.seek(0)
    return reader.read_partial(file, stop)


def _check(dataset: Dataset, frame: int | None) -> None:
    """Refuse by the header alone what shows no one picture, or one too large to decode."""
    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        what = getattr(dataset.get("SOPClassUID"), "name", "of an unknown kind")
        raise _Refused(f"a DICOM file without a picture ({what})")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frame is None and frames > 1:
        raise _Refused(
            f"{frames} frames in one DICOM file; save the one that is meant, the middle one for "
            "example, as an image of its own: tlutils.core.dicom.picture(data, "
            f"frame={frames // 2}).save('frame.png'), where data are the file's bytes"
        )
    if frame is not None and not 0 <= frame < frames:
        raise _Refused(f"no frame {frame} in a DICOM file of {frames}, which count from 0")
    if dataset.Rows * dataset.Columns > 2 * (Image.MAX_IMAGE_PIXELS or float("inf")):
        raise _Refused("too many pixels (a decompression bomb)")
    kind = dataset.PhotometricInterpretation
    if kind not in ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", *_COLORS):
        raise _Refused(f"pixels in {kind}, which is not read; save it as RGB or grey")


def _use_values_of_frame(dataset: Dataset, frame: int) -> None:
    """Put an enhanced file's rescale and window of a frame where other files have them."""
    every = dataset.get("SharedFunctionalGroupsSequence") or []
    each = dataset.get("PerFrameFunctionalGroupsSequence") or []
    for groups in (*every[:1], *each[frame : frame + 1]):
        for name in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for values in (groups.get(name) or [])[:1]:
                dataset.update(values)


def _decoded(dataset: Dataset, frame: int) -> np.ndarray:
    """The stored values of a frame, colors as RGB: (rows, columns) or (rows, columns, 3)."""
    pixels = needed("pydicom.pixels", _PACKAGE)
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        decoder = pixels.get_decoder(syntax)
    except NotImplementedError:
        raise _Refused(f"pixels in {syntax.name} ({syntax}), which pydicom cannot decode") from None
    length = needed("pydicom.pixels.utils", _PACKAGE).get_expected_length(dataset)
    if syntax.is_encapsulated and len(dataset.PixelData) > 2 * length + 2**16:
        raise _Refused("far more packed bytes than pixels (a decompression bomb)")
    missing = " ".join(decoder.missing_dependencies)
    install = f"pip install {' '.join(sorted({*re.findall(r'pylibjpeg[-a-z]*', missing)}))}"
    if not decoder.is_available:
        raise _Refused(
            f"pixels in {syntax.name} ({syntax}), which no package here decodes; {install}"
        )
    try:
        return pixels.pixel_array(dataset, index=frame)
    except RuntimeError as error:  # each of its decoders has failed
        reason = re.sub(r" <_io\.\S+ object at \w+>", "", str(error).partition(":")[2])
        reason = " ".join(reason.split())
        help_ = f"; it is damaged, or needs another decoder: {install}" if missing else ""
        raise _Refused(
            f"pixels in {syntax.name} that cannot be decoded ({reason}){help_}"
        ) from None


def _eight_bit(
    dataset: Dataset, stored: np.ndarray, window: tuple[float, float] | None
) -> np.ndarray:
    """uint8 of the same shape, or (rows, columns, 3) for a palette."""
    kind = dataset.PhotometricInterpretation
    if kind == "PALETTE COLOR":
        colors = needed("pydicom.pixels", _PACKAGE).apply_color_lut(stored, dataset)
        return (colors >> 8 * (colors.dtype.itemsize - 1)).astype(np.uint8)
    if kind in _COLORS:
        return (stored >> max(0, dataset.BitsStored - 8)).astype(np.uint8)
    padding = _is_padding(dataset, stored)
    values, black, white = _windowed(dataset, stored, padding, window)
    if not np.isfinite([values.min(), values.max()]).all():
        raise _Refused("pixels that are no finite numbers (NaN or infinite)")
    shares = (values - black) / ((white - black) or 1)
    grey = (shares.clip(0, 1) * 255).astype(np.uint8)
    grey = 255 - grey if kind == "MONOCHROME1" else grey
    return np.where(padding, np.uint8(0), grey)


def _is_padding(dataset: Dataset, stored: np.ndarray) -> np.ndarray:
    """bool of the same shape: what only fills the picture up to a rectangle."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, bool)
    ends = [value, dataset.get("PixelPaddingRangeLimit", value)]
    low, high = np.sort(np.array(ends).astype(stored.dtype))  # some write -2000 as 63536
    return (stored >= low) & (stored <= high)


def _windowed(
    dataset: Dataset,
    stored: np.ndarray,
    padding: np.ndarray,
    window: tuple[float, float] | None,
) -> tuple[np.ndarray, float, float]:
    """Grey values after modality transformation and window, and which values are black and white.

    Where low values are light, black and white are exchanged later.
    """
    pixels = needed("pydicom.pixels", _PACKAGE)
    whole = stored.dtype.kind in "iu"  # in their own few bits, what a table subtracts may not fit
    values = pixels.apply_modality_lut(stored.astype(np.int64) if whole else stored, dataset)
    if window is not None:
        return values, *window
    tables = [item for item in dataset.get("VOILUTSequence") or [] if item.get("LUTData")]
    if tables:
        entries, first, bits = tables[0].LUTDescriptor
        # of 8 bits, pydicom would count the entries in 8 bits too
        tables[0].LUTDescriptor = [entries, first, 16]
        dataset.VOILUTSequence = tables
        values = pixels.apply_voi(np.rint(values).astype(np.int64), dataset)
        return values, 0, 2**bits - 1
    if None not in (dataset.get("WindowCenter"), dataset.get("WindowWidth")):
        ends = pixels.apply_windowing(np.array([-np.inf, np.inf]), dataset)
        return pixels.apply_windowing(values, dataset), *ends
    if dataset.get("BitsStored", 32) <= 8 and "ModalityLUTSequence" not in dataset:
        least = -(2 ** (dataset.BitsStored - 1)) if dataset.PixelRepresentation else 0
        ends = np.array([least, least + 2**dataset.BitsStored - 1])
        return values, *np.sort(pixels.apply_modality_lut(ends, dataset))
    shown = values if padding.all() else values[~padding]
    return values, shown.min(), shown.max()
