"""The answer to one image: that of `predict`, with what a careful reader wants beside it."""

from __future__ import annotations

import base64
import io
import json
import shutil

import numpy as np
import pytest
from bombs import png, whole_png
from dicom_files import encoded, of, write_folder
from PIL import Image
from small_runs import CPU, first, small, train
from tiny_images import draw_tiny

from tlutils.core.images import UnreadableImage
from tlutils.data.loaders import read_image
from tlutils.runs.adapt import adapt
from tlutils.runs.folder import Run
from tlutils.runs.use import predict, threshold_in_words
from tlutils.serve.answers import Answerer

pytestmark = pytest.mark.filterwarnings("ignore:.* unlike the training images")


def picture(url: str) -> Image.Image:
    """The image in a data URL."""
    kind, data = url.split(",")
    assert kind == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def dicom(**elements: int) -> bytes:
    """A DICOM file of 16 x 16 pixels whose header may say otherwise."""
    return encoded(of(np.zeros((16, 16), np.uint16), **elements))


def scans(data, part="test"):
    return sorted((data / part).rglob("*.jpeg"))


def assert_answered_as_by_predict(answerer, folder, files, **how):
    table = predict(folder, files, **CPU, **how)
    for file, row in zip(files, table.to_dict("records")):
        found = answerer.answer(file.read_bytes())
        assert found["answer"] == row["predicted"] and found["unlike"] == row["unlike"]
        assert found["distance"] == pytest.approx(row["distance"], rel=1e-4)
        shown = {one["name"]: one["probability"] for one in found["classes"]}
        wanted = {name: row[f"p_{name}"] for name in shown}
        assert shown == pytest.approx(wanted, abs=1e-6)


def test_the_answer_is_that_of_predict(run, answerer, tiny_folder):
    assert_answered_as_by_predict(answerer, run.folder, scans(tiny_folder))


def test_a_threshold_is_marked_on_the_class_that_it_is_about(binary, tiny_folder):
    answerer, files = Answerer(binary.folder, **CPU), scans(tiny_folder)
    assert_answered_as_by_predict(answerer, binary.folder, files)
    negative, positive = answerer.answer(files[0].read_bytes())["classes"]
    assert (negative["mark"], positive["mark"]) == (None, pytest.approx(binary.threshold))
    assert answerer.about()["rule"] == threshold_in_words(binary)
    rule = f"NORMAL is answered from a probability of {binary.threshold:.3f} on. "
    assert answerer.about()["rule"] == f"{rule}That is the threshold of the run."


def test_an_adaptation_answers_and_its_mark_is_where_the_answer_turns(
    binary, tiny_folder, tmp_path
):
    for label in ("CNV", "NORMAL"):
        (tmp_path / "local" / label).mkdir(parents=True)
        for patient in range(9):
            scan = draw_tiny(label, seed=9000 + patient)
            scan.save(tmp_path / "local" / label / f"{label}-{9000 + patient}-1.jpeg")
    folder = shutil.copytree(binary.folder, tmp_path / "run")
    chosen = adapt(folder, tmp_path / "local", name="here", **CPU)
    chosen["temperature"]["value"] = 2.0
    (folder / "adaptations" / "here.json").write_text(json.dumps(chosen))
    answerer, files = Answerer(folder, "here", **CPU), scans(tiny_folder)
    assert_answered_as_by_predict(answerer, folder, files, adapted="here")
    assert "at the temperature of here" in answerer.about()["rule"]
    assert threshold_in_words(Run.load(folder), adapted="here") in answerer.about()["rule"]
    for file in files:
        found = answerer.answer(file.read_bytes())
        positive = found["classes"][1]
        turned = positive["probability"] >= positive["mark"]
        assert turned == (found["answer"] == positive["name"])


def test_the_nearest_to_a_training_image_is_itself_and_it_is_said_to_be_one(
    run, answerer, tiny_folder
):
    file = first(tiny_folder)
    found = answerer.answer(file.read_bytes())
    similarities = [one["similarity"] for one in found["nearest"]]
    assert found["nearest"][0]["path"] == file.relative_to(run.root).as_posix()
    assert found["nearest"][0]["label"] == "CNV" and similarities[0] == pytest.approx(1, abs=1e-3)
    assert len(similarities) == 5 and similarities == sorted(similarities, reverse=True)
    assert all(picture(one["picture"]).size == (160, 160) for one in found["nearest"])
    assert found["known"] == "train"
    assert answerer.answer(scans(tiny_folder)[0].read_bytes())["known"] == "test"


