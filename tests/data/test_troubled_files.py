"""Every kind of troubled file is read rightly or listed with its reason, alone and among all others."""

from __future__ import annotations

import json
import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from small_runs import CPU, small, train
from tiny_images import draw_tiny
from troubled_files import EITHER, KINDS, LISTED, PASSED, READ, scene, write, write_all

from tlutils.__main__ import main
from tlutils.core import images
from tlutils.data import loaders, records
from tlutils.runs.folder import Run, read_predictions
from tlutils.runs.use import evaluate, predict

pytestmark = pytest.mark.skipif(
    not hasattr(os, "mkfifo"), reason="this system has other kinds of files"
)
SECONDS = 20  # far beyond what any of them needs: something waits, or unpacks without an end


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def seen(pixels: np.ndarray) -> np.ndarray:
    """What a network sees of pixels, at 32 x 32."""
    return np.asarray(Image.fromarray(pixels).resize((32, 32), Image.Resampling.BILINEAR)).astype(
        int
    )


def test_there_are_at_least_80_kinds_and_no_two_have_one_name():
    assert len(KINDS) >= 80 and len({os.fsencode(kind.name) for kind in KINDS.values()}) == len(
        KINDS
    )
    assert {kind.fate for kind in KINDS.values()} == {READ, LISTED, EITHER, PASSED}


@pytest.mark.parametrize("about", [about for about, kind in KINDS.items() if kind.fate != PASSED])
def test_a_troubled_file_is_read_rightly_or_named_with_its_reason(tmp_path, about):
    kind, folder = KINDS[about], tmp_path / "data" / "A"
    folder.mkdir(parents=True)
    try:
        name = write(folder, about)
    except OSError as error:
        pytest.skip(f"this file system cannot have it ({error})")
    table = pd.DataFrame({"path": [name], "split": "", "label": "A", "patient": "1"}, dtype="str")
    with at_most(SECONDS), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quick, whole = (
            records.inspect(table, folder, decode)["problem"][0] for decode in (False, True)
        )
        try:
            image, why = loaders.read_image(folder / name, 32)[0].numpy(), ""
        except images.UnreadableImage as error:
            image, why = None, str(error).removeprefix(f"{folder / name}: ")
    assert (image is None) == bool(why) and why == whole
    assert kind.fate == EITHER or (kind.fate == READ) == (why == "")
    assert quick in ("", whole)  # what the quick look finds is found for good
    if image is not None and kind.shows:
        assert np.abs(image - seen(kind.shows())).mean() <= kind.off + 1


# --- all of them in one folder ------------------------------------------------------------------------------

CLASSES = ("CNV", "NORMAL")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    """Good images of eight patients of each class beside one file of every kind, and where these lie."""
    root = tmp_path_factory.mktemp("troubled") / "data"
    for label in CLASSES:
        (root / label).mkdir(parents=True)
        for patient in range(8):
            draw_tiny(label, patient).save(root / label / f"{label}-{9000 + patient}-1.jpeg")
    return root, write_all([root / label for label in CLASSES])


def fates(found: pd.DataFrame, root: Path, made: dict[str, Path]) -> dict[str, str]:
    """Kinds -> what became of them, by a table of records or predictions."""
    problem = dict(
        zip(found["path"], found.get("problem", pd.Series("", found.index)), strict=True)
    )
    named = {about: os.fspath(file.relative_to(root)) for about, file in made.items()}
    return {
        about: PASSED if path not in problem else LISTED if problem[path] else READ
        for about, path in named.items()
    }


def wrong(become: dict[str, str], unlisted: str = LISTED) -> dict[str, str]:
    """The kinds that did not meet their fate; `unlisted` is what stands for listed in a table of readable images."""
    right = {READ: [READ], LISTED: [unlisted], EITHER: [READ, unlisted], PASSED: [PASSED]}
    return {about: fate for about, fate in become.items() if fate not in right[KINDS[about].fate]}


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory) -> Run:
    recipe = small(epochs="1", views="1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return train(folder[0], tmp_path_factory.mktemp("runs") / "run", recipe)


def test_all_of_them_at_once_do_not_keep_a_run_from_its_end(run, folder):
    root, made = folder
    assert len(made) >= 300 and set(run.metrics) >= {"val", "test"}
    assert not wrong(fates(run.records, root, made))
    assert set(run.predictions["path"]) <= set(records.readable(run.records)["path"])


def test_all_of_them_are_evaluated_or_left_out(run, folder):
    root, made = folder
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluate(run.folder, root, **CPU)
    found = read_predictions(next((run.folder / "evaluations").glob("*.csv")))
    assert not wrong(fates(found, root, made), unlisted=PASSED)
    assert set(found["path"]) == set(records.readable(run.records)["path"])


def test_all_of_them_are_predicted_or_named(run, folder, tmp_path):
    root, made = folder
    unreadable = len(records.problems(run.records))
    with pytest.warns(
        UserWarning, match=f"left out {unreadable} of {len(run.records)} images that cannot be read"
    ):
        predict(run.folder, [root], tmp_path / "p.csv", **CPU)
    found = read_predictions(tmp_path / "p.csv")
    assert {os.path.relpath(path, root) for path in found["path"]} == set(
        records.readable(run.records)["path"]
    )


def test_all_of_them_are_audited_and_what_is_left_can_be_audited_again(folder, tmp_path, capsys):
    root, made = folder
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert main(
            [
                "audit",
                str(root),
                "--near",
                "--decode",
                "--json",
                str(tmp_path / "a.json"),
                "--fix",
                str(tmp_path / "clean.csv"),
            ]
        ) in (0, 1)
        checks = {
            row["check"]: row for row in json.loads((tmp_path / "a.json").read_text())["checks"]
        }
        listed = sum(KINDS[about].fate == LISTED for about in made)
        either = sum(KINDS[about].fate == EITHER for about in made)
        assert (
            listed <= checks["unreadable file"]["found"] - 1 <= listed + either
        )  # a pair of links is two
        capsys.readouterr()
        assert main(["audit", str(tmp_path / "clean.csv"), "--decode"]) == 0
    left = records.scan(tmp_path / "clean.csv")
    assert (records.inspect(left, tmp_path, decode=True)["problem"] == "").all()
    assert f"{len(left)}\n" in capsys.readouterr().out


# --- files that change while they are used ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "change", ["gone", "a folder", "grown", "cut", "another image", "a link to itself"]
)
def test_a_file_that_changes_between_scan_and_reading_is_read_or_named(tmp_path, change):
    for i in range(4):
        draw_tiny("CNV", i).save(tmp_path / f"{i}.jpeg")
    table = pd.DataFrame(
        {"path": [f"{i}.jpeg" for i in range(4)], "split": "", "label": "A", "patient": ""},
        dtype="str",
    )
    loader = loaders.make(
        records.inspect(table, tmp_path), tmp_path, size=32, batch_size=2, workers=0
    )
    file = tmp_path / "2.jpeg"
    data = file.read_bytes()
    file.unlink()
    {
        "gone": lambda: None,
        "a folder": file.mkdir,
        "grown": lambda: file.write_bytes(data + data),
        "cut": lambda: file.write_bytes(data[:-9]),
        "another image": lambda: Image.fromarray(scene()).save(file),
        "a link to itself": lambda: file.symlink_to(file),
    }[change]()
    rows = [row for batch in loader for row in batch.rows.tolist()]
    whole = change in ("grown", "another image")
    assert rows == ([0, 1, 2, 3] if whole else [0, 1, 3]) and len(loader.unreadable) == (not whole)
