"""The named experiments, as data: a recipe says what is trained, on what and how; it has no code.

`dataclasses.replace(recipe, views=4)` makes another, as does `recipe.changed`.

oct-vgg16 is the model of Pawan Jain's article "Deep Learning for Medical Image Analysis" (Medium;
https://mc.ai/deep-learning-for-medical-image-analysis/), oct-vgg16bn that of a Kaggle notebook,
"VGG16 Transfer Learning - PyTorch" (Barbano), with its classifier trained as it intended.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ..core.words import did_you_mean
from ..data.augment import Augmentation, is_number
from ..data.loaders import RESIZES
from ..evaluation.acquisition import Acquisition
from ..evaluation.thresholds import split_rule
from ..models.build import HEADS, OLD_HEADS
from ..training.options import Options

# What recipe.json and command lines of before call a field, or a field's value.
_OLD_NAMES = {"optimiser": "optimizer", "fit": "resize"}
_OLD_VALUES = {("head", old): new for old, new in OLD_HEADS.items()}
# What `train` takes beside a recipe.
_ARGUMENTS = ("out", "weights", "limit", "device", "precision", "store", "compiled", "patient")
_ARGUMENTS += ("show", "log", "on_epoch_end", "recipe")
# The backbones of the recipes below: torchvision, whose import takes seconds, need not be asked.
BACKBONES = ("vgg16", "vgg16_bn", "resnet18", "resnet152", "mobilenet_v2")


@dataclass(frozen=True)
class Recipe(Options):
    """Everything a practitioner turns: how to train, as in `training.options.Options`, and on what.

    Parameters
    ----------
    name, title : str
        A short one, and one for people.
    data : str
        Kind of images, "oct" or "chest" (for people).
    backbone, head : str
        See `models.build.build`, here and below.
    outputs : int
        0 means one per class.
    dropout, backbone_dropout, freeze
        As there.
    head_epochs : int
        So long the new head alone, then all that `freeze` lets learn (see `tuning.head_alone`).
    head_learning_rate : float
        Meanwhile.
    batch_size : int
        Images of all processes together.
    balanced : bool
        Whether to draw all classes equally often.
    size, resize, channels
        See `loaders.read_image`.
    window : str
        "low,high", such as "-160,240": the values of deep grey that are shown black and white (see
        `images.read`); "" takes each image's own.
    positive : str
        Two classes only: the name of the one that sensitivity and a threshold are about; "" takes
        the second by name (PNEUMONIA after NORMAL).
    threshold : str
        Two classes only: a rule by which the run chooses, on its validation images, from which
        probability on it answers the positive class (see `thresholds.choose_threshold`), such as
        "specificity>=0.95"; after the word stressed, "stressed specificity>=0.95", on
        `stress_views` changes of the acquisition of each, all taken together; "" answers the
        likelier one.
    test_views : int
        Test-time augmentation: answers are averaged over the image and so many views of it.
    split : str
        "patient" (keeps a data set's own test images where no patient of theirs is elsewhere, else
        divides anew), "image" (leaks patients: for the lesson), or "official" (as the folders say).
    val, test : float
        Shares of the images for validation and test where they are divided anew.
    split_seed : int, optional
        Of that division; None takes `seed`. Give it to keep one division over several seeds.
    weights_seed : int, optional
        Of the backbone's random weights; None takes `seed`. Give it to keep one random
        backbone over several seeds, as a pretrained one is the same for all.
    epochs, loss, class_weights, label_smoothing, optimizer, learning_rate, momentum, weight_decay
        See `training.options.Options`, here and below.
    layer_decay, schedule, monitor, stress_views, patience, min_delta, views, micro_batch, seed
        Likewise.
    augmentation
        By name only.

    Raises
    ------
    ValueError
        Where a value is of the wrong kind or out of its range.

    Examples
    --------
    >>> Recipe("mine", "my own", "oct", "resnet18", "linear", epochs=3).learning_rate
    0.001
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
    head_epochs: int = 0
    head_learning_rate: float = 1e-3
    batch_size: int = 128
    balanced: bool = False
    size: int = 224
    resize: str = "squash"
    channels: int = 1
    window: str = ""
    positive: str = ""
    threshold: str = ""
    test_views: int = 0
    split: str = "patient"
    val: float = 0.15
    test: float = 0.15
    split_seed: int | None = None
    weights_seed: int | None = None

    def __post_init__(self) -> None:
        rules = _rules()
        for name, value in vars(self).items():
            if not rules[name].fits(value):
                raise ValueError(f"{name} is {value!r}; it wants {rules[name].words}")
        if self.val + self.test >= 1:
            raise ValueError(
                f"val and test are {self.val} and {self.test}; together they want less than 1, as "
                "the rest is trained on"
            )
        super().__post_init__()
        split_rule(self.threshold)

    def model_arguments(self, n_classes: int) -> dict:
        """The part that `models.build.build` takes.

        Parameters
        ----------
        n_classes : int
            Of the data.

        Returns
        -------
        dict
            Keyword arguments.
        """
        kept = ("backbone", "head", "dropout", "backbone_dropout", "freeze", "seed", "weights_seed")
        same = {name: getattr(self, name) for name in kept}
        return {**same, "n_classes": n_classes, "outputs": self.outputs or None}

    @property
    def division_seed(self) -> int:
        """What the division is drawn with: split_seed, or the seed where there is none."""
        return self.seed if self.split_seed is None else self.split_seed

    def reading(self) -> dict:
        """The part that `loaders.make` and `loaders.read_image` take.

        Returns
        -------
        dict
            size, resize, channels, and window where there is one.
        """
        window = {"window": tuple(map(float, self.window.split(",")))} if self.window else {}
        return {"size": self.size, "resize": self.resize, "channels": self.channels, **window}

    def changed(self, changes: dict[str, object]) -> Recipe:
        """Another recipe with some fields replaced.

        Parameters
        ----------
        changes : dict
            Values by field; "augmentation.flip" names a part of a field. They may be text as typed
            on a command line: "0.5", "none", "(0.8, 1.0)".

        Returns
        -------
        Recipe

        Raises
        ------
        ValueError
            Where there is no such field, naming the nearest, or a value of the wrong kind.

        Examples
        --------
        >>> recipe = get("oct-vgg16").changed({"learning_rate": "1e-4", "augmentation.flip": 0})
        >>> recipe.learning_rate, recipe.augmentation.flip
        (0.0001, 0.0)
        """
        recipe = self
        for name, value in changes.items():
            known = _OLD_NAMES.get(name, name)
            _check_field(known)
            outer, _, inner = known.partition(".")
            holder, field = (recipe.augmentation, inner) if inner else (recipe, outer)
            value = _OLD_VALUES.get((field, value), value) if isinstance(value, str) else value
            value = _parsed(value, _kind(holder, field), name)
            changed = dataclasses.replace(holder, **{field: value})
            recipe = dataclasses.replace(recipe, augmentation=changed) if inner else changed
        return recipe

    def to_dict(self) -> dict:
        """Plain values.

        Returns
        -------
        dict
            As JSON gives it back; what a recipe adds to `Options` comes first.
        """
        values = json.loads(json.dumps(dataclasses.asdict(self)))
        return {name: values[name] for name in Recipe.__annotations__} | values

    @classmethod
    def from_dict(cls, values: dict) -> Recipe:
        """A recipe from what `to_dict` gave.

        Parameters
        ----------
        values : dict
            Names of before are understood.

        Returns
        -------
        Recipe

        Raises
        ------
        ValueError
            For anything else, such as a file that somebody has edited.
        """
        try:
            values = {_OLD_NAMES.get(name, name): value for name, value in dict(values).items()}
            for (name, old), new in _OLD_VALUES.items():
                values[name] = new if values[name] == old else values[name]
            return cls(**{**values, "augmentation": Augmentation(**values["augmentation"])})
        except (TypeError, KeyError) as error:
            raise ValueError(f"this is no recipe of this version of tlutils ({error})") from None


