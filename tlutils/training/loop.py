"""The training loop: epochs, loss, optimizer, early stopping, history, resume.

`fit` reads as the algorithm does; what it calls is below it. The frozen part of the model runs once per image
and view and is kept in a store (`features`); only what follows it is trained again and again.

Taught in notebook 03.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..core import devices
from ..core.devices import Machine
from ..core.progress import bar
from ..data.augment import Augmentation
from ..data.loaders import Loader
from ..evaluation.predict import normalization
from ..models import build, checkpoints, prefix
from ..models.build import train_mode, trainable_parameters
from . import losses, monitors
from . import state as state_module
from .batches import FileBatches, StoreBatches
from .optimizers import OPTIMIZERS, schedule_factor
from .state import State, TrainingError

_OUT_OF_MEMORY = (
    "out of memory",
    "_ALLOC_FAILED",
    "can't allocate memory",
    "not enough memory",
)  # GPUs, then CPUs
_NO_SCORES = {"val_loss": math.nan, "val_accuracy": math.nan, "val_images": 0}


@dataclass(frozen=True)
class Options:
    """How to train; every field is a plain value.

    epochs : how many at most. loss : "cross_entropy", "nll" (the same for a head that ends in LogSoftmax), "bce"
    (one logit), "focal" (Lin et al. 2017, gamma 2). class_weights : None, "auto" (inverse to the class's share of
    the training images) or {class: weight}. label_smoothing : share in [0, 1) given to the other classes.
    optimizer : "adam", "adamw" or "sgd" with momentum. learning_rate, momentum, weight_decay : its settings.
    layer_decay : what the learning rate is multiplied by for each stage nearer to the pixels (see `optimizers`).
    schedule : "constant", "step:EPOCHS:FACTOR", "cosine" or "one-cycle". monitor : the one quantity that early
    stopping and the choice of the best epoch look at (see `monitors`). patience : epochs without an improvement of
    more than min_delta before stopping; 0 never stops. views : 0 = a new view every epoch; V = V views in turn, which the
    store can keep. micro_batch : images at once in memory (gradients add up to the whole batch); "auto" halves it
    until it fits; 0 = the whole batch.
    """

    epochs: int = 10
    loss: str = "cross_entropy"
    class_weights: str | dict | None = None
    label_smoothing: float = 0.0
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 0.0
    layer_decay: float = 1.0
    schedule: str = "constant"
    monitor: str = "val_loss"
    patience: int = 5
    min_delta: float = 0.0
    views: int = 1
    micro_batch: int | str = 0
    seed: int = 0
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        monitors.better(self.monitor)
        for name, allowed in (("loss", losses.LOSSES), ("optimizer", OPTIMIZERS)):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}; it is one of {', '.join(allowed)}"
                )
        for name in ("epochs", "learning_rate", "layer_decay"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it wants more than 0")
        if self.views < 0 or self.patience < 0 or not 0 <= self.label_smoothing < 1:
            raise ValueError(
                "views and patience want 0 or more, label_smoothing a share from 0 to below 1; got "
                f"{self.views}, {self.patience}, {self.label_smoothing}"
            )
        schedule_factor(self.schedule, 0.0, self.epochs)


@dataclass
class Fit:
    """What training gave.

    model : with the weights of its best epoch, in eval mode. history : one row an epoch. best_epoch : 1-based.
    monitor : what chose it. stopped : why training ended. store : which layer the store keeps, or None.
    unreadable : (path, why) of images found damaged on the way.
    """

    model: nn.Module
    history: pd.DataFrame
    best_epoch: int
    monitor: str
    stopped: str
    store: str | None
    unreadable: list[tuple[str, str]]


def fit(
    model: nn.Module,
    loaders: dict[str, Loader],
    options: Options | None = None,
    *,
    machine: Machine | None = None,
    store: str | Path | None = None,
    checkpoint: str | Path | None = None,
    compiled: bool = False,
    show: bool | None = None,
    log: Callable[[str], None] | None = print,
    **changes: object,
) -> Fit:
    """Train a model.

    Parameters
    ----------
    model : as `models.build` makes it. Frozen layers stay as they are, weights and BatchNorm statistics.
    loaders : {"train": Loader, "val": Loader}; without "val" there is no early stopping.
    options : how to train; `changes` replace single fields, e.g. `fit(model, loaders, epochs=3)`.
    machine : what to compute on; None chooses.
    store : folder for the outputs of the frozen part; None runs the whole model every epoch.
    checkpoint : where the state is saved after each epoch; if the file is there, training goes on from it and
        ends with the same weights as without the break.
    compiled : whether to compile the frozen part, or the whole model where nothing is kept. show : progress bar or
    not; None decides.
    log : called with one line an epoch; None for silence.

    Returns
    -------
    Fit, its model holding the weights of the best epoch by `options.monitor`.

    Raises
    ------
    TrainingError where the loss is no longer a number, none of the training or validation images of an epoch can be
    read, or memory does not suffice (it names a batch that would). KeyboardInterrupt where a person stops it: the model
    then has the weights of its best epoch so far, and a line says how to go on.
    ValueError where options, model and data do not go together.

    Taught in notebook 03.
    """
    options = Options(**{**vars(options or Options()), **changes})
    machine = machine or devices.choose()
    log = log if log and devices.rank() == 0 else (lambda line: None)
    options = _as_validated(options, loaders)
    devices.seed_everything(options.seed + devices.rank())
    devices.take_from_rank_0(machine.place(model))
    train, val, net, cut = _what_to_train(model, loaders, options, machine, store, compiled, log)
    state = State.begin(model, net, options, cut, checkpoint, machine, log)
    weights = losses.class_weights(
        options.class_weights, loaders["train"].labels, loaders["train"].classes
    ).to(machine.device)
    _warn_of_small_validation(loaders.get("val"), options)
    try:
        while state.stopped == "":
            epoch, started = state.epoch, time.perf_counter()
            filled = train.prepare(epoch, show) + (val.prepare(epoch, show) if val else 0.0)
            rate = state.learning_rate(epoch)
            scores = {
                **train_epoch(net, train, state, weights, show),
                **(validate(net, val, weights, options) if val else _NO_SCORES),
            }
            state.record(scores, rate, time.perf_counter() - started, filled, train)
            state.save(checkpoint)  # first: an epoch that was announced is not lost
            log(state.line())
    except KeyboardInterrupt:
        log(state.interrupt(checkpoint))
        raise
    state.restore_best()
    log(f"{state.stopped}; kept epoch {state.best_epoch} ({options.monitor} {state.best:.4f})")
    return Fit(
        model.eval(),
        state.frame(),
        state.best_epoch,
        options.monitor,
        state.stopped,
        cut,
        _unreadable(loaders),
    )


def _unreadable(loaders: dict[str, Loader]) -> list[tuple[str, str]]:
    """What each process could not read, with the reason of the one that tried, which names the file."""
    shares = devices.gather([pair for loader in loaders.values() for pair in loader.unreadable])
    pairs = sorted(
        (pair for share in shares for pair in share), key=lambda pair: pair[0] in pair[1]
    )
    return sorted(dict(pairs).items())


def train_epoch(
    net: nn.Module, source: FileBatches, state: State, weights: Tensor, show: bool | None
) -> dict:
    """One pass over the training images: forward, loss, backward, step. Sums stay on the device until its end."""
    train_mode(checkpoints.unwrapped(net))
    totals: list[Tensor] = []
    with bar(
        what=f"epoch {state.epoch + 1}", total=source.n, show=show if devices.rank() == 0 else False
    ) as progress:
        shown = time.perf_counter()
        for i, (inputs, labels, n_all) in enumerate(source.batches(state.epoch)):
            state.set_rate(state.epoch + i / len(source))
            totals.append(step(net, inputs, labels, state, weights, source.machine))
            progress.update(n_all)
            if (
                not progress.disable and time.perf_counter() - shown > 1
            ):  # a look makes the device finish: be sparing
                shown = time.perf_counter()
                _show(progress, totals)
    _share_statistics(checkpoints.unwrapped(net))
    return _scores("train", totals, source, state.epoch)


def step(
    net: nn.Module, inputs: Tensor, labels: Tensor, state: State, weights: Tensor, machine: Machine
) -> Tensor:
    """One optimizer step; returns (loss sum, correct, images) of this process's share, float32 on the device.

    The loss is the mean over the whole batch of all processes. They meet once, after all have their gradients: however
    many parts a share went through in, whether memory ran out in one, or nothing of it could be read.
    """
    while isinstance(totals := _gradients(net, inputs, labels, state, weights, machine), str):
        state.shrink(min(state.micro or len(labels), len(labels)), totals)
    if _average_gradients(net, len(labels), machine):
        state.optimizer.step()
    return totals


def _gradients(
    net: nn.Module, inputs: Tensor, labels: Tensor, state: State, weights: Tensor, machine: Machine
) -> Tensor | str:
    """Gradients of the mean loss of a share, in parts that fit into memory; or what torch said where one did not.

    Not the error itself: its traceback would keep all that the attempt had computed.
    """
    totals = torch.zeros(3, device=machine.device)
    state.optimizer.zero_grad(set_to_none=True)
    micro = min(state.micro or len(labels), len(labels))
    try:
        for part, truth in zip(inputs.split(micro), labels.split(micro)) if micro else ():
            with machine.autocast():
                outputs = net(part)
            each = _losses(outputs, truth, weights, state.options)
            (each.sum() / len(labels)).backward()
            totals += _count(each, outputs, truth)
    except RuntimeError as error:
        if not any(said in str(error) for said in _OUT_OF_MEMORY):
            raise
        return str(error)
    return totals


def _average_gradients(net: nn.Module, n: int, machine: Machine) -> bool:
    """Make each gradient the mean over all processes' images, `n` of them here; returns whether there are any."""
    if devices.world() == 1:
        return n > 0
    n_all = devices.sum_over_processes(torch.full((), float(n), device=machine.device))
    if n == 0 and n_all == 0:  # only who has none must look, which makes a GPU finish
        return False
    for parameter in trainable_parameters(net):
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        devices.sum_over_processes(parameter.grad.mul_(n / n_all))
    return True


