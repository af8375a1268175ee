"""A run's threshold and temperature for another place: chosen, written, and answered by."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from processes import together
from small_runs import BINARY, CPU, edited
from tiny_images import draw_tiny

from tlutils.evaluation import calibration, thresholds
from tlutils.evaluation.metrics import compute_metrics
from tlutils.runs.adapt import adapt
from tlutils.runs.folder import Run, read_predictions
from tlutils.runs.use import evaluate, predict

QUICK = {**CPU, "draws": 5, "repeats": 50}


def draw_place(folder, labels=("CNV", "NORMAL"), patients=range(20, 28), first=50):
    """Films of patients of its own for each class, darker than at home."""
    for i, label in enumerate(labels):
        for patient in patients:
            for image in (1, 2):
                grey = np.asarray(draw_tiny(label, first + 10 * patient + image), float)
                file = folder / label / f"{label}-{patient + 100 * i}-{image}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray((0.6 * grey).astype(np.uint8)).save(file)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Labelled images of another place, two classes."""
    return draw_place(tmp_path_factory.mktemp("site A") / "images")


@pytest.fixture(scope="module")
def home(two_classes, trained):
    """A run of two classes with a threshold of its own."""
    return trained(two_classes, BINARY)


@pytest.fixture(scope="module")
def adapted(home, place):
    """The run with one adaptation, what that gave, what was said, and its files of before."""
    before = contents(home.folder)
    said = []
    found = adapt(home.folder, place, **QUICK, log=said.append)
    return home, found, said, before


def contents(folder):
    kept = ("recipe.json", "records.csv", "best.pt", "last.pt", "metrics.json", "predictions.csv")
    return {name: (folder / name).read_bytes() for name in (*kept, "openings.csv")}


def test_nothing_of_the_run_changes_and_what_was_chosen_is_written(adapted, place):
    home, found, _, before = adapted
    assert contents(home.folder) == before
    (file,) = (home.folder / "adaptations").glob("*.json")
    assert json.loads(file.read_text()) == found and found["name"] == file.stem
    assert file.stem.endswith("-images") and " " not in file.stem
    used = found["used"]
    assert (used["images"], used["patients"], used["views"]) == (32, 16, 0)
    assert used["data"] == str(place) and used["weights"] == home.fingerprint
    assert found["rule"] == "specificity>=0.9" and found["own_threshold"] == home.threshold
    assert found["notes"] == home.about["notes"] and found["tlutils"]


def test_the_numbers_follow_from_the_table_beside_them(adapted):
    home, found, *_ = adapted
    table = read_predictions(home.folder / "adaptations" / f"{found['name']}.csv")
    assert table["sha256"].nunique() == len(table) == 32 and set(table["split"]) == {"local"}
    assert found["threshold"]["value"] == pytest.approx(
        thresholds.choose_threshold(table, "specificity>=0.9")
    )
    chances, truth = table[["p_CNV", "p_NORMAL"]], table["label"] == "NORMAL"
    assert found["temperature"]["value"] == pytest.approx(
        calibration.likeliest_temperature(chances.to_numpy(), truth.to_numpy(int))
    )
    judged = (table["p_NORMAL"] >= table["threshold"]).map({True: "NORMAL", False: "CNV"})
    assert judged.tolist() == table["held_out"].tolist()
    assert table.groupby("patient")["fold"].nunique().max() == 1
    measured = compute_metrics(table.assign(predicted=table["held_out"]), 50)
    own = compute_metrics(table, 50, threshold=home.threshold)
    for name in ("sensitivity", "specificity", "accuracy"):
        assert found["after"][name]["value"] == measured[name]["value"]
        assert found["before"][name]["value"] == own[name]["value"]


