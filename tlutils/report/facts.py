"""What a run was, in words: its result, its recipe and command, and what it was made with."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shlex
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..core.words import many
from ..data import layouts, records
from ..evaluation import adaptation, comparison
from ..evaluation.metrics import denominator
from ..models.build import build, count
from ..runs.folder import Run, read_predictions
from ..runs.recipes import RECIPES, Recipe
from ..training import monitors

SPLIT_NAMES = {"train": "training", "val": "validation", "test": "test"}
_FROZEN = {"all": "all but the new head", "none": "nothing"}
# Fields of a recipe that the page always tells: in the phrases of `recipe`, its title, its seeds.
_TOLD = {"name", "title", "seed", "split_seed", "data", "backbone", "head", "freeze", "loss"}
_TOLD |= {"optimizer", "learning_rate", "schedule", "epochs", "monitor", "patience", "batch_size"}
_TOLD |= {"balanced", "size", "resize", "channels", "augmentation", "views"}
# The phrase to which any other field is added where it is not the default.
_PHRASE_OF = dict.fromkeys(("outputs", "dropout", "backbone_dropout"), "network")
_PHRASE_OF |= dict.fromkeys(("class_weights", "label_smoothing"), "loss")
_PHRASE_OF |= {"momentum": "optimizer", "weight_decay": "optimizer", "layer_decay": "optimizer"}
_PHRASE_OF |= {"head_epochs": "optimizer", "head_learning_rate": "optimizer"}
_PHRASE_OF |= {"min_delta": "epochs", "stress_views": "epochs", "micro_batch": "batches"}
_PHRASE_OF |= dict.fromkeys(("positive", "threshold", "test_views"), "answers")
_PHRASE_OF["window"] = "images"
_PHRASE_OF |= dict.fromkeys(("split", "val", "test"), "division")
# What tells the patients by a rule; any other rule is a pattern.
_TOLD_BY = {"dicom": "DICOM files"}
_TOLD_BY["dicom-hashed"] = "DICOM files, as hashes"
# What is raised where a file holds anything else than was written.
DAMAGE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
# What `use.evaluate` writes of what it measured, since it does.
_OF_AN_EVALUATION = {"data", "split", "requested", "views", "calibrated", "fingerprint"}


class Elsewhere(NamedTuple):
    """What was measured on other images, and what was chosen for other places.

    Parameters
    ----------
    evaluations, adaptations : list of dict
        file, from the run's folder on; used, as `use.evaluate` or `adapt.adapt` writes it; other,
        whether the images are another set than the run's, by another folder or a list and as most
        are not its own; rows, what a reader sees: name, told (all that has to be said of it),
        numbers by name, of evaluations images, in words; of adaptations also words, on whether it
        is steady.
    left_out : list of str
        Sentences that name the files that cannot be read, and those of earlier weights or of an
        earlier choice under an adaptation's name.
    """

    evaluations: list[dict]
    adaptations: list[dict]
    left_out: list[str]

    @property
    def sets(self) -> int:
        """How many sets of images they are of, without those that are mostly the run's own."""
        found: list[set[str]] = []
        for one in self.evaluations + self.adaptations:
            if one["other"]:  # by a folder and by a manifest, say, they may be the same
                marks = {one["used"]["data"], one["used"]["fingerprint"]}
                same = [of for of in found if of & marks]
                found = [of for of in found if of not in same] + [marks.union(*same)]
        return len(found)


def percent(share: float) -> str:
    """Write a share for a reader.

    Parameters
    ----------
    share : float, 0 to 1

    Returns
    -------
    str, number and sign, never parted at a line's end

    Examples
    --------
    >>> percent(0.4474)
    '44.7\\xa0%'
    """
    return f"{100 * share:.1f}\u00a0%"


def by_likeliest(found: dict) -> bool:
    """Whether the answers that were measured are the likeliest classes.

    Parameters
    ----------
    found : dict, the metrics of a split

    Returns
    -------
    bool, False where a threshold other than one half decides
    """
    return found.get("threshold", 0.5) == 0.5


def main_split(metrics: dict) -> str:
    """Name the split that a run's headline is about.

    Parameters
    ----------
    metrics : dict, of a run

    Returns
    -------
    str, "test" where the run has one, else "val"
    """
    return "test" if "test" in metrics else "val"


