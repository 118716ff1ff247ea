"""generate() of every family: with the cache as without one, in ragged batches, with all that goes with it."""

import pytest
import torch
from transformers import DynamicCache, QuantizedCache, StaticCache, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from infini_attention.errors import CacheError, ConfigError
from infini_attention.models import InfiniCache, convert
from models.conftest import SEGMENT, opened
from models.tiny_families import every_family, shared, tiny, twin_of

PROMPT, NEW = 27, 8  # crosses the end of a segment


@pytest.fixture
def prompt(ids):
    return ids[:, :PROMPT]


def generate(model, prompt, **options):
    mask = None if prompt is None else torch.ones_like(prompt)
    return model.generate(prompt, **{"max_new_tokens": NEW, "do_sample": False, "attention_mask": mask} | options)


@every_family
@pytest.mark.parametrize("options", [{}, {"num_beams": 4}], ids=["greedy", "beam 4"])
def test_with_the_cache_as_without(name, options, prompt):
    twin = twin_of(name)
    out = generate(twin, prompt, **options)
    assert out.shape == (2, PROMPT + NEW)
    assert torch.equal(out, generate(twin, prompt, use_cache=False, **options))


@every_family
def test_sampled_sequences_with_the_cache_as_without(name, prompt):
    outputs = []
    for use_cache in (True, False):
        torch.manual_seed(5)
        options = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "num_return_sequences": 3}
        outputs.append(generate(twin_of(name), prompt, use_cache=use_cache, **options))
    assert outputs[0].shape == (6, PROMPT + NEW)
    assert torch.equal(*outputs)
    assert not torch.equal(outputs[0][0], outputs[0][1])


@every_family
@pytest.mark.parametrize("options", [{}, {"num_beams": 4, "num_return_sequences": 2}], ids=["greedy", "beam 4"])
def test_left_padded_rows_as_the_rows_alone(name, options, prompt):
    twin, mask = twin_of(name), torch.ones_like(prompt)
    mask[0, :9] = 0
    together = generate(twin, torch.where(mask.bool(), prompt, 0), attention_mask=mask, **options)
    alone = generate(twin, prompt[:1, 9:], **options), generate(twin, prompt[1:], **options)
    per_row = len(together) // 2
    assert torch.equal(together[:per_row, PROMPT:], alone[0][:, PROMPT - 9 :])
    assert torch.equal(together[per_row:, PROMPT:], alone[1][:, PROMPT:])


@every_family
def test_a_conversation_goes_on_with_the_returned_cache(name, prompt):
    twin = twin_of(name)
    first = generate(twin, prompt, return_dict_in_generate=True)
    size, more = first.past_key_values.nbytes, torch.cat((first.sequences, prompt[:, :9]), 1)
    again = generate(twin, more, past_key_values=first.past_key_values, return_dict_in_generate=True)
    assert torch.equal(again.sequences, generate(twin, more))
    assert again.past_key_values.nbytes == size


@every_family
def test_prefill_in_chunks_and_from_embeddings(name, prompt):
    twin = twin_of(name)
    ref = generate(twin, prompt)
    assert torch.equal(generate(twin, prompt, prefill_chunk_size=5), ref)
    embedded = twin.get_input_embeddings()(prompt)
    assert torch.equal(generate(twin, None, inputs_embeds=embedded), ref[:, PROMPT:])


class Heard(BaseStreamer):
    def __init__(self):
        self.tokens, self.ended = [], False

    def put(self, value):
        self.tokens += value.flatten().tolist()

    def end(self):
        self.ended = True


class Enough(StoppingCriteria):
    def __call__(self, input_ids, scores, **kwargs):
        return torch.full((len(input_ids),), input_ids.shape[1] >= PROMPT + 3)


@every_family
def test_streamers_and_stopping(name, prompt):
    twin, streamer = twin_of(name), Heard()
    whole = generate(twin, prompt[:1])
    out = generate(twin, prompt[:1], streamer=streamer, stopping_criteria=StoppingCriteriaList([Enough()]))
    assert torch.equal(out, whole[:, : PROMPT + 3])
    assert (streamer.tokens, streamer.ended) == (out[0].tolist(), True)
    ended = generate(twin, prompt[:1], eos_token_id=int(whole[0, PROMPT + 4]), pad_token_id=0)
    assert torch.equal(ended, whole[:, : ended.shape[1]])
    assert ended.shape[1] <= PROMPT + 5


@every_family
def test_what_takes_tokens_back_is_refused_at_the_start(name, prompt):
    twin = convert(shared(name), segment_size=SEGMENT)
    twin.register_forward_pre_hook(lambda *args: pytest.fail("a token was read"))
    for options in ({"prompt_lookup_num_tokens": 3}, {"assistant_model": shared(name)}):
        with pytest.raises(CacheError, match=r"assisted_generation takes tokens back, .*: leave out assistant_model"):
            generate(twin, prompt[:1], **options)
    with pytest.raises(CacheError, match="cannot be the assistant_model of another"):
        generate(shared(name), prompt[:1], assistant_model=twin)


@every_family
def test_other_caches_are_refused(name, prompt):
    twin = twin_of(name)
    for implementation in ("static", "offloaded", "quantized", "dynamic", "offloaded_static"):
        with pytest.raises(CacheError, match=f"cache_implementation='{implementation}' cannot carry the memory"):
            generate(twin, prompt, cache_implementation=implementation)
    config = shared(name).config
    for cache in (DynamicCache(), DynamicCache(config=config), StaticCache(config=config, max_cache_len=64)):
        with pytest.raises(CacheError, match=rf"needs an InfiniCache .*; got {type(cache).__name__}"):
            generate(twin, prompt, past_key_values=cache)
        with pytest.raises(CacheError, match="needs an InfiniCache"):
            twin(prompt, past_key_values=cache)
    with pytest.raises(CacheError, match="3 layers, the model 2"):
        twin(prompt, past_key_values=InfiniCache(3))
    with pytest.raises(CacheError, match=r"use DynamicCache with this one"):
        shared(name)(prompt, past_key_values=InfiniCache(2))


def test_quantised_and_offloaded_caches_are_refused(prompt):
    offloaded = DynamicCache(offloading=True)
    quantised = object.__new__(QuantizedCache)  # none of its backends is installed
    for cache in (offloaded, quantised):
        with pytest.raises(CacheError, match=f"got {type(cache).__name__}"):
            generate(twin_of("llama"), prompt, past_key_values=cache)


@every_family
def test_weights_of_attention_are_refused(name, prompt):
    with pytest.raises(ConfigError, match="output_attentions: what is read from a memory has no attention weights"):
        twin_of(name)(prompt, output_attentions=True)


def test_phi3_keeps_its_memory_where_its_base_would_start_again(prompt):
    """Phi-3 drops the cache once a text is longer than its original limit, for its frequencies change there."""
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    rope["original_max_position_embeddings"] = PROMPT + 3
    twin = opened(tiny("phi3", rope_parameters=rope, original_max_position_embeddings=PROMPT + 3))
    assert twin.config.infini["segment_size"] == SEGMENT
    assert torch.equal(generate(twin, prompt), generate(twin, prompt, use_cache=False))
