"""A finished run as one HTML page that can be sent to a colleague.

It reads the run's small files and the pictures of the worst errors, never a checkpoint, so a run
whose weights were left behind can be reported as well. The same run gives the same page.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from ..core import files
from ..core.images import UnreadableImage
from ..core.words import many
from ..data import loaders, records
from ..data.audit import audit_all
from ..evaluation import calibration, metrics, robustness, thresholds
from ..evaluation.metrics import denominator
from ..inspection import errors
from ..plots import of_results, of_training, style
from ..runs import openings
from ..runs.folder import REPORT, Run, as_this_version_writes
from . import caveats, facts
from .facts import SPLIT_NAMES, main_split
from .html import Html, chart, document, interval, number, picture, table, tag, text

_MEASURES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "mean F1",
    "auc": "AUC",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "ppv": "positive predictive value",
    "npv": "negative predictive value",
}
_NUMBERS = {
    "baseline": "accuracy of always giving the commonest answer",
    "threshold": "threshold in use",
    "top2": "true class among the likeliest two",
    "loss": "loss (nats an image)",
    "ece": "calibration error (ECE)",
    "brier": "Brier score (0 to 2)",
}
_ON_TOP = ("accuracy", "balanced_accuracy", "macro_f1", "auc")
_ON_TOP_OF_TWO_CLASSES = ("accuracy", "sensitivity", "specificity", "auc")
_ADAPTED = ("temperature", "accuracy", "balanced_accuracy", "ece")
_ADAPTED_OF_TWO_CLASSES = ("threshold", *_ADAPTED[:2], "sensitivity", "specificity", "ece")
_OF_A_CLASS = {"recall": "recall", "precision": "precision", "f1": "F1", "auc": "AUC"}
_OF_A_THRESHOLD = ("sensitivity", "specificity", "accuracy")
_RULES = {"one half": None, "Youden": "youden", "sensitivity of 95\u00a0%": "sensitivity>=0.95"}
_TONES = {"leak": "bad", "warning": "warning", "unknown": "warning", "ok": "good"}
_ERRORS, _PIXELS = 12, 240  # so many pictures of 240 x 240 keep the page well below 2 MB


def write(run: Run | str | Path, out: str | Path | None = None) -> Path:
    """Write the report of a finished run, whole or not at all.

    Parameters
    ----------
    run : Run, str or Path, of its folder; images that are no longer there are no error: the
        page says so
    out : str or Path, the file, which ends in .html; None writes <run>/report.html

    Returns
    -------
    Path, the file's

    Raises
    ------
    NotARun
        Where the folder holds no run or an unfinished one.
    ValueError
        Where its files are not what a run writes, and for a page of another ending, which might be
        somebody's table.
    """
    if out and Path(out).suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"the page would be {out}; give it a name that ends in .html")
    run = run if isinstance(run, Run) else Run.load(run)
    title = facts.title(run)
    with as_this_version_writes(run):
        with plt.rc_context():
            style.style()
            plt.rcParams["text.parse_math"] = False  # a class may be called $x^$
            sections = {name: body for name, body in _sections(run).items() if body}
        top = _top(run, title, list(sections))
    body = [
        tag("section", tag("h2", name), content, id=_id(name)) for name, content in sections.items()
    ]
    file = Path(out) if out else run.folder / REPORT
    files.write_text(file, document(title, top, body))
    return file


def _sections(run: Run) -> dict[str, Html | None]:
    """The page from top to bottom; None where a run has nothing to say to a title."""
    measured, predictions, audit = run.metrics, run.predictions, audit_all(run.records)
    part = predictions[predictions["split"] == main_split(measured)].reset_index(drop=True)
    # Broken at spaces only, as a browser would break after the first hyphen of --set.
    words = [text(tag("span", word), " ") for word in facts.command(run).split(" ")]
    others = _with_cells(run, facts.elsewhere(run))
    limits = caveats.of(run, audit, others.sets)
    found = [tag("li", tag("b", one.title), one.text) for one in limits]
    return {
        "Recipe": table(facts.recipe(run).items(), kind="facts"),
        "Data": _data(run, audit),
        "Training": _training(run),
        "Results": _results(measured),
        "Curves and calibration": _curves(measured, part),
        "Thresholds": _thresholds(run, measured, predictions),
        "Stress": _stress(run.stress),
        "Other images": _elsewhere(others),
        "Worst errors": _errors(run, part),
        "What this does not say": tag("ul", found, class_="caveats"),
        "Make it again": text(tag("pre", words), table(facts.made_with(run).items(), kind="facts")),
    }


def _id(name: str) -> str:
    return name.lower().replace(" ", "-")


def _top(run: Run, title: str, names: list[str]) -> Html:
    """What must be seen first: the verdict, what must be told beside it, four numbers."""
    found, (sentence, tone) = run.metrics[main_split(run.metrics)], facts.summary(run)
    began = f"Report of the run {run.folder.resolve().name}, begun {run.about['started'][:10]}"
    *remarks, (verdict, _) = run.remarks
    tones = [(note, "warning" if grave else "plain") for note, grave in remarks]
    tones.append((verdict, _leak_tone(run)))
    tiles = [
        tag(
            "div",
            _MEASURES[name] + (f" for {found['positive']}" if name == "sensitivity" else ""),
            tag("b", number(found[name]["value"])),
            tag("small", _ends(found[name])),
            interval(found[name]),
        )
        for name in (_ON_TOP_OF_TWO_CLASSES if "sensitivity" in found else _ON_TOP)
    ]
    return tag(
        "header",
        tag("small", began),
        tag("h1", title),
        tag("p", facts.made_for(run.recipe), class_="soft"),
        tag("p", sentence, class_=f"verdict {tone}"),
        tag("ul", [tag("li", note, class_=tone) for note, tone in tones], class_="notes"),
        tag("p", "Teaching and research software. Not a medical device.", class_="soft"),
        tag("div", tiles, class_="tiles"),
        tag("nav", [tag("a", name, href=f"#{_id(name)}") for name in names], aria_label="Sections"),
    )


def _leak_tone(run: Run) -> str:
    audit = run.about["audit"]
    unsure = audit.get("unsure", records.unknown_patient(run.records).all())
    return "bad" if audit["leak"] else "warning" if unsure else "good"


def _ends(value: dict) -> str:
    return "no interval" if value["low"] is None else f"{value['low']:.3f} to {value['high']:.3f}"


def _data(run: Run, audit: pd.DataFrame) -> Html:
    good = records.readable(run.records)
    used = good[good["split"] != ""]
    parts = {word: used[used["split"] == split] for split, word in SPLIT_NAMES.items()}
    parts = {word: part for word, part in parts.items() if len(part)} | {"all": used}
    rows = []
    for word, part in parts.items():
        each = [(part["label"] == name).sum() for name in run.classes]
        nobody = records.unknown_patient(part).all()
        patients = "unknown" if nobody else number(part["patient"].nunique())
        rows.append([word, *(number(int(n)) for n in (*each, len(part))), patients])
    broken, left = len(records.problems(run.records)), len(run.records) - len(used)
    causes = {"no whole image": broken, "another split knows it": left - broken}
    how = run.about["data"]["split"]
    sentence = [f"{how[:1].upper()}{how[1:]}."]
    sentence += [f"{many(n)} left out, as {why}." for why, n in causes.items() if n]
    return text(
        tag("p", " ".join(sentence)),
        table(rows, ["split", *run.classes, "images", "patients"], kind="counts"),
        tag("h3", "Audit"),
        tag("p", run.about["audit"]["verdict"], class_=f"mark {_leak_tone(run)}"),
        table(_findings(audit), ["looked for", "verdict", "found", "meaning"], kind="audit"),
    )


def _findings(audit: pd.DataFrame) -> list[list[object]]:
    """A row a finding, the gravest first, then one for each check that found nothing elsewhere."""
    found = [
        (row.check, row.splits, row.verdict, f"{row.found:,} of {row.of:,}", row.meaning)
        for verdict in ("leak", "warning")
        for row in audit[audit["verdict"] == verdict].itertuples()
    ]
    for verdict, how_many in (("unknown", "unknown"), ("ok", "none")):
        for check, rows in audit[audit["verdict"] == verdict].groupby("check", sort=False):
            meaning = rows["meaning"].iloc[0] if len(rows) == 1 else ""
            found.append((check, ", ".join(rows["splits"]), verdict, how_many, meaning))
    return [
        [
            text(check, tag("small", where)),
            tag("span", verdict, class_=f"mark {_TONES[verdict]}"),
            count,
            meaning,
        ]
        for check, where, verdict, count, meaning in found
    ]


def _training(run: Run) -> Html:
    sentence = facts.course(run)

    def draw() -> np.ndarray:
        # Narrow enough that the letters can be read on a telephone.
        axes = [plt.subplots(figsize=(5.2, 3.4), layout="constrained")[1] for _ in range(2)]
        axes = of_training.history(run.history, facts.kept_epoch(run), axes)
        style.add_caption(axes[1:], caption)
        return axes

    by = facts.by_likeliest(run.metrics[main_split(run.metrics)])
    caption = "" if by else "Accuracy: by the likeliest class, not by the threshold."
    through = " counted through from the head's" if "part" in run.history else ""
    shown = chart(draw, f"Loss, or accuracy, by epoch{through}. {sentence} {caption}")
    used = run.recipe
    apart = ["class weights"] * bool(used.class_weights)
    apart += ["label smoothing"] * bool(used.label_smoothing)
    apart += ["the focal factor"] * (used.loss == "focal")
    note = f"The losses drawn are with {' and '.join(apart)}; that of the results is without."
    return text(
        tag("p", sentence),
        tag("p", note, class_="soft") if apart else None,
        tag("div", shown, class_="charts"),
    )


def _results(measured: dict) -> Html:
    parts = {split: measured[split] for split in SPLIT_NAMES if split in measured}
    main, how = main_split(measured), measured["interval"]
    found, every = measured[main], [set(of) for of in parts.values()]
    names = {"n": "images", "patients": "patients", **_MEASURES, **_NUMBERS}
    rows = [
        [words, *(_measured(of[name]) for of in parts.values())]
        for name, words in names.items()
        if name in set.intersection(*every)
    ]
    method = f"{how['method']}, {how['repeats']:,} repeats."
    sentence = f"Intervals of {100 * how['level']:g}\u00a0%: {method}"
    sentence += f" Positive is {found['positive']}." if "positive" in found else ""
    count, each = openings.of(measured), []
    for name, of in found["per_class"].items():
        first = text(name, " ", tag("small", many(of["n"])))
        each.append([first, *(_measured(of[measure]) for measure in _OF_A_CLASS)])
    return text(
        table(rows, ["measure", *(SPLIT_NAMES[split] for split in parts)], sentence),
        tag("p", openings.in_words(count)) if count else None,
        tag("h3", f"Each class ({SPLIT_NAMES[main]})"),
        table(each, ["class", *_OF_A_CLASS.values()]),
    )


def _measured(value: object) -> Html:
    """A number; where it has an interval, with a drawing of it; a threshold on both scales."""
    if not isinstance(value, dict):
        return number(value)
    at = value.get("at_temperature")  # an adaptation's
    small = at and [" ", tag("small", f"at the temperature {at:.3f}")]
    return text(number(value), interval(value), small)


def _curves(measured: dict, part: pd.DataFrame) -> Html:
    """Confusion matrix, curves of each class that has images of it and of others, calibration."""
    found = measured[main_split(measured)]
    counts = pd.DataFrame(found["confusion"], found["classes"], found["classes"])
    names = [found["positive"]] if "positive" in found else found["classes"]
    names = [name for name in names if 0 < found["per_class"][name]["n"] < found["n"]]
    words = f"Confusion matrix, a row a true class: {found['confusion']}"
    shown = chart(lambda: of_results.confusion(counts), words)
    if names:
        areas = {name: found["per_class"][name]["auc"] for name in names}
        roc, pr = (
            {name: curve(part, name) for name in names} for curve in (thresholds.roc, thresholds.pr)
        )
        threshold, words = found.get("threshold"), "ROC curve: true against false positive rate"
        shown += chart(lambda: of_results.roc(roc, areas, threshold), words)
        shown += chart(lambda: of_results.pr(pr, threshold), "Precision against recall")
    bins, words = metrics.calibration_table(part), "How often answers of each probability are right"
    caption = (
        "" if facts.by_likeliest(found) else "Right: by the likeliest class, not by the threshold."
    )
    shown += chart(lambda: of_results.calibration(bins, caption=caption), f"{words}. {caption}")
    sentence = [f"Of {many(found['n'], f'{SPLIT_NAMES[main_split(measured)]} image')}."]
    sentence += [_temperature(measured, part)]
    if not names:
        sentence += ["ROC and precision-recall curves want images of more than one class."]
    return text([tag("p", line) for line in sentence if line], tag("div", shown, class_="charts"))


def _temperature(measured: dict, part: pd.DataFrame) -> str | None:
    """What the run's temperature, fitted on validation images, would do to the test images."""
    fitted = measured.get("temperature")
    if fitted is None or "test" not in measured:
        return None
    even = "above 1: it draws probabilities toward even ones" if fitted > 1 else "it changes none"
    side = "below 1: it draws probabilities toward 0 and 1" if fitted < 1 else even
    cooled = calibration.apply_temperature(part, fitted)
    return (
        f"The temperature that fits the validation images is {fitted:.3f} ({side}). It is not "
        "applied on this page; with it the calibration error (ECE) of the test images would be "
        f"{metrics.expected_calibration_error(cooled):.3f}."
    )


