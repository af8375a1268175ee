"""The named data sets and the folders that people have: fetched whole, recognised, never counted twice."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import random
import shlex
import shutil
import tracemalloc
import zipfile
from pathlib import Path

import archives
import numpy as np
import processes
import pytest
from data_builders import JPEG, image_names, write
from PIL import Image
from servers import serving_files

from tlutils.data import downloads, records, sources
from tlutils.data.downloads import DownloadError
from tlutils.data.layouts import find_root
from tlutils.data.sources import SOURCES, fetch, get


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A folder and a server of its files, known to fetch as the mirror."""
    with serving_files(tmp_path / "mirror") as server:
        monkeypatch.setenv("TLUTILS_MIRROR", server.url + "/")
        yield server


def offer(mirror, monkeypatch, name: str, content: bytes, known: bool = True) -> None:
    """Put a small file in the place of a source's real one, and its hash and size too."""
    (mirror.folder / SOURCES[name].file).write_bytes(content)
    if known:
        marks = {"sha256": hashlib.sha256(content).hexdigest(), "md5": None, "bytes": len(content)}
        monkeypatch.setitem(SOURCES, name, dataclasses.replace(SOURCES[name], **marks))


def zipped(names: list[str]) -> bytes:
    return archives.zipped(dict.fromkeys(names, JPEG))


def medmnist(n: int = 6, size: int = 28, n_classes: int = 2, **replaced) -> bytes:
    rng = np.random.default_rng(0)
    arrays = {}
    for split in ("train", "val", "test"):
        arrays[f"{split}_images"] = rng.integers(0, 256, (n, size, size), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(n) % n_classes).astype(np.uint8)[:, None]
    buffer = io.BytesIO()
    arrays = {key: value for key, value in (arrays | replaced).items() if value is not None}
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def count(root: Path) -> int:
    return len(records.scan(root))


# --------------------------------------------------------------------------------------------------- registry


def test_every_source_says_where_it_comes_from_and_what_one_may_do_with_it():
    for name, source in SOURCES.items():
        assert (
            source.name == name
            and source.title
            and source.classes
            and source.note
            and source.citation
        )
        if source.kind == "phantom":
            assert source.license == "MIT" and not source.url
        else:
            assert source.license == "CC BY 4.0" and source.url.startswith("https://")
            assert source.images > 5000 and source.origin.startswith("https://")
            assert source.sha256 or source.md5 or source.bytes or "64" in name or "128" in name
    assert {"kermany-oct", "kermany-chest", "octmnist", "octmnist-224", "pneumoniamnist"} <= set(
        SOURCES
    )


def test_the_table_has_a_row_for_each_source():
    table = sources.table()
    assert list(table.columns) == ["name", "images", "size", "license", "origin"]
    assert list(table["name"]) == list(SOURCES) and (table != "").all().all()
    assert table.set_index("name").loc["kermany-oct", "size"] == "5.8 GB"


def test_an_archive_is_fetched_unpacked_and_recognised_once(mirror, monkeypatch, tmp_path):
    names = image_names("chest_xray/train", "chest_xray/test")
    junk = [f"__MACOSX/{name.replace('NORMAL-', '._NORMAL-')}" for name in names] + [
        "chest_xray/.DS_Store"
    ]
    offer(mirror, monkeypatch, "kermany-chest", zipped(names + junk))
    root = fetch("kermany-chest", tmp_path / "data")
    assert root == tmp_path / "data" / "kermany-chest" / "chest_xray" and count(root) == len(names)
    assert (
        fetch("kermany-chest", tmp_path / "data") == root == get("kermany-chest", tmp_path / "data")
    )
    assert mirror.asked == ["/ChestXRay2017.zip"]


def test_the_oct_archive_is_fetched_too_and_says_that_only_its_size_is_known(
    mirror, monkeypatch, tmp_path
):
    names = image_names("OCT2017/train", "OCT2017/test", classes=("CNV", "DME", "DRUSEN", "NORMAL"))
    content = archives.tarred(dict.fromkeys(names, JPEG), mode="w:gz")
    (mirror.folder / "OCT2017.tar.gz").write_bytes(content)
    small = dataclasses.replace(SOURCES["kermany-oct"], bytes=len(content))
    monkeypatch.setitem(SOURCES, "kermany-oct", small)
    with pytest.warns(UserWarning, match="cannot be verified beyond its size"):
        assert count(fetch("kermany-oct", tmp_path)) == len(names)


def test_a_file_placed_by_hand_is_used(mirror, monkeypatch, tmp_path):
    offer(mirror, monkeypatch, "kermany-chest", zipped(image_names("train")))
    (mirror.folder / "ChestXRay2017.zip").rename(tmp_path / "ChestXRay2017.zip")
    assert count(fetch("kermany-chest", tmp_path)) == 4 and mirror.asked == []


