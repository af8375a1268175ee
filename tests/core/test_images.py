"""One way to open an image: upright everywhere, deep pixels scaled alike, what cannot be read refused alike."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import dicom_files
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from PIL.ExifTags import Base
from torch import nn
from troubled_files import AS_STORED, tiff_of

import tlutils
from tlutils.core import devices
from tlutils.core.images import UnreadableImage, read
from tlutils.data import loaders, near_duplicates, records
from tlutils.evaluation.predict import predict


def scene() -> np.ndarray:
    """uint8 (48, 96): no two of its eight turns look the same."""
    y, x = np.mgrid[0:48, 0:96]
    return (40 + 60 * (x // 12 % 2) + 100 * (y < 14) * (x > 50) + y // 2).astype(np.uint8)


def held(folder: Path, orientation: int, ending: str = "png") -> Path:
    """The scene as a file of this orientation."""
    file, image = (
        folder / f"{orientation}.{ending}",
        Image.fromarray(AS_STORED[orientation](scene()).copy()),
    )
    exif = Image.Exif()
    exif[Base.Orientation] = orientation
    options = {"tiffinfo": {Base.Orientation: orientation}} if ending == "tiff" else {"exif": exif}
    image.save(file, quality=95, **options)
    return file


def listed(*files: Path) -> pd.DataFrame:
    return pd.DataFrame(
        {"path": [file.name for file in files], "split": "", "label": "A", "patient": "1"},
        dtype="str",
    )


@pytest.mark.parametrize("ending", ["jpeg", "png", "tiff"])
@pytest.mark.parametrize("orientation", AS_STORED)
def test_a_picture_is_upright_wherever_it_is_read(tmp_path, ending, orientation):
    file, plain = held(tmp_path, orientation, ending), held(tmp_path, 1, "png")
    assert np.abs(np.asarray(read(file)).astype(int) - scene()).max() <= 8
    for fit in loaders.RESIZES:
        seen, wanted = (loaders.read_image(path, 32, fit).int() for path in (file, plain))
        assert (seen - wanted).abs().max() <= 8
    for decode in (False, True):
        found = records.inspect(listed(file), tmp_path, decode=decode)
        assert (found["width"][0], found["height"][0], found["problem"][0]) == (96, 48, "")
    hashed = near_duplicates.look_at(listed(file, plain), tmp_path)
    assert len(near_duplicates.find_pairs(hashed)) == 1


class Corner(nn.Module):
    """Answers with the mean of the upper right corner, which is light when the scene is upright."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        light = images[:, 0, :8, -8:].mean((1, 2))[:, None]
        return torch.cat([light, -light], 1) + self.nothing


def test_predictions_see_the_picture_upright(tmp_path):
    files = [held(tmp_path, orientation, "jpeg") for orientation in AS_STORED]
    loader = loaders.make(listed(*files), tmp_path, ["A", "B"], size=32)
    said = predict(Corner(), loader, devices.choose("cpu"))["p_A"]
    assert said.min() > 0.8 and said.max() - said.min() < 0.02


def test_an_orientation_behind_the_pixels_of_a_png_counts_too(tmp_path):
    image, exif = io.BytesIO(), Image.Exif()
    Image.fromarray(AS_STORED[6](scene()).copy()).save(image, "PNG")
    exif[Base.Orientation] = 6
    body = b"eXIf" + exif.tobytes()[6:]
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    (tmp_path / "a.png").write_bytes(image.getvalue()[:-12] + chunk + image.getvalue()[-12:])
    assert (np.asarray(read(tmp_path / "a.png")) == scene()).all()
    found = records.inspect(listed(tmp_path / "a.png"), tmp_path)
    assert (found["width"][0], found["height"][0]) == (96, 48)


