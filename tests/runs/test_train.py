"""The whole street for one recipe, and the folder that comes out."""

import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tlutils.core import devices, files
from tlutils.data import cleaning, phantoms, records, splits
from tlutils.evaluation import thresholds
from tlutils.evaluation.metrics import compute_metrics
from tlutils.models import checkpoints
from tlutils.runs import recipes
from tlutils.runs import train as train_module
from tlutils.runs.folder import NotARun, Run, read_predictions
from tlutils.runs.train import (
    finish,
    fit,
    make_loaders,
    make_model,
    prepare,
    train_seeds,
)
from tlutils.runs.use import (
    _for_spreadsheets,
    evaluate,
    frozen_features,
    predict,
    predict_records,
)
from tlutils.training import loop

SMALL = {"size": "32", "epochs": "2", "batch_size": "16", "backbone": "resnet18", "views": "2"}
FILES = {
    "recipe.json",
    "records.csv",
    "history.csv",
    "best.pt",
    "last.pt",
    "predictions.csv",
    "metrics.json",
}


def small(name="oct-vgg16", **changes):
    return recipes.get(name).changed({**SMALL, **changes})


def train(data, out, recipe=None, **more):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the validation set has")
        return train_module.train(
            recipe or small(),
            data,
            out,
            **{
                "weights": "random",
                "log": None,
                "show": False,
                "device": "cpu",
                "precision": "fp32",
            }
            | more,
        )


@pytest.fixture(scope="module")
def run(tiny_folder, tmp_path_factory):
    return train(tiny_folder, tmp_path_factory.mktemp("runs") / "oct")


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
        made = prepare(
            small(), data, tmp_path / f"run{i}", weights="random", show=False, log=lambda line: None
        )
        assert ("phantom" in made.caption) == (data != tiny_folder)


def test_no_patient_is_on_two_sides_and_the_verdict_is_in_the_metrics(run):
    sides = run.records[run.records["split"] != ""].groupby("patient")["split"].nunique()
    assert (sides == 1).all() and run.metrics["audit"]["leak"] is False
    assert not splits.leaks(splits.audit(run.records))


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


def test_the_saved_model_gives_the_saved_predictions(run):
    metrics = evaluate(run.folder, device="cpu", precision="fp32", show=False)
    assert metrics["confusion"] == run.metrics["test"]["confusion"]


def test_a_finished_run_is_taken_up_as_it_is(run, tiny_folder):
    before = (run.folder / "best.pt").stat().st_mtime_ns
    again = train(tiny_folder, run.folder)
    assert (run.folder / "best.pt").stat().st_mtime_ns == before and again.metrics == run.metrics


def test_another_recipe_does_not_overwrite_a_run(run, tiny_folder):
    with pytest.raises(ValueError, match="holds another run.*learning_rate"):
        train(tiny_folder, run.folder, small(learning_rate="0.1"))


def test_the_same_recipe_gives_the_same_numbers(run, tiny_folder, tmp_path):
    again = train(tiny_folder, tmp_path / "again")
    assert again.metrics["test"] == run.metrics["test"]


def test_new_images_are_predicted_as_the_run_saw_them(run, tmp_path):
    some = run.part("test")["path"].iloc[:3].tolist()
    new = predict(
        run.folder,
        [run.root / path for path in some],
        tmp_path / "p.csv",
        device="cpu",
        precision="fp32",
        show=False,
    )
    known = run.predictions.set_index("path").loc[some]
    assert new["predicted"].tolist() == known["predicted"].tolist()
    assert np.allclose(
        new[[f"p_{c}" for c in run.classes]], known[[f"p_{c}" for c in run.classes]], atol=1e-4
    )
    assert len(pd.read_csv(tmp_path / "p.csv")) == 3


def test_a_folder_of_new_images_with_a_broken_one_is_predicted_without_it(run, tmp_path):
    shutil.copy(run.root / run.part("test")["path"].iloc[0], tmp_path / "good.jpeg")
    (tmp_path / "bad.jpeg").write_bytes(b"no image")
    with pytest.warns(UserWarning, match="bad.jpeg"):
        new = predict(run.folder, [tmp_path], device="cpu", show=False)
    assert len(new) == 1


