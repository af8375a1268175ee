"""The named experiments, as data: a recipe says what is trained, on what and how; it holds no code.

`dataclasses.replace(recipe, views=4)` makes another, `recipe.changed({"augmentation.flip": 0.0})` as well.

Taught in notebook 03.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from torchvision import models as torchvision_models

from ..data.augment import Augmentation, is_number
from ..data.loaders import RESIZES
from ..evaluation.thresholds import check_rule
from ..models.build import HEADS
from ..training.loop import Options

SPLITS = ("patient", "image", "official")


@dataclass(frozen=True)
class Recipe:
    """Everything a practitioner turns.

    data : kind of images, "oct" or "chest" (for people). backbone, head, outputs, dropout, backbone_dropout,
    freeze : see `models.build`; outputs 0 means one per class. loss ... seed : see `training.Options`.
    head_epochs, head_learning_rate : so long the new head alone, then all that `freeze` lets learn (see
    `tuning.head_then_rest`). batch_size : images of all processes together. balanced : draw all classes equally
    often. size, resize, channels : see `loaders.read_image`. split : "patient" (keeps a data set's own test images
    where no patient of theirs is elsewhere, else divides anew), "image" (leaks patients: for the lesson), or
    "official" (as the folders say).
    threshold : two classes only: a rule by which the run chooses, on its validation images, from which probability on
    it answers the second class (see `thresholds.choose_threshold`); "" answers the likelier one. test_views : of
    test-time augmentation: answers are averaged over the image and so many views of it.
    val, test : shares of the images for validation and test where they are divided anew. split_seed : of that
    division; None takes `seed`. Give it to keep one division over runs with several seeds.
    """

    name: str
    title: str
    data: str
    backbone: str
    head: str
    outputs: int = 0
    dropout: float = 0.4
    backbone_dropout: float | None = None
    freeze: str = "all"
    loss: str = "cross_entropy"
    class_weights: str | dict | None = None
    label_smoothing: float = 0.0
    balanced: bool = False
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 0.0
    layer_decay: float = 1.0
    head_epochs: int = 0
    head_learning_rate: float = 1e-3
    schedule: str = "constant"
    epochs: int = 30
    patience: int = 5
    min_delta: float = 0.0
    monitor: str = "val_loss"
    batch_size: int = 128
    micro_batch: int | str = 0
    views: int = 4
    size: int = 224
    resize: str = "squash"
    channels: int = 1
    augmentation: Augmentation = field(default_factory=Augmentation)
    threshold: str = ""
    test_views: int = 0
    split: str = "patient"
    val: float = 0.15
    test: float = 0.15
    split_seed: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise ValueError where a value is of the wrong kind or out of its range."""
        rules = _rules()
        for name, value in vars(self).items():
            if not rules[name].fits(value):
                raise ValueError(f"{name} is {value!r}; it wants {rules[name].words}")
        if self.val + self.test >= 1:
            raise ValueError(
                f"val and test are {self.val} and {self.test}; together they want less than 1, as the "
                "rest is trained on"
            )
        self.options()
        check_rule(self.threshold)

    def options(self) -> Options:
        """The part that `loop.fit` takes."""
        return Options(**{f.name: getattr(self, f.name) for f in dataclasses.fields(Options)})

    def model_arguments(self, n_classes: int) -> dict:
        """The part that `models.build` takes."""
        return {
            "backbone": self.backbone,
            "n_classes": n_classes,
            "head": self.head,
            "outputs": self.outputs or None,
            "dropout": self.dropout,
            "backbone_dropout": self.backbone_dropout,
            "freeze": self.freeze,
            "seed": self.seed,
        }

    @property
    def division_seed(self) -> int:
        """What the division is drawn with: split_seed, or the seed where there is none."""
        return self.seed if self.split_seed is None else self.split_seed

    def reading(self) -> dict:
        """The part that `loaders.make` and `loaders.read_image` take: size, resize, channels."""
        return {"size": self.size, "resize": self.resize, "channels": self.channels}

    def changed(self, changes: dict[str, object]) -> Recipe:
        """Another recipe with some fields replaced; "augmentation.flip" names a part of a field.

        Values may be text as typed on a command line: "0.5", "none", "(0.8, 1.0)".

        Raises
        ------
        ValueError where there is no such field, naming the nearest, or a value of the wrong kind.
        """
        recipe = self
        for name, value in changes.items():
            outer, _, inner = name.partition(".")
            holder = recipe.augmentation if inner else recipe
            wanted = inner or outer
            _check_field(holder, wanted, name)
            value = _parsed(value, _kind(holder, wanted), name)
            changed = dataclasses.replace(holder, **{wanted: value})
            recipe = dataclasses.replace(recipe, augmentation=changed) if inner else changed
        return recipe

    def to_dict(self) -> dict:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> Recipe:
        """A recipe from what `to_dict` gave.

        Raises
        ------
        ValueError for anything else, such as a file that somebody has edited.
        """
        try:
            return cls(**{**values, "augmentation": Augmentation(**values["augmentation"])})
        except (TypeError, KeyError) as error:
            raise ValueError(f"this is no recipe of this version of tlutils ({error})") from None


