"""The same command in many processes gives the same result; torchrun is the engine.

It starts what is trained, killed, told to stop and late; where only the answers of two processes count, `together` does.
"""

import json
import os
import signal
import subprocess
import time

import numpy as np
import pandas as pd
import pytest
import small_runs
import torch
import two_processes
from processes import python, start, together, torchrun

from tlutils.__main__ import main
from tlutils.core import files
from tlutils.models import checkpoints


def command(data, out, *more):
    fixed = ["--epochs", "4", "--set", "views=2", "--set", "dropout=0", "--set", "patience=0"]
    return small_runs.command(data, out, *fixed, *more)


def words(data, out, *more):
    """The words after `python` for such a training."""
    return ["-m", "tlutils", *command(data, out, *more)]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What the checks of two_processes.py gave in each of two processes, by one start of them."""
    folder = tmp_path_factory.mktemp("both")
    together(two_processes.__file__, "cpu", folder)
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in (0, 1)]


def test_a_batch_may_go_through_in_parts_of_any_size_in_each_process(both, tmp_path):
    alone = two_processes.parts_of_a_batch(tmp_path)[0]
    for found in both:
        assert found["parts_of_a_batch"].keys() == {"0", "3", "6", "auto"}
        assert all(
            np.allclose(losses, alone, atol=1e-5) for losses in found["parts_of_a_batch"].values()
        )


@pytest.mark.parametrize("where", ["files", "store"])
def test_a_process_that_can_read_nothing_of_a_batch_takes_part_all_the_same(both, tmp_path, where):
    alone = two_processes.unreadable_images(tmp_path)
    assert alone["files"]["train_images"] == [19] * 3 and alone["files"]["val_images"] == [10] * 3
    for name, values in alone["files"].items():
        for found in (alone["store"], *(found["unreadable_images"][where] for found in both)):
            assert (
                found[name] == values
                if name == "unreadable"
                else np.allclose(found[name], values, atol=1e-5)
            ), name


@pytest.mark.parametrize("where", ["files", "store"])
def test_stressed_validation_is_the_same_in_one_process_and_in_two(both, tmp_path, where):
    alone = two_processes.stressed(tmp_path)
    assert alone["files"]["stress_images"] == [30] * 3
    for name, values in alone["files"].items():
        for found in (alone["store"], *(found["stressed"][where] for found in both)):
            assert np.allclose(found[name], values, atol=1e-5), name


def test_a_process_that_can_read_none_of_its_images_leaves_predicting_to_the_others(both, tmp_path):
    alone = two_processes.unreadable_share(tmp_path)
    assert (
        alone["paths"] == ["0.png", "2.png"] and "none of the 2 images can be read" in alone["said"]
    )
    assert all(found["unreadable_share"] == alone for found in both)


def test_what_enters_the_head_is_told_of_all_images_in_each_process(both, tmp_path):
    alone = two_processes.described(tmp_path)
    for found in both:
        assert np.allclose(found["described"], alone, atol=1e-3)


def test_batchnorm_that_learns_is_one_and_the_same_in_all_processes_and_the_frozen_stays(both):
    one, two = (found["batchnorm"] for found in both)
    assert (
        one == two and one["frozen"] == [0, 0, 0, 0, 1, 1, 1, 1] and one["moving"] != one["frozen"]
    )
    assert one["shared"] == [1.0, 2.5]  # of means 0 and 2 with variances 1 and 2


def test_processes_wait_for_hours_while_one_fetches_data(both):
    assert all(found["patience"] >= 6 for found in both)


@pytest.mark.parametrize("store", ["auto", "none"])
def test_two_processes_give_what_one_gives(tiny_folder, tmp_path, store):
    assert main(command(tiny_folder, tmp_path / "one", "--store", store)) == 0
    two = words(tiny_folder, tmp_path / "two", "--store", store)
    said = (python(*torchrun(*two)) if store == "auto" else together(*two)).stdout
    assert sum(line.startswith("epoch") for line in said.splitlines()) == 4  # one process speaks
    one, two = (pd.read_csv(tmp_path / name / "history.csv") for name in ("one", "two"))
    for column in ("train_loss", "train_accuracy", "val_loss", "val_accuracy"):
        assert np.allclose(one[column], two[column], atol=1e-4), column
    a, b = (checkpoints.load(tmp_path / name / "best.pt")["state"] for name in ("one", "two"))
    assert all(torch.allclose(a[key].float(), b[key].float(), atol=1e-4) for key in a)
    p, q = (pd.read_csv(tmp_path / name / "predictions.csv") for name in ("one", "two"))
    assert p["path"].tolist() == q["path"].tolist() and np.allclose(p["loss"], q["loss"], atol=1e-3)


def workers(job, run):
    """The process ids of a training in several processes, once it has kept an epoch."""
    while not (run / "last.pt").exists() and job.poll() is None:
        time.sleep(0.2)
    ps = ["ps", "-o", "pid=,args=", "--ppid", str(job.pid)]
    children = subprocess.run(ps, capture_output=True, text=True).stdout.splitlines()
    return [int(line.split()[0]) for line in children if "tlutils" in line]


@pytest.mark.slow
def test_a_process_that_dies_ends_the_job_and_a_restart_goes_on(tiny_folder, tmp_path):
    """Kill one process of a longer training; torchrun restarts both and they finish from last.pt."""
    more = words(tiny_folder, tmp_path / "run", "--set", "epochs=200", "--epochs", "200")
    job = start(*torchrun(*more, restarts=1), stderr=subprocess.STDOUT)
    os.kill(workers(job, tmp_path / "run")[0], signal.SIGKILL)
    said, _ = job.communicate(timeout=300)
    assert job.returncode == 0, said[-3000:]
    assert "going on after epoch" in said
    assert len(pd.read_csv(tmp_path / "run" / "history.csv")) == 200


LATE = """
import sys, time, weakref
from pathlib import Path
import torch.distributed
from tlutils.core import devices
from tlutils.runs import recipes
from tlutils.runs.train import make_model, prepare
data, out, wait = sys.argv[1:]
with devices.processes("cpu"):
    group = weakref.ref(torch.distributed.group.WORLD)
    while wait and devices.rank() and not Path(out, ".lock").exists():
        time.sleep(0.1)  # the first has the folder, and waits, when this one looks
    recipe = recipes.get("oct-vgg16").changed({"size": 32, "backbone": "resnet18"})
    run = prepare(recipe, data, out, weights="random", show=False, log=lambda line: None)
    make_model(run)
    print(f"rank {devices.rank()} has {len(run.records)} images of {run.root.name}, "
          f"{run.about['data']['fingerprint']}, {run.about['weights']['source']}", flush=True)