@pytest.mark.parametrize("exif", [b"Exif\0\0II*\0", b"Exif\0\0" + b"\xff" * 40, b"nonsense", b""])
def test_damaged_metadata_do_not_keep_a_whole_picture_out(tmp_path, exif):
    Image.fromarray(scene()).save(tmp_path / "a.jpeg", exif=exif, quality=95)
    assert np.asarray(read(tmp_path / "a.jpeg")).shape == (48, 96)
    assert records.inspect(listed(tmp_path / "a.jpeg"), tmp_path)["problem"][0] == ""


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("decode", [False, True])
def test_pixels_that_are_not_finite_are_a_problem_and_no_black_picture(tmp_path, bad, decode):
    values = scene().astype(np.float32)
    values[3, 4] = bad
    Image.fromarray(values).save(tmp_path / "a.tif")
    found = records.inspect(listed(tmp_path / "a.tif"), tmp_path, decode=decode)
    assert "no finite numbers" in found["problem"][0]
    with pytest.raises(UnreadableImage, match=r"a\.tif: pixels that are no finite numbers"):
        loaders.read_image(tmp_path / "a.tif")
    assert near_duplicates.look_at(listed(tmp_path / "a.tif"), tmp_path)["phash"][0] == ""


DEEP = {
    "16 bit": lambda a: (a.astype(np.uint16) * 50, "png"),
    "16 bit, little end first": lambda a: (a.astype("<u2") * 9, "tif"),
    "16 bit, big end first": lambda a: (a.astype(">u2") * 9, "tif"),
    "32 bit whole numbers": lambda a: (a.astype(np.int32) - 1000, "tif"),
    "32 bit, small steps far from zero": lambda a: (a.astype(np.int32) + 2**30, "tif"),
    "float": lambda a: (a.astype(np.float32) / 255, "tif"),
    "float, all negative": lambda a: (a.astype(np.float32) - 1024, "tif"),
    "float, very small": lambda a: (a.astype(np.float32) * np.float32(1e-30), "tif"),
    "float, the whole range": lambda a: ((a.astype(np.float32) - 130) * np.float32(2e36), "tif"),
}


def test_a_window_says_which_deep_values_are_black_and_white(tmp_path):
    deep = scene().astype(np.uint16) * 50
    wanted = ((deep / 50 - 60) / 100).clip(0, 1) * 255
    Image.fromarray(deep).save(tmp_path / "a.png")
    Image.fromarray(deep.astype(np.float32)).save(tmp_path / "b.tif")
    low_is_white = {Base.PhotometricInterpretation: 0}
    Image.fromarray(deep.astype(np.float32)).save(tmp_path / "c.tif", tiffinfo=low_is_white)
    (tmp_path / "d.dcm").write_bytes(
        dicom_files.encoded(dicom_files.of(deep, WindowCenter=9, WindowWidth=9))
    )
    seen = {
        file.name: np.asarray(read(file, window=(3000, 8000))).astype(int)
        for file in tmp_path.iterdir()
    }
    seen["c.tif"] = 255 - seen["c.tif"]
    assert all(np.abs(picture - wanted).max() <= 1 for picture in seen.values())
    Image.fromarray(scene()).save(tmp_path / "e.png")
    assert (np.asarray(read(tmp_path / "e.png", window=(60, 160))) == scene()).all()


@pytest.mark.parametrize("kind", DEEP)
def test_deep_pixels_are_scaled_alike_by_their_own_least_and_greatest(tmp_path, kind):
    values, ending = DEEP[kind](scene())
    Image.fromarray(values).save(tmp_path / f"a.{ending}")
    low, high = scene().min(), scene().max()
    wanted = (scene() - low) / (high - low) * 255
    assert np.abs(np.asarray(read(tmp_path / f"a.{ending}")) - wanted).max() <= 1
    Image.fromarray(wanted.astype(np.uint8)).save(tmp_path / "b.png")
    deep, plain = (
        loaders.read_image(tmp_path / name, 32).int() for name in (f"a.{ending}", "b.png")
    )
    assert (deep - plain).abs().max() <= 1
    hashed = near_duplicates.look_at(listed(tmp_path / f"a.{ending}", tmp_path / "b.png"), tmp_path)
    assert len(near_duplicates.find_pairs(hashed)) == 1
    assert records.inspect(listed(tmp_path / f"a.{ending}"), tmp_path)["problem"][0] == ""


