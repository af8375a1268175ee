"""A torchvision backbone with a new head: what it holds, what learns, what stays."""

from __future__ import annotations

import copy
import functools
import sys
import types

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import models as zoo
from torchvision.transforms.functional import normalize

from tlutils.core.devices import Machine
from tlutils.data import loaders
from tlutils.data.augment import IMAGENET_MEAN, IMAGENET_STD
from tlutils.evaluation.predict import predict
from tlutils.models import build as building
from tlutils.models import checkpoints, prefix
from tlutils.models.build import (
    build,
    check_size,
    count,
    freeze,
    head_name,
    last_conv,
    probabilities,
    summary,
    table,
    train_mode,
    trainable_parameters,
)

SMALL = "mobilenet_v3_small"  # 2.5 million parameters
HEADS = ("mlp", "gap", "linear")
TRACED = (
    "vgg16",
    "vgg16_bn",
    "resnet18",
    "resnet152",
    "mobilenet_v2",
    "densenet121",
    "efficientnet_b0",
    "convnext_tiny",
    "squeezenet1_1",
    "googlenet",
)


@pytest.fixture(scope="module")
def vgg16():
    """The original work's network, once for all tests, as it takes half a gigabyte."""
    return build("vgg16", 4, "mlp", weights="random")


def state_file(folder, backbone, **changes):
    """A file with (random) weights of a whole torchvision network."""
    silent = {"init_weights": True} if backbone == "googlenet" else {}
    state = {**zoo.get_model(backbone, weights=None, **silent).state_dict(), **changes}
    torch.save(state, folder / f"{backbone}.pth")
    return str(folder / f"{backbone}.pth")


def step(model, parameters=None):
    """One training step, with weight decay and momentum, on random images."""
    parameters = parameters or trainable_parameters(model)
    optimizer = torch.optim.SGD(parameters, 0.1, momentum=0.9, weight_decay=0.1)
    draw = torch.Generator().manual_seed(0)
    outputs = train_mode(model)(torch.randn(4, 3, 64, 64, generator=draw))
    nn.functional.cross_entropy(outputs, torch.tensor([0, 1, 0, 1])).backward()
    optimizer.step()


def moved(model, before):
    """Names of the tensors of a model that differ from an earlier copy of its state."""
    return {
        name for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    }


# How many numbers, on the meta device


@pytest.mark.parametrize(
    ("arguments", "total", "trainable"),
    [
        (("vgg16", 4, "mlp"), 135_310_404, 1_049_860),
        (
            ("vgg16_bn", 4, "linear", None, 0.4, "up to features"),
            134_285_380,
            119_562_244,
        ),  # the classifier
        (("vgg16_bn", 4, "linear", None, 0.4, "none"), 134_285_380, 134_285_380),
        (("vgg16", 2, "gap", 1), 14_780_481, 65_793),
        (("resnet152", 2, "gap", 1), 58_406_209, 262_401),
        (("resnet18", 2, "linear"), 11_177_538, 1_026),
        (("resnet18", 2, "linear", None, 0.4, "up to bn1"), 11_177_538, 11_177_538 - 9_536),
    ],
)
def test_the_original_works_have_these_counts(arguments, total, trainable):
    model = build(*arguments, device="meta")
    assert count(model) == {"total": total, "trainable": trainable, "frozen": total - trainable}
    assert sum(p.numel() for p in trainable_parameters(model)) == trainable


def test_the_convolutions_of_vgg16_hold_what_they_held():
    blocks = table(build("vgg16", 4, "mlp", device="meta")).set_index("module")
    assert list(blocks.columns) == ["kind", "parameters", "trainable", "frozen"]
    assert list(blocks.index) == ["features", "avgpool", "classifier"]
    assert blocks.loc["features"].tolist() == ["Sequential", 14_714_688, 0, 14_714_688]
    assert blocks.loc["classifier", "trainable"] == 1_049_860


@pytest.mark.parametrize(
    "backbone", ["resnet18", "vit_b_16"]
)  # a ViT has a parameter outside all blocks
def test_the_rows_of_the_table_add_up_to_the_model(backbone):
    model = build(backbone, device="meta")
    sums = table(model)[["parameters", "trainable", "frozen"]].sum()
    assert sums.tolist() == list(count(model).values())


