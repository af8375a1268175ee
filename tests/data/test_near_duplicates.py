"""Near-duplicates: what is found, what is not, and what it means for the splits."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from data_builders import finding
from PIL import Image

from tlutils.data import near_duplicates, phantoms, records
from tlutils.data.audit import audit_near_duplicates, audit_splits, leaks


def table(rows: list[tuple[str, str, str, str]], **columns: list) -> pd.DataFrame:
    found = pd.DataFrame(rows, columns=["path", "split", "label", "patient"], dtype="str")
    return found.assign(**columns)


def hashes(n: int, seed: int = 0) -> np.ndarray:
    """uint8 (n, 256) bits: clusters of ten whose members lie 0 to 60 bits from their centre."""
    draw = np.random.default_rng(seed)
    centres = draw.integers(0, 2, (n // 10 + 1, 256))[np.arange(n) // 10]
    return (centres ^ (draw.random((n, 256)) < draw.uniform(0, 0.12, (n, 1)))).astype(np.uint8)


def as_text(bits: np.ndarray) -> list[str]:
    return [row.tobytes().hex() for row in np.packbits(bits, axis=1)]


def hashed(bits: np.ndarray, splits_: list[str] | None = None) -> pd.DataFrame:
    n = len(bits)
    sides = splits_ or [""] * n
    return table([(f"A/{i}.png", sides[i], "A", str(i)) for i in range(n)], phash=as_text(bits))


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six phantom patients in train; in test a stranger and three disguises of patient 0 under new names."""
    root = tmp_path_factory.mktemp("scans")
    for split in ("train", "test"):
        for label in ("CNV", "NORMAL"):
            (root / split / label).mkdir(parents=True)
    for seed in range(6):
        label = ("CNV", "NORMAL")[seed % 2]
        drawn = Image.fromarray(phantoms.draw_oct(label, seed))
        drawn.save(root / "train" / label / f"{label}-{seed}-1.jpeg", quality=95)
    first = Image.fromarray(phantoms.draw_oct("CNV", 0))
    first.save(root / "test" / "CNV" / "CNV-70-1.jpeg", quality=50)
    first.resize((256, 248)).save(root / "test" / "CNV" / "CNV-71-1.png")
    first.convert("RGB").save(root / "test" / "CNV" / "CNV-72-1.bmp")
    Image.fromarray(phantoms.draw_oct("NORMAL", 99)).save(
        root / "test" / "NORMAL" / "NORMAL-73-1.jpeg"
    )
    return root


@pytest.fixture(scope="module")
def looked(scans: Path) -> pd.DataFrame:
    return near_duplicates.look_at(records.inspect(records.scan(scans), scans), scans)


def test_copies_saved_again_resized_or_in_color_are_found_and_strangers_are_not(looked):
    pairs = near_duplicates.find_pairs(looked)
    grouped = set(pairs["path_a"]) | set(pairs["path_b"])
    assert grouped == {
        "train/CNV/CNV-0-1.jpeg",
        "test/CNV/CNV-70-1.jpeg",
        "test/CNV/CNV-71-1.png",
        "test/CNV/CNV-72-1.bmp",
    }
    assert pairs["group"].nunique() == 1 and not pairs["same_bytes"].any()
    assert pairs["distance"].is_monotonic_increasing and pairs["distance"].max() <= 20


def test_copies_in_another_split_are_a_leak_that_bytes_do_not_show(looked):
    plain, near = (
        audit_splits(looked),
        audit_near_duplicates(looked, near_duplicates.find_pairs(looked)),
    )
    assert not leaks(plain) and leaks(near)
    row = finding(near, "near-duplicates", "train & test")
    assert (row["found"], row["of"], row["verdict"]) == (3, 4, "leak")
    assert "3 of them in files that differ" in row["meaning"]
    assert finding(near, "near-duplicates of two patients", "all")["verdict"] == "warning"
    assert list(near.columns) == list(plain.columns)


def test_hash_and_brightness_are_a_texts_of_64_digits_and_a_mean_grey(looked, scans):
    assert looked["phash"].str.fullmatch("[0-9a-f]{64}").all()
    pixels = np.asarray(Image.open(scans / looked["path"][0]).convert("L"))
    assert looked["brightness"][0] == pytest.approx(pixels.mean(), abs=1)


