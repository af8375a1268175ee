"""Maps of what counted, and how far to trust them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from seeing_nets import CLASSES, bright_square, net
from torch import nn

from tlutils.data import augment
from tlutils.inspection import attribution, errors
from tlutils.models.build import build, last_conv


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


def test_without_a_target_each_image_has_its_own_answer():
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


def test_a_map_that_is_positive_by_rounding_only_is_no_map():
    """All speaks against the class but one place, by a millionth."""
    model, image = net(), bright_square(4, 4)
    model[2].bias[1] = 1.0  # a second map, of ones, that counts for nearly nothing
    model[2].weight[1] = 0.0
    model[7].weight[0, 1] = 1e-6
    heat = attribution.grad_cam(model, image[None], target=0)
    assert heat.shape == (1, 32, 32) and not heat.any()


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
def test_covering_the_square_lowers_the_score_most(outputs):
    image = bright_square(8, 16) // 2 + 120
    found = attribution.occlusion(net(outputs), image[None], window=8, stride=8, target=1)
    assert found.shape == (1, 32, 32) and found.dtype == np.float32
    assert np.unravel_index(found[0].argmax(), (32, 32)) == (8, 16)
    # the number is the fall of the logit, with the square as grey as the image's mean
    inputs = augment.normalize(image[None])
    covered = inputs.clone()
    covered[:, :, 8:16, 16:24] = inputs.mean((2, 3), keepdim=True)
    z, without = (net(outputs).eval()(x)[0, -1].item() for x in (inputs, covered))
    assert found[0, 8:16, 16:24] == pytest.approx(z - without, abs=1e-6)


def test_covering_shows_the_logit_of_a_sure_answer_behind_a_softmax_too():
    """Ten times the weights: the probability is 1 wherever the cover lies, the logit is not."""
    image, plain, behind = bright_square(8, 16), net(), net(softmax=True)
    for model in (plain, behind):
        model[7].weight.mul_(10)
    found = [attribution.occlusion(model, image[None], 8, 8, 1) for model in (plain, behind)]
    assert found[0].max() > 1 and np.array_equal(*found)


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
    untrained = attribution.randomized(model, 79)
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


def test_randomized_weights_are_other_weights_and_the_same_for_a_seed():
    model = build("resnet18", 2, "linear")
    state = {name: value.clone() for name, value in model.state_dict().items()}
    one, same, other = (attribution.randomized(model, seed).state_dict() for seed in (0, 0, 1))
    weights = [name for name in state if name.endswith("weight") and state[name].ndim > 1]
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(
        torch.equal(one[name], other[name]) or torch.equal(one[name], state[name])
        for name in weights
    )
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_layers_that_give_no_tensor_or_are_not_asked_have_no_maps():
    class Odd(nn.Sequential):
        def forward(self, x):
            return self[1]((x, self[0](x))[1:])

    class First(nn.Module):
        def forward(self, x):
            return x[0].mean((2, 3))

    class Pair(nn.Module):
        def forward(self, x):
            return (x[0],)

    model = nn.Sequential(Odd(net()[0], Pair()), First(), nn.Identity())
    model[2].register_module("unused", nn.Conv2d(1, 1, 1))
    for name in ("0.1", "2.unused"):
        with pytest.raises(ValueError, match=f"{name} gives no tensor"):
            attribution.feature_maps(model, bright_square(5, 9), [name])
    assert not any(module._forward_hooks for module in model.modules())


def test_feature_maps_are_what_the_layers_give_and_leave_no_hook():
    model, image = net().train(), bright_square(5, 9)
    maps = attribution.feature_maps(model, image, ["2", "0"])
    with torch.no_grad():
        inputs = augment.normalize(image[None])
        first = model[0](inputs)
        second = model[2](first.relu())
    assert list(maps) == ["2", "0"] and maps["2"].shape == (2, 32, 32)
    assert np.allclose(maps["0"], first[0], atol=1e-6)  # before the activation that works in place
    assert np.allclose(maps["2"], second[0], atol=1e-6)
    assert model.training and not any(module._forward_hooks for module in model)
    with pytest.raises(ValueError, match="no layer 9"):
        attribution.feature_maps(model, image, ["9"])
    with pytest.raises(ValueError, match="no maps"):
        attribution.feature_maps(model, image, ["7"])
