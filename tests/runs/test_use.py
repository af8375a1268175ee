"""A finished run put to use: evaluated, asked about new images, looked into."""

import contextlib
import json
import shutil
import sys
import warnings
from functools import partial
from itertools import product
from pathlib import Path

import dicom_files
import numpy as np
import pandas as pd
import pytest
from small_runs import CPU, edited, first, small, train
from tiny_images import draw_tiny

from tlutils.__main__ import main
from tlutils.core import devices, files
from tlutils.data import cleaning, records
from tlutils.evaluation.predict import NothingToPredict
from tlutils.models import checkpoints
from tlutils.runs.adapt import adapt
from tlutils.runs.folder import Run, read_predictions
from tlutils.runs.stress import stress
from tlutils.runs.use import (
    _for_spreadsheets,
    evaluate,
    frozen_features,
    other_images,
    predict,
    predict_records,
)


def test_the_saved_model_gives_the_saved_predictions(run):
    metrics = evaluate(run.folder, **CPU)
    assert metrics["confusion"] == run.metrics["test"]["confusion"]


def test_new_images_are_predicted_as_the_run_saw_them(run, tmp_path):
    some = run.part("test")["path"].iloc[:3].tolist()
    new = predict(
        run.folder,
        [run.root / path for path in some],
        tmp_path / "p.csv",
        **CPU,
    )
    known = run.predictions.set_index("path").loc[some]
    assert new["predicted"].tolist() == known["predicted"].tolist()
    assert np.allclose(
        new[[f"p_{c}" for c in run.classes]], known[[f"p_{c}" for c in run.classes]], atol=1e-4
    )
    assert len(pd.read_csv(tmp_path / "p.csv")) == 3


def test_new_images_tell_their_patients_by_the_rule_of_the_run(run, tmp_path):
    folder, new = shutil.copytree(run.folder, tmp_path / "p1" / "run"), tmp_path / "p1" / "new"
    files = [new / "p7" / "CNV-12-1.jpeg", new / "scan.jpeg", tmp_path / "p3" / "x-p4.jpeg"]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(first(run.root), file)
    given = [new, *files[1:]]
    for rule, patients in (
        ("auto", ["12", "", ""]),
        (r"(?P<patient>p\d)", ["p7", "", "p4"]),  # p1 and p3 are folders above those given
        (r"(?P<patient>q)", ["", "", ""]),
        ("dicom", ["", "", ""]),
        (None, ["", "", ""]),
    ):
        with edited(folder / "recipe.json") as about:
            about["data"]["patient"] = rule
        found = predict(folder, given, tmp_path / "p.csv", **CPU).set_index("path")["patient"]
        assert found[[*map(str, files)]].tolist() == patients
        assert read_predictions(tmp_path / "p.csv")["patient"].tolist() == found.tolist()


def test_a_folder_in_place_of_the_csv_is_refused_before_anything_is_predicted(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder; give the name of a file"):
        predict(tmp_path / "no run", [tmp_path], tmp_path)


def test_a_folder_of_new_images_with_a_broken_one_is_predicted_without_it(run, tmp_path):
    shutil.copy(run.root / run.part("test")["path"].iloc[0], tmp_path / "good.jpeg")
    (tmp_path / "bad.jpeg").write_bytes(b"no image")
    with pytest.warns(UserWarning, match="bad.jpeg"):
        new = predict(run.folder, [tmp_path], device="cpu", show=False)
    assert len(new) == 1


def test_dicom_files_alone_are_refused_with_what_to_install_to_read_them(
    run, tmp_path, monkeypatch
):
    scans = dicom_files.write_folder(tmp_path / "scans", range(1, 2), ("CNV",))
    with monkeypatch.context() as patch:
        dicom_files.without_pydicom(patch)
        with (
            pytest.warns(UserWarning, match="left out 2 of 2"),
            pytest.raises(ImportError, match="none of the 2 images .* pip install 'pydicom>=3.0.1"),
        ):
            predict(run.folder, [scans], **CPU)
        out = tmp_path / "answers.csv"
        assert main(["predict", str(run.folder), str(scans), "--out", str(out)]) == 3
        (scans / "bad.png").write_text("no image")
        with (
            pytest.warns(UserWarning, match="left out 3 of 3"),
            pytest.raises(NothingToPredict, match="none of the 3 images .* look at the files"),
        ):
            predict(run.folder, [scans], **CPU)
        (scans / "bad.png").unlink()
        draw_tiny("CNV", 100).save(scans / "good.png")
        with pytest.warns(UserWarning, match="left out 2 of 3"):
            assert len(predict(run.folder, [scans], **CPU)) == 1
    assert len(predict(run.folder, [scans], **CPU)) == 3


def test_other_images_of_unknown_patients_are_said_to_be_so(run, tiny_folder, tmp_path):
    for i, path in enumerate(sorted((tiny_folder / "test").rglob("*.jpeg"))):
        to = tmp_path / "other" / path.parent.name / f"{i}.jpeg"
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, to)
    for told in (False, True):
        other = records.scan(tmp_path / "other")
        if told:
            other["patient"] = [str(number) for number in range(len(other))]
            records.save(other, tmp_path / "other" / "told.csv")
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            other_images(run, tmp_path / "other" / ("told.csv" if told else ""), None, show=False)
        assert told != any("each counts as one of its own" in str(one.message) for one in said)


