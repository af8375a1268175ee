"""That the benchmarks run; their figures are for `make bench` alone."""

import json
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from processes import python

FOLDER = Path(__file__).parent


def bench(*arguments: str) -> subprocess.CompletedProcess:
    return python(FOLDER / "run.py", *arguments, check=False)


def test_every_script_is_listed():
    """All but those that measure accuracy on the real images and no time."""
    found = bench("--list").stdout.split()
    others = {"run", "common", "transfer", "chest_candidates", "unlike", "test_benchmarks"}
    own = {path.stem for path in FOLDER.glob("*.py")} - others
    assert set(found) == own


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name != "shard_speed" else ())
        for name in ("audit_speed", "gpu_speed", "names_speed", "shard_speed")
    ],
)
def test_a_quick_run_writes_rows_with_goals_and_the_machine(name, tmp_path):
    done = bench("--quick", "--only", name, "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (results,) = json.loads((tmp_path / "results.json").read_text()).values()
    part = results[name]
    assert part["quick"] and part["machine"]["processor"] and part["machine"]["torch"]
    for row in part["rows"]:
        assert row["what"] and row["goal"] > 0
        assert (row["met"] is None) == (row["value"] is None) == bool(row["skipped"])
    assert (tmp_path / "results.md").read_text().count("(quick)") == len(part["rows"])


def test_the_committed_results_are_of_no_quick_run():
    file = FOLDER / "results.json"
    if not file.exists():
        pytest.skip("no results are committed yet; make bench writes them")
    machines = json.loads(file.read_text()).values()
    assert not any(part["quick"] for results in machines for part in results.values())


def test_the_committed_transfer_says_where_it_was_measured_and_has_every_arm():
    lines = (FOLDER / "transfer.csv").read_text().splitlines()
    about = {line[2:].split(":")[0] for line in lines if line.startswith("# ")}
    assert {"date", "processor", "torch", "test", "training", "baseline"} <= about
    table = pd.read_csv(FOLDER / "transfer.csv", comment="#")
    assert table.groupby("metric")["arm"].nunique().to_dict() == dict.fromkeys(
        ("accuracy", "auc", "balanced_accuracy"), 4
    )
    assert ((table["low"] <= table["value"]) & (table["value"] <= table["high"])).all()
    assert (table["runs"] == 3).all() and set(table["patients"]) >= {5, 10, 20, 40, 80, 160}


@pytest.mark.parametrize("of", ["", "_thresholds"])
@pytest.mark.parametrize(
    ("name", "seeds"), [("chest_candidates", 3), ("chest_fit", 2), ("chest_best", 3)]
)
def test_the_committed_candidates_say_where_they_were_measured_and_hold_their_intervals(
    name, seeds, of
):
    name += f"{of}.csv"
    lines = (FOLDER / name).read_text().splitlines()
    about = {line[2:].split(":")[0] for line in lines if line.startswith("# ")}
    assert {"date", "processor", "torch", "train", "val", "training", "threshold"} <= about
    table = pd.read_csv(FOLDER / name, comment="#")
    assert table.groupby("candidate")["seed"].nunique().eq(seeds).all()
    for one in ("plain_auc", "stressed_auc", "stressed_specificity", "stressed_sensitivity"):
        assert ((table[f"{one}_low"] <= table[one]) & (table[one] <= table[f"{one}_high"])).all()


def test_the_committed_unlike_images_say_where_they_were_measured_and_hold_their_intervals():
    lines = (FOLDER / "unlike.csv").read_text().splitlines()
    about = {line[2:].split(":")[0] for line in lines if line.startswith("# ")}
    assert {"date", "processor", "torch", "training", "limit", "held out"} <= about
    table = pd.read_csv(FOLDER / "unlike.csv", comment="#")
    assert ((table["low"] <= table["unlike"]) & (table["unlike"] <= table["high"])).all()
    assert table.groupby("model")["images"].nunique().eq(9).all()