def kept_epoch(run: Run) -> int:
    """Find the epoch whose weights were kept: the best by the monitor, the last without validation.

    Parameters
    ----------
    run : Run, trained

    Returns
    -------
    int
    """
    history, recipe = run.history, run.recipe
    if history["val_loss"].isna().all():
        return int(history["epoch"].iloc[-1])
    part = history["part"] if "part" in history else pd.Series("all", history.index)
    best = [
        _best(epochs.to_dict("records"), recipe.monitor, recipe.min_delta)
        for _, epochs in history.groupby(part, sort=False)
    ]
    # Of parts that are equally good the later was kept.
    return int(_best(best[::-1], recipe.monitor, 0.0)["epoch"])


def course(run: Run) -> str:
    """Say how many epochs there were and which was kept, by its number in history.csv.

    Parameters
    ----------
    run : Run, trained

    Returns
    -------
    str
    """
    history, kept = run.history, kept_epoch(run)
    head = int(history["part"].eq("head").sum()) if "part" in history else 0
    epochs, of = many(len(history), "epoch"), ""
    if head and run.recipe.freeze != "all":
        layers = "all layers" + " but the frozen" * (run.recipe.freeze != "none")
        epochs = f"{many(head, 'epoch')} of the head and {len(history) - head} of {layers}"
        of = ", counted through,"
    validated, seconds = history["val_loss"].notna().any(), history["seconds"].sum()
    best = f"the best by {run.recipe.monitor}"
    how = best if validated else "the last, as there was no validation"
    return f"{epochs} in {seconds:,.1f} s; epoch {kept}{of} was kept, {how}."


def _best(rows: list[dict], monitor: str, margin: float) -> dict:
    """The epoch that no later one of a history beats by more than the margin."""
    best = rows[0]
    for row in rows[1:]:
        best = row if monitors.beats(row, best, monitor, margin) else best
    return best


def over_seeds(run: Run) -> pd.Series | None:
    """Sum up the accuracy over a run and its further seeds.

    Parameters
    ----------
    run : Run, finished; further seeds lie in its folders seed-N

    Returns
    -------
    pd.Series or None, mean, sd, min, max and runs; None where there is one seed
    """
    found, _ = further_seeds(run)
    metrics = [run.metrics[main_split(run.metrics)], *found]
    return comparison.over_seeds(metrics).loc["accuracy"] if found else None


def further_seeds(run: Run) -> tuple[list[dict], dict[str, str]]:
    """The numbers of a run's further seeds, and which do not count.

    One counts that is of the run's images, and to which the run's epochs and patience of now would
    add nothing.

    Parameters
    ----------
    run : Run, finished

    Returns
    -------
    list of dict, the metrics of the main split of each that counts
    dict of str to str, the name of the folder of any other, and why not and what to do
    """
    found, left, wanted = [], {}, run.recipe
    for file in sorted(run.folder.glob("seed-*/metrics.json")):
        try:
            one = Run.load(file.parent)
            history, metrics = one.history, one.metrics[main_split(run.metrics)]
            same = one.about["data"]["fingerprint"] == run.about["data"]["fingerprint"]
            part = history.get("part", pd.Series("all", history.index))
            last = history[part == part.iloc[-1]]
            best = _best(last.to_dict("records"), wanted.monitor, wanted.min_delta)
            stopped = last["epoch"].iloc[-1] - best["epoch"] >= (wanted.patience or math.inf)
            seeds = one.recipe.seed - wanted.seed + 1
        except (OSError, *DAMAGE) as error:  # no run, or no whole one
            why = f"it cannot be read ({type(error).__name__}: {error})"
            left[file.parent.name] = f"{why}; mend that, or remove that folder"
            continue
        stopped &= bool(history["val_loss"].notna().any())  # without validation none stops
        if not same:
            left[file.parent.name] = "it was trained on other images; remove that folder"
        elif stopped or len(last) == wanted.epochs:
            found.append(metrics)
        else:
            left[file.parent.name] = (
                "it was trained for other epochs, or with other patience; "
                f"--seeds {seeds} trains it as long; where that is refused, remove it first"
            )
    return found, left


