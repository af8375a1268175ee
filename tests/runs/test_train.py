"""The whole way of one recipe, and the folder that comes out."""

import dataclasses
import json
import re
import shutil
import sys
import textwrap
import warnings
from itertools import product
from pathlib import Path

import dicom_files
import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from small_runs import CPU, begin, edited, first, small, train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tlutils.core import devices
from tlutils.data import cleaning, layouts, phantoms, records
from tlutils.data.audit import audit_splits, leaks
from tlutils.evaluation import thresholds
from tlutils.evaluation.acquisition import Acquisition
from tlutils.evaluation.metrics import compute_metrics
from tlutils.models import checkpoints
from tlutils.models.feature_store import Store
from tlutils.report import facts
from tlutils.runs import recipes
from tlutils.runs import train as training
from tlutils.runs.folder import NotARun, Run, read_predictions
from tlutils.runs.train import (
    finish,
    fit,
    make_loaders,
    make_model,
    open_stores,
    train_seeds,
)
from tlutils.runs.use import evaluate, predict, predict_records, threshold_in_words
from tlutils.training import loop, speed

FILES = {
    "recipe.json",
    "records.csv",
    "history.csv",
    "best.pt",
    "last.pt",
    "predictions.csv",
    "metrics.json",
    "openings.csv",
}


def test_a_run_is_a_folder_of_the_promised_files(run):
    assert {path.name for path in run.folder.iterdir()} >= FILES


def test_what_the_run_is_made_of_is_recorded(run):
    about = json.loads((run.folder / "recipe.json").read_text())
    assert (
        about["weights"]["source"] == "random"
        and about["versions"]["torch"]
        and about["machine"]["precision"]
    )
    assert about["data"]["fingerprint"] and about["data"]["classes"] == sorted(
        about["data"]["classes"]
    )
    assert recipes.Recipe.from_dict(about["recipe"]) == run.recipe


def test_random_weights_are_named_in_every_result(run):
    assert (
        any("random weights" in note for note in run.metrics["notes"])
        and "random weights" in run.caption
    )


def test_phantoms_are_called_phantoms_also_where_a_manifest_names_them(tiny_folder, tmp_path):
    drawn = Path(shutil.copytree(tiny_folder, tmp_path / "drawn"))
    (drawn / phantoms.MARKER).write_text("{}")
    cleaning.write(records.scan(drawn), drawn, tmp_path / "tables" / "some.csv")
    for i, data in enumerate((drawn, tmp_path / "tables" / "some.csv", tiny_folder)):
        made = begin(data, tmp_path / f"run{i}")
        assert ("phantom" in made.caption) == (data != tiny_folder)


def test_no_patient_is_on_two_sides_and_the_verdict_is_in_the_metrics(run):
    sides = run.records[run.records["split"] != ""].groupby("patient")["split"].nunique()
    assert (sides == 1).all() and run.metrics["audit"]["leak"] is False
    assert not leaks(audit_splits(run.records))


def test_predictions_cover_validation_and_test_images_once(run):
    assert set(run.predictions["split"]) == {"val", "test"}
    for split, part in run.predictions.groupby("split"):
        assert sorted(part["path"]) == sorted(run.part(split)["path"])
    columns = [f"p_{name}" for name in run.classes]
    assert np.allclose(run.predictions[columns].sum(axis=1), 1, atol=1e-5)


def test_the_metrics_follow_from_the_predictions_file(run):
    part = run.predictions[run.predictions["split"] == "test"]
    assert run.metrics["test"]["accuracy"]["value"] == pytest.approx(
        (part["label"] == part["predicted"]).mean()
    )
    assert run.metrics["test"] == json.loads(
        json.dumps(compute_metrics(part.reset_index(drop=True), seed=run.recipe.seed))
    )


def test_a_finished_run_is_taken_up_as_it_is(run, tiny_folder):
    before = (run.folder / "best.pt").stat().st_mtime_ns
    again = train(tiny_folder, run.folder)
    assert (run.folder / "best.pt").stat().st_mtime_ns == before and again.metrics == run.metrics


def test_another_recipe_does_not_overwrite_a_run(run, tiny_folder):
    with pytest.raises(ValueError, match="holds another run.*learning_rate"):
        train(tiny_folder, run.folder, small(learning_rate="0.1"))
    other = small(**{"augmentation.flip": "0.25", "class_weights": "auto"})
    with pytest.raises(ValueError, match="holds another run") as refused:
        train(tiny_folder, run.folder, other)
    assert str(refused.value).split(": ", 1)[1] == (
        "class_weights: None in the folder, 'auto' requested; augmentation.flip: 0.5 in the "
        "folder, 0.25 requested. Choose another folder, or remove this one first"
    )


def test_of_a_run_of_another_recipe_its_name_is_told_first_and_five_things_at_most(
    run, tiny_folder
):
    other = recipes.get("chest-best").changed({"size": 32, "epochs": 1})
    told = (
        "run: recipe: 'oct-vgg16' in the folder, 'chest-best' requested; (.*); and [0-9]+ more. C"
    )
    with pytest.raises(ValueError, match=told) as refused:
        train(tiny_folder, run.folder, other)
    assert str(refused.value).count(" requested") == 5


def test_the_same_recipe_gives_the_same_numbers(run, tiny_folder, tmp_path):
    again = train(tiny_folder, tmp_path / "again")
    assert again.metrics["test"] == run.metrics["test"]


def test_a_binary_recipe_with_one_logit_runs(two_classes, tmp_path):
    run = train(two_classes, tmp_path / "run", small("chest-vgg16-gap"))
    assert {"sensitivity", "specificity", "threshold"} <= run.metrics[
        "test"
    ].keys() and run.threshold is None


def test_a_run_chooses_its_threshold_on_validation_and_answers_by_it_everywhere(
    two_classes, tmp_path
):
    run = train(
        two_classes,
        tmp_path / "run",
        small("chest-vgg16-gap", threshold="specificity>=0.9", val="0.3"),
        log=(lines := []).append,
    )
    told = f"threshold {run.threshold:.3f}, chosen by specificity>=0.9 on the validation images"
    assert lines[lines.index(told) - 1].startswith("val: ")
    assert "the epochs above by the likeliest class" in lines[lines.index(told) + 1]
    said, where = run.predictions, CPU
    val = said[said["split"] == "val"].reset_index(drop=True)
    assert run.threshold == thresholds.choose_threshold(val, "specificity>=0.9") != 0.5
    assert run.metrics["test"]["threshold"] == run.threshold
    assert ((said["p_NORMAL"] >= run.threshold) == (said["predicted"] == "NORMAL")).all()
    again = evaluate(run.folder, **where)
    assert (again["confusion"], again["threshold"]) == (
        run.metrics["test"]["confusion"],
        run.threshold,
    )
    new = predict(run.folder, [two_classes / "test"], **where)
    assert ((new["p_NORMAL"] >= run.threshold) == (new["predicted"] == "NORMAL")).all()
    assert evaluate(run.folder, calibrated=True, **where)["confusion"] == again["confusion"]


