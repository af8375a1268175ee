"""A recipe is data."""

import dataclasses
import inspect
import json
import math

import pytest

from tlutils.data.augment import Augmentation
from tlutils.runs import recipes
from tlutils.runs.recipes import Recipe
from tlutils.runs.train import train

FIELDS = [f.name for f in dataclasses.fields(Recipe)]
PARTS = [f"augmentation.{f.name}" for f in dataclasses.fields(Augmentation)]
FREE_TEXT = {"name", "title", "data", "positive"}


@pytest.mark.parametrize("recipe", recipes.RECIPES.values(), ids=lambda r: r.name)
def test_a_recipe_survives_json(recipe):
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_the_seven_systems_of_the_original_works_keep_their_names():
    assert set(recipes.RECIPES) >= {
        "oct-vgg16",
        "oct-vgg16bn",
        "chest-vgg16-gap",
        "chest-resnet152-gap",
        "chest-resnet18-finetune",
        "chest-resnet18-frozen-stem",
        "chest-resnet18-fixed",
    }


def test_fields_change_from_typed_text():
    recipe = recipes.get("oct-vgg16").changed(
        {
            "learning_rate": "1e-4",
            "augmentation.flip": "0",
            "resize": "pad",
            "augmentation.crop": "(0.9, 1.0)",
            "balanced": "true",
            "class_weights": "auto",
            "views": "0",
        }
    )
    assert (
        recipe.learning_rate == 1e-4 and recipe.augmentation.flip == 0.0 and recipe.resize == "pad"
    )
    assert recipe.augmentation.crop == (0.9, 1.0) and recipe.balanced is True
    assert recipe.class_weights == "auto" and recipe.views == 0
    assert recipe.changed({"class_weights": "none"}).class_weights is None
    assert recipe.changed({"class_weights": "{'CNV': 1, 'DME': 2}"}).class_weights == {
        "CNV": 1,
        "DME": 2,
    }


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"learning_rat": 1}, "learning_rate"),
        ({"augmentation.flp": 1}, r"\(did you mean augmentation\.flip\?\)"),
        ({"foo.flip": 0}, r"no field 'foo\.flip'.*epochs.*augmentation\.flip"),
        ({"epochs.flip": 0}, r"no field 'epochs\.flip'"),
        ({"epochs.": 3}, r"no field 'epochs\.' \(did you mean epochs\?\)"),
        ({"epochs": "many"}, "epochs"),
        ({"optimizer": "lion"}, "adamw"),
        ({"schedule": "stairs"}, "one-cycle"),
        ({"epochs": 0}, "epochs"),
        ({"augmentation.flip": 2}, "flip"),
        ({"augmentation.crop": "0.8"}, "crop"),
        ({"window": "240,-160"}, "two numbers, low,high"),
        ({"backbone": "vgg61"}, "^backbone is 'vgg61'; it wants the name of a network"),
    ],
)
def test_wrong_changes_are_refused_with_a_hint(change, hint):
    with pytest.raises(ValueError, match=hint):
        recipes.get("oct-vgg16").changed(change)


def test_what_is_an_argument_and_no_field_is_refused_with_where_it_belongs():
    for name in set(inspect.signature(train).parameters) - {*FIELDS}:
        with pytest.raises(ValueError, match=rf"of a recipe; .* train\(\.\.\., {name}=\.\.\.\)$"):
            recipes.get("oct-vgg16").changed({name: "random"})


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean oct-vgg16"):
        recipes.get("oct-vgg")


def with_value(field, value):
    """A recipe's field, or a part of its augmentation, given a value as it is."""
    recipe, (outer, _, inner) = recipes.get("oct-vgg16"), field.partition(".")
    return dataclasses.replace(recipe.augmentation if inner else recipe, **{inner or outer: value})


@pytest.mark.parametrize("field", FIELDS + PARTS)
@pytest.mark.parametrize(
    "bad",
    [object, math.nan, math.inf, -1, -0.5, [], {}, b"1", 10**400, [1, 2, 3]],
    ids=lambda bad: str(bad)[:20],
)
def test_every_field_refuses_values_of_another_kind(field, bad):
    with pytest.raises(ValueError, match=field.rpartition(".")[2]):
        with_value(field, bad)