# Heads


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("backbone", TRACED)
def test_every_model_gives_one_row_an_image_and_can_be_traced(backbone, head):
    with torch.device("meta"):
        model = build(backbone, 3, head)
        images = torch.empty(2, 3, 224, 224)
    assert torch.fx.symbolic_trace(model)(images).shape == train_mode(model)(images).shape == (2, 3)
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learning == {
        name for name in model.state_dict() if name.startswith(head_name(model) + ".")
    }


@pytest.mark.parametrize(
    "backbone",
    [
        "regnet_x_400mf",
        "alexnet",
        "maxvit_t",
        "swin_t",
        "shufflenet_v2_x0_5",
        "mnasnet0_5",
        "inception_v3",
    ],
)
def test_other_backbones_work_as_well(backbone):
    for head in HEADS:
        model = build(backbone, 3, head, device="meta")
        assert model(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, 3)


FAMILIES = {
    "alexnet": 64,
    "convnext_tiny": 32,
    "densenet121": 32,
    "efficientnet_b0": 32,
    "efficientnet_v2_s": 32,
    "googlenet": 32,
    "inception_v3": 75,
    "maxvit_t": 224,
    "mnasnet0_5": 32,
    "mobilenet_v2": 32,
    "mobilenet_v3_small": 32,
    "regnet_y_400mf": 32,
    "resnet18": 32,
    "resnext50_32x4d": 32,
    "wide_resnet50_2": 32,
    "shufflenet_v2_x0_5": 32,
    "squeezenet1_0": 32,
    "swin_t": 32,
    "swin_v2_t": 32,
    "vgg11": 32,
    "vit_b_32": 224,
}
# One of each way of building: plain, with shortcuts, with shuffled channels, with a pooled head. The others are slow.
QUICK = ("alexnet", "mobilenet_v3_small", "resnet18", "shufflenet_v2_x0_5", "squeezenet1_0")