def test_weights_of_another_network_leave_no_run_that_refuses_the_right_recipe(
    run, tiny_folder, tmp_path
):
    of = {"weights": str(run.folder / "best.pt"), "limit": 24}
    with pytest.raises(ValueError, match="of a run with another network"):
        train(tiny_folder, tmp_path / "run", small(epochs=1, backbone="vgg16"), **of)
    assert train(tiny_folder, tmp_path / "run", small(epochs=1), **of).finished


def test_a_recipe_says_which_of_two_classes_is_the_positive_one(two_classes, tmp_path):
    changes = {"threshold": "specificity>=0.9", "val": "0.3"}
    lines, recipe = [], small("chest-vgg16-gap", positive="CNV", **changes)
    run = train(two_classes, tmp_path / "run", recipe, log=lines.append)
    assert run.classes == ["NORMAL", "CNV"] and not any("second by name" in line for line in lines)
    test, table = run.metrics["test"], run.predictions
    assert test["positive"] == "CNV" and test["classes"] == run.classes
    assert test["sensitivity"] == test["per_class"]["CNV"]["recall"]
    assert ((table["p_CNV"] >= run.threshold) == (table["predicted"] == "CNV")).all()
    assert evaluate(run.folder, **CPU)["confusion"] == test["confusion"]
    assert threshold_in_words(run).startswith("CNV is answered from a probability of")
    with pytest.raises(ValueError, match="holds another run: positive: '?CNV"):
        train(two_classes, run.folder, small("chest-vgg16-gap", **changes))
    train(two_classes, tmp_path / "other", small("chest-vgg16-gap"), log=lines.append)
    told = "the positive class is NORMAL, the second by name, so sensitivity is for it; "
    assert f"{told}the recipe's field positive changes that (--set positive=CNV)" in lines


@pytest.mark.parametrize("changes", [{}, {"test_views": "1"}], ids=["store", "test views"])
def test_a_run_chooses_its_threshold_on_stressed_validation(two_classes, tmp_path, changes):
    rule = "specificity>=0.9"
    recipe = small(
        "chest-vgg16-gap", threshold=f"stressed {rule}", val="0.3", stress_views="5", **changes
    )
    run = train(two_classes, tmp_path / "run", recipe, log=(lines := []).append)
    told = f"threshold {run.threshold:.3f}, chosen by {rule} on the validation images under changes"
    assert any(line.startswith(told) for line in lines)
    dealt = read_predictions(run.folder / "stressed_predictions.csv")
    val = run.predictions[run.predictions["split"] == "val"].reset_index(drop=True)
    assert sorted(dealt["path"]) == sorted(5 * val["path"].tolist())
    assert dealt.groupby("path")["change"].nunique().eq(5).all() and set(dealt["split"]) == {"val"}
    assert run.threshold == pytest.approx(thresholds.choose_threshold(dealt, rule), abs=1e-6)
    assert run.threshold != thresholds.choose_threshold(val, rule)
    healthy = dealt[dealt["label"] == "CNV"]
    assert (healthy["predicted"] == "CNV").mean() >= 0.9
    assert evaluate(run.folder, **CPU)["threshold"] == run.metrics["test"]["threshold"]
    assert train(two_classes, run.folder, recipe).metrics == run.metrics


def test_stressed_answers_from_the_store_are_those_of_the_whole_model(two_classes, tmp_path):
    run = train(two_classes, tmp_path / "run", small("chest-vgg16-gap", val="0.3", epochs="1"))
    of = (run, run.model(), run.part("val"), "val", devices.choose("cpu", "fp32"), False)
    how = {"acquisition": Acquisition(), "shown": 3}
    whole, kept = (predict_records(*of, store=store, **how) for store in (None, tmp_path / "s"))
    assert whole[["path", "change"]].equals(kept[["path", "change"]])
    assert np.allclose(whole["p_NORMAL"], kept["p_NORMAL"], atol=1e-5)


def test_a_run_that_was_stopped_before_it_chose_its_threshold_answers_nothing(
    two_classes, tmp_path, monkeypatch
):
    recipe = small("chest-vgg16-gap", threshold="specificity>=0.9", val="0.3", epochs="1")
    monkeypatch.setattr(training, "finish", lambda *a, **more: None)
    run = train(two_classes, tmp_path / "run", recipe)
    with pytest.raises(NotARun, match="stopped before its threshold was chosen"):
        predict(run.folder, [two_classes / "test"], device="cpu", precision="fp32", show=False)
    monkeypatch.undo()
    assert train(two_classes, run.folder, recipe).threshold is not None


def test_a_threshold_for_more_than_two_classes_is_refused_before_any_work(tiny_folder, tmp_path):
    with pytest.raises(ValueError, match="threshold is 'youden'.*4 classes"):
        train(tiny_folder, tmp_path / "run", small(threshold="youden"))
    for rule in ("magic", "stressed magic"):
        with pytest.raises(ValueError, match="by 'magic'.*cost=5.*stressed specificity>=0.9"):
            small(threshold=rule)
    with pytest.raises(ValueError, match="stress_views is 99"):
        small(stress_views="99")


def test_a_recipe_can_ask_for_test_time_augmentation(two_classes, tmp_path):
    run = train(two_classes, tmp_path / "run", small("chest-vgg16-gap", test_views="2"))
    where = CPU
    assert evaluate(run.folder, **where)["auc"] == run.metrics["test"]["auc"]
    several, alone = (evaluate(run.folder, views=views, **where)["loss"] for views in (2, 0))
    assert several == pytest.approx(run.metrics["test"]["loss"]) != alone


def test_the_official_split_is_kept_when_asked_for_and_its_leak_is_said(tiny_folder, tmp_path):
    data = tmp_path / "leaky"
    shutil.copytree(tiny_folder, data)
    for path in sorted((data / "train" / "CNV").iterdir())[:2]:
        shutil.copy(path, data / "test" / "CNV" / path.name)
    run = train(data, tmp_path / "official", small(split="official", epochs="1"))
    assert run.metrics["audit"]["leak"] is True and "LEAK" in run.caption
    clean = train(data, tmp_path / "clean", small(epochs="1"))
    assert (
        clean.metrics["audit"]["leak"] is False and "divided anew" in clean.about["data"]["split"]
    )


