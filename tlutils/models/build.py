"""A backbone that torchvision knows, with a new head: build it, freeze parts of it, count it.

Modules keep torchvision's names (`model.features`, `model.layer4`); what `build` did is in
`model.tl`.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import functools
import inspect
import io
from collections.abc import Callable, Iterator

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..core.devices import Machine
from ..core.packages import needed
from ..data.augment import IMAGENET_MEAN, IMAGENET_STD, normalize
from .random_weights import settle
from .weights import first_line, resolve

HEADS = ("mlp", "gap", "linear")
OLD_HEADS = {"article": "mlp"}  # names that recipes and checkpoints of old still hold
_HIDDEN_UNITS = {"mlp": 256, "gap": 128}  # before the last layer, as in the recipes' sources
_INCEPTIONS = ("googlenet", "inception_v3")  # their pretrained weights want pixels from -1 to 1


def build(
    backbone: str = "vgg16",
    n_classes: int = 4,
    head: str = "mlp",
    outputs: int | None = None,
    dropout: float = 0.4,
    freeze: str = "all",
    weights: str = "random",
    seed: int = 0,
    device: str | torch.device | None = None,
    backbone_dropout: float | None = None,
    weights_seed: int | None = None,
) -> nn.Module:
    """A torchvision classifier with a new head.

    Parameters
    ----------
    backbone : str, any of `torchvision.models.list_models(module=torchvision.models)`
    n_classes : int, 2 or more
    head : str, what becomes of the end of the network
        "mlp": its last linear layer is replaced by Linear 256, ReLU, Dropout, Linear, LogSoftmax;
        "gap": its last maps are averaged, then Linear 128, ReLU, Dropout, Linear (VGG loses its
        classifier); "linear": its last linear layer is replaced by one of as many `outputs`.
    outputs : int, one for each class where None; 1 is a single logit (two classes only)
    dropout : float, of the new head, from 0 to below 1
    freeze : str, see `freeze`
    weights : str, "random", "imagenet", another name or a file, see `weights.resolve`
    seed : int, of all random weights (settled, see `random_weights`)
    device : None takes torch's default; "meta" gives shapes without memory
    backbone_dropout : float, of the backbone's own dropout layers
        VGG16 has two of 0.5 after its linear layers; None keeps them as they are.
    weights_seed : int, of the backbone's random weights alone; None takes `seed`

    Returns
    -------
    nn.Module
        In train mode. Float (N, 3, H, W) in; (N, outputs) out, log-probabilities from head "mlp"
        (a logit where outputs is 1), logits from the others. Its `tl` is a dict of plain values:
        the arguments, weights (source, name, file, sha256), mean and std (of the normalization
        that the weights expect) and head_name. torch's own random state is left alone.

    Raises
    ------
    ValueError
        For values not allowed, and for weights of another architecture or without numbers.
    WeightsMissing
        Where pretrained weights are neither here nor to be had.

    Examples
    --------
    >>> model = build("vgg16", n_classes=4, head="mlp", device="meta")
    >>> count(model)
    {'total': 135310404, 'trainable': 1049860, 'frozen': 134260544}
    >>> head_name(model), model(torch.empty(2, 3, 224, 224, device="meta")).shape
    ('classifier.6', torch.Size([2, 4]))
    """
    head = OLD_HEADS.get(head, head)
    outputs = _checked_outputs(n_classes, head, outputs, dropout)
    # An older torch tells the device of a context by a new tensor alone.
    device = torch.device(device) if device is not None else torch.empty(0).device
    made_on = torch.device("meta" if device.type == "meta" else "cpu")
    weights_seed = seed if weights_seed is None else weights_seed
    with torch.device("cpu"), _seeded(weights_seed, 1):
        state, info = resolve(backbone, weights)
        model = _whole(backbone, None if info["head"] else state, info, made_on)
    with made_on, _seeded(seed, 0):  # the head is the same whatever the backbone's weights
        name = _put_head(model, head, outputs, dropout)
    if info["head"]:
        _take_from_run(model, name, state, info)
    if any(part != name for part in info["unusable"]):
        raise ValueError(
            f"the weights {info['name']} of {backbone} hold no numbers (NaN) in "
            f"{', '.join(info['unusable'])}; use head='gap', which drops VGG's classifier, "
            "or weights='imagenet'."
        )
    if backbone_dropout is not None:
        own = set(model.get_submodule(name).modules())
        for module in set(model.modules()) - own:
            if isinstance(module, nn.Dropout):
                module.p = backbone_dropout
    if made_on.type == "cpu":
        with torch.device("cpu"), _seeded(weights_seed, 1):
            _fill(model)
            if info["source"] == "random":
                settle(model, name)
    model.tl = {
        "backbone": backbone,
        "n_classes": n_classes,
        "head": head,
        "outputs": outputs,
        "dropout": dropout,
        "backbone_dropout": backbone_dropout,
        "freeze": freeze,
        "weights": {key: info[key] for key in ("source", "name", "file", "sha256")},
        **_expected_pixels(backbone, info),
        "head_name": name,
    }
    return _freeze(model, freeze).to(device)


def freeze(model: nn.Module, what: str) -> nn.Module:
    """Say which parameters of a built model do not learn; all others do.

    Parameters
    ----------
    model : nn.Module, as `build` makes it; changed in place
    what : "none"; "all", all but the new head; or "up to NAME"
        The last is every parameter defined before or in the module NAME: "up to bn1" freezes conv1
        and bn1 of a ResNet, "up to features" all convolutions of a VGG16.

    Returns
    -------
    nn.Module, the same

    Raises
    ------
    ValueError
        For an unknown module (naming those there are) and where nothing would be left to train.
    """
    what = what.strip()
    frozen = _frozen_names(model, what)
    if all(name in frozen for name, _ in model.named_parameters()):
        raise ValueError(
            f"freeze={what!r} freezes everything, the new head {head_name(model)} too, so "
            "nothing could learn; name an earlier module, or freeze='all' to train the head."
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
    model.tl["freeze"] = what
    return model


_freeze = freeze  # `build` has an argument of that name


def train_mode(model: nn.Module) -> nn.Module:
    """Put a model into train mode, but its frozen BatchNorm into eval mode: the statistics stay.

    BatchNorm is frozen where it has weights and none of them learns. Dropout stays active in frozen
    parts: VGG16's own two (p = 0.5) go on blurring what the new head sees.

    Parameters
    ----------
    model : nn.Module, changed in place

    Returns
    -------
    nn.Module, the same
    """
    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            own = list(module.parameters(recurse=False))
            if own and not any(parameter.requires_grad for parameter in own):
                module.eval()
    return model


def head_name(model: nn.Module) -> str:
    """Where the new head is: "classifier.6" in VGG16 with head "mlp", "fc" in a ResNet.

    Parameters
    ----------
    model : nn.Module, as `build` makes it

    Returns
    -------
    str, the name of a module

    Raises
    ------
    ValueError
        For a model that `build` has not made.
    """
    try:
        return model.tl["head_name"]
    except (AttributeError, KeyError):
        raise ValueError(
            f"this {type(model).__name__} has no new head; make it with models.build.build(...), "
            "or pass the model that is inside the wrapper."
        ) from None


def trainable_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that learn, in order: what an optimizer is to be given.

    Parameters
    ----------
    model : nn.Module

    Returns
    -------
    list of nn.Parameter
    """
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def count(model: nn.Module) -> dict[str, int]:
    """How many numbers a model's parameters hold; shared ones count once.

    Parameters
    ----------
    model : nn.Module

    Returns
    -------
    dict of "total", "trainable", "frozen"
    """
    total = sum(parameter.numel() for parameter in model.parameters())
    trainable = sum(parameter.numel() for parameter in trainable_parameters(model))
    return {"total": total, "trainable": trainable, "frozen": total - trainable}


