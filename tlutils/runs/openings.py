"""How often a run's own test images were scored, and under how many settings.

Whoever scores them again and again, and tells the best number, tells luck with it. So each time is
a row of <run>/openings.csv, and metrics.json says how many there are.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from ..core import files
from ..data import records
from .folder import Run, timestamp

_FILE = "openings.csv"
_COLUMNS = ["time", "by", "times", "settings", "digest", "weights"]
_UNCOUNTED = "train, before openings were counted"
_PATIENCE = 60  # seconds; another process holds the file for milliseconds


def settings(
    views: int, threshold: float | None, calibrated: bool = False, adapted: str | None = None
) -> dict:
    """What a score depends on, beside images and weights.

    Parameters
    ----------
    views : int, of test-time augmentation
    threshold : float or None, in use; None answers the likeliest class
    calibrated : bool, whether at a temperature
    adapted : str or None, the adaptation in use

    Returns
    -------
    dict
    """
    return {
        "views": views,
        "threshold": threshold,
        "calibrated": calibrated or adapted is not None,
        "adapted": adapted,
    }


def record(run: Run, by: str, used: dict, metrics: dict | None = None) -> dict:
    """Count one more opening of a run's test images; with several processes, the first does.

    Parameters
    ----------
    run : Run, whose test images were scored
    by : str, what scored them
    used : dict, see `settings`
    metrics : dict, optional
        What metrics.json shall hold from now on; None keeps what it holds, if it is there.

    Returns
    -------
    dict
        times, settings (different ones, weights included), and at_least (True) where it was scored
        before openings were counted. It is written into metrics.json as "test_openings".
    """
    with _alone(run):
        rows = pd.concat([_rows(run), _row(run, by, used)], ignore_index=True)
        count, file = _count(rows), run.folder / "metrics.json"
        if metrics is None:
            # In this order a killed process leaves at worst a row that metrics.json lacks.
            records.save(rows, run.folder / _FILE)
            metrics = run.metrics if file.is_file() else None
        if metrics is not None:
            files.write_json(file, {**metrics, "test_openings": count})
            # Where it was killed before this line, `_rows` adds the row that metrics.json knows.
            records.save(rows, run.folder / _FILE)
    return count


@contextlib.contextmanager
def kept(run: Run) -> Iterator[None]:
    """Hold on to the count while metrics.json is taken away.

    Parameters
    ----------
    run : Run, begun, perhaps finished

    Yields
    ------
    None
    """
    with _alone(run):
        if len(rows := _rows(run)):
            records.save(rows, run.folder / _FILE)
        yield


def of(metrics: dict) -> dict | None:
    """The count in a run's metrics.

    Parameters
    ----------
    metrics : dict, of metrics.json

    Returns
    -------
    dict or None
        As `record` gives it; of metrics from before openings were counted once, at the least. None
        where there are no test images.
    """
    if "test" not in metrics:
        return None
    return metrics.get("test_openings", {"times": 1, "settings": 1, "at_least": True})


def in_words(count: dict) -> str:
    """The count in a sentence.

    Parameters
    ----------
    count : dict, see `record`

    Returns
    -------
    str

    Examples
    --------
    >>> in_words({"times": 1, "settings": 1})
    "The run's own test images were scored once."
    >>> in_words({"times": 3, "settings": 2, "at_least": True})
    "The run's own test images were scored at least 3 times, under at least 2 settings."
    """
    least = "at least " * bool(count.get("at_least"))
    if count["times"] == 1:
        return f"The run's own test images were scored {least}once."
    under = f"{least}{count['settings']:,} setting{'s' * (count['settings'] > 1)}"
    return f"The run's own test images were scored {least}{count['times']:,} times, under {under}."


def _alone(run: Run) -> contextlib.AbstractContextManager[None]:
    lock = run.folder / ".openings.lock"
    return files.locked(lock, f"the count of openings of {run.folder}", timeout=_PATIENCE)


def _rows(run: Run) -> pd.DataFrame:
    """What was written down, and a row for what metrics.json knows besides."""
    file = run.folder / _FILE
    rows = _read(file) if file.is_file() else pd.DataFrame(columns=_COLUMNS)
    known = of(run.metrics) if (run.folder / "metrics.json").is_file() else None
    lacking = known["times"] - rows["times"].sum() if known else 0
    if lacking < 1:
        return rows
    there = (run.folder / "best.pt").is_file()
    used = settings(run.recipe.test_views, run.threshold if there else None)
    by = _UNCOUNTED if known.get("at_least") else "train"
    return pd.concat([rows, _row(run, by, used, lacking)], ignore_index=True)


def _read(file: Path) -> pd.DataFrame:
    try:
        rows = pd.read_csv(file, dtype=str, keep_default_na=False)[_COLUMNS]
        return rows.assign(times=rows["times"].astype(int))
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"{file} is not what a run writes: {error}. Take it from a copy of the run; without "
            "it, nobody knows how often the test images were scored"
        ) from None


def _row(run: Run, by: str, used: dict, times: int = 1) -> pd.DataFrame:
    told = json.dumps(used, sort_keys=True)
    digest = hashlib.sha256(told.encode()).hexdigest()[:12]
    time = "" if by == _UNCOUNTED else timestamp()
    weights = run.fingerprint if (run.folder / "best.pt").is_file() else ""
    row = (time, by, int(times), told, digest, weights)
    return pd.DataFrame([row], columns=_COLUMNS)


def _count(rows: pd.DataFrame) -> dict:
    different = len(rows[["digest", "weights"]].drop_duplicates())
    count = {"times": int(rows["times"].sum()), "settings": different}
    return count | ({"at_least": True} if (rows["by"] == _UNCOUNTED).any() else {})