def _thresholds(run: Run, measured: dict, predictions: pd.DataFrame) -> Html | None:
    """Thresholds chosen on validation images, applied to test images; of two classes only."""
    if "sensitivity" not in measured[main_split(measured)]:
        return None
    val, test = (predictions[predictions["split"] == split] for split in ("val", "test"))
    own, both = run.recipe.threshold, val["label"].nunique() == 2
    if test.empty or not both:
        lacking = "This run lacks them, so one half is all there is."
        if own and both:
            under = ", under changes of acquisition" if thresholds.split_rule(own)[0] else ""
            lacking = (
                "This run has no test images: its threshold, "
                f"{measured['val']['threshold']:.3f} ({own}), is measured on the validation images "
                f"that it was chosen on{under}, so its numbers are too good."
            )
        return tag(
            "p",
            "A threshold is chosen on validation images of both classes and applied to test "
            f"images. {lacking}",
        )
    test, how, rows = test.reset_index(drop=True), measured["interval"], []
    chosen = {f"in use: {own}": measured["test"]["threshold"]} if own else {}
    for words, rule in _RULES.items():
        chosen[words] = thresholds.choose_threshold(val, rule) if rule else 0.5
    for words, threshold in chosen.items():
        found = metrics.compute_metrics(test, how["repeats"], how["seed"], threshold)
        rows.append([words, number(threshold), *(number(found[name]) for name in _OF_A_THRESHOLD)])
    sentence = (
        "Chosen on validation images, applied to test images; none was chosen on what it is "
        "measured on."
    )
    return table(
        rows, ["chosen by", "threshold", *(_MEASURES[n] for n in _OF_A_THRESHOLD)], sentence
    )


