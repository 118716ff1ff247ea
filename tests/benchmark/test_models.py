"""What is timed is what it says: whole streams, gone on from, and gradients that are dropped."""

import json

import pytest
import torch

from helpers import FLOAT32, assert_close
from infini_attention.benchmark import models
from infini_attention.benchmark.contender import PHASES, prepare
from infini_attention.benchmark.lineup import OF_TRANSFORMERS
from infini_attention.benchmark.operation import Operation
from infini_attention.benchmark.sizes import SHAPES, Sizes, named_shapes
from infini_attention.errors import ConfigError
from infini_attention.models.known import builtin_path

SIZES = Sizes(
    width=16,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=4,
    intermediate=20,
    segment=8,
    vocabulary=11,
    tied=True,
    memory={"rank": 0, "overlap": 4, "layers": [1]},
)
IDS = torch.randint(1, 11, (2, 24), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def base():
    return models.base_model(SIZES, "cpu")


@pytest.mark.parametrize("name", ["gated_delta", "none", *OF_TRANSFORMERS])
@torch.no_grad()
def test_a_stream_goes_on_where_it_was(base, name):
    # The logits of one more token, from the stream and from all of the text: nothing was dropped or read twice.
    contender = OF_TRANSFORMERS[name](base, SIZES) if name in OF_TRANSFORMERS else models.ours(base, SIZES, name, 8)
    stream = contender.prefill(IDS[:, :19])
    for place in (19, 20):
        stream = contender.decode(stream, IDS[:, place : place + 1])
    logits = contender.model(IDS[:, 21:22], past_key_values=stream, use_cache=True).logits[:, -1]
    text = IDS[:, 16:22] if name == "by-segment" else IDS[:, :22]
    assert_close(logits, contender.model(text, use_cache=False).logits[:, -1], FLOAT32)


def test_peers_of_transformers_share_the_weights(base):
    ref = {parameter.data_ptr() for parameter in base.parameters()}
    for build in OF_TRANSFORMERS.values():
        contender = build(base, SIZES)
        assert {parameter.data_ptr() for parameter in contender.model.parameters()} == ref
        assert contender.parameters == sum(parameter.numel() for parameter in base.parameters())


@pytest.mark.parametrize("name", ["gated_delta", "sliding-window", "by-segment"])
def test_training_has_gradients_and_drops_them(base, name):
    contender = OF_TRANSFORMERS[name](base, SIZES) if name in OF_TRANSFORMERS else models.ours(base, SIZES, name)
    contender.backward(IDS)
    assert all(parameter.grad is not None for parameter in contender.model.parameters())
    contender.train(IDS)
    assert all(parameter.grad is None for parameter in contender.model.parameters())


@pytest.mark.parametrize("rule", ["gated_delta", "linear", "none"])
@torch.no_grad()
def test_staggered_rows_end_their_segments_at_different_tokens(base, rule):
    twin = models.ours(base, SIZES, rule)
    cache = models.staggered(twin, IDS[:1, :16], rows=4)
    assert cache.tokens_seen.tolist() == [10, 12, 14, 16]
    for row, seen in enumerate(cache.tokens_seen.tolist()):
        alone = twin.prefill(IDS[:1, :seen])
        for mixed, single in zip(cache.states, alone.states, strict=True):
            assert_close(mixed.keys[row : row + 1], single.keys, FLOAT32)
            assert_close(mixed.running.matrix[row : row + 1], single.running.matrix, FLOAT32)


@pytest.mark.parametrize("rule", ["gated_delta", "delta", "none"])
def test_the_operation_runs_in_all_phases(rule):
    operation = Operation(SIZES, rule, "cpu")
    for phase in PHASES:
        prepare(operation, phase, IDS, steps=3)()
    assert operation.prefill(IDS).tokens_seen.tolist() == [24, 24]
    assert operation.decode(operation.prefill(IDS), IDS[:, :1]).tokens_seen.tolist() == [25, 25]


def test_a_round_of_decoding_goes_on_from_the_one_before(base):
    read = []
    twin = models.ours(base, SIZES, "none")
    twin.decode = lambda stream, token: (
        read.append(int(stream.tokens_seen[0])) or models.Model.decode(twin, stream, token)
    )
    run = prepare(twin, "decode", IDS, steps=2)
    run()
    run()
    assert read == [24, 25, 26, 27]


def test_the_shape_of_the_builtin_model_is_its_own():
    config, sizes = json.loads((builtin_path() / "config.json").read_text()), SHAPES["builtin"]
    assert (sizes.width, sizes.layers, sizes.intermediate) == (
        config["hidden_size"],
        config["num_hidden_layers"],
        config["intermediate_size"],
    )
    assert (sizes.heads, sizes.kv_heads, sizes.head_dim, sizes.vocabulary) == (
        config["num_attention_heads"],
        config["num_key_value_heads"],
        config["head_dim"],
        config["vocab_size"],
    )
    memory = config["infini"]
    assert (sizes.segment, sizes.tied) == (memory["segment_size"], config["tie_word_embeddings"])
    assert sizes.memory == {name: memory[name] for name in ("rank", "decay", "beta_floor", "overlap", "layers")}


def test_an_unknown_shape_is_named():
    with pytest.raises(ConfigError, match="no shape '7b'; there are 1024x12, builtin"):
        named_shapes(["builtin", "7b"])
