"""What a run was, in words and plain values: its verdict, its recipe, its command, what it was made with."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pandas as pd

from ..data import division, records
from ..evaluation import comparison
from ..models.build import build, count
from ..runs.folder import Run
from ..runs.recipes import RECIPES, Recipe
from ..training import monitors

SPLITS = {"train": "training", "val": "validation", "test": "test"}
FROZEN = {"all": "all but the new head", "none": "nothing"}


def percent(share: float) -> str:
    """A share for a reader: 0.4474 -> "44.7 %", the two never parted at a line's end."""
    return f"{100 * share:.1f}\u00a0%"


def images(n: int, kind: str = "") -> str:
    """ "1 image", "38 test images"."""
    return f"{n:,} {kind}{' ' * bool(kind)}image{'' if n == 1 else 's'}"


def main_split(metrics: dict) -> str:
    """The split that a run's headline is about: test where it has one, else validation."""
    return "test" if "test" in metrics else "val"


def is_phantom(run: Run) -> bool:
    """Whether the images are drawings."""
    return any(note.startswith("phantom") for note in run.about["notes"])


def kept_epoch(run: Run) -> int:
    """The epoch whose weights the run kept: the best by its monitor; the last where it had no validation."""
    history, recipe = run.history, run.recipe
    if history["val_loss"].isna().all():
        return int(history["epoch"].iloc[-1])
    part_of = history["part"] if "part" in history else pd.Series("all", history.index)
    best = [
        _best(part.to_dict("records"), recipe.monitor, recipe.min_delta)
        for _, part in history.groupby(part_of, sort=False)
    ]
    return int(
        _best(best[::-1], recipe.monitor, 0.0)["epoch"]
    )  # of parts that are equally good the later was kept


def _best(rows: list[dict], monitor: str, margin: float) -> dict:
    """The epoch that no later one of a history beats by more than the margin."""
    best = rows[0]
    for row in rows[1:]:
        best = row if monitors.beats(row, best, monitor, margin) else best
    return best


def over_seeds(run: Run) -> pd.Series | None:
    """Accuracy over the run and its further seeds (`runs.train_seeds`): mean, sd, min, max, runs; or None."""
    found = [Run.load(path.parent).metrics for path in sorted(run.folder.glob("seed-*/metrics.json"))]
    split = main_split(run.metrics)
    return (
        comparison.over_seeds([one[split] for one in (run.metrics, *found)]).loc["accuracy"]
        if found
        else None
    )


def summary(run: Run) -> tuple[str, str]:
    """The result in a few sentences, and its tone: "good", "warning" or "bad"."""
    metrics = run.metrics
    split = main_split(metrics)
    found, at, base = metrics[split], metrics[split]["accuracy"], metrics[split]["baseline"]
    how = (
        "better than"
        if at["low"] > base
        else "worse than"
        if at["high"] < base
        else "not shown to be better than"
    )
    said = [
        f"The model answered {percent(at['value'])} of {images(found['n'], SPLITS[split])} of "
        f"{found['patients']:,} patients rightly; the {100 * found['level']:g}\u00a0% interval is "
        f"{percent(at['low'])} to {percent(at['high'])}.",
        f"That is {how} always giving the commonest answer ({percent(base)}).",
    ]
    seeds, hollow, leak = (
        over_seeds(run),
        is_phantom(run) or run.weights == "random",
        run.about["audit"]["leak"],
    )
    if seeds is not None:
        said.append(
            f"With {int(seeds['runs'])} seeds it was {percent(seeds['min'])} to {percent(seeds['max'])}, "
            f"{percent(seeds['mean'])} on average."
        )
    if hollow:
        said.append(
            "The images are drawings, so it shows that the steps work and nothing about patients."
            if is_phantom(run)
            else "The network began with random weights, so it says nothing about transfer learning."
        )
    if leak:
        said.append("The splits leak, so the number is too good.")
    return " ".join(
        said
    ), "bad" if leak else "good" if how == "better than" and not hollow else "warning"


def recipe(run: Run) -> dict[str, str]:
    """What was trained and how: a name and a phrase for each part."""
    return {**_network(run), **_course(run.recipe), "changed": _in_words(changed(run.recipe))}


def _network(run: Run) -> dict[str, str]:
    used, n = run.recipe, len(run.classes)
    model = build(
        **used.model_arguments(n), weights="random", device="meta"
    )  # shapes alone, no memory
    counted = count(model)
    share = 100 * counted["trainable"] / counted["total"]
    return {
        "network": f"{used.backbone} with head {used.head}, for {', '.join(run.classes)}",
        "weights before": weights(run),
        "trained": f"{counted['trainable']:,} of {counted['total']:,} parameters ({share:.3g}\u00a0%)",
        "frozen": FROZEN.get(used.freeze, used.freeze),
    }