@torch.no_grad()
def _share_statistics(net: nn.Module) -> None:
    """Make the moving BatchNorm statistics those of what all processes saw, so that all have one model again.

    Each process's are of its own shares. The variance of all is the mean of theirs and the variance of their means.
    """
    for norm in net.modules() if devices.world() > 1 else ():
        if isinstance(norm, _BatchNorm) and norm.training and norm.running_mean is not None:
            mean = devices.sum_over_processes(norm.running_mean / devices.world())
            own = norm.running_var + (norm.running_mean - mean) ** 2
            norm.running_var.copy_(devices.sum_over_processes(own / devices.world()))
            norm.running_mean.copy_(mean)


@torch.inference_mode()
def validate(net: nn.Module, source: FileBatches, weights: Tensor, options: Options) -> dict:
    """Loss, accuracy and the monitored quantity on the validation images, each image counted once and alike."""
    net.eval()
    totals, said = [], []
    for inputs, labels, _ in source.batches(0):
        if len(labels) == 0:
            continue
        with source.machine.autocast():
            outputs = checkpoints.unwrapped(net)(inputs)
        totals.append(_count(_losses(outputs, labels, weights, options), outputs, labels))
        said.append((build.probabilities(outputs), labels))
    scores = _scores("val", totals, source, 0)
    if monitors.wants_scores(options.monitor):
        shares = devices.gather([torch.cat(column).cpu().numpy() for column in zip(*said)])
        probabilities, labels = (np.concatenate(column) for column in zip(*filter(None, shares)))
        scores[options.monitor] = monitors.score(options.monitor, probabilities, labels)
    return scores


