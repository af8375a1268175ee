"""A finished run as one HTML page that can be sent to a colleague: pictures inside, no network, no script.

It reads the run's small files and the pictures of the worst errors, never a checkpoint, so a run whose weights
were left behind can be reported as well. The same run gives the same page.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from ..core import files
from ..core.images import UnreadableImage
from ..data import loaders, splits
from ..data.audit import NEEDED, audit_rows, measure_shortcuts
from ..data.records import problems
from ..evaluation import calibration, thresholds
from ..evaluation.metrics import (
    calibration_table,
    compute_metrics,
    expected_calibration_error,
)
from ..inspection import errors
from ..plots import of_results, of_training
from ..plots.style import style
from ..runs.folder import Run
from . import caveats, facts
from .facts import SPLITS, images, main_split
from .html import Html, chart, document, number, picture, span, table, tag, text

MEASURES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "mean F1",
    "auc": "AUC",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "ppv": "positive predictive value",
    "npv": "negative predictive value",
}
SINGLE = {
    "baseline": "accuracy of always giving the commonest answer",
    "threshold": "threshold in use",
    "top2": "true class among the likeliest two",
    "loss": "loss (nats an image)",
    "ece": "calibration error (ECE)",
    "brier": "Brier score (0 to 2)",
}
TILES = {
    True: ("accuracy", "sensitivity", "specificity", "auc"),
    False: ("accuracy", "balanced_accuracy", "macro_f1", "auc"),
}
OF_A_CLASS = {"recall": "recall", "precision": "precision", "f1": "F1", "auc": "AUC"}
RULES = {"one half": None, "Youden": "youden", "sensitivity of 95\u00a0%": "sensitivity>=0.95"}
TONES = {"leak": "bad", "warning": "warning", "ok": "good"}
ERRORS, PIXELS = 12, 240  # so many pictures of 240 x 240 keep the page well below 2 MB


def write(run: Run | str | Path, out: str | Path | None = None) -> Path:
    """Write the report of a finished run.

    Parameters
    ----------
    run : a Run or its folder. out : the file; None writes <run>/report.html.

    Returns
    -------
    The file's path. It is written whole or not at all.

    Raises
    ------
    NotARun where the folder holds no run or an unfinished one, ValueError where its files are not what a run writes.
    Images that are no longer there are no error: the page shows their places and says so.
    """
    run = run if isinstance(run, Run) else Run.load(run)
    try:
        return _written(run, out)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(
            f"the files of {run.folder} are not what a run of this version writes "
            f"({type(error).__name__}: {error}). Take them from a copy of the run, or train it again"
        ) from error


def _written(run: Run, out: str | Path | None) -> Path:
    with plt.rc_context():
        style()
        plt.rcParams["text.parse_math"] = False  # a class may be called $x^$
        sections = {name: body for name, body in _sections(run).items() if body}
    body = [
        tag("section", tag("h2", name), content, id=_id(name)) for name, content in sections.items()
    ]
    file = Path(out) if out else run.folder / "report.html"
    title = f"{run.recipe.name} on {run.root.name}"
    files.write_text(file, document(title, _top(run, title, list(sections)), body))
    return file


def _sections(run: Run) -> dict[str, Html | None]:
    """The page from top to bottom; None where a run has nothing to say to a title."""
    metrics, predictions, audit = run.metrics, run.predictions, _audit(run.records)
    part = predictions[predictions["split"] == main_split(metrics)].reset_index(drop=True)
    return {
        "Recipe": table(facts.recipe(run).items(), kind="facts"),
        "Data": _data(run, audit),
        "Training": _training(run),
        "Results": _results(metrics),
        "Curves and calibration": _curves(metrics, part),
        "Thresholds": _thresholds(metrics, predictions),
        "Worst errors": _errors(run, part),
        "What this does not say": _limits(caveats.of(run, audit)),
        "Make it again": text(
            _code(facts.command(run)), table(facts.made_with(run).items(), kind="facts")
        ),
    }


def _code(line: str) -> Html:
    """Broken at spaces only, as a browser would break after the first hyphen of --set."""
    return tag("pre", *(text(tag("span", word), " ") for word in line.split(" ")))


def _id(name: str) -> str:
    return name.lower().replace(" ", "-")


def _audit(records: pd.DataFrame) -> pd.DataFrame:
    """What the splits share, and what the files alone tell of the label."""
    parts = [splits.audit(records)]
    if set(NEEDED) <= set(records):
        parts.append(audit_rows(measure_shortcuts(records)))
    return pd.concat([part for part in parts if len(part)], ignore_index=True)


def _top(run: Run, title: str, names: list[str]) -> Html:
    """What must be seen first: the verdict, what must be said beside it, four numbers."""
    found, (said, tone) = run.metrics[main_split(run.metrics)], facts.summary(run)
    began = f"Report of the run {run.folder.resolve().name}, begun {run.about['started'][:10]}"
    tiles = [
        tag(
            "div",
            MEASURES[name],
            tag("b", number(found[name]["value"])),
            tag("small", _ends(found[name])),
            span(found[name]),
        )
        for name in TILES["sensitivity" in found]
    ]
    return tag(
        "header",
        tag("small", began),
        tag("h1", title),
        tag("p", run.recipe.title, class_="soft"),
        tag("p", said, class_=f"verdict {tone}"),
        tag("ul", [tag("li", note, class_=tone) for note, tone in _notes(run)], class_="notes"),
        tag("p", "Teaching and research software. Not a medical device.", class_="soft"),
        tag("div", tiles, class_="tiles"),
        tag("nav", [tag("a", name, href=f"#{_id(name)}") for name in names], aria_label="Sections"),
    )


def _notes(run: Run) -> list[tuple[str, str]]:
    """What must be said beside every result, each with its tone; the last is the audit's verdict."""
    *notes, verdict = run.about["notes"]
    tones = [
        (note, "warning" if note.startswith(("phantom", "random")) else "plain") for note in notes
    ]
    return [*tones, (verdict, _leak_tone(run))]


