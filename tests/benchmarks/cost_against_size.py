"""How time grows with the number of images: an epoch and a whole training, plain loop and store."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from common import FOLDER, Result, images
from torch import nn
from training_speed import PLAIN, ours, plain_seconds

from tlutils.data import augment
from tlutils.models.build import build
from tlutils.plots.style import style

EPOCHS = 10


def fresh() -> nn.Module:
    """The model of Jain's article, untrained."""
    return build("vgg16", 4, "mlp", weights="random")


def measure(sizes: list[int], largest: int) -> pd.DataFrame:
    """Seconds of a training of ten epochs; of the largest sets the plain loop and the store are scaled, and marked."""
    rows = []
    table, root = images(64)
    plain = min(plain_seconds(table, root, PLAIN)) / len(table)
    for n in sizes:
        if n <= largest:
            measured, history = n, ours(*images(n), 1, EPOCHS, augment.Augmentation(), fresh())
        fill, rest = (
            history["store_seconds"].sum() * n / measured,
            (history["seconds"] - history["store_seconds"]),
        )
        rows.append(
            {
                "images": n,
                "plain epoch": plain * n,
                "store, first epoch": fill + rest.iloc[0] * n / measured,
                "store, later epochs": rest.iloc[1:].median() * n / measured,
                "plain, ten epochs": plain * n * EPOCHS,
                "store, ten epochs": fill + rest.sum() * n / measured,
                "store measured": measured == n,
                "plain measured images": 64,
            }
        )
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame) -> None:
    """Both as lines over the number of images, logarithmic."""
    style()
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for ax, names, title in (
        (axes[0], ["plain epoch", "store, first epoch", "store, later epochs"], "One epoch"),
        (axes[1], ["plain, ten epochs", "store, ten epochs"], "Ten epochs"),
    ):
        long = table.melt("images", names, var_name="how", value_name="seconds")
        sns.lineplot(
            long,
            x="images",
            y="seconds",
            hue="how",
            style="how",
            markers=True,
            dashes=False,
            ax=ax,
            palette="colorblind",
        )
        ax.set(xscale="log", yscale="log", title=title, xlabel="training images (phantoms, 224 px)")
        ax.set_xticks(table["images"], [f"{n:,}" for n in table["images"]])
        ax.minorticks_off()
        ax.legend(frameon=False, title="")
    largest = table.loc[table["store measured"], "images"].max()
    rest = " (scaled beyond)" if largest < table["images"].max() else ""
    fig.supxlabel(
        f"The plain loop was measured on 64 images and scaled, the store on up to {largest:,}{rest}.",
        fontsize="small",
        color="0.4",
    )
    target = FOLDER.parents[1] / "notebooks" / "images" / "cost_against_size.png"
    fig.savefig(target, dpi=90)
    plt.close(fig)


def run(quick: bool) -> list[Result]:
    """The table, the picture, and how the time grows from the smallest set to the largest."""
    sizes, largest = ([16, 32, 64], 32) if quick else ([250, 500, 1000, 2000, 4000, 8000], 8000)
    table = measure(sizes, largest)
    if not quick:
        table.to_csv(FOLDER / "cost_against_size.csv", index=False, float_format="%.4g")
        draw(table)
    measured = table[table["store measured"]]
    growth = measured["store, ten epochs"].iloc[-1] / measured["store, ten epochs"].iloc[0]
    more = measured["images"].iloc[-1] / measured["images"].iloc[0]
    return [
        Result(
            "growth",
            "time of ten epochs against the number of images, measured sizes",
            1.1,
            float(growth / more),
            "of linear",
            True,
            {"rows": table.to_dict("records")},
        )
    ]
