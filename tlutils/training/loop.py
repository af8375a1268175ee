"""The training loop: epochs, loss, optimizer, early stopping, history, resume.

`fit` reads as the algorithm does, and what it calls stands below it in the same order. The frozen
part of the model runs once per image and view and is kept in a store (`models.feature_store`); only
what follows it is trained again and again.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..core import devices
from ..core.devices import Machine
from ..core.progress import bar
from ..core.words import differences, many
from ..data.loaders import Loader
from ..evaluation.acquisition import DEALING, Acquisition
from ..models import build, checkpoints, feature_store, prefix
from . import losses, monitors, speed
from .batches import Batches
from .optimizers import make_optimizer, schedule_factor
from .options import Options

_CALMER = (
    "Try a smaller learning_rate, in another run's folder; precision fp32, where it is not; or "
    "look at the inputs"
)
_NO_SCORES = {"val_loss": math.nan, "val_accuracy": math.nan, "val_images": 0}
# What a checkpoint holds to go on from, and what it called some of it once.
_BEST = ("best", "best_epoch", "best_state")
_SAVED = ("settings", "model", "history", "state", "optimizer", *_BEST, "rng", "micro")
_OLD_NAMES = {"optimiser": "optimizer"}


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what to change."""


@dataclass
class Fit:
    """What training gave.

    Parameters
    ----------
    model : nn.Module, with the weights of its best epoch, in eval mode
    history : DataFrame, one row an epoch
    best_epoch : int, from 1
    monitor : str, what chose it
    stopped : str, why training ended
    store : str or None, which layer the store keeps
    unreadable : list of (str, str), path and reason of images found damaged on the way
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
    show: bool | None = None,
    log: Callable[[str], None] | None = print,
    on_epoch_end: Callable[[dict], None] | None = None,
    **changes: object,
) -> Fit:
    """Train a model.

    Where a person stops it (KeyboardInterrupt), the model has the weights of its best epoch so far,
    and a line says how to go on.

    Parameters
    ----------
    model : nn.Module
        As `build.build` makes it. Frozen layers stay as they are, weights and BatchNorm
        statistics.
    loaders : dict, {"train": Loader, "val": Loader}; without "val" there is no early stopping
    options : Options, optional, how to train; a Recipe is one, too
    machine : Machine, optional
        What to compute on; None chooses, with a store in fp32, as bf16 blurs some frozen parts
        (see `prefix.rounding`). One that compiles does so with the frozen part, or with the whole
        model where nothing is kept.
    store : str or Path, optional
        Folder for the outputs of the frozen part; None runs the whole model every epoch.
    checkpoint : str or Path, optional
        Where the state is saved after each epoch; if the file is there, training goes on from it
        and ends with the same weights as without the break.
    show : bool, optional, progress bar or not; None decides
    log : Callable, optional, called with one line an epoch; None for silence
    on_epoch_end : Callable, optional
        Called by rank 0 with the epoch's row of the history (plain values by name) once the epoch
        is saved. What it raises ends the training, and the same call goes on after that epoch.
    **changes : object
        Replace single options, e.g. `fit(model, loaders, epochs=3)`.

    Returns
    -------
    Fit, its model holds the weights of the best epoch by `options.monitor`

    Raises
    ------
    TrainingError
        Where the loss is no longer a number, none of the training or validation images of an epoch
        can be read, or memory does not suffice (it names a batch that would).
    ValueError
        Where options, model and data do not go together.
    """
    options = _as_validated(options or Options(), loaders, changes)
    machine = machine or devices.choose(precision="auto" if store is None else "fp32")
    watched, log = bool(log), log if log and devices.rank() == 0 else (lambda line: None)
    devices.seed_everything(options.seed + devices.rank())
    devices.take_from_rank_0(machine.place(model))
    train, val, stressed, cut = _what_to_train(model, loaders, options, machine, store, log)
    net = cut.tail if cut else torch.compile(model) if machine.compiled else model
    given = loaders["train"]
    weights = losses.class_weights(options.class_weights, given.labels, given.classes)
    state = State(model, net, options, machine, weights)
    if checkpoint and Path(checkpoint).is_file():
        state.resume(checkpoint)
        log(f"going on after epoch {state.epoch} from {checkpoint}")
    _warn_of_small_validation(val, options)
    try:
        while not state.stopped:
            epoch, started, totals = state.epoch, time.perf_counter(), []
            filled = sum(source.prepare(epoch, show) for source in (train, val) if source)
            for number in range(stressed.views if stressed else 0):
                filled += stressed.prepare(number, show)
            build.train_mode(checkpoints.unwrapped(net))
            for done, inputs, labels in _watched(train, epoch, totals, show):
                state.set_rate(_rate(options, epoch + done))
                totals.append(step(state, inputs, labels))
            _share_statistics(checkpoints.unwrapped(net))
            scores = _scores("train", totals, train, epoch)
            scores |= validate(state, val, stressed) if val else _NO_SCORES
            _record(state, scores, train, time.perf_counter() - started, filled)
            state.save(checkpoint)  # first: an epoch that was announced is not lost
            log(_line(state))
            if watched and state.epoch == 1 and (share := _share_of_peak(state, train, val, cut)):
                log(share)
            if on_epoch_end and devices.rank() == 0:
                on_epoch_end(dict(state.history[-1]))
    except KeyboardInterrupt as stop:
        stop.args = (_interrupt(state, checkpoint),)
        log(stop.args[0])
        raise
    model.load_state_dict(state.best_state, strict=False)
    log(f"{state.stopped}; kept epoch {state.best_epoch} ({options.monitor} {state.best:.4f})")
    return Fit(
        model=model.eval(),
        history=pd.DataFrame(state.history),
        best_epoch=state.best_epoch,
        monitor=options.monitor,
        stopped=state.stopped,
        store=cut.name if cut else None,
        unreadable=_unreadable(loaders),
    )


def _as_validated(
    options: Options, loaders: dict[str, Loader], changes: dict | None = None
) -> Options:
    """The options (of a Recipe, them alone); without validation images those that do without."""
    values = {f.name: getattr(options, f.name) for f in dataclasses.fields(Options)}
    options = Options(**values | (changes or {}))
    if "val" in loaders:
        return options
    warnings.warn(
        "there is no validation set: no early stopping, and the last epoch is kept. "
        "splits.by_patient makes one",
        stacklevel=3,
    )
    monitor = "train_accuracy" if options.monitor == "val_accuracy" else "train_loss"
    return dataclasses.replace(options, patience=0, min_delta=-math.inf, monitor=monitor)


def _what_to_train(
    model: nn.Module,
    loaders: dict[str, Loader],
    options: Options,
    machine: Machine,
    store: str | Path | None,
    log: Callable[[str], None],
) -> tuple[Batches, Batches | None, Batches | None, prefix.Split | None]:
    """The batches (to train on, to validate on, to validate on under changed acquisition if the
    monitor wants it), and where the model is cut: what follows, or all of it, is fed with them.
    """
    build.train_mode(model)
    cut = prefix.split(model) if store is not None and options.views else None
    mean, std = build.normalization(model)

    def batches(loader: Loader, **views: object) -> Batches:
        of = {"machine": machine, "mean": mean, "std": std, **views}
        if cut is None:
            return Batches(loader, **of)
        opened = feature_store.open_store(store, cut.prefix, loader, **of)
        return Batches(loader, **of, store=opened)

    views = {name: getattr(options, name) for name in ("augmentation", "views", "seed")}
    train = batches(loaders["train"], **views)
    val, stressed = batches(loaders["val"]) if "val" in loaders else None, None
    if val and monitors.is_stressed(options.monitor):
        dealt = {"augmentation": Acquisition(), "views": options.stress_views, "seed": DEALING}
        stressed = batches(loaders["val"], **dealt)
    if cut:
        log(
            f"the frozen part (up to {cut.name}{', compiled' * train.store.machine.compiled}) runs "
            f"once per image and view; its outputs of shape {train.store.shape} are kept in {store}"
        )
        if there := train.store.lacking(1)[0]:
            known = f"{there:,} of the {train.n:,} images"
            log(f"earlier runs have met {known}, whose outputs are copied")
    return train, val, stressed, cut


def _warn_of_small_validation(val: Batches | None, options: Options) -> None:
    chooses = options.epochs > 3 and devices.rank() == 0  # of fewer there is little to choose
    if val and 0 < val.n < 100 and chooses and not options.monitor.startswith("train_"):
        warnings.warn(
            f"the validation set has {many(val.n)}: its accuracy moves in steps of "
            f"{100 / val.n:.1f} points and its loss is as noisy, too coarse to choose an epoch by; "
            "give it 100 images or more if you can, by more images in all or by a larger share of "
            "them (the recipe's val)",
            stacklevel=3,
        )


def _watched(
    source: Batches, epoch: int, totals: list[Tensor], show: bool | None
) -> Iterator[tuple[float, Tensor, Tensor]]:
    """The batches of an epoch, each with the share of it that is done, beside a progress bar."""
    show = show if devices.rank() == 0 else False
    with bar(what=f"epoch {epoch + 1}", total=source.n, show=show) as progress:
        shown = time.perf_counter()
        for i, (inputs, labels, n_all) in enumerate(source.batches(epoch)):
            yield i / len(source), inputs, labels
            progress.update(n_all)
            # A look makes the device finish: be sparing.
            if not progress.disable and time.perf_counter() - shown > 1:
                shown = time.perf_counter()
                loss, correct, n = _sum(totals)
                means = {"loss": loss / max(n, 1), "accuracy": correct / max(n, 1)}
                texts = {name: f"{mean:.3f}" for name, mean in means.items()}
                progress.set_postfix(texts, refresh=False)


def _rate(options: Options, epoch: float) -> float:
    """The learning rate of the last stage at a moment of training."""
    return options.learning_rate * schedule_factor(options.schedule, epoch, options.epochs)


def step(state: State, inputs: Tensor, labels: Tensor) -> Tensor:
    """One optimizer step: forward, loss, backward.

    The loss is the mean over the whole batch of all processes. They meet once, after all have their
    gradients: however many parts a share went through in, whether memory ran out in one, or nothing
    of it could be read.

    Parameters
    ----------
    state : State, of the training
    inputs : Tensor, this process's share of a batch, on the device
    labels : Tensor, int64 (N,)

    Returns
    -------
    Tensor
        float32 (3,) on the device: the loss's sum, correct answers, images of this process's share.

    Raises
    ------
    RuntimeError
        As torch raised it, where it is not about memory.
    TrainingError
        Where memory does not suffice and `micro_batch` is not "auto", or for a single image.
    """
    n = len(labels)
    while True:
        totals = torch.zeros(3, device=state.machine.device)
        state.optimizer.zero_grad(set_to_none=True)
        micro = min(state.micro or n, n)
        try:
            for part, truth in zip(inputs.split(micro), labels.split(micro)) if micro else ():
                with state.machine.autocast():
                    outputs = state.net(part)
                each = _losses(state, outputs, truth)
                (each.sum() / n).backward()
                totals += _count(each, outputs, truth)
            break
        except RuntimeError as error:
            if not devices.is_out_of_memory(error):
                raise
            trouble = str(error)
        # The error is gone, whose traceback kept all that was computed; so must these be.
        outputs = each = None
        _shrink(state, micro, trouble)
    if _average_gradients(state, n):
        state.optimizer.step()
    return totals


def _shrink(state: State, micro: int, reason: str) -> None:
    """After memory ran out: halve the images at once if allowed, else say what would help."""
    if state.machine.device.type in ("cuda", "mps"):
        getattr(torch, state.machine.device.type).empty_cache()
    if micro <= 1 or state.options.micro_batch != "auto":
        raise TrainingError(
            f"memory ran out with {many(micro)} at once: {reason.splitlines()[0]}. "
            f"Use batch_size={max(micro // 2, 1)}, or keep the batch and set micro_batch='auto', "
            "which finds what fits and adds up the gradients"
        )
    state.micro = micro // 2


def _losses(state: State, outputs: Tensor, labels: Tensor) -> Tensor:
    loss, smoothing = state.options.loss, state.options.label_smoothing
    return losses.of_each_image(outputs, labels, state.class_weights, loss, smoothing)


def _count(each: Tensor, outputs: Tensor, labels: Tensor) -> Tensor:
    correct = (losses.predicted(outputs) == labels).sum().float()
    return torch.stack([each.detach().sum(), correct, torch.full_like(each[0], len(labels))])


def _average_gradients(state: State, n: int) -> bool:
    """Make each gradient the mean over all processes' images, `n` here; whether there are any."""
    if devices.world() == 1:
        return n > 0
    n_all = devices.sum_over_processes(torch.full((), float(n), device=state.machine.device))
    if n == 0 and n_all == 0:  # only who has none must look, which makes a GPU finish
        return False
    for parameter in build.trainable_parameters(state.net):
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        devices.sum_over_processes(parameter.grad.mul_(n / n_all))
    return True


