"""The frozen part of a network: where it ends, and a copy of it made for running only.

Taught in notebook 03.
"""

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
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..core.devices import Machine

_RANDOM = ("dropout", "stochastic_depth", "rand", "bernoulli")
_BOOKKEEPING = {*vars(nn.Module())} - {
    "_parameters",
    "_buffers",
    "_modules",
}  # of every module; hooks apart


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode for the time of a block; then every module has its own mode again, a frozen BatchNorm too."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@dataclass(frozen=True)
class Split:
    """A model cut in two: tail(prefix(x)) is model(x). The parts share the model's own modules and weights.

    name : the last layer of the prefix, e.g. "classifier.1".
    """

    prefix: fx.GraphModule
    tail: fx.GraphModule
    name: str


class _Tracer(fx.Tracer):
    """Keeps torchvision's random layers whole, so that their train/eval mode is looked up at run time."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return type(module).__name__ in (
            "StochasticDepth",
            "DropBlock2d",
        ) or super().is_leaf_module(module, name)


def split(model: nn.Module) -> Split | None:
    """Cut a model after its longest leading part that is frozen and deterministic.

    Such a layer has no trainable parameter, draws no random numbers, and its BatchNorm is frozen (which
    `models.train_mode` keeps in eval). The cut is where a single tensor passes.

    Returns None where nothing worth keeping is frozen, or the model cannot be traced by torch.fx.

    Taught in notebook 03.
    """
    try:
        graph = _Tracer().trace(model)
    except Exception:  # control flow that depends on values: fx raises many kinds
        return None
    nodes = list(graph.nodes)
    frozen = next(i for i, node in enumerate(nodes) if not _is_fixed(node, model))
    position = {node: i for i, node in enumerate(nodes)}
    cut = next((i for i in range(frozen - 1, 0, -1) if _single_crossing(nodes, position, i)), 0)
    if not any(_has_weights(node, model) for node in nodes[: cut + 1]):
        return None
    prefix = fx.GraphModule(model, _part(nodes[: cut + 1], None))
    tail = fx.GraphModule(model, _part(nodes[cut + 1 :], nodes[cut]))
    named = [node.target for node in nodes[: cut + 1] if node.op == "call_module"]
    return Split(prefix, tail, named[-1])


def _is_fixed(node: fx.Node, model: nn.Module) -> bool:
    if node.op == "output":
        return False
    if node.op == "get_attr":
        return not getattr(operator.attrgetter(node.target)(model), "requires_grad", False)
    if node.op in ("call_function", "call_method"):
        name = node.target if isinstance(node.target, str) else node.target.__name__
        return not any(word in name for word in _RANDOM) and not any(
            "dropout" in key and value != 0 for key, value in node.kwargs.items()
        )  # of an attention
    if node.op == "call_module":
        module = model.get_submodule(node.target)
        if isinstance(module, _BatchNorm) and not any(True for _ in module.parameters()):
            return False  # `train_mode` leaves it learning its statistics
        stochastic = any(
            word in type(module).__name__.lower()
            for word in ("dropout", "stochasticdepth", "dropblock")
        )
        return (
            not (stochastic and getattr(module, "p", 1) > 0)
            and not getattr(module, "dropout", 0)
            and not any(p.requires_grad for p in module.parameters())
        )
    return True


def _has_weights(node: fx.Node, model: nn.Module) -> bool:
    return node.op == "call_module" and any(
        True for _ in model.get_submodule(node.target).parameters()
    )


def _single_crossing(nodes: list[fx.Node], position: dict[fx.Node, int], cut: int) -> bool:
    crossing = [
        node for node in nodes[: cut + 1] if any(position[user] > cut for user in node.users)
    ]
    several = any(
        user.target is operator.getitem and isinstance(user.args[1], int)
        for user in nodes[cut].users
    )
    return (
        crossing == [nodes[cut]] and not several
    )  # what is taken apart by number is no tensor but several


def _part(nodes: list[fx.Node], entry: fx.Node | None) -> fx.Graph:
    graph, copies = fx.Graph(), {}
    if entry is not None:
        copies[entry] = graph.placeholder("features")
    for node in nodes:
        copies[node] = graph.node_copy(node, lambda old: copies[old])
    if nodes[-1].op != "output":
        graph.output(copies[nodes[-1]])
    return graph


def fingerprint(prefix: fx.GraphModule) -> str:
    """A hash of all that a prefix's outputs depend on: its layers' kinds, settings, weights and buffers, the functions
    between them with their arguments, and how all are joined. The same in every process."""
    seen: dict[int, int] = {}
    told = [
        [
            node.op,
            node.name,
            _told(_target(node, prefix), seen),
            _told(node.args, seen),
            _told(node.kwargs, seen),
        ]
        for node in prefix.graph.nodes
    ]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _target(node: fx.Node, prefix: fx.GraphModule) -> object:
    if node.op == "get_attr":
        return operator.attrgetter(node.target)(prefix)
    return prefix.get_submodule(node.target) if node.op == "call_module" else node.target


def _told(value: object, seen: dict[int, int]) -> object:
    """A value in JSON, without names of places in memory; `seen` numbers what may come again."""
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
    return (
        vars(value) if hasattr(value, "__dict__") else re.sub(r" at 0x[0-9a-f]+", "", repr(value))
    )


def _code(function: object) -> object:
    """What a function of one's own does; torch's do the same under the same name, as its version is in the key."""
    code = getattr(function, "__code__", function)
    room = str(getattr(function, "__module__", "")).partition(".")[0]
    if not isinstance(code, types.CodeType) or room in ("torch", "torchvision"):
        return None
    constants = [
        _code(item) if isinstance(item, types.CodeType) else item for item in code.co_consts
    ]
    held = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    return [
        code.co_code.hex(),
        code.co_names,
        constants,
        held,
        getattr(function, "__defaults__", None),
        getattr(function, "__kwdefaults__", None),
    ]


class _Halve(nn.Module):
    """MaxPool2d(2) for a CPU: torch's own also finds where each maximum was and takes six times as long in bf16
    (2.3 ms against 0.4 ms an image after VGG16's second layer; 1 part in 15 of the whole prefix)."""

    def forward(self, maps: Tensor) -> Tensor:
        height, width = (side // 2 * 2 for side in maps.shape[-2:])
        rows = torch.maximum(maps[:, :, 0:height:2], maps[:, :, 1:height:2])
        return torch.maximum(rows[..., 0:width:2], rows[..., 1:width:2])


def _halves(module: nn.Module) -> bool:
    plain = isinstance(module, nn.MaxPool2d) and not (module.ceil_mode or module.return_indices)
    return plain and (module.kernel_size, module.stride, module.padding, module.dilation) == (
        2,
        2,
        0,
        1,
    )


def ready(prefix: nn.Module, machine: Machine) -> nn.Module:
    """A copy of a prefix for running only: eval mode, on the device, weights of matrix layers cast once.

    Autocast casts frozen weights anew for every batch (411 MB for VGG16's first linear layer); cast beforehand,
    the numbers are the same.
    """
    prefix = copy.deepcopy(prefix).eval().requires_grad_(False)
    if machine.precision != "fp32":
        for module in prefix.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.to(machine.dtype)
    if machine.device.type == "cpu" and machine.channels_last:
        for name in [name for name, module in prefix.named_modules() if _halves(module)]:
            above, _, last = name.rpartition(".")
            setattr(
                prefix.get_submodule(above), last, _Halve()
            )  # set_submodule is newer than torch 2.4
    return machine.place(prefix)
