"""How many images that are no film of a chest are called unlike the training images, and how many films are.

python tests/benchmarks/unlike.py --data chest_xray --oct oct_scans --weights mobilenet_v2.pth --work /tmp/unlike

Networks learn from about 600 films of the training images of Kermany et al. (2018); other patients set the limit, and
others again are the held-out films. What is foreign is made here: blanks, noise, crops of scikit-learn's two photographs,
phantom OCT scans, held-out films inverted and turned; real OCT scans come from --oct. Writes unlike.csv beside this
file. Not one of the benchmarks of `run.py`: it measures no time. Runs lie in --work, so that a stopped script goes on.
"""

from __future__ import annotations

import argparse
import itertools
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from common import FOLDER, machine_facts, write_csv
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images

from tlutils.data import loaders, phantoms, records, sources, splits
from tlutils.data.augment import Augmentation
from tlutils.evaluation.metrics import share
from tlutils.runs.recipes import Recipe
from tlutils.runs.train import train
from tlutils.runs.use import predict

SIZE = 128
PATIENTS = {"train": 420, "val": 200, "test": 300}
FOREIGN = 120  # of each kind that is made, about
COMMON = {"data": "chest", "head": "linear", "size": SIZE, "split": "official", "batch_size": 16}
FROZEN = {**COMMON, "freeze": "all", "views": 1, "epochs": 10}
TRAINED = {
    **COMMON,
    "freeze": "none",
    "views": 0,
    "augmentation": Augmentation(crop=(0.6, 1.0), flip=0.5, brightness=0.1, contrast=0.2),
    "optimizer": "adamw",
    "schedule": "one-cycle",
    "patience": 0,
}
RECIPES = [
    Recipe("frozen", "MobileNetV2, ImageNet, frozen", backbone="mobilenet_v2", **FROZEN),
    Recipe(
        "tuned",
        "MobileNetV2, ImageNet, fine-tuned",
        backbone="mobilenet_v2",
        learning_rate=3e-4,
        epochs=3,
        **TRAINED,
    ),
    Recipe("random", "ResNet-18, random, frozen", backbone="resnet18", **FROZEN),
    Recipe(
        "scratch",
        "ResNet-18, random, trained",
        backbone="resnet18",
        learning_rate=1e-3,
        epochs=3,
        **TRAINED,
    ),
]


