"""The frozen part is found, known by all that it does, and made ready."""

import copy
import functools

import numpy as np
import pytest
import torch
from processes import python
from torch import nn

from tlutils.core import devices
from tlutils.models.build import build
from tlutils.models.prefix import fingerprint, ready, split


def cut_points():
    return [
        ("vgg16", "mlp", "all", "classifier.1"),
        ("vgg16", "gap", "all", "avgpool"),
        ("vgg16_bn", "linear", "up to features", "avgpool"),
        ("resnet18", "gap", "all", "avgpool"),
        ("resnet18", "linear", "up to layer3", "layer3.1.relu"),
        ("resnet18", "linear", "up to bn1", "bn1"),
        ("mobilenet_v2", "linear", "all", "features.18.2"),
        ("densenet121", "gap", "all", None),
    ]


@pytest.mark.parametrize(("backbone", "head", "freeze", "layer"), cut_points())
def test_the_cut_lies_after_the_last_frozen_deterministic_layer(backbone, head, freeze, layer):
    with torch.device("meta"):
        model = build(backbone, 4, head, freeze=freeze, device="meta")
    cut = split(model)
    assert cut is not None and not any(p.requires_grad for p in cut.prefix.parameters())
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    assert trainable == {id(p) for p in cut.tail.parameters() if p.requires_grad}
    if layer == "classifier.1":
        assert cut.name in ("classifier.0", "classifier.1")
    elif layer and layer != "bn1":
        assert cut.name.startswith(layer.split(".")[0])


@pytest.mark.parametrize(
    ("backbone", "head", "size"),
    [("resnet18", "gap", 64), ("mobilenet_v2", "mlp", 64), ("efficientnet_b0", "linear", 64)],
)
def test_tail_of_prefix_is_the_model(backbone, head, size):
    model = build(backbone, 3, head, freeze="all").eval()
    cut = split(model)
    x = torch.randn(2, 3, size, size)
    assert torch.equal(cut.tail(cut.prefix(x)), model(x))


@pytest.mark.parametrize("freeze", ["up to layer2", "up to layer2.0.bn1"])
def test_a_cut_inside_a_residual_net_lies_where_one_tensor_passes(freeze):
    model = build("resnet18", 3, "linear", freeze=freeze).eval()
    cut = split(model)
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(cut.tail(cut.prefix(x)), model(x))


def test_where_nothing_is_frozen_there_is_no_cut():
    assert split(build("resnet18", 3, "linear", freeze="none")) is None


def test_a_model_that_cannot_be_traced_is_run_whole():
    class Moody(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    assert split(Moody()) is None


class Net(nn.Module):
    """A frozen network of which every setting can be changed alone; its weights are always the same."""

    def __init__(
        self,
        pool=None,
        eps=1e-5,
        slope=0.1,
        threshold=0.2,
        scale=1.0,
        power=2,
        groups=1,
        act=None,
        tilt=None,
        **conv,
    ):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 6, 3, **conv)
        self.norm, self.act, self.pool = (
            nn.BatchNorm2d(6, eps=eps),
            act or nn.LeakyReLU(slope),
            pool or nn.MaxPool2d(2),
        )
        self.shuffle = nn.ChannelShuffle(groups)
        self.register_buffer("scale", torch.full((1,), scale), persistent=False)
        self.threshold, self.power = threshold, power
        self.requires_grad_(False)
        self.head = nn.Linear(6, 2)
        if tilt:
            self.conv.register_forward_hook(tilt)

    def forward(self, x):
        x = self.shuffle(self.pool(self.act(self.norm(self.conv(x))))) * self.scale
        x = nn.functional.threshold(x, self.threshold, 0.0) ** self.power
        return self.head(torch.flatten(nn.functional.adaptive_avg_pool2d(x, output_size=1), 1))


def doubled(module, inputs, output):
    return output * 2


