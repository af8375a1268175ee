"""Single answers, errors, maps of what counted and how far to trust them, labels to doubt."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from tlutils.core.devices import Machine
from tlutils.core.images import UnreadableImage
from tlutils.data import augment, loaders, records
from tlutils.evaluation import thresholds
from tlutils.evaluation.metrics import accuracy_by
from tlutils.evaluation.predict import predict
from tlutils.inspection import attribution, errors
from tlutils.models.build import build, last_conv, probabilities

CLASSES = ["dark", "bright"]


def bright_square(row, column, size=32, side=8):
    """uint8 (1, size, size): dim noise with one bright square."""
    image = torch.randint(0, 60, (1, size, size), generator=torch.Generator().manual_seed(1)).to(
        torch.uint8
    )
    image[:, row : row + side, column : column + side] = 240
    return image


def net(outputs=2, inplace=True, softmax=False):
    """A frozen network, made by hand, that says "bright" where it sees bright pixels.

    Its second convolution has two maps, brightness and noise; only the first counts for the answer.
    """
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(inplace),
        nn.Conv2d(4, 2, 3, padding=1),
        nn.ReLU(inplace),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(2, outputs),
        *([nn.LogSoftmax(1)] if softmax else []),
    )
    with torch.no_grad():
        model[0].weight[0], model[0].bias[0] = 1 / 27, 0.0
        model[2].weight[0], model[2].bias[0] = 0.0, 0.0
        model[2].weight[0, 0] = 1 / 9
        model[7].weight.copy_(
            torch.tensor([[5.0, 0.0]] if outputs == 1 else [[-5.0, 0.0], [5.0, 0.0]])
        )
        model[7].bias.copy_(torch.tensor([-0.2] if outputs == 1 else [0.2, -0.2]))
    return model.requires_grad_(False)


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
    assert errors.hardest(SOME, 7)["loss"].is_monotonic_decreasing


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
    assert len(errors.hardest(SOME.assign(label=["A"] + [""] * 6), 9)) == 1


def test_file_properties_are_found_by_path_whatever_the_order():
    files = pd.DataFrame({"path": SOME["path"], "width": range(7), "height": 5, "mode": "L"}).iloc[
        ::-1
    ]
    found = errors.with_file_properties(SOME.iloc[2:], files)
    assert found["width"].tolist() == [2, 3, 4, 5, 6] and found.index.tolist() == [2, 3, 4, 5, 6]
    assert accuracy_by(found, "mode").loc["L", "n"] == 5
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


def without(monkeypatch, package):
    """As on a machine without a package."""
    for name in [name for name in sys.modules if name.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)


def test_out_of_fold_answers_come_from_a_model_that_has_not_met_the_patient():
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


def test_too_few_patients_for_the_folds_is_said():
    table = pd.DataFrame(
        {"path": list("abcd"), "patient": list("wxyz"), "label": ["A", "A", "B", "B"]}
    )
    with pytest.raises(ValueError, match="2 patients.*5 folds"):
        errors.out_of_fold(np.zeros((4, 2)), table)
    nobody = pd.DataFrame({"path": list("abcdefgh"), "patient": None, "label": list("xyxyxyxy")})
    found = errors.out_of_fold(np.random.default_rng(0).normal(size=(8, 2)), nobody, folds=2)
    assert len(found) == 8 and found["split"].nunique() == 2
    with pytest.raises(ValueError, match="found 1 classes among 8"):
        errors.out_of_fold(np.zeros((8, 2)), nobody.assign(label="x"))


def test_the_kind_of_a_chest_is_read_from_its_name():
    table = pd.DataFrame(
        {
            "path": [
                "train/PNEUMONIA/person1_virus_6.jpeg",
                "person1_bacteria_2.jpeg",
                "IM-0115-0001.jpeg",
            ],
            "label": ["PNEUMONIA", "PNEUMONIA", "NORMAL"],
        }
    )
    assert errors.with_kind(table)["kind"].tolist() == ["viral", "bacterial", "NORMAL"]


def test_a_missing_package_is_named_with_how_to_get_it(monkeypatch):
    without(monkeypatch, "cleanlab")
    with pytest.raises(ImportError, match="pip install cleanlab"):
        errors.suspected_wrong_labels(with_wrong_labels())
    without(monkeypatch, "captum")
    with pytest.raises(ImportError, match="pip install captum"):
        attribution.grad_cam(net(), bright_square(4, 4)[None])


# Maps


@pytest.mark.parametrize(("row", "column"), [(2, 3), (20, 4), (10, 22)])
@pytest.mark.parametrize("outputs", [1, 2])
def test_the_map_of_a_frozen_network_finds_the_square_that_counts(row, column, outputs):
    image = bright_square(row, column)
    heat = attribution.grad_cam(net(outputs), image[None], target=1)
    assert heat.shape == (1, 32, 32) and heat.dtype == np.float32
    assert heat.min() >= 0 and heat.max() == 1
    inside = heat[0, row : row + 8, column : column + 8]
    assert inside.mean() > 0.6 and heat[0].sum() - inside.sum() < 0.35 * heat[0].sum()


def test_the_map_is_grad_cam_worked_by_hand():
    model, image = net().eval(), bright_square(5, 9)
    with torch.no_grad():
        maps = model[:3](augment.normalize(image[None]))[0]
    # d score / d map = weight / places where the ReLU lets through; its mean over all places weighs the map
    weight = 5.0 * (maps[0] > 0).float().mean() / maps[0].numel()
    expected = (weight * maps[0]).clamp(min=0)
    assert np.allclose(
        attribution.grad_cam(model, image[None], target=1)[0], expected / expected.max(), atol=1e-6
    )


def test_without_a_target_each_image_is_asked_for_its_own_answer():
    images = torch.stack([bright_square(4, 4), bright_square(4, 4, side=3)])
    answers = [CLASSES.index(errors.top_k(net(), image, CLASSES)["class"][0]) for image in images]
    assert answers == [1, 0]
    own = attribution.grad_cam(net(), images)
    assert np.array_equal(own, attribution.grad_cam(net(), images, target=answers))
    assert np.allclose(own[:1], attribution.grad_cam(net(), images[:1], target=1), atol=1e-6)


@pytest.mark.parametrize("outputs", [1, 2])
def test_evidence_against_a_class_is_no_evidence_for_it(outputs):
    heat = attribution.grad_cam(net(outputs), bright_square(4, 4)[None], target=0)
    assert heat[0, 5:11, 5:11].max() < 0.05


def test_in_place_activations_change_nothing():
    image = bright_square(4, 20)[None]
    for layer in (None, "0"):
        assert np.array_equal(
            attribution.grad_cam(net(inplace=True), image, 1, layer),
            attribution.grad_cam(net(inplace=False), image, 1, layer),
        )


def test_a_sure_answer_does_not_blank_the_map():
    model = net(softmax=True)
    model[7].weight.mul_(1000)
    image = bright_square(4, 4)[None]
    assert errors.top_k(model, image[0], CLASSES)["probability"][0] == 1
    heat = attribution.grad_cam(model, image, target=1)
    assert np.allclose(heat, attribution.grad_cam(net(), image, target=1), atol=1e-5)
    with torch.no_grad():  # and the model ends in LogSoftmax again
        assert model(augment.normalize(image)).exp().sum() == pytest.approx(1)


@pytest.mark.parametrize(
    "look",
    [
        lambda model, images: attribution.grad_cam(model, images),
        lambda model, images: attribution.occlusion(model, images, 8),
        lambda model, images: attribution.random_weights_check(model, images[0]),
        lambda model, images: errors.top_k(model, images[0], CLASSES),
    ],
)
def test_looking_leaves_the_model_as_it_was(look):
    model = net().train()
    model[6].eval()
    model[7].requires_grad_(True)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes, random = [module.training for module in model.modules()], torch.get_rng_state()
    with torch.no_grad():
        look(model, bright_square(4, 4)[None])
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == [False] * 4 + [True] * 2
    assert all(p.grad is None for p in model.parameters()) and torch.equal(
        torch.get_rng_state(), random
    )
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("backbone", "head", "outputs", "freeze"),
    [
        ("vgg16", "gap", 1, "all"),
        ("resnet18", "mlp", None, "all"),
        ("resnet18", "linear", None, "none"),
        ("densenet121", "linear", None, "all"),
        ("mobilenet_v3_small", "mlp", None, "all"),
        ("shufflenet_v2_x0_5", "gap", None, "up to stage2"),
        ("squeezenet1_0", "linear", 1, "none"),
        ("mnasnet0_5", "linear", None, "all"),
        ("regnet_y_400mf", "linear", None, "all"),
        ("googlenet", "linear", None, "all"),
        ("efficientnet_b0", "linear", None, "none"),
        ("convnext_tiny", "gap", None, "all"),
        ("alexnet", "gap", 1, "all"),
    ],
)
def test_real_architectures_give_maps(backbone, head, outputs, freeze):
    model = build(backbone, 2, head, outputs=outputs, freeze=freeze)
    images = torch.stack([bright_square(10, 10, 64), bright_square(40, 30, 64)])
    heat = attribution.grad_cam(model, images)
    assert (
        heat.shape == (2, 64, 64) and np.isfinite(heat).all() and 0 <= heat.min() <= heat.max() <= 1
    )
    named = attribution.grad_cam(model, images, layer=last_conv(model)[0])
    assert np.array_equal(heat, named)


@pytest.mark.parametrize(
    ("backbone", "layer"),
    [("swin_t", None), ("swin_t", "features.7"), ("swin_v2_t", None), ("vit_b_32", None)],
)
def test_a_transformer_without_maps_is_refused_and_the_other_way_is_named(backbone, layer):
    model = build(backbone, 2, "linear", device="meta")
    with pytest.raises(ValueError, match="Transformer has no maps.*use occlusion"):
        attribution.grad_cam(model, bright_square(4, 4)[None], layer=layer)


def test_what_gives_no_map_is_refused():
    images = bright_square(4, 4)[None]
    with pytest.raises(ValueError, match="no layer 'conv9'.*last convolution is '2'"):
        attribution.grad_cam(net(), images, layer="conv9")
    with pytest.raises(ValueError, match="Linear gives.*name a convolution"):
        attribution.grad_cam(net(), images, layer="7")
    for target in (2, -1, [0, 1]):
        with pytest.raises(ValueError, match="class index from 0 to 1"):
            attribution.grad_cam(net(), images, target=target)


@pytest.mark.parametrize("outputs", [1, 2])
def test_covering_the_square_lowers_the_probability_most(outputs):
    image = bright_square(8, 16) // 2 + 120
    found = attribution.occlusion(net(outputs), image[None], window=8, stride=8, target=1)
    assert found.shape == (1, 32, 32) and found.dtype == np.float32
    assert np.unravel_index(found[0].argmax(), (32, 32)) == (8, 16)
    with (
        torch.no_grad()
    ):  # the number is the fall of the probability, with the square as grey as the image's mean
        inputs = augment.normalize(image[None])
        covered = inputs.clone()
        covered[:, :, 8:16, 16:24] = inputs.mean((2, 3), keepdim=True)
        p, q = (probabilities(net(outputs).eval()(x))[0, 1] for x in (inputs, covered))
    assert found[0, 8:16, 16:24] == pytest.approx(float(p - q), abs=1e-6)


def test_a_window_has_a_default_and_must_fit():
    assert attribution.occlusion(net(), bright_square(4, 4)[None]).shape == (1, 32, 32)
    with pytest.raises(ValueError, match="window is 40"):
        attribution.occlusion(net(), bright_square(4, 4)[None], window=40)


def test_a_map_of_what_was_learned_resembles_random_weights_less_than_they_resemble_each_other():
    """A network that answers to medium grey and to nothing brighter; random ones answer to brightness."""
    image = bright_square(2, 2, side=10)
    image[:, 20:30, 20:30] = 120
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.ReLU(),
        nn.Conv2d(8, 1, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(1, 2),
    )
    with torch.no_grad():  # relu(x + 2) - 4 relu(x - 0.5) rises up to 0.5 and falls beyond
        for p in model.parameters():
            p.zero_()
        model[0].weight[:2] = 1 / 3
        model[0].bias[:2] = torch.tensor([2.0, -0.5])
        model[2].weight[0, :2, 0, 0] = torch.tensor([1.0, -4.0])
        model[6].weight[1] = 1
    untrained = attribution.randomised(model, 79)
    assert attribution.random_weights_check(model, image, target=1, repeats=5) < 0
    assert attribution.random_weights_check(untrained, image, target=1, repeats=5) > 0.5


def test_a_map_that_only_shows_the_picture_is_found_out():
    """One convolution of one pixel, one map: whatever the weight, the map is the picture's brightness."""
    model = nn.Sequential(
        nn.Conv2d(3, 1, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2)
    )
    model.tl = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    assert attribution.random_weights_check(model, bright_square(4, 4), target=1) == pytest.approx(
        1
    )


def test_a_flat_map_resembles_nothing():
    assert np.isnan(
        attribution.random_weights_check(net(), torch.zeros(1, 32, 32, dtype=torch.uint8))
    )


def test_randomised_weights_are_other_weights_and_the_same_for_a_seed():
    model = build("resnet18", 2, "linear")
    state = {name: value.clone() for name, value in model.state_dict().items()}
    one, same, other = (attribution.randomised(model, seed).state_dict() for seed in (0, 0, 1))
    weights = [name for name in state if name.endswith("weight") and state[name].ndim > 1]
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(
        torch.equal(one[name], other[name]) or torch.equal(one[name], state[name])
        for name in weights
    )
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
