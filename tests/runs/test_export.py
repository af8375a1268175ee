"""A run as an ONNX file and predict.py beside it: they answer as the run does, where tlutils and torch are not."""

import itertools
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
from PIL import Image
from processes import python
from small_runs import BINARY, CPU, edited, small, train
from tiny_images import draw_tiny
from troubled_files import encoded, write_all

from tlutils.core import devices
from tlutils.core.images import UnreadableImage
from tlutils.data import layouts, loaders
from tlutils.models import predict_onnx, to_onnx
from tlutils.runs.adapt import adapt
from tlutils.runs.export import AnswersDiffer, export
from tlutils.runs.use import predict

TINY_NET = {"backbone": "squeezenet1_1"}
# A Python that has nothing of these; the rest of its arguments is run.
ALONE = """
import importlib.abc, runpy, sys
class Without(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in ("tlutils", "torch", "torchvision", "pandas", "scipy", "filelock", "tqdm"):
            raise ImportError(name)
sys.meta_path.insert(0, Without())
sys.argv = sys.argv[1:]
"""
RUN = f"{ALONE}runpy.run_path(sys.argv[0], run_name='__main__')"
READ = f"""{ALONE}
import numpy as np
script, out, *files = sys.argv
names, found = runpy.run_path(script), {{}}
for i, file in enumerate(files):
    for resize in ("squash", "pad", "crop"):
        for channels in (1, 3):
            try:
                found[f"{{i}} {{resize}} {{channels}}"] = names["read_pixels"](file, 32, resize, channels)
            except names["UnreadableImage"] as error:
                found[f"{{i}} {{resize}} {{channels}}"] = np.array(str(error))
np.savez(out, **found)
"""


def alone(code, *words):
    return python("-I", "-c", code, *words, check=False)


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """What an export of a run of four classes gave, and what it said."""
    said = []
    found = export(run.folder, tmp_path_factory.mktemp("to") / "model.onnx", log=said.append, show=False)  # fmt: skip
    return found, said


@pytest.fixture(scope="module")
def all_kinds(tmp_path_factory):
    """Files of every kind, and JPEGs so large that they decode to a part of their size."""
    folder = tmp_path_factory.mktemp("kinds") / "all"
    folder.mkdir()
    write_all([folder])
    for i, size in enumerate(((300, 200), (1500, 900), (640, 2048), (129, 127))):
        for mode in ("L", "RGB"):
            values = np.random.default_rng(i).integers(0, 256, (9, 7), np.uint8)
            drawn = Image.fromarray(values).resize(size, Image.Resampling.BICUBIC).convert(mode)
            (folder / f"large_{i}_{mode}.jpg").write_bytes(encoded(drawn, "JPEG", quality=90))
    return folder


def test_the_file_says_what_it_is_and_takes_any_number_of_images(exported, run):
    found, said = exported
    assert sorted(path.name for path in found["model"].parent.iterdir()) == ["model.onnx", "predict.py"]  # fmt: skip
    model = onnx.load(found["model"])
    onnx.checker.check_model(model)
    assert os.fsencode(Path(to_onnx.__file__).parent) not in found["model"].read_bytes()
    about = {one.key: json.loads(one.value) for one in model.metadata_props}
    assert about["classes"] == run.classes and about["notes"] == run.about["notes"]
    assert about["reading"] == run.recipe.reading() and about["reading"]["size"] == 32
    assert about["threshold"] is about["temperature"] is about["adapted"] is None
    assert "not a medical device" in about["purpose"]
    assert about["data_fingerprint"] == run.about["data"]["fingerprint"]
    assert len(about["checkpoint_sha256"]) == 64
    assert [one.version for one in model.opset_import if one.domain == ""] == [to_onnx.OPSET]
    sizes = model.graph.input[0].type.tensor_type.shape.dim
    assert sizes[0].dim_param and [size.dim_value for size in sizes[1:]] == [1, 32, 32]
    assert sum(found["compared"].values()) == 100 and found["compared"]["val"] > 0
    assert found["difference"] < 1e-5 and found["bytes"] == found["model"].stat().st_size
    assert "may take minutes" in said[0]  # before anything else is done
    assert "compared with the run on 100 images" in said[1] and "both in fp32" in said[1]
    assert "predict.py" in said[2] and len(said) == 3  # the run was trained in fp32


