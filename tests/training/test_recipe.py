"""Recipes are checked whole, and a mistake is named."""

from pathlib import Path

import pytest

from infini_attention.errors import ConfigError
from infini_attention.training.recipe import load_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
MINIMAL = 'name = "x"\n[model]\nhidden_size = 8\n[[curriculum]]\nlength = 64\nsteps = 3\n'


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_of_ours_is_valid(path):
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    lengths = [stage.length for stage in recipe.curriculum]
    assert lengths == sorted(lengths)


def test_stages_follow_one_another(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text(MINIMAL + "[[curriculum]]\nlength = 128\nsteps = 2\n")
    recipe = load_recipe(path)
    assert recipe.steps == 5
    assert [recipe.stage_at(step) for step in range(6)] == [0, 0, 0, 1, 1, 1]


def test_books_are_relative_to_the_recipe(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text(MINIMAL + '[data]\nbooks = ["here", "/there"]\n')
    assert load_recipe(path).data.books == (str(tmp_path / "here"), "/there")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "not a recipe in TOML"),
        (MINIMAL + "[losses]\ntext = 1\n", "losses: Extra inputs"),
        (MINIMAL + "[loss]\ntext = -1\n", "loss.text: Input should be greater"),
        (MINIMAL + "[data.mixture]\npasskey = 0\n", r"data\.mixture: .*at least one task"),
        ('name = "x"\ncurriculum = []\n[model]\n', "curriculum: .*at least 1 item"),
        (MINIMAL.replace("steps = 3", "steps = 0"), r"curriculum\.0\.steps"),
    ],
)
def test_mistakes_are_named(tmp_path, text, message):
    path = tmp_path / "x.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_recipe(path)


def test_a_missing_file():
    with pytest.raises(ConfigError, match="No such file"):
        load_recipe(Path("nothing.toml"))
