"""From folders and manifests to a table of images: names, labels, damaged files, what is refused and how."""

from __future__ import annotations

import hashlib
import io
import os
import re
import struct
import sys
import tempfile
import warnings
import zlib
from pathlib import Path

import dicom_files
import numpy as np
import pandas as pd
import pytest
from data_builders import PATIENT_RULES, touch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tlutils.core import images
from tlutils.data import records
from tlutils.data.audit import audit_splits, leaks


def picture(width: int = 40, height: int = 30, mode: str = "L", seed: int = 0) -> Image.Image:
    shape = (height, width) if mode == "L" else (height, width, 3)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def encoded(kind: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    picture(**options).save(buffer, kind)
    return buffer.getvalue()


def table(*rows: tuple[str, str, str]) -> pd.DataFrame:
    """Records of (path, split, label), their patients read from the names."""
    return records.with_patients(
        pd.DataFrame(rows, columns=["path", "split", "label"], dtype="str")
    )


# --- patients ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("CNV-81630-1.jpeg", "81630"),
        ("NORMAL-81630-22.jpg", "81630"),
        ("drusen-81630-3.PNG", "81630"),
        ("train/DME/DME-15307-9.jpeg", "15307"),
        ("BACTERIA-1008087-0001.jpeg", "1008087"),
        ("VIRUS-0012-0003.jpeg", "12"),
        ("person12_bacteria_47.jpeg", "bacteria-12"),
        ("person12_virus_4.jpeg", "virus-12"),
        ("person447_virus_921_1.jpeg", "virus-447"),
        ("IM-0115-0001.jpeg", "IM-115"),
        ("IM-0500-0001-0002.jpeg", "IM-500"),
        ("NORMAL2-IM-0012-0001.jpeg", "NORMAL2-IM-12"),
        ("NORMAL2-IM-0012-0001-0001.jpeg", "NORMAL2-IM-12"),
    ],
)
def test_a_file_name_tells_the_patient(name, patient):
    assert records.patient_of(name) == patient


@pytest.mark.parametrize(
    "name",
    [
        "CNV.jpeg",
        "scan.png",
        "CNV-81630.jpeg",
        "person_virus_4.jpeg",
        "IM-12.jpeg",
        "person3_fungus_1.jpeg",
        "NORMAL3-IM-0012-0001.jpeg",
        "XCNV-1-2.jpeg",
        "",
    ],
)
def test_a_name_that_follows_no_rule_tells_no_patient(name):
    assert records.patient_of(name) is None


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_any_name_tells_a_patient_or_none(name):
    key = records.patient_of(name)
    assert key is None or key.strip() == key != ""


NUMBER = st.from_regex(r"[0-9]{1,6}", fullmatch=True)
NAME = st.one_of(
    st.builds(
        "{}-{}-{}".format,
        st.sampled_from(["CNV", "DME", "DRUSEN", "NORMAL", "BACTERIA", "VIRUS"]),
        NUMBER,
        NUMBER,
    ),
    st.builds("person{}_{}_{}".format, NUMBER, st.sampled_from(["bacteria", "virus"]), NUMBER),
    st.builds("{}-{}-{}".format, st.sampled_from(["IM", "NORMAL2-IM"]), NUMBER, NUMBER),
)


@settings(max_examples=100, deadline=None)
@given(
    NAME,
    st.sampled_from([".jpeg", ".JPG", ".png", ""]),
    st.sampled_from(["", "train/NORMAL/", "CNV-7-7/"]),
)
def test_a_patient_has_one_key_however_the_name_is_written(name, ending, folder):
    key = records.patient_of(name)
    padded = re.sub(r"(?<![0-9L])([0-9]+)", r"00\1", name)  # not the 2 of NORMAL2
    written = (name, name.upper(), name.lower(), padded)
    assert key and {records.patient_of(folder + each + ending) for each in written} == {key}


def test_a_number_of_any_length_is_a_patient():
    assert records.patient_of(f"CNV-0{'9' * 9999}-1.png") == "9" * 9999


def test_an_image_without_a_patient_is_its_own_and_is_counted(tmp_path):
    found = records.scan(touch(tmp_path, "CNV/CNV.jpeg", "CNV/CNV-1-1.jpeg", "DME/scan.jpeg"))
    assert found["patient"].tolist() == ["1", "?CNV/CNV.jpeg", "?DME/scan.jpeg"]
    assert records.unknown_patient(found).tolist() == [False, True, True]


def test_a_patient_rule_may_be_an_expression_or_a_function_or_none(tmp_path):
    root = touch(tmp_path, "A/p7/left.png", "A/p8/left.png", "B/other.png")
    by_folder = records.scan(root, patient=r"/(?P<patient>p\d+)/")["patient"].tolist()
    assert by_folder == ["p7", "p8", "?B/other.png"]
    by_label = records.scan(root, patient=lambda path: path.split("/")[0])["patient"].tolist()
    assert by_label == ["A", "A", "B"]
    assert records.unknown_patient(records.scan(root, patient=None)).all()