def test_of_a_run_that_was_measured_in_bf16_it_is_told_how_many_answers_are_others(run, tmp_path):
    copy, said = shutil.copytree(run.folder, tmp_path / "run"), []
    with edited(copy / "recipe.json") as about:
        about["machine"]["precision"] = "bf16"
    export(copy, tmp_path / "model.onnx", log=said.append, show=False)
    n = len(run.part("val"))
    words = f"measured in bf16; of {n} images of its own, 0 get another answer"
    assert words in said[-1] and "--precision fp32" in said[-1]
    table = pd.read_csv(copy / "predictions.csv", keep_default_na=False)
    scores = [f"p_{name}" for name in run.classes]
    table[scores] = table[scores].to_numpy()[:, ::-1]
    table["predicted"] = table[scores].idxmax(axis=1).str.removeprefix("p_")
    table.to_csv(copy / "predictions.csv", index=False)
    with pytest.warns(UserWarning, match=rf"{n} images .* another answer .* not the export's"):
        export(copy, tmp_path / "model.onnx", show=False)


def test_classes_of_any_names_are_compared(two_classes, tmp_path):
    """One is called as a table's column would be, to tell it from another's."""
    for split, (one, other) in itertools.product(("train", "test"), (("CNV", "b"), ("NORMAL", "b_exported"))):  # fmt: skip
        shutil.copytree(two_classes / split / one, tmp_path / "data" / split / other)
    run, said = train(tmp_path / "data", tmp_path / "run", BINARY), []
    assert run.classes == ["b", "b_exported"]
    with edited(run.folder / "recipe.json") as about:
        about["machine"]["precision"] = "bf16"
    export(run.folder, tmp_path / "model.onnx", log=said.append, show=False)
    assert "of its own, 0 get another answer" in said[-1]
    assert float(re.search(r"differ by up to ([\d.e-]+);", said[-1])[1]) < 1e-4


@pytest.mark.parametrize("lost", ["predictions.csv", "the images"])
def test_where_nothing_was_measured_in_bf16_that_could_be_compared_its_rounding_is_told(
    lost, run, tmp_path, monkeypatch
):
    monkeypatch.setattr(devices, "_natural_precision", lambda device: ("bf16", "made for it"))
    copy, said = shutil.copytree(run.folder, tmp_path / "run"), []
    with edited(copy / "recipe.json") as about:
        about["machine"]["precision"] = "bf16"
        if lost == "the images":
            about["data"]["root"] = str(tmp_path / "gone")
        else:
            (copy / lost).unlink()
    found = export(copy, tmp_path / "model.onnx", log=said.append, show=False)
    assert found["model"].is_file() and "computes in bf16 on this machine" in said[-1]


def test_no_folder_is_made_among_the_images(run):
    to = run.root / "exported"
    with pytest.raises(ValueError, match=f"such as {re.escape(str(run.root.parent / 'exported'))}"):
        export(run.folder, to / "model.onnx", log=None, show=False)
    assert not to.exists()


def test_where_what_was_measured_is_damaged_no_file_is_left(run, tmp_path):
    copy = shutil.copytree(run.folder, tmp_path / "run")
    with edited(copy / "recipe.json") as about:
        about["machine"]["precision"] = "bf16"
    (copy / "predictions.csv").write_text("path\nnowhere.png\n")
    (tmp_path / "to").mkdir()
    with pytest.raises(ValueError, match="not what a run writes"):
        export(copy, tmp_path / "to" / "model.onnx", show=False)
    assert not os.listdir(tmp_path / "to")


@pytest.mark.filterwarnings("ignore")  # Pillow's, of damaged files
def test_predict_py_reads_every_kind_of_file_as_the_run_does(exported, run, all_kinds, tmp_path):
    found, _ = exported
    with pytest.warns(UserWarning, match="cannot be read"):
        wanted = predict(run.folder, [all_kinds], **CPU)
    done = alone(RUN, found["script"], all_kinds, "--out", tmp_path / "answers.csv")
    assert done.returncode == 0, done.stderr
    answers = pd.read_csv(tmp_path / "answers.csv", dtype={"path": str}, keep_default_na=False)
    assert list(answers) == ["path", *(f"p_{name}" for name in run.classes), "predicted"]
    wanted = wanted.set_index("path").loc[answers["path"]]
    assert len(answers) == len(wanted) > 150
    columns = [f"p_{name}" for name in run.classes]
    assert np.abs(answers[columns].to_numpy() - wanted[columns].to_numpy()).max() < 1e-5
    assert answers["predicted"].tolist() == wanted["predicted"].tolist()
    files = layouts.image_files([all_kinds])
    lost = set(map(str, files)) - set(answers["path"])
    assert len(lost) > 50 and done.stderr.count("left out: ") == len(lost)
    assert "random weights" in done.stderr and "not a medical device" in done.stderr