@torch.no_grad()
def _share_statistics(net: nn.Module) -> None:
    """Make the moving BatchNorm statistics those of what all processes saw.

    Each process's are of its own shares. The variance of all is the mean of theirs and the variance
    of their means.
    """
    for norm in net.modules() if devices.world() > 1 else ():
        if isinstance(norm, _BatchNorm) and norm.training and norm.running_mean is not None:
            mean = devices.sum_over_processes(norm.running_mean / devices.world())
            own = norm.running_var + (norm.running_mean - mean) ** 2
            norm.running_var.copy_(devices.sum_over_processes(own / devices.world()))
            norm.running_mean.copy_(mean)


@torch.inference_mode()
def validate(state: State, source: Batches, stressed: Batches | None = None) -> dict:
    """Loss, accuracy and monitored quantity on the validation images, each counted once and alike.

    Parameters
    ----------
    state : State, of the training; its network is put into eval mode
    source : Batches, the validation images
    stressed : Batches, optional
        The same in views of changed acquisition, where the monitor looks at those.

    Returns
    -------
    dict
        val_loss, val_accuracy, val_images; for the views stress_loss, stress_accuracy and
        stress_images (how many were seen); and the monitored quantity, where it is none of them.
    """
    checkpoints.unwrapped(state.net).eval()
    monitor = state.options.monitor
    plain = ((inputs, labels) for inputs, labels, _ in source.batches(0))
    totals, answers = _answers(state, plain)
    scores = _scores("val", totals, source, 0)
    if stressed:
        totals, answers = _answers(state, stressed.every_view())
        scores |= _scores("stress", totals, stressed, 0, stressed.views)
    if monitors.needs_probabilities(monitor):
        shares = devices.gather([torch.cat(column).cpu().numpy() for column in zip(*answers)])
        probabilities, labels = (np.concatenate(column) for column in zip(*filter(None, shares)))
        scores[monitor] = monitors.score(monitor, probabilities, labels)
    return scores


