"""The whole street for one recipe, and the folder that comes out."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tlutils import cleaning, evaluation, phantoms, recipes, records, runs, splits

SMALL = {"size": "32", "epochs": "2", "batch_size": "16", "backbone": "resnet18", "views": "2"}
FILES = {"recipe.json", "records.csv", "history.csv", "best.pt", "last.pt", "predictions.csv", "metrics.json"}


def small(name="oct-vgg16", **changes):
    return recipes.get(name).changed({**SMALL, **changes})


def train(data, out, recipe=None, **more):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the validation set has")
        return runs.train(recipe or small(), data, out, **{"weights": "random", "log": None, "show": False,
                                                           "device": "cpu", "precision": "fp32"} | more)


@pytest.fixture(scope="module")
def run(tiny_folder, tmp_path_factory):
    return train(tiny_folder, tmp_path_factory.mktemp("runs") / "oct")


def test_a_run_is_a_folder_of_the_promised_files(run):
    assert FILES <= {path.name for path in run.folder.iterdir()}


def test_what_the_run_is_made_of_is_recorded(run):
    about = json.loads((run.folder / "recipe.json").read_text())
    assert about["weights"]["source"] == "random" and about["versions"]["torch"] and about["machine"]["precision"]
    assert about["data"]["fingerprint"] and about["data"]["classes"] == sorted(about["data"]["classes"])
    assert runs.Recipe.from_dict(about["recipe"]) == run.recipe


def test_random_weights_are_named_in_every_result(run):
    assert any("random weights" in note for note in run.metrics["notes"]) and "random weights" in run.caption


def test_phantoms_are_called_phantoms_also_where_a_manifest_names_them(tiny_folder, tmp_path):
    drawn = Path(shutil.copytree(tiny_folder, tmp_path / "drawn"))
    (drawn / phantoms.MARKER).write_text("{}")
    cleaning.write(records.scan(drawn), drawn, tmp_path / "tables" / "some.csv")
    for i, data in enumerate((drawn, tmp_path / "tables" / "some.csv", tiny_folder)):
        made = runs.prepare(small(), data, tmp_path / f"run{i}", weights="random", show=False, log=lambda line: None)
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
    assert run.metrics["test"]["accuracy"]["value"] == pytest.approx((part["label"] == part["predicted"]).mean())
    assert run.metrics["test"] == json.loads(json.dumps(
        evaluation.metrics(part.reset_index(drop=True), seed=run.recipe.seed)))


def test_the_saved_model_gives_the_saved_predictions(run):
    metrics = runs.evaluate(run.folder, device="cpu", precision="fp32", show=False)
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
    new = runs.predict(run.folder, [run.root / path for path in some], tmp_path / "p.csv", device="cpu",
                       precision="fp32", show=False)
    known = run.predictions.set_index("path").loc[some]
    assert new["predicted"].tolist() == known["predicted"].tolist()
    assert np.allclose(new[[f"p_{c}" for c in run.classes]], known[[f"p_{c}" for c in run.classes]], atol=1e-4)
    assert len(pd.read_csv(tmp_path / "p.csv")) == 3


def test_a_folder_of_new_images_with_a_broken_one_is_predicted_without_it(run, tmp_path):
    shutil.copy(run.root / run.part("test")["path"].iloc[0], tmp_path / "good.jpeg")
    (tmp_path / "bad.jpeg").write_bytes(b"no image")
    with pytest.warns(UserWarning, match="bad.jpeg"):
        new = runs.predict(run.folder, [tmp_path], device="cpu", show=False)
    assert len(new) == 1


def test_other_labelled_images_are_measured_beside_the_run(run, tiny_folder, tmp_path):
    other = tmp_path / "elsewhere"
    shutil.copytree(tiny_folder / "test", other)
    before = (run.folder / "metrics.json").read_text()
    metrics = runs.evaluate(run.folder, other, device="cpu", show=False)
    assert metrics["n"] == sum(1 for _ in other.rglob("*.jpeg"))
    assert (run.folder / "evaluations" / "elsewhere.json").is_file()
    assert (run.folder / "metrics.json").read_text() == before


def test_a_class_the_model_does_not_know_is_refused(run, tiny_folder, tmp_path):
    shutil.copytree(tiny_folder / "test", tmp_path / "d")
    (tmp_path / "d" / "CNV").rename(tmp_path / "d" / "GLAUCOMA")
    with pytest.raises(ValueError, match="GLAUCOMA"):
        runs.evaluate(run.folder, tmp_path / "d", device="cpu", show=False)


def test_a_folder_without_a_run_says_how_to_make_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="python -m tlutils train"):
        runs.load(tmp_path)


@pytest.fixture(scope="module")
def two_classes(tiny_folder, tmp_path_factory):
    data = tmp_path_factory.mktemp("two") / "two"
    for split in ("train", "test"):
        for label in ("CNV", "NORMAL"):
            shutil.copytree(tiny_folder / split / label, data / split / label)
    return data


def test_a_binary_recipe_with_one_logit_runs(two_classes, tmp_path):
    run = train(two_classes, tmp_path / "run", small("chest-vgg16-gap"))
    assert {"sensitivity", "specificity", "threshold"} <= run.metrics["test"].keys() and run.threshold is None


def test_a_run_chooses_its_threshold_on_validation_and_answers_by_it_everywhere(two_classes, tmp_path):
    run = train(two_classes, tmp_path / "run", small("chest-vgg16-gap", threshold="specificity>=0.9", val="0.3"))
    said, where = run.predictions, {"device": "cpu", "precision": "fp32", "show": False}
    val = said[said["split"] == "val"].reset_index(drop=True)
    assert run.threshold == evaluation.choose_threshold(val, "specificity>=0.9") != 0.5
    assert run.metrics["test"]["threshold"] == run.threshold
    assert ((said["p_NORMAL"] >= run.threshold) == (said["predicted"] == "NORMAL")).all()
    again = runs.evaluate(run.folder, **where)
    assert (again["confusion"], again["threshold"]) == (run.metrics["test"]["confusion"], run.threshold)
    new = runs.predict(run.folder, [two_classes / "test"], **where)
    assert ((new["p_NORMAL"] >= run.threshold) == (new["predicted"] == "NORMAL")).all()
    assert runs.evaluate(run.folder, calibrated=True, **where)["confusion"] == again["confusion"]


def test_a_threshold_for_more_than_two_classes_is_refused_before_any_work(tiny_folder, tmp_path):
    with pytest.raises(ValueError, match="threshold is 'youden'.*4 classes"):
        train(tiny_folder, tmp_path / "run", small(threshold="youden"))
    with pytest.raises(ValueError, match="by 'magic'"):
        small(threshold="magic")


def test_a_recipe_can_ask_for_test_time_augmentation(two_classes, tmp_path):
    run = train(two_classes, tmp_path / "run", small("chest-vgg16-gap", test_views="2"))
    where = {"device": "cpu", "precision": "fp32", "show": False}
    assert runs.evaluate(run.folder, **where)["auc"] == run.metrics["test"]["auc"]
    several, alone = (runs.evaluate(run.folder, views=views, **where)["loss"] for views in (2, 0))
    assert several == pytest.approx(run.metrics["test"]["loss"]) != alone


def test_the_official_split_is_kept_when_asked_for_and_its_leak_is_said(tiny_folder, tmp_path):
    data = tmp_path / "leaky"
    shutil.copytree(tiny_folder, data)
    for path in sorted((data / "train" / "CNV").iterdir())[:2]:
        shutil.copy(path, data / "test" / "CNV" / path.name)
    run = train(data, tmp_path / "official", small(split="official", epochs="1"))
    assert run.metrics["audit"]["leak"] is True and "LEAK" in run.caption
    clean = train(data, tmp_path / "clean", small(epochs="1"))
    assert clean.metrics["audit"]["leak"] is False and "divided anew" in clean.about["data"]["split"]


def test_broken_files_of_many_kinds_are_left_out_and_listed(tiny_folder, tmp_path):
    data = tmp_path / "broken"
    shutil.copytree(tiny_folder, data)
    whole = next((data / "train" / "CNV").iterdir()).read_bytes()
    kinds = [b"", b"<html>", whole[:200], whole[: len(whole) // 2], b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", bytes(500)]
    for i in range(40):
        (data / "train" / "CNV" / f"CNV-9{i:02d}-1.jpeg").write_bytes(kinds[i % len(kinds)])
    run = train(data, tmp_path / "run", small(epochs="1"))
    problems = run.records[run.records["problem"].fillna("") != ""]
    assert len(problems) == 40 and len(run.predictions) + len(run.part("train")) == len(run.records) - 40


def test_a_limit_keeps_every_class_and_about_so_many_images(tiny_folder, tmp_path):
    run = runs.prepare(small(), tiny_folder, tmp_path / "run", weights="random", limit=40, log=lambda _: None,
                       show=False)
    assert 35 <= len(run.records) <= 48 and set(run.part("train")["label"]) == set(run.classes)


def test_evaluating_again_reads_the_store_and_not_the_images(tiny_folder, tmp_path):
    data = shutil.copytree(tiny_folder, tmp_path / "data")
    done = train(data, tmp_path / "run")
    shutil.rmtree(data)
    said = runs.evaluate(done.folder, device="cpu", precision="fp32", show=False)
    assert said == done.metrics["test"]


def test_what_the_store_gives_is_what_the_whole_model_gives(run, tmp_path):
    table, model = run.part("test"), run.model()
    with_store, without = (runs.predict_records(run, model, table, "test", runs.devices.choose("cpu", "fp32"), False,
                                                store=store) for store in (tmp_path, None))
    columns = [name for name in with_store if name.startswith("p_")] + ["loss"]
    assert with_store.drop(columns=columns).equals(without.drop(columns=columns))
    assert np.allclose(with_store[columns], without[columns], atol=1e-5)


def test_bf16_features_give_the_metrics_of_fp32_within_their_interval(tiny_folder, tmp_path, record_property):
    by = {precision: train(tiny_folder, tmp_path / precision, small(epochs="6", learning_rate="0.003"),
                           precision=precision).metrics["test"] for precision in ("fp32", "bf16")}
    for name in ("accuracy", "auc"):
        exact, fast = by["fp32"][name], by["bf16"][name]["value"]
        record_property(f"{name} bf16 - fp32", fast - exact["value"])
        print(f"{name}: fp32 {exact['value']:.4f}, bf16 {fast:.4f}, difference {fast - exact['value']:+.4f}")
        assert exact["low"] <= fast <= exact["high"]


def test_a_recipe_can_train_its_head_first(tiny_folder, tmp_path):
    two_parts = small("chest-resnet18-finetune", head_epochs="2", layer_decay="0.5", monitor="val_auc")
    done = train(tiny_folder, tmp_path / "run", two_parts)
    assert done.history["part"].tolist() == ["head", "head", "all", "all"]
    assert done.history["val_auc"].between(0, 1).all()
    assert train(tiny_folder, tmp_path / "run", two_parts).metrics == done.metrics


def test_an_image_size_that_the_network_cannot_take_is_refused_before_any_work(tiny_folder, tmp_path):
    with pytest.raises(ValueError, match="vgg16 cannot take 8 x 8 images"):
        train(tiny_folder, tmp_path / "run", small(backbone="vgg16", size="8"))
    assert not (tmp_path / "run" / "recipe.json").exists()


def test_further_seeds_share_the_division_and_differ_in_the_rest(tiny_folder, tmp_path):
    first = train(tiny_folder, tmp_path / "run", small(epochs="1"))
    several = runs.train_seeds(first, 2, device="cpu", precision="fp32", show=False, log=None)
    assert several[0] is first and several[1].folder == first.folder / "seed-1"
    assert several[1].records.equals(first.records) and several[1].recipe.seed == 1
    assert not np.allclose(several[1].history["train_loss"], first.history["train_loss"], atol=1e-6)
    again = runs.train_seeds(first, 2, device="cpu", precision="fp32", show=False, log=None)
    assert again[1].metrics == several[1].metrics


def test_frozen_features_are_in_the_tables_order_and_refused_where_nothing_is_frozen(run, tiny_folder, tmp_path):
    table, machine = run.part("test"), runs.devices.choose("cpu", "fp32")
    found = runs.frozen_features(run, table, machine)
    turned = runs.frozen_features(run, table.iloc[::-1].reset_index(drop=True), machine, tmp_path / "store")
    assert found.shape == (len(table), 512) and np.allclose(found[::-1], turned, atol=1e-5)
    whole = train(tiny_folder, tmp_path / "whole", small("chest-resnet18-finetune", epochs="1"))
    with pytest.raises(ValueError, match="nothing .* is frozen"):
        runs.frozen_features(whole, table, machine)


def test_the_temperature_is_kept_in_the_checkpoint_and_predictions_say_whether_it_was_used(run, tiny_folder):
    temperature = runs.checkpoints.load(run.folder / "best.pt")["temperature"]
    assert temperature == run.metrics["temperature"] > 0
    image = next((tiny_folder / "test" / "CNV").iterdir())
    raw, cooled = (runs.predict(run.folder, [image], device="cpu", precision="fp32", calibrated=on, show=False)
                   for on in (False, True))
    assert not raw["calibrated"].any() and cooled["calibrated"].all()
    columns = [f"p_{name}" for name in run.classes]
    wanted = np.log(raw[columns]) / temperature
    wanted = np.exp(wanted).div(np.exp(wanted).sum(axis=1), axis=0)
    assert np.allclose(cooled[columns], wanted, atol=1e-6)