@pytest.mark.filterwarnings("ignore")  # Pillow's, of damaged files
def test_predict_py_has_the_same_pixels_and_the_same_reasons(exported, all_kinds, tmp_path):
    files = layouts.image_files([all_kinds])
    done = alone(READ, exported[0]["script"], tmp_path / "pixels.npz", *files)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "pixels.npz") as found:
        for i, file in enumerate(files):
            for resize in loaders.RESIZES:
                for channels in (1, 3):
                    try:
                        wanted = loaders.read_image(file, 32, resize, channels).numpy()
                    except UnreadableImage as error:
                        wanted = np.array(str(error))
                    assert np.array_equal(found[f"{i} {resize} {channels}"], wanted), file


@pytest.fixture(scope="module")
def home(two_classes, trained, tmp_path_factory):
    """A run of one logit and in color that answers by a threshold of its own, and an adaptation of it."""
    changes = {"threshold": "specificity>=0.9", "val": "0.3", "epochs": "1", "resize": "pad"}
    recipe = small("chest-vgg16-gap", **changes, **TINY_NET, channels=3)
    run = trained(two_classes, recipe)
    place = tmp_path_factory.mktemp("site") / "images"
    for label, first in (("CNV", 20), ("NORMAL", 120)):
        (place / label).mkdir(parents=True)
        for patient in range(first, first + 8):
            darker = draw_tiny(label, patient).point(lambda grey: grey // 2)
            darker.save(place / label / f"{label}-{patient}-1.png")
    adapt(run.folder, place, name="site", **CPU, draws=5, repeats=50)
    return run


@pytest.mark.parametrize(
    "how",
    [{}, pytest.param({"calibrated": True}, marks=pytest.mark.slow), {"adapted": "site"}],
    ids=str,
)
def test_thresholds_and_temperatures_are_the_runs(home, how, tmp_path):
    found = export(home.folder, tmp_path / "model.onnx", show=False, **how)
    wanted = predict(home.folder, [home.root], **CPU, **how).set_index("path")
    about, answers, lost = predict_onnx.predict(found["model"], [home.root])
    assert not lost and len(answers) == len(wanted) == 24
    for path, scores, answer in answers:
        row = wanted.loc[path]
        assert np.allclose(scores, row[["p_CNV", "p_NORMAL"]].to_numpy(float), atol=1e-5)
        assert answer == row["predicted"]
    assert (about["temperature"] is None) == (not how) and about["threshold"] is not None
    assert about["adapted"] == how.get("adapted") and about["reading"]["channels"] == 3


def spoiled(monkeypatch, which):
    """Let the conversion go wrong: `which` says of fused or not whether it does."""
    right = to_onnx.convert

    def convert(model, size, channels, mean, std, temperature, fused):
        mean = (0.4, 0.4, 0.4) if which(fused) else mean
        return right(model, size, channels, mean, std, temperature, fused)

    monkeypatch.setattr(to_onnx, "convert", convert)


def test_a_model_that_answers_otherwise_is_not_left(home, tmp_path, monkeypatch):
    (tmp_path / "model.onnx").write_bytes(b"an earlier one")
    spoiled(monkeypatch, lambda fused: True)
    with pytest.raises(AnswersDiffer, match=r"on 100 images a probability differs by up to 0\.\d+"):
        export(home.folder, tmp_path / "model.onnx", show=False)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert (tmp_path / "model.onnx").read_bytes() == b"an earlier one"


@pytest.mark.slow
def test_where_the_exporters_fusions_are_wrong_it_is_converted_without(home, tmp_path, monkeypatch):
    spoiled(monkeypatch, lambda fused: fused)
    assert export(home.folder, tmp_path / "model.onnx", show=False)["difference"] < 1e-5


def test_noise_is_compared_where_the_images_are_gone_and_views_are_told(home, tmp_path):
    copy = Path(shutil.copytree(home.folder, tmp_path / "run"))
    about = json.loads((copy / "recipe.json").read_text())
    about["data"]["root"], about["recipe"]["test_views"] = str(tmp_path / "gone"), 2
    (copy / "recipe.json").write_text(json.dumps(about))
    with pytest.warns(UserWarning, match="means over the image and 2 views of it"):
        found = export(copy, tmp_path / "model.onnx", show=False)
    assert found["compared"] == {"val": 0, "train": 0, "noise": 100}


def test_a_predict_py_of_somebody_else_and_other_names_are_refused(run, tmp_path):
    (tmp_path / "predict.py").write_text("print('mine')\n")
    with pytest.raises(ValueError, match="not one that an export has made"):
        export(run.folder, tmp_path / "model.onnx", show=False)
    with pytest.raises(ValueError, match=r"ends in \.onnx"):
        export(run.folder, tmp_path / "model.pt", show=False)
    assert os.listdir(tmp_path) == ["predict.py"]
