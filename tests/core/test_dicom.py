"""DICOM files: the picture is that of the PNG saved of it, what cannot be read is refused with its reason."""

from __future__ import annotations

from pathlib import Path

import dicom_files
import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image
from pydicom import Dataset
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from tlutils.core import dicom
from tlutils.core.images import UnreadableImage, look, read
from tlutils.data import records

SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"


def scene() -> np.ndarray:
    """uint8 (48, 96) from 0 to 255: no two of its eight turns look the same."""
    y, x = np.mgrid[0:48, 0:96]
    values = 40 + 60 * (x // 12 % 2) + 100 * (y < 14) * (x > 50) + y // 2
    return ((values - values.min()) * (255 / np.ptp(values))).astype(np.uint8)


def colors() -> np.ndarray:
    return np.stack([scene(), scene()[::-1], 255 - scene()], axis=2)


def linear(values: np.ndarray, center: float, width: float) -> np.ndarray:
    """The standard's linear window in 8 bit (PS3.3 C.11.2.1.2.1)."""
    return np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1) * 255


DEEP = scene().astype(np.uint16) * 16  # 12 bit
HOUNSFIELD = scene().astype(np.int16) * 8 - 1000
RESCALE = {"RescaleSlope": 2, "RescaleIntercept": -500}
PALETTE = {
    f"{color}PaletteColorLookupTable{part}": value
    for color, entries in zip(("Red", "Green", "Blue"), (range(256), range(255, -1, -1), [9] * 256))
    for part, value in (("Descriptor", [256, 0, 8]), ("Data", bytes(entries)))
}
# name -> the data set, and what it shows: uint8 or float, with 1 grey level for rounding
KINDS = {
    "8 bit": (lambda: dicom_files.of(scene()), lambda: scene()),
    "8 bit, signed": (
        lambda: dicom_files.of((scene().astype(np.int16) - 128).astype(np.int8)),
        lambda: scene(),
    ),
    "4 bit": (lambda: dicom_files.of(scene() >> 4, BitsStored=4), lambda: (scene() >> 4) * 17),
    "8 bit, rescaled": (lambda: dicom_files.of(scene(), **RESCALE), lambda: scene()),
    "8 bit, MONOCHROME1": (
        lambda: dicom_files.of(255 - scene(), PhotometricInterpretation="MONOCHROME1"),
        lambda: scene(),
    ),
    "12 bit without a window": (
        lambda: dicom_files.of(DEEP + 15, BitsStored=12),
        lambda: scene(),
    ),
    "12 bit in a window": (
        lambda: dicom_files.of(DEEP, BitsStored=12, WindowCenter=1500, WindowWidth=1000),
        lambda: linear(DEEP, 1500, 1000),
    ),
    "12 bit in the first of two windows": (
        lambda: dicom_files.of(DEEP, BitsStored=12, WindowCenter=[1500, 9], WindowWidth=[1000, 9]),
        lambda: linear(DEEP, 1500, 1000),
    ),
    "12 bit in a window, MONOCHROME1": (
        lambda: dicom_files.of(
            DEEP,
            BitsStored=12,
            WindowCenter=1500,
            WindowWidth=1000,
            PhotometricInterpretation="MONOCHROME1",
        ),
        lambda: 255 - linear(DEEP, 1500, 1000),
    ),
    "12 bit in a soft window": (
        lambda: dicom_files.of(
            DEEP, BitsStored=12, WindowCenter=2000, WindowWidth=900, VOILUTFunction="SIGMOID"
        ),
        lambda: 255 / (1 + np.exp(-4 * (DEEP - 2000.0) / 900)),
    ),
    "16 bit, signed, rescaled, in a window": (
        lambda: dicom_files.of(HOUNSFIELD, WindowCenter=100, WindowWidth=2000, **RESCALE),
        lambda: linear(HOUNSFIELD * 2.0 - 500, 100, 2000),
    ),
    "16 bit, falling rescale, in a window": (
        lambda: dicom_files.of(
            HOUNSFIELD, RescaleSlope=-1, RescaleIntercept=0, WindowCenter=0, WindowWidth=900
        ),
        lambda: linear(-HOUNSFIELD.astype(float), 0, 900),
    ),
    "16 bit, signed, rescaled": (
        lambda: dicom_files.of(HOUNSFIELD, **RESCALE),
        lambda: scene(),
    ),
    "16 bit, padded": (
        lambda: dicom_files.of(
            np.where(scene() == 0, np.int16(-2000), HOUNSFIELD), PixelPaddingValue=-2000
        ),
        lambda: np.where(scene() == 0, 0, (HOUNSFIELD - low()) / (HOUNSFIELD.max() - low()) * 255),
    ),
    "16 bit, padded, MONOCHROME1": (
        lambda: dicom_files.of(
            np.where(scene() == 255, np.int16(-2000), HOUNSFIELD[::-1, ::-1]),
            PixelPaddingValue=-1990,
            PixelPaddingRangeLimit=-2010,
            PhotometricInterpretation="MONOCHROME1",
        ),
        lambda: np.where(scene() == 255, 0, 255 - scene()[::-1, ::-1]),
    ),
    "nothing but padding": (
        lambda: dicom_files.of(np.zeros((48, 96), np.int16), PixelPaddingValue=0),
        lambda: np.zeros((48, 96)),
    ),
    "a modality table": (
        lambda: dicom_files.of(
            scene() >> 6,
            ModalityLUTSequence=[dicom_files.table(0, 100, 900, 1000, bits=16)],
        ),
        lambda: np.array([0, 25.5, 229.5, 255])[scene() >> 6],
    ),
    "a VOI table of 8 bits with 1,000 entries": (
        lambda: dicom_files.of(
            DEEP, BitsStored=12, VOILUTSequence=[dicom_files.table(*SLOPE, bits=8, first=500)]
        ),
        lambda: np.array(SLOPE)[np.clip(DEEP.astype(int) - 500, 0, 999)],
    ),
    "a VOI table of 12 bits after a rescale, before a window": (
        lambda: dicom_files.of(
            scene(),
            RescaleSlope=1,
            RescaleIntercept=10,
            WindowCenter=9,
            WindowWidth=9,
            VOILUTSequence=[dicom_files.table(*range(0, 4096, 16), bits=12, first=10)],
        ),
        lambda: scene() * (16 / 4095 * 255),
    ),
    "RGB": (lambda: dicom_files.of(colors()), lambda: colors()),
    "RGB of 16 bits": (
        lambda: dicom_files.of(colors().astype(np.uint16) * 257),
        lambda: colors(),
    ),
    "palette": (
        lambda: dicom_files.of(scene(), PhotometricInterpretation="PALETTE COLOR", **PALETTE),
        lambda: np.stack([scene(), 255 - scene(), np.full_like(scene(), 9)], axis=2),
    ),
    "RLE": (lambda: dicom_files.of(scene(), RLELossless), lambda: scene()),
    "RLE of 16 bits": (
        lambda: dicom_files.of(DEEP, RLELossless, WindowCenter=1500, WindowWidth=1000),
        lambda: linear(DEEP, 1500, 1000),
    ),
    "deflated": (lambda: dicom_files.of(scene(), DeflatedExplicitVRLittleEndian), lambda: scene()),
}
SLOPE = [i // 4 for i in range(1000)]


def low() -> int:
    """The least of the values that are no padding."""
    return HOUNSFIELD[scene() > 0].min()


@pytest.mark.parametrize("kind", KINDS)
def test_the_picture_is_that_of_the_png_saved_of_it(tmp_path, kind):
    make, shows = KINDS[kind]
    file, wanted = tmp_path / "a.dcm", shows()
    file.write_bytes(dicom_files.encoded(make()))
    Image.fromarray(np.asarray(wanted).astype(np.uint8)).save(tmp_path / "a.png")
    for mode in ("L", "RGB"):
        seen, png = (
            np.asarray(read(path, mode)).astype(int) for path in (file, tmp_path / "a.png")
        )
        assert seen.shape == png.shape and np.abs(seen - png).max() <= (wanted.dtype.kind == "f")
    assert look(file.read_bytes()) == ((96, 48, "RGB" if wanted.ndim == 3 else "L"), "")


def test_deep_grey_without_a_window_is_scaled_as_in_a_png_of_16_bits(tmp_path):
    deep = DEEP + np.arange(96, dtype=np.uint16)
    (tmp_path / "a.dcm").write_bytes(dicom_files.encoded(dicom_files.of(deep)))
    Image.fromarray(deep).save(tmp_path / "a.png")
    seen, png = (np.asarray(read(tmp_path / name)) for name in ("a.dcm", "a.png"))
    assert (seen == png).all()


def test_a_dicom_file_is_known_by_its_bytes_whatever_its_name(tmp_path):
    for name in ("IM000001", "a.png"):
        (tmp_path / name).write_bytes(dicom_files.encoded(dicom_files.of(scene())))
        assert (np.asarray(read(tmp_path / name)) == scene()).all()


def several() -> Dataset:
    """An enhanced data set of two frames, the rescale of both and a window of each in its groups."""
    dataset = dicom_files.of(HOUNSFIELD, NumberOfFrames=2)
    dataset.PixelData = HOUNSFIELD.tobytes() + HOUNSFIELD[::-1].tobytes()
    shared, rescale = Dataset(), Dataset()
    rescale.RescaleSlope, rescale.RescaleIntercept = 2, -500
    shared.PixelValueTransformationSequence = [rescale]
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = []
    for center in (0, 100):
        window, groups = Dataset(), Dataset()
        window.WindowCenter, window.WindowWidth = center, 2000
        groups.FrameVOILUTSequence = [window]
        dataset.PerFrameFunctionalGroupsSequence.append(groups)
    return dataset


def test_several_frames_are_refused_with_a_way_to_choose_one_that_works(tmp_path, monkeypatch):
    data = dicom_files.encoded(several())
    assert "2 frames in one DICOM file" in look(data)[1]
    code = look(data)[1].split(": ")[1].split(", where")[0]
    monkeypatch.chdir(tmp_path)
    exec(f"import tlutils.core.dicom\n{code}", {"data": data})
    wanted = linear(HOUNSFIELD[::-1] * 2.0 - 500, 100, 2000)  # the second, in its own window
    assert np.abs(np.asarray(read("frame.png")) - wanted).max() <= 1
    assert (
        np.abs(np.asarray(dicom.picture(data, 0)) - linear(HOUNSFIELD * 2.0 - 500, 0, 2000)).max()
        <= 1
    )
    with pytest.raises(ValueError, match="no frame 2 in a DICOM file of 2"):
        dicom.picture(data, 2)


# --- what is refused -------------------------------------------------------------------------------------


SMALL = 2**20  # bytes, for the limit that bombs go beyond


def without(name: str) -> bytes:
    dataset = dicom_files.of(scene())
    delattr(dataset, name)
    return dicom_files.encoded(dataset)


def claimed(syntax: str) -> bytes:
    """A file whose pixels are said to be packed in some way."""
    dataset = dicom_files.of(scene())
    dataset.PixelData = pydicom.encaps.encapsulate([bytes(100)])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = syntax
    return dicom_files.encoded(dataset)


WHOLE = dicom_files.encoded(dicom_files.of(scene()))
REFUSED = {
    "no pixels": (lambda: without("PixelData"), "without a picture .Secondary Capture"),
    "no size": (lambda: without("Rows"), "damaged DICOM file .*Rows"),
    "cut in its pixels": (lambda: WHOLE[:-9], "damaged DICOM file .*less than expected"),
    "cut in its head": (lambda: WHOLE[:300], "without a picture|damaged DICOM file"),
    "head alone": (lambda: bytes(128) + b"DICM", "without a picture"),
    "more pixels than any scan": (
        lambda: dicom_files.encoded(dicom_files.of(scene(), Rows=60_000, Columns=60_000)),
        "too many pixels",
    ),
    "more rows than there are": (
        lambda: dicom_files.encoded(dicom_files.of(scene(), Rows=49)),
        "damaged DICOM file .*less than expected",
    ),
    "deflated bomb": (lambda: dicom_files.deflated_bomb(SMALL), "unpacks to more than any"),
    "deflated, cut": (
        lambda: dicom_files.encoded(dicom_files.of(scene(), DeflatedExplicitVRLittleEndian))[:-40],
        "damaged DICOM file",
    ),
    "runs without an end": (lambda: dicom_files.encoded(endless()), "far more packed bytes"),
    "a window of no width": (
        lambda: dicom_files.encoded(dicom_files.of(DEEP, WindowCenter=9, WindowWidth=0)),
        "damaged DICOM file .*Window Width",
    ),
    "unknown colors": (
        lambda: dicom_files.encoded(dicom_files.of(colors(), PhotometricInterpretation="HSV")),
        "pixels in HSV",
    ),
    "a film": (lambda: claimed(MPEG2MPML), "pixels in MPEG2 .*which pydicom cannot decode"),
    "damaged JPEG 2000": (lambda: claimed(JPEG2000Lossless), "JPEG 2000 .*cannot be decoded"),
    "not a number": (lambda: dicom_files.encoded(floats()), "no finite numbers"),
}


def endless() -> Dataset:
    """RLE whose runs are longer than the picture."""
    dataset = dicom_files.of(scene(), RLELossless)
    frame = (
        (1).to_bytes(4, "little") + (64).to_bytes(4, "little") + bytes(56) + b"\x81\x07" * 50_000
    )
    dataset.PixelData = pydicom.encaps.encapsulate([frame])
    return dataset


def floats() -> Dataset:
    dataset = dicom_files.of(scene())
    for name in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(dataset, name)
    dataset.BitsAllocated = 32
    dataset.FloatPixelData = np.where(scene() > 250, np.nan, scene()).astype(np.float32).tobytes()
    return dataset


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_read_is_refused_with_its_reason(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(dicom, "_LARGEST", SMALL)
    make, reason = REFUSED[kind]
    data = make()
    (tmp_path / "a.dcm").write_bytes(data)
    with pytest.raises(UnreadableImage, match=rf"a\.dcm: .*{reason}") as refused:
        read(tmp_path / "a.dcm")
    assert look(data) == (None, str(refused.value).partition("a.dcm: ")[2])


def test_a_compression_that_nothing_here_decodes_is_named_with_what_would(monkeypatch):
    decoder = pydicom.pixels.get_decoder(JPEGLSLossless)
    monkeypatch.setattr(decoder, "_available", {})
    monkeypatch.setattr(
        decoder, "_unavailable", {"pylibjpeg": ("pylibjpeg>=2.0", "pylibjpeg-libjpeg>=2.1")}
    )
    problem = look(claimed(JPEGLSLossless))[1]
    assert "JPEG-LS Lossless Image Compression (1.2.840.10008.1.2.4.80)" in problem
    assert problem.endswith("pip install pylibjpeg pylibjpeg-libjpeg")


@pytest.mark.filterwarnings("ignore")
def test_every_file_that_comes_with_pydicom_is_read_or_refused_in_words():
    files = sorted(path for path in SHIPPED.rglob("*") if path.is_file())
    found = {path.name: look(path.read_bytes()) for path in files}
    assert len(found) > 100
    assert all((header is None) == bool(problem) for header, problem in found.values())
    for name in ("CT_small", "MR_small_RLE", "SC_rgb_jpeg_dcmtk", "image_dfl", "examples_palette"):
        assert found[f"{name}.dcm"][1] == ""
    for name, reason in {
        "rtplan": "without a picture (RT Plan Storage)",
        "rtdose": "15 frames in one DICOM file",
        "MR_truncated": "less than expected",
    }.items():
        assert reason in found[f"{name}.dcm"][1]
    same = [np.asarray(read(SHIPPED / f"MR_small{way}.dcm")) for way in ("", "_RLE", "_bigendian")]
    assert (same[0] == same[1]).all() and (same[0] == same[2]).all()


# --- the patient, and the package ---------------------------------------------------------------------------


def test_the_patient_is_the_patient_id_and_never_the_name(tmp_path, monkeypatch):
    monkeypatch.setattr(dicom, "_LARGEST", SMALL)

    def told(**elements: object) -> str:
        (tmp_path / "a.dcm").write_bytes(dicom_files.encoded(dicom_files.of(scene(), **elements)))
        return dicom.patient(tmp_path / "a.dcm")

    assert told(PatientID=" 007 ") == "007"
    assert told(PatientID="") == ""
    assert told(PatientID="12", syntax=DeflatedExplicitVRLittleEndian) == "12"
    (tmp_path / "b.dcm").write_bytes(WHOLE[:200])
    Image.fromarray(scene()).save(tmp_path / "c.png")
    (tmp_path / "bomb.dcm").write_bytes(dicom_files.deflated_bomb(SMALL))
    for name in ("b.dcm", "c.png", "bomb.dcm", "nowhere.dcm", "."):
        assert dicom.patient(tmp_path / name) == ""


def test_without_pydicom_a_dicom_file_is_listed_with_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.dcm").write_bytes(WHOLE)
    table = pd.DataFrame({"path": ["a.dcm"]}, dtype="str")
    dicom_files.without_pydicom(monkeypatch)
    table = records.with_patients(table, "auto", tmp_path)
    assert table["patient"][0] == "?a.dcm"
    with pytest.raises(ImportError, match="pip install 'pydicom>=3.0.1'"):  # of files all alike
        records.inspect(table, tmp_path)
    (tmp_path / "b.txt").write_text("no image")
    mixed = pd.concat([table, table.assign(path="b.txt")], ignore_index=True)
    with pytest.warns(UserWarning, match="1 of 2 files are left out: this needs 'pydicom"):
        found = records.inspect(mixed, tmp_path)
    assert found["problem"][0].endswith("; pip install 'pydicom>=3.0.1'")
    with pytest.raises(ImportError, match="pip install 'pydicom>=3.0.1'"):
        records.with_patients(table, "dicom", tmp_path)
