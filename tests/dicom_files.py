"""DICOM files made of arrays, as scanners and archives write them."""

from __future__ import annotations

import io
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
    generate_uid,
)
from tiny_images import TINY_CLASSES, draw_tiny


def of(stored: np.ndarray, syntax: str = ExplicitVRLittleEndian, **elements: object) -> Dataset:
    """A DICOM data set that holds stored values (rows, columns[, 3]), with more elements by keyword."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    dataset.PatientName, dataset.PatientID = "Doe^Jane", "p1"
    dataset.Rows, dataset.Columns = stored.shape[:2]
    dataset.SamplesPerPixel = 3 if stored.ndim == 3 else 1
    if stored.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = "RGB" if stored.ndim == 3 else "MONOCHROME2"
    dataset.BitsAllocated = 8 * stored.itemsize
    dataset.BitsStored = elements.pop("BitsStored", dataset.BitsAllocated)
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    dataset.PixelData = stored.tobytes() + bytes(stored.nbytes % 2)
    dataset["PixelData"].VR = "OB" if stored.itemsize == 1 else "OW"
    for name, value in elements.items():
        setattr(dataset, name, value)
    if syntax == DeflatedExplicitVRLittleEndian:
        dataset.file_meta.TransferSyntaxUID = syntax
    elif syntax != ExplicitVRLittleEndian:
        dataset.compress(syntax)
    return dataset


def encoded(dataset: Dataset) -> bytes:
    """The bytes of the file."""
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def table(*entries: int, bits: int, first: int = 0, kind: type = Dataset) -> Dataset:
    """An item of a modality or VOI lookup table sequence."""
    item = kind()
    item.LUTDescriptor = [len(entries), first, bits]
    item.LUTData = list(entries)
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    return item


def deflated_bomb(unpacked: int) -> bytes:
    """A deflated file of few bytes whose data set unpacks to so many."""
    dataset = of(np.zeros((2, 2), np.uint8), DeflatedExplicitVRLittleEndian)
    whole = encoded(dataset)
    start = 144 + int.from_bytes(whole[140:144], "little")
    pack = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    body = zlib.decompress(whole[start:], -zlib.MAX_WBITS)
    packed = pack.compress(body) + pack.compress(bytes(unpacked)) + pack.flush()
    return whole[:start] + packed


def without_pydicom(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where it is not installed."""
    for name in ("pydicom", "pydicom.pixels", "pydicom.filereader"):
        monkeypatch.setitem(sys.modules, name, None)


def write_folder(root: Path, patients: range = range(1, 9), classes: tuple = TINY_CLASSES) -> Path:
    """<class>/<number>.dcm, 12 bit in a window, two scans of each patient in each class.

    The names tell no patient; the files' PatientID does.
    """
    for label in classes:
        (root / label).mkdir(parents=True)
        for patient in patients:
            for scan in (0, 1):
                stored = np.asarray(draw_tiny(label, 100 * patient + scan)).astype(np.uint16) * 16
                window = {"WindowCenter": 2048, "WindowWidth": 4096, "BitsStored": 12}
                dataset = of(stored, PatientID=f"{label}{patient}", **window)
                name = f"{2 * patient + scan:03}.dcm"
                (root / label / name).write_bytes(encoded(dataset))
    return root