def _answers(
    state: State, batches: Iterable[tuple[Tensor, Tensor]]
) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
    """Of each batch its sums, as `_count` gives them, and its probabilities beside the labels."""
    net, totals, answers = checkpoints.unwrapped(state.net), [], []
    for inputs, labels in batches:
        if len(labels) == 0:
            continue
        with state.machine.autocast():
            outputs = net(inputs)
        totals.append(_count(_losses(state, outputs, labels), outputs, labels))
        answers.append((build.probabilities(outputs), labels))
    return totals, answers


def _scores(
    part: str, totals: list[Tensor], source: Batches, epoch: int, views: int = 1
) -> dict[str, float]:
    """Mean loss, accuracy and number of images from the sums of all batches of all processes.

    Of several views of each, every view counts as an image.
    """
    loss, correct, n = np.sum(devices.gather(_sum(totals)), 0).tolist()
    wanted = views * source.n
    if n == 0:
        raise TrainingError(
            f"none of the {many(wanted, f'{part} image')} could be read in this epoch. Make the "
            "files readable again and run the same again; the last whole epoch is in the checkpoint"
        )
    if n != wanted:
        warnings.warn(
            f"{part}: saw {n:.0f} of {wanted} images in this epoch; the rest could not be read "
            "(see the list of unreadable images)",
            stacklevel=3,
        )
    if not math.isfinite(loss):
        wrong = source.not_finite(epoch)
        advice = f"training diverged. {_CALMER}"
        if wrong:
            advice = (
                f"what the frozen part answers for {len(wrong)} of {source.n} images holds NaN or "
                f"infinity, e.g. for {wrong[0]}. Look at that image; use precision fp32, other "
                "weights, or no store"
            )
        kept = "; the last whole epoch is in the checkpoint" if epoch else ""
        raise TrainingError(f"the {part} loss is {loss / n}: {advice}{kept}")
    return {f"{part}_loss": loss / n, f"{part}_accuracy": correct / n, f"{part}_images": int(n)}