def elsewhere(run: Run) -> Elsewhere:
    """Read what was measured on other images, and chosen for other places, with the run's weights.

    Parameters
    ----------
    run : Run, finished

    Returns
    -------
    Elsewhere
    """
    found: dict[str, list[dict]] = {"adaptations": [], "evaluations": []}
    evaluation = partial(_evaluation, chosen=found["adaptations"])
    left_out, replaced, weights = [], [], run.metrics.get("weights")
    others = run.of_earlier_weights(weights)
    if others and not weights and (run.folder / "best.pt").is_file():  # of an earlier version
        weights = run.fingerprint
        others = run.of_earlier_weights(weights)
    for kind, read in {"adaptations": _adaptation, "evaluations": evaluation}.items():
        for file in sorted((run.folder / kind).glob("*.json")):
            name = f"{kind}/{file.name}"
            if name in others:
                continue
            try:
                one = read(run, file)
            except (OSError, *DAMAGE):
                left_out.append(damaged(name))
                continue
            if one and one.get("replaced"):
                replaced.append(name)
            elif one:
                found[kind].append(one | {"file": name})
    again = "Measure anew with python -m tlutils evaluate or adapt, on the same images."
    told = "The run was trained on since, so {} of its earlier weights {} left out"
    if not weights:
        told = "{} {} left out, as only best.pt, which is missing, could tell whether the run was"
        told += " trained on since"
    anew = "An adaptation was chosen anew since, so {} of its earlier choice {} left out"
    for words, names, mend in (
        (told, others, again if weights else "Put it back, and report the run again."),
        (anew, replaced, again),
    ):
        if names:
            words = words.format(many(len(names), "file"), "is" if len(names) == 1 else "are")
            left_out.append(f"{words}: {', '.join(names)}. {mend}")
    return Elsewhere(**found, left_out=left_out)


def damaged(file: str) -> str:
    """What is said of a file beside the run that holds something else than was written.

    Parameters
    ----------
    file : str, from the run's folder on

    Returns
    -------
    str
    """
    return (
        f"{file} is left out, as it or the .csv beside it is damaged or missing. Remove it, and "
        "evaluate or adapt again, on the same images."
    )


def _evaluation(run: Run, file: Path, chosen: list[dict]) -> dict | None:
    """What a file of evaluate holds; None of an earlier version, which did not tell the images."""
    found = json.loads(file.read_text(encoding="utf-8"))
    used = found.get("used")
    if used is None:
        return None
    if "asked" in used:  # the name of before
        used.setdefault("requested", used.pop("asked"))
    if lost := _OF_AN_EVALUATION - used.keys():
        raise KeyError(min(lost))
    if not isinstance(used["fingerprint"], str):
        raise TypeError("fingerprint")
    metrics = found[used["split"]]
    if "own_images" in used or "own" in used:  # of a leaking run one may be in two splits
        own = used.get("own_images", min(sum(used.get("own", {}).values()), metrics["n"]))
    elif used["fingerprint"] == run.about["data"]["fingerprint"]:  # a copy of them all
        own = metrics["n"]
    else:
        table = file.with_suffix(".csv")
        source = Path(used["data"])
        root = source.parent if _is_manifest(source) else source
        seen = _files(root, read_predictions(table)) if table.is_file() else []
        own = len(set(seen).intersection(_files(run.root, run.records)))
    adapted, then = used.get("adapted"), used.get("choice")
    kept = f"adaptations/{adapted}.json"
    now = next((one["choice"] for one in chosen if one["file"] == kept), None)
    same = now and now["fingerprint"] == used["fingerprint"]  # all that older files tell
    on = used.get("chosen_on", metrics["n"] if same else 0)
    parts = {split: f"{n} {SPLIT_NAMES[split]}" for split, n in used.get("own", {}).items() if n}
    good = ", so too good" if parts.keys() & {"train", "val"} else ""
    parts = f" ({', '.join(parts.values())})" if parts else ""
    told = {
        "perhaps of earlier weights": not used.get("weights"),
        f"{own} of them the run's own{parts}{good}": own,
        f"{used.get('unreadable')} more cannot be read": used.get("unreadable"),
        f"{used['split']} images, where divided": used["split"] != "test",
        many(used["views"], "view"): used["views"],
        "calibrated": used["calibrated"],
        f"adapted by {adapted}": adapted,
        "perhaps by its earlier choice": now and not then,
        f"chosen on {'' if on == metrics['n'] else f'{on} of '}them, so too good": on,
    }
    row = {"name": used["requested"], "told": [words for words, there in told.items() if there]}
    row |= {"images": denominator(metrics), "numbers": metrics}
    replaced = now and then and not _are_alike(now, then)
    other = _is_other(run, used, own, metrics["n"])
    return {"used": used, "other": other, "rows": [row], "replaced": replaced}