def test_the_threshold_is_told_among_the_probabilities_that_are_shown_too(adapted, place):
    home, found, said, _ = adapted
    at = found["threshold"]["at_temperature"]
    whole = f"threshold {found['threshold']['value']:.3f} ("
    (line,) = (line for line in said if line.startswith(whole))
    assert f"as the run gives them; at the temperature it is {at:.3f}, which evaluate" in line
    assert at != pytest.approx(found["threshold"]["value"], abs=1e-3)
    shown = predict(home.folder, [place], adapted=found["name"], **CPU)
    assert ((shown["p_NORMAL"] >= at) == (shown["predicted"] == "NORMAL")).all()


def test_an_adaptation_of_before_the_threshold_at_the_temperature_was_kept_answers_alike(
    adapted, place, tmp_path
):
    home, found, *_ = adapted
    copy = Path(shutil.copytree(home.folder, tmp_path / "run"))
    with edited(copy / "adaptations" / f"{found['name']}.json") as kept:
        del kept["threshold"]["at_temperature"]
    answers = (predict(one, [place], adapted=found["name"], **CPU) for one in (home.folder, copy))
    pd.testing.assert_frame_equal(*answers)


def test_evaluate_and_predict_answer_by_it(adapted, place, tmp_path):
    home, found, *_ = adapted
    name, at = found["name"], found["threshold"]["value"]
    elsewhere = draw_place(tmp_path / "more", patients=range(40, 46), first=900)
    raw = predict(home.folder, [elsewhere], **CPU)
    new = predict(home.folder, [elsewhere], adapted=name, **CPU)
    called = np.where(raw["p_NORMAL"] >= at, "NORMAL", "CNV")
    assert new["predicted"].tolist() == called.tolist() and set(new["adapted"]) == {name}
    assert new["calibrated"].all() and "adapted" not in raw
    cooled = calibration.apply_temperature(raw, found["temperature"]["value"])
    assert np.allclose(new["p_NORMAL"], cooled["p_NORMAL"])
    metrics = evaluate(home.folder, elsewhere, adapted=name, **CPU)
    plain = evaluate(home.folder, elsewhere, **CPU)
    truth = raw["path"].map(lambda path: Path(path).parent.name)
    assert metrics["accuracy"]["value"] == pytest.approx((called == truth).mean())
    assert metrics["auc"] == plain["auc"] and metrics["loss"] != plain["loss"]
    written = [json.loads(file.read_text()) for file in (home.folder / "evaluations").glob("*")
               if file.suffix == ".json"]  # fmt: skip
    assert {one["used"].get("adapted") for one in written} >= {None, name}


def test_measuring_on_what_it_was_chosen_on_is_said(adapted, place, tmp_path):
    home, found, *_ = adapted
    known = Path(shutil.copytree(place, tmp_path / "elsewhere"))
    for file in sorted((known / "CNV").iterdir())[3:]:
        file.unlink()
    with pytest.warns(UserWarning, match=r"19 of these 19 images are .* chosen on.*too good"):
        evaluate(home.folder, known, adapted=found["name"], **CPU)


def test_looks_at_the_test_images_by_an_adaptation_are_other_settings(adapted, tmp_path):
    home, found, *_ = adapted
    copy = Path(shutil.copytree(home.folder, tmp_path / "run"))
    evaluate(copy, **CPU)
    evaluate(copy, adapted=found["name"], **CPU)
    count = Run.load(copy).metrics["test_openings"]
    assert (count["times"], count["settings"]) == (3, 2)


def test_an_unknown_name_lists_those_there_are(adapted, place, run):
    home, found, *_ = adapted
    for call in (
        lambda: evaluate(home.folder, adapted="site-B", **CPU),
        lambda: predict(home.folder, [place], adapted="../../" + found["name"], **CPU),
    ):
        with pytest.raises(ValueError, match=f"no adaptation .*; it has {found['name']}"):
            call()
    with pytest.raises(ValueError, match="it has none yet.*tlutils adapt"):
        evaluate(run.folder, adapted="x", **CPU)