def _course(used: Recipe) -> dict[str, str]:
    momentum = used.momentum if used.optimizer == "sgd" else 0
    stop = f"; stops after {used.patience} without a better one" if used.patience else ""
    kind = "grey" if used.channels == 1 else "color"
    return {
        "loss": _listed(
            used.loss.replace("_", " "),
            class_weights=used.class_weights,
            label_smoothing=used.label_smoothing,
        ),
        "optimizer": _listed(
            used.optimizer,
            learning_rate=used.learning_rate,
            schedule=used.schedule,
            momentum=momentum,
            weight_decay=used.weight_decay,
            head_epochs=used.head_epochs,
        ),
        "epochs": f"at most {used.epochs}, the best by {used.monitor} is kept{stop}",
        "batches": f"{used.batch_size} images{', all classes drawn equally often' if used.balanced else ''}",
        "images": f"{used.size} × {used.size} pixels, {used.resize}, {kind}",
        "augmentation": _augmentation(used),
    }


def _listed(first: str, **more: object) -> str:
    """The first, and those of the others that are set: "sgd, momentum 0.9"."""
    return ", ".join(
        [first] + [f"{name.replace('_', ' ')} {value}" for name, value in more.items() if value]
    )


def _augmentation(used: Recipe) -> str:
    plain = vars(type(used.augmentation)())
    turned = [
        f"{name} {_typed(value)}"
        for name, value in vars(used.augmentation).items()
        if _plain(value) != _plain(plain[name])
    ]
    views = (
        f"{used.views} view{'s' * (used.views > 1)} of each image"
        if used.views
        else "a new view every epoch"
    )
    return f"{', '.join(turned)}; {views}" if turned else "none"


def _in_words(changes: dict | None) -> str:
    if changes is None:
        return "there is no named recipe to compare it with"
    return (
        ", ".join(f"{name} = {_typed(value)}" for name, value in changes.items())
        or "nothing of the named recipe"
    )


def changed(used: Recipe) -> dict[str, object] | None:
    """What differs from the recipe of that name, "augmentation.flip" too; None where there is no such name."""
    if used.name not in RECIPES:
        return None
    now, then = _flat(used), _flat(RECIPES[used.name])
    return {name: value for name, value in now.items() if name != "title" and value != then[name]}


def _flat(used: Recipe) -> dict[str, object]:
    fields = _plain(used.to_dict())
    inner = fields.pop("augmentation")
    return {**fields, **{f"augmentation.{name}": value for name, value in inner.items()}}


def _plain(value: object) -> object:
    return json.loads(json.dumps(value))


def _typed(value: object) -> str:
    """A value as --set takes it."""
    return f"({', '.join(map(str, value))})" if isinstance(value, (list, tuple)) else str(value)


def weights(run: Run) -> str:
    """What the network began with."""
    about = run.about["weights"]
    if run.weights == "random":
        return "drawn at random, no pretraining"
    named = Path(about.get("file") or run.weights).name
    return f"{named}, sha256 {about['sha256']}" if about.get("sha256") else named


def command(run: Run) -> str:
    """The command that makes the run again, begun where it was begun; its data and weights are those asked for then.

    A recipe without a name that tlutils knows comes back from the run's folder, in Python.
    """
    name, data, limit, fields = (
        run.folder.resolve().name,
        run.about["data"],
        run.about["limit"],
        changed(run.recipe),
    )
    patient, precision = data.get("patient", "auto"), run.about["machine"]["precision"]
    if fields is None:
        return (
            "from tlutils.runs.folder import Run\nfrom tlutils.runs.train import train\n"
            f"train(Run.load({str(run.folder)!r}).recipe, {data['requested']!r}, "
            f"{name + '-again'!r}, weights={run.weights!r}, limit={limit}, patient={patient!r}, "
            f"precision={precision!r})"
        )
    words = ["python", "-m", "tlutils", "train", run.recipe.name]
    words += (
        _option("data", data["requested"])
        + _option("out", f"{name}-again")
        + _option("weights", run.weights)
    )
    words += _option("limit", limit) if limit else []
    words += _option("patient", "none" if patient is None else patient) if patient != "auto" else []
    words += ["--precision", precision]
    words += [
        word for field, value in fields.items() for word in ("--set", f"{field}={_typed(value)}")
    ]
    return shlex.join(words)


def _option(name: str, value: object) -> list[str]:
    """A command's words; a value that begins with - would be taken for an option of its own."""
    return [f"--{name}={value}"] if str(value).startswith("-") else [f"--{name}", str(value)]


def made_with(run: Run) -> dict[str, str]:
    """Versions, machine, seeds, weights and data, by name."""
    machine, data, how = run.about["machine"], run.about["data"], run.metrics["interval"]
    told = records.with_patients(run.records)["patient"].eq(run.records["patient"]).all()
    return {
        "versions": ", ".join(
            f"{name} {version}" for name, version in run.about["versions"].items()
        ),
        "machine": f"{machine['device']} ({machine['name']}) in {machine['precision']}, "
        f"processes: {machine['processes']}",
        "seeds": f"training {run.recipe.seed}, division {division.seed_of(run.recipe)}, intervals {how['seed']}",
        "weights before": weights(run),
        "data": f"folder {run.root.name}, {images(data['images'])}, fingerprint {data['fingerprint']}",
        "patients": "told by the file names"
        if told
        else "told by a manifest or a pattern (--patient)",
        "files": "recipe.json has every setting, records.csv every image and its side",
    }