def test_an_expression_that_fits_a_folder_and_another_name_is_told(recwarn):
    paths = ["ill/2019_scans/pat0045_1.png", "ill/pat0046_1.png", "ill/0047_/left.png"]
    table, rule = pd.DataFrame({"path": paths}), r"(?P<patient>\d+)_"
    found = records.with_patients(table, rule)["patient"].tolist()
    assert found == ["2019", "0046", "0047"]
    (warning,) = recwarn
    told = str(warning.message)
    assert "in a folder of 1 of 3 images" in told and f"{paths[0]} counts as of 2019" in told
    found = records.with_patients(table, "(?=[^/]*$)" + rule)["patient"].tolist()
    assert found == ["0045", "0046", f"?{paths[2]}"]
    greedy = pd.DataFrame({"path": ["A/p7_1.png", "B/p7_2.png"]})
    found = records.with_patients(greedy, r"(?=[^/]*$)(?P<patient>[^_]+)_")["patient"].tolist()
    assert found == ["p7", "p7"]
    records.with_patients(table, r"/(?P<patient>\w+)/")
    assert len(recwarn) == 1


def test_a_rule_for_the_beginning_of_a_name_is_told_what_the_path_is():
    table = pd.DataFrame({"path": ["A/p7_1.png", "B/p8_1.png"]})
    with pytest.raises(ValueError, match=r"searched in the whole path, .*write \(\?<!\[\^/\]\)"):
        records.with_patients(table, r"^(?P<patient>p\d+)")
    for rule in (r"(?<![^/])(?P<patient>p\d+)", r"(?=[^/]*$)(?<![^/])(?P<patient>p\d+)"):
        assert records.with_patients(table, rule)["patient"].tolist() == ["p7", "p8"]


def test_a_column_that_may_be_the_patients_is_told_of_where_none_is_called_patient(tmp_path):
    touch(tmp_path, "a.png", "b.png")
    text = "path,label,patientage,Patient_ID,inpatient\na.png,A,63,7,1\nb.png,B,63,8,0\n"
    (tmp_path / "images.csv").write_text(text)
    with pytest.warns(UserWarning, match="of .* Patient_ID is not read; call the column patient"):
        records.scan(tmp_path / "images.csv")
    for name in ("patient_code", "PatientIdentifier", "patients", "Patient.ID", "Subject  no",
                 "PatientAccountNumber", "patientid", "PATIENT_ID", "Patientennummer"):  # fmt: skip
        (tmp_path / "images.csv").write_text(text.replace("Patient_ID", name))
        with pytest.warns(UserWarning, match=f"of .* {name} is not read"):
            records.scan(tmp_path / "images.csv")
    (tmp_path / "images.csv").write_text(text.replace("Patient_ID", "Patient"))
    assert records.scan(tmp_path / "images.csv")["patient"].tolist() == ["7", "8"]


def test_a_rule_that_fits_nothing_is_told_of_the_column_that_tells_patients(tmp_path):
    touch(tmp_path, "a.png", "b.png")
    (tmp_path / "images.csv").write_text("path,label,patient\na.png,A,1\nb.png,B,2\n")
    with pytest.raises(ValueError, match="the rule auto reads the column patient of .*images.csv"):
        records.scan(tmp_path / "images.csv", patient=r"(?P<patient>\d+)_")
    assert records.has_patients(tmp_path / "images.csv") and not records.has_patients(tmp_path)


@pytest.mark.parametrize(("second", "told"), [("8", True), ("7", False)])
def test_a_column_that_tells_other_patients_than_the_names_is_told_of(
    tmp_path, recwarn, second, told
):
    touch(tmp_path, "CNV-1-1.png", "CNV-1-2.png", "DME-2-1.png")
    rows = f"CNV-1-1.png,CNV,7\nCNV-1-2.png,CNV,{second}\nDME-2-1.png,DME,9\n"
    (tmp_path / "images.csv").write_text(f"path,label,Patient_ID\n{rows}")
    records.scan(tmp_path / "images.csv")
    assert any("Patient_ID is not read" in str(one.message) for one in recwarn) == told


def dicoms(root: Path, **patients: str) -> Path:
    """A folder of DICOM files A/<name>.dcm of these patients, and a picture B/CNV-5-1.png."""
    for name, patient in patients.items():
        dataset = dicom_files.of(np.full((4, 4), len(name), np.uint8), PatientID=patient)
        touch(root, f"A/{name}.dcm")
        (root / "A" / f"{name}.dcm").write_bytes(dicom_files.encoded(dataset))
    (root / "B").mkdir()
    picture().save(root / "B" / "CNV-5-1.png")
    return root