def test_images_of_another_place_tell_their_patients_by_its_own_rule(run, tiny_folder, tmp_path):
    copy, other = shutil.copytree(run.folder, tmp_path / "run"), tmp_path / "site" / "images"
    for i, path in enumerate(sorted((tiny_folder / "test").rglob("*.jpeg"))):
        file = other / path.parent.name / f"mr{i // 2}-{i % 2}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        draw_tiny(path.parent.name, 7000 + i).save(file)
    rule = r"(?P<patient>mr\d+)-"
    asked = {
        "evaluate": partial(evaluate, copy, other, **CPU),
        "stress": partial(stress, copy, data=other, changes=["noise"], **CPU),
        "adapt": partial(adapt, copy, other, name="site", draws=5, repeats=50, **CPU),
    }
    for name, ask in asked.items():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", "not steady|unlike")
            ask(patient=rule)
        assert name != "adapt" or Run.load(copy).adaptation("site")["used"]["patients"] == 8
    with pytest.warns(UserWarning, match="--patient RULE, in Python patient="):
        asked["evaluate"](), asked["stress"]()
    kept = [json.loads(path.read_text()) for path in sorted((copy / "evaluations").glob("*.json"))]
    assert {(one["used"]["patient"], one["test"]["patients"]) for one in kept} == {
        (rule, 8), ("auto", 16)
    }  # fmt: skip
    tables = [*(copy / "evaluations").glob("*stress_predictions.csv")]
    assert sorted(read_predictions(path)["patient"].nunique() for path in tables) == [8, 16]
    assert Run.load(copy).adaptation("site")["used"]["patient"] == rule
    with pytest.warns(UserWarning, match="16 of these 16"):
        assert evaluate(copy, other, adapted="site", **CPU)["patients"] == 8


@pytest.mark.filterwarnings("ignore:.* unlike the training")
@pytest.mark.parametrize("ask", [evaluate, adapt, stress])
def test_other_images_that_cannot_be_read_are_named(run, tiny_folder, tmp_path, ask):
    copy = Path(shutil.copytree(run.folder, tmp_path / "run"))
    place = Path(shutil.copytree(tiny_folder / "test", tmp_path / "place"))
    files = sorted(place.rglob("*.jpeg"))
    for file in files:  # else they were the run's own
        file.write_bytes(file.read_bytes() + b"elsewhere")
    files[0].write_bytes(b"no image")
    how = {"changes": ["noise"]} if ask is stress else {}
    with pytest.warns(UserWarning, match=f"left out 1 of 16 images of .*{files[0].name}: "):
        ask(copy, data=place, **how, **CPU)
    for file in (copy / "evaluations").glob("place-*.json"):
        used = json.loads(file.read_text())["used"]
        assert (used["images"], used["unreadable"]) == (15, 1)
    for file in files:
        file.write_bytes(b"no image")
    with pytest.raises(ValueError, match="none of the 16 images of .* can be read: "):
        ask(copy, data=place, **how, **CPU)


