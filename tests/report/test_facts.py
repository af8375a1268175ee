"""The words about a run follow from its files, and its command makes it again."""

from __future__ import annotations

import dataclasses
import shlex
import shutil
from pathlib import Path

import pandas as pd
import pytest
from small_runs import edited, small, train

from tlutils import __main__ as cli
from tlutils.data import cleaning, records
from tlutils.models import checkpoints
from tlutils.report import facts
from tlutils.runs import recipes
from tlutils.runs.folder import Run
from tlutils.runs.recipes import Recipe


@pytest.mark.parametrize(
    ("value", "low", "high", "said", "tone"),
    [
        (0.9, 0.8, 1.0, "is better than always", "good"),
        (0.3, 0.2, 0.5, "is not shown to be better than", "warning"),
        (0.1, 0.0, 0.2, "is worse than always", "warning"),
    ],
)
def test_the_verdict_weighs_the_interval_against_a_constant_answer(
    copy, value, low, high, said, tone
):
    with edited(copy / "metrics.json") as metrics:
        accuracy = {"value": value, "low": low, "high": high}
        metrics["test"] |= {"accuracy": accuracy, "baseline": 0.25}
    with edited(copy / "recipe.json") as about:
        about["weights"]["requested"] = "imagenet"
    sentence, found = facts.summary(Run.load(copy))
    assert said in sentence and found == tone


def test_a_leak_is_in_the_verdict_whatever_the_accuracy(copy):
    with edited(copy / "recipe.json") as about:
        about["audit"]["leak"] = True
    sentence, tone = facts.summary(Run.load(copy))
    assert "too good" in sentence and tone == "bad"


def test_further_seeds_are_in_the_verdict_and_in_the_command(copy):
    assert cli._parser().parse_args(asked_for(Run.load(copy))).seeds == 1
    again = shutil.copytree(copy, copy.parent / "again")
    with edited(again / "metrics.json") as metrics:
        metrics["test"]["accuracy"]["value"] = 0.123
    again.rename(copy / "seed-1")
    one = Run.load(copy)
    assert "12.3\u00a0%" in facts.summary(one)[0] and facts.over_seeds(one)["runs"] == 2
    assert cli._parser().parse_args(asked_for(one)).seeds == 2
    one.recipe = dataclasses.replace(one.recipe, name="mine")
    *imports, call = facts.command(one).splitlines()
    exec("\n".join(imports))
    compile(call, "command", "eval")
    assert "train_seeds" in imports[-1] and call.startswith("train_seeds(train(")
    assert call.endswith("), 2)")


def test_a_further_seed_counts_where_more_training_would_add_nothing(copy):
    seed = shutil.copytree(copy, copy.parent / "seed").rename(copy / "seed-1")
    epochs = Run.load(copy).recipe.epochs

    history = Run.load(seed).history  # of which the first is the best
    history["val_loss"], history["val_accuracy"] = [0.1, *[9.0] * (epochs - 1)], 0.5
    history.to_csv(seed / "history.csv", index=False)
    since = epochs - 1
    assert since > 0 and facts.kept_epoch(Run.load(seed)) == 1
    for more, patience, its, counted in (
        (0, 0, 0, True),
        (1, 0, 0, False),
        (1, since + 1, since + 1, False),
        (1, since, since, True),  # its patience ended with its last epoch
        (0, since + 1, since, True),  # all epochs, by whatever patience
        (1, since + 1, since, False),
    ):
        with edited(copy / "recipe.json") as about:
            about["recipe"] |= {"epochs": epochs + more, "patience": patience}
        with edited(seed / "recipe.json") as about:
            about["recipe"]["patience"] = its
        told = more, patience, its
        assert (told, facts.over_seeds(Run.load(copy)) is not None) == (told, counted)


