"""The weights that come with the package remember: a key in a book that they were not trained on."""

from pathlib import Path

import pytest

from infini_attention.data.haystack import Haystack
from infini_attention.evaluation.journal import Journal
from infini_attention.evaluation.passkey import PasskeyTask
from infini_attention.evaluation.runner import run
from infini_attention.evaluation.stream import subject_of
from infini_attention.evaluation.summary import summarize
from infini_attention.models import load_model, load_tokenizer
from infini_attention.models.known import builtin_path

NOVEL = Path(__file__).parents[2] / "examples" / "books" / "northanger-abbey.txt"


@pytest.fixture(scope="module")
def builtin():
    return load_model("builtin"), load_tokenizer("builtin")


@pytest.mark.parametrize(("memory", "accuracy"), [(True, 1.0), (False, 0.0)])
def test_it_recalls_a_key_from_a_book(builtin, memory, accuracy):
    model, tokenizer = builtin
    haystack = Haystack.book(tokenizer, [NOVEL])
    task = PasskeyTask(tokenizer, haystack, (8192,), depths=3, samples=1, seed=1, memory=memory)
    result = summarize(run(task, subject_of(model), Journal())[:2], "depth")  # the last needle is in the window
    assert (result["accuracy"], result["outside_window_share"]) == (accuracy, 1.0)


def test_it_is_small_and_no_pickle():
    files = {path.name: path.stat().st_size for path in builtin_path().iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= files.keys()
    assert sum(files.values()) <= 40_000_000
    assert {Path(name).suffix for name in files} <= {".json", ".safetensors", ".md"}