@pytest.mark.parametrize("known", [0, 24])
def test_a_division_without_known_patients_is_not_called_one_by_patient(
    tiny_folder, tmp_path, known
):
    for i, path in enumerate(sorted(tiny_folder.rglob("*.jpeg"))):
        name = path.name if i < known else f"{i}.jpeg"
        (tmp_path / "data" / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "data" / path.parent.name / name)
    lines = []
    advice = "--patient RULE.*, and train anew into another folder$"
    with pytest.warns(UserWarning, match=f"of {64 - known} of 64 images are unknown.*{advice}"):
        begun = begin(tmp_path / "data", tmp_path / "run", log=lines.append)
    verdict = begun.about["audit"]["verdict"]
    if known:
        assert lines[0].startswith("divided by patient; 40 of 64 images, whose patient is unknown")
        assert "patients" in lines[1] and verdict.endswith("unknown for 40 of 64 images")
    else:
        assert lines[0] == "divided by image: no patient is known" and "patient" not in lines[1]
        assert re.fullmatch(r"train: \d+ images, val: \d+ images, test: \d+ images", lines[1])
        told = "no file or name is on two sides; whether a patient is, is unknown for 64 of 64"
        assert verdict == f"{told} images" and verdict in begun.caption
    (tmp_path / "data" / phantoms.MARKER).write_text("{}")
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        begin(tmp_path / "data", tmp_path / "drawn", log=None)
    assert not [one for one in found if "are unknown" in str(one.message)], "drawings of nobody"


