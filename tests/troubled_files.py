"""Files as data folders really hold them: odd, broken, hostile or badly named, each made here from one scene.

`KINDS` maps the name of a kind to what makes its file; `write_all` makes one of each in a folder.
"""

from __future__ import annotations

import io
import os
import re
import socket
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import dicom_files
import numpy as np
from PIL import Image, ImageCms
from pydicom.uid import DeflatedExplicitVRLittleEndian

READ, LISTED, EITHER, PASSED = "read", "listed", "read whole or listed", "no image"


@dataclass(frozen=True)
class Kind:
    """A kind of file: what is to become of it, its file name, and its bytes or what puts it into a folder.

    shows : uint8 (H, W) that it shows where it is read, None for any picture. off : grey levels on average by which
    it may differ. own : whether `make` puts the file there itself, instead of giving its bytes.
    """

    fate: str
    name: str | bytes
    make: Callable[[], bytes] | Callable[[Path, str], None]
    shows: Callable[[], np.ndarray] | None = None
    off: float = 1.5
    own: bool = False


KINDS: dict[str, Kind] = {}


def kind(about: str, fate: str, make: Callable, name: str | bytes = "", **more: object) -> None:
    if about in KINDS:
        raise KeyError(about)
    more = {"shows": scene, **more} if fate in (READ, EITHER) else more
    KINDS[about] = Kind(fate, name or re.sub(r"\W+", "_", about) + ".png", make, **more)