assert group() is None, "the group lives on, with threads that may abort the process when it ends"
"""


@pytest.mark.parametrize("by_torchrun", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_process_that_comes_late_takes_up_what_the_first_has_begun(
    by_torchrun, tiny_folder, tmp_path
):
    (tmp_path / "late.py").write_text(LATE)
    for wait in ("wait", ""):
        late = (tmp_path / "late.py", tiny_folder, tmp_path / "run", wait)
        said = (python(*torchrun(*late)) if by_torchrun else together(*late)).stdout
        mine, other = sorted(line for line in said.splitlines() if line.startswith("rank"))
        assert (
            mine.removeprefix("rank 0") == other.removeprefix("rank 1")
            and "64 images of tiny" in mine
        )


def ended(words):
    """What two processes that must both fail said; that they end is the point, as the other would wait for the first."""
    done = together(*words, check=False, timeout=120)
    assert done.returncode != 0
    return " ".join(done.stderr.split())


def test_what_the_first_process_finds_wrong_ends_all_of_them(tiny_folder, tmp_path):
    run = tmp_path / "run"
    assert "nowhere is neither a folder" in ended(words(tmp_path / "nowhere", run))
    assert "outputs is 3" in ended(words(tiny_folder, run, "--set", "outputs=3"))
    assert "nowhere.pth" in ended(words(tiny_folder, run, "--weights", "nowhere.pth"))


def test_a_folder_that_is_in_use_is_refused_by_all_processes(tiny_folder, tmp_path):
    with files.locked(tmp_path / "run" / ".lock", "it"):
        said = ended(words(tiny_folder, tmp_path / "run"))
    assert "another process is at work on the run" in said
    assert os.listdir(tmp_path / "run") == [".lock"]


BY_FIRST = """
import sys
from tlutils.core import devices

class Odd(Exception):
    def __init__(self, one, two):
        super().__init__("a message")
        self.held = lambda: one

def odd():
    raise Odd(1, 2)

def clear():
    raise FileNotFoundError(2, "no such thing", "x")

with devices.processes("cpu"):
    assert devices.broadcast(devices.rank()) == 0 and devices.by_first(devices.rank) == 0
    for decide, kinds in ((clear, [FileNotFoundError] * 2), (odd, [Odd, RuntimeError])):
        try:
            devices.by_first(decide)
        except Exception as error:
            assert type(error) is kinds[devices.rank()], error
            assert ("no such thing" in str(error)) == (decide is clear)
        else:
            sys.exit("no error")
    print("fine", flush=True)
"""


def test_the_first_process_decides_for_all_and_its_errors_are_everybodys(tmp_path):
    (tmp_path / "first.py").write_text(BY_FIRST)
    assert together(tmp_path / "first.py").stdout.count("fine") == 2


def test_a_job_that_is_told_to_stop_ends_whole(tiny_folder, tmp_path):
    job = start(*torchrun(*words(tiny_folder, tmp_path / "run", "--epochs", "4000")))
    both = workers(job, tmp_path / "run")
    job.send_signal(signal.SIGTERM)
    out, err = job.communicate(timeout=60)
    assert job.returncode != 0 and len(both) == 2
    assert "stopped; the same call goes on after epoch" in out or "same command goes on" in err
    ps = ["ps", "-o", "args=", "-p", ",".join(map(str, both))]
    assert "tlutils" not in subprocess.run(ps, capture_output=True, text=True).stdout
    assert checkpoints.read(tmp_path / "run" / "last.pt")["history"]
    assert not list((tmp_path / "run").glob(".*.part"))