def _sum(totals: list[Tensor]) -> list[float]:
    """Added in double precision on the CPU, as Apple's GPUs have none."""
    return torch.stack(totals).cpu().double().sum(0).tolist() if totals else [0.0, 0.0, 0.0]


def _record(state: State, scores: dict, train: Batches, seconds: float, filled: float) -> None:
    """Add an epoch; note whether it is the best; decide whether to stop."""
    options = state.options
    row = {
        "epoch": state.epoch + 1,
        **scores,
        "learning_rate": _rate(options, state.epoch),
        "seconds": seconds,
        "images_per_second": train.n / max(seconds - filled, 1e-9),
        "where": "files" if train.store is None else "store",
        "store_seconds": filled,
    }
    until_then = max((one["train_loss"] for one in state.history), default=0.0)
    if row["train_loss"] > monitors.DIVERGED >= until_then and devices.rank() == 0:
        warnings.warn(
            f"the train loss is {row['train_loss']:.3g}, far above that of guessing: training "
            f"diverged. {_CALMER}",
            stacklevel=3,
        )
    state.history.append(row)
    best = state.history[state.best_epoch - 1]
    if not state.best_epoch or monitors.beats(row, best, options.monitor, options.min_delta):
        state.best, state.best_epoch = row[options.monitor], state.epoch
        state.best_state = checkpoints.copy_of_state(state.model, state.moves)
    state.stopped = _reason_to_stop(state)


