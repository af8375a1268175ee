"""Checkpoints: written whole or not at all, made of plain types, loaded without running any code.

`torch.load` may run code hidden in a file unless it is told `weights_only=True`; a checkpoint here never needs
more. A file is written beside its place and renamed into it, so a reader finds the old one or the new one.

Taught in notebook 03.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from ..core.files import replacing
from .build import build
from .weights import PREFIXES, first_line, refuse_swollen, unpickled

_BUILT_FROM = {"backbone", "n_classes", "head", "outputs", "dropout", "freeze", "backbone_dropout"}


def write(path: str | Path, content: dict) -> None:
    """Write a dict of plain values and tensors, whole or not at all."""
    with replacing(path) as part:
        torch.save(content, part)


def read(path: str | Path) -> dict:
    """Read what `write` wrote, on the CPU, without running code.

    Raises
    ------
    FileNotFoundError where there is none; ValueError where it is damaged, holds anything but plain types and tensors, or
    would take far more memory than it has bytes.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no checkpoint {path}; train the run first, or look at the name"
        )
    try:
        return unpickled(path)
    except Exception as error:  # damaged files raise nearly every kind: IndexError, struct.error, UnicodeDecodeError...
        raise ValueError(
            f"{path} cannot be loaded as a checkpoint: {first_line(error)}. It is damaged, or holds more than plain "
            "types and tensors, which could run code and is refused. Copy it again from where it was made, "
            "or, where it is a run's own last.pt, delete it, and the same training begins anew"
        ) from None


def save(path: str | Path, model: nn.Module, classes: list[str], **more: object) -> None:
    """Save a model with what is needed to use it.

    Parameters
    ----------
    path : the file; replaced whole or not at all.
    model : its `state_dict` is saved with the wrappers' prefixes taken off, and its plain description `tl`.
    classes : class names in index order.
    more : plain values and tensors (recipe, epoch...).
    """
    write(
        path,
        {
            "format": 1,
            "model": dict(unwrapped(model).tl),
            "classes": list(classes),
            "state": normalized(model.state_dict()),
            **more,
        },
    )


def load(path: str | Path) -> dict:
    """Load what `save` wrote, on the CPU, without running code.

    Raises
    ------
    As `read`; and ValueError where the file is no checkpoint of tlutils, or its tensors are far larger than it.
    """
    content = read(path)
    if (
        not isinstance(content, dict)
        or not {"format", "state", "classes", "model"} <= content.keys()
        or not (isinstance(content["state"], dict) and isinstance(content["model"], dict))
    ):
        raise ValueError(
            f"{path} is no checkpoint of tlutils (it wants format, model, classes and state); "
            "a bare state dict is a weights file: pass it as weights="
        )
    refuse_swollen(content["state"], path)
    content["state"] = normalized(content["state"])
    return content


def load_model(path: str | Path) -> tuple[nn.Module, dict]:
    """Rebuild the model a checkpoint was saved from, in eval mode on the CPU, and return it with the content."""
    content = load(path)
    if lost := sorted(_BUILT_FROM - content["model"].keys()):
        raise ValueError(
            f"{path} does not say how to build its model again: it lacks {', '.join(lost)}. Build the "
            "model yourself and use checkpoints.restore(model, checkpoints.load(path))"
        )
    try:
        model = build(**build_arguments(content["model"]), weights="random", device="meta")
    except (TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is no checkpoint of tlutils: its model is not described as one "
            f"({type(error).__name__}: {error})"
        ) from None
    model.to_empty(device="cpu")
    restore(model, content, path)
    model.tl = dict(content["model"])
    return model.eval(), content


def build_arguments(description: dict) -> dict:
    """What `models.build` needs of a model's plain description."""
    return {name: description[name] for name in _BUILT_FROM}


def restore(model: nn.Module, content: dict, path: str | Path = "the checkpoint") -> None:
    """Load a checkpoint's state into a model.

    Raises
    ------
    ValueError naming both architectures where the state does not fit.
    """
    try:
        unwrapped(model).load_state_dict(content["state"])
    except RuntimeError as error:
        here, there = getattr(unwrapped(model), "tl", {}), content["model"]
        raise ValueError(
            f"{path} holds {_name(there)} and does not fit {_name(here)}: "
            f"{_first_mismatch(str(error))}. Load it into the architecture it was saved from"
        ) from None


def _name(description: dict) -> str:
    return (
        f"a {description.get('backbone', 'model of unknown backbone')} with head {description.get('head', '?')!r} "
        f"for {description.get('n_classes', '?')} classes"
    )


def _first_mismatch(message: str) -> str:
    lines = [line.strip() for line in message.splitlines()[1:] if line.strip()]
    return lines[0][:200].rstrip(". ") if lines else message[:200]


def normalized(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with the prefixes of DataParallel, DistributedDataParallel and compile taken off its keys."""

    def strip(key: str) -> str:
        while key.startswith(PREFIXES):
            key = key.split(".", 1)[1]
        return key

    return {strip(key): value for key, value in state.items()}


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside the wrappers of DataParallel, DistributedDataParallel and compile."""
    while hasattr(model, "module") or hasattr(model, "_orig_mod"):
        model = model.module if hasattr(model, "module") else model._orig_mod
    return model


def copy_of_state(
    model: nn.Module, keep: Callable[[str], bool] = lambda key: True
) -> dict[str, Tensor]:
    """A detached copy of a model's state on the CPU, of the keys `keep` says yes to."""
    return {
        key: value.detach().cpu().clone()
        for key, value in normalized(model.state_dict()).items()
        if keep(key)
    }