def _stress(found: pd.DataFrame | None) -> Html | None:
    """What changes of acquisition cost, where that was measured, and the five that cost most."""
    if found is None:
        return None
    before, *_ = rows = found.to_dict("records")
    seen = denominator(before, SPLIT_NAMES.get(before["split"], before["split"]))
    sentence = (
        f"The acquisition of {seen} was changed in "
        f"{many(len(rows) - 1, 'way')}, one at a time; the model answered as it does elsewhere. "
        "The changes stand for what another hospital may do; they are no other hospital."
    )
    worst = [
        tag("li", robustness.in_words(row)) for row in robustness.worst(found).to_dict("records")
    ]
    names = robustness.main_numbers(found)
    shown = [
        [row["words"], *(_measured(robustness.number_of(row, name)) for name in names)]
        for row in rows
    ]
    words = "Each change with its intervals, beside the unchanged images. The table has the numbers"
    return text(
        tag("p", sentence),
        tag("h3", "What costs most"),
        tag("ul", worst or tag("li", robustness.where_none_costs(found))),
        tag("div", chart(lambda: of_results.stress(found), words), class_="charts"),
        table(shown, ["change", *(_MEASURES[name] for name in names)]),
    )


def _with_cells(run: Run, others: facts.Elsewhere) -> facts.Elsewhere:
    """The same, each with the cells of its rows; a file that holds anything else is left out."""
    two = len(run.classes) == 2
    names = {
        "evaluations": _ON_TOP_OF_TWO_CLASSES if two else _ON_TOP,
        "adaptations": _ADAPTED_OF_TWO_CLASSES if two else _ADAPTED,
    }
    kept, left_out = {"evaluations": [], "adaptations": []}, list(others.left_out)
    for kind, found in kept.items():
        for one in getattr(others, kind):
            try:
                cells = [_cells(row, names[kind]) for row in one["rows"]]
            except facts.DAMAGE:
                left_out.append(facts.damaged(one["file"]))
            else:
                found.append(one | {"cells": cells})
    return facts.Elsewhere(**kept, left_out=left_out)