def test_an_adaptation_to_other_weights_or_that_somebody_edited_is_refused(adapted, tmp_path):
    home, found, *_ = adapted
    copy = Path(shutil.copytree(home.folder, tmp_path / "run"))
    file = copy / "adaptations" / f"{found['name']}.json"
    other = {**found, "used": {**found["used"], "weights": "0" * 16}}
    file.write_text(json.dumps(other))
    with pytest.raises(ValueError, match="chosen for other weights.*Adapt it anew"):
        evaluate(copy, adapted=found["name"], **CPU)
    for harm in ({"threshold": {"value": "x"}}, {"temperature": None, "used": {}}, {"used": 1}):
        file.write_text(json.dumps({**found, **harm}))
        with pytest.raises(ValueError, match="is not what a run writes.*Delete it and adapt"):
            evaluate(copy, adapted=found["name"], **CPU)
    file.write_text("{")
    with pytest.raises(ValueError, match="is not what a run writes.*Delete it and adapt"):
        evaluate(copy, adapted=found["name"], **CPU)
    file.unlink()  # as it says
    adapt(copy, found["used"]["data"], name=found["name"], **QUICK)


def test_names_and_rules_are_checked_before_any_work(adapted, place, tmp_path):
    home, found, *_ = adapted
    for name in ("../x", "a b", "", ".x", "=1", "x" * 101):
        with pytest.raises(ValueError, match="cannot be called"):
            adapt(home.folder, place, name=name, **QUICK)
    with pytest.raises(ValueError, match="cannot be chosen by 'magic'"):
        adapt(home.folder, place, "magic", **QUICK)
    other = shutil.copytree(place, tmp_path / "images")
    with pytest.raises(ValueError, match="has an adaptation .* already: data: .*another name"):
        adapt(home.folder, other, name=found["name"], **QUICK)
    settings = {"rule": "youden", "views": 1, "patient": None}
    for name, value in settings.items():
        with pytest.raises(ValueError, match=f"already: {name}: .* in the folder, {value!r} req"):
            adapt(home.folder, place, **{name: value}, **QUICK)
    assert home.adaptation(found["name"])["rule"] == found["rule"]
    again = adapt(home.folder, place, name=found["name"], **QUICK)
    assert {**again, "time": ""} == {**found, "time": ""}


def test_a_rule_of_its_own_and_a_part_of_the_images(adapted, place, tmp_path):
    home = adapted[0]
    divided = tmp_path / "divided"
    for split, patients in (("val", range(20, 26)), ("test", range(30, 36))):
        draw_place(divided / split, patients=patients)
    with pytest.warns(UserWarning, match="not steady with 6 patients yet .no more can"):
        found = adapt(home.folder, divided, "youden", "half", split="val", **QUICK)
    assert found["rule"] == "youden" and found["used"]["images"] == 24
    with pytest.raises(ValueError, match="has no 'train' images"):
        adapt(home.folder, divided, split="train", name="x", **QUICK)
    evaluate(home.folder, divided, adapted="half", **CPU)  # of the test images, without a warning


def test_the_runs_own_images_are_refused(home, two_classes, tmp_path):
    with pytest.raises(ValueError, match=r"images of .* itself, which it knows by heart"):
        adapt(home.folder, two_classes, **QUICK)
    test = shutil.copytree(two_classes / "test", tmp_path / "test")
    with pytest.raises(ValueError, match=r"are test images of .* itself"):
        adapt(home.folder, test, **QUICK)


def test_the_runs_own_validation_images_are_warned_of(home, place, tmp_path):
    copy = Path(shutil.copytree(home.folder, tmp_path / "run"))
    local = Path(shutil.copytree(place, tmp_path / "local"))
    val = home.part("val")
    for row in val.itertuples():
        shutil.copy(home.root / row.path, local / row.label)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        adapt(copy, local, **QUICK)
    told = f"{len(val)} of {32 + len(val)} images are validation images of"
    assert sum(told in str(one.message) for one in said) == 1


