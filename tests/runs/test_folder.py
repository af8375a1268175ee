"""A run's folder: who may write there, and what is refused that nobody wrote."""

import json
import shutil
import warnings
from pathlib import Path

import pandas as pd
import pytest
from processes import holding
from small_runs import begin, edited, first, small, train

from tlutils.core import files
from tlutils.data import cleaning, records
from tlutils.runs.folder import Run
from tlutils.runs.train import fit, make_loaders
from tlutils.runs.use import evaluate


def test_a_folder_without_a_run_says_how_to_make_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="python -m tlutils train .* --out '.*/my run'"):
        Run.load(tmp_path / "my run")


def test_no_run_is_to_be_trained_into_a_folder_of_other_files(tiny_folder):
    with pytest.raises(FileNotFoundError, match="a folder of its own .* --out runs/NAME"):
        Run.load(tiny_folder)


def test_two_processes_do_not_train_into_one_folder_but_may_read_it(run, tiny_folder, tmp_path):
    out = Path(shutil.copytree(run.folder, tmp_path / "run"))
    with holding(out / ".lock"):
        with pytest.raises(files.Busy, match="at work on the run"):
            train(tiny_folder, out, small(epochs="3"))
        with pytest.raises(files.Busy):
            fit(Run.load(out), run.model(), make_loaders(run), show=False, log=None)
        assert evaluate(out, device="cpu", precision="fp32", show=False) == run.metrics["test"]
    assert len(train(tiny_folder, out, small(epochs="3")).history) == 3


def test_a_training_that_is_refused_leaves_no_folder(tiny_folder, tmp_path):
    with pytest.raises(ValueError, match="positive is 'SEEN' and the classes are CNV, DME"):
        train(tiny_folder, tmp_path / "a" / "run", small(positive="SEEN"))
    assert not (tmp_path / "a" / "run").exists()
    (tmp_path / "own").mkdir()
    with pytest.raises(ValueError, match="positive"):
        train(tiny_folder, tmp_path / "own", small(positive="SEEN"))
    assert (tmp_path / "own").is_dir()


def test_odd_names_come_back_from_a_runs_tables_as_they_were(tiny_folder, tmp_path):
    data = Path(shutil.copytree(tiny_folder, tmp_path / "data"))
    odd = [
        "=1+1",
        "@SUM(1)",
        "a,b",
        'q"q',
        "new\nline",
        "car\rriage",
        "$x$",
        "<b>",
        " lead",
        "NA.",
        "007",
        "ü",
        "'tis",
    ]
    for i, name in enumerate(odd):
        draw = first(data, "train/CNV")
        (data / "train" / "CNV" / f"{name}-{i}.jpeg").write_bytes(draw.read_bytes() + bytes([i]))
    for part in ("train", "val", "test"):
        (data / part / "DME").rename(data / part / '=D$M,E\n"x"')
    asked = {"recipe": small(epochs="1"), "patient": r"(?P<patient>[^/]+)-\d+\.jpeg"}
    run = train(data, tmp_path / "run", **asked)
    back, said = Run.load(run.folder), run.predictions
    assert back.records[list(records.COLUMNS)].equals(run.records[list(records.COLUMNS)])
    assert set(back.records["patient"]) >= set(odd) and '=D$M,E\n"x"' in run.classes
    known = run.records.set_index("path")
    assert (said["patient"] == known.loc[said["path"], "patient"].to_numpy()).all()
    assert (said["label"] == known.loc[said["path"], "label"].to_numpy()).all()
    assert train(data, tmp_path / "run", **asked).metrics == run.metrics


def changed(change):
    def edit(folder):
        with edited(folder / "recipe.json") as about:
            change(about)

    return edit


def replaced(name, old, new):
    return lambda folder: (folder / name).write_text((folder / name).read_text().replace(old, new))