def _cells(row: dict, names: Sequence[str]) -> dict[str, Html | str]:
    """By the head of their columns."""
    small = [" ", tag("small", ", ".join(row["told"]))] if row["told"] else None
    images = {"images": row["images"]} if "images" in row else {}
    numbers = {name: row["numbers"][name] for name in names}
    heads = {**_MEASURES, **_NUMBERS, "threshold": "threshold", "temperature": "temperature"}
    measured = {
        heads[name]: number(of) if name == "temperature" else _measured(of)
        for name, of in numbers.items()
    }
    return {"data": text(row["name"], small), **images, **measured}


def _elsewhere(others: facts.Elsewhere) -> Html | None:
    """What was measured on other images, and what was chosen for their places, if any was."""
    shown = []
    if rows := [row for one in others.evaluations for row in one["cells"]]:
        shown.append(table([row.values() for row in rows], [*rows[0]]))
    if rows := [row for one in others.adaptations for row in one["cells"]]:
        sentence = "Adapted: each patient judged by what was chosen on others."
        by_threshold = " Answers go by the threshold at the temperature."
        sentence += by_threshold if "threshold" in rows[0] else ""
        shown += [
            tag("h3", "Adaptations"),
            table([row.values() for row in rows], [*rows[0]], sentence),
            *(tag("p", f"{one['name']}: {one['words']}") for one in others.adaptations),
        ]
    shown += [tag("p", line, class_="mark warning") for line in others.left_out]
    return text(shown) or None