class _Rule(NamedTuple):
    """What a field's value must be, for the program and in words."""

    fits: Callable[[object], bool]
    words: str


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value.strip() != ""


def _whole(low: int, high: int = 2**31 - 1) -> _Rule:
    words = f"a whole number from {low} to {high:,}"
    return _Rule(lambda value: type(value) is int and low <= value <= high, words)


def _one_of(*names: object) -> _Rule:
    words = f"one of {', '.join(map(str, names))}"
    return _Rule(lambda value: type(value) in (str, int) and value in names, words)


def _or(rule: _Rule, *others: object) -> _Rule:
    words = ", or ".join([rule.words, *map(repr, others)])
    return _Rule(lambda value: value in others or rule.fits(value), words)


def _is_backbone(value: object) -> bool:
    if isinstance(value, str) and value not in BACKBONES:
        from torchvision import models

        return value in models.list_models(module=models)
    return value in BACKBONES


def _is_freeze(value: object) -> bool:
    return _is_text(value) and bool(re.fullmatch(r"all|none|up to \S+", value.strip()))


def _are_weights(value: object) -> bool:
    return isinstance(value, dict) and len(value) > 1 and all(map(_is_weight, value.items()))


def _is_window(value: object) -> bool:
    try:
        low, high = map(float, value.split(","))
        return -math.inf < low < high < math.inf
    except (AttributeError, TypeError, ValueError):
        return False


