"""How the images of a run are divided into training, validation and test.

Taught in notebooks 02 and 07.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from . import splits

if TYPE_CHECKING:
    from .recipes import Recipe


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
        how = ("divided at random by image: patients may be on two sides, so validation flatters" +
               ("; the data set's own test images are kept, which show none of these patients" if clean else ""))
    elif has_test and not _test_is_shared(good):
        divided = splits.by_patient(good, recipe.val, recipe.test, seed, keep_test=True)
        how = "divided by patient; the data set's own test images are kept, as none of their patients is elsewhere"
    else:
        divided = splits.by_patient(good, recipe.val, recipe.test, seed)
        how = "divided by patient" + ("; the data set's own test images share patients with the rest, so all "
                                      "images were divided anew" if has_test else "")
    table = pd.concat([divided, bad.assign(split="")]).sort_index() if len(bad) else divided
    return table.reset_index(drop=True), how


def _official(good: pd.DataFrame, recipe: Recipe) -> tuple[pd.DataFrame, str]:
    if (good["split"] == "").any():
        raise ValueError("split='official' wants train, val and test folders, and these images lie in none; "
                         "use split='patient'")
    if (good["split"] == "val").any():
        return good, "divided as the data set's own folders say"
    rest = splits.by_patient(good[good["split"] == "train"].assign(split=""), recipe.val, 0.0, seed_of(recipe))
    divided = pd.concat([rest, good[good["split"] == "test"]]).sort_index()
    return divided, "divided as the data set's own folders say; validation patients taken from train"


def _test_is_shared(good: pd.DataFrame) -> bool:
    merged = good.assign(split=good["split"].replace({"val": "train", "": "train"}))
    return bool(splits.leaks(splits.audit(merged)))


def sample(table: pd.DataFrame, limit: int, seed: int) -> pd.DataFrame:
    """At most about `limit` images, the same share of every split and class, at least two patients of each."""
    if not limit or limit >= len(table):
        return table
    draw = np.random.default_rng(seed)
    keep = [draw.permutation(rows)[:max(2, round(len(rows) * limit / len(table)))]
            for rows in table.groupby(["split", "label"]).indices.values()]
    return table.iloc[np.sort(np.concatenate(keep))].reset_index(drop=True)
