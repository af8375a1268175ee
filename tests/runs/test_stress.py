"""A finished run under changes of acquisition."""

import shutil
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_runs import BINARY, CPU, first, small, train
from tiny_images import draw_tiny

from tlutils.core import files
from tlutils.data import loaders, records
from tlutils.evaluation import acquisition, metrics, thresholds
from tlutils.models.build import prepared, probabilities
from tlutils.runs import stress as runs_stress
from tlutils.runs.folder import Run, read_predictions, reserved
from tlutils.runs.stress import stress

FEW = ("mirrored", "noise", "top_25")


@pytest.fixture(scope="module")
def binary(two_classes, trained):
    """A run that answers by a threshold, and the table of the whole battery."""
    run = trained(two_classes, BINARY)
    return run, stress(run.folder, **CPU)


def test_the_whole_battery_is_applied_to_the_validation_images_at_the_runs_threshold(binary):
    run, table = binary
    assert table["change"].tolist() == ["", *acquisition.CHANGES]
    assert table["words"].tolist()[:2] == ["unchanged", "a tenth at the left cut off"]
    val = run.metrics["val"]
    for name in ("accuracy", "sensitivity", "specificity", "auc"):
        assert table[name][0] == pytest.approx(val[name]["value"], abs=1e-6)
        assert table[f"{name}_low"][0] == pytest.approx(val[name]["low"], abs=1e-6)
    answers = read_predictions(run.folder / "stress_predictions.csv")
    assert answers.groupby("path").size().eq(len(table)).all()
    assert sorted(answers["path"].unique()) == sorted(run.part("val")["path"])
    again = thresholds.apply_threshold(answers, run.threshold)
    assert (again["predicted"] == answers["predicted"]).all()


def test_the_table_is_in_the_run_and_follows_from_the_predictions(binary):
    run, table = binary
    pd.testing.assert_frame_equal(Run.load(run.folder).stress, table, check_dtype=False)
    answers = read_predictions(run.folder / "stress_predictions.csv")
    dark = answers[answers["change"] == "dark"].sort_values("path").reset_index(drop=True)
    found = metrics.compute_metrics(dark, seed=run.recipe.seed)
    there = table.set_index("change").loc["dark"]
    assert there["accuracy"] == pytest.approx(found["accuracy"]["value"])
    assert there["auc_low"] == pytest.approx(found["auc"]["low"])


def test_an_answer_under_a_change_is_that_to_the_changed_image(binary):
    run, _ = binary
    answers = read_predictions(run.folder / "stress_predictions.csv")
    one = answers[answers["change"] == "top_25"].iloc[0]
    part = run.part("val")
    row = part.index[part["path"] == one["path"]][0]
    image = loaders.read_image(run.root / one["path"], **run.recipe.reading())[None]
    key = loaders.make(part, run.root, run.classes, 32).keys_of([row])
    seen = acquisition.changed(image, key, "top_25")
    shown = acquisition.Acquisition(("top_25",)).view(image, key, 0, 0)
    assert (seen == shown).all()
    model = run.model()
    answer = probabilities(model(prepared(model, seen)))[0].detach().numpy()
    assert answer[1] == pytest.approx(one["p_NORMAL"], abs=1e-5)


def test_some_of_the_changes_and_again_the_same(run, tmp_path):
    copy = shutil.copytree(run.folder, tmp_path / "run")
    table = stress(copy, changes=FEW, **CPU)
    assert table["change"].tolist() == ["", *FEW]
    assert {"accuracy", "balanced_accuracy", "auc"} <= set(table) and "sensitivity" not in table
    pd.testing.assert_frame_equal(stress(copy, changes=FEW, **CPU), table)
    trained = stress(copy, "train", changes=FEW[:1], **CPU)
    assert trained["n"].tolist() == [len(run.part("train"))] * 2


def test_a_few_changes_measured_again_leave_the_others_in_the_table(binary, tmp_path):
    run, table = binary
    copy = shutil.copytree(run.folder, tmp_path / "run")
    answers, lines = read_predictions(copy / "stress_predictions.csv"), []
    dark = table["change"] == "dark"
    table[~dark].to_csv(copy / "stress.csv", index=False)
    answers[answers["change"] != "dark"].to_csv(copy / "stress_predictions.csv", index=False)
    few = stress(copy, changes=["dark", "blur"], **CPU, log=lines.append)
    assert few["change"].tolist() == ["", "dark", "blur"]
    pd.testing.assert_frame_equal(Run.load(copy).stress, table, check_dtype=False)
    again = read_predictions(copy / "stress_predictions.csv")
    pd.testing.assert_frame_equal(again, answers, check_dtype=False)
    assert f"{copy / 'stress.csv'}, with {len(table) - 3} changes measured before" in lines[0]


