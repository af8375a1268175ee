"""Where a model is wrong: single answers, the worst errors, confused classes, labels to doubt.

All work on the predictions table; `top_k` and `out_of_fold` need a model or its features instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.decomposition import KernelPCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from ..core.packages import needed
from ..core.words import many
from ..data import loaders
from ..evaluation.metrics import patients_of
from ..evaluation.thresholds import classes_of, scores_of
from ..models.build import prepared, probabilities
from ..models.prefix import eval_mode

_FILE_PROPERTIES = ("width", "height", "mode", "bytes", "brightness", "wedge")
_TINY = np.finfo(float).tiny


def top_k(
    model: nn.Module,
    image: Tensor | str | Path,
    classes: Sequence[str],
    k: int = 4,
    **reading: object,
) -> pd.DataFrame:
    """The likeliest classes of one image.

    Parameters
    ----------
    model : nn.Module
    image : Tensor, uint8 (1 or 3, H, W), or a file
    classes : list of str, in index order
    k : int, clipped to 1 ... number of classes
    **reading : how `loaders.read_image` is to read a file (size, resize, channels: as in training)

    Returns
    -------
    DataFrame of class, probability, the likeliest first

    Raises
    ------
    ValueError
        Where the model has another number of classes.
    """
    image = image if isinstance(image, Tensor) else loaders.read_image(image, **reading)
    with eval_mode(model), torch.inference_mode():
        p = probabilities(model(prepared(model, image[None])))[0].cpu().double()
    if len(p) != len(classes):
        raise ValueError(
            f"found {many(len(classes), 'class', 'classes')} ({', '.join(classes)}) but the model "
            f"answers with {len(p)}; pass the classes of its run"
        )
    values, order = p.sort(descending=True, stable=True)
    table = pd.DataFrame({"class": [classes[i] for i in order], "probability": values.numpy()})
    return table.head(max(k, 1))


def worst_errors(predictions: pd.DataFrame, n: int = 12) -> pd.DataFrame:
    """The wrong answers with the highest loss: the truth seemed least probable.

    Parameters
    ----------
    predictions : DataFrame
    n : int, at most so many

    Returns
    -------
    DataFrame, rows of predictions
    """
    return _wrong(predictions).nlargest(n, "loss").reset_index(drop=True)


def most_confident_errors(predictions: pd.DataFrame, n: int = 12) -> pd.DataFrame:
    """The wrong answers that the model was surest of.

    Parameters
    ----------
    predictions : DataFrame
    n : int, at most so many

    Returns
    -------
    DataFrame, rows of predictions with the answer's probability as `confidence`
    """
    wrong = _wrong(predictions)
    index = {name: i for i, name in enumerate(classes_of(predictions))}
    answer = wrong["predicted"].map(index).to_numpy(int)
    confidence = scores_of(wrong)[np.arange(len(wrong)), answer]
    return wrong.assign(confidence=confidence).nlargest(n, "confidence").reset_index(drop=True)


def easiest(predictions: pd.DataFrame, n: int = 12) -> pd.DataFrame:
    """The images with the lowest loss.

    Parameters
    ----------
    predictions : DataFrame
    n : int, at most so many

    Returns
    -------
    DataFrame, rows of predictions
    """
    return _labelled(predictions).nsmallest(n, "loss").reset_index(drop=True)


def confused_pairs(predictions: pd.DataFrame) -> pd.DataFrame:
    """Which class is taken for which.

    Ten errors of one patient are another problem than ten errors of ten.

    Parameters
    ----------
    predictions : DataFrame

    Returns
    -------
    DataFrame of true, predicted, n, share (of the true class), patients; most images first

    Examples
    --------
    >>> table = pd.DataFrame({"path": list("abc"), "patient": list("112"), "label": ["A"] * 3,
    ...                       "predicted": ["B", "B", "A"]})
    >>> confused_pairs(table)[["true", "predicted", "n", "patients"]].values.tolist()
    [['A', 'B', 2, 1]]
    """
    wrong = _wrong(predictions).rename(columns={"label": "true"}).groupby(["true", "predicted"])
    pairs = wrong.agg(n=("path", "size"), patients=("patient", "nunique")).reset_index()
    of = _labelled(predictions)["label"].value_counts()
    pairs.insert(3, "share", pairs["n"] / pairs["true"].map(of).astype(float))
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
    """Predictions with the properties of their files, for `metrics.accuracy_by`.

    Parameters
    ----------
    predictions : DataFrame
    records : DataFrame, as after `records.inspect`, or `near_duplicates.look_at` for
        brightness and wedge

    Returns
    -------
    DataFrame, predictions with width, height, mode, bytes (and brightness and wedge)

    Raises
    ------
    ValueError
        Where records lack those columns, or an image.
    """
    columns = [name for name in _FILE_PROPERTIES if name in records]
    if not columns:
        raise ValueError(
            f"the records have {', '.join(records)} and none of {', '.join(_FILE_PROPERTIES)}; "
            "records.inspect adds them"
        )
    if lost := sorted(set(predictions["path"]) - set(records["path"])):
        raise ValueError(
            f"{len(lost)} of the predicted images are not in the records, e.g. {lost[0]}; pass "
            "the records of the same run"
        )
    return predictions.join(records.drop_duplicates("path").set_index("path")[columns], on="path")


def out_of_fold(
    features: np.ndarray, records: pd.DataFrame, folds: int = 5, seed: int = 0
) -> pd.DataFrame:
    """Predictions of each image by logistic regression trained without its patient.

    Parameters
    ----------
    features : ndarray, float (N, D), see `runs.use.frozen_features`
    records : DataFrame, their N rows, in order
    folds : int, of the cross-validation, by patient and stratified by class
    seed : int, of the folds

    Returns
    -------
    DataFrame
        Predictions table, split "fold 1"...; the loss of each image from the model that did not
        see it.

    Raises
    ------
    ValueError
        For fewer than two classes, or where a class has fewer patients than there are folds.
    """
    labels, patients = records["label"].to_numpy(), patients_of(records)
    classes, fewest = np.unique(labels), patients.groupby(labels).nunique().min()
    if len(classes) < 2:
        raise ValueError(
            f"found {many(len(classes), 'class', 'classes')} among {many(len(labels), 'record')}; "
            "a classifier wants two or more"
        )
    if fewest < folds:
        raise ValueError(
            f"a class has {many(fewest, 'patient')}, too few for {folds} folds; take fewer folds"
        )
    scores, fold_of = np.zeros((len(labels), len(classes))), np.zeros(len(labels), int)
    # Of fewer images than features all that differs lies in the images' span: turned into it, the
    # same answers cost a twentieth.
    turned = [KernelPCA(len(labels))] if len(labels) < features.shape[1] else []
    folding = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    parts = folding.split(features, labels, patients.to_numpy())
    for fold, (seen, unseen) in enumerate(parts, 1):
        model = make_pipeline(StandardScaler(), *turned, LogisticRegression(C=0.01, max_iter=1000))
        model.fit(features[seen], labels[seen])
        scores[unseen], fold_of[unseen] = model.predict_proba(features[unseen]), fold
    true = scores[np.arange(len(labels)), np.searchsorted(classes, labels)]
    table = records[["path", "patient", "label"]].reset_index(drop=True)
    table.insert(0, "split", [f"fold {fold}" for fold in fold_of])
    table["predicted"] = classes[scores.argmax(1)]
    answers = pd.DataFrame(scores, columns=[f"p_{name}" for name in classes])
    return table.join(answers).assign(loss=-np.log(np.maximum(true, _TINY)))


def suspected_wrong_labels(predictions: pd.DataFrame, n: int | None = None) -> pd.DataFrame:
    """Images whose label the model contradicts so surely that one of the two is wrong.

    A reading list for an expert, no reason to change a label. Source: Northcutt et al., Confident
    Learning, JAIR 2021.

    Parameters
    ----------
    predictions : DataFrame, of images that the model was not trained on: validation, test, or out
        of fold
    n : int, at most so many

    Returns
    -------
    DataFrame
        Rows of predictions with `quality`, from 0 (surely mislabelled) to 1, the most doubtful
        first.

    Raises
    ------
    ValueError
        Without labels or with one class only.
    """
    filtering, ranking = needed("cleanlab.filter", "cleanlab"), needed("cleanlab.rank", "cleanlab")
    known, names = _labelled(predictions), classes_of(predictions)
    occurring = [name for name in names if (known["label"] == name).any()]  # cleanlab wants such
    scores = known[[f"p_{name}" for name in occurring]].to_numpy(float)
    scores = scores / np.maximum(scores.sum(1, keepdims=True), _TINY)
    labels = known["label"].map({name: i for i, name in enumerate(occurring)}).to_numpy(int)
    if len(occurring) < 2:
        raise ValueError(
            f"all {len(known)} images are labelled {occurring[0]}; doubts need two classes"
        )
    by = "self_confidence"
    worst = filtering.find_label_issues(labels, scores, return_indices_ranked_by=by, n_jobs=1)
    quality = ranking.get_label_quality_scores(labels, scores, method=by)
    return known.assign(quality=quality).iloc[worst[:n]].reset_index(drop=True)