def _losses(outputs: Tensor, labels: Tensor, weights: Tensor, options: Options) -> Tensor:
    return losses.of_each_image(outputs, labels, weights, options.loss, options.label_smoothing)


def _count(each: Tensor, outputs: Tensor, labels: Tensor) -> Tensor:
    correct = (losses.predicted(outputs) == labels).sum()
    return torch.stack(
        [each.detach().sum(), correct.float(), torch.full_like(each[0], len(labels))]
    )


def _scores(part: str, totals: list[Tensor], source: FileBatches, epoch: int) -> dict[str, float]:
    """Mean loss, accuracy and number of images from the sums of all batches of all processes."""
    loss, correct, n = np.sum(devices.gather(_sum(totals)), 0).tolist()
    if n == 0:
        raise TrainingError(
            f"none of the {source.n} {part} images could be read in this epoch, or the frozen part "
            "answers NaN for each of them. Make the files readable again and run the same again; the "
            "last whole epoch is in the checkpoint"
        )
    if n != source.n:
        warnings.warn(
            f"{part}: saw {n:.0f} of {source.n} images in this epoch; the rest could not be read "
            "(see the list of unreadable images)",
            stacklevel=3,
        )
    if not math.isfinite(loss):
        wrong = source.not_finite(epoch)
        raise TrainingError(
            f"the {part} loss is {loss / n}: "
            + (
                f"what the frozen part answers for {len(wrong)} of {source.n} images holds NaN or infinity, e.g. for "
                f"{wrong[0]}. Look at that image; use precision fp32, other weights, or no store"
                if wrong
                else "training diverged. Try a smaller learning_rate, precision fp32, or look at the inputs"
            )
            + "; the last whole epoch is in the checkpoint"
        )
    return {f"{part}_loss": loss / n, f"{part}_accuracy": correct / n, f"{part}_images": int(n)}


