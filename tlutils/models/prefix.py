"""The frozen part of a network: where it ends, what it depends on, a copy made for running only."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import operator
import re
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..core.devices import Machine

_RANDOM_FUNCTIONS = ("dropout", "stochastic_depth", "rand", "bernoulli")
_RANDOM_LAYERS = ("dropout", "stochasticdepth", "dropblock")
# What every module has, and what says nothing of what it computes; hooks apart.
_BOOKKEEPING = {*vars(nn.Module())} - {"_parameters", "_buffers", "_modules"}


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode for the time of a block; then every module has its own mode again.

    Parameters
    ----------
    model : nn.Module

    Yields
    ------
    None
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@dataclass(frozen=True)
class Split:
    """A model cut in two: tail(prefix(x)) is model(x). The parts share the model's modules.

    Parameters
    ----------
    prefix, tail : fx.GraphModule
    name : str, the last layer of the prefix, such as "classifier.1"
    """

    prefix: fx.GraphModule
    tail: fx.GraphModule
    name: str


class _Tracer(fx.Tracer):
    """Keeps torchvision's random layers whole: their train/eval mode is looked up at run time."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        kept = type(module).__name__ in ("StochasticDepth", "DropBlock2d")
        return kept or super().is_leaf_module(module, name)


def split(model: nn.Module) -> Split | None:
    """Cut a model after its longest leading part that is frozen and deterministic.

    Such a layer has no trainable parameter, draws no random numbers, and its BatchNorm is frozen
    (which `build.train_mode` keeps in eval). The cut is where a single tensor passes.

    Parameters
    ----------
    model : nn.Module

    Returns
    -------
    Split or None; None where nothing worth keeping is frozen, or torch.fx cannot trace the model

    Examples
    --------
    >>> from tlutils.models.build import build
    >>> cut = split(build("resnet18", head="linear", freeze="all", device="meta"))
    >>> cut.name
    'avgpool'
    >>> [name for name, parameter in cut.tail.named_parameters()]
    ['fc.weight', 'fc.bias']
    """
    try:
        graph = _Tracer().trace(model)
    except Exception:  # control flow that depends on values: fx raises many kinds
        return None
    nodes = list(graph.nodes)
    frozen = next(i for i, node in enumerate(nodes) if not _is_fixed(node, model))
    position = {node: i for i, node in enumerate(nodes)}
    cut = next((i for i in range(frozen - 1, 0, -1) if _single_crossing(nodes, position, i)), 0)
    calls = [node.target for node in nodes[: cut + 1] if node.op == "call_module"]
    if not any(list(model.get_submodule(name).parameters()) for name in calls):
        return None
    prefix = fx.GraphModule(model, _part(nodes[: cut + 1], None))
    tail = fx.GraphModule(model, _part(nodes[cut + 1 :], nodes[cut]))
    return Split(prefix, tail, calls[-1])


def _is_fixed(node: fx.Node, model: nn.Module) -> bool:
    if node.op == "output":
        return False
    if node.op == "get_attr":
        return not getattr(operator.attrgetter(node.target)(model), "requires_grad", False)
    if node.op in ("call_function", "call_method"):
        name = node.target if isinstance(node.target, str) else node.target.__name__
        attention = any("dropout" in key and value != 0 for key, value in node.kwargs.items())
        return not attention and not any(word in name for word in _RANDOM_FUNCTIONS)
    return node.op != "call_module" or _is_fixed_module(model.get_submodule(node.target))


def _is_fixed_module(module: nn.Module) -> bool:
    parameters, kind = list(module.parameters()), type(module).__name__.lower()
    if isinstance(module, _BatchNorm) and not parameters:
        return False  # `train_mode` leaves it learning its statistics
    if any(word in kind for word in _RANDOM_LAYERS) and getattr(module, "p", 1) > 0:
        return False
    return not getattr(module, "dropout", 0) and not any(p.requires_grad for p in parameters)


def _single_crossing(nodes: list[fx.Node], position: dict[fx.Node, int], cut: int) -> bool:
    """Whether the node at the cut alone is used beyond, and not taken apart there by number."""
    last, users = nodes[cut], nodes[cut].users
    crossing = [one for one in nodes[: cut + 1] if any(position[user] > cut for user in one.users)]
    parts = (user.args[1] for user in users if user.target is operator.getitem)
    return crossing == [last] and not any(isinstance(part, int) for part in parts)


def _part(nodes: list[fx.Node], entry: fx.Node | None) -> fx.Graph:
    graph, copies = fx.Graph(), {}
    if entry is not None:
        copies[entry] = graph.placeholder("features")
    for node in nodes:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    if nodes[-1].op != "output":
        graph.output(copies[nodes[-1]])
    return graph


