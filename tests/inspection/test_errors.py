"""Single answers, errors, maps of what counted and how far to trust them, labels to doubt."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from seeing_nets import CLASSES, bright_square, net, without

from tlutils.core.devices import Machine
from tlutils.core.images import UnreadableImage
from tlutils.data import augment, loaders, records
from tlutils.evaluation import thresholds
from tlutils.evaluation.metrics import accuracy_by
from tlutils.evaluation.predict import predict
from tlutils.inspection import attribution, errors


def predictions_of(rows, classes=("A", "B", "C"), split="test"):
    """Rows of (patient, label, probabilities)."""
    scores = np.array([p for _, _, p in rows], dtype=float)
    made = pd.DataFrame(
        {
            "split": split,
            "path": [f"{i}.png" for i in range(len(rows))],
            "patient": [patient for patient, _, _ in rows],
            "label": [label for _, label, _ in rows],
            "predicted": np.array(classes)[scores.argmax(1)],
        }
    )
    for i, name in enumerate(classes):
        made[f"p_{name}"] = scores[:, i]
    true = [classes.index(label) if label else 0 for label in made["label"]]
    return made.assign(loss=-np.log(scores[np.arange(len(rows)), true]))


SOME = predictions_of(
    [
        ("1", "A", [0.8, 0.1, 0.1]),
        ("1", "A", [0.05, 0.9, 0.05]),
        ("1", "A", [0.2, 0.7, 0.1]),
        ("2", "A", [0.4, 0.6, 0.0]),
        ("3", "B", [0.1, 0.2, 0.7]),
        ("3", "B", [0.0, 0.99, 0.01]),
        ("4", "C", [0.55, 0.44, 0.01]),
    ]
)


# Answers and errors


def test_top_k_gives_the_likeliest_classes_first_and_clips_k():
    image = bright_square(4, 4)
    found = errors.top_k(net(), image, CLASSES, k=5)
    with torch.no_grad():
        p = net().eval()(augment.normalize(image[None])).softmax(1)[0]
    assert found["class"].tolist() == [CLASSES[i] for i in p.argsort(descending=True)]
    assert found["probability"].tolist() == pytest.approx(sorted(p.tolist(), reverse=True))
    assert (
        len(errors.top_k(net(), image, CLASSES, k=1))
        == 1
        == len(errors.top_k(net(), image, CLASSES, k=0))
    )


def test_a_file_is_read_as_in_training(tiny_folder):
    path = next(tiny_folder.rglob("*.jpeg"))
    for reading in ({"size": 24}, {"size": 32, "resize": "pad"}, {"size": 32, "channels": 3}):
        read = errors.top_k(net(), loaders.read_image(path, **reading), CLASSES)
        pd.testing.assert_frame_equal(errors.top_k(net(), path, CLASSES, **reading), read)
    with pytest.raises(UnreadableImage, match="nowhere.png"):
        errors.top_k(net(), "nowhere.png", CLASSES)


def test_top_k_agrees_with_predictions(tiny_folder):
    table = records.scan(tiny_folder).head(6)
    loader = loaders.make(table, tiny_folder, ["CNV", "DME"], size=32)
    predictions = predict(net(), loader, Machine(torch.device("cpu")))
    for _, row in predictions.iterrows():
        found = errors.top_k(net(), tiny_folder / row["path"], loader.classes, size=32).set_index(
            "class"
        )
        assert found.loc["CNV", "probability"] == pytest.approx(row["p_CNV"], abs=1e-6)


def test_one_logit_answers_with_two_classes():
    one, two = (errors.top_k(net(outputs=n), bright_square(4, 4), CLASSES) for n in (1, 2))
    assert one["class"].tolist() == two["class"].tolist() and one[
        "probability"
    ].sum() == pytest.approx(1)


def test_classes_of_another_model_are_refused():
    with pytest.raises(ValueError, match="3 classes.*answers with 2"):
        errors.top_k(net(), bright_square(4, 4), ["a", "b", "c"])


def test_errors_are_sorted_by_what_makes_them_bad():
    assert errors.worst_errors(SOME)["path"].tolist()[0] == "6.png"
    assert errors.most_confident_errors(SOME, 3)["path"].tolist() == ["1.png", "2.png", "4.png"]
    assert errors.most_confident_errors(SOME, 1)["confidence"].tolist() == [0.9]
    for found in (errors.worst_errors(SOME), errors.most_confident_errors(SOME)):
        assert len(found) == 5 and (found["label"] != found["predicted"]).all()
    assert errors.easiest(SOME, 2)["path"].tolist() == ["5.png", "0.png"]


def test_confidence_is_that_of_the_answer_also_where_a_threshold_gave_it():
    two = predictions_of([("1", "A", [0.7, 0.3]), ("2", "A", [0.9, 0.1])], ("A", "B"))
    found = errors.most_confident_errors(thresholds.apply_threshold(two, 0.2))
    assert found["confidence"].tolist() == [0.3]


def test_confused_pairs_count_images_and_patients():
    found = errors.confused_pairs(SOME)
    assert list(found) == ["true", "predicted", "n", "share", "patients"]
    assert found.iloc[0].to_dict() == {
        "true": "A",
        "predicted": "B",
        "n": 3,
        "share": 0.75,
        "patients": 2,
    }
    assert found["n"].sum() == 5 and len(found) == 3


def test_a_model_without_errors_has_none_to_show():
    right = SOME[SOME["label"] == SOME["predicted"]]
    assert errors.worst_errors(right).empty and errors.most_confident_errors(right).empty
    assert errors.confused_pairs(right).empty


def test_without_labels_nothing_is_wrong():
    for nobody in ("", None, np.nan):
        with pytest.raises(ValueError, match="none of the 7 predictions has a label"):
            errors.worst_errors(SOME.assign(label=nobody))
    assert len(errors.easiest(SOME.assign(label=["A"] + [""] * 6), 9)) == 1


def test_file_properties_are_found_by_path_whatever_the_order():
    files = pd.DataFrame({"path": SOME["path"], "width": range(7), "height": 5, "mode": "L"}).iloc[
        ::-1
    ]
    found = errors.with_file_properties(SOME.iloc[2:], files)
    assert found["width"].tolist() == [2, 3, 4, 5, 6] and found.index.tolist() == [2, 3, 4, 5, 6]
    assert accuracy_by(found, "mode").loc["L", "n"] == 5
    looked = errors.with_file_properties(SOME, files.assign(brightness=80.0, wedge=0.1))
    assert (looked["wedge"] == 0.1).all() and (looked["brightness"] == 80).all()
    with pytest.raises(ValueError, match="records.inspect"):
        errors.with_file_properties(SOME, files[["path"]])
    with pytest.raises(ValueError, match="1 of the predicted images.*0.png"):
        errors.with_file_properties(SOME, files.head(6))


# Labels to doubt


def with_wrong_labels(n=150, classes=("A", "B", "C"), wrong=6):
    """A good model's predictions of images of which the first few carry another class's label."""
    rng = np.random.default_rng(0)
    truth = np.arange(n) % 3
    scores = rng.uniform(0.01, 0.1, (n, len(classes)))
    scores[np.arange(n), truth] = rng.uniform(0.8, 1, n)
    labels = np.array(classes)[np.where(np.arange(n) < wrong, (truth + 1) % 3, truth)]
    rows = zip(map(str, range(n)), labels, scores / scores.sum(1, keepdims=True))
    return predictions_of(list(rows), classes)


def test_planted_wrong_labels_are_found_and_no_right_one_is_doubted():
    found, planted = (
        errors.suspected_wrong_labels(with_wrong_labels()),
        {f"{i}.png" for i in range(6)},
    )
    assert (
        set(found["path"]) <= planted
        and len(found) >= 5
        and found["quality"].is_monotonic_increasing
    )
    assert len(errors.suspected_wrong_labels(with_wrong_labels(), n=2)) == 2


def test_labels_are_doubted_where_a_class_never_occurs_and_where_some_images_have_none():
    four = with_wrong_labels(classes=("A", "B", "C", "D"))
    four.loc[140:, "label"] = ""
    found = errors.suspected_wrong_labels(four)
    assert len(found) >= 5 and found["path"].isin([f"{i}.png" for i in range(6)]).all()
    with pytest.raises(ValueError, match="two classes"):
        errors.suspected_wrong_labels(four[four["label"] == "A"])


def test_out_of_fold_answers_come_from_a_model_that_has_not_seen_the_patient():
    """Each patient has a mark of his own beside the features of his class; a wrong label is found only without it."""
    draw = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "path": [f"{i}.png" for i in range(120)],
            "patient": [f"p{i // 3}" for i in range(120)],
            "label": ["A" if i // 3 % 2 else "B" for i in range(120)],
        }
    )
    features = np.concatenate(
        [
            draw.normal(0, 1, (120, 8)) + 2.5 * (table["label"] == "A").to_numpy()[:, None],
            6 * np.eye(40)[np.arange(120) // 3],
        ],
        1,
    )
    wrong = table["patient"].eq("p7")
    told = table.assign(label=table["label"].where(~wrong, "B"))  # p7 is of A
    found = errors.out_of_fold(features, told, folds=4)
    assert found["path"].tolist() == table["path"].tolist() and found["split"].nunique() == 4
    assert (found.groupby("patient")["split"].nunique() == 1).all()
    assert (found.loc[wrong, "predicted"] == "A").all() and (
        found["predicted"] == table["label"]
    ).mean() > 0.95
    assert np.allclose(found[["p_A", "p_B"]].sum(axis=1), 1)
    assert np.allclose(
        found["loss"], -np.log(np.where(told["label"] == "A", found["p_A"], found["p_B"]))
    )


def test_more_features_than_images_change_no_answer():
    """Features of which half are zeros: with them there are more than images, and the way is another."""
    draw = np.random.default_rng(0)
    table = pd.DataFrame({"path": [f"{i}.png" for i in range(60)], "label": list("ABC") * 20})
    table["patient"] = table["path"]
    features = draw.normal(0, 1, (60, 40)) + 0.5 * (table["label"] == "A").to_numpy()[:, None]
    wide = np.concatenate([features, np.zeros((60, 40))], 1)
    found, same = (errors.out_of_fold(one, table) for one in (features, wide))
    assert np.allclose(found[["p_A", "p_B", "p_C"]], same[["p_A", "p_B", "p_C"]], atol=1e-3)


def test_features_that_do_not_vary_are_answered_with_the_shares_of_the_classes():
    """As of a dead layer."""
    table = pd.DataFrame({"path": list("abcdefghi"), "label": list("xxyxxyxxy")})
    table["patient"] = table["path"]
    for width in (2, 50):
        found = errors.out_of_fold(np.ones((9, width), np.float32), table, folds=3)
        assert np.allclose(found["p_y"], 1 / 3, atol=1e-3)


def test_too_few_patients_for_the_folds_is_refused():
    table = pd.DataFrame(
        {"path": list("abcd"), "patient": list("wxyz"), "label": ["A", "A", "B", "B"]}
    )
    with pytest.raises(ValueError, match="2 patients.*5 folds"):
        errors.out_of_fold(np.zeros((4, 2)), table)
    nobody = pd.DataFrame({"path": list("abcdefgh"), "patient": None, "label": list("xyxyxyxy")})
    found = errors.out_of_fold(np.random.default_rng(0).normal(size=(8, 2)), nobody, folds=2)
    assert len(found) == 8 and found["split"].nunique() == 2
    with pytest.raises(ValueError, match="found 1 class among 8"):
        errors.out_of_fold(np.zeros((8, 2)), nobody.assign(label="x"))


def test_a_missing_package_is_named_with_how_to_get_it(monkeypatch):
    without(monkeypatch, "cleanlab")
    with pytest.raises(ImportError, match="pip install cleanlab"):
        errors.suspected_wrong_labels(with_wrong_labels())
    without(monkeypatch, "captum")
    with pytest.raises(ImportError, match="pip install captum"):
        attribution.grad_cam(net(), bright_square(4, 4)[None])