def up_to_the_middle(model):
    names = [name for name, _ in model.named_parameters()]
    return freeze(model, "up to " + names[len(names) // 2].rpartition(".")[0])


each_family = pytest.mark.parametrize(
    "backbone",
    [pytest.param(name, marks=pytest.mark.slow if name not in QUICK else ()) for name in FAMILIES],
)


@each_family
def test_every_family_is_frozen_and_cut_where_one_tensor_passes(backbone):
    model = build(backbone, 3, "linear", device="meta")
    images = torch.empty(2, 3, FAMILIES[backbone], FAMILIES[backbone], device="meta")
    for frozen in (model, up_to_the_middle(copy.deepcopy(model))):
        cut = prefix.split(train_mode(frozen))
        assert cut.tail(cut.prefix(images)).shape == (2, 3)
        trained = [
            {name for name, p in net.named_parameters() if p.requires_grad}
            for net in (cut.prefix, cut.tail, frozen)
        ]
        assert not trained[0] and trained[1] == trained[2]
    assert prefix.split(train_mode(freeze(model, "none"))) is None


@each_family
def test_every_family_answers_the_same_from_a_store_as_from_the_files(backbone, tmp_path):
    draw, size = np.random.default_rng(0), FAMILIES[backbone]
    for i in range(3):
        Image.fromarray(draw.integers(0, 255, (size, size), np.uint8)).save(tmp_path / f"{i}.png")
    records = pd.DataFrame(
        {"path": [f"{i}.png" for i in range(3)], "label": ["a", "b", "c"], "patient": ""}
    )
    loader = loaders.make(records, tmp_path, size=size, workers=0)
    model = build(backbone, 3, "linear", freeze="all")
    for frozen in (model, up_to_the_middle(copy.deepcopy(model))):
        alone, stored = (
            predict(frozen, loader, Machine(torch.device("cpu")), progress=False, store=store)
            for store in (None, tmp_path / "store")
        )
        apart, off = (one[["p_a", "p_b", "p_c"]].to_numpy() for one in (alone, stored))
        assert (
            np.abs(apart - off).max() < 0.01 * apart.std(0).max()
        )  # small beside what tells the images apart
    assert len(list((tmp_path / "store").iterdir())) in (
        1,
        2,
    )  # of both, unless the cut is the same


def test_an_mnasnet_can_be_trained_kept_and_given_weights(tmp_path):
    """Its loading wants a version, which plain dicts of weights lack."""
    model = build(
        "mnasnet0_5", 2, "linear", weights=state_file(tmp_path, "mnasnet0_5"), freeze="none"
    )
    step(model)
    checkpoints.save(tmp_path / "best.pt", model, ["a", "b"])
    again = checkpoints.load_model(tmp_path / "best.pt")[0]
    assert not moved(again, model.state_dict()) and copy.deepcopy(model).load_state_dict(
        dict(again.state_dict())
    )


def kinds(model):
    head = model.get_submodule(head_name(model))
    return [type(layer).__name__ for layer in (head if isinstance(head, nn.Sequential) else [head])]


def test_the_heads_are_made_of_these_layers():
    mlp, gap, linear = (build("vgg16", 4, head, dropout=0.25, device="meta") for head in HEADS)
    assert kinds(mlp) == ["Linear", "ReLU", "Dropout", "Linear", "LogSoftmax"]
    assert mlp.classifier[6][2].p == gap.classifier[2].p == 0.25
    assert kinds(gap) == ["Linear", "ReLU", "Dropout", "Linear"] and gap.avgpool.output_size == 1
    assert kinds(linear) == ["Linear"] and linear.classifier[6].out_features == 4
    names = [head_name(model) for model in (mlp, gap, linear)]
    assert names == ["classifier.6", "classifier", "classifier.6"]
    assert (mlp.classifier[6][0].out_features, gap.classifier[0].in_features) == (256, 512)


def test_the_rest_keeps_the_names_that_torchvision_gives():
    networks = zoo.resnet18(weights=None), build("resnet18", 2, "gap")
    theirs, ours = (
        {name for name in net.state_dict() if not name.startswith("fc.")} for net in networks
    )
    assert theirs == ours and len(ours) == 120


def test_log_probabilities_come_from_the_mlp_and_logits_from_the_others():
    images = torch.randn(3, 3, 64, 64)
    mlp, linear = (build("resnet18", 4, head).eval()(images) for head in ("mlp", "linear"))
    assert torch.allclose(mlp.exp().sum(1), torch.ones(3), atol=1e-5)
    assert not torch.allclose(linear.exp().sum(1), torch.ones(3), atol=1e-2)


@pytest.mark.parametrize("head", HEADS)
def test_one_output_is_a_logit_that_can_take_any_sign(head):
    model = build(SMALL, 2, head, outputs=1, freeze="none")
    assert model.tl["outputs"] == 1 and "LogSoftmax" not in kinds(model)
    head_weights = trainable_parameters(model.get_submodule(head_name(model)))
    model.eval()(torch.randn(2, 3, 64, 64)).sum().backward()
    assert head_weights[-1].grad.tolist() == [2.0]  # of a LogSoftmax over one output it would be 0


# Weights


def test_vgg16_is_drawn_from_a_normal_distribution_and_its_head_as_linear_layers_are(vgg16):
    assert not any(t.is_meta or not t.is_contiguous() for t in vgg16.state_dict().values())
    assert all(p.dtype == torch.float32 and p.is_leaf for p in vgg16.parameters())
    for weight in (vgg16.features[28].weight, vgg16.classifier[3].weight[:500]):
        standard = ((weight - weight.mean()) / weight.std()).detach()
        assert abs(weight.mean() / weight.std()).item() < 0.01
        assert standard.pow(4).mean().item() == pytest.approx(3, rel=0.02)
    own = vgg16.classifier[6][0].weight  # the head is drawn as Linear does
    assert own.abs().max().item() == pytest.approx(4096**-0.5, rel=0.01)


def test_batchnorm_of_a_random_vgg_starts_without_a_shift_and_with_statistics_that_are_no_guess():
    for norm in build("vgg11_bn", 2, "gap").modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.weight.eq(1).all() and not norm.bias.any() and norm.num_batches_tracked == 0
            assert norm.running_var.gt(0).all() and norm.running_mean.any()


def test_the_same_seed_gives_the_same_model_and_another_seed_another():
    for backbone, head in (("resnet18", "mlp"), ("vgg11", "gap")):
        first, again, other = (
            build(backbone, 2, head, seed=seed).state_dict() for seed in (5, 5, 6)
        )
        assert all(torch.equal(first[name], again[name]) for name in first)
        weights = [name for name in first if name.endswith("weight") and first[name].ndim > 1]
        assert not any(torch.equal(first[name], other[name]) for name in weights)


def test_a_random_backbone_can_stay_the_same_under_other_heads():
    one, two = (build("resnet18", 2, "linear", seed=s, weights_seed=4) for s in (1, 2))
    assert torch.equal(one.conv1.weight, two.conv1.weight)
    assert not torch.equal(one.fc.weight, two.fc.weight)
    assert torch.equal(one.conv1.weight, build("resnet18", 2, "linear", seed=4).conv1.weight)
    assert torch.equal(one.fc.weight, build("resnet18", 2, "linear", seed=1).fc.weight)


def test_random_numbers_outside_are_left_alone(tmp_path):
    file = state_file(tmp_path, SMALL)
    before = torch.get_rng_state()
    model = build(SMALL, 2, "gap", weights=file)
    build("resnet18", 2, seed=9)
    build("vgg11", 2, "gap")
    summary(model, 64)
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_of_a_file_arrive_as_they_are(tmp_path):
    file = state_file(tmp_path, SMALL)
    state, model = (
        torch.load(file, weights_only=True),
        build(SMALL, 2, "linear", weights=file, seed=3),
    )
    head = head_name(model) + "."
    for name, value in model.state_dict().items():
        assert value.is_contiguous() and (name.startswith(head) or torch.equal(value, state[name]))
    random = build(SMALL, 2, "linear", seed=3)
    assert torch.equal(model.classifier[3].weight, random.classifier[3].weight)
    assert model.tl["weights"]["source"] == "file" and model.tl["weights"]["file"] == file
    assert model.tl["weights"]["sha256"] and model.tl["mean"] == [0.485, 0.456, 0.406]


def checkpoint_of_a_run(folder, *arguments, **more) -> tuple:
    """A checkpoint as a run leaves it, and the model in it."""
    model = build(*arguments, seed=7, **more)
    about = {"recipe": {"data": "texture"}, "notes": ["phantom images (drawings, not patients)"]}
    checkpoints.save(folder / "best.pt", model, list("abcde"), **about)
    return folder / "best.pt", model


@pytest.mark.parametrize("head", ["linear", "gap", "mlp"])
def test_the_backbone_of_a_run_is_taken_and_its_head_left_out(tmp_path, head):
    file, source = checkpoint_of_a_run(tmp_path, "resnet18", 5, "linear")
    model, random = build("resnet18", 2, head, weights=file), build("resnet18", 2, head)
    given, fresh = source.state_dict(), random.state_dict()
    for name, value in model.state_dict().items():
        wanted = fresh if name.startswith("fc.") else given
        assert torch.equal(value, wanted[name]) and value.is_contiguous()
    assert all(p.requires_grad == name.startswith("fc.") for name, p in model.named_parameters())
    about = model.tl["weights"]
    assert about["source"] == "run" and about["file"] == str(file) and len(about["sha256"]) == 64
    assert about["name"] == f"{tmp_path.name}/best.pt" and model.tl["mean"] == source.tl["mean"]


def test_a_run_of_a_vgg_gives_what_the_new_head_keeps(tmp_path):
    file, source = checkpoint_of_a_run(tmp_path, "vgg11", 5, "gap")
    pooled = build("vgg11", 2, "gap", weights=file)
    assert torch.equal(pooled.features[0].weight, source.features[0].weight)
    with pytest.raises(ValueError, match="run with another network: classifier.0.weight.*missing"):
        build("vgg11", 2, "mlp", weights=file)


def test_a_run_of_another_backbone_is_refused(tmp_path):
    file, _ = checkpoint_of_a_run(tmp_path, SMALL, 5, "linear")
    with pytest.raises(ValueError, match="best.pt is of a run with another network: conv1.weight"):
        build("resnet18", 2, "linear", weights=file)


def test_weights_laid_out_channels_last_become_contiguous(tmp_path):
    name = "features.1.block.0.0.weight"
    weight = torch.randn(16, 1, 3, 3).contiguous(memory_format=torch.channels_last)
    first = torch.randn(16, 3, 3, 3).contiguous(memory_format=torch.channels_last)
    file = state_file(tmp_path, SMALL, **{name: weight, "features.0.0.weight": first})
    model = build(SMALL, 2, weights=file)
    assert model.features[0][0].weight.is_contiguous() and torch.equal(
        model.features[0][0].weight, first
    )


def test_weights_of_another_architecture_are_refused_and_both_are_named(tmp_path, monkeypatch):
    # Looking for whose they are makes all networks; once for both.
    monkeypatch.setattr(building, "_made", functools.cache(building._made))
    with pytest.raises(ValueError, match=f"pth holds weights of shufflenet_v2_x0_5, not {SMALL}'s"):
        build(SMALL, weights=state_file(tmp_path, "shufflenet_v2_x0_5"))
    last = {"classifier.3.weight": torch.ones(4, 1024), "classifier.3.bias": torch.ones(4)}
    file = state_file(tmp_path, SMALL, **last)
    with pytest.raises(
        ValueError, match=f"{SMALL} with another last layer.*classifier.3.weight.*4, 1024"
    ):
        build(SMALL, weights=file)


def test_weights_without_a_classifier_serve_a_head_that_needs_none(tmp_path):
    file = state_file(
        tmp_path, SMALL, **{"classifier.0.weight": torch.full((1024, 576), float("nan"))}
    )
    pooled = build(SMALL, 2, "gap", weights=file)
    assert not any(p.isnan().any() for p in pooled.parameters())
    for head in ("linear", "mlp"):
        with pytest.raises(ValueError, match="no numbers .NaN. in classifier; use head='gap'"):
            build(SMALL, 2, head, weights=file)


def test_pretrained_inceptions_get_their_own_normalization(tmp_path):
    model = build("googlenet", 2, "linear", weights=state_file(tmp_path, "googlenet"))
    pixels = torch.rand(1, 3, 8, 8)
    model.transform_input = True  # torchvision's way: turns ImageNet's normalization into theirs
    theirs = model._transform_input(normalize(pixels, IMAGENET_MEAN, IMAGENET_STD))
    assert torch.allclose(theirs, normalize(pixels, model.tl["mean"], model.tl["std"]), atol=1e-5)


def test_what_was_built_is_written_on_the_model():
    model = build("resnet18", 2, "gap", outputs=1, dropout=0.3, freeze="up to layer1")
    expected = {
        "backbone": "resnet18",
        "n_classes": 2,
        "head": "gap",
        "outputs": 1,
        "dropout": 0.3,
        "freeze": "up to layer1",
    }
    assert expected.items() <= model.tl.items()
    assert model.tl["weights"] == {
        "source": "random",
        "name": "random",
        "file": None,
        "sha256": None,
    }
    assert freeze(model, "none").tl["freeze"] == "none"


def test_the_old_name_of_the_head_of_two_layers_is_still_understood():
    model = build("resnet18", 2, "article", device="meta")
    assert model.tl["head"] == "mlp" and kinds(model)[-1] == "LogSoftmax"


# Freezing


@pytest.mark.parametrize("what", ["none", "all", "up to bn1", "up to layer2", "up to layer3.0"])
def test_what_is_frozen_does_not_move_and_all_else_does(what):
    model = build("resnet18", 2, "linear", freeze=what)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    before = copy.deepcopy(model.state_dict())
    step(model)
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d) and f"{name}.weight" in frozen:
            frozen |= {f"{name}.{buffer}" for buffer, _ in module.named_buffers()}
    assert moved(model, before) == set(before) - frozen


def test_an_optimizer_that_is_given_everything_still_leaves_the_frozen_part():
    model = build("resnet18", 2, "mlp", freeze="all")  # a mistyped requires_grad freezes none
    before = copy.deepcopy(model.state_dict())
    step(model, list(model.parameters()))
    assert {name.split(".")[0] for name in moved(model, before)} == {"fc"}
    assert all(p.grad is None for name, p in model.named_parameters() if not name.startswith("fc."))


@pytest.mark.parametrize(
    ("what", "frozen"),
    [
        ("up to conv1", 9_408),
        ("up to relu", 9_536),
        ("up to maxpool", 9_536),
        ("up to layer1.0.conv1", 9_536 + 36_864),
    ],
)
def test_up_to_freezes_all_that_comes_before_or_in_the_module(what, frozen):
    assert count(build("resnet18", 2, "linear", freeze=what, device="meta"))["frozen"] == frozen


def test_freezing_again_forgets_what_was_frozen_before():
    model = build("resnet18", 2, "linear", freeze="all", device="meta")
    once = count(freeze(model, "up to layer1"))
    assert count(freeze(model, "up to layer1")) == once and once["trainable"] > 1_026
    assert count(freeze(model, "none"))["frozen"] == 0
    assert count(freeze(model, "all"))["trainable"] == 1_026


def test_train_mode_keeps_frozen_batchnorm_still_and_dropout_awake():
    model = build("mobilenet_v2", 2, "linear", freeze="up to features.5", device="meta")
    modes = {name: module.training for name, module in train_mode(model).named_modules()}
    assert (
        not modes["features.0.1"]
        and not modes["features.5.conv.3"]
        and modes["features.6.conv.0.1"]
    )
    frozen = train_mode(freeze(model, "all"))
    assert not any(m.training for m in frozen.modules() if isinstance(m, nn.BatchNorm2d))
    assert (
        frozen.training
        and frozen.classifier[0].training
        and isinstance(frozen.classifier[0], nn.Dropout)
    )
    assert all(module.training for module in train_mode(freeze(model, "none")).modules())


def test_a_batchnorm_without_weights_goes_on_learning_its_statistics():
    model = nn.Sequential(nn.BatchNorm2d(3, affine=False)).eval()
    assert train_mode(model)[0].training


# Words for what is wrong


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backbone": "vgg61"}, "vgg61.*vgg16"),
        ({"head": "round"}, "round.*mlp, gap, linear"),
        ({"n_classes": 1}, "n_classes is 1"),
        ({"n_classes": 3, "outputs": 1}, "outputs is 1 for 3 classes"),
        ({"outputs": 7}, "outputs is 7"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"freeze": "some"}, "freeze is 'some'.*'none', 'all'.*features"),
        (
            {"freeze": "up to featurs"},
            "no module 'featurs'; close to it: features.*has features, avgpool",
        ),
        ({"freeze": "up to features.31"}, "no module 'features.31'.*features has 0, 1, .*30"),
        ({"freeze": "up to "}, "freeze is 'up to'"),
        ({"freeze": "up to classifier"}, "freezes everything"),
        ({"backbone": "vit_b_16", "head": "gap"}, "ViT"),
        ({"weights": "IMAGENET1K_V9"}, "IMAGENET1K_V9.*IMAGENET1K_V1"),
    ],
)
def test_wrong_arguments_are_named_with_those_allowed(arguments, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        build(**{"device": "meta", **arguments})


def test_a_model_without_a_new_head_says_so():
    with pytest.raises(ValueError, match="models.build.build"):
        head_name(zoo.squeezenet1_1(weights=None))
    with pytest.raises(ValueError, match="no convolution"):
        last_conv(nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("backbone", "size", "device", "head", "message"),
    [
        ("vgg16", 128, "mps", "mlp", "4 x 4 to 7 x 7.*mps"),
        ("vgg16", 16, "cpu", "gap", "16 x 16.*small"),
        ("alexnet", 160, "mps", "linear", "4 x 4 to 6 x 6"),
        ("vit_b_16", 128, "cpu", "linear", "128 x 128"),
    ],
)
def test_sizes_that_a_network_or_device_cannot_take_are_refused(
    backbone, size, device, head, message
):
    with pytest.raises(ValueError, match=message):
        check_size(backbone, size, device, head)


@pytest.mark.parametrize(
    ("backbone", "size", "device", "head"),
    [
        ("vgg16", 224, "mps", "mlp"),
        ("vgg16", 128, "mps", "gap"),
        ("vgg16", 128, "cuda", "mlp"),
        ("resnet18", 128, "mps", "linear"),
        ("densenet121", 100, "mps", "mlp"),
    ],
)
def test_sizes_that_can_be_taken_pass(backbone, size, device, head):
    check_size(backbone, size, device, head)


# Probabilities and convolutions


def test_probabilities_of_log_probabilities_are_those_of_logits():
    logits = torch.randn(50, 4) * 8
    once = probabilities(logits)
    assert torch.allclose(probabilities(torch.log_softmax(logits, 1)), once, atol=1e-6)
    assert torch.allclose(probabilities(once.log()), once, atol=1e-6)
    assert torch.allclose(once.sum(1), torch.ones(50)) and once.dtype == torch.float32


def test_one_logit_becomes_two_columns():
    p = probabilities(torch.tensor([[0.0], [3.0], [-200.0], [200.0]]))
    assert p.shape == (4, 2) and p[0].tolist() == [0.5, 0.5] and p[3].tolist() == [0.0, 1.0]
    assert p[1, 1].item() == pytest.approx(torch.sigmoid(torch.tensor(3.0)).item())
    assert 0 <= p[2, 1] < 1e-38 and torch.equal(p[1].sum(), torch.tensor(1.0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_probabilities_are_float32_whatever_comes(dtype):
    assert probabilities(torch.randn(3, 2).to(dtype)).dtype == torch.float32


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), (2, 0)])
def test_probabilities_refuse_other_shapes(shape):
    with pytest.raises(ValueError, match="shape"):
        probabilities(torch.zeros(shape))


