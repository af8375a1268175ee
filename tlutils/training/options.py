"""How to train, as plain values: what `loop.fit` takes; a recipe adds data and model."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..data.augment import Augmentation
from . import losses, monitors
from .optimizers import OPTIMIZERS, schedule_factor


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to train; every field is a plain value.

    Parameters
    ----------
    epochs : int, how many at most
    loss : str, "cross_entropy", "nll", "bce" or "focal" (see `losses.of_each_image`)
    class_weights : None, str or dict
        None, "auto" (inverse to the class's share of the training images) or {class: weight}.
    label_smoothing : float, share in [0, 1) given to the other classes
    optimizer : str, "adam", "adamw" or "sgd" with momentum
    learning_rate : float, of the last stage of the network, at the schedule's full height
    momentum : float, of "sgd"
    weight_decay : float, as the optimizer understands it
    layer_decay : float
        What the learning rate is multiplied by for each stage nearer to the pixels (see
        `optimizers`).
    schedule : str
        "constant", "step:EPOCHS:FACTOR", "cosine" or "one-cycle" (see
        `optimizers.schedule_factor`).
    monitor : str
        The one quantity that early stopping and the choice of the best epoch look at (see
        `monitors`); "stress_auc" and the like are of validation images under changed acquisition.
    stress_views : int
        Under how many changes of acquisition each validation image is seen, where something is
        chosen by that (see `acquisition.Acquisition`).
    patience : int
        Epochs without an improvement of more than `min_delta` before stopping; 0 never stops.
    min_delta : float, the least improvement that counts
    views : int
        0 is a new view of each image every epoch; V are V views in turn, which the store can keep.
    micro_batch : int or str
        Images at once in memory (gradients add up to the whole batch); "auto" halves it until it
        fits; 0 is the whole batch.
    seed : int, of dropout and views
    augmentation : Augmentation, what a view may change

    Raises
    ------
    ValueError
        Where a value is unknown or out of its range.

    Examples
    --------
    >>> Options(epochs=3, optimizer="sgd").learning_rate
    0.001
    >>> Options(loss="hinge")
    Traceback (most recent call last):
        ...
    ValueError: loss is 'hinge'; it is one of cross_entropy, nll, bce, focal
    """

    epochs: int = 30
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
    stress_views: int = 4
    patience: int = 5
    min_delta: float = 0.0
    views: int = 4
    micro_batch: int | str = 0
    seed: int = 0
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        monitors.better(self.monitor)
        for name, allowed in (("loss", losses.LOSSES), ("optimizer", OPTIMIZERS)):
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(f"{name} is {value!r}; it is one of {', '.join(allowed)}")
        for name in ("epochs", "learning_rate", "layer_decay", "stress_views"):
            if (value := getattr(self, name)) <= 0:
                raise ValueError(f"{name} is {value}; it wants more than 0")
        if self.views < 0 or self.patience < 0 or not 0 <= self.label_smoothing < 1:
            raise ValueError(
                "views and patience want 0 or more, label_smoothing a share from 0 to below 1; got "
                f"{self.views}, {self.patience}, {self.label_smoothing}"
            )
        schedule_factor(self.schedule, 0.0, self.epochs)