def test_what_is_no_further_seed_of_these_images_is_passed_over(copy):
    seed = shutil.copytree(copy, copy.parent / "seed").rename(copy / "seed-1")
    assert facts.over_seeds(Run.load(copy))["runs"] == 2
    with edited(seed / "recipe.json") as about:
        about["data"]["fingerprint"] = "other images"
    assert facts.over_seeds(Run.load(copy)) is None
    assert "other images; remove" in facts.further_seeds(Run.load(copy))[1]["seed-1"]
    with edited(seed / "recipe.json") as about:
        about["data"]["fingerprint"] = Run.load(copy).about["data"]["fingerprint"]
    with edited(seed / "metrics.json") as metrics:
        kept = metrics.pop("test")
    assert facts.over_seeds(Run.load(copy)) is None
    assert (
        "cannot be read (KeyError: 'test'); mend"
        in facts.further_seeds(Run.load(copy))[1]["seed-1"]
    )
    with edited(seed / "metrics.json") as metrics:
        metrics["test"] = kept
    assert facts.over_seeds(Run.load(copy))["runs"] == 2
    (seed / "history.csv").unlink()
    assert facts.over_seeds(Run.load(copy)) is None


def test_patience_of_a_further_seed_is_counted_from_the_best_of_its_last_part(copy):
    seed = shutil.copytree(copy, copy.parent / "seed").rename(copy / "seed-1")
    rows = Run.load(seed).history.iloc[[0] * 6].assign(epoch=range(1, 7), val_loss=9.0)
    rows = rows.assign(part=["head"] * 4 + ["all"] * 2, val_accuracy=0.5)
    rows["val_loss"] = [0.9, 0.8, 0.1, 0.5, 0.4, 0.3]  # the third was kept, the last is its part's
    rows.to_csv(seed / "history.csv", index=False)
    for folder, epochs in ((copy, 4), (seed, 2)):
        with edited(folder / "recipe.json") as about:
            about["recipe"] |= {"head_epochs": 4, "epochs": epochs, "patience": 3}
            about["recipe"]["monitor"] = "val_loss"
    assert facts.over_seeds(Run.load(copy)) is None