def _reason_to_stop(state: State) -> str:
    monitor, patience = state.options.monitor, state.options.patience
    if patience and state.epoch - state.best_epoch >= patience:
        return f"stopped early: no better {monitor} in {many(patience, 'epoch')}"
    return f"done: {many(state.epoch, 'epoch')}" if state.epoch >= state.options.epochs else ""


def _line(state: State) -> str:
    """The newest epoch in one line."""
    row, monitor, val = state.history[-1], state.options.monitor, ""
    if not math.isnan(row["val_loss"]):
        val = f"  val loss {row['val_loss']:.3f} acc {row['val_accuracy']:.3f}"
    if monitors.needs_probabilities(monitor):
        val += f" {monitor.removeprefix('val_')} {row[monitor]:.3f}"
    filled = row["store_seconds"]
    frozen = f" (frozen part {filled:.1f})" if filled > 0.05 else ""
    train = f"train loss {row['train_loss']:.3f} acc {row['train_accuracy']:.3f}"
    star = " *" if state.best_epoch == row["epoch"] else ""
    star += " (the best so far)" if state.epoch == 1 else ""
    return f"epoch {row['epoch']:>2}  {train}{val}  {row['seconds']:.1f} s{frozen}{star}"


def _share_of_peak(
    state: State, train: Batches, val: Batches | None, cut: prefix.Split | None
) -> str:
    """The newest epoch's images/s beside the machine's rate of matrix products, measured once.

    "" where the frozen part had nothing to do or the work of this process is not all of it.
    """
    sources = [source for source in (train, val) if source]
    computed = sum(source.store.computed for source in sources) if cut else 0
    off = os.environ.get("TLUTILS_MEASURE") == "0" or devices.world() > 1
    if off or (cut and not computed) or monitors.is_stressed(state.options.monitor):
        return ""
    net, size = checkpoints.unwrapped(state.net), train.loader.settings["size"]
    shape = train.store.shape if cut else (3, size, size)
    try:
        work = train.n * speed.flops(net, shape, train=True)
        work += val.n * speed.flops(net, shape) if val else 0
        work += computed * speed.flops(cut.prefix, (3, size, size)) if cut else 0
    except (NotImplementedError, RuntimeError):  # a network that only computes for real
        return ""
    seconds = state.history[-1]["seconds"]
    share = work / seconds / speed.matrix_rate(state.machine)
    rate = sum(source.n for source in sources) / seconds
    part = f"{100 * share:.0f} %" if share >= 0.005 else "less than 1 %"
    return f"{rate:.0f} images/s, {part} of what this machine's matrix products allow"


