"""Heads that look back from the first step on."""

import pytest
import torch

from infini_attention.errors import ConfigError
from infini_attention.models import InfiniLlamaConfig, InfiniLlamaForCausalLM
from infini_attention.training.starts import look_back

SIZES = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}


def new_model(**options):
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64}
    settings = {"infini": {"segment_size": 32, "rule": "none"}, "attention_bias": True, "initializer_range": 0.2}
    torch.manual_seed(0)
    return InfiniLlamaForCausalLM(InfiniLlamaConfig(**SIZES | heads | settings | options)).eval()


def test_each_head_copies_the_token_at_its_distance():
    model = new_model()
    look_back(model)
    seen = {}
    attention = model.model.layers[0].self_attn
    attention.v_proj.register_forward_hook(lambda module, inputs, output: seen.update(values=output))
    attention.o_proj.register_forward_hook(lambda module, inputs, output: seen.update(mixed=inputs[0]))
    with torch.no_grad():
        model(torch.randperm(50)[None, :32])
    values = seen["values"].view(32, 2, 64).repeat_interleave(2, 1)
    mixed = seen["mixed"].view(32, 4, 64)
    for head in range(4):
        similar = torch.cosine_similarity(mixed[8:, None, head], values[None, :, head], dim=-1)
        assert similar.argmax(1).tolist() == [place - head - 1 for place in range(8, 32)]
        assert similar.max(1).values.min() > 0.9


def test_later_layers_ask_for_what_followed_the_same_tokens():
    """The query at the second B of "... A B X ... A B" finds X, which is the token after the first B."""
    model = new_model(num_hidden_layers=2, initializer_range=0.088)
    look_back(model)
    seen = {}
    attention = model.model.layers[1].self_attn
    for name in ("q_proj", "k_proj"):
        getattr(attention, name).register_forward_hook(
            lambda module, inputs, output, name=name: seen.update({name: output.view(32, -1, 64)})
        )
    ids = torch.randperm(50)[:32]
    ids[27:31] = ids[8:12]
    with torch.no_grad():
        model(ids[None])
    for group in range(2):
        scores = torch.cosine_similarity(seen["q_proj"][30, 2 * group], seen["k_proj"][:30, group], dim=-1)
        assert scores.argmax() == 12


def test_an_untrained_model_leans_to_what_followed_segments_ago():
    """Without training: after "... A B C X ... A B C", the memory lifts X above other tokens of the text."""
    infini = {"segment_size": 16, "layers": [1], "decay": False}
    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "initializer_range": 0.088}
    model = new_model(**sizes, vocab_size=400, tie_word_embeddings=True, infini=infini)
    look_back(model)
    above = {True: 0, False: 0}
    for sample in range(20):
        ids = torch.randperm(400, generator=torch.Generator().manual_seed(sample))[:43]
        ids[40:43] = ids[8:11]  # which the stream still holds itself, so they are no rivals
        rivals = torch.cat((ids[:8], ids[12:40]))
        for memory in above:
            with torch.no_grad():
                cache = model(ids[None, :32], use_cache=True).past_key_values
                logits = model(ids[None, 32:], past_key_values=cache if memory else cache.forget()).logits[0, -1]
            above[memory] += int((logits[rivals] > logits[ids[11]]).sum())
    assert above[True] < 0.4 * 20 * len(rivals) < above[False], above


def test_it_needs_biases():
    with pytest.raises(ConfigError, match="attention_bias = true"):
        look_back(new_model(attention_bias=False))