@pytest.mark.filterwarnings("ignore:.* unlike the training")
def test_images_without_splits_are_all_measured_whatever_split_is_asked_for_and_once(
    run, tiny_folder, tmp_path
):
    copy, place, lines = tmp_path / "run", tmp_path / "place", []
    shutil.copytree(run.folder, copy, ignore=shutil.ignore_patterns("evaluations"))
    shutil.copytree(tiny_folder / "test", place)
    for file in place.rglob("*.jpeg"):  # else they were the run's own
        file.write_bytes(file.read_bytes() + b"elsewhere")
    how = {"log": lines.append, **CPU}
    for split in ("val", "test", "train"):
        assert evaluate(copy, place, split, **how)["n"] == 16
        stress(copy, split, ["noise"], place, **how)
    assert len([line for line in lines if "no splits: measured on all 16 images" in line]) == 6
    kept = sorted(file.name for file in (copy / "evaluations").glob("*.csv"))
    assert len(kept) == 3 and [name.startswith("place-all-") for name in kept].count(True) == 2
    with pytest.raises(ValueError, match="no 'val' images; its splits are test, train: name one"):
        others = shutil.copytree(tiny_folder, tmp_path / "divided")
        shutil.rmtree(others / "val")
        evaluate(copy, others, "val", **CPU)


@pytest.mark.parametrize("ask", [evaluate, stress])
def test_a_patient_rule_is_for_other_images_alone(ask, run):
    with pytest.raises(ValueError, match="is for other images.*--data"):
        ask(run.folder, patient="dicom", **CPU)


