"""Losses per image, and class weights."""

import pytest
import torch
import torch.nn.functional as F

from tlutils.training import losses

ONES = torch.ones(3)


@pytest.fixture
def logits():
    return torch.randn(7, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels():
    return torch.tensor([0, 1, 2, 0, 1, 2, 2])


def test_the_loss_agrees_with_torch_for_logits_and_log_probabilities(logits, labels):
    expected = F.cross_entropy(logits, labels, reduction="none")
    assert torch.allclose(losses.of_each_image(logits, labels, ONES), expected)
    assert torch.allclose(
        losses.of_each_image(logits.log_softmax(1), labels, ONES, "nll"), expected, atol=1e-6
    )


def test_one_logit_gives_binary_cross_entropy(logits):
    z, labels = logits[:, :1], torch.tensor([0, 1, 1, 0, 1, 0, 1])
    expected = F.binary_cross_entropy_with_logits(z[:, 0], labels.float(), reduction="none")
    assert torch.allclose(
        losses.of_each_image(z, labels, torch.ones(2), "bce"), expected, atol=1e-6
    )
    assert torch.equal(losses.predicted(z), (z[:, 0] > 0).long())


def test_label_smoothing_agrees_with_torch(logits, labels):
    expected = F.cross_entropy(logits, labels, reduction="none", label_smoothing=0.1)
    assert torch.allclose(
        losses.of_each_image(logits, labels, ONES, label_smoothing=0.1), expected, atol=1e-6
    )


def test_focal_loss_agrees_with_torchvision(logits):
    from torchvision.ops import sigmoid_focal_loss

    z, labels = logits[:, :1], torch.tensor([0, 1, 1, 0, 1, 0, 1])
    expected = sigmoid_focal_loss(z[:, 0], labels.float(), alpha=-1, gamma=2)
    assert torch.allclose(
        losses.of_each_image(z, labels, torch.ones(2), "focal"), expected, atol=1e-6
    )


def test_class_weights_auto_make_all_classes_weigh_alike_and_an_image_one_on_average():
    labels = torch.tensor([0] * 6 + [1] * 3 + [2])
    weights = losses.class_weights("auto", labels, ["a", "b", "c"])
    counts = torch.tensor([6.0, 3, 1])
    assert torch.allclose(weights * counts, torch.full((3,), 10 / 3))
    assert torch.isclose(weights[labels].mean(), torch.tensor(1.0))


def test_class_weights_by_name_follow_the_class_order():
    weights = losses.class_weights({"b": 2, "a": 1}, torch.tensor([0, 1]), ["a", "b"])
    assert torch.isclose(weights[1] / weights[0], torch.tensor(2.0))


@pytest.mark.parametrize("wrong", ["balanced", {"a": 1}, {"a": 1, "z": 2}])
def test_other_class_weights_are_refused_with_the_classes_named(wrong):
    with pytest.raises(ValueError, match="a, b"):
        losses.class_weights(wrong, torch.tensor([0, 1]), ["a", "b"])
