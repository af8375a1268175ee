"""Images unlike a run's training images: what is kept to tell them, and what is said of them."""

import dataclasses
import json
import math
import shutil
import warnings
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from small_runs import CPU, small, train

from tlutils.__main__ import main
from tlutils.core import devices
from tlutils.models import checkpoints
from tlutils.runs import reference
from tlutils.runs.folder import Run, read_predictions
from tlutils.runs.use import evaluate, predict, predict_records


@pytest.fixture(scope="module")
def run(tiny_folder, trained):
    """A finished run of a network whose random features tell images apart: a ResNet."""
    return trained(tiny_folder, small(backbone="resnet18"))


@pytest.fixture
def copy(run, tmp_path):
    """The finished run, to be changed, in a folder of its own and with images of its own."""
    folder = shutil.copytree(
        run.folder, tmp_path / "run", ignore=shutil.ignore_patterns("evaluations", "features")
    )
    moved = Run.load(folder)
    moved.root = shutil.copytree(run.root, tmp_path / "images")
    moved.about["data"] |= {"root": str(moved.root), "top": str(moved.root)}
    moved.write()
    return moved


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """Files of a white image and of noise."""
    folder = tmp_path_factory.mktemp("odd")
    Image.new("L", (64, 48), 255).save(folder / "white.png")
    noise = np.random.default_rng(0).integers(0, 256, (48, 64), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    return [folder / "noise.png", folder / "white.png"]


def ask(run, images, **more):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return predict(run.folder, images, **{**CPU, **more})


def films(run, part="val"):
    return [run.root / path for path in run.part(part)["path"]]


def test_images_of_no_kind_are_unlike_and_named_in_a_warning(run, odd):
    some = films(run, "test")[0]
    told = f"the furthest of only {run.part('val')['patient'].nunique()} validation patients? set"
    words = f"2 of 3 .* unlike the training .*{told}.*noise.png.*white.png"
    with pytest.warns(UserWarning, match=words):
        found = predict(run.folder, [*odd, some], **CPU)
    assert found.set_index("path")["unlike"].to_dict() == {
        str(odd[0]): True,
        str(odd[1]): True,
        str(some): False,
    }
    assert found["unlike"].dtype == bool and (found["distance"].gt(1) == found["unlike"]).all()


def test_the_furthest_of_few_validation_patients_is_the_limit(run):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = predict(run.folder, films(run), **CPU)
    assert found["distance"].max() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("freeze", ["none", pytest.param("up to layer2", marks=pytest.mark.slow)])
def test_a_network_that_has_learned_tells_them_too(freeze, tiny_folder, tmp_path, odd):
    trained = small("chest-resnet18-finetune", backbone="resnet18", freeze=freeze)
    done = train(tiny_folder, tmp_path / "run", trained)
    assert ask(done, odd[1:])["unlike"].all()
    assert ask(done, films(done))["distance"].max() == pytest.approx(1, abs=1e-3)


def test_what_the_store_gives_and_what_the_files_give_agree(copy, odd):
    machine, model = devices.choose("cpu", "fp32"), copy.model()
    made = []
    for store in (None, copy.folder / "features"):
        answers = partial(predict_records, copy, model, machine=machine, show=False, store=store)
        made.append(reference.make(copy, answers))
    of_files, of_store = made
    assert np.allclose(of_files.features.mean, of_store.features.mean, atol=1e-5)
    assert np.allclose(of_files.limits, of_store.limits, rtol=1e-2)
    assert np.array_equal(of_files.small.mean, of_store.small.mean)


def test_a_run_of_before_gets_its_reference_when_it_is_asked(run, copy, odd):
    (copy.folder / reference.FILE).unlink()
    assert np.allclose(ask(copy, odd)["distance"], ask(run, odd)["distance"], rtol=1e-2)
    kept = (copy.folder / reference.FILE).read_bytes()
    for film in films(copy, "train"):
        film.unlink()  # they are not looked at again
    assert ask(copy, odd)["unlike"].all()
    assert (copy.folder / reference.FILE).read_bytes() == kept


def test_without_the_training_images_it_is_said_that_it_cannot_be_told(copy, odd, tmp_path):
    (copy.folder / reference.FILE).unlink()
    shutil.rmtree(copy.root)
    with pytest.warns(UserWarning, match="unlike the training images of .* cannot be told"):
        found = predict(copy.folder, odd, tmp_path / "p.csv", **CPU)
    assert found["distance"].isna().all() and found["unlike"].isna().all()
    written = pd.read_csv(tmp_path / "p.csv", dtype=str, keep_default_na=False)
    assert (written[["distance", "unlike"]] == "").all(axis=None)


@pytest.mark.parametrize(
    ("val", "limit", "why"),
    [("0", 0, "no validation images"), ("0.5", 24, "training images are too few")],
)
def test_a_training_on_too_little_says_once_that_it_cannot_be_told(
    val, limit, why, tiny_folder, tmp_path, odd
):
    said = []
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore",
            message="there is no validation set|there are no val images|the .* images lack",
        )
        recipe = small(epochs="1", val=val)
        done = train(tiny_folder, tmp_path / "run", recipe, limit=limit, log=said.append)
    (line,) = [line for line in said if "unlike the training images is not told" in line]
    assert why in line and not (done.folder / reference.FILE).exists()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = predict(done.folder, odd, **CPU)
        evaluate(done.folder, **CPU)
    assert found["distance"].isna().all() and found["unlike"].isna().all()