def test_another_address_changes_nothing_of_the_checks(mirror, monkeypatch, tmp_path):
    (mirror.folder / "ChestXRay2017.zip").write_bytes(zipped(image_names("train")))
    with pytest.raises(DownloadError, match="1,235,512,464"):
        fetch("kermany-chest", tmp_path)
    assert list(tmp_path.glob("*kermany*")) == [] and not (tmp_path / "ChestXRay2017.zip").exists()


def test_a_source_that_cannot_be_had_says_where_to_place_the_file(mirror, tmp_path):
    with pytest.raises(FileNotFoundError, match="404") as error:
        fetch("octmnist-224", tmp_path / "data")
    assert str(tmp_path / "data" / "octmnist_224.npz") in str(error.value)


def test_an_unknown_name_or_option_is_refused(tmp_path):
    with pytest.raises(ValueError, match="kermany-oct.*phantom-chest"):
        fetch("kermany", tmp_path)
    with pytest.raises(ValueError, match="knows no options, found patients"):
        fetch("kermany-oct", tmp_path, patients=3)


# --------------------------------------------------------------------------------------------------- medmnist


def test_medmnist_arrays_become_folders_of_the_same_pixels(mirror, monkeypatch, tmp_path):
    content = medmnist()
    offer(mirror, monkeypatch, "pneumoniamnist", content)
    root = fetch("pneumoniamnist", tmp_path)
    table = records.scan(root)
    assert len(table) == 18 and set(table["label"]) == {"NORMAL", "PNEUMONIA"}
    assert table["patient"].is_unique and set(table["split"]) == {"train", "val", "test"}
    arrays = np.load(io.BytesIO(content), allow_pickle=False)
    for split in ("train", "val", "test"):
        for row, label in enumerate(arrays[f"{split}_labels"].ravel()):
            path = (
                root
                / split
                / ("NORMAL", "PNEUMONIA")[label]
                / f"pneumoniamnist-{split}-{row:06d}.png"
            )
            with Image.open(path) as image:
                assert image.mode == "L" and np.array_equal(
                    np.asarray(image), arrays[f"{split}_images"][row]
                )


def test_octmnist_keeps_medmnists_order_of_classes(mirror, monkeypatch, tmp_path):
    offer(mirror, monkeypatch, "octmnist-64", medmnist(n=4, size=64, n_classes=4))
    root = fetch("octmnist-64", tmp_path)
    assert [
        next(root.glob(f"val/*/octmnist-64-val-00000{i}.png")).parent.name for i in range(4)
    ] == ["CNV", "DME", "DRUSEN", "NORMAL"]


def test_a_size_without_a_known_hash_is_fetched_with_a_warning(mirror, monkeypatch, tmp_path):
    offer(mirror, monkeypatch, "pneumoniamnist-64", medmnist(size=64), known=False)
    with pytest.warns(UserWarning, match="cannot be verified beyond its form"):
        assert count(fetch("pneumoniamnist-64", tmp_path)) == 18


@pytest.mark.parametrize(
    "replaced, said",
    [
        ({"val_images": None}, "no val_images"),
        ({"val_labels": np.array([[2]] * 6)}, "runs from 2 to 2, expected 0 to 1"),
        ({"val_labels": np.zeros((6, 2), int)}, "expected one integer an image"),
        ({"val_labels": np.zeros((6, 1))}, "expected one integer an image"),
        ({"val_labels": np.array([{}] * 6)}, "expected one integer an image"),
        ({"val_images": np.array([{}] * 6)}, "expected uint8"),
        ({"val_images": np.zeros((6, 8, 8), np.float32)}, "expected uint8"),
        ({"val_images": np.zeros((5, 8, 8), np.uint8)}, "expected uint8"),
        ({"val_images": np.zeros((6, 8, 8, 3), np.uint8)}, "expected uint8"),
        ({"val_images": np.zeros((6, 0, 8), np.uint8)}, "expected uint8"),
        ({"val_images": np.zeros((6, 2000, 2000), np.uint8)}, "expected uint8"),
        ({"val_labels": np.array(1)}, "expected one integer an image"),
        ({"val_labels": np.zeros(0, int)}, "expected uint8"),
        (
            {
                "val_labels": np.zeros(9000, np.uint8),
                "val_images": np.zeros((9000, 1, 1), np.uint8),
            },
            "expected 5,856 at most",
        ),
    ],
)
def test_arrays_that_are_not_medmnists_are_refused_whole(
    mirror, monkeypatch, tmp_path, replaced, said
):
    offer(mirror, monkeypatch, "pneumoniamnist", medmnist(**replaced))
    with pytest.raises(ValueError, match=said):
        fetch("pneumoniamnist", tmp_path / "data")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["pneumoniamnist.npz"]