def test_dicom_files_tell_their_patients_and_other_names_theirs(tmp_path):
    root = dicoms(tmp_path, a="007", b="7", c="", d="Anonymous")
    unknown = ["?A/c.dcm", "?A/d.dcm"]
    found = records.scan(root)
    assert found["patient"].tolist() == ["007", "7", *unknown, "5"]
    assert records.with_patients(found)["patient"].tolist()[:2] == ["?A/a.dcm", "?A/b.dcm"]
    found = records.scan(root, patient="dicom")
    assert found["patient"].tolist() == ["007", "7", *unknown, "?B/CNV-5-1.png"]
    hashed = records.scan(root, patient="dicom-hashed")["patient"].tolist()
    assert hashed == [hashlib.sha256(b"007").hexdigest()[:16], "7902699be42c8a8e", *hashed[2:]]
    assert hashed[2:] == [*unknown, "?B/CNV-5-1.png"]
    with pytest.raises(ValueError, match="pass root"):
        records.with_patients(found, "dicom")
    for name in "ab":
        (root / "A" / f"{name}.dcm").rename(root / "A" / f"IM{name}")
    assert sorted(records.scan(root)["patient"]) == ["007", "5", "7", *unknown]


def test_a_manifests_patients_count_before_those_in_its_dicom_files(tmp_path):
    root = dicoms(tmp_path, a="007", b="7")
    csv = root / "some.csv"
    csv.write_text("path,label,patient\nA/a.dcm,A,Ann\nA/b.dcm,A,\nB/CNV-5-1.png,B,\n")
    with pytest.warns(UserWarning, match="no patient in 2 of 3 rows"):
        assert records.scan(csv)["patient"].tolist() == ["Ann", "7", "5"]
    assert records.scan(csv, patient="dicom")["patient"].tolist()[:2] == ["007", "7"]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("dicom", "no patient by the rule 'dicom'"),
        (r"(\d+)", "does not work, as it has no group named patient; give auto"),
        (r"(?P<patient>\d+", "as it is no regular expression: missing .*at position 0; give auto"),
        ("(?P<patient>a{1,99999999999})", "as it is no regular expression: "),
        ("(?P<patient>", "does not work"),
        ("(?P<patient>xyz)", "no patient by the rule"),
        (r"(?P<patient>\d+)-", re.escape(r"no patient by the rule '(?P<patient>\d+)-'")),
        (r"(\d+)-", re.escape(r"the patient rule '(\d+)-' does not work")),
    ],
)
def test_a_patient_rule_that_cannot_work_is_refused(tmp_path, rule, message):
    with pytest.raises(ValueError, match=message):
        records.scan(touch(tmp_path, "A/1.png", "B/2.png"), patient=rule)


@pytest.mark.real
def test_the_real_chest_names_have_4082_patients_and_wrong_keys_confuse_some(real_data):
    names = pd.read_csv(real_data / "names" / "chest_kaggle.csv")
    shared = {}
    for rule, patient_of in PATIENT_RULES.items():
        keyed = records.with_patients(names, patient_of)
        assert not records.unknown_patient(keyed).any()
        train, test = (
            set(keyed["patient"][keyed["split"] == split]) for split in ("train", "test")
        )
        shared[rule] = len(train & test)
        if rule == "kind and number":
            assert (len(train), len(test)) == (3654, 428)
    assert shared == {"kind and number": 0, "number without kind": 170, "series merged": 94}


@pytest.mark.real
def test_568_of_3498_real_oct_patients_are_in_several_classes(real_data):
    names = pd.concat(
        [pd.read_csv(file) for file in sorted((real_data / "names").glob("oct_*.csv"))]
    )
    patients = records.per_patient(records.with_patients(names.drop_duplicates("path")))
    assert (len(patients), int(patients["labels"].str.contains(",").sum())) == (3498, 568)


@pytest.mark.real
def test_real_scans_are_read_and_the_one_without_a_number_is_of_unknown_patient(real_data):
    root = real_data / "oct_samples"
    found = records.inspect(records.scan(root), root, decode=True)
    assert len(found) == 29 and (found["problem"] == "").all()
    assert set(found["height"]) == {496, 512}
    assert found["path"][records.unknown_patient(found)].tolist() == ["CNV/CNV.jpeg"]


# --- labels ---------------------------------------------------------------------------


