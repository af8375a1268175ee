"""Checkpoints are whole or absent, plain, and safe to load."""

import os
import pickle

import pytest
import torch
from torch import nn

from tlutils import checkpoints, models


@pytest.fixture(scope="module")
def model():
    return models.build("resnet18", 2, "gap")


def test_a_saved_model_comes_back_as_it_was(model, tmp_path):
    checkpoints.save(tmp_path / "best.pt", model, ["a", "b"], epoch=3)
    again, content = checkpoints.load_model(tmp_path / "best.pt")
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(again(x), model.eval()(x))
    assert content["classes"] == ["a", "b"] and content["epoch"] == 3 and again.tl == model.tl
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in model.parameters()]


def test_wrappers_leave_no_prefix_in_the_keys(model, tmp_path):
    wrapped = nn.DataParallel(model)
    checkpoints.save(tmp_path / "w.pt", wrapped, ["a", "b"])
    assert checkpoints.load(tmp_path / "w.pt")["state"].keys() == model.state_dict().keys()
    assert list(checkpoints.normalised({"module._orig_mod.fc.weight": torch.ones(1)})) == ["fc.weight"]


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


def test_missing_damaged_and_foreign_files_are_told_apart(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        checkpoints.load(tmp_path / "none.pt")
    checkpoints.save(tmp_path / "cut.pt", model, ["a", "b"])
    with open(tmp_path / "cut.pt", "rb+") as file:
        file.truncate(1000)
    with pytest.raises(ValueError, match="damaged"):
        checkpoints.load(tmp_path / "cut.pt")
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="no checkpoint of tlutils"):
        checkpoints.load(tmp_path / "weights.pth")


def test_a_checkpoint_of_another_architecture_names_both(model, tmp_path):
    checkpoints.save(tmp_path / "best.pt", model, ["a", "b"])
    other = models.build("resnet18", 2, "linear")
    with pytest.raises(ValueError, match="'gap'.*'linear'"):
        checkpoints.restore(other, checkpoints.load(tmp_path / "best.pt"), "best.pt")
