"""Images in tar files: found by an index, read in place, and what is odd in a tar file refused by name."""

from __future__ import annotations

import os
import subprocess
import tarfile
import threading
from pathlib import Path

import processes
import pytest
from archives import make_tar, special
from data_builders import JPEG

from tlutils.core import images, tars


def tarred(path: Path, *items: tarfile.TarInfo | str, **how: int) -> Path:
    """A tar file of JPEGs under these names, or of whatever a TarInfo says."""
    return make_tar(path, [(item, JPEG) for item in items], **how)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_each_member_is_read_as_its_own_bytes_whatever_wrote_the_headers(form, tmp_path):
    names = ["CNV/a.jpg", "./CNV//b.jpg", f"{'long/' * 25}{'name' * 20}.jpg"]
    names += ["größe/ä.jpg"] if form != tarfile.USTAR_FORMAT else []
    shard = tarred(tmp_path / "x.tar", *names, form=form)
    found = tars.members(shard)
    assert [member.name for member in found] == [os.path.normpath(name) for name in names]
    assert {images.content(shard / member.name) for member in found} == {JPEG}
    assert images.state(shard / "CNV/a.jpg") == (len(JPEG), shard.stat().st_mtime_ns)


def test_gnu_tar_and_we_agree(tmp_path):
    (tmp_path / "in" / "CNV").mkdir(parents=True)
    (tmp_path / "in" / "CNV" / f"{'n' * 180}.jpg").write_bytes(JPEG)
    done = subprocess.run(["tar", "-cf", "x.tar", "-C", "in", "."], cwd=tmp_path)
    if done.returncode:
        pytest.skip("no tar on this machine")
    (member,) = tars.members(tmp_path / "x.tar")
    assert member.name == f"CNV/{'n' * 180}.jpg"
    assert images.content(tmp_path / "x.tar" / member.name) == JPEG


def test_what_could_misuse_an_extraction_has_a_problem_and_cannot_be_read(tmp_path):
    links = [("l.jpg", tarfile.SYMTYPE), ("h.jpg", tarfile.LNKTYPE)]
    odd = [special(name, kind, "/etc/passwd") for name, kind in links]
    odd += [special("dev.jpg", tarfile.CHRTYPE), special("pipe.jpg", tarfile.FIFOTYPE)]
    shard = tarred(tmp_path / "x.tar", "../up.jpg", "/abs.jpg", "a/../../b.jpg", *odd, "fine.jpg")
    told = {member.name.strip("'"): member.problem for member in tars.members(shard)}
    assert told.pop("fine.jpg") == "" and all(told.values()) and len(told) == 7
    assert told["../up.jpg"] == told["/abs.jpg"] == "its name leads out of the folder"
    assert told["l.jpg"] == told["h.jpg"] == "a link" and told["dev.jpg"] == "no file"
    for name in told:
        with pytest.raises(images.UnreadableImage):
            images.content(f"{shard}/{name}")
    assert tars.members(shard) == tars.members(shard), "the index keeps the problems"


def test_a_sparse_member_has_a_problem(tmp_path):
    with open(tmp_path / "hole.jpg", "wb") as file:
        file.truncate(2**20)
        file.seek(2**20)
        file.write(JPEG)
    done = subprocess.run(["tar", "-Scf", "x.tar", "hole.jpg"], cwd=tmp_path)
    if done.returncode:
        pytest.skip("no tar that writes sparse members on this machine")
    assert [member.problem for member in tars.members(tmp_path / "x.tar")] == ["a sparse file"]


def test_of_two_members_of_one_name_the_last_counts(tmp_path):
    shard = tarred(tmp_path / "x.tar", "a.jpg", "b.jpg", "a.jpg")
    first, last = tars.members(shard)
    assert (first.name, last.name) == ("b.jpg", "a.jpg") and last.offset > first.offset


