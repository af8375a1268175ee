"""How the images of a run are divided into training, validation and test.

Taught in notebooks 02, 04 and 07.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from . import splits

if TYPE_CHECKING:
    from ..runs.recipes import Recipe


def seed_of(recipe: Recipe) -> int:
    """What the division is drawn with: the recipe's split_seed, or its seed where it names none."""
    return recipe.seed if recipe.split_seed is None else recipe.split_seed


def divide(table: pd.DataFrame, recipe: Recipe) -> tuple[pd.DataFrame, str]:
    """Divide a table of records as the recipe says; returns it with a sentence that says how.

    "patient": the data set's own test images stay the test set where none of their patients, contents or names
    occurs elsewhere (chest X-rays), and validation patients are taken from the rest; else all is divided anew by
    patient (retinal OCT, whose official test set shares its patients with training).
    """
    table = table.assign(problem=table.get("problem", pd.Series("", index=table.index)).fillna(""))
    good, bad = table[table["problem"] == ""], table[table["problem"] != ""]
    has_test, seed = (good["split"] == "test").any(), seed_of(recipe)
    if recipe.split == "official":
        divided, how = _official(good, recipe)
    elif recipe.split not in ("patient", "image"):
        raise ValueError(f"split is {recipe.split!r}; it is one of patient, image, official")
    elif recipe.split == "image":
        clean = bool(has_test and not _test_is_shared(good))
        divided = splits.by_image(good, recipe.val, recipe.test, seed, keep_test=clean)
        how = "divided at random by image: patients may be on two sides, so validation flatters" + (
            "; the data set's own test images are kept, which show none of these patients"
            if clean
            else ""
        )
    elif has_test and not _test_is_shared(good):
        divided = splits.by_patient(good, recipe.val, recipe.test, seed, keep_test=True)
        how = "divided by patient; the data set's own test images are kept, as none of their patients is elsewhere"
    else:
        divided = splits.by_patient(good, recipe.val, recipe.test, seed)
        how = "divided by patient" + (
            "; the data set's own test images share patients with the rest, so all "
            "images were divided anew"
            if has_test
            else ""
        )
    table = pd.concat([divided, bad.assign(split="")]).sort_index() if len(bad) else divided
    return table.reset_index(drop=True), how


def _official(good: pd.DataFrame, recipe: Recipe) -> tuple[pd.DataFrame, str]:
    if (good["split"] == "").any():
        raise ValueError(
            "split='official' wants train, val and test folders, and these images lie in none; "
            "use split='patient'"
        )
    if (good["split"] == "val").any():
        return good, "divided as the data set's own folders say"
    rest = splits.by_patient(
        good[good["split"] == "train"].assign(split=""), recipe.val, 0.0, seed_of(recipe)
    )
    divided = pd.concat([rest, good[good["split"] == "test"]]).sort_index()
    return (
        divided,
        "divided as the data set's own folders say; validation patients taken from train",
    )


def _test_is_shared(good: pd.DataFrame) -> bool:
    merged = good.assign(split=good["split"].replace({"val": "train", "": "train"}))
    return bool(splits.leaks(splits.audit(merged)))


def seen_and_unseen_patients(
    records: pd.DataFrame, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two divisions that examine on the same images: whose patients training never met, and whose it did.

    Half of the images that a test patient has of a class leave the test set. In the first division they take no part;
    in the second they are training images, in place of as many others of that class. So both examine on the other
    half, and both train on as many images of each class: what differs is whether the patients were met.

    records : with train and test by patient. Returns (never met, met), without the images that take no part.
    ValueError where no test patient has two images of one class.

    Taught in notebook 04.
    """
    records = records[records["split"] != ""]
    test = records[records["split"] == "test"]
    draw = np.random.default_rng(seed)
    place = pd.Series(draw.permutation(len(test)), test.index).groupby(
        [test["patient"], test["label"]]
    )
    first, alone = place.rank() <= place.transform("size") // 2, place.transform("size") < 2
    known = test.index[first]
    if len(known) == 0:
        raise ValueError(
            "no test patient has two images of one class, so none can be met; use images with several of "
            "a patient, and a division by patient"
        )
    train = records[records["split"] == "train"]
    replaced = np.concatenate(
        [
            draw.choice(train.index[train["label"] == label], n, replace=False)
            for label, n in records.loc[known, "label"].value_counts().sort_index().items()
        ]
    )
    rest = records.drop(test.index[alone])
    met = rest.drop(replaced).assign(split=lambda t: t["split"].mask(t.index.isin(known), "train"))
    return tuple(table.reset_index(drop=True) for table in (rest.drop(known), met))


def sample(table: pd.DataFrame, limit: int, seed: int) -> pd.DataFrame:
    """About `limit` images, the same share of every split and class, of two patients of each at the least."""
    if not limit or limit >= len(table):
        return table
    draw = np.random.default_rng(seed)
    keep = []
    for rows in table.groupby(["split", "label"]).indices.values():
        rows = draw.permutation(rows)
        first = np.sort(np.unique(table["patient"].to_numpy()[rows], return_index=True)[1])[
            :2
        ]  # of two patients
        rows = np.r_[rows[first], np.delete(rows, first)]
        keep.append(rows[: max(2, round(len(rows) * limit / len(table)))])
    return table.iloc[np.sort(np.concatenate(keep))].reset_index(drop=True)
