"""What the benchmarks share: the images, the clock, the facts about the machine, the shape of a result."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path

import pandas as pd
import torch

from tlutils.core import devices
from tlutils.data import loaders, records, sources
from tlutils.runs.folder import versions

FOLDER = Path(__file__).resolve().parent
DATA = FOLDER.parents[1] / "data"
SIZE = 224


class Skip(Exception):
    """This machine cannot run the benchmark; the message says why."""


@dataclass
class Result:
    """One row of the table.

    name, what : which, and in words. value : the ratio or figure that the goal is about, None where it was not
    measured. goal, unit : wanted, at least (or at most where `smaller` is better). details : everything behind it.
    ceiling : what the value would be if the frozen part ran at the machine's own rate of matrix products and all else
    took no time: a yardstick, as convolutions were measured from somewhat below that rate to somewhat above it.
    """

    name: str
    what: str
    goal: float
    value: float | None = None
    unit: str = "times"
    smaller: bool = False
    details: dict = field(default_factory=dict)
    skipped: str = ""
    ceiling: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None where nothing was measured."""
        if self.value is None:
            return None
        return self.value <= self.goal if self.smaller else self.value >= self.goal

    def to_dict(self) -> dict:
        """Plain values."""
        return {**asdict(self), "met": self.met}


def images(n: int) -> tuple[pd.DataFrame, Path]:
    """Records of n phantom OCT scans, JPEG files of real size, and their root."""
    root = sources.get("phantom-oct", to=DATA)
    table = records.readable(records.inspect(records.scan(root), root, progress=False))
    many = pd.concat([table] * -(-n // len(table)), ignore_index=True)
    return many.sample(n, random_state=0).reset_index(drop=True), root


def loader(table: pd.DataFrame, root: Path, size: int = SIZE, **options: object) -> loaders.Loader:
    """A loader of these images as the recipes have it."""
    return loaders.make(table, root, ["CNV", "DME", "DRUSEN", "NORMAL"], size=size, **options)


def seconds(
    action: Callable[[], object], repeats: int = 1, warm_up: Callable[[], object] | None = None
) -> list[float]:
    """How long an action takes, several times; on a GPU to its end."""
    if warm_up:
        warm_up()
    took = []
    for _ in range(repeats):
        _finish()
        started = time.perf_counter()
        action()
        _finish()
        took.append(time.perf_counter() - started)
    return took


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def summed_up(took: list[float]) -> dict[str, float]:
    """Median and spread of measurements."""
    return {
        "median": statistics.median(took),
        "min": min(took),
        "max": max(took),
        "runs": len(took),
    }


def cuda() -> devices.Machine:
    """The GPU, or Skip."""
    if not torch.cuda.is_available():
        raise Skip("no CUDA device on this machine")
    return devices.choose("cuda")


def machine_facts() -> dict[str, object]:
    """Where and with what the figures were measured."""
    chosen = devices.choose()
    return {
        "date": date.today().isoformat(),
        "processor": devices.device_name(torch.device("cpu")),
        "cores": os.cpu_count(),
        "device": devices.device_name(chosen.device),
        "precision": chosen.precision,
        **versions(),
    }


def say(line: str) -> None:
    """Print at once, for who watches a file."""
    print(line, flush=True)


def write_csv(rows: pd.DataFrame, about: dict, out: Path) -> None:
    """A table, with what it was made by above it."""
    with open(out, "w", encoding="utf-8") as file:
        file.writelines(f"# {name}: {value}\n" for name, value in about.items())
        rows.to_csv(file, index=False, float_format="%.4f")