def table(model: nn.Module) -> pd.DataFrame:
    """What is frozen, block by block.

    Parameters
    ----------
    model : nn.Module

    Returns
    -------
    DataFrame, a row for each top-level block: module, kind, parameters, trainable, frozen (numbers)
    """
    # A ViT's token is a parameter outside all modules.
    blocks = {**dict(model.named_children()), **dict(model.named_parameters(recurse=False))}
    rows = []
    for name, block in blocks.items():
        counted = count(block if isinstance(block, nn.Module) else nn.ParameterList([block]))
        rows.append({"module": name, "kind": type(block).__name__, **counted})
    return pd.DataFrame(rows).rename(columns={"total": "parameters"})


def summary(model: nn.Module, size: int = 224) -> str:
    """torchsummary's table of a model's layers and of the shapes that they give, as text.

    A copy on the CPU in eval mode runs on random images, so nothing happens to the model, its
    BatchNorm or the random state. The counts below the table are `count`'s: torchsummary counts
    shared layers twice and misses parameters outside layers. Where it cannot follow a network
    (DenseNet, ViT), the text says so and gives `table`.

    Parameters
    ----------
    model : nn.Module
    size : int, side of the images in pixels

    Returns
    -------
    str, many lines

    Raises
    ------
    ImportError
        Without torchsummary.
    ValueError
        Where the network cannot take images of that size.
    """
    describe, printed = _torchsummary(), io.StringIO()
    twin = copy.deepcopy(model).eval()
    twin = twin.to_empty(device="cpu") if next(model.parameters()).is_meta else twin.cpu()
    silent = contextlib.redirect_stdout(printed)
    try:
        with torch.device("cpu"), torch.no_grad(), _seeded(0, 0), silent:
            describe(twin, (3, size, size), batch_size=-1, device="cpu")
        text = printed.getvalue().split("\nTotal params")[0]
    except (AttributeError, TypeError) as error:
        blocks = table(model).to_string(index=False)
        text = f"torchsummary cannot follow this network ({error}). Its blocks:\n{blocks}"
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ValueError(_wrong_size(type(model).__name__, size, error)) from error
    numbers = count(model)
    return (
        f"{text}\nTotal params: {numbers['total']:,}\nTrainable params: {numbers['trainable']:,}\n"
        f"Non-trainable params: {numbers['frozen']:,}\n(counted from model.parameters())"
    )


