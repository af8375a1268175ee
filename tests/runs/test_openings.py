"""How often a run's own test images were scored is counted, whoever scores them."""

import json
import shutil
import warnings
from pathlib import Path

import pandas as pd
import pytest
from processes import holding, together, warm
from small_runs import CPU, small, train

from tlutils.runs import openings
from tlutils.runs.folder import Run
from tlutils.runs.train import train_seeds
from tlutils.runs.use import evaluate

ONCE = {"times": 1, "settings": 1}


@pytest.fixture
def own(run, tmp_path):
    """A finished run whose test images were scored once, in a folder of its own."""
    folder = Path(shutil.copytree(run.folder, tmp_path / "own"))
    counted = Run.load(folder).metrics | {"test_openings": ONCE}
    (folder / "metrics.json").write_text(json.dumps(counted))
    rows = pd.read_csv(folder / "openings.csv").head(1)
    rows.to_csv(folder / "openings.csv", index=False)
    return folder


def counted(folder):
    return json.loads((folder / "metrics.json").read_text())["test_openings"]


def rows_of(folder):
    return pd.read_csv(folder / "openings.csv", keep_default_na=False)


def test_the_training_is_the_first_look_and_says_how(tiny_folder, tmp_path):
    done = train(tiny_folder, tmp_path / "run", small(epochs="1"))
    (row,) = rows_of(done.folder).to_dict("records")
    assert done.metrics["test_openings"] == ONCE and row["by"] == "train" and row["time"]
    assert json.loads(row["settings"]) == openings.settings(0, None)
    assert row["weights"] == done.fingerprint
    assert train(tiny_folder, done.folder, small(epochs="1")).metrics == done.metrics


def test_each_evaluation_counts_and_other_settings_are_told_apart(own):
    said, before = [], json.loads((own / "metrics.json").read_text())
    for how, wanted in (
        ({}, (2, 1)),
        ({"views": 1}, (3, 2)),
        ({"calibrated": True}, (4, 3)),
        ({"views": 1}, (5, 3)),
        ({"split": "val"}, (5, 3)),
    ):
        evaluate(own, **how, **CPU, log=said.append)
        assert tuple(counted(own).values()) == wanted
    told = [line for line in said if not line.startswith("these numbers are not written")]
    assert "scored 5 times, under 3 settings" in told[-1] and len(told) == 4
    after = json.loads((own / "metrics.json").read_text())
    assert {**after, "test_openings": ONCE} == before
    assert rows_of(own)["by"].tolist() == ["train"] + 4 * ["evaluate"]


def test_the_runs_own_test_images_count_wherever_they_lie_and_others_do_not(own, run, tmp_path):
    for name, part in (("val", "val"), ("test", "test")):
        for row in run.part(part).itertuples():
            to = tmp_path / name / row.label / f"{part}-{Path(row.path).name}"
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(run.root / row.path, to)
    evaluate(own, tmp_path / "val", **CPU)
    assert counted(own) == ONCE
    evaluate(own, tmp_path / "test", **CPU)
    assert counted(own)["times"] == 2


def test_what_was_counted_stays_when_the_run_is_trained_on(tiny_folder, tmp_path):
    two = train(tiny_folder, tmp_path / "run", small(patience="0"))
    evaluate(two.folder, **CPU)
    four = train(tiny_folder, two.folder, small(patience="0", epochs="4"))
    assert four.metrics["test_openings"] == {"times": 3, "settings": 2}  # two weights
    assert rows_of(two.folder)["by"].tolist() == ["train", "evaluate", "train"]
    assert rows_of(two.folder)["weights"].nunique() == 2


def as_before_counting(folder):
    content = json.loads((folder / "metrics.json").read_text())
    del content["test_openings"]
    (folder / "metrics.json").write_text(json.dumps(content))
    (folder / "openings.csv").unlink()


def test_a_run_from_before_was_looked_at_once_at_least(own):
    as_before_counting(own)
    known = openings.of(Run.load(own).metrics)
    assert known == {**ONCE, "at_least": True}
    assert openings.in_words(known).endswith("scored at least once.")
    evaluate(own, **CPU)
    assert counted(own) == {"times": 2, "settings": 1, "at_least": True}
    evaluate(own, views=2, **CPU)
    assert "at least 3 times, under at least 2 settings" in openings.in_words(counted(own))