def _leak_tone(run: Run) -> str:
    return "bad" if run.about["audit"]["leak"] else "good"


def _ends(value: dict) -> str:
    return "no interval" if value["low"] is None else f"{value['low']:.3f} to {value['high']:.3f}"


def _data(run: Run, audit: pd.DataFrame) -> Html:
    used = run.records[(run.records["problem"] == "") & (run.records["split"] != "")]
    parts = {
        word: used[used["split"] == split]
        for split, word in SPLITS.items()
        if split in set(used["split"])
    }
    rows = [[word, *_counted(part, run.classes)] for word, part in (parts | {"all": used}).items()]
    broken, left = len(problems(run.records)), len(run.records) - len(used)
    how, causes = (
        run.about["data"]["split"],
        {"no whole image": broken, "another split knows it": left - broken},
    )
    said = [
        f"{how[:1].upper()}{how[1:]}.",
        *(f"{images(n)} left out, as {why}." for why, n in causes.items() if n),
    ]
    return text(
        tag("p", " ".join(said)),
        table(rows, ["split", *run.classes, "images", "patients"], kind="counts"),
        tag("h3", "Audit"),
        tag("p", run.about["audit"]["verdict"], class_=f"mark {_leak_tone(run)}"),
        table(_findings(audit), ["looked for", "verdict", "found", "meaning"], kind="audit"),
    )


def _counted(part: pd.DataFrame, classes: list[str]) -> list[Html]:
    n = [*((part["label"] == name).sum() for name in classes), len(part), part["patient"].nunique()]
    return [number(int(many)) for many in n]