class _Rule(NamedTuple):
    """What a field's value must be, for the program and in words."""

    fits: Callable[[object], bool]
    words: str


def _text(value: object) -> bool:
    return isinstance(value, str) and value.strip() != ""


def _whole(low: int, high: int = 2**31 - 1) -> _Rule:
    return _Rule(
        lambda value: type(value) is int and low <= value <= high,
        f"a whole number from {low} to {high:,}",
    )


def _number(positive: bool) -> _Rule:
    return _Rule(
        lambda value: is_number(value) and (value > 0 or value == 0 and not positive),
        f"a number{' above 0' if positive else ', 0 or more'}",
    )


def _one_of(*names: object) -> _Rule:
    return _Rule(
        lambda value: type(value) in (str, int) and value in names,
        f"one of {', '.join(map(str, names))}",
    )


def _or(rule: _Rule, other: object) -> _Rule:
    return _Rule(lambda value: value == other or rule.fits(value), f"{rule.words}, or {other!r}")


def _weights(value: object) -> bool:
    return (
        isinstance(value, dict)
        and len(value) > 1
        and all(
            isinstance(name, str) and is_number(weight) and weight > 0
            for name, weight in value.items()
        )
    )


@functools.cache
def _rules() -> dict[str, _Rule]:
    """One for every field of a Recipe; `training.Options` and `check_rule` look at more than kind and range."""
    text, positive = _Rule(_text, "a text"), _number(positive=True)
    share = _Rule(lambda value: is_number(value) and 0 <= value < 1, "a number from 0 to below 1")
    backbones = torchvision_models.list_models(module=torchvision_models)
    return {
        "name": text,
        "title": text,
        "data": text,
        "loss": text,
        "optimizer": text,
        "schedule": text,
        "monitor": text,
        "threshold": _or(text, ""),
        "backbone": _Rule(
            lambda value: isinstance(value, str) and value in backbones,
            "the name of a network that torchvision has",
        ),
        "head": _one_of(*HEADS),
        "split": _one_of(*SPLITS),
        "resize": _one_of(*RESIZES),
        "channels": _one_of(1, 3),
        "freeze": _Rule(
            lambda value: _text(value) and bool(re.fullmatch(r"all|none|up to \S+", value.strip())),
            "all, none or up to LAYER",
        ),
        "outputs": _whole(0),
        "epochs": _whole(1),
        "head_epochs": _whole(0),
        "patience": _whole(0),
        "views": _whole(0),
        "test_views": _whole(0),
        "batch_size": _whole(1),
        "size": _whole(1, 4096),
        "micro_batch": _or(_whole(0), "auto"),
        "seed": _whole(0, 2**32 - 1),
        "split_seed": _or(_whole(0, 2**32 - 1), None),
        "dropout": share,
        "backbone_dropout": _or(share, None),
        "label_smoothing": share,
        "momentum": share,
        "val": share,
        "test": share,
        "learning_rate": positive,
        "head_learning_rate": positive,
        "layer_decay": positive,
        "weight_decay": _number(positive=False),
        "min_delta": _number(positive=False),
        "balanced": _Rule(lambda value: isinstance(value, bool), "True or False"),
        "class_weights": _or(
            _or(
                _Rule(_weights, "a number above 0 for each class, such as {'CNV': 1, 'DME': 2}"),
                "auto",
            ),
            None,
        ),
        "augmentation": _Rule(
            lambda value: isinstance(value, Augmentation),
            "an Augmentation; change its parts by name, such as augmentation.flip",
        ),
    }


def _check_field(holder: object, wanted: str, name: str) -> None:
    fields = [f.name for f in dataclasses.fields(holder)]
    if wanted not in fields:
        near = difflib.get_close_matches(wanted, fields, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"there is no field {name!r}; {hint}The fields are {', '.join(fields)}")


def _kind(holder: object, wanted: str) -> object:
    """A value of the kind the field wants: its default, or what stands there where it has none."""
    default = next(f.default for f in dataclasses.fields(holder) if f.name == wanted)
    return getattr(holder, wanted) if default is dataclasses.MISSING else default


def _parsed(value: object, present: object, name: str) -> object:
    """What was typed, as the kind of value that `present` is."""
    if isinstance(value, str) and not isinstance(present, str):
        text = value.strip()
        try:
            value = (
                None
                if text.lower() == "none"
                else ast.literal_eval(text.title() if text.lower() in ("true", "false") else text)
            )
        except (
            ValueError,
            SyntaxError,
            TypeError,
            MemoryError,
            RecursionError,
        ):  # as many as there are odd texts
            if isinstance(present, (bool, float, tuple)) or (
                isinstance(present, int) and name != "micro_batch"
            ):
                raise ValueError(
                    f"{name} is {value!r}; it wants a value such as {present!r}"
                ) from None
    if isinstance(present, str) and value is not None:
        return str(value)
    if (
        isinstance(present, float)
        and isinstance(value, int)
        and not isinstance(value, bool)
        and abs(value) < 2**53
    ):
        return float(value)
    number = isinstance(present, (int, float)) and name != "micro_batch"
    if (number and not isinstance(value, (int, float))) or (
        isinstance(present, tuple) and not isinstance(value, (tuple, list))
    ):
        raise ValueError(f"{name} is {value!r}; it wants a value such as {present!r}")
    return value


