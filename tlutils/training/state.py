"""What changes while training, and how it is saved, resumed and brought back to its best.

Taught in notebook 03.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import nn

from ..core import devices
from ..core.devices import Machine
from ..models import checkpoints
from . import monitors
from .batches import FileBatches
from .optimizers import make_optimizer, schedule_factor

if TYPE_CHECKING:
    from .loop import Options


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what to change."""


_KEPT = {
    "settings",
    "model",
    "history",
    "state",
    "optimizer",
    "best",
    "best_epoch",
    "best_state",
    "rng",
    "micro",
}


class State:
    """What changes while training, and how it is saved, resumed and brought back to its best."""

    def __init__(
        self, model: nn.Module, net: nn.Module, options: Options, machine: Machine
    ) -> None:
        self.model, self.options, self.machine = model, options, machine
        self.optimizer = make_optimizer(net, options, machine.device, model)
        self.micro: int = options.micro_batch if isinstance(options.micro_batch, int) else 0
        self.history: list[dict] = []
        self.saved = 0
        self.best, self.best_epoch, self.best_state = math.nan, 0, {}
        self.stopped = ""
        moving = {name for name, p in model.named_parameters() if p.requires_grad}
        self.keep = (moving | {name for name, _ in model.named_buffers()}).__contains__

    @classmethod
    def begin(
        cls,
        model: nn.Module,
        net: nn.Module,
        options: Options,
        cut: str | None,
        checkpoint: str | Path | None,
        machine: Machine,
        log: Callable[[str], None],
    ) -> State:
        state = cls(model, net, options, machine)
        if checkpoint and Path(checkpoint).is_file():
            state.resume(checkpoints.read(checkpoint), checkpoint)
            log(f"going on after epoch {state.epoch} from {checkpoint}")
        return state

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.history)

    def learning_rate(self, epoch: float) -> float:
        """The rate of the last stage at a moment of training."""
        return self.options.learning_rate * schedule_factor(
            self.options.schedule, epoch, self.options.epochs
        )

    def set_rate(self, epoch: float) -> None:
        """Give the optimizer the rate of this moment."""
        self.set_rate_to(self.learning_rate(epoch))

    def set_rate_to(self, rate: float) -> None:
        """Give the optimizer a rate, each of its groups a share by its stage."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]

    def record(
        self, scores: dict, rate: float, seconds: float, filled: float, train: FileBatches
    ) -> None:
        """Add an epoch; note whether it is the best; decide whether to stop."""
        images = train.n / max(seconds - filled, 1e-9)
        self.history.append(
            {
                "epoch": self.epoch + 1,
                **scores,
                "learning_rate": rate,
                "seconds": seconds,
                "images_per_second": images,
                "where": train.where,
                "store_seconds": filled,
            }
        )
        row, best = self.history[-1], self.history[self.best_epoch - 1]
        if self.best_epoch == 0 or monitors.beats(
            row, best, self.options.monitor, self.options.min_delta
        ):
            self.best, self.best_epoch = row[self.options.monitor], self.epoch
            self.best_state = checkpoints.copy_of_state(self.model, self.keep)
        self.stopped = self._reason_to_stop()

    def _reason_to_stop(self) -> str:
        if self.options.patience and self.epoch - self.best_epoch >= self.options.patience:
            return (
                f"stopped early: no better {self.options.monitor} in {self.options.patience} epochs"
            )
        return f"done: {self.epoch} epochs" if self.epoch >= self.options.epochs else ""

    def restore_best(self) -> None:
        """Put the weights of the best epoch back."""
        self.model.load_state_dict(self.best_state, strict=False)

    def interrupt(self, checkpoint: str | Path | None) -> str:
        """Leave the model as its best epoch did, in eval mode; returns what to say to who stopped it by hand."""
        self.optimizer.zero_grad(set_to_none=True)
        self.model.eval()
        if not self.epoch:
            return "stopped before an epoch was whole; the model may be half trained, so build it anew for the next try"
        self.restore_best()
        again = (
            f"the same call goes on after epoch {self.saved} from {checkpoint}"
            if checkpoint
            else "with a checkpoint=..., the same call would go on from there"
        )
        return f"stopped; the model has the weights of epoch {self.best_epoch}, its best so far; {again}"

    def shrink(self, micro: int, reason: str) -> None:
        """After memory ran out: halve the images at once if allowed, else say what would help."""
        if self.machine.device.type in ("cuda", "mps"):
            getattr(torch, self.machine.device.type).empty_cache()
        if micro <= 1 or self.options.micro_batch != "auto":
            raise TrainingError(
                f"memory ran out with {micro} images at once: {reason.splitlines()[0]}. "
                f"Use batch_size={max(micro // 2, 1)}, or keep the batch and set micro_batch='auto', "
                "which finds what fits and adds up the gradients"
            )
        self.micro = micro // 2

    def frame(self) -> pd.DataFrame:
        """The history as a table, one row an epoch."""
        return pd.DataFrame(self.history)

    def line(self) -> str:
        """The newest epoch in one line."""
        row = self.history[-1]
        val = (
            ""
            if math.isnan(row["val_loss"])
            else f"  val loss {row['val_loss']:.3f} acc {row['val_accuracy']:.3f}"
        )
        if monitors.wants_scores(self.options.monitor):
            val += f" {self.options.monitor.removeprefix('val_')} {row[self.options.monitor]:.3f}"
        frozen = f" (frozen part {row['store_seconds']:.1f})" if row["store_seconds"] > 0.05 else ""
        return (
            f"epoch {row['epoch']:>2}  train loss {row['train_loss']:.3f} acc {row['train_accuracy']:.3f}{val}"
            f"  {row['seconds']:.1f} s{frozen}{' *' if self.best_epoch == row['epoch'] else ''}"
        )

    def save(self, path: str | Path | None) -> None:
        """Save all that resuming needs: what moves of the weights, the best so far, optimizer, history, RNG."""
        states = devices.gather(devices.rng_state(self.machine.device))
        if path and devices.rank() == 0:
            checkpoints.write(
                path,
                {
                    "settings": _settings(self.options),
                    "model": dict(self.model.tl),
                    "history": self.history,
                    "state": checkpoints.copy_of_state(self.model, self.keep),
                    "optimizer": self.optimizer.state_dict(),
                    "best": self.best,
                    "best_epoch": self.best_epoch,
                    "best_state": self.best_state,
                    "stopped": self.stopped,
                    "rng": states,
                    "micro": self.micro,
                },
            )
        self.saved = self.epoch
        devices.barrier()

    def resume(self, saved: dict, path: str | Path) -> None:
        """Take up what `save` wrote.

        Raises
        ------
        ValueError naming what differs where the checkpoint is of another model or other settings, or what it lacks.
        """
        refuse_other(saved, self.options, self.model, path)
        self.model.load_state_dict(saved["state"], strict=False)
        self.optimizer.load_state_dict(saved["optimizer"])
        self.history = saved["history"]
        self.micro = saved["micro"] if self.options.micro_batch == "auto" else self.micro
        self.best, self.best_epoch, self.best_state = (
            saved["best"],
            saved["best_epoch"],
            saved["best_state"],
        )
        mine = saved["rng"][devices.rank() % len(saved["rng"])]
        devices.restore_rng_state(mine, self.machine.device)
        self.saved = self.epoch
        self.stopped = self._reason_to_stop()


def refuse_other(saved: dict, options: Options, model: nn.Module, path: str | Path) -> None:
    """Raise ValueError, as `State.resume` does, where a training cannot go on from what was saved."""
    if not isinstance(saved, dict) or (lost := sorted(_KEPT - saved.keys())):
        raise ValueError(
            f"{path} is no state of a training that can go on: it has no "
            f"{', '.join(lost) if isinstance(saved, dict) else 'names'}. Give training the last.pt "
            "that it wrote itself, or delete this file to begin anew"
        )
    _same_settings(saved, options, model, path)


def _settings(options: Options) -> dict:
    """The options that a resumed run must share; it may train longer or be more patient."""
    plain = {
        **vars(options),
        "augmentation": {
            k: list(v) if isinstance(v, tuple) else v for k, v in vars(options.augmentation).items()
        },
    }
    if not options.augmentation.identity:
        plain["views_drawn_by"] = (
            "content"  # they were drawn by path once: a run begun so would see other views
        )
    return {name: value for name, value in plain.items() if name not in ("patience", "micro_batch")}


def _same_settings(saved: dict, options: Options, model: nn.Module, path: str | Path) -> None:
    now, then = _settings(options), saved["settings"]
    if options.schedule in ("constant",) or options.schedule.startswith("step"):
        now, then = (
            {**now, "epochs": 0},
            {**then, "epochs": 0},
        )  # the length changes nothing that was done
    differing = [
        f"{name} was {then.get(name)!r} and is {now[name]!r}"
        for name in now
        if now[name] != then.get(name)
    ]
    was, is_ = _without_place(saved["model"]), _without_place(model.tl)
    differing += [
        f"{name} was {was.get(name)!r} and is {is_[name]!r}"
        for name in is_
        if is_[name] != was.get(name)
    ]
    if differing:
        raise ValueError(
            f"{path} was made with other settings: {'; '.join(differing)}. Go on with the same ones, "
            "or train into another folder (or delete this checkpoint to begin anew)"
        )


def _without_place(description: dict) -> dict:
    """A model's description without the folder of its weights: the same file may lie elsewhere today."""
    weights = description.get("weights") or {}
    return {
        **description,
        "weights": {key: value for key, value in weights.items() if key != "file"},
    }