@pytest.mark.parametrize("ask", [evaluate, stress, adapt])
def test_the_warning_of_unknown_patients_points_at_the_line_that_asks(ask, run, tmp_path):
    copy, other = shutil.copytree(run.folder, tmp_path / "run"), tmp_path / "other"
    for i, (path, label) in enumerate(zip(run.part("test")["path"], run.part("test")["label"])):
        (other / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(run.root / path, other / label / f"{i}.jpeg")
    # The run's own test images, which the others refuse.
    refused = (
        contextlib.nullcontext() if ask is evaluate else pytest.raises(ValueError, match="own")
    )
    with pytest.warns(UserWarning, match="each counts as one of its own") as seen, refused:
        ask(copy, data=other, **CPU)
    assert __file__ in [one.filename for one in seen if "of its own" in str(one.message)]


def test_images_that_the_run_was_trained_on_or_chosen_by_are_told_to_flatter_it(run, tmp_path):
    copy = shutil.copytree(run.folder, tmp_path / "run")
    table = run.records[run.records["split"].isin(["train", "val"])].assign(split="")
    cleaning.write(table.reset_index(drop=True), run.root, tmp_path / "own.csv")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        evaluate(copy, tmp_path / "own.csv", **CPU)
    told = " ".join(str(one.message) for one in told)
    for split, what in ("train", "trained on"), ("val", "chosen by"):
        assert f"{len(run.part(split))} of {len(table)} images are among those that" in told
        assert f"was {what}, so what follows is too good" in told
    (file,) = (copy / "evaluations").glob("*.json")
    own = {split: len(run.part(split)) for split in ("train", "val")} | {"test": 0}
    used = json.loads(file.read_text())["used"]
    assert used["own"] == own and used["own_images"] == len(table)


@pytest.mark.filterwarnings("ignore:.* images are among those that")
def test_a_manifest_that_tells_its_patients_is_read_so_whatever_the_runs_own_pattern(run, tmp_path):
    copy = shutil.copytree(run.folder, tmp_path / "run")
    table = run.part("test").reset_index(drop=True).assign(patient=list("ab") * 8, split="")
    cleaning.write(table, run.root, tmp_path / "some.csv")
    about = json.loads((copy / "recipe.json").read_text())
    about["data"]["patient"] = r"(?P<patient>no such)"
    (copy / "recipe.json").write_text(json.dumps(about))
    assert evaluate(copy, tmp_path / "some.csv", **CPU)["patients"] == 2
    cleaning.write(table.assign(patient=""), run.root, tmp_path / "none.csv")
    with pytest.raises(ValueError, match="auto reads the column patient"):
        evaluate(copy, tmp_path / "none.csv", **CPU)
    with pytest.raises(ValueError, match="auto reads the column patient"):
        evaluate(copy, tmp_path / "some.csv", patient="(?P<patient>no such)", **CPU)


@pytest.mark.filterwarnings("ignore:.* images are among those that")
def test_images_without_a_split_beside_others_that_have_one_are_counted(run, tmp_path):
    copy = shutil.copytree(run.folder, tmp_path / "run")
    table = run.part("test").reset_index(drop=True)
    table.loc[table["patient"] != table["patient"].iloc[0], "split"] = ""
    cleaning.write(table, run.root, tmp_path / "some.csv")
    without = (table["split"] == "").sum()
    with pytest.warns(
        UserWarning, match=f"left out {without} images of .*some.csv without a split"
    ):
        assert evaluate(copy, tmp_path / "some.csv", **CPU)["n"] == len(table) - without


@pytest.mark.filterwarnings("ignore:The choice is not steady", "ignore:.* unlike the training")
def test_an_evaluation_says_of_which_weights_it_is_and_how_many_images_were_chosen_on(
    run, tmp_path
):
    copy, some, place = tmp_path / "run", tmp_path / "some", tmp_path / "all"
    shutil.copytree(run.folder, copy)
    for folder, patients in (some, range(2)), (place, range(3)):
        for i, (label, n) in enumerate(product(run.classes, patients)):
            file = folder / label / f"{label}-{n + 10 * i}-1.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            draw_tiny(label, 8000 + n).save(file)
    adapt(copy, some, name="some", draws=5, repeats=50, **CPU)
    evaluate(copy, place, **CPU)
    with pytest.warns(UserWarning, match="8 of these 12 images are among those that some"):
        evaluate(copy, place, adapted="some", **CPU)
    used = [json.loads(path.read_text())["used"] for path in (copy / "evaluations").glob("*.json")]
    assert sorted(one.get("chosen_on", -1) for one in used) == [-1, 8]
    assert {one["weights"] for one in used} == {run.fingerprint} == {run.metrics["weights"]}


def test_other_labelled_images_are_measured_beside_the_run(run, tiny_folder, tmp_path):
    other = tmp_path / "elsewhere"
    shutil.copytree(tiny_folder / "test", other)
    for file in other.rglob("*.jpeg"):  # else they were the run's own test images, which count
        file.write_bytes(file.read_bytes() + b"elsewhere")
    before = (run.folder / "metrics.json").read_text()
    metrics = evaluate(run.folder, other, device="cpu", show=False)
    assert metrics["n"] == sum(1 for _ in other.rglob("*.jpeg"))
    assert len(list((run.folder / "evaluations").glob("*-elsewhere-test-*.json"))) == 1
    assert (run.folder / "metrics.json").read_text() == before


def test_a_class_the_model_does_not_know_is_refused(run, tiny_folder, tmp_path):
    shutil.copytree(tiny_folder / "test", tmp_path / "d")
    (tmp_path / "d" / "CNV").rename(tmp_path / "d" / "GLAUCOMA")
    with pytest.raises(ValueError, match="GLAUCOMA.* expected CNV, .*; rename or remove them$"):
        evaluate(run.folder, tmp_path / "d", device="cpu", show=False)


def test_an_image_is_seen_in_the_same_views_wherever_it_lies(run, tmp_path):
    tested = run.part("test")
    for i, path in enumerate(tested["path"]):
        shutil.copy(run.root / path, tmp_path / f"{i:02d}.jpeg")
    columns = [f"p_{name}" for name in run.classes]
    machine = devices.choose("cpu", "fp32")
    known = predict_records(run, run.model(), tested, "test", machine, False, views=2).set_index(
        "path"
    )
    there = predict(run.folder, [tmp_path], views=2, **CPU)
    assert np.allclose(
        known.loc[tested["path"], columns], there.sort_values("path")[columns], atol=1e-6
    )
    assert not np.allclose(
        there[columns], predict(run.folder, [tmp_path], views=0, **CPU)[columns], atol=1e-3
    )


@pytest.mark.parametrize("what", [evaluate, predict, adapt, stress], ids=lambda what: what.__name__)
def test_a_training_that_ends_meanwhile_mixes_no_two_models(
    what, run, tiny_folder, tmp_path, monkeypatch
):
    copy, module = shutil.copytree(run.folder, tmp_path / "run"), sys.modules[what.__module__]
    shutil.rmtree(copy / "evaluations", ignore_errors=True)

    def and_another_model_is_there(*of, **more):
        shutil.copy(copy / "best.pt", copy / "new.pt")
        (copy / "new.pt").replace(copy / "best.pt")
        return predict_records(*of, **more)

    monkeypatch.setattr(module, "predict_records", and_another_model_is_there)
    asked = [shutil.copytree(tiny_folder / "test", tmp_path / "elsewhere")]
    for file in asked[0].rglob("*.jpeg"):
        file.write_bytes(file.read_bytes() + b"elsewhere")
    how = {"data": asked.pop(), "split": "test"} if what is stress else {}
    asked = [asked] if what is predict else asked
    with pytest.raises(files.Busy, match="trained on meanwhile"):
        what(copy, *asked, **how, **CPU)
    assert not [*copy.glob("evaluations/*.json"), *copy.glob("adaptations/*.json")]


def test_evaluate_gives_its_numbers_where_the_training_has_not_written_its_own(run, tmp_path):
    copy, lines = shutil.copytree(run.folder, tmp_path / "run"), []
    (copy / "metrics.json").unlink()
    assert evaluate(copy, **CPU, log=lines.append) == run.metrics["test"]
    assert lines[-1] == "these numbers are not written"


def test_evaluating_again_reads_the_store_and_not_the_images(tiny_folder, tmp_path):
    data = shutil.copytree(tiny_folder, tmp_path / "data")
    done = train(data, tmp_path / "run")
    shutil.rmtree(data)
    said = evaluate(done.folder, **CPU)
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


def test_frozen_features_are_in_the_tables_order_and_refused_where_nothing_is_frozen(
    run, tiny_folder, tmp_path
):
    table, machine = run.part("test"), devices.choose("cpu", "fp32")
    found = frozen_features(run, table, machine)
    turned = frozen_features(run, table.iloc[::-1].reset_index(drop=True), machine)
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


def test_evaluations_of_two_folders_of_one_name_stand_side_by_side(run, tiny_folder, tmp_path):
    copy = Run.load(
        shutil.copytree(run.folder, tmp_path / "run", ignore=shutil.ignore_patterns("evaluations"))
    )
    for site in ("siteA", "siteB"):
        shutil.copytree(tiny_folder / "test", tmp_path / site / "images")
    for site, more in (
        ("siteA", {}),
        ("siteB", {}),
        ("siteA", {"views": 1}),
        ("siteA", {"split": "val"}),
        ("siteA", {"calibrated": True}),
        ("siteA", {}),
    ):
        evaluate(copy.folder, tmp_path / site / "images", **more, **CPU)
    found = sorted((copy.folder / "evaluations").glob("*.json"))
    assert len(found) == 4 and [path.name.split("-")[0] for path in found] == 3 * ["siteA"] + [
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
    ]
    assert all(len(pd.read_csv(path.with_suffix(".csv"))) == 16 for path in found)


def test_predictions_for_people_hold_no_formula_and_paths_that_open(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["=1+1.png", "+a.png", "-b.png", "@c.png", "\td.png", "plain.png"]
    for name in names:
        shutil.copy(run.root / run.part("test")["path"].iloc[0], name)
    said = predict(run.folder, names, "out.csv", **CPU)
    assert set(said["path"]) == set(names)
    written = read_predictions("out.csv")
    assert set(written["path"]) == {f"./{name}" for name in names[:-1]} | {"plain.png"}
    assert all(Path(path).is_file() for path in written["path"])
    guarded = _for_spreadsheets(said.assign(predicted="=CNV", patient="@x"))
    assert set(guarded["predicted"]) == {"'=CNV"} and set(guarded["patient"]) == {"'@x"}