def test_broken_files_of_many_kinds_are_left_out_and_listed(tiny_folder, tmp_path):
    data = tmp_path / "broken"
    shutil.copytree(tiny_folder, data)
    whole = next((data / "train" / "CNV").iterdir()).read_bytes()
    kinds = [
        b"",
        b"<html>",
        whole[:200],
        whole[: len(whole) // 2],
        b"\x89PNG\r\n\x1a\n",
        b"BM",
        b"II*\0",
        bytes(500),
    ]
    for i in range(40):
        (data / "train" / "CNV" / f"CNV-9{i:02d}-1.jpeg").write_bytes(kinds[i % len(kinds)])
    run = train(data, tmp_path / "run", small(epochs="1"))
    problems = run.records[run.records["problem"].fillna("") != ""]
    assert (
        len(problems) == 40
        and len(run.predictions) + len(run.part("train")) == len(run.records) - 40
    )


def test_a_limit_keeps_every_class_and_about_so_many_images(tiny_folder, tmp_path):
    run = begin(tiny_folder, tmp_path / "run", limit=40)
    assert 35 <= len(run.records) <= 48 and set(run.part("train")["label"]) == set(run.classes)


def test_bf16_features_give_the_metrics_of_fp32_within_their_interval(
    tiny_folder, tmp_path, record_property
):
    by = {
        precision: train(
            tiny_folder,
            tmp_path / precision,
            small(epochs="6", learning_rate="0.003"),
            precision=precision,
        ).metrics["test"]
        for precision in ("fp32", "bf16")
    }
    for name in ("accuracy", "auc"):
        exact, fast = by["fp32"][name], by["bf16"][name]["value"]
        record_property(f"{name} bf16 - fp32", fast - exact["value"])
        print(
            f"{name}: fp32 {exact['value']:.4f}, bf16 {fast:.4f}, difference {fast - exact['value']:+.4f}"
        )
        assert exact["low"] <= fast <= exact["high"]


@pytest.mark.parametrize("monitor", ["val_auc", "stress_auc"])
def test_a_recipe_can_train_its_head_first(tiny_folder, tmp_path, monitor):
    two_parts = small(
        "chest-resnet18-finetune", head_epochs="2", layer_decay="0.5", monitor=monitor
    )
    told = []
    done = train(tiny_folder, tmp_path / "run", two_parts, on_epoch_end=told.append)
    assert done.history["part"].tolist() == ["head", "head", "all", "all"]
    pd.testing.assert_frame_equal(pd.DataFrame(told)[done.history.columns], done.history)
    assert done.history[monitor].between(0, 1).all()
    assert train(tiny_folder, tmp_path / "run", two_parts).metrics == done.metrics


@pytest.fixture
def shown(tiny_folder, tmp_path, monkeypatch):
    """Runs, in an empty folder, what the docstring of `train` shows for a package."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    blocks = [part.split("\n\n    in ")[0] for part in training.train.__doc__.split("::\n\n")]

    def run(package):
        code = next(block for block in blocks if f"import {package}" in block)
        names = {"recipe": small(), "data": tiny_folder}
        names["train"] = lambda recipe, data, out, **more: train(data, out, recipe, **more)
        exec(textwrap.dedent(code), names)
        return Run.load("runs/mine").history

    return run


def test_tensorboard_gets_the_curves_as_the_docstring_shows(shown):
    history = shown("SummaryWriter")
    curves = EventAccumulator("runs/board").Reload()
    for name in ("train_loss", "val_loss", "val_accuracy"):
        got = {event.step: event.value for event in curves.Scalars(name)}
        assert got == pytest.approx(dict(zip(history["epoch"], history[name], strict=True)))


def test_mlflow_gets_the_curves_as_the_docstring_shows(shown, tmp_path):
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    history = shown("mlflow")
    client = mlflow.MlflowClient()
    (run,) = client.search_runs(["0"])
    got = {
        point.step: point.value for point in client.get_metric_history(run.info.run_id, "val_loss")
    }
    assert got == pytest.approx(dict(zip(history["epoch"], history["val_loss"], strict=True)))


def test_a_model_whose_head_first_part_was_stopped_learns_all_of_it_the_next_time(
    tiny_folder, tmp_path, monkeypatch
):
    def stopped(*of):
        raise KeyboardInterrupt

    lines = []
    two_parts = small("chest-resnet18-finetune", head_epochs="1", epochs="1")
    run = begin(tiny_folder, tmp_path / "run", two_parts)
    model, parts = make_model(run), make_loaders(run)
    how = {"machine": devices.choose("cpu", "fp32"), "show": False, "log": lines.append}
    with monkeypatch.context() as patch:
        patch.setattr(loop, "step", stopped)
        with pytest.raises(KeyboardInterrupt) as kept:  # as a notebook keeps the last error
            fit(run, model, parts, **how)
    fit(run, model, parts, **how)
    assert kept.value is not None and "now with freeze='none'" in lines
    assert checkpoints.read(run.folder / "best.pt")["model"]["freeze"] == "none"


def test_an_image_size_that_the_network_cannot_take_is_refused_before_any_work(
    tiny_folder, tmp_path
):
    with pytest.raises(ValueError, match="vgg16 cannot take 8 x 8 images"):
        train(tiny_folder, tmp_path / "run", small(backbone="vgg16", size="8"))
    assert not (tmp_path / "run" / "recipe.json").exists()


def test_weights_that_cannot_be_had_leave_no_folder_that_refuses_others(tiny_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        train(tiny_folder, tmp_path / "run", small(epochs="1"), weights="nowhere.pth")
    assert begin(tiny_folder, tmp_path / "run").weights == "random"


def test_a_run_can_begin_with_the_backbone_of_another_and_says_so(run, tiny_folder, tmp_path):
    file = run.folder / "best.pt"
    second = train(tiny_folder, tmp_path / "run", small(epochs="1"), weights=str(file))
    assert f"weights: pretrained on oct images, {run.folder.name}/best.pt" in second.caption
    assert second.about["weights"]["source"] == "run" and second.about["weights"]["sha256"]
    first, model = run.model().state_dict(), second.model().state_dict()
    frozen = [name for name in model if not name.startswith("classifier.")]
    assert frozen and all(torch.equal(model[name], first[name]) for name in frozen)
    assert Run.load(second.folder).weights == str(file)


def test_further_seeds_share_the_division_and_differ_in_the_rest(tiny_folder, tmp_path):
    first = train(tiny_folder, tmp_path / "run", small(epochs="1"))
    several = train_seeds(first, 2, device="cpu", precision="fp32", show=False, log=None)
    assert several[0] is first and several[1].folder == first.folder / "seed-1"
    assert several[1].records.equals(first.records) and several[1].recipe.seed == 1
    assert not np.allclose(several[1].history["train_loss"], first.history["train_loss"], atol=1e-6)
    (first.folder / "report.html").write_text("one seed")
    lines, how = [], {"device": "cpu", "precision": "fp32", "show": False}
    again = train_seeds(first, 2, **how, log=lines.append)
    assert again[1].metrics == several[1].metrics and (first.folder / "report.html").is_file()
    assert lines[0] == f"seed 1, in {first.folder / 'seed-1'}:"
    train_seeds(first, 3, **how, log=lines.append)
    assert f"removed {first.folder / 'report.html'}, which tells of fewer seeds" in lines
    assert facts.over_seeds(first)["runs"] == 3
    longer = train(tiny_folder, first.folder, small(epochs="2"), log=lines.append)
    assert facts.over_seeds(longer) is None  # one of two epochs, two of one
    train_seeds(longer, 3, **how, log=None)
    assert facts.over_seeds(longer)["runs"] == 3


def changed_content(data):
    first(data).write_bytes(first(data, "train/DME").read_bytes())


def another_label(data):
    first(data).rename(data / "train" / "DME" / first(data).name)


def one_less(data):
    first(data).unlink()


def one_more(data):
    shutil.copy(first(data), data / "train" / "CNV" / "CNV-9999-1.jpeg")


def a_half(data):
    first(data).write_bytes(first(data).read_bytes()[:500])


def other_own_splits(data):
    for name in ("CNV-1005-1.jpeg", "CNV-1005-2.jpeg"):
        (data / "val" / "CNV" / name).rename(data / "train" / "CNV" / name)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (changed_content, "1 of its images is changed.*CNV-1001-1"),
        (another_label, "1 of its images is new.*DME/CNV-1001-1"),
        (one_less, "1 of its images is gone"),
        (one_more, "1 of its images is new.*CNV-9999"),
        (a_half, "is changed"),
        (other_own_splits, "are gone"),
    ],
)
def test_a_run_does_not_go_on_with_other_images(begun, data, change, said):
    change(data)
    with pytest.raises(ValueError, match=f"holds another run.*{said}"):
        begin(data, begun.folder)


@pytest.mark.parametrize("patient", ["auto", "(?P<patient>[^/]+)$"])
def test_a_run_of_dicom_files_too_goes_on_only_with_what_reads_them(
    patient, data, tmp_path, monkeypatch
):
    """However it tells the patients: who lacks a package has the same images, and is not told of others."""
    dicom_files.write_folder(data / "train" / "more", range(1, 3))
    for label in ("CNV", "DME"):
        (data / "train" / "more" / label).rename(data / "train" / label / "more")
    shutil.rmtree(data / "train" / "more")
    begin(data, tmp_path / "run", patient=patient)
    with monkeypatch.context() as patch:
        dicom_files.without_pydicom(patch)
        with (
            pytest.warns(UserWarning, match="are left out"),
            pytest.raises(ImportError, match="8 images of .*run.* pip install 'pydicom>=3.0.1'"),
        ):
            begin(data, tmp_path / "run", patient=patient)
    assert records.readable(begin(data, tmp_path / "run", patient=patient).records).shape[0] > 8


def test_a_run_begun_without_what_reads_some_files_goes_on_without(data, tmp_path, monkeypatch):
    dicom_files.write_folder(data / "train" / "CNV", range(1, 3), ("DME",))
    dicom_files.without_pydicom(monkeypatch)
    for _ in range(2):
        with pytest.warns(UserWarning, match="4 of .* are left out"):
            run = begin(data, tmp_path / "run")
    assert len(records.problems(run.records)) == 4


def test_a_run_does_not_go_on_with_a_folder_that_is_missing_or_another_one(begun, data, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        begin(tmp_path / "nowhere", begun.folder)
    with pytest.raises(ValueError, match="holds another run: data: .*data.* in the folder, .*twin"):
        begin(shutil.copytree(data, tmp_path / "twin"), begun.folder)


def test_a_finished_run_does_not_go_on_with_other_images_either(run, tiny_folder, tmp_path):
    out = shutil.copytree(run.folder, tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        train(tmp_path / "nowhere", out)
    with pytest.raises(ValueError, match="holds another run: data: "):
        train(shutil.copytree(tiny_folder, tmp_path / "twin"), out)


@pytest.mark.parametrize("patient", [None, r"-(?P<patient>\d+)-", r"(?P<patient>\w+)/"])
def test_a_run_does_not_go_on_with_another_patient_rule(begun, data, patient):
    with pytest.raises(ValueError, match="holds another run: patient: 'auto' in the folder"):
        begin(data, begun.folder, patient=patient)


@pytest.mark.parametrize(
    ("out", "beside"),
    [("runs/mine", "runs/mine"), (".", "runs/mine images"), ("CNV", "runs/CNV")],
)
def test_a_run_does_not_begin_among_its_images(out, beside, data, tmp_path, monkeypatch):
    images = (data / "train").rename(tmp_path / "mine images")
    there = sorted(images.rglob("*"))
    monkeypatch.chdir(images)
    for ask in (train, begin):
        told = re.escape(f"the folder of the images, and would pass for one of their classes; choose a "
                         f"folder beside it, such as {Path('..', beside)}")  # fmt: skip
        with pytest.raises(ValueError, match=told):
            ask(".", out)
        with pytest.raises(ValueError, match=re.escape(f"such as {tmp_path / beside}")):
            ask(images, images / out)
    with pytest.raises(ValueError, match="^the feature store would be kept, which lies in"):
        train(".", tmp_path / "run", store="kept")
    assert sorted(images.rglob("*")) == there
    begin(images, tmp_path / "runs")  # beside them
    with pytest.raises(ValueError, match="^the feature store would be kept, which lies in"):
        train(".", tmp_path / "runs", store="kept")  # of a run that has begun
    with pytest.raises(ValueError, match="^the feature store would be ., which lies in"):
        train(".", tmp_path / "runs", store=".")


def test_a_run_does_not_begin_among_the_images_of_a_source(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_folder, "data/kermany-oct")
    for ask, out in product((train, begin), ("data/kermany-oct", "data/kermany-oct/train/run")):
        with pytest.raises(ValueError, match="such as data.runs."):
            ask("kermany-oct", out)


def test_a_run_may_lie_beside_images_in_the_folder_that_is_given(data, tmp_path):
    begin(tmp_path, tmp_path / "runs" / "mine")
    cleaning.write(records.scan(data), data, data / "all.csv")
    begin(data / "all.csv", data / "runs" / "mine")
    begin(data, data / "runs" / "mine")  # of before, and goes on


def test_a_run_takes_no_rule_that_it_cannot_write_down(data, tmp_path):
    with pytest.raises(ValueError, match="files cannot keep"):
        begin(data, tmp_path / "run", patient=records.patient_of)


def test_a_manifest_that_names_other_patients_or_splits_is_another_run(data, tmp_path):
    table = records.scan(data)
    manifest = tmp_path / "some.csv"
    cleaning.write(table, data, manifest)
    begin(manifest, tmp_path / "run")
    assert begin(manifest, tmp_path / "run").folder == tmp_path / "run"
    cleaning.write(table.assign(patient=table["patient"].replace({"1001": "1002"})), data, manifest)
    with pytest.raises(ValueError, match="of its images are changed"):
        begin(manifest, tmp_path / "run")
    cleaning.write(table.assign(split=table["split"].replace({"val": "train"})), data, manifest)
    with pytest.raises(ValueError, match="divides its images in another way"):
        begin(manifest, tmp_path / "run")


def test_images_that_have_moved_are_known_by_their_content(begun, data, tmp_path):
    said = []
    again = begin(data.rename(tmp_path / "elsewhere"), begun.folder, log=said.append)
    assert (
        again.root == Run.load(begun.folder).root == tmp_path / "elsewhere" and "moved" in said[0]
    )


def test_a_run_whose_data_lie_as_they_did_goes_on_also_with_a_limit(data, tmp_path):
    one = begin(data, tmp_path / "run", limit=40)
    assert begin(data, tmp_path / "run", limit=40).records.equals(Run.load(one.folder).records)
    with pytest.raises(ValueError, match="limit: 40 in the folder, 41 requested"):
        begin(data, tmp_path / "run", limit=41)


@pytest.mark.parametrize("fate", ["kept", "removed", "mended"])
def test_a_file_that_was_left_out_as_unreadable_makes_no_other_run(data, tmp_path, fate):
    path = data / "train" / "CNV" / "CNV-9999-1.jpeg"
    whole = first(data).read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + b"\xff\xd9")  # which only decoding finds
    one = begin(data, tmp_path / "run")
    assert one.records.loc[one.records["problem"] != "", "path"].tolist() == [
        "train/CNV/CNV-9999-1.jpeg"
    ]
    path.unlink() if fate == "removed" else shutil.copy(
        first(data), path
    ) if fate == "mended" else None
    assert begin(data, tmp_path / "run").records.equals(Run.load(one.folder).records)


def test_taking_up_a_run_hashes_its_images_and_decodes_none(begun, data, monkeypatch):
    asked = []
    inspect = records.inspect
    monkeypatch.setattr(
        records,
        "inspect",
        lambda *a, decode=False, **more: asked.append(decode) or inspect(*a, **more),
    )
    begin(data, begun.folder)
    assert asked == [False]


def test_further_seeds_are_held_to_the_same_data_without_reading_them_again(
    data, tmp_path, monkeypatch
):
    one = train(data, tmp_path / "run", small(epochs="1"))
    where = {**CPU, "log": None}
    train_seeds(one, 2, **where)
    about = json.loads((one.folder / "seed-1" / "recipe.json").read_text())
    assert about["machine"]["precision"] == "fp32" and about["recipe"]["seed"] == 1
    monkeypatch.setattr(
        records, "inspect", lambda *a, **more: pytest.fail("the images were read again")
    )
    train_seeds(one, 2, **where)
    one.root = data.rename(tmp_path / "elsewhere")
    assert train_seeds(one, 2, **where)[1].root == one.root
    about["data"]["fingerprint"] = "0" * 16
    (one.folder / "seed-1" / "recipe.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match="seed-1 holds another run: its images were others"):
        train_seeds(one, 2, **where)


def test_further_seeds_move_with_the_images(data, tmp_path):
    one = train(data, tmp_path / "run", small(epochs="1"))
    where = {**CPU, "log": None}
    train_seeds(one, 2, **where)
    moved = data.rename(tmp_path / "elsewhere")
    one = train(moved, one.folder, small(epochs="2"))
    other = train_seeds(one, 2, **where)[1]
    assert (
        other.root == Run.load(other.folder).root == one.root == moved and len(other.history) == 2
    )


def test_a_finished_run_goes_on_when_more_epochs_are_asked_for_and_says_so_in_recipe_json(
    tiny_folder, tmp_path
):
    said = []
    two = train(tiny_folder, tmp_path / "run", small(patience="0"))
    before = (two.folder / "metrics.json").read_text()
    four = train(tiny_folder, two.folder, small(patience="0", epochs="4"), log=said.append)
    assert (
        len(four.history) == 4
        and "goes on" in said[0]
        and any("going on after epoch 2" in line for line in said)
    )
    about = json.loads((two.folder / "recipe.json").read_text())
    assert about["recipe"]["epochs"] == four.recipe.epochs == 4
    assert (two.folder / "metrics.json").read_text() != before
    whole = train(tiny_folder, tmp_path / "whole", small(patience="0", epochs="4"))
    looked = {"test_openings": {"times": 2, "settings": 2}}  # with two epochs and with four
    assert whole.metrics | looked == four.metrics and same_weights(whole, four)
    for epochs, fewer in ("2", True), ("4", False):
        again = train(tiny_folder, two.folder, small(patience="0", epochs=epochs), log=said.append)
        assert again.recipe.epochs == 4 and "is finished already" in said[-1]
        assert ("has 4 epochs already, more than the 2 requested" in said[-2]) == fewer
        assert json.loads((two.folder / "recipe.json").read_text()) == about
    history = (two.folder / "history.csv").rename(tmp_path / "history.csv")
    train(tiny_folder, two.folder, small(patience="0"), log=said.append)
    assert "is finished already" in said[-1]
    history.rename(two.folder / "history.csv")
    (two.folder / "metrics.json").unlink()  # stopped before it was measured
    assert train(tiny_folder, two.folder, small(patience="0"), log=said.append).recipe.epochs == 4
    assert len([line for line in said if "has 4 epochs already, more than the 2" in line]) == 2


def same_weights(one, other):
    a, b = (checkpoints.load(run.folder / "best.pt")["state"] for run in (one, other))
    return a.keys() == b.keys() and all((a[key] == b[key]).all() for key in a)


def test_a_run_that_stopped_early_is_not_made_longer_by_epochs_but_by_patience(
    tiny_folder, tmp_path
):
    stopping = {"learning_rate": "0.5", "optimizer": "sgd", "min_delta": "100", "epochs": "5"}
    done, said = train(tiny_folder, tmp_path / "run", small(**stopping, patience="1")), []
    assert len(done.history) == 2
    train(
        tiny_folder,
        done.folder,
        small(**{**stopping, "epochs": "9"}, patience="1"),
        log=said.append,
    )
    assert (
        "had stopped early" in said[0]
        and "is finished already" in said[1]
        and len(done.history) == 2
    )
    assert Run.load(done.folder).recipe.epochs == 5
    more = train(tiny_folder, done.folder, small(**stopping, patience="2"), log=said.append)
    assert len(more.history) == 3 and Run.load(done.folder).recipe.patience == 2


def test_a_finished_run_whose_rates_depend_on_its_length_is_not_made_longer(tiny_folder, tmp_path):
    cosine = small(schedule="cosine", epochs="1")
    done = train(tiny_folder, tmp_path / "run", cosine)
    with pytest.raises(ValueError, match="epochs: 1 in the folder, 2 requested.*cosine"):
        train(tiny_folder, done.folder, cosine.changed({"epochs": 2}))
    assert train(tiny_folder, done.folder, cosine).metrics == done.metrics


def test_training_anew_in_steps_takes_the_old_measurements_away_first(run, tmp_path):
    again = Run.load(shutil.copytree(run.folder, tmp_path / "run"))
    model, parts = make_model(again), make_loaders(again)
    where = {"machine": devices.choose("cpu", "fp32"), "show": False, "log": None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(again, model, parts, **where)
    assert not again.finished and not (again.folder / "predictions.csv").exists()
    finish(again, model, parts, **where)
    looked = {"test_openings": again.metrics["test_openings"]}
    assert looked["test_openings"]["times"] > run.metrics["test_openings"]["times"]
    assert again.metrics == run.metrics | looked


def test_measurements_stay_where_training_cannot_go_on_from_what_was_saved(
    run, tiny_folder, tmp_path
):
    kept = Run.load(shutil.copytree(run.folder, tmp_path / "run"))
    last = checkpoints.read(kept.folder / "last.pt")
    del last["settings"]["views_drawn_by"]  # as before views were drawn by content
    checkpoints.write(kept.folder / "last.pt", last)
    before = {path: path.read_bytes() for path in kept.folder.glob("*.*") if path.is_file()}
    with pytest.raises(ValueError, match="last.pt was made with other settings: views_drawn_by"):
        train(tiny_folder, kept.folder, small(epochs="3"))
    assert {path: path.read_bytes() for path in before} == before
    assert train(tiny_folder, kept.folder).metrics == run.metrics


def test_a_run_goes_on_with_fewer_images_at_once_where_that_is_asked_for(
    run, tiny_folder, tmp_path, monkeypatch
):
    parts, count = [], loop._count
    monkeypatch.setattr(
        loop, "_count", lambda each, *of: (parts.append(len(each)), count(each, *of))[1]
    )
    monkeypatch.setattr(
        loop, "validate", lambda *a: {"val_loss": 1.0, "val_accuracy": 1.0, "val_images": 8}
    )
    train(
        tiny_folder,
        shutil.copytree(run.folder, tmp_path / "run"),
        small(epochs="3", micro_batch="5"),
    )
    assert parts and max(parts) == 5


@pytest.mark.parametrize("lost", ["recipe.json", "records.csv"])
def test_results_of_an_unknown_run_do_not_pass_for_those_of_a_new_one(run, data, tmp_path, lost):
    folder = Path(shutil.copytree(run.folder, tmp_path / "run"))
    (folder / lost).unlink()
    (folder / "report.html").write_text("somebody's own")
    results = ("metrics.json", "predictions.csv", "history.csv")
    for name in (*results, "best.pt", "last.pt", "reference.pt", "report.html"):
        with pytest.raises(
            ValueError, match=f"has a {name} but not both recipe.json and records.csv"
        ):
            begin(data, folder)
        (folder / name).unlink()
    begin(data, folder)


def test_a_run_in_a_folder_of_other_images_does_not_pass_for_a_class(data, tiny_folder, tmp_path):
    others = Path(shutil.copytree(tiny_folder / "train", tmp_path / "others"))
    plain = records.scan(others)
    for out in ("CNV", "."):
        with pytest.raises(
            ValueError, match="which holds .* images already .*; choose a new folder"
        ):
            begin(data, others / out)
    for out in ("run", "runs/one", "CNV/run"):
        begin(data, others / out)
        shutil.copy(first(tiny_folder), others / out)  # a plot, say
    with pytest.warns(UserWarning, match=r"CNV/run \(a run's folder\), .*run"):
        assert records.scan(others).equals(plain)
    assert layouts.find_root(others) == others
    with pytest.warns(UserWarning, match="left out"):
        assert layouts.images_in(others) == plain["path"].tolist()


def test_what_a_run_computes_on_is_written_as_it_was_when_it_trained(run):
    about = json.loads((run.folder / "recipe.json").read_text())
    assert about["machine"] == json.loads(json.dumps(devices.choose("cpu", "fp32").describe()))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"freeze": "up to nowhere"}, "nowhere"),
        ({"outputs": 1}, "outputs is 1"),
        ({"outputs": 3}, "outputs is 3"),
    ],
)
def test_a_model_that_cannot_be_built_is_refused_before_a_run_begins(data, tmp_path, change, said):
    with pytest.raises(ValueError, match=said):
        begin(data, tmp_path / "run", small(head="linear", loss="cross_entropy").changed(change))
    assert not (tmp_path / "run" / "recipe.json").exists()


def test_numbers_out_of_range_are_refused(run, data, tmp_path):
    with pytest.raises(ValueError, match="limit is -1"):
        begin(data, tmp_path / "run", limit=-1)
    with pytest.raises(ValueError, match="seeds is 0"):
        train_seeds(run, 0)
    with pytest.raises(ValueError, match="views is -1"):
        evaluate(run.folder, views=-1)
    with pytest.raises(ValueError, match="views is -1"):
        predict(run.folder, [data], views=-1)


HEAD_FIRST = small("chest-resnet18-finetune", head_epochs="1", epochs="1")


@pytest.mark.parametrize("recipe", [small(epochs="1"), HEAD_FIRST], ids=["at once", "head first"])
def test_a_training_reaches_its_gradients_in_four_calls(recipe, tiny_folder, tmp_path, monkeypatch):
    package, backward, calls = str(Path(training.__file__).parents[1]), torch.Tensor.backward, set()

    def watched(self, *of, **more):
        frame, names = sys._getframe(), []
        while frame := frame.f_back:
            names += [frame.f_code.co_name] * frame.f_code.co_filename.startswith(package)
        calls.add(tuple(names[::-1]))
        return backward(self, *of, **more)

    monkeypatch.setattr(torch.Tensor, "backward", watched)
    train(tiny_folder, tmp_path / "run", recipe)
    assert calls == {("train", "fit", "fit", "step")}


def test_a_run_trains_in_the_fastest_way_and_stays_with_it(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TLUTILS_MEASURE")
    fast = {"fp32": 9.0, "bf16": 1.0}
    rate = lambda model, machine, *_: fast[machine.precision]  # noqa: E731
    monkeypatch.setattr(speed, "_images_per_second", rate)
    changes = {"freeze": "none", "head": "linear", "views": 0}
    how = {"device": "cpu", "precision": "auto", "limit": 24}
    done = train(tiny_folder, tmp_path / "run", small(**changes, epochs=1), **how)
    assert done.about["machine"]["precision"] == "fp32" and done.machine("cpu").precision == "fp32"
    assert "images/s measured" in done.about["machine"]["why"]
    fast |= {"fp32": 1.0, "bf16": 9.0}
    shutil.rmtree(tmp_path / "cache")
    longer = train(tiny_folder, tmp_path / "run", small(**changes, epochs=2), **how)
    assert len(longer.history) == 2 and longer.about["machine"]["precision"] == "fp32"
    further = train_seeds(longer, 2, device="cpu", show=False, log=None)[1]
    assert further.about["machine"]["precision"] == "fp32"
    other = train(tiny_folder, tmp_path / "other", small(**changes, epochs=1), **how)
    natural = devices.choose("cpu").precision
    assert other.about["machine"]["precision"] == natural
    asked = other.machine("cpu", "bf16")
    assert asked.precision == "bf16", "who asks for a precision gets it"


def test_the_steps_of_a_training_go_on_in_the_precision_that_it_began_in(tiny_folder, tmp_path):
    began = {"fp32": "bf16", "bf16": "fp32"}[devices.choose("cpu").precision]
    how = {"limit": 24, "weights": "random", "show": False, "log": None}
    train(tiny_folder, tmp_path / "run", small(epochs=1), precision=began, limit=24)
    run = training.prepare(small(epochs=2), tiny_folder, tmp_path / "run", **how)
    model, parts = make_model(run), make_loaders(run)
    fit(run, model, parts, show=False, log=None)
    assert Run.load(run.folder).about["machine"]["precision"] == began


def test_processes_on_several_gpus_go_on_in_the_one_precision_that_the_run_began_in(begun):
    begun.about["machine"] = {"device": "cuda:0", "precision": "fp32", "channels_last": True}
    (begun.folder / "last.pt").touch()
    for number in (0, 1):
        natural = devices.Machine(torch.device("cuda", number), "bf16", channels_last=True)
        found = training._way_to_train(begun, None, natural, None)
        assert (found.precision, found.device) == ("fp32", natural.device)


def test_a_run_of_another_kind_of_device_stays_in_fp32_and_where_one_process_has_no_bf16_all_do(
    begun, monkeypatch
):
    bf16, fp32 = (devices.Machine(torch.device("cpu"), one, True) for one in ("bf16", "fp32"))
    begun.about["machine"] = {"device": "cuda:0", "precision": "fp32", "channels_last": True}
    assert begun.machine("cpu").precision == "fp32"
    (begun.folder / "last.pt").touch()
    found = training._way_to_train(begun, None, bf16, None)
    assert (found.precision, found.why) == ("fp32", "as it began")
    (begun.folder / "last.pt").unlink()
    monkeypatch.setattr(devices, "gather", lambda value: [value, "fp32"])
    monkeypatch.setattr(speed, "fastest", lambda model, machine, *_: machine)
    assert training._way_to_train(begun, None, bf16, None).precision == "fp32"
    assert training._way_to_train(begun, None, fp32, None) == fp32
    assert training._way_to_train(begun, None, bf16, None, precision="bf16") == bf16


def test_answers_are_in_fp32_where_one_of_several_processes_has_no_bf16(begun, monkeypatch):
    begun.about["machine"] |= {"device": "cpu", "precision": "bf16"}
    monkeypatch.setattr(devices, "_natural_precision", lambda _: ("bf16", "has it"))
    assert begun.machine("cpu").precision == "bf16"
    monkeypatch.setattr(devices, "gather", lambda value: [value, "fp32"])
    assert begun.machine("cpu").precision == "fp32"
    assert begun.machine("cpu", "bf16").precision == "bf16"


def test_stores_are_opened_in_the_precision_that_the_run_began_in(begun):
    other = {"fp32": "bf16", "bf16": "fp32"}[devices.choose("cpu").precision]
    begun.about["machine"] |= {"device": "cpu", "precision": other}
    (begun.folder / "last.pt").touch()
    assert {store.machine.precision for store in open_stores(begun).values()} == {other}


def test_images_all_alike_have_nothing_that_bf16_could_blur(begun):
    bf16, model = devices.Machine(torch.device("cpu"), "bf16", True), make_model(begun)
    train = begun.records["split"] == "train"
    begun.records.loc[train, "path"] = begun.records.loc[train, "path"].iloc[0]
    assert training._way_to_train(begun, model, bf16, "auto") == bf16


def test_a_whole_model_goes_on_compiled_where_there_is_what_to_compile_with(begun, monkeypatch):
    begun.recipe = begun.recipe.changed({"freeze": "none", "views": 0})
    (begun.folder / "last.pt").touch()
    begun.about["machine"] |= {"device": "cpu", "compiled": True}
    cpu = devices.choose("cpu")
    assert training._way_to_train(begun, make_model(begun), cpu, None).compiled
    torch.compiler.reset()  # forgets what is compiled already
    monkeypatch.setattr("torch._inductor.config.force_disable_caches", True)
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("false",))  # there, and fails
    with pytest.warns(UserWarning, match="as it is, not compiled"):
        assert not training._way_to_train(begun, make_model(begun), cpu, None).compiled


def test_what_is_neither_yes_nor_no_nor_auto_does_not_compile(tiny_folder, tmp_path):
    with pytest.raises(ValueError, match="compiled is 'no'"):
        train(tiny_folder, tmp_path / "run", small(epochs=1), compiled="no")


def test_no_more_images_are_measured_at_once_than_go_through_the_network_in_training(
    begun, monkeypatch
):
    monkeypatch.setattr(
        speed, "fastest", lambda _, machine, *of: dataclasses.replace(machine, why=of[-1])
    )
    for micro, wanted in ((2, 2), (0, 16), ("auto", 16), (64, 16)):
        begun.recipe = dataclasses.replace(begun.recipe, micro_batch=micro)
        assert training._way_to_train(begun, None, devices.choose("cpu"), None).why == wanted


def test_a_frozen_network_is_not_measured_for_training(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.delenv("TLUTILS_MEASURE")
    monkeypatch.setattr(speed, "fastest", None)
    done = train(tiny_folder, tmp_path / "run", small(epochs=1), device="cpu", precision="auto")
    assert done.finished


@pytest.fixture
def interpreted():
    """Nothing is really compiled, by torch's own switch."""
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.fixture
def computed(monkeypatch):
    """What stores compute from now on: whether compiled, which view, by which network, of which image."""
    rows, compute = [], Store._compute

    def counting(store, parts, number):
        of = store.machine.compiled, None if store.augmentation.identity else store.seed, number
        of = *of, store.description["prefix"]
        rows.extend((*of, store.images[row]) for part in parts for row in part)
        return compute(store, parts, number)

    monkeypatch.setattr(Store, "_compute", counting)
    return rows


def in_stores(folder):
    """Whether compiled, of each store in a folder."""
    found = (folder / "features").glob("*/store.json")
    return {json.loads(file.read_text())["compiled"] for file in found}


@pytest.mark.parametrize("compiled", [True, False])
def test_a_run_goes_on_compiled_or_not_as_it_began_and_computes_nothing_twice(
    compiled, tiny_folder, tmp_path, interpreted, computed
):
    run, shared = tmp_path / "run", {"store": tmp_path / "features"}
    how = {**shared, "limit": 24}
    began = train(tiny_folder, run, small(epochs=1), compiled=compiled, **how)
    assert began.about["machine"]["compiled"] == compiled == began.machine("cpu").compiled
    if not compiled:  # as runs of before
        with edited(run / "recipe.json") as about:
            del about["machine"]["compiled"]
    longer = train(tiny_folder, run, small(epochs=2), **how)
    assert longer.about["machine"]["compiled"] == compiled and len(longer.history) == 2
    further = train_seeds(longer, 2, log=None, **CPU, **shared)[1]
    assert further.about["machine"]["compiled"] == compiled
    answers = predict_records(longer, longer.model(), longer.part("val"), "val", **shared)
    assert len(answers) == len(longer.part("val"))
    assert in_stores(tmp_path) == {compiled} == {row[0] for row in computed}
    assert len(computed) == len(set(computed)) > 0
    other = train(tiny_folder, run, small(epochs=3), compiled=not compiled, **how)
    assert other.about["machine"]["compiled"] != compiled and in_stores(tmp_path) == {True, False}


def test_a_large_run_compiles_where_that_is_faster_and_stays_with_it(
    tiny_folder, tmp_path, monkeypatch, interpreted, computed
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TLUTILS_MEASURE")
    monkeypatch.setattr(
        speed, "_prefix_rate", lambda store: 0.04 if store.machine.compiled else 0.02
    )
    told = []
    how = {"log": told.append, "limit": 24}
    small_one = train(tiny_folder, tmp_path / "small", small(epochs=1), **how)
    assert not small_one.about["machine"]["compiled"]
    assert not any(what.startswith(speed.FROZEN) for what in speed.measured())
    monkeypatch.setattr(training, "_FEW", 24)
    large = train(tiny_folder, tmp_path / "large", small(epochs=1), **how)
    assert large.about["machine"]["compiled"] and in_stores(large.folder) == {True}
    assert any(re.search(r"frozen part \(up to .*, compiled\) runs once", line) for line in told)
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setattr(speed, "_prefix_rate", None)
    assert train(tiny_folder, large.folder, small(epochs=2), **how).about["machine"]["compiled"]
    assert evaluate(large.folder, split="val")["n"] and in_stores(large.folder) == {True}
    filled = begin(tiny_folder, tmp_path / "filled", small(epochs=1), limit=24)
    for store in open_stores(filled).values():
        store.fill(0)
    computed.clear()
    filled = train(tiny_folder, filled.folder, small(epochs=1), **how, precision="auto")
    assert not filled.about["machine"]["compiled"] and in_stores(filled.folder) == {False}
    assert {row[1] for row in computed} <= {None}, "no view of a training image"


def test_where_bf16_blurs_what_the_frozen_part_sees_a_run_takes_fp32(begun):
    bf16, model = devices.Machine(torch.device("cpu"), "bf16", True), make_model(begun)
    assert training._way_to_train(begun, model, bf16, "auto").precision == "bf16"
    convolution = next(part for part in model.modules() if isinstance(part, torch.nn.Conv2d))
    convolution.bias.data += 1000  # of which bf16 tells no thousandth
    found = training._way_to_train(begun, model, bf16, "auto")
    assert found.precision == "fp32" and "of what tells images apart" in found.why
    assert training._way_to_train(begun, model, bf16, "auto", precision="bf16") == bf16