def test_images_and_the_nearest_are_shown_in_the_window_of_the_run(tmp_path):
    data = write_folder(tmp_path / "data", range(1, 7), ("CNV", "NORMAL"))
    run = train(data, tmp_path / "run", small(window="500,3000", epochs="1"))
    path = run.part("train")["path"].iloc[0]
    found = Answerer(run.folder, **CPU).answer((data / path).read_bytes())
    for shown, how in (
        (found["picture"], {"size": 512}),
        (found["nearest"][0]["picture"], {"size": 160, "resize": "pad"}),
    ):
        wanted = read_image(data / path, **run.recipe.reading() | how)
        assert np.array_equal(np.asarray(picture(shown)), wanted[0].numpy())


def test_an_image_is_shown_in_its_own_shape_with_a_map_over_it(answerer, tiny_folder):
    found = answerer.answer(first(tiny_folder, "test/DME").read_bytes())
    assert found["shape"] == [64, 48] and picture(found["picture"]).mode == "L"
    laid_over = np.asarray(picture(found["map"]))
    assert laid_over.shape == (64, 64, 4) and np.ptp(laid_over[..., 3]) > 9
    assert laid_over[..., 3].min() == 0  # a map of few places would veil the picture
    assert "Grad-CAM" in found["words"] and found["known"] == "test"


def test_a_blank_is_unlike_the_training_images(answerer):
    found = answerer.answer(whole_png(64, 48))
    assert found["unlike"] and found["distance"] > 1 and found["known"] is None


def test_a_layer_of_one_place_has_no_map(binary, tiny_folder):
    found = Answerer(binary.folder, **CPU).answer(first(tiny_folder).read_bytes())
    assert found["map"] is None
    assert "one place" in found["words"] or "no place" in found["words"]


def test_it_answers_where_the_training_images_are_gone_and_says_so(tiny_folder, tmp_path):
    data = shutil.copytree(tiny_folder, tmp_path / "data")
    run = train(data, tmp_path / "run", small(epochs="1"))
    file = first(tiny_folder).read_bytes()
    Answerer(run.folder, **CPU)
    data.rename(tmp_path / "elsewhere")
    with pytest.warns(UserWarning, match="left out"):
        answerer = Answerer(run.folder, **CPU)
    found = answerer.answer(file)
    assert found["nearest"] == [] and found["unlike"] is not None
    assert "cannot be shown" in answerer.about()["training"]


def test_what_holds_for_every_answer_names_the_limits_of_the_run(run, answerer):
    about = answerer.about()
    assert about["title"] == f"squeezenet1_1 on {run.root.name}"
    assert about["notes"][0] == {"text": run.about["notes"][0], "grave": True}
    assert {note["text"] for note in about["notes"]} == set(run.about["notes"])
    assert "The weights were random" in [limit["title"] for limit in about["limits"]]


def test_the_limits_of_a_run_do_not_hang_on_what_was_measured_on_other_images(run, tmp_path):
    folder = shutil.copytree(run.folder, tmp_path / "run")
    for kind in ("evaluations", "adaptations"):
        (folder / kind).mkdir(exist_ok=True)
        (folder / kind / "x.json").write_text("3")
    limits = Answerer(folder, **CPU).about()["limits"]
    (told,) = (limit["text"] for limit in limits if limit["title"] == "Other places")
    assert "one collection" in told and "see Other images" not in told


def test_the_limits_begin_with_what_an_adaptation_was_chosen_on(run, tmp_path, tiny_folder):
    folder = shutil.copytree(run.folder, tmp_path / "run")
    place = shutil.copytree(tiny_folder / "test", tmp_path / "place")
    for file in place.rglob("*.jpeg"):  # else they were the run's own
        file.write_bytes(file.read_bytes() + b"elsewhere")
    adapt(folder, place, name="site", log=None, **CPU)
    first, *others = Answerer(folder, adapted="site", **CPU).about()["limits"]
    assert first["title"] == "Threshold and temperature are those of site"
    assert first["text"].startswith("They were chosen on 16 images of 2 patients. More than two")
    assert others == Answerer(folder, **CPU).about()["limits"]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (
            b"some words",
            "^this is no image; choose a JPEG, PNG, BMP, TIFF, GIF, WebP or DICOM file$",
        ),
        (b"", "^this file cannot be answered: empty file$"),
        (png(50_000, 50_000), "decompression bomb"),
        (whole_png(8_000, 5_000), "8,000 x 5,000 pixels"),
        (whole_png(64, 64)[:-20], "^this file cannot be answered: [^:]"),
        (dicom(Rows=5_000, Columns=8_000), "8,000 x 5,000 pixels"),
        (dicom(NumberOfFrames=3), "^this file cannot be answered: 3 frames"),
        (dicom()[:400], "^this file cannot be answered: [^:]"),
    ],
    ids=["text", "nothing", "bomb", "many pixels", "cut", "large DICOM", "frames", "cut DICOM"],
)
def test_what_cannot_be_read_is_refused_in_a_sentence_before_it_takes_memory(answerer, data, why):
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UnreadableImage, match=why):
        answerer.answer(data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000