def test_a_damaged_npz_is_a_clear_error(mirror, monkeypatch, tmp_path):
    whole = medmnist()
    broken = bytearray(whole)
    broken[1000] ^= 0xFF
    for content in (whole[:2000], bytes(broken)):
        offer(mirror, monkeypatch, "pneumoniamnist", content)
        with pytest.raises(ValueError, match="pneumoniamnist.npz is not the MedMNIST file"):
            fetch("pneumoniamnist", tmp_path / "data")
        (tmp_path / "data" / "pneumoniamnist.npz").unlink()
        assert list((tmp_path / "data").iterdir()) == []


def npz_with(name: str, content: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """MedMNIST's arrays, one member of the file replaced."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(medmnist())) as plain, zipfile.ZipFile(buffer, "w") as changed:
        for info in plain.infolist():
            replaced = info.filename == name
            changed.writestr(
                info.filename,
                content if replaced else plain.read(info),
                method if replaced else None,
            )
    return buffer.getvalue()


def npy(header: str, version: int = 1) -> bytes:
    size = len(header).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + size + header.encode()


def locked(content: bytes) -> bytes:
    """A zip that says of all its members that they are encrypted."""
    changed, at = bytearray(content), content.find(b"PK\1\2")
    while at >= 0:
        changed[at + 8] |= 1
        at = content.find(b"PK\1\2", at + 4)
    return bytes(changed)


HOSTILE = {
    "a header of 30 MB": lambda: npz_with("val_images.npy", npy(" " * 30_000_000, 2)),
    "labels with such a header": lambda: npz_with("val_labels.npy", npy(" " * 30_000_000, 2)),
    "10 to the 13 labels": lambda: npz_with(
        "val_labels.npy",
        npy("{'descr': '|u1', 'fortran_order': False, 'shape': (10000000000000,), }\n"),
    ),
    "a negative number": lambda: npz_with(
        "val_images.npy", npy("{'descr': '|u1', 'fortran_order': False, 'shape': (6, -1, 8), }\n")
    ),
    "Python in the header": lambda: npz_with(
        "val_images.npy", npy("{'descr': __import__('os').mkdir('sprung'), ")
    ),
    "bzip2": lambda: npz_with("val_images.npy", bytes(30_000_000), zipfile.ZIP_BZIP2),
    "a pickle": lambda: npz_with(
        "val_labels.npy",
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (6,), }\n")
        + b"cos\nmkdir\n(Vsprung\ntR.",
    ),
    "a password": lambda: locked(medmnist()),
}


@pytest.mark.parametrize("build", HOSTILE.values(), ids=HOSTILE)
def test_arrays_made_to_do_harm_are_refused_in_little_memory(tmp_path, monkeypatch, build):
    (tmp_path / "a.npz").write_bytes(build())
    monkeypatch.chdir(tmp_path)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="a.npz is not the MedMNIST file"):
            sources._unpack_medmnist(
                tmp_path / "a.npz", tmp_path / "to", SOURCES["pneumoniamnist-64"], False
            )
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
    assert os.listdir(tmp_path) == ["a.npz"]


def test_a_damaged_npz_is_refused_or_whole_wherever_it_is_damaged(tmp_path):
    buffer, draw = io.BytesIO(), random.Random(0)
    np.savez(buffer, **np.load(io.BytesIO(medmnist(size=4))))
    for i in range(100):
        broken = bytearray(buffer.getvalue())
        broken[draw.randrange(len(broken))] ^= 1 << draw.randrange(8)
        (tmp_path / "a.npz").write_bytes(broken)
        try:
            sources._unpack_medmnist(
                tmp_path / "a.npz", tmp_path / f"to{i}", SOURCES["pneumoniamnist-64"], False
            )
            assert len(list((tmp_path / f"to{i}").rglob("*.png"))) == 18
        except ValueError as error:
            assert "is not the MedMNIST file" in str(error) and not (tmp_path / f"to{i}").exists()


# ------------------------------------------------------------------------------------------------------- interrupted


def test_a_fetch_killed_while_it_unpacks_is_begun_anew(mirror, monkeypatch, tmp_path):
    names = image_names("chest_xray/train", each=300)
    content = zipped(names)
    offer(mirror, monkeypatch, "kermany-chest", content)
    code = (
        "import os, signal, sys; from tlutils.data import downloads, sources\n"
        "place, seen = downloads._place, []\n"
        "def die(*args):\n    seen.append(place(*args))\n"
        "    if len(seen) == 100: os.kill(os.getpid(), signal.SIGKILL)\n"
        "downloads._place = die\n"
        "import dataclasses; source = sources.SOURCES['kermany-chest']\n"
        f"sources.SOURCES['kermany-chest'] = dataclasses.replace(source, sha256=None, bytes={len(content)})\n"
        "sources.fetch('kermany-chest', 'data')"
    )
    killed = processes.python("-c", code, cwd=tmp_path, check=False)
    assert killed.returncode == -9, killed.stderr
    left = tmp_path / "data" / "kermany-chest.unfinished"
    assert (
        len(list(left.rglob("*.jpeg"))) == 100
        and not (tmp_path / "data" / "kermany-chest").exists()
    )
    (left / "of another archive.jpeg").write_bytes(JPEG)
    assert count(fetch("kermany-chest", tmp_path / "data")) == len(names)
    assert sorted(os.listdir(tmp_path / "data")) == ["ChestXRay2017.zip", "kermany-chest"]
    assert mirror.asked == ["/ChestXRay2017.zip"]
    assert len(list((tmp_path / "data").rglob("*.jpeg"))) == len(names)


def test_a_folder_removed_while_it_is_fetched_is_an_error_and_fetched_anew(
    mirror, monkeypatch, tmp_path
):
    offer(mirror, monkeypatch, "kermany-chest", zipped(image_names("train")))
    unpacked = downloads._place

    def removed(*args):
        shutil.rmtree(tmp_path / "data" / "kermany-chest.unfinished")
        unpacked(*args)

    monkeypatch.setattr(downloads, "_place", removed)
    with pytest.raises(ValueError, match="cannot be made"):
        get("kermany-chest", tmp_path / "data")
    monkeypatch.setattr(
        downloads, "_place", lambda *args: (unpacked(*args), shutil.rmtree(tmp_path / "data"))
    )
    with pytest.raises(
        (ValueError, DownloadError), match="cannot be made|removed while it was filled"
    ):
        get("kermany-chest", tmp_path / "data")
    assert not (tmp_path / "data" / "kermany-chest").exists()
    monkeypatch.setattr(downloads, "_place", unpacked)
    assert count(get("kermany-chest", tmp_path / "data")) == 4


@pytest.mark.parametrize(
    "name", ["a folder é", "100%20 #1?", "-rf", "a'b\"c", ".hidden", "a;b&c$(d)", "x.unfinished"]
)
def test_the_folder_of_the_data_may_bear_any_name(mirror, monkeypatch, tmp_path, name):
    offer(mirror, monkeypatch, "kermany-chest", zipped(image_names("train")))
    assert count(fetch("kermany-chest", tmp_path / name)) == 4
    assert fetch("kermany-chest", tmp_path / name) == tmp_path / name / "kermany-chest"


def test_a_file_in_the_place_of_the_folder_is_a_clear_error(mirror, tmp_path):
    (tmp_path / "data").write_text("a file")
    with pytest.raises(DownloadError, match="could not write .*data.*hoose another folder"):
        fetch("kermany-chest", tmp_path / "data")


# --------------------------------------------------------------------------------------------------- phantoms


def test_phantoms_are_drawn_to_order_once(tmp_path):
    root = fetch("phantom-oct", tmp_path, patients=4, seed=3)
    assert set(records.scan(root)["label"]) <= {"CNV", "DME", "DRUSEN", "NORMAL"}
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    assert fetch("phantom-oct", tmp_path, patients=4, seed=3) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()} == before
    assert fetch("phantom-oct", tmp_path, patients=4, seed=4) != root
    with pytest.raises(ValueError, match="knows no option color.*patients"):
        fetch("phantom-oct", tmp_path, color="red")


# -------------------------------------------------------------------------------------------------- get


def test_the_line_that_the_error_gives_unpacks_the_archive(tmp_path, monkeypatch):
    (tmp_path / "mine.zip").write_bytes(zipped(image_names("mine/train")))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="is an archive") as error:
        get("mine.zip")
    python, c, code = shlex.split(str(error.value).split("Unpack it with: ")[1])
    assert (python, c) == ("python", "-c")
    exec(code)
    assert find_root("mine") == Path("mine/mine")


def test_get_takes_names_folders_and_tables_and_explains_the_rest(tmp_path, monkeypatch):
    write(tmp_path, *image_names("here/train"))
    (tmp_path / "table.csv").write_text("path,label\n")
    (tmp_path / "file.txt").write_text("?")
    assert get(tmp_path / "here") == tmp_path / "here"
    assert get(str(tmp_path / "table.csv")) == tmp_path / "table.csv"
    with pytest.raises(ValueError, match="is a file"):
        get(tmp_path / "file.txt")
    with pytest.raises(FileNotFoundError, match="did you mean octmnist.*kermany-oct"):
        get("octmnits")
    with pytest.raises(FileNotFoundError, match=f"did you mean {tmp_path / 'here'}.?"):
        get(tmp_path / "heer")


def test_the_data_page_tells_of_every_source_what_the_registry_tells():
    page = (Path(__file__).parents[2] / "data" / "README.md").read_text()
    for source in SOURCES.values():
        for said in (source.name, source.file, source.url, source.sha256, source.md5):
            assert (said or "") in page