def normalization(model: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of the pixels that a model's weights expect.

    Parameters
    ----------
    model : nn.Module

    Returns
    -------
    mean, std : tuple of float, ImageNet's where the model does not say
    """
    description = getattr(model, "tl", {})
    return description.get("mean", IMAGENET_MEAN), description.get("std", IMAGENET_STD)


def prepared(model: nn.Module, images: Tensor, machine: Machine | None = None) -> Tensor:
    """Images as a model wants them.

    Parameters
    ----------
    model : nn.Module
    images : Tensor, uint8 (N, 1 or 3, H, W)
    machine : None stays where the model lies; else the model is moved too

    Returns
    -------
    Tensor, float32 (N, 3, H, W) on the model's device, normalized as its weights expect
    """
    at = next(model.parameters(), torch.empty(0)).device
    machine = machine or Machine(at)
    if at != machine.device:
        machine.place(model)
    images = images.to(machine.device, non_blocking=machine.non_blocking)
    return machine.place(normalize(images, *normalization(model)))


def probabilities(outputs: Tensor) -> Tensor:
    """A model's outputs as probabilities.

    Parameters
    ----------
    outputs : Tensor (N, classes) of logits or log-probabilities, or (N, 1)
        Softmax leaves log-probabilities as they are. A single column is one logit of the second of
        two classes.

    Returns
    -------
    Tensor, float32 (N, classes), rows summing to 1

    Raises
    ------
    ValueError
        For another shape.

    Examples
    --------
    >>> probabilities(torch.tensor([[0.0], [200.0]]))
    tensor([[0.5000, 0.5000],
            [0.0000, 1.0000]])
    """
    if outputs.ndim != 2 or outputs.shape[1] == 0:
        raise ValueError(
            f"outputs have shape {tuple(outputs.shape)}; they should be (N, classes) or (N, 1)."
        )
    outputs = outputs.float()
    if outputs.shape[1] == 1:
        return torch.cat([torch.sigmoid(-outputs), torch.sigmoid(outputs)], dim=1)
    return torch.softmax(outputs, dim=1)


def last_conv(model: nn.Module) -> tuple[str, nn.Conv2d]:
    """The last convolution by definition, where class activation maps look.

    Parameters
    ----------
    model : nn.Module

    Returns
    -------
    its name, and the module

    Raises
    ------
    ValueError
        Where there is none.
    """
    named = list(model.named_modules())
    found = [(name, module) for name, module in named if isinstance(module, nn.Conv2d)]
    if not found:
        raise ValueError(f"this {type(model).__name__} has no convolution, so no map to look at.")
    return found[-1]


def check_size(
    backbone: str, size: int, device: str | torch.device = "cpu", head: str = "mlp"
) -> None:
    """Refuse a size of images that a backbone cannot take on a device; needs no memory.

    On Apple's mps an adaptive pooling fails unless one side is a multiple of the other: of 128 px
    VGG16 pools 4 x 4 maps to 7 x 7.

    Parameters
    ----------
    backbone : str, as for `build`
    size : int, side of the images in pixels
    device : str or torch.device
    head : str, as for `build`

    Raises
    ------
    ValueError
        Where they cannot be taken.
    """
    from torchvision import models as zoo

    model = build(backbone, head=head, device="meta").eval()
    images = torch.empty(2, 3, size, size, device="meta")
    try:
        model(images)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ValueError(_wrong_size(backbone, size, error)) from error
    pools = isinstance(model, (zoo.VGG, zoo.AlexNet)) and head != "gap"  # else to 1 x 1
    if torch.device(device).type != "mps" or not pools:
        return
    side, wanted = model.features(images).shape[-1], model.avgpool.output_size[-1]
    if max(side, wanted) % min(side, wanted):
        raise ValueError(
            f"{backbone} cannot take {size} x {size} images on Apple's mps: it pools maps of "
            f"{side} x {side} to {wanted} x {wanted}, and mps wants one to be a multiple of the "
            "other. Use size=224, head='gap' (which pools to 1 x 1), or device='cpu'."
        )


def _wrong_size(name: str, size: int, error: Exception) -> str:
    why = first_line(error)
    return f"{name} cannot take {size} x {size} images ({why}); 224 suits all of them."


def _checked_outputs(n_classes: int, head: str, outputs: int | None, dropout: float) -> int:
    if head not in HEADS:
        raise ValueError(f"head is {head!r}; it is one of {', '.join(HEADS)}.")
    if n_classes < 2:
        raise ValueError(f"n_classes is {n_classes}; a classifier needs two classes or more.")
    if outputs not in (None, 1, n_classes) or (outputs == 1 and n_classes != 2):
        raise ValueError(
            f"outputs is {outputs} for {n_classes} classes; it is None for one output a class, "
            "or 1 for a single logit where there are two classes."
        )
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}; it lies from 0 to below 1.")
    return outputs or n_classes


@contextlib.contextmanager
def _seeded(seed: int, stream: int) -> Iterator[None]:
    """Random numbers of our own; torch's CPU state comes back, those of GPUs are not touched."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(2 * seed + stream)
        yield


def _whole(
    name: str, state: dict[str, Tensor] | None, info: dict, device: torch.device
) -> nn.Module:
    """The network for ImageNet's 1000 classes; on meta without numbers, and a VGG for `_fill`."""
    drawn_now = state is None and device.type == "cpu" and not name.startswith("vgg")
    model = _made(name, "cpu" if drawn_now else "meta")
    if state is not None:
        whole = {key: value.contiguous() for key, value in state.items()}
        try:
            model.load_state_dict(whole, assign=True)
        except RuntimeError as error:
            raise ValueError(_misfit(name, model, state, info)) from error
    if getattr(model, "aux_logits", False):  # more than one output in train mode: both inceptions
        model.aux_logits, model.aux1, model.aux2, model.AuxLogits = False, None, None, None
    return model


def _take_from_run(model: nn.Module, head: str, state: dict[str, Tensor], info: dict) -> None:
    """Load what a run's network has learned, but for its head and the new one."""
    heads = (f"{info['head']}.", f"{head}.")
    body = {key: value.contiguous() for key, value in state.items() if not key.startswith(heads)}
    wanted = {k: v for k, v in model.state_dict().items() if not k.startswith(heads[1])}
    wanted, found = _shapes(wanted), _shapes(body)
    if wrong := [key for key in [*wanted, *found] if found.get(key) != wanted.get(key)]:
        key = wrong[0]
        raise ValueError(
            f"{info['file']} is of a run with another network: {key} has shape "
            f"{found.get(key, 'none (missing)')} there and {wanted.get(key, 'none (unknown)')} "
            "here. Take the run's own backbone, and a head that keeps what the run's head kept."
        )
    model.load_state_dict(body, strict=False, assign=True)


def _made(name: str, device: str) -> nn.Module:
    """As torchvision makes it, random; on meta names and shapes without numbers."""
    from torchvision import models as zoo

    if name.startswith("regnet") and device == "meta":  # computes its widths with tensors
        return _made(name, "cpu").to("meta")
    # What inceptions do anyway, but with a warning.
    silent = {"init_weights": True} if name in _INCEPTIONS else {}
    with torch.device(device):
        model = zoo.get_model(name, weights=None, **silent)
    if isinstance(model, zoo.MNASNet):
        model.__class__ = _of_present_version(type(model))
    return model


@functools.cache
def _of_present_version(mnasnet: type[nn.Module]) -> type[nn.Module]:
    """torchvision's MNASNet refuses weights that do not say of which version they are."""

    class MNASNet(mnasnet):
        def _load_from_state_dict(self, state: dict, prefix: str, about: dict, *rest: object):
            about = {"version": self._version, **about}
            super()._load_from_state_dict(state, prefix, about, *rest)

    return MNASNet


def _misfit(name: str, model: nn.Module, state: dict[str, Tensor], info: dict) -> str:
    """Why a state dict does not fit, and what it is."""
    from torchvision import models as zoo

    wanted, found = _shapes(model.state_dict()), _shapes(state)
    wrong = [key for key in [*wanted, *found] if found.get(key) != wanted.get(key)]
    key = next((key for key in wrong if not key.endswith("num_batches_tracked")), wrong[0])
    alike = {}
    for other in zoo.list_models(module=zoo):
        if not other.startswith("regnet"):
            shapes = _shapes(_made(other, "meta").state_dict()).items()
            # The share of what both hold in what either holds: ResNet-101 has all of ResNet-50.
            alike[other] = len(found.items() & shapes) / len(found.items() | shapes)
    likely = max(alike, key=lambda other: alike[other])
    what = likely if alike[likely] > 0.5 else "no architecture that torchvision has"
    what += " with another last layer" if likely == name else ""
    return (
        f"{info['file']} holds weights of {what}, not {name}'s for ImageNet's 1000 classes: {key} "
        f"has shape {found.get(key, 'none (missing)')} there and "
        f"{wanted.get(key, 'none (unknown)')} in {name}. Pass the architecture that the file is of "
        f"as backbone, or {name}'s own weights."
    )


def _shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in state.items()}


