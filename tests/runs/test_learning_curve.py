"""Few patients to many: what is trained, kept, and summed up."""

import numpy as np
import pandas as pd
import pytest
from small_runs import small

from tlutils.core import devices
from tlutils.data import loaders, records
from tlutils.runs import learning_curve
from tlutils.runs.learning_curve import runs_of, summarize, train_by_patients

FP32 = devices.choose("cpu", "fp32")
FROZEN = small("chest-resnet18-fixed", backbone="squeezenet1_1", batch_size="8")
ALL = small("chest-resnet18-finetune", backbone="squeezenet1_1", batch_size="8")


@pytest.fixture(scope="module")
def divided(tiny_folder):
    """Images of two classes, whose patients are in several: here each class has its own."""
    table = records.inspect(records.scan(tiny_folder), tiny_folder, progress=False)
    table = table[table["label"].isin(["CNV", "DME"])].reset_index(drop=True)
    return table.assign(patient=table["label"] + table["patient"]), tiny_folder


def trained(divided, out, arms=None, **more):
    table, root = divided
    arms = arms or {"frozen": (FROZEN, "random"), "all": (ALL, "random")}
    how = {"seeds": 2, "steps": 2, "machine": FP32, "show": False, "log": None} | more
    return train_by_patients(arms, table, root, [2, 4], out, **how)


@pytest.fixture(scope="module")
def found(divided, tmp_path_factory):
    out = tmp_path_factory.mktemp("sweep")
    return trained(divided, out), out


def test_each_arm_and_seed_answers_the_same_test_images_from_few_patients_and_more(found, divided):
    table, _ = found
    runs = table.groupby(["arm", "patients", "seed"])
    assert len(runs) == 2 * 2 * 2 and runs["path"].agg(tuple).nunique() == 1
    test = divided[0].query("split == 'test'")
    assert set(table["path"]) == set(test["path"])
    assert runs["images"].first().groupby("patients").first().to_dict() == {2: 4, 4: 8}
    assert runs["p_CNV"].agg(tuple).nunique() == 8


def test_a_patient_in_training_and_test_is_refused(divided, tmp_path):
    table, root = divided
    table = table.assign(patient="somebody")
    with pytest.raises(ValueError, match="1 patient has training and test images"):
        trained((table, root), tmp_path)


def test_what_is_trained_already_is_read_and_only_the_rest_trained(found, divided, monkeypatch):
    first, out = found
    lines = []
    monkeypatch.setattr(learning_curve, "_train_one", lambda *_: pytest.fail("trained again"))
    again = trained(divided, out, log=lines.append)
    pd.testing.assert_frame_equal(first, again)
    assert len(lines) == 8 and lines[0].startswith(
        "frozen, 2 patients (4 images), seed 0: accuracy"
    )
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        trained(divided, out, steps=3)
    other = {"frozen": (FROZEN.changed({"learning_rate": 0.5}), "random")}
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        trained(divided, out, other)


def test_other_patients_other_files_and_other_weights_at_home_are_trained_anew(
    found, divided, tmp_path, monkeypatch
):
    """The bytes that a record tells are those of the originals, wherever smaller copies lie."""
    _, out = found
    table, root = divided
    seen = []
    monkeypatch.setattr(learning_curve, "_train_one", lambda *_: seen.append(1) or pytest.fail("x"))
    test = table["split"] == "test"
    other = table.assign(patient=table["patient"].where(~test, table["patient"] + "b"))
    small = [loaders.write_small(table, root, tmp_path, 16, how) for how in ("squash", "pad")]
    for records_, folder in ((other, root), (table, small[0])):
        with pytest.raises(pytest.fail.Exception):
            trained((records_, folder), out)
    marks = [learning_curve._mark(table, folder) for folder in small]
    assert marks[0] != marks[1]
    monkeypatch.setenv("HOME", str(tmp_path))
    told = set()
    for content in (b"one", b"another"):
        (tmp_path / "w.pt").write_bytes(content)
        told |= {learning_curve._source_of("~/w.pt"), learning_curve._source_of(tmp_path / "w.pt")}
    assert len(told) == 2 and len(seen) == 2


def test_arms_are_summed_up_over_their_seeds(found):
    table, _ = found
    one = summarize(table, "auc").set_index(["arm", "patients"]).loc[("all", 4)]
    assert one["runs"] == 2 and one["images"] == 8 and one["low"] <= one["value"] <= one["high"]
    right = [(run["label"] == run["predicted"]).mean() for run in runs_of(table, "all", 4)]
    at = summarize(table).set_index(["arm", "patients"])["value"]
    assert at["all", 4] == pytest.approx(np.mean(right))
    with pytest.raises(
        ValueError, match="no training of 'none' with 4 patients; there are frozen, all"
    ):
        runs_of(table, "none", 4)


def test_images_that_are_not_divided_are_refused(divided, tmp_path):
    table, root = divided
    with pytest.raises(ValueError, match="no readable test images"):
        trained((table.assign(split="train"), root), tmp_path)
