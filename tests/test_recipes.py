"""A recipe is data."""

import json

import pytest

from tlutils import recipes
from tlutils.recipes import Recipe


@pytest.mark.parametrize("recipe", recipes.RECIPES.values(), ids=lambda r: r.name)
def test_a_recipe_survives_json_and_gives_valid_options(recipe):
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert recipe.options().epochs == recipe.epochs


def test_the_seven_systems_of_the_original_works_keep_their_names():
    assert set(recipes.RECIPES) >= {"oct-vgg16", "oct-vgg16bn", "chest-vgg16-gap", "chest-resnet152-gap",
                                    "chest-resnet18-finetune", "chest-resnet18-frozen-stem", "chest-resnet18-fixed"}


def test_fields_change_from_typed_text():
    recipe = recipes.get("oct-vgg16").changed({"learning_rate": "1e-4", "augmentation.flip": "0", "fit": "pad",
                                               "augmentation.crop": "(0.9, 1.0)", "balanced": "true",
                                               "class_weights": "auto", "views": "0"})
    assert recipe.learning_rate == 1e-4 and recipe.augmentation.flip == 0.0 and recipe.fit == "pad"
    assert recipe.augmentation.crop == (0.9, 1.0) and recipe.balanced is True
    assert recipe.class_weights == "auto" and recipe.views == 0
    assert recipe.changed({"class_weights": "none"}).class_weights is None
    assert recipe.changed({"class_weights": "{'CNV': 1, 'DME': 2}"}).class_weights == {"CNV": 1, "DME": 2}


@pytest.mark.parametrize(("change", "hint"), [
    ({"learning_rat": 1}, "learning_rate"), ({"augmentation.flp": 1}, "flip"), ({"epochs": "many"}, "epochs"),
    ({"optimiser": "lion"}, "adamw"), ({"schedule": "stairs"}, "one-cycle"), ({"epochs": 0}, "epochs"),
    ({"augmentation.flip": 2}, "flip"), ({"augmentation.crop": "0.8"}, "crop")])
def test_wrong_changes_are_refused_with_a_hint(change, hint):
    with pytest.raises(ValueError, match=hint):
        recipes.get("oct-vgg16").changed(change)


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'oct-vgg16'"):
        recipes.get("oct-vgg")