def _is_weight(item: tuple[object, object]) -> bool:
    return isinstance(item[0], str) and is_number(item[1]) and item[1] > 0


@functools.cache
def _rules() -> dict[str, _Rule]:
    """One for every field; `Options` and `split_rule` look at more than kind and range."""
    text = _Rule(_is_text, "a text")
    share = _Rule(lambda value: is_number(value) and 0 <= value < 1, "a number from 0 to below 1")
    positive = _Rule(lambda value: is_number(value) and value > 0, "a number above 0")
    number = _Rule(lambda value: is_number(value) and value >= 0, "a number, 0 or more")
    weights = "a number above 0 for each class, such as {'CNV': 1, 'DME': 2}"
    changes = "an Augmentation; change its parts by name, such as augmentation.flip"

    def each(names: str, rule: _Rule) -> dict[str, _Rule]:
        return dict.fromkeys(names.split(), rule)

    return {
        **each("name title data loss optimizer schedule monitor", text),
        **each("outputs head_epochs patience views test_views", _whole(0)),
        **each("epochs batch_size", _whole(1)),
        "stress_views": _whole(1, len(Acquisition().changes)),
        **each("dropout label_smoothing momentum val test", share),
        **each("learning_rate head_learning_rate layer_decay", positive),
        **each("weight_decay min_delta", number),
        **each("threshold positive", _or(text, "")),
        "window": _or(_Rule(_is_window, "two numbers, low,high"), ""),
        "backbone": _Rule(
            _is_backbone,
            "the name of a network that torchvision has, such as resnet18; all of them by "
            "`python -c 'from torchvision import models; print(models.list_models(models))'`",
        ),
        "head": _one_of(*HEADS),
        "split": _one_of("patient", "image", "official"),
        "resize": _one_of(*RESIZES),
        "channels": _one_of(1, 3),
        "freeze": _Rule(_is_freeze, "all, none or up to LAYER"),
        "size": _whole(1, 4096),
        "micro_batch": _or(_whole(0), "auto"),
        "seed": _whole(0, 2**32 - 1),
        **each("split_seed weights_seed", _or(_whole(0, 2**32 - 1), None)),
        "backbone_dropout": _or(share, None),
        "balanced": _Rule(lambda value: isinstance(value, bool), "True or False"),
        "class_weights": _or(_Rule(_are_weights, weights), "auto", None),
        "augmentation": _Rule(lambda value: isinstance(value, Augmentation), changes),
    }


def _check_field(name: str) -> None:
    fields = [field.name for field in dataclasses.fields(Recipe)]
    fields += [f"augmentation.{field.name}" for field in dataclasses.fields(Augmentation)]
    if name not in fields:
        guess = did_you_mean(name, fields) or f"; the fields are {', '.join(fields)}"
        if name in _ARGUMENTS:
            guess = f" of a recipe; it is an argument of train: train(..., {name}=...)"
        raise ValueError(f"there is no field {name!r}{guess}")


def _kind(holder: object, field: str) -> object:
    """A value of the kind the field wants: its default, or what stands there where it has none."""
    default = next(f.default for f in dataclasses.fields(holder) if f.name == field)
    return getattr(holder, field) if default is dataclasses.MISSING else default


def _parsed(value: object, present: object, name: str) -> object:
    """What was typed, as the kind of value that `present` is."""
    wrong = ValueError(f"{name} is {value!r}; it wants a value such as {present!r}")
    number = isinstance(present, (int, float)) and name != "micro_batch"
    if isinstance(value, str) and not isinstance(present, str):
        text = value.strip()
        text = text.title() if text.lower() in ("none", "true", "false") else text
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            # As many as there are odd texts.
            if number or isinstance(present, tuple):
                raise wrong from None
    if isinstance(present, str) and value is not None:
        return str(value)
    if isinstance(present, float) and type(value) is int and abs(value) < 2**53:
        return float(value)
    if number and not isinstance(value, (int, float)):
        raise wrong
    if isinstance(present, tuple) and not isinstance(value, (tuple, list)):
        raise wrong
    return value