def _errors(run: Run, part: pd.DataFrame) -> Html:
    wrong, worst = part[part["label"] != part["predicted"]], errors.worst_errors(part, _ERRORS)
    if worst.empty:
        return tag("p", f"None of {many(len(part))} was answered wrongly.")
    tiles, lost = zip(*(_tile(run, row) for row in worst.to_dict("records")))
    shown = "It is shown"
    if len(wrong) > 1:
        shown = f"The {len(worst)} whose true class seemed least probable are shown"
    sentence = (
        f"{len(wrong):,} of {many(len(part))} {'was' if len(wrong) == 1 else 'were'} answered "
        f"wrongly, of {many(wrong['patient'].nunique(), 'patient')}. {shown} as true → predicted, "
        "with the probabilities of both."
    )
    note = (
        f"{sum(lost)} of {many(len(worst), 'picture')} could not be read from the folder "
        f"{run.root.name}: moved, changed or removed since."
    )
    return text(
        tag("p", sentence),
        tag("p", note, class_="mark warning") if any(lost) else None,
        tag("div", tiles, class_="gallery"),
    )


def _tile(run: Run, row: dict) -> tuple[Html, bool]:
    """One wrong answer with its picture, in its own shape; and whether the picture is lost."""
    words = f"{row['label']} → {row['predicted']}"
    try:
        reading = {**run.recipe.reading(), "size": _PIXELS, "resize": "pad"}
        pixels = loaders.read_image(run.root / row["path"], **reading).numpy()
        shape = pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1)
        shown, lost = picture(shape, words), False
    except UnreadableImage:
        shown, lost = tag("div", "no picture", class_="missing"), True
    truth, answer = row[f"p_{row['label']}"], row[f"p_{row['predicted']}"]
    told = f"truth {truth:.3f}, answer {answer:.3f}"
    told += ", answered by the threshold" if answer < truth else ""
    below = tag("figcaption", words, tag("small", told), tag("small", row["path"]))
    return tag("figure", shown, below), lost
