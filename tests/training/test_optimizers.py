"""Learning rates in time and in layers."""

import math
from collections import Counter

import pytest
import torch
from torch import nn

from tlutils.models import prefix
from tlutils.models.build import build, head_name, train_mode
from tlutils.training import optimizers

FAMILIES = (
    "alexnet",
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "googlenet",
    "inception_v3",
    "maxvit_t",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "resnet18",
    "resnext50_32x4d",
    "wide_resnet50_2",
    "shufflenet_v2_x0_5",
    "squeezenet1_0",
    "swin_t",
    "swin_v2_t",
    "vgg11",
    "vit_b_32",
)


@pytest.mark.parametrize("backbone", FAMILIES)
def test_the_stages_of_every_family_lead_from_the_pixels_to_the_head(backbone):
    model = build(backbone, 3, "linear", freeze="none", device="meta")
    stage = optimizers._stages(name for name, _ in model.named_parameters())
    order, counts = list(stage.values()), Counter(stage.values())
    assert order == sorted(order) and set(counts) == set(range(optimizers._STAGES))
    assert max(counts.values()) < 0.6 * len(order)  # no stage is nearly all of the network
    assert stage[f"{head_name(model)}.weight"] == optimizers._STAGES - 1


def test_a_block_keeps_its_parameters_together():
    model = build("vit_b_32", 2, "linear", device="meta")
    stage = optimizers._stages(name for name, _ in model.named_parameters())
    inside = {stage[name] for name in stage if name.startswith("encoder.layers.encoder_layer_5.")}
    assert len(inside) == 1 and stage["class_token"] == 0


def scales(net, model):
    """What each trainable parameter's learning rate is multiplied by."""
    made = optimizers.make_optimizer(net, torch.device("cpu"), model, layer_decay=0.5)
    groups = made.param_groups
    return {id(parameter): group["scale"] for group in groups for parameter in group["params"]}


@pytest.mark.parametrize(
    ("backbone", "freeze"),
    [("mobilenet_v3_small", "up to features.4"), ("resnet18", "up to layer2")],
)
def test_the_rates_are_the_same_where_the_frozen_part_is_cut_off(backbone, freeze):
    model = train_mode(build(backbone, 3, "linear", freeze=freeze))
    tail = prefix.split(model).tail
    assert scales(tail, model) == scales(model, None) and len(set(scales(model, None).values())) > 2


def test_a_network_of_bare_parameters_has_stages_too():
    net = nn.Module()
    net.first, net.second = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    assert optimizers._stages(name for name, _ in net.named_parameters()) == {
        "first": 0,
        "second": 1,
    }


@pytest.mark.parametrize(
    ("schedule", "at", "factor"),
    [
        ("constant", 5, 1),
        ("step:7:0.1", 6.9, 1),
        ("step:7:0.1", 7, 0.1),
        ("step:7:0.1", 14, 0.01),
        ("cosine", 0, 1),
        ("cosine", 5, 0.5),
        ("cosine", 10, 0),
        ("one-cycle", 0, 0.1),
        ("one-cycle", 3, 1),
        ("one-cycle", 10, 0),
    ],
)
def test_schedules_are_functions_of_the_moment(schedule, at, factor):
    assert math.isclose(optimizers.schedule_factor(schedule, at, 10), factor, abs_tol=1e-9)


@pytest.mark.parametrize("optimizer", optimizers.OPTIMIZERS)
def test_only_trainable_parameters_are_in_the_optimizer(optimizer):
    model = build("resnet18", 2, "gap", freeze="all")
    made = optimizers.make_optimizer(model, torch.device("cpu"), optimizer=optimizer)
    inside = {id(p) for group in made.param_groups for p in group["params"]}
    assert inside == {id(p) for p in model.parameters() if p.requires_grad}
