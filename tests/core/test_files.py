"""A reader finds the old file or the new one."""

import errno
import json
import os
import signal
import threading

import pytest
from processes import holding, python

from tlutils.core import files


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "recipe.json"
    files.write_text(path, "old")
    with pytest.raises(ZeroDivisionError), files.replacing(path) as part:
        part.write_bytes(b"half a")
        raise ZeroDivisionError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["recipe.json"]


def test_a_folder_where_a_file_is_to_be_written_is_refused_as_one(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder; give the name of a file"):
        files.write_text(tmp_path, "new")
    assert not list(tmp_path.parent.glob(".*.part"))


def test_a_folder_that_is_missing_is_made(tmp_path):
    files.write_text(tmp_path / "a" / "b" / "text.txt", "ä")
    assert (tmp_path / "a" / "b" / "text.txt").read_bytes() == b"\xc3\xa4"


def test_numbers_survive_their_json_and_nan_leaves_the_old_file(tmp_path):
    path, metrics = tmp_path / "metrics.json", {"accuracy": {"value": 0.1 + 0.2, "low": None}}
    files.write_json(path, metrics)
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(path, {"accuracy": float("nan")})
    assert json.loads(path.read_text()) == metrics


@pytest.mark.skipif(
    not os.path.exists("/dev/full"), reason="needs /dev/full, a device that is always full"
)
def test_a_full_disk_is_one_clear_error_and_the_old_file_stays(tmp_path):
    path = tmp_path / "recipe.json"
    files.write_text(path, "old")
    with (
        pytest.raises(OSError, match="Earlier results are intact"),
        files.replacing(path),
        open("/dev/full", "wb") as disk,
    ):
        disk.write(b"x" * 100000)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["recipe.json"]


@pytest.mark.parametrize(
    ("number", "todo"),
    [
        (errno.ENOSPC, "free some disk space, or choose another folder"),
        (errno.EACCES, "make the folder writable, or choose another folder"),
        (errno.ENOTDIR, "intact; choose another folder"),
    ],
)
def test_what_to_do_fits_what_keeps_a_file_from_being_written(number, todo, tmp_path):
    with pytest.raises(OSError, match=todo), files.replacing(tmp_path / "a.json"):
        raise OSError(number, os.strerror(number))


def test_a_folder_in_which_nothing_can_be_written_is_told_before_and_with_what_to_do(tmp_path):
    (tmp_path / "file").write_text("no folder")
    below = tmp_path / "file" / "a" / "b.json"
    told = "could not write .*hoose another folder, and run the same command again"
    with pytest.raises(OSError, match=told):
        files.check_writable(below.parent)
    with pytest.raises(OSError, match=told):
        files.write_text(below, "new")
    with pytest.raises(OSError, match=told), files.locked(below, "it"):
        pass
    files.check_writable(tmp_path / "a" / "b")
    assert os.listdir(tmp_path) == ["file"]
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OSError, match=told):
        files.check_writable(tmp_path / "link")


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock tmp_path/.lock."""
    with holding(tmp_path / ".lock") as job:
        yield job


def test_one_process_at_a_time_and_a_killed_one_holds_nothing(holder, tmp_path):
    locked = files.locked(tmp_path / ".lock", "the run oct")
    with pytest.raises(files.Busy, match="the run oct.*Wait until it has ended"), locked:
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with files.locked(tmp_path / ".lock", "the run oct"):
        pass


def test_a_lock_can_be_waited_for(holder, tmp_path):
    threading.Timer(0.3, holder.kill).start()
    with files.locked(tmp_path / ".lock", "it", timeout=30):
        assert holder.wait() != 0


def test_a_thread_may_hold_a_lock_twice_and_lets_go_of_it_also_after_an_error(tmp_path):
    lock = tmp_path / ".lock"
    with pytest.raises(ZeroDivisionError), files.locked(lock, "it"), files.locked(lock, "it"):
        raise ZeroDivisionError
    with holding(lock):
        pass


@pytest.mark.skipif(os.name == "nt", reason="asks after a process as POSIX does")
def test_what_a_killed_process_left_of_a_write_goes_with_the_next_one_and_what_lives_stays(
    tmp_path,
):
    write = (
        "import sys, os, signal; from tlutils.core import files\nwith files.replacing(sys.argv[1]) as part:\n"
        "    part.write_text('half a')\n    os.kill(os.getpid(), signal.SIGKILL)"
    )
    for name in ("a.json", "b.json", "a.json"):
        python("-c", write, tmp_path / name, check=False)
    assert len(os.listdir(tmp_path)) == 2  # one write of each was under way
    with files.replacing(tmp_path / "a.json") as part:
        part.write_text("first")
        files.write_text(tmp_path / "a.json", "second")
    files.write_text(tmp_path / "b.json", "whole")
    assert (
        sorted(os.listdir(tmp_path)) == ["a.json", "b.json"]
        and (tmp_path / "a.json").read_text() == "first"
    )
