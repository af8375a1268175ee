"""Reading images from shards against reading them from files, both in one run."""

from __future__ import annotations

import os
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from common import Result, seconds, summed_up

from tlutils.core import images
from tlutils.data import records, shards

REPEATS = 5


def write_files(root: Path, n: int) -> pd.DataFrame:
    """Files of the size of a scan, random bytes, a hundred a folder."""
    draw, found = np.random.default_rng(0), []
    for i in range(n):
        path = f"train/{'CNV' if i % 2 else 'DME'}/{i // 200}/CNV-{i // 10}-{i}.jpeg"
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(draw.bytes(int(draw.integers(40_000, 90_000))))
        found.append(path)
    return pd.DataFrame(
        {"path": found, "split": "train", "label": [p.split("/")[1] for p in found]}
    )


def forget(root: Path) -> None:
    """Let the system drop what it holds of all files below a folder."""
    os.sync()  # what is not written yet stays
    for file in (path for path in root.rglob("*") if path.is_file()):
        number = os.open(file, os.O_RDONLY)
        os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(number)


def read(paths: list[str]) -> None:
    for path in paths:
        images.content(path)


def run(quick: bool) -> list[Result]:
    """Seconds that all images take in random order, from files and from shards in turn."""
    n = 200 if quick else 3_000
    took = {(where, state): [] for where in ("files", "shards") for state in ("warm", "cold")}
    with tempfile.TemporaryDirectory(dir=".") as folder:
        roots = {name: Path(folder, name) for name in ("files", "shards")}
        table = records.with_patients(write_files(roots["files"], n))
        shards.write(table, roots["files"], roots["shards"])
        order = np.random.default_rng(1).permutation(n)
        paths = {
            name: [os.path.join(root, path) for path in records.scan(root)["path"].iloc[order]]
            for name, root in roots.items()
        }
        for _ in range(1 if quick else REPEATS):
            for name, root in roots.items():
                forget(root)
                for state in ("cold", "warm", "warm", "warm"):
                    took[name, state] += seconds(partial(read, paths[name]))
    ratio = {
        # the least, as others on the machine only ever add to what a read takes
        state: min(took["files", state]) / min(took["shards", state])
        for state in ("warm", "cold")
    }
    details = {"images": n}
    details |= {f"{name}_{state}_s": summed_up(times) for (name, state), times in took.items()}
    return [
        Result("shards, in memory", "files / shards, in memory", 1, ratio["warm"], details=details),
        Result(
            "shards, from disk", "files / shards, from disk", 1.1, ratio["cold"], details=details
        ),
    ]
