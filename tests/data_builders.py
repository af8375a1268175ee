"""Small data sets that several tests of the data share: files in folders, and tables of records."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from tlutils.data import records


def _replaced(filename: str, part: str, by: str) -> str | None:
    key = records.patient_of(filename)
    return key and re.sub(part, by, key)


# The right key of the chest set, and two in public use that each take different people for one.
PATIENT_RULES = {
    "kind and number": records.patient_of,
    "number without kind": lambda name: _replaced(name, "^(bacteria|virus)-", "person"),
    "series merged": lambda name: _replaced(name, "^NORMAL2-", ""),
}

JPEG = io.BytesIO()
Image.new("L", (8, 8), 90).save(JPEG, "JPEG")
JPEG = JPEG.getvalue()


def write(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(JPEG)
    return root


def touch(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def image_names(*tops: str, classes=("NORMAL", "PNEUMONIA"), each: int = 2) -> list[str]:
    return [
        f"{top}/{label}/{label}-{i}-1.jpeg"
        for top in tops
        for label in classes
        for i in range(each)
    ]


# A small OCT set as Kaggle divides it: patients 1 and 2 are on both sides, patient 1 in several classes.
OCT = [
    ("train/CNV/CNV-1-1.jpeg", "train", "CNV"),
    ("train/DME/DME-1-1.jpeg", "train", "DME"),
    ("train/CNV/CNV-2-1.jpeg", "train", "CNV"),
    ("train/DME/DME-3-1.jpeg", "train", "DME"),
    ("test/CNV/CNV-1-1.jpeg", "test", "CNV"),
    ("test/CNV/CNV-2-2.jpeg", "test", "CNV"),
    ("test/DME/DME-2-3.jpeg", "test", "DME"),
    ("test/DME/DME-4-1.jpeg", "test", "DME"),
]


def table(rows: list[tuple[str, str, str]]) -> pd.DataFrame:
    return records.with_patients(
        pd.DataFrame(rows, columns=["path", "split", "label"], dtype="str")
    )


def patients(sizes: dict[str, dict[str, int]]) -> pd.DataFrame:
    """Records without splits from {patient: {label: images}}."""
    rows = [
        (f"{label}/{patient}-{i}.png", "", label, patient)
        for patient, labels in sizes.items()
        for label, n in labels.items()
        for i in range(n)
    ]
    return pd.DataFrame(rows, columns=["path", "split", "label", "patient"], dtype="str")


def random_patients(seed: int) -> pd.DataFrame:
    """12 to 150 patients of 1 to 12 images a class in one of 2 to 4 classes, some of them in a second one."""
    draw = np.random.default_rng(seed)
    labels = list("ABCD")[: draw.integers(2, 5)]
    sizes = {}
    for i in range(draw.integers(12, 150)):
        own = {labels[i % len(labels)]} | ({labels[0]} if draw.random() < 0.2 else set())
        sizes[f"p{i}"] = {label: int(draw.integers(1, 13)) for label in sorted(own)}
    return patients(sizes)


def finding(audit: pd.DataFrame, check: str, where: str = "train & test") -> pd.Series:
    return audit[(audit["check"] == check) & (audit["splits"] == where)].iloc[0]
