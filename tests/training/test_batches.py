"""The samples of a recipe stay what they were, and a batch can have a segment size of its own."""

import hashlib
from functools import partial
from pathlib import Path

import pytest
import torch

from infini_attention.training.batches import IN_WINDOW, OUTSIDE, RecipeBatches
from infini_attention.training.recipe import load_recipe
from infini_attention.training.run import recipe_tokenizer
from tiny import BOOK, book

RECIPES = Path(__file__).parents[2] / "recipes"
# What builtin.toml reads, but for the corpus and the tokenizer that it trains on it.
CHANGES = (
    "tokenizer=bytes",
    "data.max_keys=4",
    "data.questions=2",
    "curriculum=[{length=640, steps=4}, {length=1024, steps=4}]",
)
DIGEST = "b923de5910af6dc4de3791fa91b91327ff0e89b6a6f2e98e9d8abba8d9dbf5ed"


def batches_of(text, *changes):
    recipe = load_recipe(RECIPES / "builtin.toml", [*CHANGES, f'data.books=["{text}"]', *changes])
    return RecipeBatches(recipe, recipe_tokenizer(recipe), rank=1)


@pytest.fixture
def batches(tmp_path):
    """Of a few pages: a whole novel takes a second to cut into tokens."""
    (tmp_path / "pages.txt").write_text(book(30_000))
    return partial(batches_of, tmp_path / "pages.txt")


def test_the_samples_are_those_that_published_runs_have_read():
    """A run that goes on after an update of the package must not read others."""
    source, digest = batches_of(BOOK), hashlib.sha256()
    for step in range(source.recipe.steps):
        batch = source.batch(step)
        assert batch.keys() == {"input_ids", "answers"}
        digest.update(batch["input_ids"].numpy().tobytes() + batch["answers"].numpy().tobytes())
    assert digest.hexdigest() == DIGEST


def test_jitter_puts_questions_at_other_places_of_a_segment(batches):
    full, lengths = (
        [source.batch(step)["input_ids"].shape[1] for step in range(16)]
        for source in (batches(), batches("data.jitter=64"))
    )
    assert len(set(lengths)) > 8
    assert min(lengths) >= min(full) - 64
    assert max(lengths) <= max(full)


def test_segment_sizes_leave_the_samples_alone_and_decide_what_is_out_of_sight(batches):
    own, varied = batches(), batches("data.segment_sizes=[32, 256]")
    fixed = {size: batches(f"model.infini.segment_size={size}") for size in (32, 256)}
    sizes, differ = [], False
    for step in range(8):
        batch, before = varied.batch(step), own.batch(step)
        sizes.append(int(batch["segment_size"]))
        assert torch.equal(batch["input_ids"], before["input_ids"])
        assert torch.equal(batch["answers"], fixed[sizes[-1]].batch(step)["answers"])
        assert torch.equal(batch["answers"] > 0, before["answers"] > 0)
        differ |= not torch.equal(batch["answers"], before["answers"])
    assert set(sizes) == {32, 256}
    assert differ
    assert [int(varied.batch(step)["segment_size"]) for step in range(8)] == sizes
    answers = {
        size: torch.cat([source.batch(step)["answers"].flatten() for step in range(8)])
        for size, source in fixed.items()
    }
    assert (answers[256] == IN_WINDOW).sum() > (answers[32] == IN_WINDOW).sum()
    assert (answers[256] == OUTSIDE).any()


def test_facts_are_asked_about_as_many_as_fit(batches):
    changes = ("data.mixture={passkey=0, named_keys=0, text=0, facts=1}", "data.max_keys=16", "data.questions=2")
    source = batches(*changes)
    answers = [int((row[1:] > row[:-1]).sum()) for row in source.batch(0)["answers"].clamp(max=1)]
    assert len(answers) == 6 and set(answers) == {1, 2}
    tight = batches(*changes, "curriculum=[{length=160, steps=1}]").batch(0)["answers"]
    assert (tight > 0).any(1).all()


def test_a_stage_can_have_needles_near_the_questions(batches):
    changes = ("data.mixture={passkey=1, named_keys=1, text=0}", "data.max_keys=1", "data.questions=1")
    shares = {}
    for near in (0, 1):
        source = batches(*changes, f"curriculum=[{{length=2048, steps=40, near_share={near}}}]")
        answers = torch.cat([source.batch(step)["answers"] for step in range(40)])
        shares[near] = (answers == IN_WINDOW).any(1).float().mean().item()
    assert shares[0] < 0.2 < 0.3 < shares[1]