_OCT_VIEWS = Augmentation(crop=(0.8, 1.0), flip=0.5)
_CHEST_VIEWS = Augmentation(zoom=(0.9, 1.1), shift=0.1, rotate=10)
_FLIP = Augmentation(flip=0.5)

# What helped on validation patients whose films were changed: crops and other proportions most of all. Without them
# a network that was right on 97 % called 86 % of the healthy ill once a quarter of the height was cut off.
_STRONG = Augmentation(
    crop=(0.4, 1.0),
    aspect=(0.6, 1.67),
    zoom=(0.85, 1.15),
    shift=0.1,
    rotate=12,
    flip=0.5,
    brightness=0.2,
    contrast=0.4,
    gamma=0.6,
)

_ALL = [
    Recipe(
        "oct-vgg16",
        "retinal OCT, VGG16 frozen, new head",
        "oct",
        "vgg16",
        "mlp",
        loss="nll",
        augmentation=_OCT_VIEWS,
    ),
    Recipe(
        "oct-vgg16-small",
        "retinal OCT, VGG16 frozen, for a few hundred images: small batches, little dropout, two views",
        "oct",
        "vgg16",
        "mlp",
        loss="nll",
        batch_size=32,
        dropout=0.1,
        backbone_dropout=0.1,
        views=2,
        augmentation=_OCT_VIEWS,
    ),
    Recipe(
        "oct-vgg16bn",
        "retinal OCT, VGG16 with BatchNorm, its classifier trained",
        "oct",
        "vgg16_bn",
        "linear",
        freeze="up to features",
        optimizer="sgd",
        schedule="step:7:0.1",
        epochs=14,
        batch_size=32,
        views=2,
        augmentation=_OCT_VIEWS,
    ),
    Recipe(
        "chest-vgg16-gap",
        "chest X-rays, VGG16 frozen, pooled, new head",
        "chest",
        "vgg16",
        "gap",
        outputs=1,
        loss="bce",
        batch_size=32,
        augmentation=_CHEST_VIEWS,
    ),
    Recipe(
        "chest-resnet152-gap",
        "chest X-rays, ResNet-152 frozen, pooled, new head",
        "chest",
        "resnet152",
        "gap",
        outputs=1,
        loss="bce",
        batch_size=32,
        augmentation=_CHEST_VIEWS,
    ),
    Recipe(
        "chest-resnet18-finetune",
        "chest X-rays, ResNet-18, all layers trained",
        "chest",
        "resnet18",
        "linear",
        freeze="none",
        learning_rate=1e-4,
        schedule="step:7:0.1",
        epochs=25,
        patience=10,
        batch_size=32,
        views=0,
        augmentation=_FLIP,
    ),
    Recipe(
        "chest-resnet18-frozen-stem",
        "chest X-rays, ResNet-18, all but its first layer trained",
        "chest",
        "resnet18",
        "linear",
        freeze="up to bn1",
        optimizer="sgd",
        schedule="step:7:0.1",
        epochs=25,
        patience=10,
        batch_size=32,
        views=0,
        augmentation=_FLIP,
    ),
    Recipe(
        "chest-resnet18-fixed",
        "chest X-rays, ResNet-18 frozen, its last layer trained",
        "chest",
        "resnet18",
        "linear",
        freeze="all",
        optimizer="sgd",
        schedule="step:7:0.1",
        epochs=25,
        patience=10,
        batch_size=32,
        views=4,
        augmentation=_FLIP,
    ),
    Recipe(
        "chest-best",
        "chest X-rays, MobileNetV2, head first and then all layers, strong augmentation",
        "chest",
        "mobilenet_v2",
        "linear",
        freeze="none",
        class_weights="auto",
        optimizer="adamw",
        learning_rate=1e-3,
        weight_decay=0.01,
        layer_decay=0.7,
        head_epochs=1,
        schedule="one-cycle",
        epochs=10,
        patience=0,
        monitor="val_auc",
        batch_size=32,
        views=0,
        augmentation=_STRONG,
        threshold="specificity>=0.98",
    ),
]

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in _ALL}


def get(name: str) -> Recipe:
    """The recipe of a name.

    Raises
    ------
    ValueError naming all recipes where there is none of this name.
    """
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, 1)
        raise ValueError(
            f"there is no recipe {name!r}; {f'did you mean {near[0]!r}? ' if near else ''}"
            f"The recipes are {', '.join(RECIPES)}"
        )
    return RECIPES[name]