def test_white_wedges_are_found_where_they_were_drawn_and_nowhere_else(tmp_path):
    """Also in the saved files, whose white JPEG has made uneven."""
    rows = []
    for seed in range(24):
        label, wedge = phantoms.OCT_CLASSES[seed % 4], seed % 3 == 0
        plain = phantoms.draw_oct(label, seed, 256, 248)
        drawn = phantoms.draw_oct(label, seed, 256, 248, wedge=wedge)
        found = near_duplicates.white_wedges(drawn)
        assert (drawn[found] == 255).all() and found.any() == wedge
        assert found.sum() >= (drawn != plain).sum()
        rows.append((f"{seed}.jpeg", "", label, str(wedge)))
        Image.fromarray(drawn).save(tmp_path / rows[-1][0], quality=88)
    looked = near_duplicates.look_at(table(rows), tmp_path)
    assert ((looked["wedge"] > 0.003) == (looked["patient"] == "True")).all()


def test_a_bad_file_or_a_picture_without_contrast_has_no_hash_and_is_nobodys_copy(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("L", (40, 40), 7).save(tmp_path / name)
        (tmp_path / name.replace("png", "jpeg")).write_bytes(b"no image")
    found = table(
        [(name, "", "A", name) for name in ("a.png", "b.png", "a.jpeg", "b.jpeg", "gone.png")]
    )
    found = near_duplicates.look_at(found, tmp_path)
    assert (found["phash"] == "").all() and len(near_duplicates.find_pairs(found)) == 0
    assert found["brightness"].tolist()[:2] == [7, 7] and found["brightness"][2:].isna().all()
    assert found["wedge"].tolist()[:2] == [0, 0] and found["wedge"][2:].isna().all()


def test_a_16_bit_copy_is_found(tmp_path):
    scan = phantoms.draw_oct("DME", 3)
    Image.fromarray(scan).save(tmp_path / "a.png")
    Image.fromarray(scan.astype(np.uint16) * 200).save(tmp_path / "b.png")
    found = near_duplicates.look_at(
        table([("a.png", "", "A", "1"), ("b.png", "", "A", "2")]), tmp_path
    )
    assert len(near_duplicates.find_pairs(found)) == 1


def test_a_picture_that_looks_the_same_twice_in_one_split_of_one_patient_is_no_finding():
    bits = hashes(1).repeat(2, 0)
    same = hashed(bits, ["train", "train"]).assign(patient="1")
    assert (audit_near_duplicates(same, near_duplicates.find_pairs(same))["verdict"] == "ok").all()
    across = hashed(bits, ["train", "val"]).assign(patient="1")
    rows = audit_near_duplicates(across, near_duplicates.find_pairs(across))
    assert finding(rows, "near-duplicates", "train & val")["verdict"] == "leak"


def test_one_look_under_two_labels_is_a_warning():
    found = hashed(hashes(1).repeat(2, 0)).assign(label=["A", "B"], patient="1")
    rows = audit_near_duplicates(found, near_duplicates.find_pairs(found))
    assert finding(rows, "near-duplicates of two labels", "all")["found"] == 2
    assert finding(rows, "near-duplicates of two patients", "all")["found"] == 0


def test_copies_of_copies_leak_though_they_are_paired_with_the_first_only():
    found = hashed(hashes(1).repeat(3, 0), ["train", "val", "test"])
    pairs = near_duplicates.find_pairs(found)
    assert len(pairs) == 2 and set(pairs["path_a"]) == {"A/0.png"}
    rows = audit_near_duplicates(found, pairs)
    assert finding(rows, "near-duplicates", "val & test")["found"] == 1


def chain() -> np.ndarray:
    """uint8 (3, 256) bits: the first is near the second, the second near the third, the first not near the third."""
    bits = hashes(1).repeat(3, 0)
    bits[1, :15] ^= 1
    bits[2, :30] ^= 1
    return bits


def test_what_looks_like_a_third_does_not_look_like_the_thirds_own_neighbour():
    found = hashed(chain(), ["train", "val", "test"]).assign(
        label=["A", "A", "B"], patient=["1", "1", "2"]
    )
    pairs = near_duplicates.find_pairs(found)
    assert len(pairs) == 2 and pairs["group"].nunique() == 1
    rows = audit_near_duplicates(found, pairs)
    across = {
        where: finding(rows, "near-duplicates", where)["found"]
        for where in ("train & val", "val & test", "train & test")
    }
    assert across == {"train & val": 1, "val & test": 1, "train & test": 0}
    for column in ("patient", "label"):
        assert (
            finding(rows, f"near-duplicates of two {column}s", "all")["examples"]
            == "A/1.png, A/2.png"
        )


def test_copies_of_a_neighbour_are_neighbours_too():
    found = hashed(
        np.vstack([chain(), chain()]), ["train", "train", "train", "val", "test", "test"]
    )
    rows = audit_near_duplicates(found, near_duplicates.find_pairs(found))
    assert finding(rows, "near-duplicates", "train & val")["found"] == 1
    assert finding(rows, "near-duplicates", "train & test")["found"] == 2
    assert finding(rows, "near-duplicates", "val & test")["found"] == 1  # 4 is near 3, and 5 is not


def test_near_copies_whose_first_was_left_out_still_leak():
    found = hashed(hashes(1).repeat(3, 0), ["train", "train", "test"])
    rows = audit_near_duplicates(found[1:], near_duplicates.find_pairs(found))
    assert finding(rows, "near-duplicates", "train & test")["found"] == 1


def test_every_pair_that_the_audit_counts_is_one_of_comparing_all_with_all():
    bits = hashes(200)
    bits[50:60] = bits[3]
    draw = np.random.default_rng(1)
    found = hashed(bits, draw.choice(["train", "val", "test"], 200).tolist())
    found["patient"] = draw.integers(0, 20, 200).astype(str)
    near = (bits[:, None] != bits[None]).sum(2) <= 20
    np.fill_diagonal(near, False)
    rows = audit_near_duplicates(found, near_duplicates.find_pairs(found))
    patient, split = (found[column].to_numpy() for column in ("patient", "split"))
    differ = near & (patient[:, None] != patient[None])
    assert finding(rows, "near-duplicates of two patients", "all")["found"] == differ.any(1).sum()
    for one, two in (("train", "val"), ("train", "test"), ("val", "test")):
        wanted = near[np.ix_(split == two, split == one)].any(1).sum()
        assert finding(rows, "near-duplicates", f"{one} & {two}")["found"] == wanted


def flat_pictures() -> dict[str, np.ndarray]:
    y, x = np.mgrid[0:224, 0:224]
    draw = np.random.default_rng(0)
    box = np.where((x > 40) & (x < 160) & (y > 60) & (y < 150), 200, 30)
    return {
        "a slope": x,
        "a slope downwards": y,
        "a steeper slope": 255 - x / 2,
        "a slanted slope": (x + y) / 2,
        "a box": box,
        "a wider box": np.where((x > 40) & (x < 164) & (y > 60) & (y < 150), 200, 30),
        "a disc": np.where(np.hypot(x - 100, y - 90) < 50, 200, 30),
        "a slope with noise": x / 2 + draw.normal(60, 5, x.shape),
        "grey with noise": draw.normal(90, 3, x.shape),
    }


@pytest.mark.parametrize("name", flat_pictures())
def test_a_picture_that_shows_too_little_has_no_hash(tmp_path, name):
    Image.fromarray(flat_pictures()[name].clip(0, 255).astype(np.uint8)).save(tmp_path / "a.png")
    found = near_duplicates.look_at(table([("a.png", "", "A", "1")]), tmp_path)
    assert found["phash"][0] == "" and 0 < found["brightness"][0] < 255


@pytest.mark.parametrize("label", ["CNV", "DME", "DRUSEN", "NORMAL"])
def test_scans_of_little_contrast_keep_their_hash(tmp_path, label):
    scan = phantoms.draw_oct(label, 1).astype(float)
    Image.fromarray((scan / 3 + 60).astype(np.uint8)).save(tmp_path / "a.jpeg", quality=50)
    assert near_duplicates.look_at(table([("a.jpeg", "", "A", "1")]), tmp_path)["phash"][0]


def counted(n: int) -> np.ndarray:
    """uint8 (n, 256) bits: the numbers from 0 on in 16 of them, all others 0."""
    bits = np.zeros((n, 256), np.uint8)
    bits[:, ::16] = np.unpackbits(np.arange(n, dtype=">u2").view(np.uint8)).reshape(n, 16)
    return bits


def test_hashes_that_share_most_bits_are_compared_to_the_end():
    a, b, apart = near_duplicates._close_hashes(np.array(as_text(counted(3000))), 1)
    assert set(apart) == {1}
    assert len(a) == sum(
        (i ^ 1 << bit) in range(i + 1, 3000) for i in range(3000) for bit in range(12)
    )
    assert len(near_duplicates.find_pairs(hashed(counted(50_000)), 0)) == 0


@pytest.mark.parametrize("distance", [0, 1, 6, 20, 40])
def test_the_pairs_are_exactly_those_of_comparing_all_with_all(distance):
    bits = hashes(300)
    all_pairs = {
        (i, j)
        for i in range(300)
        for j in range(i + 1, 300)
        if (bits[i] ^ bits[j]).sum() <= distance
    }
    a, b, apart = near_duplicates._close_hashes(np.array(as_text(bits)), distance)
    assert {(int(i), int(j)) for i, j in zip(a, b, strict=True)} == all_pairs and len(a) == len(
        all_pairs
    )
    assert (apart == (bits[a] ^ bits[b]).sum(1)).all()


def test_images_without_a_hash_and_repeats_do_not_shift_the_pairs():
    bits = hashes(40)[[0, 0, 0, 10, 20, 20]]
    bits[4:, :3] ^= 1  # the last two look alike, and nearly like a new one at the end
    found = hashed(np.vstack([bits, hashes(40)[[20]]]))
    found.loc[0, "phash"] = ""
    pairs = near_duplicates.find_pairs(found, 3)
    assert {*zip(pairs["path_a"], pairs["path_b"], pairs["distance"], strict=True)} == {
        ("A/1.png", "A/2.png", 0),
        ("A/4.png", "A/5.png", 0),
        ("A/4.png", "A/6.png", 3),
    }


def test_the_index_of_a_filtered_table_does_no_harm():
    found = hashed(np.vstack([hashes(20), hashes(20)[:1]]))[10:]
    found.loc[20, "phash"] = found.loc[10, "phash"]
    pairs = near_duplicates.find_pairs(found, 0)
    assert [*zip(pairs["path_a"], pairs["path_b"], strict=True)] == [("A/10.png", "A/20.png")]
    assert near_duplicates.groups(found, pairs)[[10, 20]].tolist() == [0, 0]


def test_a_table_without_rows_or_hashes_has_no_pairs_and_one_never_hashed_is_refused():
    found = hashed(hashes(2))
    assert len(near_duplicates.find_pairs(found[:0])) == 0
    assert len(near_duplicates.find_pairs(found.assign(phash=""))) == 0
    with pytest.raises(ValueError, match="look_at adds it"):
        near_duplicates.find_pairs(found.drop(columns="phash"))
    with pytest.raises(ValueError, match="0 .* to 64"):
        near_duplicates.find_pairs(found, 65)


def test_too_many_pairs_are_refused_before_they_fill_the_memory(monkeypatch):
    monkeypatch.setattr(near_duplicates, "_MOST_PAIRS", 100)
    draw = np.random.default_rng(0)
    alike = np.zeros((60, 256), np.uint8)
    alike[np.arange(60), draw.permutation(256)[:60]] = 1
    with pytest.raises(ValueError, match="over 100 pairs"):
        near_duplicates.find_pairs(hashed(alike))


def test_without_imagehash_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "imagehash", None)
    with pytest.raises(ImportError, match="pip install imagehash"):
        near_duplicates.look_at(table([("a.png", "", "A", "1")]), tmp_path)


@pytest.mark.real
def test_real_chest_films_that_look_the_same_are_the_same_bytes_and_of_one_patient(real_data):
    root = real_data / "chest_xray_224"
    found = near_duplicates.look_at(records.inspect(records.scan(root), root), root)
    pairs = near_duplicates.find_pairs(found)
    assert (found["phash"] != "").all()
    assert (
        len(pairs) == 26
        and pairs["same_bytes"].all()
        and (pairs["patient_a"] == pairs["patient_b"]).all()
    )
    strangers = near_duplicates.find_pairs(found, 40)
    assert strangers.loc[strangers["patient_a"] != strangers["patient_b"], "distance"].min() == 38


@pytest.mark.real
def test_real_scans_have_hashes(real_data):
    root = real_data / "oct_samples"
    assert (near_duplicates.look_at(records.scan(root), root)["phash"] != "").all()