def _sum(totals: list[Tensor]) -> list[float]:
    """Added in double precision on the CPU, as Apple's GPUs have none."""
    return torch.stack(totals).cpu().double().sum(0).tolist() if totals else [0.0, 0.0, 0.0]


def _show(progress, totals: list[Tensor]) -> None:
    loss, correct, n = _sum(totals)
    n = max(n, 1)
    progress.set_postfix(loss=f"{loss / n:.3f}", accuracy=f"{correct / n:.3f}", refresh=False)


def _what_to_train(
    model: nn.Module,
    loaders: dict[str, Loader],
    options: Options,
    machine: Machine,
    store: str | Path | None,
    compiled: bool,
    log: Callable[[str], None],
) -> tuple[FileBatches, FileBatches | None, nn.Module, str | None]:
    """The batches and the network they go into: the whole model, or what follows its frozen part."""
    train_mode(model)
    cut = prefix.split(model) if store is not None and options.views else None
    numbers = machine, *normalization(model)
    what = {
        "train": (loaders["train"], *numbers, options.augmentation, options.views, options.seed)
    }
    if "val" in loaders:
        what["val"] = (loaders["val"], *numbers)
    made = {
        part: StoreBatches(cut.prefix, store, compiled, *of) if cut else FileBatches(*of)
        for part, of in what.items()
    }
    if cut:
        log(
            f"the frozen part (up to {cut.name}) runs once per image and view; its outputs of shape "
            f"{made['train'].store.shape} are kept in {store}"
        )
        if there := made["train"].store.to_copy(0):
            log(
                f"earlier runs have met {there:,} of the {made['train'].store.n:,} images, whose outputs are copied"
            )
    net = cut.tail if cut else torch.compile(model) if compiled else model
    return made["train"], made.get("val"), net, cut.name if cut else None


def refuse_other(
    checkpoint: str | Path, model: nn.Module, loaders: dict[str, Loader], options: Options
) -> None:
    """Raise ValueError where there is a checkpoint that `fit` would refuse to go on from; nothing is changed."""
    if Path(checkpoint).is_file():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `fit` will say it
            options = _as_validated(options, loaders)
        state_module.refuse_other(checkpoints.read(checkpoint), options, model, checkpoint)


def _as_validated(options: Options, loaders: dict[str, Loader]) -> Options:
    """The options as they are; without validation images those that do without."""
    if "val" in loaders:
        return options
    warnings.warn(
        "there is no validation set: no early stopping, and the last epoch is kept. "
        "splits.by_patient makes one",
        stacklevel=4,
    )
    return Options(
        **{
            **vars(options),
            "patience": 0,
            "min_delta": -math.inf,
            "monitor": "train_accuracy" if options.monitor == "val_accuracy" else "train_loss",
        }
    )


def _warn_of_small_validation(loader: Loader | None, options: Options) -> None:
    n = len(loader.records) if loader else 0
    if 0 < n < 100 and options.patience:
        warnings.warn(
            f"the validation set has {n} images: its accuracy moves in steps of {100 / n:.1f} points and its "
            f"loss is as noisy, too coarse to choose an epoch by; validate on at least 100",
            stacklevel=3,
        )