@pytest.mark.parametrize("left", [0, 300, 700, 1600, None])
def test_a_tar_file_cut_short_names_itself(left, tmp_path):
    shard = tarred(tmp_path / "cut.tar", "a.jpg", "b.jpg", "c.jpg")
    last = tars.members(shard)[-1]
    Path(f"{shard}.csv").unlink()
    padded = last.offset + -(-last.length // 512) * 512  # the end mark alone is away
    shard.write_bytes(shard.read_bytes()[: padded if left is None else left])
    with pytest.raises(ValueError, match=r"cut.tar is no whole, uncompressed tar file"):
        tars.members(shard)
    with pytest.raises(images.UnreadableImage, match=r"cut\.tar"):
        images.content(shard / "a.jpg")
    assert not Path(f"{shard}.csv").exists()


@pytest.mark.parametrize("at, value", [(124, b"77777777777\0"), (124, b"\xff" * 12), (148, b"x")])
def test_a_header_that_lies_is_no_member(at, value, tmp_path):
    shard = tarred(tmp_path / "x.tar", "a.jpg", "b.jpg")
    whole = bytearray(shard.read_bytes())
    start = 512 * (1 + -(-len(JPEG) // 512))  # of the second header
    whole[start + at : start + at + len(value)] = value
    if at == 124:  # the sum is right, the size is not
        whole[start + 148 : start + 156] = b" " * 8
        whole[start + 148 : start + 156] = b"%06o\0 " % sum(whole[start : start + 512])
    shard.write_bytes(whole)
    with pytest.raises(ValueError, match="x.tar is no whole"):
        tars.members(shard)


def test_a_size_in_a_pax_header_that_points_back_ends_in_an_error(tmp_path):
    info = tarfile.TarInfo("a.jpg")
    info.pax_headers = {"size": "-2048"}
    shard = tarred(tmp_path / "x.tar", info, "b.jpg")
    with pytest.raises(ValueError, match="x.tar is no whole"):
        tars.members(shard)


def test_a_compressed_tar_file_is_refused(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.jpg"))
    with pytest.raises(ValueError, match="gunzip"):
        tars.members(tmp_path / "x.tar")


def test_the_index_is_made_anew_when_the_tar_file_is_another(tmp_path):
    shard = tarred(tmp_path / "x.tar", "a.jpg")
    assert images.content(shard / "a.jpg") == JPEG
    tarred(shard, "first.jpg", "a.jpg")
    os.utime(shard, ns=(1, 1))
    assert [member.name for member in tars.members(shard)] == ["first.jpg", "a.jpg"]
    assert images.content(shard / "a.jpg") == images.content(shard / "first.jpg") == JPEG


@pytest.mark.parametrize(
    "text",
    [b"", b"member,offset\n", b"\xff\xfe", b"member,offset,length,problem\n,1,2,\na.jpg,0\n"],
)
def test_a_damaged_index_is_made_anew(text, tmp_path):
    shard = tarred(tmp_path / "x.tar", "a.jpg")
    tars.members(shard)
    index = Path(f"{shard}.csv")
    good = index.read_bytes()
    index.write_bytes(text)
    assert [member.name for member in tars.members(shard)] == ["a.jpg"]
    assert index.read_bytes() == good


def test_a_process_killed_while_it_writes_an_index_leaves_none_and_the_next_makes_it(tmp_path):
    shard = tarred(tmp_path / "x.tar", "a.jpg")
    code = (
        "import os, signal, tlutils.core.files as files\n"
        "from tlutils.core import tars\n"
        "os.fsync = lambda number: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"tars.members({str(shard)!r})"
    )
    done = processes.python("-c", code, check=False)
    left = [path.name for path in tmp_path.iterdir() if path.suffix == ".part"]
    assert done.returncode == -9 and len(left) == 1 and not Path(f"{shard}.csv").exists()
    assert [member.name for member in tars.members(shard)] == ["a.jpg"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.tar", "x.tar.csv"]


def test_in_a_folder_one_may_only_read_images_are_read_all_the_same(tmp_path):
    shard = tarred(tmp_path / "x.tar", "a.jpg")
    (tmp_path / "x.tar.csv").mkdir()  # nothing can be written there, whoever runs this
    assert images.content(shard / "a.jpg") == JPEG


def test_a_folder_may_be_called_like_a_tar_file(tmp_path):
    (tmp_path / "x.tar").mkdir()
    (tmp_path / "x.tar" / "a.jpg").write_bytes(JPEG)
    shard = tarred(tmp_path / "x.tar" / "y.tar", "z.tar/b.jpg")
    assert images.content(tmp_path / "x.tar" / "a.jpg") == JPEG
    assert images.content(shard / "z.tar" / "b.jpg") == JPEG


def test_what_is_not_there_is_named_as_a_missing_file_is(tmp_path):
    shard = tarred(tmp_path / "x.tar", "a.jpg")
    assert images.state(shard / "b.jpg") is images.state(tmp_path / "y.tar" / "b.jpg") is None
    with pytest.raises(images.UnreadableImage, match=r"no such file in x\.tar"):
        images.content(shard / "b.jpg")
    with pytest.raises(images.UnreadableImage, match="No such file"):
        images.content(tmp_path / "y.tar" / "a.jpg")


def test_many_threads_read_many_tar_files_through_few_open_ones(tmp_path):
    shards = [tarred(tmp_path / f"{i}.tar", "a.jpg", "b.jpg") for i in range(150)]
    wrong = []

    def read() -> None:
        for shard in shards * 2:
            wrong.extend(
                name for name in ("a", "b") if images.content(shard / f"{name}.jpg") != JPEG
            )

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    if Path("/proc/self/fd").exists():
        opened = [os.path.realpath(path) for path in Path("/proc/self/fd").iterdir()]
        assert sum(name.startswith(str(tmp_path)) for name in opened) <= 128