def _findings(audit: pd.DataFrame) -> list[list[object]]:
    """A row a finding, the gravest first, then one for each check that found nothing elsewhere."""
    bad = [
        (row.check, row.splits, row.verdict, f"{row.found:,} of {row.of:,}", row.meaning)
        for tone in ("leak", "warning")
        for row in audit[audit["verdict"] == tone].itertuples()
    ]
    fine = [
        (
            check,
            ", ".join(rows["splits"]),
            "ok",
            "none",
            rows["meaning"].iloc[0] if len(rows) == 1 else "",
        )
        for check, rows in audit[audit["verdict"] == "ok"].groupby("check", sort=False)
    ]
    return [
        [
            text(check, tag("small", where)),
            tag("span", tone, class_=f"mark {TONES[tone]}"),
            many,
            meaning,
        ]
        for check, where, tone, many, meaning in bad + fine
    ]


def _training(run: Run) -> Html:
    history, kept, n = run.history, facts.kept_epoch(run), len(run.history)
    how = (
        f"the best by {run.recipe.monitor}"
        if history["val_loss"].notna().any()
        else "the last, as there was no validation"
    )
    said = f"{n} epoch{'s' * (n > 1)} in {history['seconds'].sum():,.1f} s; epoch {kept} was kept, {how}."

    def draw() -> list:
        return of_training.history(history, kept, [_axes(), _axes()])

    shown = chart(draw, f"Loss, or accuracy, by epoch. {said}")
    return text(tag("p", said), tag("div", shown, class_="charts"))


def _axes() -> plt.Axes:
    """Narrow enough that its letters can be read on a telephone."""
    return plt.subplots(figsize=(5.2, 3.4), layout="constrained")[1]


def _results(metrics: dict) -> Html:
    parts = {split: metrics[split] for split in SPLITS if split in metrics}
    known = {
        name: words
        for name, words in (MEASURES | SINGLE).items()
        if all(name in of for of in parts.values())
    }
    rows = [
        [words, *(_measured(of[name]) for of in parts.values())]
        for name, words in {"n": "images", "patients": "patients", **known}.items()
    ]
    main, how = main_split(metrics), metrics["interval"]
    found = metrics[main]
    said = (
        f"Intervals of {100 * how['level']:g}\u00a0%: {how['method']}, {how['repeats']:,} repeats."
    )
    said += f" Positive is {found['positive']}." if "positive" in found else ""
    each = [
        [
            text(name, " ", tag("small", images(of["n"]))),
            *(_measured(of[measure]) for measure in OF_A_CLASS),
        ]
        for name, of in found["per_class"].items()
    ]
    return text(
        table(rows, ["measure", *(SPLITS[split] for split in parts)], said),
        tag("h3", f"Each class ({SPLITS[main]})"),
        table(each, ["class", *OF_A_CLASS.values()]),
    )


def _measured(value: object) -> Html:
    """A number; where it has an interval, with a drawing of it."""
    return text(number(value), span(value) if isinstance(value, dict) else None)


def _curves(metrics: dict, part: pd.DataFrame) -> Html:
    """Confusion matrix, the curves of each class that has images of it and of others, and calibration."""
    found = metrics[main_split(metrics)]
    counts = pd.DataFrame(found["confusion"], found["classes"], found["classes"])
    asked = [found["positive"]] if "positive" in found else found["classes"]
    asked = [name for name in asked if 0 < found["per_class"][name]["n"] < found["n"]]
    shown = chart(
        lambda: of_results.confusion(counts),
        f"Confusion matrix, a row a true class: {found['confusion']}",
    )
    shown += _roc_and_pr(found, part, asked) if asked else []
    shown += chart(
        lambda: of_results.calibration(calibration_table(part)),
        "How often answers of each probability are right",
    )
    said = [f"Of {images(found['n'], SPLITS[main_split(metrics)])}.", _temperature(metrics, part)]
    said += [] if asked else ["ROC and precision-recall curves want images of more than one class."]
    return text([tag("p", words) for words in said if words], tag("div", shown, class_="charts"))