REFUSED = {
    "one class": (["train/A/1.png", "test/A/2.png"], "one class only"),
    "a class that train does not know": (
        ["train/A/1.png", "train/B/1.png", "test/C/1.png"],
        "classes in test that train does not know",
    ),
    "two spellings": (
        ["train/CNV/1.png", "train/DME/1.png", "test/cnv/1.png"],
        "several spellings",
    ),
    "a blank too many": (["NORMAL/1.png", "NORMAL /2.png"], "several spellings"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_folder_whose_labels_make_no_sense_is_refused_in_one_paragraph(tmp_path, case):
    paths, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as refusal:
        records.scan(touch(tmp_path, *paths))
    text = str(refusal.value)
    assert str(tmp_path) in text and "expected" in text and "\n" not in text


def test_a_missing_folder_is_a_missing_file():
    with pytest.raises(FileNotFoundError, match="no folder nowhere"):
        records.scan("nowhere")


def test_a_class_missing_in_test_is_a_warning_with_or_without_its_folder(tmp_path):
    root = touch(tmp_path, "train/A/1.png", "train/B/1.png", "test/A/2.png")
    with pytest.warns(UserWarning, match="no image of B in the split test"):
        assert len(records.scan(root)) == 3
    (root / "test" / "B").mkdir()
    with pytest.warns(UserWarning, match="no image of B in the split test"):
        assert len(records.scan(root)) == 3


def test_labels_outside_the_given_classes_are_refused(tmp_path):
    root = touch(tmp_path, "A/1.png", "B/2.png")
    with pytest.raises(ValueError, match=r"not among the classes .*\(B\).*expected A, C"):
        records.scan(root, classes=["A", "C"])


def test_one_class_is_enough_where_the_classes_are_given(tmp_path):
    assert len(records.scan(touch(tmp_path, "A/1.png"), classes=["A", "B"])) == 1


# --- manifests ---------------------------------------------------------------------------


def manifest(folder: Path, text: str, *files: str) -> Path:
    folder.mkdir(exist_ok=True)
    touch(folder, *files)
    (folder / "list.csv").write_text(text, encoding="utf-8")
    return folder / "list.csv"


def test_a_manifest_is_read_as_text_with_its_splits_and_patients(tmp_path):
    csv = manifest(
        tmp_path,
        "\ufeffPath,Label,Split,Patient,Age\nx/b.png,NA,Training,007,60\n"
        "x/CNV-5-1.png,1,TEST,,61\nx\\a.png,1,train,8,62\nx/c.png,NA,test,9,63\n",
        "x/a.png",
        "x/b.png",
        "x/c.png",
        "x/CNV-5-1.png",
    )
    found = records.scan(csv)
    assert found.columns.tolist() == ["path", "split", "label", "patient"]
    assert found["path"].tolist() == ["x/CNV-5-1.png", "x/a.png", "x/b.png", "x/c.png"]
    assert found["label"].tolist() == ["1", "1", "NA", "NA"]
    assert found["split"].tolist() == ["test", "train", "train", "test"]
    assert found["patient"].tolist() == ["5", "8", "007", "9"]


def test_a_manifest_may_stand_elsewhere_and_hold_absolute_paths(tmp_path):
    root = touch(tmp_path / "images", "A/1.png", "B/2.png")
    csv = manifest(
        tmp_path / "lists", f"path,label\nA/1.png,A\n{(root / 'B/2.png').absolute()},B\n"
    )
    assert records.read_manifest(csv, root=root)["path"].tolist() == ["A/1.png", "B/2.png"]


@pytest.mark.parametrize("path", ["../secret/s.png", "A/../../secret/s.png", "{}/secret/s.png"])
def test_a_manifest_reads_nothing_outside_its_root_unless_asked(tmp_path, path):
    touch(tmp_path, "secret/s.png")
    path = path.format(tmp_path.absolute())
    csv = manifest(tmp_path / "lists", f"path,label\na.png,A\n{path},B\n", "a.png")
    with pytest.raises(
        ValueError, match=r"1 of 2 paths that lead out of .*secret/s\.png.*root=\.\.\."
    ):
        records.read_manifest(csv)
    assert (
        len(
            records.read_manifest(
                manifest(
                    tmp_path / "lists",
                    f"path,label\n{tmp_path}/lists/a.png,A\n{tmp_path}/secret/s.png,B\n",
                ),
                root="/",
            )
        )
        == 2
    )
    asked = manifest(tmp_path / "lists", "path,label,root\nlists/a.png,A,..\nsecret/s.png,B,..\n")
    assert records.scan(asked)["path"].tolist() == ["../secret/s.png", "a.png"]
    with pytest.raises(ValueError, match="several roots"):
        records.scan(
            manifest(tmp_path / "lists", "path,label,root\nlists/a.png,A,..\nsecret/s.png,B,\n")
        )


def test_a_whole_path_through_a_link_to_the_root_is_inside(tmp_path):
    touch(tmp_path / "disk", "a.png", "b.png")
    (tmp_path / "data").symlink_to(tmp_path / "disk")
    csv = manifest(
        tmp_path / "data",
        f"path,label\n{tmp_path.resolve()}/disk/a.png,A\n{tmp_path}/data/b.png,B\n",
    )
    assert records.scan(csv)["path"].tolist() == ["a.png", "b.png"]


def test_blanks_and_backslashes_are_kept_where_a_file_has_them_and_dropped_where_none_has(tmp_path):
    csv = manifest(
        tmp_path,
        "path,label\n a/x.png,A\n a/y.png ,B\nb\\z.png,B\n c/w.png ,B\n",
        " a/x.png",
        " a/y.png ",
        "b/z.png",
        "c/w.png",
    )
    assert records.scan(csv)["path"].tolist() == [" a/x.png", " a/y.png ", "b/z.png", "c/w.png"]


def test_words_for_no_patient_are_not_a_person(tmp_path):
    words = ["nan", "NaN", "NA", "None", "null", "<NA>", "-", "", "?", "unknown", " n/a "]
    names = [f"{i}.png" for i in range(len(words))]
    rows = [
        f"{name},{'AB'[i % 2]},{('train', 'test')[i // 2 % 2]},{word}"
        for i, (name, word) in enumerate(zip(names, words, strict=True))
    ]
    csv = manifest(
        tmp_path,
        "\n".join(["path,label,split,patient", *rows, "known.png,A,train,7"]),
        *names,
        "known.png",
    )
    with pytest.warns(UserWarning, match="no patient in 11 of 12 rows"):
        found = records.scan(csv)
    assert records.unknown_patient(found).sum() == 11 and found["patient"].nunique() == 12
    assert not leaks(audit_splits(found))


@pytest.mark.parametrize("nobody", [None, float("nan"), pd.NA, "nan", " None "])
def test_a_patient_rule_may_answer_nobody_in_many_ways(nobody):
    found = records.with_patients(
        table(("a.png", "", "A"), ("b.png", "", "A")), lambda path: nobody
    )
    assert records.unknown_patient(found).all() and found["patient"].nunique() == 2


def test_missing_and_repeated_rows_are_left_out_and_counted(tmp_path):
    csv = manifest(
        tmp_path, "path,label\na.png,A\nb.png,B\nb.png,B\ngone.png,A\n", "a.png", "b.png"
    )
    with (
        pytest.warns(UserWarning, match=r"1 of 3 files.*gone\.png"),
        pytest.warns(UserWarning, match="1 repeated row in"),
    ):
        assert records.read_manifest(csv)["path"].tolist() == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,label\na.png,A\nb.png,B\n", "columns image, label.*add path.*, or rename what"),
        ("path;label\na.png;A\nb.png;B\n", "between semicolons.*with commas"),
        ("path,label\na.png,A\nb.png,\n", "1 row without a label"),
        ("path,label\na.png,A\nb.png\n", "1 row without a label"),
        ("path,label\na.png,A\nb.png,A\n", "one class only"),
        ("path,label\na.png,A\nb.png,a\n", "several spellings"),
        ("path,label,split\na.png,A,train\nb.png,B,holdout\n", "the split 'holdout'"),
        ("path,label,split\na.png,A,train\nb.png,B,test\n", "train does not know"),
        ("path,label\na.png,A\na.png,B\nb.png,B\n", "do not agree"),
        (
            "path,label,Label\na.png,A,A\nb.png,B,B\n",
            r"several columns for label \(path, label, Label\)",
        ),
        ("path,label, PATH \na.png,A,a.png\nb.png,B,b.png\n", "several columns for path"),
        (
            "path,label\na.png,A\nb, 2.png,B\n",
            r"more values than columns \(line 3\).*quotation marks",
        ),
        ("path,label\n", "no row below the first"),
        ("", "no line.*the file is empty"),
        ("\n\n", "no line.*the file is empty"),
        ('path,label\n"a.png,A\n', "no table"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(tmp_path, text, message):
    csv = manifest(tmp_path, text, "a.png", "b.png")
    with pytest.raises(ValueError, match=message) as refusal:
        records.read_manifest(csv)
    assert str(csv) in str(refusal.value)


def test_a_manifest_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "list.csv").write_bytes(encoded())
    with pytest.raises(ValueError, match="no table"):
        records.scan(tmp_path / "list.csv")


def test_a_manifest_without_any_of_its_files_is_missing_something(tmp_path):
    csv = manifest(tmp_path, "path,label\na.png,A\nb.png,B\n")
    with pytest.raises(FileNotFoundError, match=r"2 of 2 files.*a\.png, b\.png"):
        records.read_manifest(csv)
    with pytest.raises(FileNotFoundError, match="no table"):
        records.read_manifest(tmp_path / "other.csv")


# --- files ---------------------------------------------------------------------------


def png_of(width: int, height: int) -> bytes:
    """A PNG that claims a size and has hardly a pixel."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def with_preview(data: bytes) -> bytes:
    """A JPEG with a whole small JPEG in an application segment, as cameras write them."""
    preview = encoded(width=8, height=8)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(preview) + 2) + preview + data[2:]


def inspected(folder: Path, data: bytes | None, decode: bool = False) -> pd.Series:
    if data is not None:
        (folder / "a.jpeg").write_bytes(data)
    return records.inspect(table(("a.jpeg", "train", "A")), folder, decode=decode).iloc[0]


DAMAGED = {
    "empty": (b"", "empty file"),
    "html": (b"<html><body>404 Not Found</body></html>", "not an image (begins with b'<html"),
    "git-lfs pointer": (
        b"version https://git-lfs.github.com/spec/v1\n",
        "not an image (begins with b'vers",
    ),
    "cut jpeg": (encoded()[:-200], "truncated JPEG"),
    "jpeg without an end": (encoded()[:-2], "truncated JPEG"),
    "jpeg cut in its header": (encoded()[:40], "truncated JPEG"),
    "cut jpeg with a preview": (with_preview(encoded())[:-200], "truncated JPEG"),
    "jpeg cut behind its preview": (with_preview(encoded())[:600], "truncated JPEG"),
    "cut png": (encoded("PNG")[:-100], "damaged image"),
    "png with a wrong checksum": (
        encoded("PNG")[:60] + b"xyz" + encoded("PNG")[63:],
        "damaged image",
    ),
    "cut bmp": (encoded("BMP")[:-100], "damaged image"),
    "cut tiff": (encoded("TIFF")[:-100], "damaged image"),
    "two gigapixels": (png_of(50_000, 40_000), "too many pixels"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
}


@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_is_named_and_never_an_exception(tmp_path, case, decode):
    data, problem = DAMAGED[case]
    row = inspected(tmp_path, data, decode)
    assert problem in row["problem"]
    assert row["bytes"] == len(data) and len(row["sha256"]) == 64


def test_what_is_no_file_is_a_problem_too(tmp_path):
    assert "cannot be read (No such file" in inspected(tmp_path, None)["problem"]
    (tmp_path / "a.jpeg").mkdir()
    row = inspected(tmp_path, None)
    assert row["problem"] == "not a file" and row["sha256"] == "" and pd.isna(row["width"])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.jpeg")
    assert inspected(tmp_path, None)["problem"] == "not a file"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF"])
@pytest.mark.parametrize(("mode", "decode"), [("L", False), ("RGB", True)])
def test_a_whole_image_has_size_mode_and_hash_and_no_problem(tmp_path, kind, mode, decode):
    row = inspected(tmp_path, encoded(kind, mode=mode), decode)
    assert (row["width"], row["height"], row["mode"], row["problem"]) == (40, 30, mode, "")


def test_bytes_behind_the_end_and_previews_are_no_damage(tmp_path):
    assert inspected(tmp_path, with_preview(encoded()))["problem"] == ""
    assert inspected(tmp_path, encoded() + bytes(300))["problem"] == ""


def test_a_jpeg_that_was_cut_and_given_an_end_is_found_by_decoding_only(tmp_path):
    cut = encoded(width=64, height=64)[:-1500] + b"\xff\xd9"
    assert inspected(tmp_path, cut)["problem"] == ""
    assert inspected(tmp_path, cut, decode=True)["problem"] == "truncated JPEG (grey at the bottom)"


def test_an_even_grey_image_is_not_taken_for_a_cut_one(tmp_path):
    buffer = io.BytesIO()
    Image.new("L", (32, 32), 128).save(buffer, "JPEG")
    assert inspected(tmp_path, buffer.getvalue(), decode=True)["problem"] == ""


def test_a_large_image_raises_no_warning(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        row = inspected(tmp_path, png_of(10_000, 10_000))
    assert (row["width"], row["problem"]) == (10_000, "")


def test_a_file_beyond_any_scan_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "_LARGEST_FILE", 100)
    assert inspected(tmp_path, encoded())["problem"] == "larger than any single scan"


def test_inspection_of_many_files_is_that_of_each_alone(tmp_path):
    names = [f"{i % 2}/{i}.jpeg" for i in range(150)]
    for i, name in enumerate(names):
        touch(tmp_path, name)
        (tmp_path / name).write_bytes(b"" if i % 10 == 0 else encoded(seed=i))
    found = records.scan(tmp_path)
    together = records.inspect(found, tmp_path)
    alone = [records.inspect(found[i : i + 1], tmp_path) for i in range(len(found))]
    pd.testing.assert_frame_equal(together, pd.concat(alone))
    assert (together["problem"] == "empty file").sum() == 15
    assert together[["width", "height", "bytes"]].dtypes.tolist() == [pd.Int64Dtype()] * 3


def test_no_records_can_be_inspected(tmp_path):
    none = records.inspect(table(("a.png", "", "A")).iloc[:0], tmp_path)
    assert len(none) == 0 and "problem" in none


def test_nothing_is_written_where_nobody_watches(tmp_path, capfd):
    (tmp_path / "a.jpeg").write_bytes(encoded())
    records.inspect(table(("a.jpeg", "train", "A")), tmp_path)
    assert capfd.readouterr() == ("", "")


# --- tables ---------------------------------------------------------------------------


def test_readable_and_problematic_images_are_told_apart(tmp_path):
    for name, data in (("a.png", b""), ("b.png", encoded("PNG")), ("c.png", b"text")):
        (tmp_path / name).write_bytes(data)
    found = records.inspect(
        table(*[(name, "train", "A") for name in ("a.png", "b.png", "c.png")]), tmp_path
    )
    assert records.readable(found)["path"].tolist() == ["b.png"]
    assert records.readable(found).index.equals(pd.RangeIndex(1))
    bad = records.problems(found)
    assert bad.columns.tolist() == ["path", "split", "label", "problem"]
    assert bad["path"].tolist() == ["a.png", "c.png"]


def test_what_needs_inspection_says_so():
    with pytest.raises(ValueError, match="call inspect first"):
        records.readable(table(("a.png", "", "A")))


def test_counts_have_totals_and_the_splits_in_order():
    found = table(
        ("1", "val", "B"),
        ("2", "train", "A"),
        ("3", "train", "B"),
        ("4", "test", "B"),
        ("5", "", "A"),
    )
    counted = records.counts(found)
    assert counted.columns.tolist() == ["train", "val", "test", "no split", "total"]
    assert counted.index.tolist() == ["A", "B", "total"]
    assert counted.loc["B"].tolist() == [1, 1, 1, 0, 3] and counted.loc["total"].tolist() == [
        2,
        1,
        1,
        1,
        5,
    ]


def test_a_class_may_be_called_total():
    counted = records.counts(
        table(("1", "train", "total"), ("2", "train", "A"), ("3", "test", "total"))
    )
    assert counted.index.tolist() == ["A", "total", "(total)"]
    assert counted.loc["total"].tolist() == [1, 1, 2] and counted.loc["(total)"].tolist() == [
        2,
        1,
        3,
    ]


def test_patients_are_listed_with_their_images_and_labels():
    found = table(
        ("NORMAL-9-1.jpeg", "", "NORMAL"),
        ("CNV-9-1.jpeg", "", "CNV"),
        ("CNV-9-2.jpeg", "", "CNV"),
        ("CNV-4-1.jpeg", "", "CNV"),
    )
    listed = records.per_patient(found)
    assert listed.to_numpy().tolist() == [["9", 3, "CNV, NORMAL"], ["4", 1, "CNV"]]


def test_saved_records_come_back_as_they_were(tmp_path):
    (tmp_path / 'a, "b".png').write_bytes(encoded("PNG"))
    found = table(('a, "b".png', "train", "NA"), ("gone.png", "", "ß"))
    found = records.inspect(found.assign(patient=["007", "nan"], Note="x"), tmp_path)
    records.save(found, tmp_path / "new" / "records.csv")
    pd.testing.assert_frame_equal(records.load(tmp_path / "new" / "records.csv"), found)


def test_a_parquet_file_gives_back_the_table_and_is_a_manifest_too(tmp_path):
    touch(tmp_path, "a.png", "b.png")
    found = table(("a.png", "train", "NA"), ("b.png", "", "ß")).assign(patient=["007", "nan"])
    found = records.inspect(found, tmp_path).assign(brightness=[0.5, None])
    records.save(found, tmp_path / "records.parquet")
    pd.testing.assert_frame_equal(records.load(tmp_path / "records.parquet"), found)
    found.drop(columns="split").rename(columns={"path": " Path"}).to_parquet(
        tmp_path / "list.parquet"
    )
    read = records.scan(tmp_path / "list.parquet")
    assert read["patient"].tolist() == ["007", "?b.png"] and read["label"].tolist() == ["NA", "ß"]
    with pytest.raises(ValueError, match="add split"):
        records.load(tmp_path / "list.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"path,label")
    with pytest.raises(ValueError, match="bad.parquet; expected a Parquet file"):
        records.load(tmp_path / "bad.parquet")


def test_without_pyarrow_a_parquet_file_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match="pip install pyarrow"):
        records.save(table(("a.png", "train", "A")), tmp_path / "records.parquet")


@pytest.fixture
def many(tmp_path, monkeypatch):
    """A table that is long enough to be kept as Parquet too, what a CSV gives of it, and its file."""
    monkeypatch.setattr(records, "PARQUET_ROWS", 2)
    touch(tmp_path, "a.png", "b.png")
    found = table(("a.png", "train", "NA"), ("b.png", "", "ß\r")).assign(patient=["007", "nan"])
    found = records.inspect(found, tmp_path).assign(brightness=[0.5, None], seen=[True, False])
    records.save(found, tmp_path / "alone.csv")
    records.save(found, tmp_path / "records.csv", parquet_beside=True)
    return records.load(tmp_path / "alone.csv"), tmp_path / "records.csv"


def no_csv(monkeypatch):
    monkeypatch.setattr(records.csv_format, "reader", lambda *_, **__: pytest.fail("reads the CSV"))


def test_a_long_table_is_read_from_the_parquet_file_beside_it(many, monkeypatch):
    expected, file = many
    assert not (file.parent / "alone.csv.parquet").exists()
    os.utime(file, (0, 0))  # the bytes are what counts
    no_csv(monkeypatch)
    pd.testing.assert_frame_equal(records.load(file), expected)
    with pytest.warns(UserWarning, match="found no patient in 1 of 2"):
        assert records.read_manifest(file)["label"].tolist() == ["NA", "ß\r"]


def test_a_csv_that_was_changed_is_not_answered_by_the_parquet_file_beside_it(many):
    expected, file = many
    before = file.stat()
    file.write_bytes(file.read_bytes().replace(b"007", b"008"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    pd.testing.assert_frame_equal(records.load(file), expected.assign(patient=["008", "nan"]))


def test_a_csv_replaced_while_its_parquet_file_is_written_is_not_answered_by_it(many, monkeypatch):
    expected, file = many
    load = records.load

    def replaced_meanwhile(csv):
        table = load(csv)
        file.write_bytes(file.read_bytes().replace(b"007", b"008"))
        return table

    monkeypatch.setattr(records, "load", replaced_meanwhile)
    records.save(expected, file, parquet_beside=True)
    pd.testing.assert_frame_equal(load(file), expected.assign(patient=["008", "nan"]))


@pytest.mark.parametrize("damage", ["cut", "foreign", "of another", "no pyarrow"])
def test_a_parquet_file_beside_that_is_of_no_use_stops_nothing(damage, many, monkeypatch):
    expected, file = many
    beside = file.with_name("records.csv.parquet")
    if damage == "cut":
        beside.write_bytes(beside.read_bytes()[:-20])
    if damage == "foreign":
        expected.assign(label="foreign").to_parquet(beside)
    if damage == "of another":
        records.save(expected.iloc[::-1], file.with_name("b.csv"), parquet_beside=True)
        file.with_name("b.csv.parquet").replace(beside)
    if damage == "no pyarrow":
        monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    pd.testing.assert_frame_equal(records.load(file), expected)


def test_a_short_table_or_one_without_pyarrow_has_its_csv_alone(tmp_path, monkeypatch):
    found = table(("a.png", "train", "A"), ("b.png", "train", "B"))
    records.save(found, tmp_path / "short.csv", parquet_beside=True)
    monkeypatch.setattr(records, "PARQUET_ROWS", 2)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    records.save(found, tmp_path / "records.csv", parquet_beside=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["records.csv", "short.csv"]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT, TEXT, TEXT), min_size=1, max_size=5))
def test_any_text_in_a_table_comes_back_as_it_was(rows):
    found = pd.DataFrame(rows, columns=["path", "split", "label", "patient"], dtype="str")
    found = found.assign(bytes=pd.array([None, *range(1, len(rows))], dtype="Int64"))
    with tempfile.TemporaryDirectory() as folder:
        records.save(found, Path(folder) / "records.csv")
        pd.testing.assert_frame_equal(records.load(Path(folder) / "records.csv"), found)


FILE = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="/\0\\:"), min_size=1, max_size=20
)


@pytest.mark.skipif(os.name == "nt", reason="Windows forbids many names")
@settings(max_examples=25, deadline=None)
@given(FILE, FILE.filter(lambda name: name not in (".", "..")), TEXT.filter(str.strip))
def test_a_manifest_finds_a_file_of_any_name_and_keeps_any_label(name, folder, label):
    with tempfile.TemporaryDirectory() as root:
        file = Path(root) / folder / f"{name}.png"
        file.parent.mkdir()
        file.touch()
        found = pd.DataFrame(
            [[f"{folder}/{name}.png", label, "train", "7"]],
            dtype="str",
            columns=["path", "label", "split", "patient"],
        )
        records.save(found, Path(root) / "list.csv")
        again = records.read_manifest(Path(root) / "list.csv", classes=[label])
        assert again["path"].tolist() == found["path"].tolist() and again["label"].tolist() == [
            label
        ]


def test_a_save_that_fails_leaves_the_old_file_and_no_litter(tmp_path):
    class Unwritable:
        def __str__(self) -> str:
            raise OSError("no space left")

    file = tmp_path / "records.csv"
    records.save(table(("a.png", "train", "A")), file)
    with pytest.raises(OSError, match="no space"):
        records.save(table(("b.png", "train", "B")).assign(note=[Unwritable()]), file)
    assert records.load(file)["path"].tolist() == ["a.png"] and os.listdir(tmp_path) == [
        "records.csv"
    ]


def test_who_reads_the_old_file_while_a_new_one_is_saved_keeps_a_whole_one(tmp_path):
    file = tmp_path / "records.csv"
    records.save(table(("a.png", "train", "A")), file)
    whole = file.read_text()
    with open(file) as reading:
        records.save(table(*[(f"{i}.png", "train", "B") for i in range(9)]), file)
        assert reading.read() == whole
    assert len(records.load(file)) == 9


def test_loading_what_is_no_table_of_records_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no table"):
        records.load(tmp_path / "records.csv")
    (tmp_path / "records.csv").write_text("path,label\na,b\n")
    with pytest.raises(ValueError, match="add split and patient"):
        records.load(tmp_path / "records.csv")


def test_the_fingerprint_knows_paths_labels_and_contents_but_not_order_or_splits(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(encoded("PNG", seed=ord(name[0])))
    found = records.inspect(table(("a.png", "train", "A"), ("b.png", "train", "B")), tmp_path)
    mark = records.fingerprint(found)
    assert len(mark) == 16
    assert (
        mark
        == records.fingerprint(found.iloc[::-1])
        == records.fingerprint(found.assign(split="test"))
    )
    records.save(found, tmp_path / "records.csv")
    assert mark == records.fingerprint(records.load(tmp_path / "records.csv"))
    others = [
        found.assign(path=["a.png", "c.png"]),
        found.assign(label=["A", "A"]),
        found.iloc[:1],
        found.assign(sha256=found["sha256"].iloc[::-1].tolist()),
        found.drop(columns="sha256"),
        found.drop(columns=["sha256", "bytes"]),
    ]
    assert len({mark, *map(records.fingerprint, others)}) == 7


def test_where_a_table_cannot_be_saved_is_told_before_anything_is_computed(tmp_path, monkeypatch):
    for name, told in (("a.txt", "ends in .csv or .parquet"), ("", "is a folder")):
        with pytest.raises((ValueError, OSError), match=told):
            records.check_target(tmp_path / name)
    records.check_target(tmp_path / "new" / "a.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match="pip install pyarrow"):
        records.check_target(tmp_path / "a.parquet")
    assert not any(tmp_path.iterdir())