def test_other_labelled_images_are_measured_beside_the_run(run, tiny_folder, tmp_path):
    other = tmp_path / "elsewhere"
    shutil.copytree(tiny_folder / "test", other)
    before = (run.folder / "metrics.json").read_text()
    metrics = evaluate(run.folder, other, device="cpu", show=False)
    assert metrics["n"] == sum(1 for _ in other.rglob("*.jpeg"))
    assert len(list((run.folder / "evaluations").glob("*-elsewhere-test-*.json"))) == 1
    assert (run.folder / "metrics.json").read_text() == before


def test_a_class_the_model_does_not_know_is_refused(run, tiny_folder, tmp_path):
    shutil.copytree(tiny_folder / "test", tmp_path / "d")
    (tmp_path / "d" / "CNV").rename(tmp_path / "d" / "GLAUCOMA")
    with pytest.raises(ValueError, match="GLAUCOMA"):
        evaluate(run.folder, tmp_path / "d", device="cpu", show=False)


def test_a_folder_without_a_run_says_how_to_make_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="python -m tlutils train"):
        Run.load(tmp_path)


@pytest.fixture(scope="module")
def two_classes(tiny_folder, tmp_path_factory):
    data = tmp_path_factory.mktemp("two") / "two"
    for split in ("train", "test"):
        for label in ("CNV", "NORMAL"):
            shutil.copytree(tiny_folder / split / label, data / split / label)
    return data


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
    )
    said, where = run.predictions, {"device": "cpu", "precision": "fp32", "show": False}
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


def test_a_run_that_was_stopped_before_it_chose_its_threshold_answers_nothing(
    two_classes, tmp_path, monkeypatch
):
    recipe = small("chest-vgg16-gap", threshold="specificity>=0.9", val="0.3", epochs="1")
    monkeypatch.setattr(train_module, "finish", lambda *a, **more: None)
    run = train(two_classes, tmp_path / "run", recipe)
    with pytest.raises(NotARun, match="stopped before its threshold was chosen"):
        predict(run.folder, [two_classes / "test"], device="cpu", precision="fp32", show=False)
    monkeypatch.undo()
    assert train(two_classes, run.folder, recipe).threshold is not None


def test_a_threshold_for_more_than_two_classes_is_refused_before_any_work(tiny_folder, tmp_path):
    with pytest.raises(ValueError, match="threshold is 'youden'.*4 classes"):
        train(tiny_folder, tmp_path / "run", small(threshold="youden"))
    with pytest.raises(ValueError, match="by 'magic'"):
        small(threshold="magic")


def test_a_recipe_can_ask_for_test_time_augmentation(two_classes, tmp_path):
    run = train(two_classes, tmp_path / "run", small("chest-vgg16-gap", test_views="2"))
    where = {"device": "cpu", "precision": "fp32", "show": False}
    assert evaluate(run.folder, **where)["auc"] == run.metrics["test"]["auc"]
    several, alone = (evaluate(run.folder, views=views, **where)["loss"] for views in (2, 0))
    assert several == pytest.approx(run.metrics["test"]["loss"]) != alone


def test_an_image_is_seen_in_the_same_views_wherever_it_lies(run, tmp_path):
    tested = run.part("test")
    for i, path in enumerate(tested["path"]):
        shutil.copy(run.root / path, tmp_path / f"{i:02d}.jpeg")
    columns, where = (
        [f"p_{name}" for name in run.classes],
        {"device": "cpu", "precision": "fp32", "show": False},
    )
    machine = devices.choose("cpu", "fp32")
    known = predict_records(run, run.model(), tested, "test", machine, False, views=2).set_index(
        "path"
    )
    there = predict(run.folder, [tmp_path], views=2, **where)
    assert np.allclose(
        known.loc[tested["path"], columns], there.sort_values("path")[columns], atol=1e-6
    )
    assert not np.allclose(
        there[columns], predict(run.folder, [tmp_path], views=0, **where)[columns], atol=1e-3
    )


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
    run = prepare(
        small(),
        tiny_folder,
        tmp_path / "run",
        weights="random",
        limit=40,
        log=lambda _: None,
        show=False,
    )
    assert 35 <= len(run.records) <= 48 and set(run.part("train")["label"]) == set(run.classes)


def test_evaluating_again_reads_the_store_and_not_the_images(tiny_folder, tmp_path):
    data = shutil.copytree(tiny_folder, tmp_path / "data")
    done = train(data, tmp_path / "run")
    shutil.rmtree(data)
    said = evaluate(done.folder, device="cpu", precision="fp32", show=False)
    assert said == done.metrics["test"]