def _roc_and_pr(found: dict, part: pd.DataFrame, asked: list[str]) -> list[Html]:
    areas, threshold = (
        {name: found["per_class"][name]["auc"] for name in asked},
        found.get("threshold"),
    )
    roc, pr = (
        {name: curve(part, name) for name in asked} for curve in (thresholds.roc, thresholds.pr)
    )
    return [
        *chart(
            lambda: of_results.roc(roc, areas, threshold),
            "ROC curve: true against false positive rate",
        ),
        *chart(lambda: of_results.pr(pr, threshold=threshold), "Precision against recall"),
    ]


def _temperature(metrics: dict, part: pd.DataFrame) -> str | None:
    """What the run's temperature, fitted on its validation images, would do to the test images."""
    fitted = metrics.get("temperature")
    if fitted is None or "test" not in metrics:
        return None
    side = (
        "above 1: the model is too sure"
        if fitted > 1
        else "below 1: the model is not sure enough"
        if fitted < 1
        else "1 changes nothing"
    )
    then = expected_calibration_error(calibration.apply_temperature(part, fitted))
    return (
        f"The temperature that fits the validation images is {fitted:.3f} ({side}). It is not applied on this page; "
        f"with it the calibration error (ECE) of the test images would be {then:.3f}."
    )


def _thresholds(metrics: dict, predictions: pd.DataFrame) -> Html | None:
    """Thresholds chosen on validation images, applied to test images; None for more than two classes."""
    if "sensitivity" not in metrics[main_split(metrics)]:
        return None
    val, test = (predictions[predictions["split"] == split] for split in ("val", "test"))
    if test.empty or val["label"].nunique() < 2:
        return tag(
            "p",
            "A threshold is chosen on validation images of both classes and applied to test images. "
            "This run lacks them, so one half is all there is.",
        )
    names, how, rows = ("sensitivity", "specificity", "accuracy"), metrics["interval"], []
    for words, rule in RULES.items():
        threshold = thresholds.choose_threshold(val, rule) if rule else 0.5
        found = compute_metrics(test.reset_index(drop=True), how["repeats"], how["seed"], threshold)
        rows.append([words, number(threshold), *(number(found[name]) for name in names)])
    said = "Chosen on validation images, applied to test images; none was chosen on what it is measured on."
    return table(rows, ["chosen by", "threshold", *(MEASURES[name] for name in names)], said)


def _errors(run: Run, part: pd.DataFrame) -> Html:
    wrong, worst = part[part["label"] != part["predicted"]], errors.worst_errors(part, ERRORS)
    if worst.empty:
        return tag("p", f"None of {images(len(part))} was answered wrongly.")
    tiles, lost = zip(*(_tile(run, row) for row in worst.to_dict("records")))
    said = (
        f"{len(wrong):,} of {images(len(part))} were answered wrongly, of {wrong['patient'].nunique():,} "
        f"patients. Here are the {len(worst)} whose true class seemed least probable, as true → predicted with "
        "the probabilities of both."
    )
    note = (
        f"{sum(lost)} of the {len(worst)} pictures could not be read from the folder {run.root.name}: they were "
        "moved, changed or removed since."
    )
    return text(
        tag("p", said),
        tag("p", note, class_="mark warning") if any(lost) else None,
        tag("div", tiles, class_="gallery"),
    )


def _tile(run: Run, row: dict) -> tuple[Html, bool]:
    """One wrong answer with its picture, in its own shape; and whether the picture is lost."""
    words = f"{row['label']} → {row['predicted']}"
    try:
        pixels = loaders.read_image(
            run.root / row["path"], PIXELS, "pad", run.recipe.channels
        ).numpy()
        shown, lost = (
            picture(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1), words),
            False,
        )
    except UnreadableImage:
        shown, lost = tag("div", "no picture", class_="missing"), True
    told = f"truth {row['p_' + row['label']]:.3f}, answer {row['p_' + row['predicted']]:.3f}"
    return tag(
        "figure", shown, tag("figcaption", words, tag("small", told), tag("small", row["path"]))
    ), lost


def _limits(found: list[caveats.Limit]) -> Html:
    return tag(
        "ul", [tag("li", tag("b", limit.title), limit.text) for limit in found], class_="limits"
    )
