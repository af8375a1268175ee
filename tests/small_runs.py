"""Small, quick runs, as several tests make them."""

import warnings

from tlutils.runs import recipes
from tlutils.runs import train as training
from tlutils.runs.train import prepare

SMALL = {"size": "32", "epochs": "2", "batch_size": "16", "backbone": "squeezenet1_1", "views": "2"}
CPU = {"device": "cpu", "precision": "fp32", "show": False}


def small(name="oct-vgg16", **changes):
    return recipes.get(name).changed({**SMALL, **changes})


def train(data, out, recipe=None, **more):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the validation set has")
        how = {"weights": "random", "log": None, **CPU, **more}
        return training.train(recipe or small(), data, out, **how)


def begin(data, out, recipe=None, **more):
    how = {"weights": "random", "show": False, "log": None, **more}
    return prepare(recipe or small(), data, out, **how)


def command(data, out, *more):
    """The words of the command line that train such a run; of two values of a field the last counts."""
    quick = "--weights random --epochs 1 --device cpu --precision fp32 --set size=32"
    quick += " --set batch_size=16 --set backbone=squeezenet1_1 --set views=1"
    return ["train", "oct-vgg16", "--data", str(data), "--out", str(out), *quick.split(), *more]


def first(data, part="train/CNV"):
    return sorted((data / part).iterdir())[0]
