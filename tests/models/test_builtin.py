"""The weights that come with the package remember: a key in a book that they were not trained on."""

from pathlib import Path

import pytest

from infini_attention.data.haystack import Haystack
from infini_attention.evaluation.journal import Journal
from infini_attention.evaluation.runner import run
from infini_attention.evaluation.stream import subject_of
from infini_attention.evaluation.tasks.keys import KeysTask
from infini_attention.evaluation.tasks.passkey import PasskeyTask
from infini_attention.models import load_model, load_tokenizer
from infini_attention.models.known import builtin_path
from infini_attention.training.recipe import load_recipe

NOVEL = Path(__file__).parents[2] / "examples" / "books" / "northanger-abbey.txt"


@pytest.fixture(scope="module")
def builtin():
    return load_model("builtin"), load_tokenizer("builtin")


def share_right(builtin, task):
    """Of answers out of the sight of attention."""
    records = run(task, subject_of(builtin[0]), Journal())
    assert all(record["outside_window"] == record["answers"] for record in records)
    return sum(record["hits"] for record in records) / sum(record["answers"] for record in records)


@pytest.fixture(scope="module")
def book(builtin):
    return Haystack.book(builtin[1], [NOVEL])


# The question ends at other places of a segment: behind its border, across it, and before it.
LENGTHS = (4096, 4098, 4101, 4109, 4150)


@pytest.mark.parametrize(("memory", "share"), [(True, 1.0), (False, 0.0)])
def test_it_recalls_a_key_from_a_book(builtin, book, memory, share):
    task = PasskeyTask(builtin[1], book, LENGTHS, depths=1, samples=2, seed=1, memory=memory)
    assert share_right(builtin, task) == share


@pytest.mark.parametrize(("memory", "share"), [(True, 1.0), (False, 0.0)])
@pytest.mark.parametrize(("keys", "rewritten", "seed"), [(1, 1, 1), (2, 0, 2)])
def test_it_knows_whose_key_it_is_and_which_is_the_latest(builtin, book, keys, rewritten, seed, memory, share):
    """The names are none of training's."""
    counts = {"counts": (keys,), "questions": keys, "rewritten": rewritten, "samples": 2, "seed": seed}
    assert share_right(builtin, KeysTask(builtin[1], book, (8192,), **counts, memory=memory)) == share


def test_it_says_how_long_its_training_samples_were(builtin):
    recipe = load_recipe(Path(__file__).parents[2] / "recipes" / "builtin.toml")
    assert subject_of(builtin[0]).about["trained_length"] == recipe.longest == 4096


def test_it_is_small_and_no_pickle():
    files = {path.name: path.stat().st_size for path in builtin_path().iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= files.keys()
    assert sum(files.values()) <= 40_000_000
    assert {Path(name).suffix for name in files} <= {".json", ".safetensors", ".md"}
