"""What file properties tell of the label, and that nothing is claimed where they tell nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tlutils.data import audit, records, splits


def inspected(
    patients: int = 60, images: int = 4, labels: str = "AB", wide: float = 0.0, seed: int = 0
) -> pd.DataFrame:
    """Inspected records of patients of one label each; of label A the share `wide` has another width."""
    draw = np.random.default_rng(seed)
    rows = []
    for patient in range(patients):
        label = labels[patient % len(labels)]
        for i in range(images):
            width = 900 if label == "A" and draw.random() < wide else 512
            rows.append(
                (
                    f"{label}/{patient}-{i}.png",
                    "",
                    label,
                    str(patient),
                    width,
                    496,
                    "L",
                    int(draw.integers(50_000, 90_000)),
                    f"{patient}-{i}",
                    "",
                )
            )
    names = [
        "path",
        "split",
        "label",
        "patient",
        "width",
        "height",
        "mode",
        "bytes",
        "sha256",
        "problem",
    ]
    return pd.DataFrame(rows, columns=names).astype(
        dict.fromkeys(("width", "height", "bytes"), "Int64")
    )


def test_a_width_that_goes_with_the_label_is_found_and_named():
    found = audit.measure_shortcuts(inspected(wide=0.9))
    assert (
        found.clear
        and found.table["property"][0] == "all together"
        and found.table["auc"][0] > 0.85
    )
    assert found.table["property"][1] in (
        "width",
        "aspect",
        "bytes per pixel",
    )  # each holds the width
    assert found.right > 0.8 * found.of and found.patients == 60


def test_properties_by_chance_are_no_finding():
    for seed in range(3):
        found = audit.measure_shortcuts(inspected(seed=seed))
        row = audit.audit_rows(found).iloc[0]
        assert not found.clear and row["verdict"] == "ok" and row["found"] == 0


def test_knowing_the_patient_is_no_help_as_patients_are_not_shared_between_parts():
    own = inspected(patients=80)
    own["bytes"] = (1000 * own["patient"].astype(int)).astype(
        "Int64"
    )  # tells the patient, and so his label
    drawn = np.random.default_rng(0).permutation(list("AB") * 40)
    shuffled = {str(patient): label for patient, label in enumerate(drawn)}
    found = audit.measure_shortcuts(own.assign(label=own["patient"].map(shuffled)))
    assert not found.clear


def test_a_finding_is_a_warning_in_the_columns_of_the_audit_and_never_a_leak():
    table = inspected(wide=1.0)
    row = audit.audit_rows(audit.measure_shortcuts(table))
    assert list(row.columns) == list(splits.audit(table).columns)
    assert row["verdict"].tolist() == ["warning"] and not splits.leaks(row)
    assert "AUC 1.00" in row["meaning"][0] and "right for 50%" in row["meaning"][0]


@pytest.mark.parametrize(
    "make",
    [
        lambda t: t.assign(mode=t["label"].map({"A": "RGB", "B": "L"})),
        lambda t: t.assign(
            path=t["path"].where(t["label"] == "A", t["path"].str.replace(".png", ".jpeg"))
        ),
        lambda t: t.assign(brightness=t["label"].map({"A": 90.0, "B": 130.0})),
    ],
    ids=["mode", "suffix", "brightness"],
)
def test_mode_suffix_and_brightness_count_too(make):
    assert audit.measure_shortcuts(make(inspected())).table["auc"][0] > 0.99


def test_three_classes_are_each_measured_against_the_rest():
    found = audit.measure_shortcuts(inspected(patients=90, labels="ABC", wide=1.0))
    assert 0.7 < found.table["auc"][0] < 0.9  # A is told surely, B and C not from each other


def test_alike_files_tell_nothing():
    table = inspected().assign(bytes=pd.array([1000] * 240, dtype="Int64"))
    found = audit.measure_shortcuts(table)
    assert found.table["auc"].tolist() == [0.5] and not found.clear
    assert audit.audit_rows(found)["verdict"].tolist() == ["ok"]


@pytest.mark.parametrize(
    "table",
    [inspected(patients=8), inspected(labels="A"), inspected().assign(problem="damaged")],
    ids=["four patients a class", "one class", "nothing readable"],
)
def test_where_it_cannot_be_told_there_is_no_row(table):
    assert audit.measure_shortcuts(table) is None
    assert len(audit.audit_rows(None)) == 0


def test_unreadable_files_take_no_part():
    broken = inspected(patients=10).assign(problem="empty file", width=pd.NA, height=pd.NA)
    table = pd.concat([inspected(), broken])
    assert audit.measure_shortcuts(table.reset_index(drop=True)).of == 240


def test_a_large_set_is_sampled_by_whole_patients():
    found = audit.measure_shortcuts(inspected(patients=200), sample=400)
    assert 390 < found.of <= 400 and found.patients == found.of / 4


def test_a_seed_gives_one_answer():
    one, two = (audit.measure_shortcuts(inspected(wide=0.5), seed=3) for _ in range(2))
    pd.testing.assert_frame_equal(one.table, two.table)


def test_records_that_were_not_inspected_are_refused():
    with pytest.raises(ValueError, match="records.inspect adds them"):
        audit.properties(inspected().drop(columns=["width", "bytes"]))


@pytest.mark.real
def test_the_bytes_of_the_real_chest_films_tell_most_labels(real_data):
    root = real_data / "chest_xray_224"
    found = audit.measure_shortcuts(records.inspect(records.scan(root), root))
    assert (
        found.clear
        and found.table["low"][0] > 0.85
        and found.table["property"][1].startswith("bytes")
    )
