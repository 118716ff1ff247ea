"""The experiment with another book's memory: its streams are those of the perplexity task."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from helpers import FLOAT32, assert_close
from infini_attention.evaluation.perplexity.losses import token_losses
from infini_attention.models import load_model

SCRIPT = Path(__file__).parents[2] / "experiments" / "other_memory.py"
SPEC = importlib.util.spec_from_file_location("other_memory", SCRIPT)
other_memory = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(other_memory)


@pytest.fixture(scope="module")
def model():
    return load_model("builtin").eval()


@pytest.fixture(scope="module")
def ids():
    return torch.randint(3, 2000, (2, 4 * 128), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def losses(model, ids):
    return other_memory.token_losses(model, ids)


@pytest.mark.parametrize(("mode", "memory"), [("own", True), ("empty", False)])
def test_own_and_empty_are_the_two_readings_of_the_perplexity_task(model, ids, losses, mode, memory):
    for book in range(2):
        expected = token_losses(model, ids[book], memory=memory)
        assert_close(losses[other_memory.MODES.index(mode), book], expected, FLOAT32)


def test_the_first_segment_has_no_memory_and_the_second_has_the_other_ones(losses):
    own, other, empty = losses
    assert_close(other[:, :129], own[:, :129], FLOAT32)  # token 128 is foretold by the last one of the first segment
    for one, two in ((own, other), (other, empty), (own, empty)):
        assert ((one - two)[:, 129:].abs().mean(1) > 1e-3).all()


def test_the_memory_of_the_same_book_is_its_own(model, ids):
    own, other, _ = other_memory.token_losses(model, ids[:1].expand(2, -1))
    assert_close(other, own, FLOAT32)


def test_from_books_to_a_result(tmp_path, capsys):
    for name, word in (("one", "apples"), ("two", "pears")):
        (tmp_path / name).write_text(f"He ate the {word} in the garden. " * 120)
    paths = [str(tmp_path / name) for name in ("one", "two")]
    out = tmp_path / "result.json"
    assert other_memory.main([*paths, "-m", "builtin", "--max-tokens", "600", "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    assert result["tokens"] == 512
    for book in result["books"]:
        of = {name: figures["bits_per_byte"] for name, figures in book["memory"].items()}
        assert of["own - other"] == pytest.approx(of["own"] - of["other"])
        assert book["memory"]["empty"]["se"] > 0
    assert "own - other" in capsys.readouterr().out


def test_books_that_are_too_short(tmp_path, capsys):
    (tmp_path / "short").write_text("A short one.")
    paths = [str(tmp_path / "short")] * 2
    assert other_memory.main([*paths, "-m", "builtin", "--out", str(tmp_path / "x.json")]) == 2
    assert "at least 256 tokens" in capsys.readouterr().err
