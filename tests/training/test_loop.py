"""The training loop: what moves, what stays, when it stops, how it goes on."""

import json
import math
import shutil
import signal
import warnings
import weakref

import numpy as np
import pandas as pd
import patches
import pytest
import torch

from tlutils.core import devices
from tlutils.data import loaders
from tlutils.data.augment import Augmentation
from tlutils.evaluation.acquisition import Acquisition
from tlutils.evaluation.predict import predict, predict_changed
from tlutils.models import checkpoints
from tlutils.models.build import build
from tlutils.training import loop, monitors
from tlutils.training.loop import TrainingError, fit

FP32 = devices.choose("cpu", "fp32")
VIEWS = Augmentation(crop=(0.7, 1.0), flip=0.5)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two classes of noise, one with a bright patch, in a folder; and its table."""
    folder = tmp_path_factory.mktemp("images")
    return folder, patches.draw(folder, 72, 32)


@pytest.fixture
def parts(data):
    return patches.parts(*data, 32, at=48)


def net(freeze="all", head="gap"):
    """It has BatchNorm too, in a tenth of the numbers of a ResNet."""
    return build("shufflenet_v2_x0_5", 2, head, freeze=freeze)


def quiet_fit(model, parts, **settings):
    return fit(model, parts, **{"machine": FP32, "log": None, "show": False, **settings})


def same(a, b):
    a, b = (m if isinstance(m, dict) else m.state_dict() for m in (a, b))
    return all(torch.equal(a[key], b[key]) for key in a)


def test_a_frozen_net_with_a_new_head_learns(parts):
    model = net()
    done = quiet_fit(model, parts, epochs=12, patience=0, learning_rate=3e-3)
    assert done.history["train_loss"].iloc[-1] < 0.7 * done.history["train_loss"].iloc[0]
    assert done.history["val_accuracy"].max() >= 0.9


def test_a_training_that_diverges_is_told_of_once_though_its_loss_is_a_number(parts):
    with pytest.warns(UserWarning, match="far above that of guessing: .* smaller learn") as told:
        quiet_fit(net(), parts, epochs=3, patience=0, learning_rate=1e6)
    assert sum("diverged" in str(one.message) for one in told) == 1


def test_the_history_holds_one_row_an_epoch_with_the_promised_columns(parts):
    done = quiet_fit(net(), parts, epochs=2)
    assert done.history["epoch"].tolist() == [1, 2]
    assert {
        "train_loss",
        "train_accuracy",
        "val_loss",
        "val_accuracy",
        "learning_rate",
        "seconds",
        "images_per_second",
        "where",
    } <= set(done.history.columns)


def test_losses_and_accuracies_are_means_over_images_not_over_batches(data):
    folder, table = data
    uneven = loaders.make(table[48:], folder, ["noise", "patch"], 32, batch_size=16, workers=0)
    assert (
        len(
            {
                len(b.rows)
                for b in loaders.make(table[:23], folder, size=32, batch_size=12, workers=0)
            }
        )
        == 2
    )
    parts = {
        "train": loaders.make(table[:23], folder, ["noise", "patch"], 32, batch_size=12, workers=0),
        "val": uneven,
    }
    model = net()
    done = quiet_fit(model, parts, epochs=1)
    from tlutils.data.augment import normalize

    images = torch.cat([b.images for b in uneven])
    labels = torch.cat([b.labels for b in uneven])
    with torch.inference_mode():
        outputs = model(normalize(images))
    assert math.isclose(
        done.history["val_loss"][0],
        torch.nn.functional.cross_entropy(outputs, labels).item(),
        rel_tol=1e-4,
    )
    assert math.isclose(
        done.history["val_accuracy"][0], (outputs.argmax(1) == labels).double().mean().item()
    )


@pytest.mark.parametrize("freeze", ["all", "up to layer2", "up to bn1"])
@pytest.mark.parametrize("store", [None, "store"])
def test_frozen_weights_and_batchnorm_statistics_do_not_move_and_the_others_do(
    parts, tmp_path, freeze, store
):
    model = build("resnet18", 2, "gap", freeze=freeze)
    before = checkpoints.copy_of_state(model)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    quiet_fit(model, parts, epochs=1, store=store and tmp_path)
    after = model.state_dict()
    for name, _ in model.named_parameters():
        assert torch.equal(before[name], after[name]) == (name in frozen), name
    for name in (n for n in before if n.endswith("running_mean")):
        assert torch.equal(before[name], after[name]) == (
            name.replace("running_mean", "weight") in frozen
        ), name


def test_training_from_the_store_equals_training_without_it(parts, tmp_path):
    settings = {"epochs": 4, "views": 2, "augmentation": VIEWS, "patience": 0}
    plain, stored = net(), net()
    a = quiet_fit(plain, parts, **settings)
    b = quiet_fit(stored, parts, store=tmp_path, **settings)
    assert set(a.history["where"]) == {"files"} and set(b.history["where"]) == {"store"}
    assert np.allclose(a.history["train_loss"], b.history["train_loss"], atol=1e-4)
    assert np.allclose(a.history["val_loss"], b.history["val_loss"], atol=1e-4)
    for (name, x), y in zip(plain.state_dict().items(), stored.state_dict().values()):
        assert torch.allclose(x.float(), y.float(), atol=1e-4), name


def test_the_store_runs_the_frozen_part_once_for_each_view(parts, tmp_path):
    done = quiet_fit(
        net(), parts, epochs=5, views=2, augmentation=VIEWS, patience=0, store=tmp_path
    )
    filled = done.history["store_seconds"] > 0
    assert filled.tolist() == [True, True, False, False, False]


def test_training_is_repeatable(parts):
    a, b = (quiet_fit(net(), parts, epochs=2, augmentation=VIEWS, views=0) for _ in range(2))
    assert same(a.model, b.model) and a.history["train_loss"].equals(b.history["train_loss"])


class Killed(Exception):
    pass


@pytest.mark.parametrize("store", [None, "store"])
@pytest.mark.parametrize("freeze", ["all", "none"])
def test_a_killed_run_ends_with_the_same_weights_as_one_that_was_not(
    parts, tmp_path, freeze, store
):
    settings = {
        "epochs": 4,
        "patience": 0,
        "views": 2,
        "augmentation": VIEWS,
        "schedule": "cosine",
        "store": store and tmp_path / "store",
    }
    straight = quiet_fit(net(freeze), parts, **settings)

    def die(line):
        if "epoch  2" in line:
            raise Killed

    with pytest.raises(Killed), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(
            net(freeze),
            parts,
            machine=FP32,
            log=die,
            show=False,
            checkpoint=tmp_path / "last.pt",
            **settings,
        )
    resumed = quiet_fit(net(freeze), parts, checkpoint=tmp_path / "last.pt", **settings)
    assert same(straight.model, resumed.model)
    assert straight.history["val_loss"].equals(resumed.history["val_loss"])


def test_each_epoch_is_told_once_after_it_is_saved_also_over_a_break(parts, tmp_path):
    told, settings = [], {"epochs": 3, "patience": 0, "checkpoint": tmp_path / "last.pt"}

    def tell(row):
        told.append(row)
        if row["epoch"] == 2:
            raise Killed

    with pytest.raises(Killed):
        quiet_fit(net(), parts, on_epoch_end=tell, **settings)
    done = quiet_fit(net(), parts, on_epoch_end=tell, **settings)
    pd.testing.assert_frame_equal(pd.DataFrame(told), done.history)
    assert {type(value) for row in told for value in row.values()} <= {int, float, str}


def test_a_finished_run_is_not_trained_again(parts, tmp_path):
    first = quiet_fit(net(), parts, epochs=2, checkpoint=tmp_path / "last.pt")
    again = quiet_fit(net(), parts, epochs=2, checkpoint=tmp_path / "last.pt")
    assert same(first.model, again.model) and len(again.history) == 2


def test_a_finished_run_can_be_trained_longer(parts, tmp_path):
    quiet_fit(net(), parts, epochs=2, checkpoint=tmp_path / "last.pt", patience=0)
    longer = quiet_fit(net(), parts, epochs=4, checkpoint=tmp_path / "last.pt", patience=0)
    straight = quiet_fit(net(), parts, epochs=4, patience=0)
    assert same(longer.model, straight.model)


@pytest.mark.parametrize(
    ("change", "named"), [({"learning_rate": 0.5}, "learning_rate"), ({"seed": 3}, "seed")]
)
def test_a_checkpoint_of_other_settings_is_refused(parts, tmp_path, change, named):
    quiet_fit(net(), parts, epochs=1, checkpoint=tmp_path / "last.pt")
    with pytest.raises(ValueError, match=named):
        quiet_fit(net(), parts, epochs=2, checkpoint=tmp_path / "last.pt", **change)


def test_a_checkpoint_of_another_model_is_refused(parts, tmp_path):
    quiet_fit(net(), parts, epochs=1, checkpoint=tmp_path / "last.pt")
    with pytest.raises(ValueError, match="head"):
        quiet_fit(net(head="linear"), parts, epochs=2, checkpoint=tmp_path / "last.pt")


def test_a_checkpoint_with_names_of_before_is_gone_on_from(parts, tmp_path):
    how = {"patience": 0, "optimizer": "sgd", "checkpoint": tmp_path / "last.pt"}
    quiet_fit(net(head="mlp"), parts, epochs=1, **how)
    saved = checkpoints.read(tmp_path / "last.pt")
    for values in (saved, saved["settings"]):
        values["optimiser"] = values.pop("optimizer")
    saved["model"]["head"] = "article"
    checkpoints.write(tmp_path / "last.pt", saved)
    resumed = quiet_fit(net(head="mlp"), parts, epochs=2, **how)
    straight = quiet_fit(net(head="mlp"), parts, epochs=2, **how | {"checkpoint": None})
    assert same(resumed.model, straight.model) and len(resumed.history) == 2


def test_a_checkpoint_from_before_an_option_existed_stands_for_its_default(parts, tmp_path):
    how = {"patience": 0, "checkpoint": tmp_path / "last.pt"}
    quiet_fit(net(), parts, epochs=1, **how)
    saved = checkpoints.read(tmp_path / "last.pt")
    del saved["settings"]["min_delta"], saved["settings"]["augmentation"]["gamma"]
    checkpoints.write(tmp_path / "last.pt", saved)
    with pytest.raises(ValueError, match="min_delta: 0.0 in the folder, 0.5 requested"):
        quiet_fit(net(), parts, epochs=2, min_delta=0.5, **how)
    resumed = quiet_fit(net(), parts, epochs=2, **how)
    straight = quiet_fit(net(), parts, epochs=2, patience=0)
    assert same(resumed.model, straight.model) and len(resumed.history) == 2


def test_early_stopping_waits_for_patience_and_restores_the_best_epoch(parts):
    model = net("none", "linear")
    done = quiet_fit(model, parts, epochs=30, patience=2, learning_rate=0.3, optimizer="sgd")
    best = done.history["val_loss"].idxmin()
    assert done.best_epoch == best + 1 and len(done.history) in (30, best + 3)
    again = quiet_fit(
        net("none", "linear"),
        parts,
        epochs=done.best_epoch,
        patience=0,
        learning_rate=0.3,
        optimizer="sgd",
    )
    assert math.isclose(
        again.history["val_loss"].iloc[-1], done.history["val_loss"][best], rel_tol=1e-6
    )
    assert same(done.model, again.model)


def test_min_delta_counts_only_real_improvements(parts):
    done = quiet_fit(net(), parts, epochs=9, patience=2, learning_rate=1e-6, min_delta=0.5)
    assert done.best_epoch == 1 and len(done.history) == 3 and "stopped early" in done.stopped


STRESSED = {"monitor": "stress_auc", "patience": 0}


class Changeable(torch.nn.Module):
    """A net that looks at the mean brightness until its weight exceeds -2.5, at the contrast from then on.

    It learns nothing but that weight, which rises by up to 0.6 an epoch.
    """

    def __init__(self):
        super().__init__()
        self.weight, self.tl = torch.nn.Parameter(torch.tensor(-4.0)), {}

    def forward(self, x):
        seen = x[:, 0].mean((1, 2)) if self.weight < -2.5 else x[:, 0].std((1, 2))
        score = self.weight.expand(len(x)) if self.training else seen
        return torch.stack([-score, score], 1)


def test_stressed_validation_chooses_another_epoch_where_plain_validation_finds_all_perfect(parts):
    how = {"epochs": 5, "patience": 0, "optimizer": "sgd", "learning_rate": 0.2, "momentum": 0.0}
    plain = quiet_fit(Changeable(), parts, monitor="val_auc", **how)
    stressed = quiet_fit(Changeable(), parts, monitor="stress_auc", **how)
    assert plain.history["val_auc"].eq(1.0).all() and plain.best_epoch == 1
    found, changes = stressed.history["stress_auc"], plain.model.weight < -2.5
    assert changes and stressed.model.weight >= -2.5 and found[0] < found.iloc[-1]
    assert stressed.best_epoch == found.idxmax() + 1 > 1
    # What is seen of the unchanged images is what it was, and the views are counted.
    assert stressed.history["val_loss"].equals(plain.history["val_loss"])
    assert stressed.history["stress_images"].eq(4 * 24).all()
    assert not any(name.startswith("stress") for name in plain.history)


def test_stressed_validation_is_of_the_changes_dealt_to_each_image(data, parts):
    settings = {"epochs": 1, "stress_views": 3, **STRESSED, "learning_rate": 1e-9}
    done = quiet_fit(net(), parts, **settings)
    known = data[1][48:].assign(patient="")
    loader = loaders.make(known, data[0], ["noise", "patch"], 32, batch_size=7, workers=0)
    table = predict_changed(done.model, loader, Acquisition(), 3, FP32, progress=False)
    scores = table[["p_noise", "p_patch"]].to_numpy()
    expected = monitors.score("stress_auc", scores, (table["label"] == "patch").to_numpy(int))
    assert done.history["stress_auc"].item() == pytest.approx(expected, abs=1e-6)
    assert done.history["stress_loss"].item() == pytest.approx(table["loss"].mean(), rel=1e-4)
    assert done.history["stress_images"].item() == len(table) == 3 * 24


@pytest.mark.parametrize("views", [1, 4])
def test_stressed_validation_from_the_store_equals_that_without_it(parts, tmp_path, views):
    settings = {"epochs": 3, "views": 1, "stress_views": views, **STRESSED}
    plain = quiet_fit(net(), parts, **settings)
    stored = quiet_fit(net(), parts, store=tmp_path, **settings)
    for column in ("stress_loss", "stress_auc", "val_loss"):
        assert np.allclose(plain.history[column], stored.history[column], atol=1e-4), column
    filled = stored.history["store_seconds"] > 0
    assert stored.store and filled.tolist() == [True, False, False]
    kept = [json.loads(file.read_text()) for file in tmp_path.glob("*/store.json")]
    assert {"noise", "left_25"} <= set(
        next(one for one in kept if "changes" in one["augmentation"])["augmentation"]["changes"]
    )


def test_a_training_chosen_by_stress_goes_on_as_if_it_had_not_been_stopped(parts, tmp_path):
    straight = quiet_fit(net("none"), parts, epochs=3, views=0, **STRESSED)
    how = {"schedule": "constant", "views": 0, "checkpoint": tmp_path / "last.pt", **STRESSED}
    quiet_fit(net("none"), parts, epochs=1, **how)
    resumed = quiet_fit(net("none"), parts, epochs=3, **how)
    assert same(straight.model, resumed.model)
    assert straight.history["stress_auc"].equals(resumed.history["stress_auc"])
    with pytest.raises(ValueError, match="stress_views: 4 in the folder, 2 requested"):
        quiet_fit(net("none"), parts, epochs=4, **how | {"stress_views": 2})


def test_a_small_validation_set_draws_a_warning_where_it_chooses_the_epoch(parts):
    how = {"machine": FP32, "log": None, "show": False}
    with pytest.warns(
        UserWarning, match="24 images.*4.2 points.*100 images or more.*the recipe's val"
    ):
        fit(net(), parts, **how, epochs=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(net(), parts, **how, epochs=4, monitor="train_loss")
        fit(net(), parts, **how, epochs=2)


def test_without_validation_it_says_so_and_keeps_the_last_epoch(parts):
    with pytest.warns(UserWarning, match="no validation set"):
        done = quiet_fit(net(), {"train": parts["train"]}, epochs=3, learning_rate=0.5)
    assert done.best_epoch == 3 and done.history["val_loss"].isna().all()


def test_a_loss_that_is_no_number_stops_with_advice(parts):
    with pytest.raises(TrainingError, match="learning_rate"):
        quiet_fit(net("none", "linear"), parts, epochs=3, learning_rate=1e9, optimizer="sgd")


class Hungry(torch.nn.Module):
    """A net that has memory for a few images only, and says so as CUDA does."""

    def __init__(self, most):
        super().__init__()
        self.most, self.layer, self.tl = most, torch.nn.Linear(3, 2), {}

    def forward(self, x):
        if self.training and len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.layer(x.mean((2, 3)))


def test_out_of_memory_names_the_batch_and_a_smaller_one(parts):
    with pytest.raises(TrainingError, match="16 images at once.*batch_size=8"):
        quiet_fit(Hungry(5), parts, epochs=1)


def test_micro_batch_auto_finds_what_fits_and_trains_the_same(parts):
    torch.manual_seed(0)
    small, large = Hungry(5), Hungry(1000)
    large.load_state_dict(small.state_dict())
    a = quiet_fit(small, parts, epochs=2, micro_batch="auto")
    b = quiet_fit(large, parts, epochs=2)
    assert np.allclose(a.history["train_loss"], b.history["train_loss"], rtol=1e-5)
    assert torch.allclose(small.layer.weight, large.layer.weight, atol=1e-6)


def test_bf16_trains_about_as_fp32_does(parts):
    a = quiet_fit(net(), parts, epochs=3, patience=0)
    b = quiet_fit(net(), parts, epochs=3, patience=0, machine=devices.choose("cpu", "bf16"))
    assert np.allclose(a.history["val_loss"], b.history["val_loss"], atol=0.05)


def test_what_a_store_keeps_is_not_rounded_unless_that_is_asked_for(parts, tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "_natural_precision", lambda _: ("bf16", "has it"))
    quiet_fit(net(), parts, epochs=1, machine=None, store=tmp_path)
    kept = [json.loads(file.read_text()) for file in tmp_path.rglob("store.json")]
    assert len(kept) == 2 and {one["precision"] for one in kept} == {"fp32"}


def test_one_line_an_epoch_is_logged_and_no_bar_where_nobody_watches(parts, capsys):
    lines = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(net(), parts, machine=FP32, log=lines.append, epochs=2)
    assert sum(line.startswith("epoch") for line in lines) == 2
    assert "\r" not in capsys.readouterr().err


def test_a_stepped_schedule_is_really_stepped(parts):
    done = quiet_fit(net(), parts, epochs=3, patience=0, schedule="step:2:0.1")
    assert np.allclose(done.history["learning_rate"], [1e-3, 1e-3, 1e-4])


def test_a_batch_of_which_nothing_can_be_read_is_passed_over(data, tmp_path):
    folder, table = data
    gone = pd.concat(
        [table[:32], pd.DataFrame({"path": [f"gone-{i}.png" for i in range(16)], "label": "noise"})]
    )
    train = loaders.make(
        gone.reset_index(drop=True), folder, ["noise", "patch"], 32, batch_size=16, workers=0
    )
    with pytest.warns(UserWarning, match="saw 32 of 48"):
        done = quiet_fit(net(), {"train": train}, epochs=1, views=1, store=tmp_path)
    assert len(done.unreadable) == 16 and math.isfinite(done.history["train_loss"][0])


class Outage:
    """Validation images that a disk fails to give: all but the `left` that a model finds easiest.

    Their mean loss is the lowest that an epoch could have, so whoever looks at the number alone chooses that epoch.
    """

    def __init__(self, data, folder, left=4):
        shutil.copytree(data[0], folder)
        self.folder, self.table = folder, data[1].assign(patient="")
        self.parts = {
            name: loaders.make(part, folder, ["noise", "patch"], 32, batch_size=16, workers=0)
            for name, part in (("train", self.table[:48]), ("val", self.table[48:]))
        }
        easiest = predict(net(), self.parts["val"], FP32).sort_values("loss")["path"]
        self.hidden = easiest.iloc[left:].tolist()

    def begin(self):
        for name in self.hidden:
            (self.folder / name).rename(self.folder / f"{name}.away")

    def end(self):
        for name in self.hidden:
            (self.folder / f"{name}.away").rename(self.folder / name)

    def fit(self, before: dict, **settings):
        """Train so slowly that nothing changes, with what shall happen before epochs."""

        def log(line):
            done = int(line.split()[1]) if line.startswith("epoch") else None
            before.get(done, lambda: None)()

        before.get(0, lambda: None)()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return fit(
                net(),
                self.parts,
                machine=FP32,
                log=log,
                show=False,
                learning_rate=1e-9,
                patience=0,
                **settings,
            )


def test_an_epoch_that_saw_fewer_validation_images_is_never_the_best(data, tmp_path):
    outage = Outage(data, tmp_path / "images")
    done = outage.fit({1: outage.begin, 2: outage.end}, epochs=4)
    assert done.history["val_images"].tolist() == [24, 4, 24, 24]
    assert done.history["val_loss"].idxmin() == 1 and done.best_epoch != 2


def test_an_epoch_that_saw_more_validation_images_than_the_best_takes_its_place(data, tmp_path):
    outage = Outage(data, tmp_path / "images")
    done = outage.fit({0: outage.begin, 2: outage.end}, epochs=4, min_delta=0.5)
    assert done.history["val_images"].tolist() == [4, 4, 24, 24] and done.best_epoch == 3


@pytest.mark.parametrize("outage_first", [True, False])
def test_how_many_validation_images_an_epoch_saw_is_known_after_a_break_too(
    data, tmp_path, outage_first
):
    outage, settings = (
        Outage(data, tmp_path / "images"),
        {"checkpoint": tmp_path / "last.pt", "min_delta": 0.5},
    )
    outage.fit({0: outage.begin} if outage_first else {}, epochs=1, **settings)
    done = outage.fit({0: outage.end if outage_first else outage.begin}, epochs=2, **settings)
    assert done.history["val_images"].tolist() == ([4, 24] if outage_first else [24, 4])
    assert done.best_epoch == (2 if outage_first else 1)


@pytest.mark.parametrize(("part", "rows"), [("train", slice(0, 48)), ("val", slice(48, 72))])
def test_an_epoch_that_saw_nothing_ends_training_and_the_epochs_before_are_kept(
    data, tmp_path, part, rows
):
    outage = Outage(data, tmp_path / "images")
    outage.hidden = outage.table["path"][rows].tolist()
    with pytest.raises(TrainingError, match=f"none of the .* {part} images could be read"):
        outage.fit({1: outage.begin}, epochs=3, checkpoint=tmp_path / "last.pt")
    outage.end()
    done = outage.fit({}, epochs=3, checkpoint=tmp_path / "last.pt")
    assert len(done.history) == 3 and done.history[f"{part}_images"].min() == rows.stop - rows.start


class Watched(Hungry):
    """Counts, when it is called, which of the tensors that it made before are still there."""

    def __init__(self, most):
        super().__init__(most)
        self.made, self.alive = [], []

    def forward(self, x):
        if self.training:
            self.alive.append(sum(ref() is not None for ref in self.made))
        kept = x * 2
        self.made.append(weakref.ref(kept))
        super().forward(kept)
        return self.layer((kept**2).mean((2, 3)))


def test_what_an_attempt_had_computed_is_gone_before_a_smaller_one(parts):
    model = Watched(1)
    quiet_fit(model, parts, epochs=1, micro_batch="auto")
    assert len(model.alive) == 4 + 48 and max(model.alive) == 0  # 16, 8, 4, 2 were too many


def test_memory_that_ran_out_in_other_words_is_understood_and_other_errors_are_not_swallowed(parts):
    class Failing(Hungry):
        def forward(self, x):
            if self.training and len(x) > self.most:
                raise RuntimeError(self.words)
            return self.layer(x.mean((2, 3)))

    model = Failing(4)
    model.words = "MPS backend out of memory (MPS allocated: 8.00 GB)"
    quiet_fit(model, parts, epochs=1, micro_batch="auto")
    model.words = "CUDA error: an illegal memory access was encountered"
    with pytest.raises(RuntimeError, match="illegal memory access"):
        quiet_fit(model, parts, epochs=1, micro_batch="auto")


def test_a_run_whose_store_is_gone_goes_on_without_the_image_that_is_damaged_meanwhile(
    data, tmp_path
):
    outage = Outage(data, tmp_path / "images")
    outage.hidden = ["5.png", "60.png"]
    settings = {
        "views": 2,
        "augmentation": VIEWS,
        "store": tmp_path / "store",
        "checkpoint": tmp_path / "last.pt",
    }
    outage.fit({}, epochs=1, **settings)
    shutil.rmtree(tmp_path / "store")
    outage.begin()
    done = outage.fit({}, epochs=3, **settings)
    assert done.history["train_images"].tolist() == [48, 47, 47] and done.history[
        "val_images"
    ].tolist() == [24, 23, 23]
    assert (
        np.isfinite(done.history[["train_loss", "val_loss"]]).all(axis=None)
        and done.best_epoch == 1
    )
    assert [path for path, _ in done.unreadable] == ["5.png", "60.png"]


@pytest.mark.parametrize("place, number", [(3, np.inf), (0, np.nan)])
def test_what_is_no_number_in_the_store_is_not_blamed_on_file_or_learning_rate(
    parts, tmp_path, place, number
):
    quiet_fit(net(), parts, epochs=1, store=tmp_path)
    for features in tmp_path.glob("*/features"):
        numbers = np.memmap(features, np.float32, "r+").reshape(-1, 1024)
        numbers[min(7, len(numbers) - 1), place] = number
        numbers.flush()
    with pytest.raises(
        TrainingError, match="what the frozen part answers for 1 of 48 images.*7.png"
    ) as error:
        quiet_fit(net(), parts, epochs=1, store=tmp_path)
    assert "learning_rate" not in str(error.value)


class Stopped(Hungry):
    """A person presses Ctrl-C in its seventh step: the first of the third epoch."""

    def forward(self, x):
        self.steps = getattr(self, "steps", 0) + self.training
        if self.training and self.steps == 7:
            signal.raise_signal(signal.SIGINT)
        return self.layer(x.mean((2, 3)))


@pytest.mark.parametrize("checkpoint", ["last.pt", None])
def test_a_run_stopped_by_hand_leaves_its_best_epoch_and_says_how_to_go_on(
    parts, tmp_path, checkpoint
):
    torch.manual_seed(0)
    model, lines = Stopped(99), []
    begun = checkpoints.copy_of_state(model)
    settings = {
        "machine": FP32,
        "show": False,
        "patience": 0,
        "checkpoint": checkpoint and tmp_path / checkpoint,
    }
    with pytest.raises(KeyboardInterrupt):
        fit(model, parts, epochs=4, log=lines.append, **settings)
    assert not model.training and all(p.grad is None for p in model.parameters())
    assert sum("memory has the weights of epoch 2, its best" in line for line in lines) == 1
    straight = Hungry(99)
    straight.load_state_dict(begun)
    two = quiet_fit(straight, parts, epochs=2, patience=0)
    assert two.best_epoch == 2 and same(two.model, model)
    if checkpoint:
        assert f"goes on after epoch 2 from {tmp_path / checkpoint}" in lines[-1]
        resumed = fit(model, parts, epochs=4, log=None, **settings)
        straight.load_state_dict(begun)
        assert same(resumed.model, quiet_fit(straight, parts, epochs=4, patience=0).model)


def test_a_run_whose_weights_lie_elsewhere_today_goes_on_and_one_of_other_weights_does_not(
    tmp_path,
):
    files = [tmp_path / folder / "best.pt" for folder in "abc"]
    for file, seed in ((files[0], 1), (files[2], 2)):
        checkpoints.save(file, build("squeezenet1_1", 3, "linear", seed=seed), list("xyz"))
    files[1].parent.mkdir()
    shutil.copy(files[0], files[1])
    made = [build("squeezenet1_1", 2, "linear", weights=file).tl for file in files]
    first, moved, other = map(loop._comparable, made)
    assert first == moved and first != other
