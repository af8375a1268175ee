"""A network of every family as an ONNX file: the same probabilities, for any number of images."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from tlutils.data.augment import normalize
from tlutils.models import to_onnx
from tlutils.models.build import build, probabilities

# The smallest of each family, with the size of its images; the slow ones need TLUTILS_SLOW=1.
QUICK = {"resnet18": 64, "mobilenet_v3_small": 64, "squeezenet1_1": 64}
SLOW = {
    "alexnet": 64,
    "convnext_tiny": 64,
    "densenet121": 64,
    "efficientnet_b0": 64,
    "efficientnet_v2_s": 64,
    "googlenet": 64,
    "inception_v3": 75,
    "maxvit_t": 224,
    "mnasnet0_5": 64,
    "mobilenet_v2": 64,
    "regnet_y_400mf": 64,
    "resnet152": 64,
    "resnext50_32x4d": 64,
    "wide_resnet50_2": 64,
    "shufflenet_v2_x0_5": 64,
    "swin_t": 64,
    "swin_v2_t": 64,
    "vgg11": 64,
    "vgg16_bn": 64,
    "vit_b_32": 224,
}
FAMILIES = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


def answers(made, images):
    session = onnxruntime.InferenceSession(
        made.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"images": images})[0]


def drawn(size, channels=1, number=9):
    """Images with coarse patterns, dark and bright ones."""
    draw = np.random.default_rng(0)
    coarse = draw.integers(0, 256, (number, channels, 5, 5)) // np.arange(1, number + 1).reshape(
        -1, 1, 1, 1
    )
    return np.kron(coarse, np.ones((-(-size // 5),) * 2))[..., :size, :size].astype(np.uint8)


@pytest.mark.parametrize("backbone", FAMILIES)
def test_every_family_answers_the_same(backbone):
    size = {**QUICK, **SLOW}[backbone]
    model = build(backbone, 3, "linear").eval()
    scale = {"mean": model.tl["mean"], "std": model.tl["std"]}
    made, images = to_onnx.convert(model, size, 1, **scale), drawn(size)
    with torch.inference_mode():
        outputs = model(normalize(torch.from_numpy(images), **scale))
    wanted = probabilities(outputs).numpy()
    found = np.concatenate([answers(made, images[:1]), answers(made, images[1:])])
    assert found.dtype == np.float32
    # EfficientNets with random weights make much of rounding: torch's fp32 and fp64 differ too.
    limit = 1e-3 if backbone.startswith("efficientnet") else 5e-5
    assert np.abs(found - wanted).max() < limit
    assert wanted.std(0).max() > 1e-3  # else equal answers would say little


@pytest.mark.parametrize(("head", "outputs"), [("mlp", None), ("gap", 1)])
def test_log_probabilities_single_logits_colors_and_temperatures(head, outputs):
    model = build("squeezenet1_1", 2, head, outputs=outputs).eval()
    images, scale = drawn(48, 3), ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    with torch.inference_mode():
        wanted = probabilities(model(normalize(torch.from_numpy(images), *scale))).double().numpy()
    plain = to_onnx.convert(model, 48, 3, *scale)
    assert np.abs(answers(plain, images) - wanted).max() < 1e-6
    cooled = wanted ** (1 / 0.4) / (wanted ** (1 / 0.4)).sum(1, keepdims=True)
    found = answers(to_onnx.convert(model, 48, 3, *scale, temperature=0.4), images)
    assert np.abs(found - cooled).max() < 1e-6


def test_a_model_larger_than_a_file_may_be_is_refused():
    with pytest.raises(ValueError, match=r"holds 2\.5 GB"):
        to_onnx.convert(build("vit_h_14", 2, "linear", device="meta"), 224, 1, (0,) * 3, (1,) * 3)


def test_a_network_that_cannot_be_converted_is_refused_with_the_reason():
    class Odd(nn.Module):
        def forward(self, images):
            return torch.linalg.eigvals(images[:, :, :3, :3].mean(1)).real  # ONNX has no such thing

    with pytest.raises(ValueError, match="cannot convert this Odd to ONNX: .+"):
        to_onnx.convert(Odd(), 32, 3, (0.5,) * 3, (0.5,) * 3)
