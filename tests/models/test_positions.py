"""Scaled and partial rotations, layers without any, learned positions; and the segments that are too long for them."""

import copy

import pytest
import torch

from helpers import FLOAT32, assert_close, relative_rms
from infini_attention.errors import ConfigError, ModelError
from infini_attention.models import convert, load_model
from models.conftest import SEGMENT, opened
from models.tiny_families import BESIDE_BASE, shared, tiny

THETA = {"rope_theta": 1e4}
ORIGINAL = {"original_max_position_embeddings": 32}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LONGROPE = {"rope_type": "longrope", "short_factor": [1.5] * 4, "long_factor": [4.0] * 4}
HALF_LONGROPE = {"rope_type": "longrope", "short_factor": [1.5] * 2, "long_factor": [4.0] * 2}
SHORT = {"max_position_embeddings": 32}
BOTH = {"sliding_attention": {"rope_type": "default", "rope_theta": 100.0}}

# Family, what its configuration says of the rotation, and what else it needs.
ROTATIONS = {
    "linear": ("llama", {"rope_type": "linear", "factor": 4.0} | THETA, {}),
    "dynamic": ("llama", {"rope_type": "dynamic", "factor": 4.0} | THETA, SHORT),
    "yarn": ("llama", {"rope_type": "yarn", "factor": 4.0} | THETA | ORIGINAL, {}),
    "yarn in qwen3": ("qwen3", {"rope_type": "yarn", "factor": 4.0} | THETA | ORIGINAL, {}),
    "llama3": ("llama", LLAMA3 | THETA | ORIGINAL, {}),
    "longrope": ("phi3", LONGROPE | THETA | ORIGINAL, ORIGINAL),
    "partial longrope": ("phi3", HALF_LONGROPE | THETA | ORIGINAL | {"partial_rotary_factor": 0.5}, ORIGINAL),
    "partial": ("gpt_neox", {"rope_type": "default", "partial_rotary_factor": 0.75} | THETA, {}),
    "partial linear": ("gpt_neox", {"rope_type": "linear", "factor": 4.0, "partial_rotary_factor": 0.5} | THETA, {}),
    "by layer type": ("gemma3_text", BOTH | {"full_attention": {"rope_type": "linear", "factor": 8.0} | THETA}, {}),
    "dynamic by layer type": (
        "gemma3_text",
        BOTH | {"full_attention": {"rope_type": "dynamic", "factor": 8.0} | THETA},
        SHORT,
    ),
}
every_rotation = pytest.mark.parametrize("rotation", ROTATIONS)


def base_with(rotation):
    name, rope, others = ROTATIONS[rotation]
    return tiny(name, rope_parameters=copy.deepcopy(rope), **others)


@every_rotation
def test_equals_its_base_and_streams(rotation, ids, tmp_path):
    base = base_with(rotation)
    twin = opened(base)
    for length in (1, SEGMENT):
        assert_close(twin(ids[:, :length]).logits, base(ids[:, :length]).logits, BESIDE_BASE[torch.float32])
    whole = twin(ids).logits
    cache, outputs = None, []
    for piece in ids.split([5, 1, 30, 34], 1):
        out = twin(piece, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        outputs.append(out.logits)
    assert_close(torch.cat(outputs, 1), whole, FLOAT32)
    twin.save_pretrained(tmp_path)
    assert torch.equal(load_model(tmp_path)(ids).logits, whole)


@every_rotation
def test_it_matters(rotation, ids):
    """With these settings the base rotates otherwise, if only beyond a limit: the test above could fail."""
    name, _, others = ROTATIONS[rotation]
    usual = tiny(name, rope_parameters={"rope_type": "default"} | THETA, **others)
    if "gemma3" in name:
        usual = shared(name)
    assert relative_rms(base_with(rotation)(ids).logits, usual(ids).logits) > 1e-3


@pytest.mark.parametrize(
    "rotation", [rotation for rotation in ROTATIONS if "dynamic" in rotation or "long" in rotation]
)
def test_no_segment_in_which_the_rotation_would_change(rotation, ids):
    """Base and twin agree up to the limit, and there is no twin beyond it."""
    base = base_with(rotation)
    twin = convert(base, segment_size=32).eval()
    assert_close(twin(ids[:, :32]).logits, base(ids[:, :32]).logits, BESIDE_BASE[torch.float32])
    with pytest.raises(ConfigError, match=r"segment_size must be at most 32, beyond which .* change; got 33"):
        convert(base, segment_size=33)


def test_the_overlap_takes_positions_too():
    base = base_with(next(rotation for rotation in ROTATIONS if "dynamic" in rotation))
    convert(base, segment_size=24, overlap=8)
    with pytest.raises(ConfigError, match=r"segment_size must be at most 24 beside an overlap of 8, .*; got 25"):
        convert(base, segment_size=25, overlap=8)
    with pytest.raises(ConfigError, match=r"overlap must be 0: .* gpt2 .*; got 8"):
        convert(tiny("gpt2"), segment_size=16, overlap=8)


def test_no_segment_longer_than_the_learned_positions(ids):
    base, long = tiny("gpt2", max_position_embeddings=40), ids[:, :40]
    assert_close(convert(base, segment_size=40).eval()(long).logits, base(long).logits, BESIDE_BASE[torch.float32])
    with pytest.raises(ConfigError, match=r"segment_size must be at most 40, the positions .* has learned; got 41"):
        convert(base, segment_size=41)


def test_learned_positions_restart_in_each_segment(ids):
    """So a stream may be longer than the table, and a row may begin anywhere in its batch."""
    base = tiny("gpt2", max_position_embeddings=SEGMENT)
    window = opened(base, rule="none")
    for start in (0, SEGMENT, 3 * SEGMENT):
        span = slice(start, start + SEGMENT)
        assert_close(window(ids).logits[:, span], base(ids[:, span]).logits, BESIDE_BASE[torch.float32])


@pytest.mark.parametrize("name", ["smollm3", "exaone4"])
def test_a_layer_without_a_rotation(name):
    """The keys of a segment of one and the same token turn with their places in the first layer alone."""
    twin = opened(shared(name), rule="none")
    states = twin(torch.full((1, SEGMENT - 1), 7), use_cache=True).past_key_values.states
    turned = [relative_rms(state.keys[:, 1:-1], state.keys[:, :1].expand_as(state.keys[:, 1:-1])) for state in states]
    assert turned[0] > 0.1
    assert turned[1] < FLOAT32


REFUSED = {
    "chunked layers": (
        {"layer_types": ["full_attention", "chunked_attention"]},
        "chunked_attention, which have no twin",
    ),
    "both directions": ({"use_bidirectional_attention": True}, "looks ahead"),
    "not causal": ({"is_causal": False}, "looks ahead"),
    "cross-attention": ({"add_cross_attention": True}, "got one with cross-attention"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_has_no_twin(changes, message):
    base = tiny("gemma2")
    for name, value in changes.items():
        setattr(base.config, name, value)
    with pytest.raises(ModelError, match=message):
        convert(base)