OTHERS = {
    "pooling": {"pool": nn.AvgPool2d(2)},
    "window": {"pool": nn.MaxPool2d(3)},
    "rounding": {"pool": nn.MaxPool2d(2, ceil_mode=True)},
    "eps": {"eps": 1e-3},
    "stride": {"stride": 2},
    "padding": {"padding": 1},
    "kind of padding": {"padding": 1, "padding_mode": "reflect"},
    "dilation": {"dilation": 2},
    "slope": {"slope": 0.2},
    "activation": {"act": nn.ReLU()},
    "shape of GELU": {"act": nn.GELU("tanh")},
    "function's argument": {"threshold": 0.3},
    "power": {"power": 3},
    "power's kind": {"power": 2.0},
    "buffer outside the state": {"scale": 2.0},
    "groups": {"groups": 2},
    "hook": {"tilt": doubled},
    "dropout": {"act": nn.Sequential(nn.LeakyReLU(0.1), nn.Dropout(0.0))},
}


def key_of(**changes):
    return fingerprint(split(Net(**changes).eval()).prefix)


@pytest.mark.parametrize("what", OTHERS)
def test_every_setting_of_every_layer_counts_for_the_key(what):
    others = [changes for other, changes in OTHERS.items() if other != what]
    assert key_of(**OTHERS[what]) not in {key_of(), *(key_of(**changes) for changes in others)}


def test_a_function_of_ones_own_counts_by_what_it_does():
    def net(slope, bend):
        class Bent(nn.Module):
            def forward(self, x):
                return x

        made = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))
        made[0].requires_grad_(False)
        made[1].register_forward_hook(
            lambda module, inputs, output: output * slope if bend else output + slope
        )
        torch.manual_seed(0)
        nn.init.ones_(made[0].weight), nn.init.zeros_(made[0].bias)
        return fingerprint(split(made).prefix)

    assert net(2, True) == net(2, True) and len({net(2, True), net(3, True), net(2, False)}) == 3


def keys_of_nets():
    """The keys of some prefixes, one of them with a layer that holds all kinds of values."""
    nets, strange = [Net(), build("mobilenet_v3_small", 3, "linear", freeze="all")], nn.ReLU()
    strange.kinds = (
        {"b", "a", "c"},
        functools.partial(torch.add, alpha=2),
        lambda x: x in {"x", "y"},
        object(),
        slice(3),
        torch.float32,
        {"d": np.float64(1)},
    )
    nets.append(
        nn.Sequential(
            nn.Conv2d(3, 4, 1).requires_grad_(False), strange, nn.Flatten(), nn.Linear(4, 2)
        )
    )
    nn.init.ones_(nets[-1][0].weight), nn.init.zeros_(nets[-1][0].bias)
    return [fingerprint(split(model.eval()).prefix) for model in nets]


def test_the_key_is_the_same_for_a_copy_and_in_another_process():
    here, code = keys_of_nets(), "import test_prefix; print(*test_prefix.keys_of_nets())"
    assert python("-c", code, env={"PYTHONHASHSEED": "7"}).stdout.split() == here
    net = Net().eval()
    assert fingerprint(split(copy.deepcopy(net)).prefix) == here[0]


@pytest.mark.parametrize("size", [64, 75])
def test_what_stands_in_for_pooling_gives_the_same_numbers(size):
    bf16 = devices.choose("cpu", "bf16")
    model = build("vgg16", 3, "gap", freeze="all").eval()
    prefix = split(model).prefix
    fast = ready(prefix, bf16)
    kinds = [type(module).__name__ for module in fast.modules()]
    assert kinds.count("_Halve") == 5 and "MaxPool2d" not in kinds
    x = bf16.place(torch.randn(2, 3, size, size))
    with torch.inference_mode(), bf16.autocast():
        assert torch.equal(fast(x), bf16.place(prefix)(x))


def test_pooling_is_replaced_in_inner_modules_and_gives_the_same():
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.MaxPool2d(2)), nn.Flatten(), nn.Linear(64, 2)
    )
    model[0].requires_grad_(False)
    part = split(model).prefix
    fast = ready(part, devices.Machine(torch.device("cpu"), channels_last=True))
    assert not any(isinstance(module, nn.MaxPool2d) for module in fast.modules())
    images = torch.randn(2, 3, 8, 8)
    assert torch.allclose(fast(images), part(images), atol=1e-5)