@cache
def scene() -> np.ndarray:
    """uint8 (48, 64) from 0 to 255: a slope, bars and a light corner, so no two of its turns look the same."""
    y, x = np.mgrid[0:48, 0:64]
    values = 40 + y + 70 * (x // 8 % 2) + 120 * ((y < 12) & (x > 40))
    return ((values - values.min()) * (255 / np.ptp(values))).astype(np.uint8)


def grey() -> Image.Image:
    return Image.fromarray(scene())


def encoded(image: Image.Image | None = None, kind_: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    (image or grey()).save(buffer, kind_, **options)
    return buffer.getvalue()


jpeg = partial(encoded, kind_="JPEG", quality=95)
tiff = partial(encoded, kind_="TIFF")


# --- cut short ----------------------------------------------------------------------------------

WHOLE = {
    "jpeg": jpeg,
    "progressive jpeg": partial(jpeg, progressive=True),
    "png": encoded,
    "bmp": partial(encoded, kind_="BMP"),
    "tiff": tiff,
    "lzw tiff": partial(tiff, compression="tiff_lzw"),
    "gif": partial(encoded, kind_="GIF"),
    "webp": partial(encoded, kind_="WEBP", lossless=True),
}
CUTS = {
    "a byte": lambda n: 1,
    "eleven bytes": lambda n: 11,
    "forty bytes": lambda n: 40,
    "half": lambda n: n // 2,
    "all but thirty bytes": lambda n: n - 30,
    "all but a byte": lambda n: n - 1,
}

for _name, _whole in WHOLE.items():
    for _part, _cut in CUTS.items():
        kind(
            f"{_part} of a {_name}",
            EITHER if _part == "all but a byte" else LISTED,
            lambda whole=_whole, cut=_cut: whole()[: cut(len(whole()))],
        )
    kind(
        f"a {_name} with zeros in its middle",
        EITHER,
        lambda whole=_whole: _zeroed(whole()),
        shows=None,
    )


def _zeroed(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(20) + data[middle + 20 :]


kind("a jpeg cut and given an end", LISTED, lambda: jpeg()[:-400] + b"\xff\xd9")

# --- something else -------------------------------------------------------------------------------


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        bundle.writestr("a.png", encoded())
    return buffer.getvalue()


ELSE = {
    "no bytes": b"",
    "one byte": b"x",
    "zeros": bytes(10_000),
    "text": b"not here\n" * 50,
    "utf-16 text": "nein".encode("utf-16"),
    "html": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "json": b'{"error": "denied"}',
    "a git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "pdf": b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n%%EOF\n",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><rect/></svg>',
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\nshowpage\n",
    "psd": b"8BPS\0\1" + bytes(60),
    "dicom": bytes(128) + b"DICM" + bytes(200),
    "nifti": struct.pack("<i", 348) + bytes(340) + b"n+1\0" + bytes(200),
    "gzip": b"\x1f\x8b\x08\0" + bytes(60),
    "a program": b"MZ" + bytes(200),
    "elf": b"\x7fELF" + bytes(200),
    "mp4": b"\0\0\0\x18ftypmp42" + bytes(60),
    "heic": b"\0\0\0\x18ftypheic" + bytes(60),
    "numpy": b"\x93NUMPY\x01\0" + bytes(90),
    "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(90),
    "a jpeg's first marker": b"\xff\xd8",
    "a jpeg's first and last": b"\xff\xd8\xff\xd9",
    "a png's signature": b"\x89PNG\r\n\x1a\n",
    "a tiff's signature": b"II*\0",
    "a tiff without a directory": b"II*\0\xff\xff\xff\x7f",
    "a bmp's signature": b"BM",
    "a gif's signature": b"GIF89a",
    "random bytes": np.random.default_rng(0).bytes(3000),
    "an image turned to text": b"data:image/png;base64,iVBORw0KGgo=",
}
for _name, _bytes in ELSE.items():
    kind(_name, LISTED, lambda data=_bytes: data)


def _dicom(**more: object) -> bytes:
    return dicom_files.encoded(dicom_files.of(scene(), **more))


kind("a whole dicom", READ, _dicom, "whole.dcm")
kind("a dicom that is deflated", READ, partial(_dicom, syntax=DeflatedExplicitVRLittleEndian))
kind("a dicom cut short", LISTED, lambda: _dicom()[:-99], "cut.dcm")
kind("a dicom without an ending", READ, _dicom, "IM000001")
kind("a dicom named by its number", READ, _dicom, "1.2.840.113619.2.55.3")
kind("a dicom cut to its first bytes", LISTED, lambda: _dicom()[:132], "IM000002")
kind("a dicom cut before its mark", PASSED, lambda: _dicom()[:131], "IM000003")
kind("a dicom that lists others", PASSED, _dicom, "DICOMDIR")
kind("a dicom with a foreign ending", PASSED, _dicom, "IM000001.bak")
kind("a dicom of two frames", LISTED, partial(_dicom, NumberOfFrames=2), "two.dicom")
kind("text named dicom", LISTED, lambda: b"not here\n" * 50, "text.DCM")
kind(
    "a pipe named dicom",
    LISTED,
    lambda folder, name: os.mkfifo(folder / name),
    "pipe.dcm",
    own=True,
)
kind("a zip named jpg", LISTED, _zip, "z.jpg")
for _format in ("PPM", "ICO", "TGA", "PCX", "JPEG2000", "SGI"):
    kind(f"{_format} named png", LISTED, partial(encoded, kind_=_format))
kind("a png behind a blank", LISTED, lambda: b" " + encoded())
kind(
    "a png as a windows editor saved it",
    LISTED,
    lambda: b"\xef\xbb\xbf" + encoded().replace(b"\n", b"\r\n"),
)

# --- an ending that tells something else ----------------------------------------------------------------

for _ending, _format in (
    ("png", "JPEG"),
    ("jpg", "PNG"),
    ("jpeg", "TIFF"),
    ("tif", "BMP"),
    ("bmp", "GIF"),
    ("tiff", "PNG"),
):
    kind(
        f"{_format} named {_ending}",
        READ,
        partial(encoded, kind_=_format),
        f"named_{_format}.{_ending}",
        off=4,
    )
kind("webp named jpg", READ, partial(encoded, kind_="WEBP", lossless=True), "named_webp.jpg")

# --- several pictures -------------------------------------------------------------------------------------


def _several(format_: str, *others: Image.Image) -> bytes:
    return encoded(
        None, format_, save_all=True, append_images=others or [Image.fromarray(255 - scene())]
    )


for _format in ("GIF", "PNG", "WEBP", "TIFF"):
    kind(f"several pictures in a {_format}", LISTED, partial(_several, _format))
kind("a tiff with a preview", READ, lambda: _several("TIFF", grey().resize((16, 12))))
kind(
    "a jpeg with a second one (mpo)", READ, lambda: _several("MPO", grey().resize((16, 12))), off=4
)
kind("two jpegs one behind the other", READ, lambda: jpeg() + jpeg(Image.new("L", (8, 8))), off=4)

# --- colors and depths -----------------------------------------------------------------------------------


def _cmyk() -> Image.Image:
    return Image.merge("CMYK", [Image.fromarray(255 - scene())] * 3 + [Image.new("L", (64, 48), 0)])


def _without_adobe() -> bytes:
    """A CMYK JPEG without the marker that says it is stored the other way round."""
    inverted = Image.fromarray(255 - np.asarray(_cmyk()), "CMYK")
    data = jpeg(inverted)
    at = data.index(b"\xff\xee")
    return data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], "big") :]