def _put_head(model: nn.Module, kind: str, outputs: int, dropout: float) -> str:
    """Replace the end of the network; returns the new head's name."""
    from torchvision import models as zoo

    pooled = kind == "gap" or isinstance(model, zoo.SqueezeNet)
    name, width = _pooled_end(model) if pooled else _last_linear(model)
    head: nn.Module = nn.Linear(width, outputs)
    if units := _HIDDEN_UNITS.get(kind):
        body, last = nn.Linear(width, units), nn.Linear(units, outputs)
        head = nn.Sequential(body, nn.ReLU(), nn.Dropout(dropout), last)
    if kind == "mlp" and outputs > 1:
        head.append(nn.LogSoftmax(dim=1))
    model.set_submodule(name, head)
    return name


def _last_linear(model: nn.Module) -> tuple[str, int]:
    """Name and number of inputs of the layer that gives the 1000 classes."""
    named = reversed(list(model.named_modules()))
    return next((name, one.in_features) for name, one in named if isinstance(one, nn.Linear))


def _pooled_end(model: nn.Module) -> tuple[str, int]:
    """Cut a network after its averaged maps; name and number of inputs of what is to come there."""
    from torchvision import models as zoo

    if isinstance(model, zoo.VisionTransformer):
        raise ValueError(
            "head='gap' averages the last maps and a ViT has none; use 'linear' or 'mlp'."
        )
    if isinstance(model, (zoo.VGG, zoo.AlexNet)):
        model.avgpool = nn.AdaptiveAvgPool2d(1)
        return "classifier", last_conv(model)[1].out_channels
    if isinstance(model, zoo.SqueezeNet):  # its classes come from a convolution
        model.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Identity())
        return "classifier.2", 512
    name, width = _last_linear(model)
    end = model.get_submodule(name.split(".")[0])
    if isinstance(end, nn.Linear):
        return name, width
    first = next(i for i, module in enumerate(end) if isinstance(module, nn.Linear))
    if all(isinstance(module, nn.Dropout) for module in end[:first]):
        return "classifier", end[first].in_features
    model.classifier = end[: first + 1]  # ConvNeXt's and MaxViT's norm is pretrained too: kept
    return f"classifier.{first}", end[first].in_features