@pytest.mark.parametrize("field", [name for name in FIELDS if name != "balanced"] + PARTS)
def test_no_field_but_a_switch_takes_true_for_a_number(field):
    with pytest.raises(ValueError, match=field.rpartition(".")[2]):
        with_value(field, True)


@pytest.mark.parametrize("field", [name for name in FIELDS if name not in FREE_TEXT] + PARTS)
@pytest.mark.parametrize(
    "typed",
    [
        "",
        " ",
        "abc",
        "nan",
        "inf",
        "-1",
        "1e999",
        "(",
        "(((",
        "{[]: 1}",
        "[1]",
        "{}",
        "$(x)",
        "9" * 5000,
    ],
)
def test_every_field_refuses_what_makes_no_sense_as_it_is_typed(field, typed):
    if (field == "threshold" and not typed.strip()) or (field == "window" and not typed):
        return  # the rule of none, and no window
    with pytest.raises(ValueError, match=field.rpartition(".")[2]) as raised:
        recipes.get("oct-vgg16").changed({field: typed})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("field", "typed"),
    [
        ("size", "5000"),
        ("batch_size", "0"),
        ("epochs", "0"),
        ("epochs", "2.5"),
        ("dropout", "1"),
        ("channels", "2"),
        ("micro_batch", "-2"),
        ("micro_batch", "1.5"),
        ("momentum", "1"),
        ("seed", str(2**32)),
        ("val", "1"),
        ("test", "1.1"),
        ("schedule", "step:0:0.1"),
        ("schedule", "step:7:nan"),
        ("schedule", "step:7:7"),
        ("monitor", "val_recall@2"),
        ("threshold", "sensitivity>=2"),
        ("freeze", "up to "),
        ("backbone", "vgg61"),
        ("resize", "stretch"),
        ("split", "none"),
        ("class_weights", "{'CNV': -1, 'DME': 1}"),
        ("class_weights", "{'CNV': 'a', 'DME': 1}"),
        ("balanced", "1"),
        ("augmentation.crop", "(0.5,)"),
        ("augmentation.crop", "(0.9, 0.8)"),
        ("augmentation.zoom", "(1, 'a')"),
        ("augmentation.flip", "1.5"),
        ("augmentation", "0.5"),
        ("epochs", "True"),
        ("learning_rate", "True"),
    ],
)
def test_values_out_of_their_range_are_refused(field, typed):
    with pytest.raises(ValueError, match=field.rpartition(".")[2]):
        recipes.get("oct-vgg16").changed({field: typed})


def test_validation_and_test_leave_something_to_train_on():
    with pytest.raises(ValueError, match="val and test are 0.5 and 0.5"):
        recipes.get("oct-vgg16").changed({"val": 0.5, "test": "0.5"})


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("augmentation"),
        lambda d: d.update(unknown=1),
        lambda d: d.pop("name"),
        lambda d: d["augmentation"].update(crop=None),
        lambda d: d.update(size="224"),
        lambda d: d.update(augmentation=[1]),
    ],
)
def test_a_dict_that_is_no_recipe_is_refused(change):
    values = recipes.get("oct-vgg16").to_dict()
    change(values)
    with pytest.raises(ValueError):
        Recipe.from_dict(values)


def test_a_split_seed_holds_the_division_while_the_seed_changes():
    recipe = recipes.get("chest-resnet18-fixed").changed({"seed": 3})
    assert recipe.division_seed == 3
    assert recipe.changed({"split_seed": 0}).division_seed == 0


def test_names_of_before_are_understood():
    recipe = recipes.get("chest-best")
    values = {**recipe.to_dict(), "head": "article"}
    values |= {"optimiser": values.pop("optimizer"), "fit": values.pop("resize")}
    assert Recipe.from_dict(values) == dataclasses.replace(recipe, head="mlp")
    typed = {"optimiser": "sgd", "fit": "pad", "head": "article"}
    assert recipe.changed(typed) == recipe.changed(
        {"optimizer": "sgd", "resize": "pad", "head": "mlp"}
    )


def test_the_backbones_of_the_recipes_are_known_to_torchvision():
    from torchvision import models

    assert set(recipes.BACKBONES) <= set(models.list_models(module=models))
    assert set(recipes.BACKBONES) >= {recipe.backbone for recipe in recipes.RECIPES.values()}
