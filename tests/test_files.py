"""A reader finds the old file or the new one."""

import os

import pytest

from tlutils import files


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "recipe.json"
    files.write_text(path, "old")
    with pytest.raises(ZeroDivisionError), files.replacing(path) as part:
        part.write_bytes(b"half a")
        1 / 0
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["recipe.json"]


def test_a_folder_that_is_missing_is_made(tmp_path):
    files.write_text(tmp_path / "a" / "b" / "text.txt", "ä")
    assert (tmp_path / "a" / "b" / "text.txt").read_bytes() == b"\xc3\xa4"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, a device that is always full")
def test_a_full_disk_is_one_clear_error_and_the_old_file_stays(tmp_path):
    path = tmp_path / "recipe.json"
    files.write_text(path, "old")
    with pytest.raises(OSError, match="Earlier results are intact"), files.replacing(path):
        with open("/dev/full", "wb") as disk:
            disk.write(b"x" * 100000)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["recipe.json"]