def test_what_the_store_gives_is_what_the_whole_model_gives(run, tmp_path):
    table, model = run.part("test"), run.model()
    with_store, without = (
        predict_records(
            run, model, table, "test", devices.choose("cpu", "fp32"), False, store=store
        )
        for store in (tmp_path, None)
    )
    columns = [name for name in with_store if name.startswith("p_")] + ["loss"]
    assert with_store.drop(columns=columns).equals(without.drop(columns=columns))
    assert np.allclose(with_store[columns], without[columns], atol=1e-5)


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


def test_a_recipe_can_train_its_head_first(tiny_folder, tmp_path):
    two_parts = small(
        "chest-resnet18-finetune", head_epochs="2", layer_decay="0.5", monitor="val_auc"
    )
    done = train(tiny_folder, tmp_path / "run", two_parts)
    assert done.history["part"].tolist() == ["head", "head", "all", "all"]
    assert done.history["val_auc"].between(0, 1).all()
    assert train(tiny_folder, tmp_path / "run", two_parts).metrics == done.metrics


def test_an_image_size_that_the_network_cannot_take_is_refused_before_any_work(
    tiny_folder, tmp_path
):
    with pytest.raises(ValueError, match="vgg16 cannot take 8 x 8 images"):
        train(tiny_folder, tmp_path / "run", small(backbone="vgg16", size="8"))
    assert not (tmp_path / "run" / "recipe.json").exists()


def test_further_seeds_share_the_division_and_differ_in_the_rest(tiny_folder, tmp_path):
    first = train(tiny_folder, tmp_path / "run", small(epochs="1"))
    several = train_seeds(first, 2, device="cpu", precision="fp32", show=False, log=None)
    assert several[0] is first and several[1].folder == first.folder / "seed-1"
    assert several[1].records.equals(first.records) and several[1].recipe.seed == 1
    assert not np.allclose(several[1].history["train_loss"], first.history["train_loss"], atol=1e-6)
    again = train_seeds(first, 2, device="cpu", precision="fp32", show=False, log=None)
    assert again[1].metrics == several[1].metrics


def test_frozen_features_are_in_the_tables_order_and_refused_where_nothing_is_frozen(
    run, tiny_folder, tmp_path
):
    table, machine = run.part("test"), devices.choose("cpu", "fp32")
    found = frozen_features(run, table, machine)
    turned = frozen_features(
        run, table.iloc[::-1].reset_index(drop=True), machine, tmp_path / "store"
    )
    assert found.shape == (len(table), 512) and np.allclose(found[::-1], turned, atol=1e-5)
    whole = train(tiny_folder, tmp_path / "whole", small("chest-resnet18-finetune", epochs="1"))
    with pytest.raises(ValueError, match="nothing .* is frozen"):
        frozen_features(whole, table, machine)


def test_the_temperature_is_kept_in_the_checkpoint_and_predictions_say_whether_it_was_used(
    run, tiny_folder
):
    temperature = checkpoints.load(run.folder / "best.pt")["temperature"]
    assert temperature == run.metrics["temperature"] > 0
    image = next((tiny_folder / "test" / "CNV").iterdir())
    raw, cooled = (
        predict(run.folder, [image], device="cpu", precision="fp32", calibrated=on, show=False)
        for on in (False, True)
    )
    assert not raw["calibrated"].any() and cooled["calibrated"].all()
    columns = [f"p_{name}" for name in run.classes]
    wanted = np.log(raw[columns]) / temperature
    wanted = np.exp(wanted).div(np.exp(wanted).sum(axis=1), axis=0)
    assert np.allclose(cooled[columns], wanted, atol=1e-6)


def begin(data, out, recipe=None, log=lambda line: None, **more):
    return prepare(
        recipe or small(), data, out, **{"weights": "random", "show": False, "log": log} | more
    )