def _interrupt(state: State, checkpoint: str | Path | None) -> str:
    """Leave the model as its best epoch did, in eval mode; returns what to say."""
    state.optimizer.zero_grad(set_to_none=True)
    state.model.eval()
    if not state.epoch:
        return (
            "stopped before an epoch was whole: the next try begins the first one again (in Python "
            "with a model built anew, as this one may be half trained)"
        )
    state.model.load_state_dict(state.best_state, strict=False)
    again = "with a checkpoint=..., the same call would go on from there"
    if checkpoint:
        again = f"the same call goes on after epoch {state.saved} from {checkpoint}"
    best = f"the model in memory has the weights of epoch {state.best_epoch}, its best so far"
    return f"stopped; {again} ({best})"


def _unreadable(loaders: dict[str, Loader]) -> list[tuple[str, str]]:
    """What each process could not read, with the reason of the one that tried, which names it."""
    shares = devices.gather([pair for loader in loaders.values() for pair in loader.unreadable])
    pairs = [pair for share in shares for pair in share]
    return sorted(dict(sorted(pairs, key=lambda pair: pair[0] in pair[1])).items())


class State:
    """What changes while training, and how it is saved and resumed.

    Parameters
    ----------
    model : nn.Module, all of the network
    net : nn.Module, what the batches go into: the model, or what follows its frozen part
    options : Options, how to train
    machine : Machine, what to compute on
    class_weights : Tensor, float32 (n_classes,), of each class in the loss
    """

    def __init__(
        self,
        model: nn.Module,
        net: nn.Module,
        options: Options,
        machine: Machine,
        class_weights: Tensor,
    ) -> None:
        self.model, self.net, self.options, self.machine = model, net, options, machine
        names = ("optimizer", "learning_rate", "momentum", "weight_decay", "layer_decay")
        settings = {name: getattr(options, name) for name in names}
        self.optimizer = make_optimizer(net, machine.device, model, **settings)
        self.class_weights = class_weights.to(machine.device)
        self.micro: int = options.micro_batch if isinstance(options.micro_batch, int) else 0
        self.history: list[dict] = []
        self.best, self.best_epoch, self.best_state = math.nan, 0, {}
        self.saved, self.stopped = 0, ""
        moving = {name for name, p in model.named_parameters() if p.requires_grad}
        self.moves = (moving | {name for name, _ in model.named_buffers()}).__contains__

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.history)

    def set_rate(self, rate: float) -> None:
        """Give the optimizer a rate, each of its groups a share by its stage.

        Parameters
        ----------
        rate : float, of the last stage
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]

    def save(self, path: str | Path | None) -> None:
        """Save all that resuming needs: moving weights, the best, optimizer, history, random state.

        Parameters
        ----------
        path : str, Path or None, the file; None writes none
        """
        states = devices.gather(devices.rng_state(self.machine.device))
        if path and devices.rank() == 0:
            content = {
                "settings": _settings(self.options),
                "model": dict(self.model.tl),
                "history": self.history,
                "state": checkpoints.copy_of_state(self.model, self.moves),
                "optimizer": self.optimizer.state_dict(),
                "best": self.best,
                "best_epoch": self.best_epoch,
                "best_state": self.best_state,
                "stopped": self.stopped,
                "rng": states,
                "micro": self.micro,
            }
            checkpoints.write(path, content)
        self.saved = self.epoch
        devices.barrier()

    def resume(self, path: str | Path) -> None:
        """Take up what `save` wrote.

        Parameters
        ----------
        path : str or Path, the file

        Raises
        ------
        ValueError
            Naming what differs where the checkpoint is of another model or other settings, or what
            it lacks.
        """
        saved = _read(path, self.options, self.model)
        self.model.load_state_dict(saved["state"], strict=False)
        self.optimizer.load_state_dict(saved["optimizer"])
        for name in ("history", *_BEST):
            setattr(self, name, saved[name])
        if self.options.micro_batch == "auto":
            self.micro = saved["micro"]
        mine = saved["rng"][devices.rank() % len(saved["rng"])]
        devices.restore_rng_state(mine, self.machine.device)
        self.saved, self.stopped = self.epoch, _reason_to_stop(self)


def refuse_other(
    checkpoint: str | Path, model: nn.Module, loaders: dict[str, Loader], options: Options
) -> None:
    """Refuse a checkpoint, where there is one, as `fit` would; nothing is changed.

    Parameters
    ----------
    checkpoint : str or Path, the file
    model, loaders, options
        As for `fit`.

    Raises
    ------
    ValueError
        As `State.resume`.
    """
    if Path(checkpoint).is_file():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `fit` will say it
            options = _as_validated(options, loaders)
        _read(checkpoint, options, model)


def _read(path: str | Path, options: Options, model: nn.Module) -> dict:
    """What `State.save` wrote; ValueError where a training cannot go on from it."""
    saved = checkpoints.read(path)
    saved = _with_new_names(saved) if isinstance(saved, dict) else {}
    if lost := [name for name in _SAVED if name not in saved]:
        raise ValueError(
            f"{path} is no state of a training that can go on: it has no {', '.join(lost)}. Give "
            "training the last.pt that it wrote itself, or delete this file to begin anew"
        )
    now, then = _settings(options), _completed(_with_new_names(saved["settings"]))
    if options.schedule.startswith(("constant", "step")):
        now.pop("epochs")  # the length changes nothing that was done
    differing = differences(then, now)
    differing += differences(_comparable(saved["model"]), _comparable(model.tl))
    if differing:
        raise ValueError(
            f"{path} was made with other settings: {'; '.join(differing)}. Go on with the same "
            "ones, or train into another folder (or delete this checkpoint to begin anew)"
        )
    return saved


def _with_new_names(values: dict) -> dict:
    return {_OLD_NAMES.get(name, name): value for name, value in values.items()}


def _completed(settings: dict) -> dict:
    """Saved settings with the defaults of options that did not exist when they were saved."""
    defaults = _settings(Options())
    augmentation = defaults["augmentation"] | settings["augmentation"]
    return {**defaults, **settings, "augmentation": augmentation}


def _settings(options: Options) -> dict:
    """The options that a resumed run must share; it may train longer or be more patient."""
    settings = {**vars(options), "augmentation": dict(vars(options.augmentation))}
    for name, value in settings["augmentation"].items():
        settings["augmentation"][name] = list(value) if isinstance(value, tuple) else value
    if not options.augmentation.identity:
        # They were drawn by path once: a run begun so would see other views.
        settings["views_drawn_by"] = "content"
    del settings["patience"], settings["micro_batch"]
    return settings


def _comparable(description: dict) -> dict:
    """A model's description without the folder of its weights, which may lie elsewhere today."""
    weights, head = dict(description.get("weights") or {}), description.get("head")
    weights.pop("file", None)
    if weights.get("source") == "run":
        weights.pop("name", None)  # begins with the folder
    return {**description, "head": build.OLD_HEADS.get(head, head), "weights": weights}