def test_what_another_process_measures_of_the_same_images_meanwhile_is_not_lost(
    binary, two_classes, tmp_path, monkeypatch
):
    copy = shutil.copytree(binary[0].folder, tmp_path / "run")
    other = shutil.copytree(two_classes, tmp_path / "other")
    for i, image in enumerate(other.rglob("*.jpeg")):
        draw_tiny("CNV", seed=i).save(image)
    how = {"split": "test", "data": other, **CPU}
    stress(copy, changes=["dark"], **how)
    measure, calls = runs_stress.measure, []

    def while_the_other_works(*of, **more):
        calls.append(jobs.submit(stress, copy, changes=["bright"], **how) if not calls else None)
        if len(calls) == 2:  # the whole table is measured, to be written next
            wait(calls[:1], timeout=3)
        return measure(*of, **more)

    with ThreadPoolExecutor(1) as jobs:
        monkeypatch.setattr(runs_stress, "measure", while_the_other_works)
        stress(copy, changes=["blur"], **how)
    (table,) = (copy / "evaluations").glob("*-stress.csv")
    assert set(pd.read_csv(table)["change"].fillna("")) == {"", "dark", "blur", "bright"}


@pytest.mark.parametrize("damage", ["a row less", "no number"])
def test_damaged_answers_of_before_keep_no_new_ones_from_being_written(damage, binary, tmp_path):
    copy = shutil.copytree(binary[0].folder, tmp_path / "run")
    answers = pd.read_csv(copy / "stress_predictions.csv", dtype=str)
    if damage == "no number":
        answers.loc[answers["change"].isna(), "p_NORMAL"] = "much"
    answers[:-1].to_csv(copy / "stress_predictions.csv", index=False)
    stress(copy, changes=["dark"], **CPU)
    assert len(list((copy / "evaluations").glob("val-*-stress.csv"))) == 1
    assert len(pd.read_csv(copy / "stress.csv")) == len(binary[1])


def test_a_table_that_was_cut_off_loses_no_answers(binary, tmp_path):
    copy = shutil.copytree(binary[0].folder, tmp_path / "run")
    binary[1].query("change in ['', 'dark']").to_csv(copy / "stress.csv", index=False)
    stress(copy, changes=["dark"], **CPU)
    assert len(pd.read_csv(copy / "stress.csv")) == len(binary[1])
    answers = read_predictions(copy / "stress_predictions.csv")
    answers[answers["change"] != "dark"].to_csv(copy / "stress_predictions.csv", index=False)
    stress(copy, changes=["bright"], **CPU)  # nobody can tell what was answered under "dark"
    assert len(pd.read_csv(copy / "stress.csv")) == len(binary[1])


def test_a_change_that_this_version_does_not_know_keeps_its_name():
    table = runs_stress._named(pd.DataFrame({"change": ["", "dark", "ghost"]}), "val")
    assert table["words"].tolist() == ["unchanged", "darker by 30 %", "ghost"]


def test_a_fuller_table_of_other_answers_is_not_replaced(binary, tmp_path):
    run, table = binary
    copy, lines = shutil.copytree(run.folder, tmp_path / "run"), []
    how = {"changes": ["dark"], **CPU, "log": lines.append}
    stress(copy, "train", **how)
    answers = read_predictions(copy / "stress_predictions.csv")
    answers["p_NORMAL"] += 1e-3  # as by other weights
    answers.to_csv(copy / "stress_predictions.csv", index=False)
    stress(copy, **how)
    pd.testing.assert_frame_equal(Run.load(copy).stress, table, check_dtype=False)
    kept = sorted((copy / "evaluations").glob("*-stress.csv"))
    assert [file.name.split("-")[0] for file in kept] == ["train", "val"]
    assert all(str(file) in line for file, line in zip(kept, lines, strict=True))
    assert [pd.read_csv(file)["split"][0] for file in kept] == ["train", "val"]


def test_images_are_read_once_whatever_the_number_of_changes(run, tmp_path, monkeypatch):
    read, seen = loaders.read_image, []
    monkeypatch.setattr(
        loaders, "read_image", lambda path, **how: seen.append(path) or read(path, **how)
    )
    stress(shutil.copytree(run.folder, tmp_path / "run"), changes=FEW, **CPU)
    assert sorted(seen) == sorted(str(run.root / path) for path in run.part("val")["path"])