@pytest.fixture
def data(tiny_folder, tmp_path):
    """A copy of the images that a test may change."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "data"))


@pytest.fixture
def begun(data, tmp_path):
    return begin(data, tmp_path / "run")


def first(data, part="train/CNV"):
    return sorted((data / part).iterdir())[0]


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


def test_a_run_does_not_go_on_with_a_folder_that_is_missing_or_another_one(begun, data, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        begin(tmp_path / "nowhere", begun.folder)
    with pytest.raises(ValueError, match="holds another run: data was .*data.* and is .*twin"):
        begin(shutil.copytree(data, tmp_path / "twin"), begun.folder)


def test_a_finished_run_does_not_go_on_with_other_images_either(run, tiny_folder, tmp_path):
    out = shutil.copytree(run.folder, tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        train(tmp_path / "nowhere", out)
    with pytest.raises(ValueError, match="holds another run: data was"):
        train(shutil.copytree(tiny_folder, tmp_path / "twin"), out)


@pytest.mark.parametrize("patient", [None, r"-(?P<patient>\d+)-", r"(?P<patient>\w+)/"])
def test_a_run_does_not_go_on_with_another_patient_rule(begun, data, patient):
    with pytest.raises(ValueError, match="holds another run: patient was 'auto'"):
        begin(data, begun.folder, patient=patient)


def test_a_run_takes_no_rule_that_it_cannot_write_down(data, tmp_path):
    with pytest.raises(ValueError, match="recipe.json cannot keep"):
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
    with pytest.raises(ValueError, match="limit was 40 and is 41"):
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
    where = {"device": "cpu", "precision": "fp32", "show": False, "log": None}
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
    where = {"device": "cpu", "precision": "fp32", "show": False, "log": None}
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
    assert whole.metrics == four.metrics and same_weights(whole, four)
    for epochs in ("2", "4"):
        again = train(tiny_folder, two.folder, small(patience="0", epochs=epochs), log=said.append)
        assert again.recipe.epochs == 4 and "is finished already" in said[-1]
        assert json.loads((two.folder / "recipe.json").read_text()) == about


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
    with pytest.raises(ValueError, match="epochs was 1 and is 2.*cosine"):
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
    assert again.metrics == run.metrics


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
    for name in ("metrics.json", "best.pt", "last.pt"):
        with pytest.raises(
            ValueError, match=f"has a {name} but not both recipe.json and records.csv"
        ):
            begin(data, folder)
        (folder / name).unlink()
    begin(data, folder)


def test_what_a_run_computes_on_is_written_as_it_was_when_it_trained(run):
    about = json.loads((run.folder / "recipe.json").read_text())
    assert about["machine"] == json.loads(json.dumps(devices.choose("cpu", "fp32").describe()))


HOLD = (
    "import sys, time; from tlutils.runs.folder import reserved\n"
    "with reserved(sys.argv[1]): print('held', flush=True); time.sleep(60)"
)


def test_two_processes_do_not_train_into_one_folder_but_may_read_it(run, tiny_folder, tmp_path):
    out = Path(shutil.copytree(run.folder, tmp_path / "run"))
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(files.Busy, match="at work on the run"):
            train(tiny_folder, out, small(epochs="3"))
        with pytest.raises(files.Busy):
            fit(Run.load(out), run.model(), make_loaders(run), show=False, log=None)
        assert evaluate(out, device="cpu", precision="fp32", show=False) == run.metrics["test"]
        other.kill()
    assert len(train(tiny_folder, out, small(epochs="3")).history) == 3


def test_evaluations_of_two_folders_of_one_name_stand_side_by_side(run, tiny_folder, tmp_path):
    copy = Run.load(
        shutil.copytree(run.folder, tmp_path / "run", ignore=shutil.ignore_patterns("evaluations"))
    )
    for site in ("siteA", "siteB"):
        shutil.copytree(tiny_folder / "test", tmp_path / site / "images")
    where = {"device": "cpu", "precision": "fp32", "show": False}
    for site, more in (
        ("siteA", {}),
        ("siteB", {}),
        ("siteA", {"views": 1}),
        ("siteA", {"split": "val"}),
        ("siteA", {"calibrated": True}),
        ("siteA", {}),
    ):
        evaluate(copy.folder, tmp_path / site / "images", **more, **where)
    found = sorted((copy.folder / "evaluations").glob("*.json"))
    assert len(found) == 5 and [path.name.split("-")[0] for path in found] == 4 * ["siteA"] + [
        "siteB"
    ]
    used = [json.loads(path.read_text())["used"] for path in found]
    assert {(tmp_path / site / "images").as_posix() for site in ("siteA", "siteB")} == {
        one["data"] for one in used
    }
    assert sorted((one["split"], one["views"], one["calibrated"]) for one in used) == [
        ("test", 0, False),
        ("test", 0, False),
        ("test", 0, True),
        ("test", 1, False),
        ("val", 0, False),
    ]
    assert all(len(pd.read_csv(path.with_suffix(".csv"))) == 16 for path in found)


def test_predictions_for_people_hold_no_formula_and_paths_that_open(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["=1+1.png", "+a.png", "-b.png", "@c.png", "\td.png", "plain.png"]
    for name in names:
        shutil.copy(run.root / run.part("test")["path"].iloc[0], name)
    said = predict(run.folder, names, "out.csv", device="cpu", precision="fp32", show=False)
    assert set(said["path"]) == set(names)
    written = read_predictions("out.csv")
    assert set(written["path"]) == {f"./{name}" for name in names[:-1]} | {"plain.png"}
    assert all(Path(path).is_file() for path in written["path"])
    guarded = _for_spreadsheets(said.assign(predicted="=CNV", patient="@x"))
    assert set(guarded["predicted"]) == {"'=CNV"} and set(guarded["patient"]) == {"'@x"}


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


def edited(name, change):
    def edit(folder):
        about = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(change(about) or about))

    return edit


def replaced(name, old, new):
    return lambda folder: (folder / name).write_text((folder / name).read_text().replace(old, new))


STRANGE = {
    "not JSON": lambda folder: (folder / "recipe.json").write_text("{"),
    "not UTF-8": lambda folder: (folder / "recipe.json").write_bytes(b"\xff\xfe{}"),
    "a list": lambda folder: (folder / "recipe.json").write_text("[1]"),
    "nested without end": lambda folder: (folder / "recipe.json").write_text("[" * 100_000),
    "no recipe": edited("recipe.json", lambda about: about.pop("recipe") and None),
    "no data": edited("recipe.json", lambda about: about.update(data=3)),
    "classes no texts": edited("recipe.json", lambda about: about["data"].update(classes=[1, 2])),
    "root a number": edited("recipe.json", lambda about: about["data"].update(root=5)),
    "limit a text": edited("recipe.json", lambda about: about.update(limit="9")),
    "unknown field": edited(
        "recipe.json", lambda about: about["recipe"].update(evil="__import__('os')")
    ),
    "field of another kind": edited(
        "recipe.json", lambda about: about["recipe"].update(size="224")
    ),
    "augmentation a list": edited(
        "recipe.json", lambda about: about["recipe"].update(augmentation=[])
    ),
    "path above": replaced("records.csv", "train/CNV/CNV-1001-1.jpeg", "../../secret.jpeg"),
    "whole path": replaced("records.csv", "train/CNV/CNV-1001-1.jpeg", "/etc/secret.jpeg"),
    "a column less": replaced("records.csv", "problem", "trouble"),
    "no number": replaced("records.csv", ",64,48,L,", ",many,48,L,"),
    "another class": replaced("records.csv", ",CNV,", ",EVIL,"),
    "empty": lambda folder: (folder / "records.csv").write_text(""),
}


@pytest.mark.parametrize("harm", STRANGE.values(), ids=STRANGE)
def test_a_run_that_somebody_has_edited_is_refused_in_one_sentence(run, tmp_path, harm):
    folder = Path(
        shutil.copytree(
            run.folder, tmp_path / "run", ignore=shutil.ignore_patterns("features", "*.pt")
        )
    )
    harm(folder)
    with pytest.raises(ValueError, match="is not what a run writes"):
        Run.load(folder)


def test_predictions_of_images_that_the_run_does_not_know_are_refused(run, tmp_path):
    folder = Path(
        shutil.copytree(
            run.folder, tmp_path / "run", ignore=shutil.ignore_patterns("features", "*.pt")
        )
    )
    path = run.predictions["path"].iloc[0]
    replaced("predictions.csv", path, "../../secret.jpeg")(folder)
    with pytest.raises(ValueError, match="secret.jpeg is not in records.csv"):
        Run.load(folder).predictions


def test_a_manifest_above_its_images_makes_a_run_that_can_be_opened(data, tmp_path):
    cleaning.write(records.scan(data), data, tmp_path / "tables" / "some.csv")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run = begin(tmp_path / "tables" / "some.csv", tmp_path / "run")
        assert Run.load(run.folder).records["path"].str.startswith("../").all()
        assert run.about["data"]["top"] == str(tmp_path)


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