def _ycck() -> bytes:
    """Luminance, two even colors and black, called so in Adobe's marker."""
    planes = [
        Image.fromarray(scene()),
        *[Image.new("L", (64, 48), 127)] * 2,
        Image.new("L", (64, 48), 0),
    ]
    data = bytearray(jpeg(Image.merge("CMYK", planes)))
    data[data.index(b"Adobe") + 11] = 2
    return bytes(data)


def _alpha(mode: str) -> Image.Image:
    image = grey().convert(mode)
    image.putalpha(Image.fromarray(np.full((48, 64), 200, np.uint8)))
    return image


def _palette() -> Image.Image:
    image = Image.fromarray(255 - scene(), "P")
    image.putpalette(np.repeat(np.arange(255, -1, -1), 3).astype(np.uint8).tobytes())
    return image


def _bilevel() -> np.ndarray:
    return np.where(scene() > 127, 255, 0).astype(np.uint8)


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(
    width: int,
    height: int,
    depth: int,
    color: int,
    rows: bytes,
    *more: bytes,
    interlaced: bool = False,
) -> bytes:
    """A PNG from its parts; `rows` with a filter byte before each."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), *more, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    )


def _rows(values: np.ndarray) -> bytes:
    return b"".join(b"\0" + row.tobytes() for row in values)


def _few_bits(bits: int) -> bytes:
    levels = (scene() >> (8 - bits)).reshape(48, -1, 8 // bits)
    return _rows((levels << np.arange(8 - bits, -1, -bits)).sum(2).astype(np.uint8))


def _interlaced() -> bytes:
    steps = (
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    )
    return b"".join(_rows(scene()[y::down, x::right]) for y, x, down, right in steps)


wide = scene().astype(np.uint16)
kind("jpeg in color", READ, lambda: jpeg(grey().convert("RGB")), off=4)
kind("cmyk jpeg", READ, lambda: jpeg(_cmyk()), off=4)
kind(
    "cmyk jpeg without adobe's marker", READ, _without_adobe, shows=None
)  # which way round, nobody can tell
kind("ycck jpeg", READ, _ycck, off=4)
kind("grey and alpha", READ, lambda: encoded(_alpha("LA")))
kind("color and alpha", READ, lambda: encoded(_alpha("RGBA")))
kind("a palette", READ, lambda: encoded(_palette()))
kind("a palette with a transparent color", READ, lambda: encoded(_palette(), transparency=3))
kind(
    "a palette with many alphas", READ, lambda: encoded(_palette(), transparency=bytes(range(256)))
)
kind("one bit", READ, lambda: encoded(Image.fromarray(_bilevel()).convert("1")), shows=_bilevel)
kind(
    "two bits",
    READ,
    lambda: png(64, 48, 2, 0, _few_bits(2)),
    shows=lambda: (scene() >> 6) * np.uint8(85),
)
kind(
    "four bits",
    READ,
    lambda: png(64, 48, 4, 0, _few_bits(4)),
    shows=lambda: (scene() >> 4) * np.uint8(17),
)
kind("sixteen bits", READ, lambda: encoded(Image.fromarray(wide * 9)))
kind(
    "sixteen bits in color",
    READ,
    lambda: png(64, 48, 16, 2, _rows((wide * 257).astype(">u2").repeat(3, 1))),
)
kind(
    "sixteen bits and alpha",
    READ,
    lambda: png(
        64,
        48,
        16,
        4,
        _rows(np.stack([wide * 257, wide * 0 + 65535], 2).astype(">u2").reshape(48, -1)),
    ),
)
kind("interlaced", READ, lambda: png(64, 48, 8, 0, _interlaced(), interlaced=True))
DEEP = {
    "16-bit tiff": wide * 16,
    "16-bit tiff, big end first": (wide * 16).astype(">u2"),
    "16-bit tiff, dark": wide + 3,
    "32-bit tiff": scene().astype(np.int32) * 99_999,
    "32-bit tiff below zero": scene().astype(np.int32) - 300,
    "float tiff": scene() / np.float32(7),
    "float tiff from 0 to 1": scene() / np.float32(255),
    "float tiff below zero": scene().astype(np.float32) - 1024,
    "float tiff of huge values": scene() * np.float32(1e36),
}
for _name, _values in DEEP.items():
    kind(_name, READ, lambda values=_values: tiff(Image.fromarray(values)))


def _spoiled(value: float) -> bytes:
    values = scene().astype(np.float32)
    values[5, 6] = value
    return tiff(Image.fromarray(values))


for _name, _value in {"nan": np.nan, "infinity": np.inf, "minus infinity": -np.inf}.items():
    kind(f"float tiff with a {_name}", LISTED, partial(_spoiled, _value))
kind(
    "float tiff of nan only",
    LISTED,
    lambda: tiff(Image.fromarray(np.full((48, 64), np.nan, np.float32))),
)
kind(
    "float tiff of one value",
    READ,
    lambda: tiff(Image.fromarray(np.full((48, 64), 7.5, np.float32))),
    shows=lambda: np.zeros((48, 64), np.uint8),
)


# --- tiff -------------------------------------------------------------------------------------------------


def tiff_of(values: np.ndarray, end: str = "<", **tags: object) -> bytes:
    """A TIFF from its parts: `values` (H, W), tags by number to change or add."""
    data = values.astype(values.dtype.newbyteorder(end)).tobytes()
    form = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    entries = {
        256: values.shape[1],
        257: values.shape[0],
        258: 8 * values.itemsize,
        259: 1,
        262: 1,
        273: 8,
        277: 1,
        278: values.shape[0],
        279: len(data),
        339: form,
        **{int(name[1:]): value for name, value in tags.items()},
    }
    directory = (
        struct.pack(end + "H", len(entries))
        + b"".join(
            struct.pack(end + "HHII", tag, 4, 1, value) for tag, value in sorted(entries.items())
        )
        + bytes(4)
    )
    return (
        {"<": b"II", ">": b"MM"}[end]
        + struct.pack(end + "HI", 42, 8 + len(data))
        + data
        + directory
    )


for _way in ("tiff_deflate", "packbits", "tiff_adobe_deflate"):
    kind(f"tiff packed by {_way}", READ, lambda way=_way: tiff(compression=way))
kind("tiff packed as a jpeg", READ, lambda: tiff(compression="jpeg", quality=95), off=4)
kind(
    "tiff packed as a fax",
    READ,
    lambda: tiff(Image.fromarray(_bilevel()).convert("1"), compression="group4"),
    shows=_bilevel,
)
kind("tiff in cmyk", READ, lambda: tiff(_cmyk()))
kind("tiff with a palette", READ, lambda: tiff(_palette()))
kind("tiff in which 0 is white", READ, lambda: tiff_of(255 - scene(), t262=0))
kind("tiff with the big end first", READ, lambda: tiff_of(scene(), ">"))
kind("tiff of 64-bit floats", EITHER, lambda: tiff_of(scene().astype(np.float64) / 3))
kind("tiff of signed 16 bits", READ, lambda: tiff_of(scene().astype(np.int16) * 50 - 9000))
kind("tiff of 32 bits without a sign", EITHER, lambda: tiff_of(scene().astype(np.uint32) * 900))
kind(
    "tiff with lab colors",
    EITHER,
    lambda: tiff(
        ImageCms.applyTransform(
            grey().convert("RGB"),
            ImageCms.buildTransform(
                ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
            ),
        )
    ),
    shows=None,
)
kind("tiff that claims more rows", LISTED, lambda: tiff_of(scene(), t257=4800))
kind("tiff whose pixels begin behind its end", LISTED, lambda: tiff_of(scene(), t273=10**6))
kind("tiff of no width", LISTED, lambda: tiff_of(scene(), t256=0))
kind("tiff of an unknown packing", LISTED, lambda: tiff_of(scene(), t259=4711))
kind(
    "tiff whose directories go round in a circle",
    EITHER,
    lambda: (lambda data: data[:-4] + data[4:8])(tiff_of(scene())),
)
kind(
    "tiff whose next directory is nowhere",
    EITHER,
    lambda: tiff_of(scene())[:-4] + b"\xff\xff\xff\x7f",
)
kind(
    "tiff of the size of a country",
    LISTED,
    lambda: tiff_of(scene(), t256=60_000, t257=60_000, t278=60_000),
)

# --- which side is up --------------------------------------------------------------------------------------

AS_STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: np.rot90(a),
    7: lambda a: a[::-1, ::-1].T,
    8: lambda a: np.rot90(a, -1),
}  # how a camera held so stores what a viewer turns back


def turned(orientation: int, format_: str = "JPEG") -> bytes:
    stored = Image.fromarray(AS_STORED[orientation](scene()).copy())
    if format_ == "TIFF":
        return tiff(stored, tiffinfo={0x0112: orientation})
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(stored, format_, exif=exif, quality=95)


for _orientation in AS_STORED:
    for _format in ("JPEG", "PNG", "TIFF"):
        kind(
            f"{_format} of orientation {_orientation}",
            READ,
            partial(turned, _orientation, _format),
            off=4,
        )
kind("an orientation that there is not", READ, lambda: tiff_of(scene(), t274=99))
for _name, _exif in {
    "cut": b"Exif\0\0II*\0",
    "random": b"Exif\0\0" + b"\xff" * 60,
    "nonsense": b"nonsense",
    "in a circle": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x69\x87\4\0\1\0\0\0\x08\0\0\0\x08\0\0\0",
}.items():
    kind(f"exif that is {_name}", READ, lambda exif=_exif: jpeg(exif=exif), off=4)
kind(
    "png with exif that is nonsense",
    READ,
    lambda: encoded()[:33] + chunk(b"eXIf", b"nonsense") + encoded()[33:],
)

# --- too large and too small --------------------------------------------------------------------------------


def _claims(kind_: str, at: int, code: str, *sizes: int) -> bytes:
    """A small image whose header claims another size."""
    data = bytearray(encoded(None, kind_))
    struct.pack_into(code, data, at, *sizes)
    return bytes(data)


def sparse(folder: Path, name: str) -> None:
    with open(os.path.join(folder, name), "wb") as file:
        file.write(encoded()[:60])
        file.truncate(2**30)


def _frame(
    data: bytes, code: str = ">HH", sizes: tuple[int, ...] = (65_500, 65_500), at: int = 5
) -> bytes:
    """A JPEG with its frame header changed."""
    changed = bytearray(data)
    struct.pack_into(code, changed, data.index(b"\xff\xc0") + at, *sizes)
    return bytes(changed)


def _strip(shape: tuple[int, int]) -> bytes:
    return encoded(Image.fromarray(np.full(shape, 90, np.uint8)))


kind("png of 50,000 x 50,000", LISTED, lambda: png(50_000, 50_000, 8, 0, b"\0"))
kind("png of 2 billion pixels a row", LISTED, lambda: png(2**31 - 1, 1, 8, 0, b"\0"))
kind("png of no width", LISTED, lambda: png(0, 48, 8, 0, b""))
kind("jpeg of 65,500 x 65,500", LISTED, lambda: _frame(jpeg()))
kind("jpeg of no height", LISTED, lambda: _frame(jpeg(), sizes=(0, 64)))
kind("bmp of 2 billion rows", LISTED, lambda: _claims("BMP", 18, "<ii", 2**31 - 1, 2**31 - 1))
kind("bmp of less than nothing", LISTED, lambda: _claims("BMP", 18, "<i", -64))
kind("gif of 65,535 x 65,535", LISTED, lambda: _claims("GIF", 6, "<HH", 65_535, 65_535))
kind(
    "webp of 16,383 x 16,383",
    LISTED,
    lambda: (
        b"RIFF"
        + struct.pack("<I", 22)
        + b"WEBPVP8X"
        + struct.pack("<I", 10)
        + bytes(4)
        + b"\xfe\x3f\0\xfe\x3f\0"
    ),
)
kind("a gigabyte of nothing", LISTED, sparse, own=True)
kind(
    "png with much text",
    EITHER,
    lambda: encoded()[:33] + chunk(b"tEXt", b"a\0" + b"x" * 2**21) + encoded()[33:],
)
kind(
    "png with text that unpacks to much",
    EITHER,
    lambda: (
        encoded()[:33] + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**26))) + encoded()[33:]
    ),
)
kind(
    "png with a color profile that unpacks to much",
    EITHER,
    lambda: (
        encoded()[:33] + chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**26))) + encoded()[33:]
    ),
)
kind(
    "png with a broken color profile",
    EITHER,
    lambda: encoded()[:33] + chunk(b"iCCP", b"a\0\0junk") + encoded()[33:],
)
for _shape in ((1, 1), (1, 64), (48, 1), (1, 65_000), (65_000, 1), (2, 3)):
    kind(
        f"{_shape[0]} rows of {_shape[1]}",
        READ,
        partial(_strip, _shape),
        shows=lambda: np.full((48, 64), 90, np.uint8),
    )

# --- jpeg, png, bmp, gif: what the formats allow, and what they do not -------------------------------------------

kind("progressive jpeg", READ, partial(jpeg, progressive=True), off=4)
kind("jpeg of quality 1", READ, partial(encoded, kind_="JPEG", quality=1), shows=None)
kind("jpeg with restart markers", READ, partial(jpeg, restart_marker_blocks=1), off=4)
kind(
    "jpeg with coarse colors", READ, lambda: jpeg(grey().convert("RGB"), subsampling="4:1:1"), off=4
)
kind("jpeg with a comment", READ, partial(jpeg, comment=b"x" * 60_000), off=4)
kind(
    "jpeg with a color profile",
    READ,
    lambda: jpeg(
        grey().convert("RGB"),
        icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    ),
    off=4,
)
kind("jpeg with bytes behind its end", READ, lambda: jpeg() + b"trailing" * 50, off=4)
kind(
    "jpeg with a preview",
    READ,
    lambda: (
        lambda inner: (
            jpeg()[:2] + b"\xff\xe1" + struct.pack(">H", len(inner) + 2) + inner + jpeg()[2:]
        )
    )(jpeg(Image.new("L", (8, 8)))),
    off=4,
)
kind(
    "jpeg with filling between its markers",
    READ,
    lambda: jpeg()[:2] + b"\xff" * 9 + jpeg()[2:],
    off=4,
)
kind(
    "jpeg without tables of its own", READ, lambda: jpeg().replace(b"\xff\xc4", b"\xff\xe7"), off=4
)
kind(
    "jpeg with wrong huffman tables",
    EITHER,
    lambda: jpeg().replace(b"\xff\xc4\0\x1f\0\0\1\5", b"\xff\xc4\0\x1f\0\x10\xff\5"),
    shows=None,
)
kind("jpeg called arithmetic", EITHER, lambda: _frame(jpeg(), "B", (0xC9,), 1), shows=None)
kind("jpeg called lossless", LISTED, lambda: _frame(jpeg(), "B", (0xC3,), 1))
kind("jpeg called 12-bit", LISTED, lambda: _frame(jpeg(), "B", (12,), 4))
kind("jpeg of five components", LISTED, lambda: _frame(jpeg(), "B", (5,), 9))

_idat = encoded().index(b"IDAT")
kind(
    "png with a wrong checksum of its header",
    LISTED,
    lambda: encoded()[:29] + b"oops" + encoded()[33:],
)
kind(
    "png with a wrong checksum of its pixels",
    LISTED,
    lambda: encoded()[:-16] + b"oops" + encoded()[-12:],
)
kind("png with bytes behind its end", READ, lambda: encoded() + b"trailing" * 50)
kind("png without its end", LISTED, lambda: encoded()[:-12])
kind("png without pixels", LISTED, lambda: encoded()[: _idat - 4] + encoded()[-12:])
kind(
    "png whose pixels are not packed",
    LISTED,
    lambda: encoded()[: _idat - 4] + chunk(b"IDAT", scene().tobytes()) + encoded()[-12:],
)
kind("png with too few rows", LISTED, lambda: png(64, 48, 8, 0, _rows(scene()[:20])))
kind(
    "png with too many rows",
    EITHER,
    lambda: png(64, 48, 8, 0, _rows(np.vstack([scene(), scene()]))),
)
kind("png of an unknown color type", LISTED, lambda: png(64, 48, 8, 5, _rows(scene())))
kind("png of three bits", LISTED, lambda: png(64, 48, 3, 0, _rows(scene())))
kind(
    "png with a palette that is not there",
    EITHER,
    lambda: png(64, 48, 8, 3, _rows(scene())),
    shows=None,
)
kind(
    "png with an unknown chunk",
    READ,
    lambda: encoded()[:33] + chunk(b"abCd", b"whatever") + encoded()[33:],
)
kind(
    "png with a gamma",
    READ,
    lambda: encoded()[:33] + chunk(b"gAMA", struct.pack(">I", 45_455)) + encoded()[33:],
)


def bmp(
    values: np.ndarray,
    bits: int,
    packed: bytes,
    colors: bytes = b"",
    packing: int = 0,
    down: bool = False,
) -> bytes:
    """A BMP from its parts: `packed` pixels of so many bits, four bytes for each of its `colors`."""
    height, width = values.shape
    start = 54 + len(colors)
    return (
        b"BM"
        + struct.pack("<IHHI", start + len(packed), 0, 0, start)
        + struct.pack(
            "<IiiHHIIiiII",
            40,
            width,
            -height if down else height,
            1,
            bits,
            packing,
            len(packed),
            0,
            0,
            len(colors) // 4,
            0,
        )
        + colors
        + packed
    )


_greys = np.repeat(np.arange(256, dtype=np.uint8), 4).tobytes()
kind("bmp from the top down", READ, lambda: bmp(scene(), 8, scene().tobytes(), _greys, down=True))
kind(
    "bmp packed by run lengths",
    READ,
    lambda: bmp(
        scene(),
        8,
        b"".join(b"".join(bytes([1, v]) for v in row) + b"\0\0" for row in scene()[::-1]) + b"\0\1",
        _greys,
        1,
    ),
)
kind(
    "bmp of one bit",
    READ,
    lambda: bmp(
        scene(),
        1,
        np.packbits(_bilevel()[::-1] > 0, axis=1).tobytes(),
        bytes(4) + b"\xff\xff\xff\0",
    ),
    shows=_bilevel,
)
kind(
    "bmp of four bits",
    READ,
    lambda: bmp(
        scene(),
        4,
        ((scene()[::-1, ::2] & 0xF0) | scene()[::-1, 1::2] >> 4).tobytes(),
        np.repeat(np.arange(16, dtype=np.uint8) * 17, 4).tobytes(),
    ),
    shows=lambda: (scene() >> 4) * np.uint8(17),
)
kind(
    "bmp of 15 bits",
    READ,
    lambda: bmp(scene(), 16, ((wide[::-1] >> 3) * 0b000010000100001).astype("<u2").tobytes()),
    off=8,
)
kind("bmp of 32 bits", READ, lambda: bmp(scene(), 32, scene()[::-1].repeat(4, 1).tobytes()))
kind("bmp of seven bits", LISTED, lambda: bmp(scene(), 7, scene().tobytes()))
kind("bmp packed in an unknown way", LISTED, lambda: bmp(scene(), 8, scene().tobytes(), _greys, 77))
kind("still gif", READ, partial(encoded, kind_="GIF"))
kind("interlaced gif", READ, partial(encoded, kind_="GIF", interlace=True))
kind("gif with a transparent color", READ, lambda: encoded(_palette(), "GIF", transparency=3))

# --- no files, and ways that lead elsewhere -------------------------------------------------------------------


def _link(folder: Path, name: str, to: str) -> None:
    os.symlink(to, os.path.join(folder, name))


def _pair(folder: Path, name: str) -> None:
    _link(folder, name, "other-half.png")
    _link(folder, "other-half.png", name)


def _outside(folder: Path, name: str) -> None:
    (folder.parents[1] / "outside.png").write_bytes(encoded())
    _link(folder, name, "../../outside.png")


def _socket(folder: Path, name: str) -> None:
    here = os.getcwd()
    os.chdir(folder)  # the name of a socket may have 100 bytes at most
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(name)
    finally:
        os.chdir(here)


def _closed(folder: Path, name: str) -> None:
    (folder / name).write_bytes(encoded())
    (folder / name).chmod(0)


kind("a pipe", LISTED, lambda folder, name: os.mkfifo(folder / name), own=True)
kind("a socket", LISTED, _socket, "s.png", own=True)
kind("a folder", PASSED, lambda folder, name: (folder / name).mkdir(), own=True)
kind("a link to nothing", LISTED, partial(_link, to="nowhere.png"), own=True)
kind("a link to itself", LISTED, lambda folder, name: _link(folder, name, name), own=True)
kind("two links to each other", LISTED, _pair, own=True)
kind("a link to the folder above", PASSED, partial(_link, to=".."), own=True)
kind("a link to its own folder", PASSED, partial(_link, to="."), own=True)
kind("a link to a file elsewhere", READ, _outside, own=True)
kind("a link to endless zeros", LISTED, partial(_link, to="/dev/zero"), own=True)
kind("a link to nothing at all", LISTED, partial(_link, to="/dev/null"), own=True)
if getattr(os, "geteuid", int)():
    kind("a file that nobody may read", LISTED, _closed, own=True)

# --- names ----------------------------------------------------------------------------------------------------

NAMES = [
    "new\nline.png",
    "return\rhere.png",
    "tab\there.png",
    "caf\u00e9.png",
    "cafe\u0301.png",
    " a blank before.png",
    "a blank behind .png",
    "x" * 250 + ".png",
    "=cmd|' C calc'!A0.png",
    "+1+1.png",
    "@SUM(1).png",
    "$HOME.png",
    "$(touch owned).png",
    ";ls;.png",
    "-rf.png",
    "--help.png",
    "a.jpeg.jpeg",
    "UPPER.JPEG",
    "Mixed.TiFf",
    "quote'.png",
    'quotes".png',
    "comma, here.png",
    "per%cent%s.png",
    "%20.png",
    "{braces}.png",
    "back\\slash.png",
    "star*.png",
    "what?.png",
    "[ab].png",
    "\U0001fac1.png",
    "nan.png",
    "NA.png",
    "null.png",
    "con.png",
    "~.png",
    "#.png",
    "\u202egnp.exe.png",
    "zero\u200bwidth.png",
    "0.png",
    "007.png",
    "a|b.png",
    "<script>.png",
    "&amp;.png",
    "?who.png",
    "CNV-12-3.png",
    "person1_virus_1.png",
    "\u0661\u0662.png",
    "total.png",
    "\x7f\x01.png",
]
for _name in NAMES:
    kind(
        f"the name {_name[:30]!r}",
        READ,
        partial(jpeg if _name.lower().endswith("jpeg") else encoded),
        _name,
        off=4,
    )
kind("a name that is no utf-8", PASSED, encoded, b"\xff\xfe.png")
for _name in (
    ".hidden.png",
    "._resource.jpeg",
    ".DS_Store",
    "Thumbs.db",
    "desktop.ini",
    "noending",
    "backup.png~",
    "half.png.part",
    ".png",
):
    kind(f"{_name}", PASSED, encoded, _name)
for _name in ("@eaDir", ".thumbnails", "Thumbs", "__MACOSX", ".ipynb_checkpoints"):
    kind(
        f"a picture in {_name}",
        PASSED,
        lambda folder, name: (
            (folder / name).mkdir(),
            (folder / name / "a.png").write_bytes(encoded()),
        ),
        _name,
        own=True,
    )


def write(folder: Path, about: str) -> str | bytes:
    """Make one file of a kind; returns its name. OSError where the file system cannot have it."""
    one = KINDS[about]
    if one.own:
        one.make(folder, one.name)
    else:
        with open(os.path.join(os.fsencode(folder), os.fsencode(one.name)), "wb") as file:
            file.write(one.make())
    return one.name


def write_all(folders: list[Path]) -> dict[str, Path]:
    """One file of each kind that this system can have, dealt out to the folders: kind -> file."""
    made = {}
    for i, about in enumerate(KINDS):
        folder = folders[i % len(folders)]
        try:
            name = write(folder, about)
        except OSError:
            continue
        made[about] = folder / os.fsdecode(name)
    return made