def test_an_unreadable_image_is_left_out_under_every_change(data, tmp_path):
    run = train(data, tmp_path / "run", small(epochs="1"))
    path = run.part("val")["path"][0]
    (data / path).write_bytes(b"no image")
    with pytest.warns(UserWarning, match="left out 1 of"):
        table = stress(run.folder, changes=FEW, **CPU)
    answers = read_predictions(run.folder / "stress_predictions.csv")
    assert path not in set(answers["path"])
    assert table["n"].eq(len(run.part("val")) - 1).all()


def test_other_images_are_measured_beside_the_run(run, data, tmp_path):
    copy = shutil.copytree(run.folder, tmp_path / "run")
    for number, path in enumerate(run.part("test")["path"]):
        draw_tiny(Path(path).parent.name, seed=5000 + number).save(data / path)
    lines = []
    how = {"changes": FEW, "data": data, **CPU, "log": lines.append}
    table = stress(copy, "test", **how)
    assert table["n"].eq(len(run.part("test"))).all() and not (copy / "stress.csv").exists()
    (kept,) = (copy / "evaluations").glob("data-test-*-stress.csv")
    assert str(kept) in lines[0] and len(pd.read_csv(kept)) == 4


def test_the_runs_own_test_images_are_refused_wherever_they_lie(run, tiny_folder, tmp_path):
    none = shutil.ignore_patterns("evaluations")  # of tests that ran before
    copy = shutil.copytree(run.folder, tmp_path / "run", ignore=none)
    elsewhere = shutil.copytree(tiny_folder / "test", tmp_path / "elsewhere")
    for split, other in (("test", tiny_folder), ("val", elsewhere)):
        with pytest.raises(ValueError, match="the run's own test images, which are kept"):
            stress(copy, split, changes=FEW, data=other, **CPU)
    assert not (copy / "evaluations").exists()


def test_what_cannot_be_is_refused(run, two_classes, tmp_path):
    with pytest.raises(ValueError, match="'upside down'.*mirrored"):
        stress(run.folder, changes=["upside down"], **CPU)
    with pytest.raises(ValueError, match="kept for one last look"):
        stress(run.folder, "test", **CPU)
    bare = train(two_classes, tmp_path / "bare", small("chest-vgg16-gap", val="0", epochs="1"))
    with pytest.raises(ValueError, match="no 'val' images; its splits are test, train"):
        stress(bare.folder, **CPU)


def test_training_on_takes_what_was_measured_of_older_weights_away(data, tmp_path):
    run = train(data, tmp_path / "run", small(epochs="1"))
    stress(run.folder, changes=FEW, **CPU)
    assert (run.folder / "stress.csv").exists()
    longer = train(data, run.folder, small(epochs="2"))
    assert isinstance(longer, Run) and not (run.folder / "stress.csv").exists()
    assert not (run.folder / "stress_predictions.csv").exists()


def test_views_at_test_time_are_of_the_changed_images(two_classes, tmp_path):
    recipe = small("chest-vgg16-gap", test_views="1", val="0.3", epochs="1")
    run = train(two_classes, tmp_path / "run", recipe)
    table = stress(run.folder, changes=["mirrored"], **CPU)
    assert table["auc"][0] == pytest.approx(run.metrics["val"]["auc"]["value"], abs=1e-6)
    assert np.isfinite(table["auc"][1])
    assert first(two_classes, "test/CNV").exists()


def test_a_run_that_is_being_trained_is_not_measured_meanwhile(run, tmp_path):
    copy = shutil.copytree(run.folder, tmp_path / "run")
    with ThreadPoolExecutor(1) as other:
        held = reserved(copy)
        other.submit(held.__enter__).result()
        try:
            with pytest.raises(files.Busy, match="at work on the run"):
                stress(copy, changes=FEW, **CPU)
        finally:
            other.submit(held.__exit__, None, None, None).result()
    assert not (copy / "stress.csv").exists()


def test_a_table_never_lies_there_without_the_answers_that_it_is_of(run, tmp_path, monkeypatch):
    copy = shutil.copytree(run.folder, tmp_path / "run")
    save, saved = records.save, []

    def stopped(table, path):
        if saved:
            raise KeyboardInterrupt
        saved.append(path)
        save(table, path)

    monkeypatch.setattr(records, "save", stopped)
    with pytest.raises(KeyboardInterrupt):
        stress(copy, changes=FEW, **CPU)
    assert Run.load(copy).stress is None
