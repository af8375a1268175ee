"""Small, quick runs, as several tests make them."""

import json
from contextlib import contextmanager

from tlutils.runs import recipes
from tlutils.runs import train as training
from tlutils.runs.train import prepare

SMALL = {"size": "32", "epochs": "2", "batch_size": "16", "backbone": "squeezenet1_1", "views": "2"}
CPU = {"device": "cpu", "precision": "fp32", "show": False}


def small(name="oct-vgg16", **changes):
    """A recipe of which a run takes about a second."""
    return recipes.get(name).changed({**SMALL, **changes})


# Two classes, one logit, a threshold of its own.
BINARY = small("chest-vgg16-gap", threshold="specificity>=0.9", val="0.3", epochs="1")


def train(data, out, recipe=None, **more):
    """A run from beginning to end; the fixture `trained` makes one that tests only read."""
    how = {"weights": "random", "log": None, **CPU, **more}
    return training.train(recipe or small(), data, out, **how)


def begin(data, out, recipe=None, **more):
    """A run that has not trained yet."""
    how = {"weights": "random", "show": False, "log": None, **more}
    return prepare(recipe or small(), data, out, **how)


def command(data, out, *more):
    """The words of the command line that train such a run; of two values of a field the last counts."""
    quick = "--weights random --epochs 1 --device cpu --precision fp32 --set size=32"
    quick += " --set batch_size=16 --set backbone=squeezenet1_1 --set views=1"
    return ["train", "oct-vgg16", "--data", str(data), "--out", str(out), *quick.split(), *more]


def first(data, part="train/CNV"):
    """The first image of a part."""
    return sorted((data / part).iterdir())[0]


@contextmanager
def edited(file):
    """What a JSON file holds, to be changed in place."""
    content = json.loads(file.read_text())
    yield content
    file.write_text(json.dumps(content))