@pytest.mark.parametrize(
    "stored, tags",
    [
        (lambda a: 65535 - a.astype(np.uint16) * 200, {"t262": 0}),
        (lambda a: -a.astype(np.float32), {"t262": 0}),
        (lambda a: a.astype(np.uint32) * 16_000_000, {}),
        (lambda a: (a ^ 128).view(np.int8), {}),
    ],
    ids=[
        "16 bits, 0 is white",
        "floats, 0 is white",
        "32 bits without a sign",
        "8 bits with a sign",
    ],
)
def test_a_tiff_keeps_bright_bright_whatever_kind_of_numbers_it_holds(tmp_path, stored, tags):
    file = tmp_path / "scan.tif"
    file.write_bytes(tiff_of(stored(scene()), **tags))
    seen = np.asarray(read(file)).astype(float)
    assert np.corrcoef(seen.ravel(), scene().ravel())[0, 1] > 0.999


def test_a_deep_picture_of_one_value_is_black_and_raises_nothing(tmp_path):
    Image.fromarray(np.full((9, 9), 7.5, np.float32)).save(tmp_path / "a.tif")
    assert (np.asarray(read(tmp_path / "a.tif")) == 0).all()


@pytest.mark.parametrize("ending", ["tif", "gif", "png", "webp"])
def test_several_pictures_in_one_file_are_a_problem_but_a_preview_is_none(tmp_path, ending):
    pages = [Image.fromarray(scene()), Image.fromarray(scene().copy()[::-1].copy())]
    name = f"a.{ending}.png"  # content counts, not the name
    pages[0].save(
        tmp_path / name,
        {"tif": "TIFF"}.get(ending, ending.upper()),
        save_all=True,
        append_images=pages[1:],
    )
    assert "several pictures" in records.inspect(listed(tmp_path / name), tmp_path)["problem"][0]
    with pytest.raises(UnreadableImage, match="several pictures"):
        loaders.read_image(tmp_path / name)
    pages[0].save(tmp_path / "b.tif", save_all=True, append_images=[pages[1].resize((24, 12))])
    assert (np.asarray(read(tmp_path / "b.tif")) == scene()).all()


def test_a_picture_is_refused_in_training_for_the_reason_that_the_audit_gives(tmp_path):
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)).save(
        whole, "JPEG"
    )
    png = io.BytesIO()
    Image.fromarray(scene()).save(png, "PNG")
    broken = bytearray(png.getvalue())
    broken[-13] ^= 1  # of the last pixels' checksum
    for name, data in {
        "cut": whole.getvalue()[:900],
        "cut and given an end": whole.getvalue()[:1500] + b"\xff\xd9",
        "checksum": bytes(broken),
        "empty": b"",
        "text": b"no image",
    }.items():
        (tmp_path / name).write_bytes(data)
        problem = records.inspect(listed(tmp_path / name), tmp_path, decode=True)["problem"][0]
        assert problem
        for size in (8, 32):  # a smaller one is decoded straight to a part
            with pytest.raises(UnreadableImage) as refusal:
                loaders.read_image(tmp_path / name, size)
            assert str(refusal.value) == f"{tmp_path / name}: {problem}"


def test_no_other_file_of_the_library_opens_images():
    """But acquisition.py, which takes back the JPEG that it has just made in memory."""
    modules = [
        path
        for path in Path(tlutils.__file__).parent.rglob("*.py")
        if "Image.open" in path.read_text()
    ]
    assert sorted(path.name for path in modules) == ["acquisition.py", "images.py"]


@pytest.mark.parametrize("shape", [(1, 65_000), (65_000, 1), (1, 1), (3, 500)])
@pytest.mark.parametrize("fit", loaders.RESIZES)
def test_a_strip_of_any_shape_becomes_a_square_without_filling_the_memory(tmp_path, shape, fit):
    Image.fromarray(np.full(shape, 90, np.uint8)).save(tmp_path / "a.png")
    image = loaders.read_image(tmp_path / "a.png", 224, fit)
    assert image.shape == (1, 224, 224) and image.max() == 90
