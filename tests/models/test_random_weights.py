"""Random weights that pass on what they see."""

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models as zoo

from tlutils.models.build import build
from tlutils.models.random_weights import noise_images, settle


def likeness(net: nn.Module, images: torch.Tensor) -> float:
    """Mean correlation of a network's outputs for different images."""
    with torch.no_grad():
        outputs = net.eval()(images).flatten(1).numpy()
    found = np.corrcoef(outputs)
    return found[np.triu_indices(len(found), 1)].mean()


def test_a_settled_vgg_tells_images_apart_and_an_unsettled_one_does_not():
    torch.manual_seed(0)
    net, images = (
        zoo.vgg16(init_weights=True),
        torch.randn(6, 3, 64, 64, generator=torch.Generator().manual_seed(3)),
    )
    body = nn.Sequential(net.features, net.avgpool, nn.Flatten(), net.classifier[:2])
    before = likeness(body, images)
    settle(net, "classifier.6")
    after = likeness(body, images)
    assert before > 0.9 and after < before - 0.2


@pytest.mark.parametrize("backbone", ["vgg11", "resnet18", "mobilenet_v2"])
def test_settled_weights_are_a_function_of_the_seed_and_leave_torchs_random_state_alone(backbone):
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    first, again = (build(backbone, 2, "linear", seed=4).state_dict() for _ in range(2))
    assert torch.equal(torch.rand(2), expected)
    assert all(torch.equal(value, again[name]) for name, value in first.items())


def test_the_head_is_left_as_it_was_drawn():
    torch.manual_seed(0)
    net = zoo.vgg11(init_weights=True)
    before = net.classifier[6].weight.clone(), net.features[0].weight.clone()
    settle(net, "classifier.6")
    assert torch.equal(net.classifier[6].weight, before[0]) and not torch.equal(
        net.features[0].weight, before[1]
    )


def test_layers_of_a_settled_vgg_give_mean_0_and_deviation_1_on_noise():
    torch.manual_seed(0)
    net = settle(zoo.vgg11(init_weights=True), "classifier.6")
    given = {}
    net.features[6].register_forward_hook(
        lambda layer, inputs, output: given.update(output=output.clone())
    )
    with torch.no_grad():
        net.eval()(noise_images())
    assert given["output"].std().item() == pytest.approx(1, abs=0.02)
    assert given["output"].mean((0, 2, 3)).abs().max().item() < 0.02


def test_residual_branches_begin_small_and_statistics_fit_the_noise():
    net = build("resnet18", 2, "linear", weights="random")
    assert all(
        torch.allclose(block.bn2.weight, torch.tensor(0.1))
        for block in net.modules()
        if isinstance(block, zoo.resnet.BasicBlock)
    )
    given = {}
    net.layer2[0].bn1.register_forward_hook(
        lambda layer, inputs, output: given.update(output=output.clone())
    )
    with torch.no_grad():
        net.eval()(noise_images())
    assert (
        given["output"].std().item() == pytest.approx(1, abs=0.1)
        and net.bn1.num_batches_tracked == 0
    )


def test_networks_with_other_norms_are_left_alone():
    torch.manual_seed(0)
    net = zoo.convnext_tiny()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    settle(net, "classifier.2")
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_noise_is_always_the_same_and_has_structure_of_every_size():
    noise = noise_images()
    assert torch.equal(noise, noise_images()) and noise.shape == (16, 3, 96, 96)
    power = torch.fft.fft2(noise[:, 0]).abs().square().mean(0)
    assert power[1, 1] > 10 * power[16, 16] > 0
