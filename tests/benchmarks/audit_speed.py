"""The audit of a data set of real size: 109,309 files under names that follow the real rules."""

from __future__ import annotations

import io
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import Result, seconds
from PIL import Image

COUNTS = {
    "CNV": 37_455,
    "DME": 11_598,
    "DRUSEN": 8_866,
    "NORMAL": 51_390,
}  # version 3 with its test images


def write_files(root: Path, share: float) -> int:
    """Small JPEG files, all of different content, 20 scans a patient, a thousand of them as the test set."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (496, 512), np.uint8)).save(
        buffer, "jpeg", quality=15
    )
    content, written = buffer.getvalue(), 0
    for label, count in COUNTS.items():
        for i in range(int(count * share)):
            folder = root / ("test" if i < 250 * share else "train") / label
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{label}-{i // 20}-{i % 20}.jpeg").write_bytes(
                content[:-2] + f"{label}{i}".encode() + content[-2:]
            )
            written += 1
    return written


def run(quick: bool) -> list[Result]:
    """Seconds and memory of the command."""
    with tempfile.TemporaryDirectory() as folder:
        n = write_files(Path(folder), 0.02 if quick else 1.0)
        took = seconds(
            lambda: subprocess.run(
                [sys.executable, "-m", "tlutils", "audit", folder], capture_output=True
            )
        )[0]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
    details = {"files": n, "seconds": took, "peak_gb": peak}
    return [
        Result("audit", "audit of 109,309 files, s", 60, took, "s", True, details),
        Result("audit's memory", "audit of 109,309 files, peak GB", 1, peak, "GB", True, details),
    ]
