"""Long use leaves memory as it was, and answers as they were."""

import json
import os
from pathlib import Path

import pytest
from processes import start
from small_runs import small, train

from tlutils.runs.folder import Run

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
    changes = {"head": "linear", "views": 1, "loss": "cross_entropy", "patience": 0}
    memory = []
    run = train(
        tiny_folder,
        tmp_path_factory.mktemp("soak") / "run",
        small(**changes, epochs=EPOCHS),
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
    words, env = (PREDICT, run.folder, tiny_folder / "test", CALLS), {"OMP_NUM_THREADS": "1"}
    jobs = [start("-c", *words, env=env, stderr=None) for _ in range(PROCESSES)]
    said = [json.loads(job.communicate(timeout=600)[0].splitlines()[-1]) for job in jobs]
    answers = {answer for found, *_ in said for answer in found}
    assert len(answers) == 1
    for _, warm, end in said:
        print(
            f"{CALLS} predictions: {warm / MEGABYTE:.0f} MB after {CALLS // 5}, {end / MEGABYTE:.0f} MB at the end"
        )
        assert end - warm < 30 * MEGABYTE
