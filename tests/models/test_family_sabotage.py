"""What is special about a family is seen when it goes missing: the comparison with the base could fail."""

from dataclasses import replace

import pytest
import torch

from helpers import relative_rms
from infini_attention.models import convert, modeling, stream_pass
from models.conftest import SEGMENT
from models.tiny_families import shared

WIDE = 0.02


def without(*names):
    """The operation does not learn of these arguments."""

    def sabotage(twin, monkeypatch):
        operation = stream_pass.infini_attention
        monkeypatch.setattr(
            stream_pass, "infini_attention", lambda *qkv, **given: operation(*qkv, **given | dict.fromkeys(names))
        )

    sabotage.__name__ = "without " + " and ".join(names)
    return sabotage


def rotated_everywhere(twin, monkeypatch):
    attention = twin.base_model.infini_attention_class
    family = replace(attention.infini_family, rotates=lambda module: True)
    monkeypatch.setattr(attention, "infini_family", family)


def rotated_twice(twin, monkeypatch):
    """The family's own forward rotates too, and so the memory sees positions."""
    attention = twin.base_model.attention_class

    def turned(module, *args, position_embeddings, **kwargs):
        tables = tuple(table[None] for table in position_embeddings)
        return attention.forward(module, *args, position_embeddings=tables, **kwargs)

    monkeypatch.setattr(twin.base_model.infini_attention_class, "family_forward", turned)


def the_other_rotation(twin, monkeypatch):
    """Each layer turns as those of the other type."""

    def swapped(base, like):
        rotations = stream_pass.segment_rotations(base, like)
        return dict(zip(rotations, reversed(rotations.values()), strict=True))

    monkeypatch.setattr(modeling, "segment_rotations", swapped)


def positions_of_zero(twin, monkeypatch):
    monkeypatch.setattr(modeling, "slots_of", lambda states, mask, tokens, size: torch.zeros_like(tokens))


def padding_ignored(twin, monkeypatch):
    monkeypatch.setattr(modeling, "padding_mask_of", lambda mask, tokens: None)


CASES = [
    *((name, without("rotary")) for name in ("llama", "qwen3", "olmo2", "phi3", "gpt_neox")),
    *((name, without("sliding_window")) for name in ("mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3")),
    ("gemma2", without("softcap")),
    ("gpt2", without("scale")),
    ("smollm3", rotated_everywhere),
    ("gemma3_text", the_other_rotation),
    *((name, rotated_twice) for name in ("llama", "gemma2", "gpt_neox")),
    ("gpt2", positions_of_zero),
    *((name, padding_ignored) for name in ("llama", "gpt2")),
]


@pytest.mark.parametrize(("name", "sabotage"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_sabotage_is_seen(name, sabotage, ids, monkeypatch):
    base, mask = shared(name), torch.ones_like(ids[:, :SEGMENT])
    mask[0, :5] = 0
    twin = convert(base, segment_size=SEGMENT).eval()
    sabotage(twin, monkeypatch)
    out = twin(ids[:, :SEGMENT], attention_mask=mask).logits
    errors = [
        relative_rms(out[:1, 5:], base(ids[:1, 5:SEGMENT]).logits),
        relative_rms(out[1:], base(ids[1:, :SEGMENT]).logits),
    ]
    assert max(errors) > WIDE