def test_a_run_from_before_that_is_trained_on_keeps_its_first_look(tiny_folder, own):
    as_before_counting(own)
    more = train(tiny_folder, own, small(patience="0", epochs="3"))
    assert more.metrics["test_openings"] == {"times": 2, "settings": 2, "at_least": True}


@pytest.mark.parametrize("lost", ["openings.csv", "a row"])
def test_a_lost_list_or_row_does_not_lessen_the_count(own, lost):
    for _ in range(2):
        evaluate(own, **CPU)
    if lost == "a row":  # as where a process was killed between the two files
        rows_of(own).head(2).to_csv(own / "openings.csv", index=False)
    else:
        (own / lost).unlink()
    evaluate(own, **CPU)
    assert counted(own) == {"times": 4, "settings": 1}
    assert rows_of(own)["times"].sum() == 4


def test_a_look_while_a_training_has_taken_the_numbers_away_is_counted_later(own):
    kept = (own / "metrics.json").read_text()
    (own / "metrics.json").unlink()
    evaluate(own, **CPU)
    assert not (own / "metrics.json").exists() and len(rows_of(own)) == 2
    openings.record(Run.load(own), "train", openings.settings(0, None), json.loads(kept))
    assert counted(own) == {"times": 3, "settings": 1}


def test_each_seed_has_a_count_of_its_own(tiny_folder, tmp_path):
    one = train(tiny_folder, tmp_path / "run", small(epochs="1"))
    other = train_seeds(one, 2, **CPU, log=None)[1]
    evaluate(other.folder, **CPU)
    assert other.metrics["test_openings"]["times"] == 2
    assert one.metrics["test_openings"]["times"] == 1


def test_a_run_without_test_images_has_nothing_to_count():
    assert openings.of({"val": {}}) is None


def test_a_damaged_list_is_said_in_one_sentence(own):
    (own / "openings.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="openings.csv is not what a run writes"):
        evaluate(own, **CPU)


def test_a_look_that_cannot_be_written_down_is_said(own, monkeypatch):
    def closed(*_):
        raise PermissionError("read-only")

    monkeypatch.setattr(openings.records, "save", saving_all_but("openings.csv", closed))
    with pytest.warns(UserWarning, match="could not be counted: read-only"):
        assert evaluate(own, **CPU)["n"] == 16


def test_a_look_while_another_process_holds_the_count_is_said_and_keeps_its_numbers(
    own, monkeypatch
):
    monkeypatch.setattr(openings, "_PATIENCE", 0.1)
    told = pytest.warns(UserWarning, match="could not be counted: another process")
    with holding(own / ".openings.lock"), told:
        assert evaluate(own, **CPU)["n"] == 16
    assert counted(own) == ONCE


def look_often(folder):
    for _ in range(5):
        openings.record(Run.load(folder), "evaluate", openings.settings(0, None))


def test_processes_that_look_at_the_same_time_are_all_counted(own):
    jobs = [warm.Process(target=look_often, args=(own,)) for _ in range(2)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert [job.exitcode for job in jobs] == [0, 0]
    assert counted(own) == {"times": 11, "settings": 1} and len(rows_of(own)) == 11


def test_several_processes_are_one_look(own):
    words = ["-m", "tlutils", "evaluate", own, "--device", "cpu", "--precision", "fp32"]
    said = together(*words).stdout
    assert counted(own)["times"] == 2 and said.count("scored 2 times") == 1


def test_a_stopped_run_is_counted_once_when_it_is_finished(tiny_folder, tmp_path, monkeypatch):
    """Killed after the numbers were written and before the row was."""

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, warnings.catch_warnings():
        patch.setattr(openings.records, "save", saving_all_but("openings.csv", killed))
        with pytest.raises(KeyboardInterrupt):
            train(tiny_folder, tmp_path / "run", small(epochs="1"))
    done = train(tiny_folder, tmp_path / "run", small(epochs="1"))
    assert done.metrics["test_openings"] == ONCE
    evaluate(done.folder, **CPU)
    assert counted(done.folder) == {"times": 2, "settings": 1}


def saving_all_but(name, instead):
    save = openings.records.save
    return lambda table, path, **how: (
        instead() if str(path).endswith(name) else save(table, path, **how)
    )
