"""Samples of text: each one lies in a document, and a model reads it from an empty state to its end."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from helpers import FLOAT32, assert_close
from infini_attention.errors import ConfigError, InputError
from infini_attention.models import load_model
from infini_attention.training.batches import RecipeBatches
from infini_attention.training.entries import Data, Dataset, Mixture, Tokenizer
from infini_attention.training.recipe import load_recipe
from infini_attention.training.run import recipe_tokenizer, train
from tiny import book

RECIPES = Path(__file__).parents[2] / "recipes"
PART = 3000  # bytes, and so tokens, of a document


@pytest.fixture
def texts():
    whole = book()
    return [whole[start : start + PART] for start in range(0, 10 * PART, PART)]


@pytest.fixture
def recipe(tmp_path, texts):
    """The tiny recipe with nothing but text, half of it from files and half from a data set."""
    (tmp_path / "books").mkdir()
    for number, text in enumerate(texts[:5]):
        (tmp_path / "books" / f"{number}.txt").write_text(text)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"body": text}) + "\n" for text in texts[5:]))
    dataset = Dataset(path="json", data_files=str(rows), column="body")
    data = Data(
        books=(str(tmp_path / "books"),),
        datasets=(dataset,),
        tokens_per_step=1024,
        mixture=Mixture(passkey=0, text=1),
    )
    return load_recipe(RECIPES / "tiny.toml").model_copy(update={"data": data})


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_each_row_lies_in_one_document(recipe, texts):
    batches = RecipeBatches(recipe, recipe_tokenizer(recipe))
    found = set()
    for step in range(recipe.steps):
        batch = batches.batch(step)
        assert not batch["answers"].any()
        for row in batch["input_ids"]:
            homes = [index for index, text in enumerate(texts) if bytes(row.tolist()) in text.encode()]
            assert len(homes) == 1
            found |= set(homes)
    assert found == set(range(len(texts)))


@pytest.mark.parametrize("step", [1, 19, 20, 29])
def test_a_resumed_run_reads_on_at_the_exact_token(recipe, step):
    """Nothing but the number of the step decides what is read: no position is kept that could be lost."""
    tokenizer = recipe_tokenizer(recipe)
    uninterrupted = list(RecipeBatches(recipe, tokenizer))
    resumed = list(RecipeBatches(recipe, tokenizer, start=step))
    assert len(resumed) == recipe.steps - step
    for out, ref in zip(resumed, uninterrupted[step:], strict=True):
        assert torch.equal(out["input_ids"], ref["input_ids"])


def test_the_state_is_carried_inside_a_sample_and_starts_empty_with_each(recipe, tmp_path):
    """Pieces that end inside segments give the losses of every row read alone and whole. With a rate of 0 the model
    stays as it is, so a state that went from one step or row to the next would show."""
    still = recipe.optimizer.model_copy(update={"learning_rate": 0.0, "memory_learning_rate": 0.0, "bptt_tokens": 96})
    stage = recipe.curriculum[0].model_copy(update={"steps": 4})
    recipe = recipe.model_copy(update={"optimizer": still, "curriculum": (stage,), "log_every": 1})
    train(recipe, tmp_path / "run")
    model = load_model(str(tmp_path / "run" / "model")).eval()
    entries = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert len(entries) == recipe.steps
    for entry, batch in zip(entries, RecipeBatches(recipe, recipe_tokenizer(recipe)), strict=True):
        ids, total = batch["input_ids"], 0.0
        for row in ids:
            with torch.no_grad():
                logits = model(row[None]).logits[0]
            total += F.cross_entropy(logits[:-1], row[1:], reduction="sum").item()
        alone = torch.tensor(total / (ids.numel() - 1))
        assert_close(torch.tensor(entry["text_loss"]), alone, FLOAT32, f"text loss of step {entry['step']}")


def test_documents_that_are_too_short_are_remarked_on_at_once(recipe):
    longer = recipe.curriculum[1].model_copy(update={"length": PART + 1})
    recipe = recipe.model_copy(update={"curriculum": (*recipe.curriculum, longer)})
    with pytest.raises(InputError, match=r"no document is 3,001 tokens long; the longest of 10 has 3,000"):
        RecipeBatches(recipe, recipe_tokenizer(recipe))


def test_how_much_is_long_enough_is_told(recipe, tmp_path, caplog):
    (tmp_path / "books" / "short.txt").write_text("a" * 500 + "\n")
    with caplog.at_level("INFO"):
        RecipeBatches(recipe, recipe_tokenizer(recipe))
    assert caplog.messages[-2:] == [
        "11 documents, 30501 tokens",
        "98 % of it in documents long enough for samples of text of 512 tokens",
    ]


@pytest.mark.parametrize("data", [Data(book_share=0.5), Data(mixture=Mixture(text=1))])
def test_text_that_is_named_nowhere(recipe, data):
    recipe = recipe.model_copy(update={"data": data})
    with pytest.raises(ConfigError, match=r"need data.books or data.datasets; both are empty"):
        RecipeBatches(recipe, recipe_tokenizer(recipe))


def test_a_tokenizer_is_trained_on_books(recipe):
    data = recipe.data.model_copy(update={"books": ()})
    recipe = recipe.model_copy(update={"data": data, "tokenizer": Tokenizer(vocab_size=300)})
    with pytest.raises(ConfigError, match=r"tokenizer.vocab_size needs data.books"):
        recipe_tokenizer(recipe)
