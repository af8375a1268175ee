"""What a result does not say follows from the run."""

from __future__ import annotations

import shutil

import pandas as pd
import pytest
from small_runs import CPU, edited
from tiny_images import draw_tiny

from tlutils.data import records
from tlutils.data.audit import audit_splits
from tlutils.report import caveats, facts
from tlutils.runs.folder import Run
from tlutils.runs.use import evaluate

COARSE = "What is unlike the training images is told coarsely"


def titles(run: Run) -> set[str]:
    return {caveat.title for caveat in caveats.of(run, audit_splits(run.records))}


def test_the_caveats_follow_from_the_run(run, copy):
    assert {
        "The weights were random",
        "The validation set is small",
        "One seed",
        "Other places",
        COARSE,
    } <= titles(run)
    assert not {"The images are phantoms", "The splits leak", "Part of the data"} & titles(run)
    with edited(copy / "recipe.json") as about:
        about["audit"]["leak"], about["limit"], about["weights"]["requested"] = True, 60, "imagenet"
        about["notes"].insert(0, "phantom images (drawings, not patients)")
    assert {"The images are phantoms", "The splits leak", "Part of the data"} <= titles(
        Run.load(copy)
    )
    assert "The weights were random" not in titles(Run.load(copy))


def test_a_limit_of_few_validation_patients_is_a_caveat_and_of_many_or_none_it_is_not(copy):
    run = Run.load(copy)
    told = {caveat.title: caveat.text for caveat in caveats.of(run, audit_splits(run.records))}
    assert f"only {run.part('val')['patient'].nunique()} validation patient" in told[COARSE]
    val = run.records["split"] == "val"
    run.records = run.records[~val]
    assert COARSE not in titles(run)
    one = Run.load(copy).part("val").head(1)
    rows = pd.concat([one] * 100).assign(patient=[str(n) for n in range(100)])
    run.records = pd.concat([run.records, rows], ignore_index=True)
    assert COARSE not in titles(run)


GOOD = {
    "n": 400,
    "patients": 90,
    "baseline": 0.25,
    "accuracy": {"value": 0.9, "low": 0.88, "high": 0.92},
    "ece": 0.01,
    "per_class": {"CNV": {"n": 200}, "DME": {"n": 200}},
}
OF_NUMBERS = {
    "Not shown to be better than a constant answer": {"baseline": 0.9},
    "The interval is wide": {"accuracy": {"value": 0.9, "low": 0.8, "high": 0.95}},
    "Validation and test disagree": {"accuracy": {"value": 0.8, "low": 0.78, "high": 0.82}},
    "Few images of a class": {"per_class": {"CNV": {"n": 29}, "DME": {"n": 200}}},
    "The probabilities are off": {"ece": 0.11, "ece_by_chance": 0.1},
}


@pytest.mark.parametrize("title", OF_NUMBERS)
def test_a_caveat_of_the_numbers_is_there_where_they_say_so_and_nowhere_else(copy, title):
    with edited(copy / "metrics.json") as metrics:
        metrics.update(val=GOOD, test=GOOD)
    assert not titles(Run.load(copy)) & {*OF_NUMBERS, "The validation set is small"}
    with edited(copy / "metrics.json") as metrics:
        metrics["test"] = GOOD | OF_NUMBERS[title]
    assert titles(Run.load(copy)) & set(OF_NUMBERS) == {title}


def test_an_error_of_calibration_that_chance_gives_is_no_caveat(copy):
    with edited(copy / "metrics.json") as metrics:
        metrics["test"] = GOOD | {"ece": 0.11, "ece_by_chance": 0.12}
    assert "The probabilities are off" not in titles(Run.load(copy))