def _adaptation(run: Run, file: Path) -> dict:
    found = run.adaptation(file.stem, any_weights=True)
    own = len(found["images"].intersection(run.records["sha256"]))
    other = _is_other(run, found["used"], own, len(found["images"]))
    if (len(run.classes) == 2) != bool(found["threshold"]):
        raise KeyError("threshold")
    if not isinstance(found["used"]["fingerprint"], str):
        raise TypeError("fingerprint")
    name, views = found["used"]["requested"], found["used"]["views"]
    told, lost = [many(views, "view")] if views else [], found["used"].get("unreadable")
    told += [f"{lost} more cannot be read"] if lost else []
    by = f"adapted by {found['name']}" + (f", {found['rule']}" if found["threshold"] else "")
    before = {"threshold": 0.5 if found["own_threshold"] is None else found["own_threshold"]}
    before |= {**found["before"], "temperature": 1.0}
    after = {**found["after"], "threshold": found["threshold"], "temperature": found["temperature"]}
    rows = [
        {"name": name, "told": [how, *told], "numbers": numbers}
        for how, numbers in (("as the run answers", before), (by, after))
    ]
    return found | {"other": other, "rows": rows, "words": adaptation.in_words(found)}


def _are_alike(one: dict, other: dict) -> bool:
    """Whether two choices are one, but for rounding."""
    numbers = [(choice["threshold"] or 0.0, choice["temperature"]) for choice in (one, other)]
    return one["fingerprint"] == other["fingerprint"] and np.allclose(*numbers, rtol=0, atol=1e-5)


def _is_manifest(source: Path) -> bool:
    return source.suffix.lower() in layouts.TABLES


def _is_other(run: Run, used: dict, own: int, n: int) -> bool:
    """Whether n images are another set than the run's, of which `own` are among them."""
    source, kept = Path(used["data"]), Path(run.about["data"]["requested"])
    # A list may be of any images; of a folder's or its own some may have been left out by a limit.
    same = own and source == kept.resolve()
    listed = not same and (_is_manifest(source) or _is_manifest(kept))
    return (listed or not source.is_relative_to(run.root)) and 2 * own <= n


def _files(root: Path, table: pd.DataFrame) -> list[str]:
    return [os.path.normpath(root / path) for path in table["path"]]


def summary(run: Run) -> tuple[str, str]:
    """Say the result in a few sentences.

    Parameters
    ----------
    run : Run, finished

    Returns
    -------
    str, the sentences
    str, their tone: "good", "warning" or "bad"
    """
    metrics = run.metrics
    split = main_split(metrics)
    found = metrics[split]
    at, base, seeds = found["accuracy"], found["baseline"], over_seeds(run)
    better, worse = at["low"] > base, at["high"] < base
    how = "better than" if better else "worse than" if worse else "not shown to be better than"
    sentences = [
        f"The model answered {percent(at['value'])} of {denominator(found, SPLIT_NAMES[split])} "
        f"rightly; the {100 * found['level']:g}\u00a0% "
        f"interval is {percent(at['low'])} to {percent(at['high'])}.",
        f"That is {how} always giving the commonest answer ({percent(base)}).",
    ]
    if seeds is not None:
        sentences.append(
            f"With {int(seeds['runs'])} seeds it was {percent(seeds['min'])} to "
            f"{percent(seeds['max'])}, {percent(seeds['mean'])} on average."
        )
    phantom, leak = run.drawn, run.about["audit"]["leak"]
    if phantom:
        sentences.append(
            "The images are drawings, so it shows that the steps work and nothing about patients."
        )
    elif run.weights == "random":
        sentences.append(
            "The network began with random weights, so it says nothing about transfer learning."
        )
    if leak:
        sentences.append("The splits leak, so the number is too good.")
    good = better and not phantom and run.weights != "random"
    return " ".join(sentences), "bad" if leak else "good" if good else "warning"


