"""Checkpoints are whole or absent, plain, and safe to load."""

import os
import pickle
import random
import zipfile

import pytest
import torch
from small_runs import begin, command, small
from torch import nn

from tlutils import __main__
from tlutils.core import devices
from tlutils.models import checkpoints
from tlutils.models.build import build
from tlutils.models.weights import without_prefixes
from tlutils.training.loop import State
from tlutils.training.options import Options


@pytest.fixture(scope="module")
def model():
    return build("resnet18", 2, "gap")


def test_a_saved_model_comes_back_as_it_was(model, tmp_path):
    checkpoints.save(tmp_path / "best.pt", model, ["a", "b"], epoch=3)
    again, content = checkpoints.load_model(tmp_path / "best.pt")
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(again(x), model.eval()(x))
    assert content["classes"] == ["a", "b"] and content["epoch"] == 3 and again.tl == model.tl
    assert [p.requires_grad for p in again.parameters()] == [
        p.requires_grad for p in model.parameters()
    ]


def test_a_fingerprint_is_that_of_the_weights_and_of_nothing_else(model, tmp_path):
    for name, more in (("a", {"threshold": 0.2}), ("b", {"epoch": 3})):
        checkpoints.save(tmp_path / name, model, ["a", "b"], **more)
    one, other = (checkpoints.load(tmp_path / name) for name in "ab")
    assert checkpoints.fingerprint(one) == checkpoints.fingerprint(other)
    other["state"]["conv1.weight"].view(-1)[0] += 1
    assert checkpoints.fingerprint(one) != checkpoints.fingerprint(other)


def test_wrappers_leave_no_prefix_in_the_keys(model, tmp_path):
    wrapped = nn.DataParallel(model)
    checkpoints.save(tmp_path / "w.pt", wrapped, ["a", "b"])
    assert checkpoints.load(tmp_path / "w.pt")["state"].keys() == model.state_dict().keys()
    compiled = {"module._orig_mod.fc.weight": torch.ones(1)}
    assert list(without_prefixes(compiled)) == ["fc.weight"] and without_prefixes({}) == {}


def test_a_checkpoint_that_has_the_heads_old_name_is_read(tmp_path):
    model = build("resnet18", 2, "mlp")
    model.tl["head"] = "article"
    checkpoints.save(tmp_path / "best.pt", model, ["a", "b"])
    again, content = checkpoints.load_model(tmp_path / "best.pt")
    assert again.tl["head"] == content["model"]["head"] == "mlp"
    assert torch.equal(again.fc[0].weight, model.fc[0].weight)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_checkpoint_that_would_run_code_is_refused_and_does_not(tmp_path):
    torch.save({"format": 1, "state": Evil(tmp_path / "ran")}, tmp_path / "evil.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    for name in ("evil.pt", "raw.pt"):
        with pytest.raises(ValueError, match="could run code and is refused"):
            checkpoints.load(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_the_command_line_refuses_a_checkpoint_that_would_run_code_with_exit_code_2(
    tiny_folder, tmp_path, said
):
    begin(tiny_folder, tmp_path, small(views="1"))
    torch.save({"settings": {}, "history": Evil(tmp_path / "ran")}, tmp_path / "last.pt")
    assert __main__.main(command(tiny_folder, tmp_path, "--store", "none")) == 2
    message = said()[1]
    assert (
        "last.pt cannot be loaded" in message
        and "could run code and is refused" in message
        and "delete it" in message
    )
    assert not (tmp_path / "ran").exists()


def test_a_small_file_that_would_fill_the_memory_is_refused(model, tmp_path):
    checkpoints.save(tmp_path / "best.pt", model, ["a", "b"], padding=torch.zeros(20_000_000))
    with (
        zipfile.ZipFile(tmp_path / "best.pt") as plain,
        zipfile.ZipFile(
            tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED, compresslevel=1
        ) as packed,
    ):
        for info in plain.infolist():
            content = plain.read(info)
            packed.writestr(
                info,
                bytes(len(content)) if "/data/" in info.filename else content,
                zipfile.ZIP_DEFLATED,
            )
    with pytest.raises(
        ValueError,
        match="packed.pt cannot be loaded.*would take .* bytes, more than 10 times the file",
    ):
        checkpoints.load(tmp_path / "packed.pt")


def test_a_small_file_of_one_number_seen_a_million_times_is_refused(tmp_path):
    state = {"fc.weight": torch.zeros(1).expand(1_000_000, 512)}
    checkpoints.write(
        tmp_path / "best.pt", {"format": 1, "model": {}, "classes": ["a", "b"], "state": state}
    )
    with pytest.raises(
        ValueError,
        match="best.pt is refused: its tensors would take .* more than 10 times the file",
    ):
        checkpoints.load_model(tmp_path / "best.pt")


@pytest.mark.parametrize("legacy", [False, True])
def test_whatever_is_wrong_with_a_file_is_told_in_one_way(tmp_path, legacy):
    draw, path = random.Random(0), tmp_path / "last.pt"
    torch.save(
        {"a": torch.ones(9), "b": [1, "x", {"c": 0.5}]},
        path,
        _use_new_zipfile_serialization=not legacy,
    )
    whole, refused = path.read_bytes(), 0
    for turn in range(150):
        content = bytearray(whole[: draw.randrange(len(whole))] if turn % 2 else whole)
        for _ in range(draw.randint(0, 5) if content else 0):
            content[draw.randrange(len(content))] = draw.randrange(256)
        path.write_bytes(content)
        try:
            checkpoints.read(path)  # a changed number is no damage that can be seen
        except ValueError as error:
            assert str(error).startswith(f"{path} cannot be loaded as a checkpoint")
            refused += 1
    assert refused > 75


@pytest.mark.parametrize("content", [{}, [1, 2], {"history": [], "state": {}}])
def test_a_file_that_holds_no_training_is_refused_by_training(model, content, tmp_path):
    checkpoints.write(tmp_path / "last.pt", content)
    state = State(model, model, Options(), devices.choose("cpu", "fp32"), torch.ones(2))
    with pytest.raises(ValueError, match="no state of a training that can go on.*last.pt"):
        state.resume(tmp_path / "last.pt")


def test_missing_damaged_and_foreign_files_are_told_apart(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        checkpoints.load(tmp_path / "none.pt")
    checkpoints.save(tmp_path / "cut.pt", model, ["a", "b"])
    with open(tmp_path / "cut.pt", "rb+") as file:
        file.truncate(1000)
    with pytest.raises(ValueError, match="damaged"):
        checkpoints.load(tmp_path / "cut.pt")
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    torch.save(
        {"format": 1, "state": {}, "classes": [], "model": {"backbone": "vgg16"}},
        tmp_path / "half.pth",
    )
    with pytest.raises(ValueError, match="no checkpoint of tlutils"):
        checkpoints.load(tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="how to build.*n_classes"):
        checkpoints.load_model(tmp_path / "half.pth")


def test_a_checkpoint_of_another_architecture_names_both(model, tmp_path):
    checkpoints.save(tmp_path / "best.pt", model, ["a", "b"])
    other = build("resnet18", 2, "linear")
    with pytest.raises(ValueError, match="'gap'.*'linear'"):
        checkpoints.restore(other, checkpoints.load(tmp_path / "best.pt"), "best.pt")