def test_too_few_patients_or_a_missing_class_are_refused_in_a_sentence(home, tmp_path):
    one = draw_place(tmp_path / "one", patients=[20])
    with pytest.raises(ValueError, match="too few patients .1 of CNV, 1 of NORMAL"):
        adapt(home.folder, one, **QUICK)
    sick = sorted(draw_place(tmp_path / "sick", labels=["CNV"]).rglob("*.png"))
    manifest = pd.DataFrame({"path": [f"sick/CNV/{file.name}" for file in sick], "label": "CNV"})
    manifest.to_csv(tmp_path / "sick.csv", index=False)
    with pytest.raises(ValueError, match="0 of NORMAL"):
        adapt(home.folder, tmp_path / "sick.csv", **QUICK)


def test_few_patients_are_warned_of(home, tmp_path):
    few = draw_place(tmp_path / "few", patients=[20, 21, 22])
    with pytest.warns(UserWarning, match="cannot be told.*label images of more"):
        adapt(home.folder, few, **QUICK)


def test_more_than_two_classes_get_a_temperature_alone(run, tmp_path):
    copy = Path(shutil.copytree(run.folder, tmp_path / "run"))
    place = draw_place(tmp_path / "four", labels=run.classes, patients=range(20, 23))
    said = []
    found = adapt(copy, place, name="four", **QUICK, log=said.append)
    assert found["rule"] is None and found["threshold"] is None and found["steady"] is None
    assert any("temperature alone" in line for line in said)
    assert found["before"]["accuracy"] == found["after"]["accuracy"]
    raw, cooled = (predict(copy, [place], adapted=name, **CPU) for name in (None, "four"))
    assert raw["predicted"].equals(cooled["predicted"]) and not raw["p_CNV"].equals(cooled["p_CNV"])


def test_views_are_those_that_it_was_chosen_with(home, place, tmp_path):
    copy = Path(shutil.copytree(home.folder, tmp_path / "run"))
    adapt(copy, place, name="views", views=2, **QUICK)
    assert predict(copy, [place], adapted="views", **CPU).equals(
        predict(copy, [place], adapted="views", views=2, **CPU)
    )
    with pytest.warns(UserWarning, match="chosen with 2 views and is used with 0"):
        predict(copy, [place], adapted="views", views=0, **CPU)


def test_what_is_told_names_rule_numbers_and_the_next_step(adapted):
    _, found, said, _ = adapted
    text = "\n".join(said)
    for words in ("32 images of 16 patients", "by specificity>=0.9, in place of", "difference",
                  "balanced accuracy", f"--adapted {found['name']}", "The run is as it was"):  # fmt: skip
        assert words in text


def test_unreadable_images_are_left_out(home, place, tmp_path):
    copy = Path(shutil.copytree(home.folder, tmp_path / "run"))
    local = Path(shutil.copytree(place, tmp_path / "local"))
    (local / "CNV" / "CNV-999-1.png").write_bytes(b"no image")
    assert adapt(copy, local, name="x", **QUICK)["used"]["images"] == 32


def close(one: object, two: object) -> bool:
    """Whether two results hold the same, numbers but for rounding."""
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(close(one[name], two[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(close, one, two))
    return one == (pytest.approx(two, rel=1e-4) if isinstance(one, float) else two)


def test_two_processes_choose_what_one_chooses(home, place, tmp_path):
    copy = Path(shutil.copytree(home.folder, tmp_path / "run"))
    words = ["-m", "tlutils", "adapt", copy, "--data", place, "--name", "two"]
    said = together(*words, "--device", "cpu", "--precision", "fp32").stdout
    assert said.count("The run is as it was") == 1
    one = adapt(home.folder, place, name="one", **CPU)
    two = json.loads((copy / "adaptations" / "two.json").read_text())
    same = ("threshold", "temperature", "before", "after", "steady", "used")
    # Two processes have smaller last batches, and sums of other orders.
    assert close({name: one[name] for name in same}, {name: two[name] for name in same})
    assert pd.read_csv(copy / "adaptations" / "two.csv").shape[0] == 32