def main() -> None:
    """Train what is not trained yet, ask each run about all images, write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the real X-rays")
    parser.add_argument("--oct", type=Path, required=True, help="folder of real OCT scans")
    parser.add_argument("--weights", type=Path, required=True, help="MobileNetV2's of ImageNet")
    parser.add_argument("--work", type=Path, required=True, help="folder for what is trained")
    parser.add_argument("--out", type=Path, default=FOLDER / "unlike.csv")
    given = parser.parse_args()
    table, root = divided(given.data, given.work)
    held_out = table[table["split"] == "test"]
    kinds = {"held-out films": [root / path for path in held_out["path"]]}
    kinds |= foreign(kinds["held-out films"], given.oct, given.work / "foreign")
    patients = dict(zip((path.stem for path in kinds["held-out films"]), held_out["patient"]))
    rows = []
    for recipe in RECIPES:
        weights = str(given.weights) if "ImageNet" in recipe.title else "random"
        how = {"device": "cpu", "precision": "fp32", "show": False}
        run = train(recipe, root / "films.csv", given.work / recipe.name, weights=weights, **how)
        for kind, files in kinds.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = predict(run.folder, files, **how)
            whose = found["path"].map(lambda path: patients.get(Path(path).stem, path))
            found_share = share(found["unlike"].astype(bool), whose)
            about = {
                "model": recipe.title,
                "images": kind,
                "n": len(found),
                "patients": whose.nunique(),
            }
            rows.append({**about, **found_share, "distance": found["distance"].median()})
            print(rows[-1], flush=True)
    write(pd.DataFrame(rows).rename(columns={"value": "unlike"}), table, given.out)


def divided(data: Path, work: Path) -> tuple[pd.DataFrame, Path]:
    """Some films, small, divided by patient and written down as a manifest beside them."""
    root = sources.get(data)
    table = records.readable(records.inspect(records.scan(root), root, progress=False))
    table = table[table["split"] == "train"]
    parts = []
    for split, n in PATIENTS.items():
        parts.append(splits.take_patients(table, n, seed=2018).assign(split=split))
        table = table[~table["patient"].isin(parts[-1]["patient"])]
    table = pd.concat(parts, ignore_index=True)
    small = loaders.write_small(table, root, work / "films", SIZE)
    table[["path", "label", "patient", "split"]].to_csv(small / "films.csv", index=False)
    return table, small


def foreign(films: list[Path], scans: Path, folder: Path) -> dict[str, list[Path]]:
    """Files of each kind of image that is no film as the network knows them."""
    some = films[:: len(films) // FOREIGN]
    kinds = {
        "blanks": (Image.new("L", (SIZE, SIZE), grey) for grey in range(0, 256, 15)),
        "noise": noise(FOREIGN),
        "photographs": photographs(FOREIGN // 2),
        "OCT phantoms": (
            Image.fromarray(phantoms.draw_oct(label, seed))
            for label, seed in itertools.product(phantoms.OCT_CLASSES, range(FOREIGN // 4))
        ),
        "films, inverted": (ImageOps.invert(Image.open(film).convert("L")) for film in some),
        "films, turned by 90 degrees": (Image.open(film).rotate(90) for film in some),
        "films, upside down": (Image.open(film).rotate(180) for film in some),
    }
    found = {"OCT scans": sorted(path for path in scans.rglob("*") if path.suffix)}
    for kind, images in kinds.items():
        (folder / kind).mkdir(parents=True, exist_ok=True)
        names = (film.stem for film in some) if kind.startswith("films") else itertools.count()
        found[kind] = []
        for image, name in zip(images, names):
            found[kind].append(folder / kind / f"{name}.png")
            image.save(found[kind][-1])
    return found


def noise(n: int) -> Iterator[Image.Image]:
    """Independent grey values of each pixel, even and bell-shaped in turn."""
    draw = np.random.default_rng(0)
    for number in range(n):
        even = draw.integers(0, 256, (SIZE, SIZE))
        bell = draw.normal(128, 40, (SIZE, SIZE)).clip(0, 255)
        yield Image.fromarray((bell if number % 2 else even).astype(np.uint8))


def photographs(each: int) -> Iterator[Image.Image]:
    """Square crops of scikit-learn's two photographs, in grey."""
    draw = np.random.default_rng(0)
    for pixels in load_sample_images().images:
        whole = Image.fromarray(pixels).convert("L")
        for _ in range(each):
            side = int(draw.integers(100, 400))
            left, top = (int(draw.integers(0, length - side + 1)) for length in whole.size)
            yield whole.crop((left, top, left + side, top + side))


def write(found: pd.DataFrame, table: pd.DataFrame, out: Path) -> None:
    """The table, with what it was made by above it."""
    counts = table.groupby("split")["patient"].agg(["size", "nunique"])
    about = {
        "images": f"chest X-rays of Kermany et al. (2018), training folder only, {SIZE} px",
        **{
            name: f"{counts.loc[split, 'size']} films of {counts.loc[split, 'nunique']} patients"
            for name, split in (("training", "train"), ("limit", "val"), ("held out", "test"))
        },
        "unlike": "share of images beyond the limit; intervals (95 %) by bootstrap over patients",
        **machine_facts(),
        "precision": "fp32",
    }
    columns = ["model", "images", "n", "patients", "unlike", "low", "high", "distance"]
    write_csv(found[columns], about, out)


if __name__ == "__main__":
    main()