def fingerprint(prefix: fx.GraphModule) -> str:
    """A hash of all that a prefix's outputs depend on, the same in every process.

    That is its layers' kinds, settings, weights and buffers, the functions between them with their
    arguments, and how all are joined.

    Parameters
    ----------
    prefix : fx.GraphModule, see `split`

    Returns
    -------
    str, SHA-256 in hex
    """
    seen: dict[int, int] = {}
    told = []
    for node in prefix.graph.nodes:
        target: object = node.target
        if node.op == "get_attr":
            target = operator.attrgetter(node.target)(prefix)
        elif node.op == "call_module":
            target = prefix.get_submodule(node.target)
        parts = [_told(part, seen) for part in (target, node.args, node.kwargs)]
        told.append([node.op, node.name, *parts])
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _told(value: object, seen: dict[int, int]) -> object:
    """A value in JSON, without addresses in memory; `seen` numbers what may come again."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, fx.Node):
        return ["node", value.name]
    if isinstance(value, Tensor):
        numbers = value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
        return [str(value.dtype), list(value.shape), hashlib.sha256(numbers).hexdigest()]
    if isinstance(value, (list, tuple)):
        return [_told(item, seen) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(json.dumps(_told(item, seen)) for item in value)
    if isinstance(value, dict):
        told = {json.dumps(_told(key, seen)): _told(item, seen) for key, item in value.items()}
        return ["dict", *sorted(told.items())]
    if id(value) in seen:
        return ["again", seen[id(value)]]
    seen[id(value)] = len(seen)
    if isinstance(value, functools.partial):
        return ["partial", _told([value.func, value.args, value.keywords], seen)]
    if isinstance(value, types.MethodType):
        return ["method", _told([value.__func__, value.__self__], seen)]
    if callable(value) and hasattr(value, "__qualname__"):
        return [f"{value.__module__}.{value.__qualname__}", _told(_code(value), seen)]
    return [f"{type(value).__module__}.{type(value).__qualname__}", _told(_settings(value), seen)]


def _settings(value: object) -> object:
    """What an object holds; of a module all but what every module has."""
    if isinstance(value, nn.Module):
        own = {name: held for name, held in vars(value).items() if name not in _BOOKKEEPING}
        return own, [*value._forward_pre_hooks.values()], [*value._forward_hooks.values()]
    if hasattr(value, "__dict__"):
        return vars(value)
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def _code(function: object) -> object:
    """What a user's function does; torch's do the same under one name, and its version is kept."""
    code = getattr(function, "__code__", function)
    package = str(getattr(function, "__module__", "")).partition(".")[0]
    if not isinstance(code, types.CodeType) or package in ("torch", "torchvision"):
        return None
    inner = [_code(one) if isinstance(one, types.CodeType) else one for one in code.co_consts]
    held = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    defaults = [getattr(function, name, None) for name in ("__defaults__", "__kwdefaults__")]
    return [code.co_code.hex(), code.co_names, inner, held, *defaults]


class _Halve(nn.Module):
    """MaxPool2d(2) for a CPU: torch's own also finds where each maximum was.

    It takes six times as long in bf16 (2.3 ms against 0.4 ms an image after VGG16's second layer;
    1 part in 15 of the whole prefix).
    """

    def forward(self, maps: Tensor) -> Tensor:
        height, width = (side // 2 * 2 for side in maps.shape[-2:])
        rows = torch.maximum(maps[:, :, 0:height:2], maps[:, :, 1:height:2])
        return torch.maximum(rows[..., 0:width:2], rows[..., 1:width:2])


def _halves(module: nn.Module) -> bool:
    if not isinstance(module, nn.MaxPool2d) or module.ceil_mode or module.return_indices:
        return False
    return (module.kernel_size, module.stride, module.padding, module.dilation) == (2, 2, 0, 1)


@torch.inference_mode()
def rounding(prefix: nn.Module, images: Tensor, machine: Machine) -> float:
    """How far a machine's precision moves the features of images, beside how far these differ.

    Parameters
    ----------
    prefix : nn.Module, see `split`
    images : Tensor, float (N, 3, height, width), normalized, two or more
    machine : Machine

    Returns
    -------
    float
        The mean distance from the features in fp32, as a share of these features' mean distance
        from their mean: 0 is exact. A head that learns from what is moved by much answers
        otherwise in another precision.
    """

    def features(of: Machine) -> Tensor:
        with of.autocast():
            return ready(prefix, of)(of.place(images)).float().flatten(1).cpu()

    exact, rounded = (features(of) for of in (replace(machine, precision="fp32"), machine))
    apart = (exact - exact.mean(0)).norm(dim=1).mean()
    return float((rounded - exact).norm(dim=1).mean() / apart.clamp(min=1e-12))


def ready(prefix: nn.Module, machine: Machine) -> nn.Module:
    """A copy of a prefix for running only: eval mode, on the device, weights cast once.

    Autocast casts frozen weights of matrix layers anew for every batch (411 MB for VGG16's first
    linear layer); cast beforehand, the numbers are the same.

    Parameters
    ----------
    prefix : nn.Module, see `split`
    machine : Machine

    Returns
    -------
    nn.Module
    """
    prefix = copy.deepcopy(prefix).eval().requires_grad_(False)
    if machine.precision != "fp32":
        for module in prefix.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.to(machine.dtype)
    if machine.device.type == "cpu" and machine.channels_last:
        for name in [name for name, module in prefix.named_modules() if _halves(module)]:
            prefix.set_submodule(name, _Halve())
    return machine.place(prefix)