def test_a_training_that_diverged_is_told_of(copy):
    assert "Training diverged" not in titles(Run.load(copy))
    history = Run.load(copy).history
    kept = facts.kept_epoch(Run.load(copy)) - 1
    history.loc[history.index != kept, "train_loss"] = 5.5e16  # which it recovered from
    history.to_csv(copy / "history.csv", index=False)
    assert "Training diverged" not in titles(Run.load(copy))
    history.loc[kept, "train_loss"] = 5.5e16
    history.to_csv(copy / "history.csv", index=False)
    assert "Training diverged" in titles(Run.load(copy))


@pytest.mark.parametrize("threshold", [None, 0.3])
def test_probabilities_are_off_by_the_likeliest_class_whatever_answers(copy, threshold):
    with edited(copy / "metrics.json") as metrics:
        metrics["test"] = GOOD | {"ece": 0.4} | ({"threshold": threshold} if threshold else {})
    run = Run.load(copy)
    found = {caveat.title: caveat.text for caveat in caveats.of(run, audit_splits(run.records))}
    text = found["The probabilities are off"]
    assert "how often the likeliest class is right by 40 points on average" in text
    assert ("the answers go by the threshold" in text) == bool(threshold)


def test_patients_of_more_than_one_class_are_a_caveat_in_the_words_of_the_audit(copy):
    run = Run.load(copy)

    def found():
        return [
            c.text for c in caveats.of(run, audit_splits(run.records)) if "more than" in c.title
        ]

    told = records.of_several_classes(run.records)
    assert "8 patients have images of more than one class: right" in told
    assert found() == [f"{told}."]
    run.records["patient"] = run.records["patient"] + run.records["label"]
    assert not found()
    both = pd.DataFrame({"patient": "7", "label": ["A", "B"], "problem": ["", "no image"]})
    assert not records.of_several_classes(both)


@pytest.mark.filterwarnings("ignore:.* images are among those")
def test_other_places_are_those_that_nobody_looked_at(run, tmp_path):
    def said():
        found = caveats.of(copy, audit_splits(copy.records), facts.elsewhere(copy).sets)
        (text,) = (caveat.text for caveat in found if caveat.title == place)
        return text

    place, folder = "Other places", shutil.copytree(run.folder, tmp_path / "run")
    copy = Run.load(folder)
    assert said().startswith("All images come from one collection. Other machines")
    evaluate(folder, run.root / "train", **CPU)  # the run's own
    again = shutil.copytree(run.root / "train", tmp_path / "again")  # and once more, with another
    draw_tiny("CNV", 9000).save(again / "CNV" / "CNV-9000-1.png")
    evaluate(folder, again, **CPU)
    for table in (folder / "evaluations").glob("*.csv"):
        table.unlink()
    assert said().startswith("All images come from one collection. Other machines")
    for name in ("a", "b"):
        shutil.copytree(run.root / "test", tmp_path / name)
        for file in (tmp_path / name).rglob("*.jpeg"):  # else they were the run's own
            file.write_bytes(file.read_bytes() + name.encode())
        evaluate(folder, tmp_path / name, **CPU)
        evaluate(folder, tmp_path / name, views=1, **CPU)
    listed = records.scan(tmp_path / "b")[["path", "label"]]
    listed.to_csv(tmp_path / "b" / "list.csv", index=False)
    evaluate(folder, tmp_path / "b" / "list.csv", **CPU)  # the same set
    assert "2 other sets were looked at (see Other images); machines" in said()


def test_without_validation_nothing_could_be_chosen(copy):
    with edited(copy / "metrics.json") as metrics:
        del metrics["val"]
    found = titles(Run.load(copy))
    assert "There was no validation set" in found and "The validation set is small" not in found


def test_several_settings_on_the_test_images_are_a_caveat_and_several_looks_are_none(copy):
    title = "The test images were looked at under several settings"
    for count, told in (
        ({"times": 5, "settings": 1}, False),
        ({"times": 2, "settings": 2}, True),
        (None, False),
    ):
        with edited(copy / "metrics.json") as metrics:
            metrics["test_openings"] = count
            if count is None:  # as before they were counted
                del metrics["test_openings"]
        assert (title in titles(Run.load(copy))) == told