STRANGE = {
    "not JSON": lambda folder: (folder / "recipe.json").write_text("{"),
    "not UTF-8": lambda folder: (folder / "recipe.json").write_bytes(b"\xff\xfe{}"),
    "a list": lambda folder: (folder / "recipe.json").write_text("[1]"),
    "nested without end": lambda folder: (folder / "recipe.json").write_text("[" * 100_000),
    "no recipe": changed(lambda about: about.pop("recipe")),
    "no data": changed(lambda about: about.update(data=3)),
    "classes no texts": changed(lambda about: about["data"].update(classes=[1, 2])),
    "root a number": changed(lambda about: about["data"].update(root=5)),
    "limit a text": changed(lambda about: about.update(limit="9")),
    "unknown field": changed(lambda about: about["recipe"].update(evil="__import__('os')")),
    "field of another kind": changed(lambda about: about["recipe"].update(size="224")),
    "augmentation a list": changed(lambda about: about["recipe"].update(augmentation=[])),
    "path above": replaced("records.csv", "train/CNV/CNV-1001-1.jpeg", "../../secret.jpeg"),
    "whole path": replaced("records.csv", "train/CNV/CNV-1001-1.jpeg", "/etc/secret.jpeg"),
    "a column less": replaced("records.csv", "problem", "trouble"),
    "no number": replaced("records.csv", ",64,48,L,", ",many,48,L,"),
    "another class": replaced("records.csv", ",CNV,", ",EVIL,"),
    "empty": lambda folder: (folder / "records.csv").write_text(""),
}


@pytest.fixture
def copy(run, tmp_path):
    """The run's small files in a folder that a test may change."""
    skip = shutil.ignore_patterns("features", "*.pt")
    return shutil.copytree(run.folder, tmp_path / "run", ignore=skip)


@pytest.mark.parametrize("harm", STRANGE.values(), ids=STRANGE)
def test_a_run_that_somebody_has_edited_is_refused_in_one_sentence(copy, harm):
    harm(copy)
    with pytest.raises(ValueError, match="is not what a run writes"):
        Run.load(copy)


def test_predictions_of_images_that_the_run_does_not_know_are_refused(run, copy):
    path = run.predictions["path"].iloc[0]
    replaced("predictions.csv", path, "../../secret.jpeg")(copy)
    with pytest.raises(ValueError, match="secret.jpeg is not in records.csv"):
        _ = Run.load(copy).predictions


def test_a_manifest_above_its_images_makes_a_run_that_can_be_opened(data, tmp_path):
    cleaning.write(records.scan(data), data, tmp_path / "tables" / "some.csv")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = begin(tmp_path / "tables" / "some.csv", tmp_path / "run")
        assert Run.load(run.folder).records["path"].str.startswith("../").all()
        assert run.about["data"]["top"] == str(tmp_path)


def test_a_run_and_a_clean_manifest_of_very_many_images_are_kept_as_parquet_too(
    tiny_folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(records, "PARQUET_ROWS", 10)
    run = begin(tiny_folder, tmp_path / "run")
    cleaning.write(run.records, run.root, tmp_path / "clean.csv")
    for file in (run.folder / "records.csv", tmp_path / "clean.csv"):
        beside = file.with_name(f"{file.name}.parquet")
        kept = pd.read_parquet(beside, columns=["path", "label", "split", "patient"])
        beside.unlink()
        pd.testing.assert_frame_equal(records.load(file)[kept.columns], kept, check_dtype=False)
    assert begin(tiny_folder, tmp_path / "run").records.equals(run.records)


def test_what_was_requested_is_known_by_its_name_of_before(run, tmp_path):
    folder = Path(shutil.copytree(run.folder, tmp_path / "run"))
    about = json.loads((folder / "recipe.json").read_text())
    for part in (about["weights"], about["data"]):
        part["asked"] = part.pop("requested")
    (folder / "recipe.json").write_text(json.dumps(about))
    old = Run.load(folder)
    assert old.weights == "random" and old.about == Run.load(run.folder).about
    old.write()
    assert '"asked"' not in (folder / "recipe.json").read_text()
