"""Checkpoints: written whole or not at all, made of plain types, loaded without running any code.

A file is written beside its place and renamed into it: a reader finds the old one or the new one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from ..core.files import replacing
from .build import OLD_HEADS, build
from .weights import first_line, load_tensors, refuse_swollen, without_prefixes

_BUILT_FROM = {"backbone", "n_classes", "head", "outputs", "dropout", "freeze", "backbone_dropout"}


def write(path: str | Path, content: dict) -> None:
    """Write a dict of plain values and tensors, whole or not at all.

    Parameters
    ----------
    path : str or Path
    content : dict
    """
    with replacing(path) as part:
        torch.save(content, part)


def read(path: str | Path) -> dict:
    """Read what `write` wrote, on the CPU, without running code.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    dict of plain values and tensors

    Raises
    ------
    FileNotFoundError
        Where there is none.
    ValueError
        Where it is damaged, holds anything but plain types and tensors, or would take far more
        memory than it has bytes.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no checkpoint {path}; train the run first, or look at the name"
        )
    try:
        return load_tensors(path)
    except Exception as error:  # damaged files raise nearly every kind: IndexError, struct.error...
        raise ValueError(
            f"{path} cannot be loaded as a checkpoint: {first_line(error)}. It is damaged, or "
            "holds more than plain types and tensors, which could run code and is refused. Copy it "
            "again from where it was made, or, where it is a run's own last.pt, delete it, and the "
            "same training begins anew"
        ) from None


def save(path: str | Path, model: nn.Module, classes: list[str], **more: object) -> None:
    """Save a model with what is needed to use it.

    Parameters
    ----------
    path : str or Path, replaced whole or not at all
    model : nn.Module, as `build` makes it, or inside the wrappers of training
    classes : list of str, in index order
    **more : plain values and tensors (recipe, epoch...)
    """
    content = {
        "format": 1,
        "model": dict(unwrapped(model).tl),
        "classes": list(classes),
        "state": without_prefixes(model.state_dict()),
    }
    write(path, content | more)


def load(path: str | Path) -> dict:
    """Load what `save` wrote, on the CPU, without running code.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    dict of format, model (its description), classes, state, and what else was saved

    Raises
    ------
    ValueError
        As `read`; and where the file is no checkpoint of tlutils, or its tensors are far larger
        than it.
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
    content["state"] = without_prefixes(content["state"])
    head = content["model"].get("head")
    if isinstance(head, str):
        content["model"]["head"] = OLD_HEADS.get(head, head)
    return content


def load_model(path: str | Path) -> tuple[nn.Module, dict]:
    """Rebuild the model that a checkpoint was saved from.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    the model in eval mode on the CPU, and the content as `load` gives it

    Raises
    ------
    ValueError
        As `load`; and where it does not say how to build the model.
    """
    content = load(path)
    if lost := sorted(_BUILT_FROM - content["model"].keys()):
        raise ValueError(
            f"{path} does not say how to build its model again: it lacks {', '.join(lost)}. Build "
            "the model yourself and use checkpoints.restore(model, checkpoints.load(path))"
        )
    arguments = {name: content["model"][name] for name in _BUILT_FROM}
    try:
        model = build(**arguments, weights="random", device="meta")
    except (TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is no checkpoint of tlutils: its model is not described as one "
            f"({type(error).__name__}: {error})"
        ) from None
    model.to_empty(device="cpu")
    restore(model, content, path)
    model.tl = dict(content["model"])
    return model.eval(), content


def restore(model: nn.Module, content: dict, path: str | Path = "the checkpoint") -> None:
    """Load a checkpoint's state into a model.

    Parameters
    ----------
    model : nn.Module of the same architecture, changed in place
    content : dict, as `load` gives it
    path : str or Path, for the error

    Raises
    ------
    ValueError
        Naming both architectures where the state does not fit.
    """
    try:
        unwrapped(model).load_state_dict(content["state"])
    except RuntimeError as error:
        here, there = getattr(unwrapped(model), "tl", {}), content["model"]
        lines = [line.strip() for line in str(error).splitlines()[1:] if line.strip()]
        why = lines[0].rstrip(". ") if lines else str(error)
        raise ValueError(
            f"{path} holds {_name(there)} and does not fit {_name(here)}: {why[:200]}. Load it "
            "into the architecture it was saved from"
        ) from None


def _name(description: dict) -> str:
    backbone = description.get("backbone", "model of unknown backbone")
    head, n_classes = (description.get(name, "?") for name in ("head", "n_classes"))
    return f"a {backbone} with head {head!r} for {n_classes} classes"


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside the wrappers of DataParallel, DistributedDataParallel and compile.

    Parameters
    ----------
    model : nn.Module

    Returns
    -------
    nn.Module
    """
    while hasattr(model, "module") or hasattr(model, "_orig_mod"):
        model = model.module if hasattr(model, "module") else model._orig_mod
    return model


def fingerprint(model: nn.Module) -> str:
    """A hash of a model's weights and buffers, the same in memory and loaded from its checkpoint.

    Parameters
    ----------
    model : nn.Module, or inside the wrappers of training

    Returns
    -------
    str, SHA-256 in hex
    """
    digest = hashlib.sha256()
    for name, value in without_prefixes(model.state_dict()).items():
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def copy_of_state(
    model: nn.Module, keep: Callable[[str], bool] = lambda key: True
) -> dict[str, Tensor]:
    """A detached copy of a model's state on the CPU.

    Parameters
    ----------
    model : nn.Module, or inside the wrappers of training
    keep : Callable, says of a key whether it is wanted

    Returns
    -------
    dict of str to Tensor, without the wrappers' prefixes
    """
    state = without_prefixes(model.state_dict())
    return {key: value.detach().cpu().clone() for key, value in state.items() if keep(key)}