def _fill(model: nn.Module) -> None:
    """Draw what a VGG on meta still lacks, as torchvision does, but once and only what stays.

    VGG16 with head "mlp" takes 0.6 s, against 0.9 s (2 CPU cores, warm).
    """
    for module in model.modules():
        if not any(parameter.is_meta for parameter in module.parameters(recurse=False)):
            continue
        module.to_empty(device="cpu", recurse=False)
        if isinstance(module, _BatchNorm):
            module.reset_parameters()
            continue
        nn.init.zeros_(module.bias)
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
        else:
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _expected_pixels(backbone: str, info: dict) -> dict[str, list[float]]:
    pretrained = info["source"] in ("imagenet", "file")
    if backbone in _INCEPTIONS and pretrained:  # torchvision's transform_input
        return {"mean": [0.5] * 3, "std": [0.5] * 3}
    own = info["transforms"] or {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    return {key: list(own[key]) for key in ("mean", "std")}


def _frozen_names(model: nn.Module, what: str) -> set[str]:
    """The names of the parameters that `what` freezes."""
    names = [name for name, _ in model.named_parameters()]
    if what == "none":
        return set()
    if what == "all":
        return {name for name in names if not name.startswith(head_name(model) + ".")}
    if not what.startswith("up to "):
        raise ValueError(
            f"freeze is {what!r}; it is 'none', 'all' (but the new head) or 'up to NAME', NAME "
            f"one of {', '.join(dict(model.named_children()))} or a module inside."
        )
    wanted, order = what.removeprefix("up to ").strip(), [name for name, _ in model.named_modules()]
    inside = [i for i, name in enumerate(order) if name and f"{name}.".startswith(f"{wanted}.")]
    if not inside:
        raise ValueError(_no_such_module(model, wanted))
    before = set(order[: inside[-1] + 1])
    return {name for name in names if name.rpartition(".")[0] in before}


def _no_such_module(model: nn.Module, wanted: str) -> str:
    parent, modules = wanted, dict(model.named_modules())
    while parent not in modules:  # ends at "", the model itself
        parent = parent.rpartition(".")[0]
    near = difflib.get_close_matches(wanted, modules, 3)
    inside = ", ".join(name for name, _ in modules[parent].named_children()) or "no modules inside"
    close = f"close to it: {', '.join(near)}; " if near else ""
    return f"there is no module {wanted!r}; {close}{parent or 'the model'} has {inside}."


def _torchsummary() -> Callable[..., None]:
    describe = needed("torchsummary", "torchsummary").summary
    if "batch_size" not in inspect.signature(describe).parameters:
        raise ImportError(
            "another package, torch-summary, has taken torchsummary's name: "
            "pip uninstall torch-summary && pip install torchsummary"
        )
    return describe