_CHEST_VIEWS = Augmentation(zoom=(0.9, 1.1), shift=0.1, rotate=10)

# What helped on validation patients whose films were changed: crops and other proportions most of
# all. Without them a network that was right on 97 % called 86 % of the healthy ill once a quarter
# of the height was cut off. Chosen from candidates: tests/benchmarks/chest_candidates.csv.
_STRONG = Augmentation(
    crop=(0.08, 1.0),
    aspect=(0.6, 1.67),
    zoom=(0.85, 1.15),
    shift=0.1,
    rotate=12,
    flip=0.5,
    brightness=0.3,
    contrast=0.6,
    gamma=1.0,
    noise=0.05,
)

# What recipes have in common.
_STEPPED = {"optimizer": "sgd", "schedule": "step:7:0.1", "batch_size": 32}
_OCT = {"data": "oct", "augmentation": Augmentation(crop=(0.8, 1.0), flip=0.5)}
_OCT_VGG16 = {**_OCT, "backbone": "vgg16", "head": "mlp", "loss": "nll"}
_CHEST = {"data": "chest", "batch_size": 32}
_POOLED = {**_CHEST, "head": "gap", "outputs": 1, "loss": "bce", "augmentation": _CHEST_VIEWS}
_RESNET18 = {**_CHEST, **_STEPPED, "backbone": "resnet18", "head": "linear"}
_RESNET18 |= {"epochs": 25, "patience": 10, "augmentation": Augmentation(flip=0.5)}

_ALL = [
    Recipe("oct-vgg16", "retinal OCT, VGG16 frozen, new head", **_OCT_VGG16),
    Recipe(
        "oct-vgg16-small",
        "retinal OCT, VGG16 frozen, for a few hundred images: small batches, little dropout, "
        "two views",
        **_OCT_VGG16,
        batch_size=32,
        dropout=0.1,
        backbone_dropout=0.1,
        views=2,
    ),
    Recipe(
        "oct-vgg16bn",
        "retinal OCT, VGG16 with BatchNorm, its classifier trained",
        **_OCT,
        **_STEPPED,
        backbone="vgg16_bn",
        head="linear",
        freeze="up to features",
        epochs=14,
        views=2,
    ),
    Recipe(
        "chest-vgg16-gap",
        "chest X-rays, VGG16 frozen, pooled, new head",
        **_POOLED,
        backbone="vgg16",
    ),
    Recipe(
        "chest-resnet152-gap",
        "chest X-rays, ResNet-152 frozen, pooled, new head",
        **_POOLED,
        backbone="resnet152",
    ),
    Recipe(
        "chest-resnet18-finetune",
        "chest X-rays, ResNet-18, all layers trained",
        **_RESNET18 | {"optimizer": "adam"},
        freeze="none",
        learning_rate=1e-4,
        views=0,
    ),
    Recipe(
        "chest-resnet18-frozen-stem",
        "chest X-rays, ResNet-18, all but its first layer trained",
        **_RESNET18,
        freeze="up to bn1",
        views=0,
    ),
    Recipe(
        "chest-resnet18-fixed",
        "chest X-rays, ResNet-18 frozen, its last layer trained",
        **_RESNET18,
        freeze="all",
    ),
    Recipe(
        "chest-best",
        "chest X-rays, MobileNetV2, head first and then all layers, strong augmentation",
        **_CHEST,
        backbone="mobilenet_v2",
        head="linear",
        freeze="none",
        class_weights="auto",
        optimizer="adamw",
        weight_decay=0.01,
        layer_decay=0.7,
        head_epochs=1,
        schedule="one-cycle",
        epochs=10,
        patience=0,
        monitor="val_auc",
        views=0,
        augmentation=_STRONG,
        threshold="specificity>=0.98",
    ),
]

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in _ALL}


def get(name: str) -> Recipe:
    """The recipe of a name.

    Parameters
    ----------
    name : str
        One of `RECIPES`.

    Returns
    -------
    Recipe

    Raises
    ------
    ValueError
        Naming all recipes where there is none of this name.

    Examples
    --------
    >>> get("chest-best").backbone
    'mobilenet_v2'
    """
    if name not in RECIPES:
        guess, names = did_you_mean(name, RECIPES), ", ".join(RECIPES)
        raise ValueError(f"there is no recipe {name!r}{guess}; those there are: {names}")
    return RECIPES[name]
