"""Where and why a model is wrong: single answers, the worst errors, confused classes, labels to doubt.

All but `top_k` work on the predictions table alone. The maps of what counted for an answer are in
`attribution` and can be had from here as well.

Taught in notebook 05.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from ..core.devices import Machine
from ..core.packages import needed
from ..data import loaders
from ..evaluation.metrics import who
from ..evaluation.predict import prepared
from ..evaluation.thresholds import classes_of
from ..models.build import probabilities
from ..models.prefix import eval_mode
from .attribution import grad_cam, occlusion, random_weights_check

__all__ = [
    "confused_pairs",
    "easiest",
    "grad_cam",
    "hardest",
    "most_confident_errors",
    "occlusion",
    "random_weights_check",
    "suspected_wrong_labels",
    "top_k",
    "with_file_properties",
    "worst_errors",
]
FILE_PROPERTIES = ("width", "height", "mode", "bytes", "brightness")


def top_k(
    model: nn.Module,
    image: Tensor | str | Path,
    classes: Sequence[str],
    k: int = 4,
    machine: Machine | None = None,
    **reading: object,
) -> pd.DataFrame:
    """The k likeliest classes of one image: class, probability, the likeliest first.

    image : uint8 (1 or 3, H, W), or a file, which `loaders.read_image` reads with `reading` (size, fit,
    channels: as in training). k : clipped to 1 ... number of classes. machine : None computes where the model
    lies.

    Raises ValueError where the model has another number of classes, `loaders.UnreadableImage` for a bad file.

    Taught in notebook 05.
    """
    image = image if isinstance(image, Tensor) else loaders.read_image(image, **reading)
    with eval_mode(model), torch.inference_mode():
        p = probabilities(model(prepared(model, image[None], machine)))[0].cpu().double()
    if len(p) != len(classes):
        raise ValueError(
            f"found {len(classes)} classes ({', '.join(classes)}) but the model answers with "
            f"{len(p)}; pass the classes of its run"
        )
    values, order = p.sort(descending=True, stable=True)
    table = pd.DataFrame({"class": [classes[i] for i in order], "probability": values.numpy()})
    return table.head(max(k, 1))


def worst_errors(predictions: pd.DataFrame, n: int = 12) -> pd.DataFrame:
    """The wrong answers with the highest loss: the truth seemed least probable. Taught in notebook 05."""
    return _wrong(predictions).nlargest(n, "loss").reset_index(drop=True)


def most_confident_errors(predictions: pd.DataFrame, n: int = 12) -> pd.DataFrame:
    """The wrong answers that the model was surest of, with their probability as `confidence`.

    Taught in notebook 05.
    """
    wrong, classes = _wrong(predictions), classes_of(predictions)
    scores = wrong[[f"p_{name}" for name in classes]].to_numpy(float)
    said = wrong["predicted"].map({name: i for i, name in enumerate(classes)}).to_numpy(int)
    confidence = scores[np.arange(len(wrong)), said]
    return wrong.assign(confidence=confidence).nlargest(n, "confidence").reset_index(drop=True)


def easiest(predictions: pd.DataFrame, n: int = 12) -> pd.DataFrame:
    """The images with the lowest loss. Taught in notebook 05."""
    return _labelled(predictions).nsmallest(n, "loss").reset_index(drop=True)


def hardest(predictions: pd.DataFrame, n: int = 12) -> pd.DataFrame:
    """The images with the highest loss, answered rightly or not. Taught in notebook 05."""
    return _labelled(predictions).nlargest(n, "loss").reset_index(drop=True)


def confused_pairs(predictions: pd.DataFrame) -> pd.DataFrame:
    """Which class is taken for which: true, predicted, n, share (of the true class), patients.

    Most images come first: ten errors of one patient are another problem than ten errors of ten.
    Taught in notebook 05.
    """
    wrong = _wrong(predictions).rename(columns={"label": "true"}).groupby(["true", "predicted"])
    pairs = wrong.agg(n=("path", "size"), patients=("patient", "nunique")).reset_index()
    of = _labelled(predictions)["label"].value_counts()
    pairs.insert(3, "share", pairs["n"] / pairs["true"].map(of))
    return pairs.sort_values("n", ascending=False, kind="stable").reset_index(drop=True)


def _labelled(predictions: pd.DataFrame) -> pd.DataFrame:
    known = predictions[predictions["label"].notna() & (predictions["label"] != "")]
    if known.empty:
        raise ValueError(
            f"none of the {len(predictions)} predictions has a label, so none can be right or "
            "wrong; pass predictions of labelled images"
        )
    return known


def _wrong(predictions: pd.DataFrame) -> pd.DataFrame:
    known = _labelled(predictions)
    return known[known["label"] != known["predicted"]]


def with_file_properties(predictions: pd.DataFrame, records: pd.DataFrame) -> pd.DataFrame:
    """Predictions with the width, height, mode, bytes (and brightness) of their files, for `evaluation.accuracy_by`.

    records : as after `records.inspect`, or `similar.perceptual_hashes` for brightness.
    Raises ValueError where it lacks those columns or an image.

    Taught in notebook 05.
    """
    columns = [name for name in FILE_PROPERTIES if name in records]
    if not columns:
        raise ValueError(
            f"the records have {', '.join(records)} and none of {', '.join(FILE_PROPERTIES)}; "
            "records.inspect adds them"
        )
    if lost := sorted(set(predictions["path"]) - set(records["path"])):
        raise ValueError(
            f"{len(lost)} of the predicted images are not in the records, e.g. {lost[0]}; pass "
            "the records of the same run"
        )
    return predictions.join(records.drop_duplicates("path").set_index("path")[columns], on="path")


KINDS = {"bacteria": "bacterial", "virus": "viral"}


def with_kind(predictions: pd.DataFrame) -> pd.DataFrame:
    """Predictions of chest X-rays with the `kind` that the file name tells: bacterial, viral, or the label itself.

    Taught in notebook 07.
    """
    told = predictions["path"].str.extract(r"(?i)(bacteria|virus)[^/]*$")[0].str.lower().map(KINDS)
    return predictions.assign(kind=told.fillna(predictions["label"]))


def out_of_fold(
    features: np.ndarray, records: pd.DataFrame, folds: int = 5, seed: int = 0
) -> pd.DataFrame:
    """What logistic regression on the frozen part's outputs says of each image, trained without its patient.

    Parameters
    ----------
    features : float (N, D), see `runs.frozen_features`. records : their N rows, in order.
    folds : of the cross-validation, by patient and stratified by class.

    Returns
    -------
    predictions table, split "fold 1"...; the loss of each image from the model that did not see it.

    Raises
    ------
    ValueError for fewer than two classes, or where a class has fewer patients than there are folds.

    Source: scikit-learn's StratifiedGroupKFold and LogisticRegression.

    Taught in notebook 05.
    """
    labels = records["label"].to_numpy()
    patients = who(records).to_numpy()
    classes, fewest = (
        np.unique(labels),
        records.assign(who=patients).groupby("label")["who"].nunique().min(),
    )
    if len(classes) < 2:
        raise ValueError(
            f"found {len(classes)} classes among {len(labels)} records; a classifier wants two or more"
        )
    if fewest < folds:
        raise ValueError(
            f"a class has {fewest} patients, too few for {folds} folds; take fewer folds"
        )
    scores, fold_of = np.zeros((len(labels), len(classes))), np.zeros(len(labels), int)
    dealt = StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(
        features, labels, patients
    )
    for fold, (known, new) in enumerate(dealt, 1):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
        scores[new], fold_of[new] = (
            model.fit(features[known], labels[known]).predict_proba(features[new]),
            fold,
        )
    true = scores[np.arange(len(labels)), np.searchsorted(classes, labels)]
    table = records[["path", "patient", "label"]].reset_index(drop=True)
    table.insert(0, "split", [f"fold {fold}" for fold in fold_of])
    table["predicted"] = classes[scores.argmax(1)]
    return table.join(pd.DataFrame(scores, columns=[f"p_{name}" for name in classes])).assign(
        loss=-np.log(np.maximum(true, np.finfo(float).tiny))
    )


def suspected_wrong_labels(predictions: pd.DataFrame, n: int | None = None) -> pd.DataFrame:
    """Images whose label the model contradicts so surely that one of the two is wrong.

    Parameters
    ----------
    predictions : of images that the model was not trained on: validation, test, or out of fold.
    n : at most so many.

    Returns
    -------
    Rows of predictions with `quality`, from 0 (surely mislabelled) to 1, the most doubtful first. A reading
    list for an expert, no reason to change a label. Source: Northcutt et al., Confident Learning, JAIR 2021.

    Raises
    ------
    ValueError without labels or with one class only; ImportError without cleanlab.

    Taught in notebook 05.
    """
    filtering, ranking = needed("cleanlab.filter", "cleanlab"), needed("cleanlab.rank", "cleanlab")
    known, names = _labelled(predictions), classes_of(predictions)
    occurring = [
        name for name in names if (known["label"] == name).any()
    ]  # cleanlab wants images of each
    scores = known[[f"p_{name}" for name in occurring]].to_numpy(float)
    scores = scores / np.maximum(scores.sum(1, keepdims=True), np.finfo(float).tiny)
    labels = known["label"].map({name: i for i, name in enumerate(occurring)}).to_numpy(int)
    if len(occurring) < 2:
        raise ValueError(
            f"all {len(known)} images are labelled {occurring[0]}; doubts need two classes"
        )
    worst = filtering.find_label_issues(
        labels, scores, return_indices_ranked_by="self_confidence", n_jobs=1
    )
    quality = ranking.get_label_quality_scores(labels, scores, method="self_confidence")
    return known.assign(quality=quality).iloc[worst[:n]].reset_index(drop=True)