@pytest.mark.parametrize(
    ("backbone", "name"),
    [
        ("vgg16", "features.28"),
        ("resnet18", "layer4.1.conv2"),
        ("densenet121", "features.denseblock4.denselayer16.conv2"),
    ],
)
def test_the_last_convolution_is_found(backbone, name):
    model = build(backbone, device="meta")
    assert last_conv(model) == (name, model.get_submodule(name))


# torchsummary


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_the_summary_states_the_models_own_counts(vgg16):
    text = summary(vgg16, 64)
    assert "Conv2d-1" in text and "[-1, 64, 64, 64]" in text and "[-1, 4]" in text
    assert "Total params: 135,310,404" in text and "Trainable params: 1,049,860" in text
    assert text.count("Total") == 1


def test_the_summary_leaves_the_model_as_it_was(capsys):
    model = train_mode(build("resnet18", 2, "gap", freeze="up to layer1"))
    modes, before = [m.training for m in model.modules()], copy.deepcopy(model.state_dict())
    summary(model, 64)
    assert [m.training for m in model.modules()] == modes and not moved(model, before)
    assert hooks(model) == 0 and all(p.grad is None for p in model.parameters())
    assert capsys.readouterr().out == ""


def test_a_summary_that_fails_leaves_no_hooks_and_says_why():
    model = train_mode(build("squeezenet1_1", 2, "linear"))
    modes = [m.training for m in model.modules()]
    with pytest.raises(ValueError, match="4 x 4"):
        summary(model, 4)
    assert hooks(model) == 0 and [m.training for m in model.modules()] == modes


def test_parameters_outside_layers_are_counted():
    model = build("convnext_tiny", 2, "linear", device="meta")  # torchsummary misses layer scales
    assert f"Total params: {sum(p.numel() for p in model.parameters()):,}" in summary(model, 64)


def test_a_network_that_torchsummary_cannot_follow_gets_a_table_of_blocks():
    text = summary(build("densenet121", 2, "gap", device="meta"), 64)
    assert "cannot follow" in text and "features" in text and "Total params: 7,085,314" in text


def test_without_torchsummary_the_way_to_get_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchsummary", None)
    with pytest.raises(ImportError, match="pip install torchsummary"):
        summary(build("squeezenet1_1", device="meta"), 64)


def test_the_package_of_nearly_the_same_name_is_not_mistaken_for_it(monkeypatch):
    other = types.ModuleType("torchsummary")
    other.summary = lambda model, input_data=None, *args, batch_dim=0, **kwargs: None
    monkeypatch.setitem(sys.modules, "torchsummary", other)
    with pytest.raises(ImportError, match="pip uninstall torch-summary"):
        summary(build("squeezenet1_1", device="meta"), 64)