def test_the_title_names_the_network_that_was_used_and_where_the_images_lie(run):
    assert facts.title(run) == f"squeezenet1_1 on {run.root.name}"
    own = dataclasses.replace(run, recipe=recipes.get("oct-vgg16"))
    assert facts.title(own) == f"oct-vgg16 on {run.root.name}"
    about = {**run.about, "data": {**run.about["data"], "requested": "lists/clean.csv"}}
    listed = dataclasses.replace(own, about=about)
    assert facts.title(listed) == f"oct-vgg16 on {run.root.name} (clean.csv)"
    for start in ("scans/", "../scans/"):
        moved = run.records.assign(path=start + run.records["path"])
        found = dataclasses.replace(listed, records=moved)
        assert facts.title(found) == "oct-vgg16 on scans (clean.csv)"
    found.records = found.records.assign(
        path=["../scans/a.png", "b.png"] * (len(found.records) // 2)
    )
    assert facts.title(found) == f"oct-vgg16 on {found.root.parent.name} (clean.csv)"


def asked_for(run: Run) -> list[str]:
    """The words of the command that the page shows, after `python -m tlutils`."""
    return shlex.split(facts.command(run))[3:]


MANIFEST = 'it\'s a "clean" $HOME; table.csv'
ODD = {
    "class_weights": "{'CNV': 1, 'DME': 2, 'DRUSEN': 1.5, 'NORMAL': 1}",
    "augmentation.crop": "(0.7, 1)",
    "dropout": "0.25",
    "backbone_dropout": "0.1",
    "schedule": "step:3:0.5",
    "split_seed": "7",
    "head": "linear",
    "loss": "cross_entropy",
}


def odd_run(data: Path, where: Path, **more: str) -> Run:
    """A run whose every word wants quoting, begun in the folder `where`."""
    cleaning.write(records.scan(data).iloc[4:], data, where / MANIFEST)
    patient = r"-(?P<patient>\d+)-\d+\.jpeg$"
    return train(MANIFEST, "-a run", small(**ODD), limit=40, patient=patient, **more)


@pytest.mark.filterwarnings("ignore:there are no test images")
def test_the_command_asks_for_what_the_run_was_asked_for(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = odd_run(tiny_folder, tmp_path, precision="auto")
    given = cli._parser().parse_args(asked_for(done))
    assert (given.data, given.weights, given.limit) == (MANIFEST, "random", 40)
    assert given.patient == done.about["data"]["patient"]
    assert given.precision == done.about["machine"]["precision"]
    assert recipes.get(given.recipe).changed(dict(map(cli._assignment, given.set))) == done.recipe


@pytest.mark.filterwarnings("ignore:there are no test images")
def test_the_command_makes_the_same_run(tiny_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    done = odd_run(tiny_folder, tmp_path)
    assert cli.main(asked_for(done)) == 0, capsys.readouterr().err
    again = Run.load("-a run-again")
    assert again.about["data"] == done.about["data"]
    assert again.metrics == done.metrics and again.recipe == done.recipe


OTHER = {
    "data": "chest",
    "backbone": "resnet34",
    "head": "linear",
    "outputs": 4,
    "dropout": 0.2,
    "backbone_dropout": 0.3,
    "freeze": "none",
    "loss": "cross_entropy",
    "class_weights": "auto",
    "label_smoothing": 0.1,
    "balanced": True,
    "optimizer": "sgd",
    "learning_rate": 0.02,
    "momentum": 0.5,
    "weight_decay": 0.01,
    "layer_decay": 0.5,
    "head_epochs": 1,
    "head_learning_rate": 0.1,
    "schedule": "one-cycle",
    "epochs": 9,
    "patience": 0,
    "min_delta": 0.001,
    "monitor": "val_accuracy",
    "batch_size": 8,
    "micro_batch": 4,
    "window": "-160,240",
    "views": 3,
    "size": 64,
    "resize": "pad",
    "channels": 3,
    "augmentation.gamma": 0.5,
    "positive": "PNEUMONIA",
    "threshold": "youden",
    "test_views": 2,
    "stress_views": 7,
    "split": "image",
    "val": 0.2,
    "test": 0.3,
    "split_seed": 5,
    "weights_seed": 6,
    "seed": 3,
}


def test_every_field_of_a_recipe_is_told_where_it_is_not_the_default(run):
    fields = {field.name for field in dataclasses.fields(Recipe)} - {"name", "title"}
    assert {name.partition(".")[0] for name in OTHER} == fields, "a field is new, or has gone"

    def told(recipe: Recipe) -> str:
        other = dataclasses.replace(run, recipe=recipe)
        return str({**facts.recipe(other), **facts.made_with(other), "changed": ""})

    plain = run.recipe.changed({"backbone_dropout": "none"})
    momentum = plain.changed({"optimizer": "sgd", "momentum": 0.5})
    assert told(momentum).count("momentum") == 1
    same = [
        name for name, value in OTHER.items() if told(plain.changed({name: value})) == told(plain)
    ]
    assert not same


@pytest.mark.parametrize(("patient", "words"), [("auto", []), (None, ["--patient", "none"])])
def test_the_command_names_a_patient_rule_where_there_is_one(copy, patient, words):
    with edited(copy / "recipe.json") as about:
        about["data"]["patient"] = patient
    said = asked_for(Run.load(copy))
    at = said.index("--patient") if words else len(said)
    assert said[at : at + 2] == words and said.count("--patient") == len(words) // 2
    assert cli._parser().parse_args(said).patient == patient


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("auto", "told by the file names"),
        ("dicom", "told by DICOM files"),
        ("dicom-hashed", "told by DICOM files, as hashes"),
        (r"-(?P<patient>\d+)-", r"told by the pattern -(?P<patient>\d+)- (--patient)"),
    ],
)
def test_what_told_the_patients_is_the_rule_of_the_run(copy, rule, words):
    with edited(copy / "recipe.json") as about:
        about["data"]["patient"] = rule
    assert facts.made_with(Run.load(copy))["patients"] == words


def test_patients_that_are_not_in_the_file_names_were_told_by_something_else(copy):
    run = Run.load(copy)
    run.records["patient"] += "x"
    assert facts.made_with(run)["patients"] == "told by DICOM files"


def test_of_patients_whose_rule_was_not_kept_it_is_not_told(copy):
    with edited(copy / "recipe.json") as about:
        del about["data"]["patient"]  # as before it was written down
    run = Run.load(copy)
    assert facts.made_with(run)["patients"] == "told by the file names"
    run.records["patient"] += "x"
    assert facts.made_with(run)["patients"] == "told by a rule that recipe.json does not name"


def test_a_recipe_with_a_name_of_its_own_comes_back_in_python(copy):
    with edited(copy / "recipe.json") as about:
        about["recipe"]["name"] = "mine"
    said = facts.command(Run.load(copy))
    *imports, call = said.splitlines()
    exec("\n".join(imports))  # what it names is there
    compile(call, "command", "eval")
    assert about["data"]["requested"] in said and "patient='auto'" in said


def test_the_kept_epoch_is_that_of_the_checkpoint(run, binary):
    for one in (run, binary):
        assert facts.kept_epoch(one) == checkpoints.load(one.folder / "best.pt")["epoch"]


@pytest.mark.parametrize(
    ("best", "freeze", "words"),
    [
        (3, "none", "of the head and 3 of all layers in 8.0 s; epoch 3, counted through, was kept"),
        (
            1,
            "up to features",
            "3 of all layers but the frozen in 8.0 s; epoch 1, counted through, was kept",
        ),
    ],
)
def test_epochs_are_numbered_as_in_the_plot_where_the_head_was_trained_first(
    best, freeze, words, copy
):
    rows = [
        {"epoch": n, "val_loss": 0.2 if n == best else 0.5, "seconds": 2.0} for n in (1, 2, 3, 4)
    ]
    history = pd.DataFrame(rows).assign(part=["head", "all", "all", "all"], val_images=8)
    history.to_csv(copy / "history.csv", index=False)
    run = Run.load(copy)
    run.recipe = dataclasses.replace(run.recipe, monitor="val_loss", freeze=freeze)
    assert words in facts.course(run) and facts.course(run).endswith("the best by val_loss.")


def test_epochs_of_one_part_are_counted_through(run):
    kept = facts.kept_epoch(run)
    assert facts.course(run).startswith("2 epochs in ") and f"epoch {kept} was k" in facts.course(
        run
    )


def test_an_epoch_that_saw_fewer_validation_images_is_not_reported_as_the_kept_one(copy):
    run = Run.load(copy)
    kept, history = facts.kept_epoch(run), run.history
    other = history["epoch"] != kept
    history.loc[other, ["val_loss", "val_images"]] = 0.0, 1
    history.to_csv(copy / "history.csv", index=False)
    assert other.any() and facts.kept_epoch(run) == kept


@pytest.mark.parametrize(
    ("requested", "data", "other"),
    [
        ("scans", "/there/scans", False),
        ("scans", "/there/scans/test", False),
        ("scans", "/elsewhere/scans", True),
        ("scans", "/there/scans/hospital_b.csv", True),
        ("hospital_a.csv", "/there/scans/hospital_b.csv", True),
        ("hospital_a.csv", "/there/scans", True),
        ("/there/scans/hospital_a.csv", "/there/scans/hospital_a.csv", False),
    ],
)
def test_another_set_is_told_by_its_folder_or_list_and_the_share_of_the_runs_own(
    copy, requested, data, other
):
    run = Run.load(copy)
    run.root, run.about["data"]["requested"] = Path("/there/scans"), requested
    assert facts._is_other(run, {"data": data}, 3, 10) == other
    assert not facts._is_other(run, {"data": data}, 6, 10)
    # a list of the run's own name that holds other images now
    assert facts._is_other(run, {"data": data}, 0, 10) == (other or data.endswith(".csv"))
