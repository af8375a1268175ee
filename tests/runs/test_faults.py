"""A run that is killed at any moment leaves files that can be read, and gone on with it ends as an unbroken one."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import small_runs
import torch
from processes import together, warm
from small_runs import small
from tqdm import tqdm

from tlutils.__main__ import main
from tlutils.models import checkpoints
from tlutils.runs import recipes

KEPT = small(epochs="3", patience="0")
FROM_FILES = small(
    "chest-resnet18-finetune",
    backbone="shufflenet_v2_x0_5",
    epochs="2",
    head_epochs="1",
    patience="0",
    views="0",
)
TIMES = {"seconds", "images_per_second", "store_seconds", "started"}
ORDER = (
    "records.csv",
    "recipe.json",
    "features",
    "last.pt",
    "history.csv",
    "best.pt",
    "predictions.csv",
    "metrics.json",
)
PHASES = ("records.csv", "done", "last.pt", "best.pt", "metrics.json")  # what is written in each
CHANGING = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate"}
WRITING = os.O_WRONLY | os.O_RDWR

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kills processes as Linux does")


def die_at(
    change: int,
    folder: Path,
    name: str = "",
    victims: Callable[[], list[int]] = lambda: [os.getpid()],
) -> None:
    """Kill processes, most often this one, just before its so-manieth change of a path in `folder` that holds `name`."""
    left = change

    def look(event: str, about: tuple) -> None:
        nonlocal left
        changes = event in CHANGING or (
            event == "open" and isinstance(about[2], int) and about[2] & WRITING
        )
        if changes and str(about[0]).startswith(str(folder)) and name in str(about[0]):
            left -= 1
            if left == 0:
                for victim in victims():
                    os.kill(victim, signal.SIGKILL)

    sys.addaudithook(look)


def train(recipe: recipes.Recipe, data: Path, out: Path, change: int) -> None:
    """What is killed: one command from the data to the finished run."""
    die_at(change, out)
    tqdm.set_lock(
        threading.RLock()
    )  # its own, between processes, would be said to be lost when this one is killed
    warnings.simplefilter("ignore")  # the images are few
    small_runs.train(data, out, recipe)


def was_killed(
    recipe: recipes.Recipe, data: Path, out: Path, change: int = 0, seconds: float | None = None
) -> bool:
    """Whether `train` was killed, at a change or after some seconds; fails where it ended with an error."""
    process = warm.Process(target=train, args=(recipe, data, out, change))
    process.start()
    process.join(seconds)
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def all_can_be_read(out: Path) -> bool:
    """Read every file that stands there; what could not be read raises."""
    read = {
        ".json": lambda path: json.loads(path.read_text()),
        ".csv": pd.read_csv,
        ".pt": checkpoints.read,
    }
    return all(
        read[path.suffix](path) is not None for path in out.rglob("*") if path.suffix in read
    )


def bare(value: object) -> object:
    """A value whose parts compare bit by bit, without its times."""
    if isinstance(value, torch.Tensor):
        return value.dtype, value.shape, value.numpy().tobytes()
    if isinstance(value, dict):
        return {key: bare(part) for key, part in value.items() if key not in TIMES}
    return [bare(part) for part in value] if isinstance(value, (list, tuple)) else value


def assert_alike(out: Path, whole: Path) -> None:
    """Fail unless two finished runs hold the same, bit by bit, and no file that was only on its way."""
    for name in ("predictions.csv", "metrics.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    for name in ("best.pt", "last.pt"):
        assert bare(checkpoints.read(out / name)) == bare(checkpoints.read(whole / name)), name
    one, other = (
        bare(pd.read_csv(folder / "history.csv").to_dict("list")) for folder in (out, whole)
    )
    assert one == other and not list(out.rglob("*.part"))


def kill_often(recipe: recipes.Recipe, data: Path, folder: Path, by: str, n: int) -> Counter:
    """Kill each of n runs twice, go on with it to its end and compare it with an unbroken one.

    by : "change" draws which change of a file a process does not live to make, "clock" how long it lives. Returns how
    often which file was the next to come when a process died.
    """
    draw, next_to_come, started = (
        random.Random(f"{recipe.name}, {by}, {n}"),
        Counter(),
        time.monotonic(),
    )
    assert not was_killed(recipe, data, folder / "whole")
    seconds = time.monotonic() - started
    for number in range(n):
        for _ in range(2):
            moment = (
                {"change": draw.randint(1, 80)}
                if by == "change"
                else {"seconds": draw.uniform(0, seconds)}
            )
            if was_killed(recipe, data, folder / str(number), **moment):
                next_to_come[
                    next(
                        (name for name in ORDER if not (folder / str(number) / name).exists()),
                        "none",
                    )
                ] += 1
                assert all_can_be_read(folder / str(number))
        assert not was_killed(recipe, data, folder / str(number))
        assert_alike(folder / str(number), folder / "whole")
    return next_to_come


def test_a_run_killed_while_it_writes_ends_as_an_unbroken_one(tiny_folder, tmp_path):
    assert kill_often(KEPT, tiny_folder, tmp_path, "change", 3).total() > 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "by", "n"),
    [(KEPT, "change", 6), (KEPT, "clock", 3), (FROM_FILES, "change", 3), (FROM_FILES, "clock", 3)],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_a_run_killed_at_any_moment_ends_as_an_unbroken_one(
    recipe, by, n, tiny_folder, tmp_path, record_property
):
    next_to_come = kill_often(recipe, tiny_folder, tmp_path, by, n)
    record_property("killed before", str(dict(next_to_come)))  # plain, for xdist
    print("killed before", dict(next_to_come))
    assert by == "clock" or next_to_come.total() > n


def in_a_job(data: str, out: str, victims: str, phase: str) -> int:
    """One of two processes; in the phase of this number, from 0, the first of them kills these, itself last."""
    number, begun_by = int(phase), os.getppid()

    def pids() -> list[int]:
        both = Path(f"/proc/{begun_by}/task/{begun_by}/children").read_text().split()
        chosen = both if victims == "both" else both[number % 2 :][:1]
        return sorted(map(int, chosen), key=lambda pid: pid == os.getpid())

    if os.environ["RANK"] == "0" and number < len(PHASES):
        die_at(2, Path(out), PHASES[number], pids)
    longer = ["--epochs", "3", "--set", "patience=0", "--set", "views=2"]
    return main(small_runs.command(data, out, *longer))


def of_two_processes(data: Path, out: Path, victims: str = "", phase: int = len(PHASES)) -> int:
    """The exit code of a training of two processes of which these die in this phase; without, it is whole."""
    return together(__file__, data, out, victims, phase, check=False).returncode


@pytest.fixture(scope="module")
def of_two(tiny_folder, tmp_path_factory) -> Path:
    """An unbroken run of two processes."""
    out = tmp_path_factory.mktemp("faults") / "whole"
    assert of_two_processes(tiny_folder, out) == 0
    return out


@pytest.mark.slow
def test_two_processes_of_which_one_dies_in_every_phase_end_as_unbroken_ones(
    tiny_folder, of_two, tmp_path
):
    for phase in range(len(PHASES)):
        assert of_two_processes(tiny_folder, tmp_path / "run", "one", phase) != 0
        assert all_can_be_read(tmp_path / "run")
    assert of_two_processes(tiny_folder, tmp_path / "run") == 0
    assert_alike(tmp_path / "run", of_two)


@pytest.mark.slow
def test_a_job_of_two_processes_killed_in_phase_after_phase_and_begun_again_ends_as_an_unbroken_one(
    tiny_folder, of_two, tmp_path
):
    for phase in ("done", "last.pt", "metrics.json"):
        number = PHASES.index(phase)
        code = of_two_processes(tiny_folder, tmp_path / "run", "both", number)
        assert code == -signal.SIGKILL
        assert all_can_be_read(tmp_path / "run")
    assert of_two_processes(tiny_folder, tmp_path / "run") == 0
    assert_alike(tmp_path / "run", of_two)


if __name__ == "__main__":
    sys.exit(in_a_job(*sys.argv[1:]))
