"""Audit and division of millions of images by their names alone, in a process of its own.

python tests/benchmarks/names_speed.py 10000000     # another number of images
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time

import numpy as np
import pandas as pd
from audit_speed import COUNTS
from common import Result

from tlutils.data import audit, records, splits

IMAGES = 1_000_000


def named(n: int) -> pd.DataFrame:
    """About n scans under names that follow the real rules, 10 a patient, 1 in 100 as the test set."""
    total, found = sum(COUNTS.values()), []
    for label, count in COUNTS.items():
        for i in range(n * count // total):
            split = "train" if i % 100 else "test"
            found.append((f"{split}/{label}/{label}-{i // 10}-{i % 10}.jpeg", split, label))
    return pd.DataFrame(found, columns=["path", "split", "label"], dtype="str")


def measure(n: int) -> dict:
    """Seconds of each step, and the peak of memory above that of the names alone."""
    table = named(n)
    before, clock = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, [time.perf_counter()]
    table = records.with_patients(table)
    clock.append(time.perf_counter())
    audit.audit_all(table)
    clock.append(time.perf_counter())
    splits.divide(table)
    clock.append(time.perf_counter())
    took = dict(zip(("patients", "audit", "division"), np.diff(clock).tolist()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "images": len(table),
        "seconds": took,
        "names_gb": before * 1024 / 1e9,
        "peak_gb": peak * 1024 / 1e9,
    }


def run(quick: bool) -> list[Result]:
    """Seconds and memory of all steps together."""
    n = 20_000 if quick else IMAGES
    done = subprocess.run([sys.executable, __file__, str(n)], capture_output=True, text=True)
    details = json.loads(done.stdout)
    total, what = sum(details["seconds"].values()), f"audit and division of {IMAGES:,} names"
    peak = details["peak_gb"]
    return [
        Result("names", f"{what}, s", 60, total, "s", True, details),
        Result("names' memory", f"{what}, peak GB", 2, peak, "GB", True, details),
    ]


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))