def test_a_reference_of_other_weights_is_made_anew_or_not_used(copy, odd):
    before = ask(copy, odd)
    content = checkpoints.load(copy.folder / "best.pt")
    content["state"]["fc.3.bias"] += 1
    checkpoints.write(copy.folder / "best.pt", content)
    old = (copy.folder / reference.FILE).read_bytes()
    hidden = copy.root.rename(copy.root.with_name("hidden"))
    assert ask(copy, odd)["distance"].isna().all()
    hidden.rename(copy.root)
    assert np.allclose(ask(copy, odd)["distance"], before["distance"], rtol=1e-2)
    assert (copy.folder / reference.FILE).read_bytes() != old


@pytest.mark.parametrize(
    "harm",
    [
        b"",
        b"no tensors",
        {"features": {"mean": torch.ones(5)}},
        {"small": {"noise": "some"}},
        {"small": {"variances": -torch.ones(8)}},
        {"limits": ["a", "b"]},
        {"limits": [math.nan, math.nan]},
        {"limits": [0.0, 0.0]},
        {"small": 3},
    ],
    ids=str,
)
def test_a_damaged_reference_is_made_anew(harm, copy, odd):
    file, before = copy.folder / reference.FILE, ask(copy, odd)
    if isinstance(harm, bytes):
        file.write_bytes(harm)
    else:
        good = checkpoints.read(file)
        parts = {
            name: {**good[name], **part} if isinstance(part, dict) else part
            for name, part in harm.items()
        }
        checkpoints.write(file, {**good, **parts})
    assert np.allclose(ask(copy, odd)["distance"], before["distance"], rtol=1e-2)
    assert checkpoints.read(file)["features"]["mean"].shape == (512,)


def test_the_distance_is_of_the_image_itself_whatever_views_are_shown_beside_it(run, odd):
    alone, beside = (ask(run, odd, views=views) for views in (0, 2))
    assert np.allclose(alone["distance"], beside["distance"], rtol=1e-5)


def test_of_other_images_the_share_that_is_unlike_is_measured(copy, tiny_folder, tmp_path, odd):
    other = shutil.copytree(tiny_folder / "test", tmp_path / "elsewhere")
    said = []
    plain = evaluate(copy.folder, other, log=said.append, **CPU)
    for number in range(len(list(other.rglob("*.jpeg")))):
        shutil.copy(odd[0], other / "CNV" / f"CNV-{2000 + number}-1.png")
    half = evaluate(copy.folder, other, **CPU)
    assert plain["unlike"]["value"] < 0.5 <= half["unlike"]["value"] < 1
    assert half["unlike"]["low"] < half["unlike"]["value"] < half["unlike"]["high"]
    (line,) = [line for line in said if line.startswith("unlike the training images: 0.")]
    assert line.endswith(reference.limit_in_words(copy)) and "only " in line
    files = sorted((copy.folder / "evaluations").glob("*.json"))
    assert any(json.loads(file.read_text())["test"]["unlike"] == half["unlike"] for file in files)
    assert read_predictions(files[0].with_suffix(".csv"))["unlike"].isin([True, False]).all()
    assert "unlike" not in evaluate(copy.folder, **CPU)


def test_the_command_line_names_them(run, odd, tmp_path, capsys):
    words = ["predict", str(run.folder), *map(str, odd), "--device", "cpu", "--precision", "fp32"]
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert "distance" in out and "True" in out
    assert err.count("note: 2 of 2 images are unlike the training images") == 1
    assert main([*words, "--out", str(tmp_path / "p.csv")]) == 0
    assert pd.read_csv(tmp_path / "p.csv")["unlike"].tolist() == [True, True]


def test_only_of_few_validation_patients_the_limit_is_told_with_their_number(run):
    one = run.part("val").head(1)
    of = {n: pd.concat([one] * n).assign(patient=[*map(str, range(n))]) for n in (30, 99, 100)}
    few, fewer, many = (
        reference.limit_in_words(dataclasses.replace(run, records=table)) for table in of.values()
    )
    assert "only 30 validation patients" in few and "about 1 in 31 is" in few
    assert "only 99 " in fewer and many == "the limit that the validation patients set"
    unknown = dataclasses.replace(run, records=of[30].assign(patient="?" + of[30]["patient"]))
    assert "only 30 validation images" in reference.limit_in_words(unknown)


def test_what_is_kept_is_small(run):
    assert (run.folder / reference.FILE).stat().st_size < 200_000