def recipe(run: Run) -> dict[str, str]:
    """Say what was trained and how, with every setting that is not the default.

    Parameters
    ----------
    run : Run, begun

    Returns
    -------
    dict, a name and a phrase for each part; "changed" is what differs from the recipe of that name
    """
    used, phrases = run.recipe, {**_network(run), **_course(run.recipe)}
    for field in dataclasses.fields(Recipe):
        value = getattr(used, field.name)
        if field.name not in _TOLD and value != field.default:
            part = _PHRASE_OF.get(field.name, "besides")
            phrase, more = phrases.get(part, ""), f"{field.name.replace('_', ' ')} {_typed(value)}"
            if more not in phrase:
                phrases[part] = f"{phrase}, {more}" if phrase else more
    changes = _changed(used)
    words = ", ".join(f"{name} = {_typed(value)}" for name, value in (changes or {}).items())
    unknown = "there is no named recipe to compare it with"
    changed = unknown if changes is None else words or "nothing of the named recipe"
    return {**phrases, "changed": changed}


def title(run: Run) -> str:
    """Name a run by its recipe, or by its network where the recipe has another, and its images.

    Parameters
    ----------
    run : Run, begun

    Returns
    -------
    str
    """
    used = run.recipe
    own = used.backbone == RECIPES.get(used.name, used).backbone
    return f"{used.name if own else used.backbone} on {_data(run)}"


def _data(run: Run) -> str:
    """The folder above all images, and the manifest that lists them, if any."""
    asked = Path(run.about["data"]["requested"])
    if not _is_manifest(asked):
        return run.root.name
    folders = {path.rpartition("/")[0] for path in run.records["path"]}
    above = os.path.commonpath([os.path.normpath(run.root / folder) for folder in folders])
    return f"{Path(above).name} ({asked.name})"


def made_for(used: Recipe) -> str:
    """Say what a recipe is for, and in what it was changed.

    Parameters
    ----------
    used : Recipe

    Returns
    -------
    str

    Examples
    --------
    >>> made_for(RECIPES["oct-vgg16"].changed({"backbone": "resnet18"}))
    'recipe oct-vgg16: retinal OCT, VGG16 frozen, new head; changed here: backbone'
    """
    changed = ", ".join(_changed(used) or ())
    return f"recipe {used.name}: {used.title}{'; changed here: ' * bool(changed)}{changed}"


def _network(run: Run) -> dict[str, str]:
    used = run.recipe
    arguments = used.model_arguments(len(run.classes))
    counted = count(build(**arguments, weights="random", device="meta"))  # shapes, no memory
    trained = f"{counted['trainable']:,} of {counted['total']:,} parameters"
    share = f"({100 * counted['trainable'] / counted['total']:.3g}\u00a0%)"
    return {
        "network": f"{used.backbone} with head {used.head}, for {', '.join(run.classes)}",
        "weights before": _weights(run),
        "trained": f"{trained} {share}",
        "frozen": _FROZEN.get(used.freeze, used.freeze),
    }


def _course(used: Recipe) -> dict[str, str]:
    momentum = f", momentum {used.momentum}" if used.optimizer == "sgd" else ""
    stop = f"; stops after {used.patience} without a better one" if used.patience else ""
    balanced = ", all classes drawn equally often" if used.balanced else ""
    kind = "grey" if used.channels == 1 else "color"
    return {
        "loss": used.loss.replace("_", " "),
        "optimizer": f"{used.optimizer}, learning rate {used.learning_rate}, "
        f"schedule {used.schedule}{momentum}",
        "epochs": f"at most {used.epochs}, the best by {used.monitor} is kept{stop}",
        "batches": f"{many(used.batch_size)}{balanced}",
        "images": f"{used.size} × {used.size} pixels, {used.resize}, {kind}; the recipe is for "
        f"{used.data} images",
        "augmentation": _augmentation(used),
    }


def _augmentation(used: Recipe) -> str:
    plain = type(used.augmentation)()
    turned = [
        f"{name} {_typed(value)}"
        for name, value in vars(used.augmentation).items()
        if value != getattr(plain, name)
    ]
    if not turned:
        return f"none (views {used.views})"
    several = f"{used.views} view{'s' * (used.views > 1)} of each image"
    return f"{', '.join(turned)}; {several if used.views else 'a new view every epoch'}"


def _changed(used: Recipe) -> dict[str, object] | None:
    """What differs from the recipe of that name; None where there is no such name."""
    if used.name not in RECIPES:
        return None
    now, then = _flat(used), _flat(RECIPES[used.name])
    return {name: value for name, value in now.items() if name != "title" and value != then[name]}


