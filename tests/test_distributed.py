"""The same command in many processes gives the same result; torchrun is the engine."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch

from tlutils import checkpoints

QUICK = ["--weights", "random", "--epochs", "4", "--device", "cpu", "--precision", "fp32", "--set", "size=32",
         "--set", "batch_size=16", "--set", "backbone=resnet18", "--set", "views=2", "--set", "dropout=0",
         "--set", "patience=0"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def command(data, out, *more):
    return ["-m", "tlutils", "train", "oct-vgg16", "--data", str(data), "--out", str(out), *QUICK, *more]


def run(arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("store", ["auto", "none"])
def test_two_processes_give_what_one_gives(tiny_folder, tmp_path, store):
    run([sys.executable, *command(tiny_folder, tmp_path / "one", "--store", store)])
    said = run([*TORCHRUN, *command(tiny_folder, tmp_path / "two", "--store", store)])
    assert sum(line.startswith("epoch") for line in said.splitlines()) == 4  # one process speaks
    one, two = (pd.read_csv(tmp_path / name / "history.csv") for name in ("one", "two"))
    for column in ("train_loss", "train_accuracy", "val_loss", "val_accuracy"):
        assert np.allclose(one[column], two[column], atol=1e-4), column
    a, b = (checkpoints.load(tmp_path / name / "best.pt")["state"] for name in ("one", "two"))
    assert all(torch.allclose(a[key].float(), b[key].float(), atol=1e-4) for key in a)
    p, q = (pd.read_csv(tmp_path / name / "predictions.csv") for name in ("one", "two"))
    assert p["path"].tolist() == q["path"].tolist() and np.allclose(p["loss"], q["loss"], atol=1e-3)


def test_a_process_that_dies_ends_the_job_and_a_restart_goes_on(tiny_folder, tmp_path):
    """Kill one process of a longer training; torchrun restarts both and they finish from last.pt."""
    more = command(tiny_folder, tmp_path / "run", "--set", "epochs=400", "--epochs", "400")
    job = subprocess.Popen([*TORCHRUN, "--max-restarts", "1", *more], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                           text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    while not (tmp_path / "run" / "last.pt").exists() and job.poll() is None:
        time.sleep(0.2)
    children = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(job.pid)], capture_output=True, text=True).stdout
    worker = next(int(line.split()[0]) for line in children.splitlines() if "tlutils" in line)
    os.kill(worker, signal.SIGKILL)
    said, _ = job.communicate(timeout=300)
    assert job.returncode == 0, said[-3000:]
    assert "going on after epoch" in said
    assert len(pd.read_csv(tmp_path / "run" / "history.csv")) == 400
