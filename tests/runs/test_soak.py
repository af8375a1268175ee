"""Long use leaves memory as it was, and answers as they were."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from tlutils.runs import recipes
from tlutils.runs.folder import Run
from tlutils.runs.train import train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory from /proc"),
]
EPOCHS, PROCESSES, CALLS, MEGABYTE = 2000, 4, 50, 2**20

# What a process says of its predictions: the distinct answers, and its memory after a fifth and after all of them.
PREDICT = """
import json, sys
from tlutils.runs.use import predict
from test_soak import rss
run, images, calls = sys.argv[1], sys.argv[2], int(sys.argv[3])
answers, memory = set(), []
for _ in range(calls):
    said = predict(run, [images], device="cpu", precision="fp32", show=False)
    answers.add(said.drop(columns="path").to_csv(index=False))
    memory.append(rss())
print(json.dumps([sorted(answers), memory[calls // 5], memory[-1]]))
"""


def rss() -> int:
    """Bytes of memory that this process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="module")
def trained(tiny_folder, tmp_path_factory) -> tuple[Run, list[int]]:
    """A run of many short epochs, and the memory after each."""
    recipe = recipes.get("oct-vgg16").changed(
        {
            "size": 32,
            "backbone": "squeezenet1_1",
            "head": "linear",
            "views": 1,
            "loss": "cross_entropy",
            "batch_size": 16,
            "patience": 0,
            "epochs": EPOCHS,
        }
    )
    memory = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the validation set is small
        run = train(
            recipe,
            tiny_folder,
            tmp_path_factory.mktemp("soak") / "run",
            weights="random",
            show=False,
            device="cpu",
            precision="fp32",
            log=lambda line: memory.append(rss()) if line.startswith("epoch") else None,
        )
    return run, memory


def test_thousands_of_epochs_need_no_more_memory_than_hundreds(trained, record_property):
    run, memory = trained
    warm, end = memory[EPOCHS // 5], memory[-1]
    record_property("MB after warm-up, at the end", (warm / MEGABYTE, end / MEGABYTE))
    print(
        f"{len(memory)} epochs: {warm / MEGABYTE:.0f} MB after {EPOCHS // 5}, {end / MEGABYTE:.0f} MB at the end"
    )
    assert len(memory) == len(run.history) == EPOCHS
    assert (
        end - warm < 30 * MEGABYTE
    )  # the history itself grows by a row of a dozen numbers an epoch


def test_hundreds_of_predictions_at_once_agree_and_need_no_more_memory_than_tens(
    trained, tiny_folder
):
    run, _ = trained
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
        "OMP_NUM_THREADS": "1",
    }
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", PREDICT, str(run.folder), str(tiny_folder / "test"), str(CALLS)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for _ in range(PROCESSES)
    ]
    said = [json.loads(job.communicate(timeout=600)[0].splitlines()[-1]) for job in jobs]
    answers = {answer for found, *_ in said for answer in found}
    assert len(answers) == 1
    for _, warm, end in said:
        print(
            f"{CALLS} predictions: {warm / MEGABYTE:.0f} MB after {CALLS // 5}, {end / MEGABYTE:.0f} MB at the end"
        )
        assert end - warm < 30 * MEGABYTE