def _flat(used: Recipe) -> dict[str, object]:
    """Plain values by the names that --set takes, such as "augmentation.flip"."""
    fields = used.to_dict()
    inner = fields.pop("augmentation")
    return fields | {f"augmentation.{name}": value for name, value in inner.items()}


def _typed(value: object) -> str:
    """A value as --set takes it."""
    return f"({', '.join(map(str, value))})" if isinstance(value, (list, tuple)) else str(value)


def _weights(run: Run) -> str:
    about = run.about["weights"]
    if run.weights == "random":
        return "drawn at random, no pretraining"
    named = Path(about.get("file") or run.weights).name
    named = about["name"] if about.get("source") == "run" else named
    return f"{named}, sha256 {about['sha256']}" if about.get("sha256") else named


def command(run: Run) -> str:
    """Give the command that makes a run again, begun where it was begun.

    Its data and weights are those asked for then. A recipe without a name that tlutils knows comes
    back from the run's folder, in Python.

    Parameters
    ----------
    run : Run, begun

    Returns
    -------
    str
    """
    name, data, limit = run.folder.resolve().name, run.about["data"], run.about["limit"]
    patient, precision = data.get("patient", "auto"), run.about["machine"]["precision"]
    changes, seeds = _changed(run.recipe), 1 + len(further_seeds(run)[0])
    if changes is None:
        further = ("train_seeds(", f", {seeds})") if seeds > 1 else ("", "")
        return (
            "from tlutils.runs.folder import Run\n"
            f"from tlutils.runs.train import train{', train_seeds' * (seeds > 1)}\n"
            f"{further[0]}train(Run.load({str(run.folder)!r}).recipe, {data['requested']!r}, "
            f"{name + '-again'!r}, weights={run.weights!r}, limit={limit}, patient={patient!r}, "
            f"precision={precision!r}){further[1]}"
        )
    options = {"data": data["requested"], "out": f"{name}-again", "weights": run.weights}
    if limit:
        options["limit"] = limit
    if patient != "auto":
        options["patient"] = "none" if patient is None else patient
    if seeds > 1:
        options["seeds"] = seeds
    words = ["python", "-m", "tlutils", "train", run.recipe.name]
    for option, value in (options | {"precision": precision}).items():
        # A value that begins with - would be taken for an option of its own.
        dashed = str(value).startswith("-")
        words += [f"--{option}={value}"] if dashed else [f"--{option}", str(value)]
    for field, value in changes.items():
        words += ["--set", f"{field}={_typed(value)}"]
    return shlex.join(words)


def made_with(run: Run) -> dict[str, str]:
    """Tell versions, machine, seeds, weights and data.

    Parameters
    ----------
    run : Run, finished

    Returns
    -------
    dict, a name and a phrase for each
    """
    machine, data, how = run.about["machine"], run.about["data"], run.metrics["interval"]
    rule = data.get("patient", "auto")
    named = records.with_patients(run.records)["patient"].eq(run.records["patient"]).all()
    by = "the file names" if named and rule == "auto" else _TOLD_BY.get(rule)
    if not named and rule == "auto":
        packed = run.records["path"].str.contains(".tar/", regex=False).any()
        by = "tar files" if packed else "DICOM files"
        by = "the manifest" if _is_manifest(Path(data["requested"])) else by
    if not named and "patient" not in data:  # once it was not written down
        by = "a rule that recipe.json does not name"
    whole = records.readable(run.records)
    unknown, told = int(records.unknown_patient(whole).sum()), []
    if unknown < len(whole):
        told += [f"told by {by or f'the pattern {rule} (--patient)'}"]
    if unknown:
        told += [f"unknown for {unknown:,} of {many(len(whole))}"]
    return {
        "versions": ", ".join(f"{name} {v}" for name, v in run.about["versions"].items()),
        "machine": f"{machine['device']} ({machine['name']}) in {machine['precision']}, "
        f"processes: {machine['processes']}",
        "seeds": f"training {run.recipe.seed}, division {run.recipe.division_seed}, "
        f"intervals {how['seed']}",
        "weights before": _weights(run),
        "data": f"folder {_data(run)}, {many(data['images'])}, fingerprint {data['fingerprint']}",
        "patients": "; ".join(told),
        "files": "recipe.json has every setting, records.csv every image and its side",
    }
