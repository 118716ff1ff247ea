"""generate() with the cache writes what it writes without one."""

import pytest
import torch

from infini_attention.errors import CacheError
from models.conftest import SEGMENT, opened

NEW = 27  # crosses two ends of a segment


def generate(model, ids, **options):
    options = {"max_new_tokens": NEW, "do_sample": False, "attention_mask": torch.ones_like(ids)} | options
    return model.generate(ids, **options)


@pytest.mark.parametrize("options", [{}, {"num_beams": 4}, {"num_beams": 4, "num_return_sequences": 3}])
def test_with_the_cache_equals_without(model, ids, options):
    assert torch.equal(generate(model, ids, **options), generate(model, ids, use_cache=False, **options))


def test_sampling_with_the_cache_equals_without(model, ids):
    outputs = []
    for use_cache in (True, False):
        torch.manual_seed(5)
        outputs.append(generate(model, ids, do_sample=True, temperature=0.7, top_p=0.9, use_cache=use_cache))
    assert torch.equal(*outputs)


@pytest.mark.parametrize("size", [7, SEGMENT, 64])
def test_prefill_in_chunks(model, ids, size):
    assert torch.equal(generate(model, ids, prefill_chunk_size=size), generate(model, ids))


def test_left_padded_rows_equal_the_rows_alone(model, ids):
    mask = torch.ones_like(ids)
    mask[0, :23] = 0
    padded = torch.where(mask.bool(), ids, 0)
    together = generate(model, padded, attention_mask=mask)
    assert torch.equal(together[:1, 70:], generate(model, ids[:1, 23:])[:, 47:])
    assert torch.equal(together[1:], generate(model, ids[1:]))


def test_a_second_turn_goes_on_from_the_first(model, ids):
    first = generate(model, ids, return_dict_in_generate=True)
    more = torch.cat((first.sequences, ids[:, :9]), 1)
    again = generate(model, more, past_key_values=first.past_key_values)
    assert torch.equal(again, generate(model, more))


def test_the_new_turn_alone_will_do_with_a_mask_of_all(model, ids):
    cache = model(ids[:, :50], use_cache=True).past_key_values
    out = generate(model, ids[:, 50:], attention_mask=torch.ones_like(ids), past_key_values=cache.fork())
    assert torch.equal(out[:, 20:], generate(model, ids)[:, 70:])
    for nothing_new in (ids[:, :50], ids[:, 50:]):  # no mask of more than these
        with pytest.raises(CacheError, match="so nothing is new: give all that was read and"):
            generate(model, nothing_new, past_key_values=cache)


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"num_return_sequences": 2, "do_sample": True}])
def test_several_sequences_go_on_from_one_cache(model, ids, options):
    """From a copy for each: the cache itself may be asked again."""
    cache, outputs = model(ids[:, :50], use_cache=True).past_key_values, []
    for past in (cache, cache, None):
        torch.manual_seed(5)
        outputs.append(generate(model, ids, past_key_values=past, **options))
    assert torch.equal(outputs[0], outputs[2])
    assert torch.equal(outputs[1], outputs[2])
    assert cache.get_seq_length() == 50


def test_the_cache_of_beams_is_not_that_of_what_they_return(model, ids):
    first = generate(model, ids, num_beams=4, max_new_tokens=3, return_dict_in_generate=True)
    for beams in (1, 4):
        with pytest.raises(
            CacheError, match=r"has read 8 rows, the prompts are 2: .* fork\(\) of the cache from before"
        ):
            generate(model, first.sequences, past_key_values=first.past_key_values, num_beams=beams)


def test_state_bytes_are_the_same_after_10_and_300_new_tokens(base, ids):
    """Of the other rules: test_model.py."""
    model = opened(base)
    sizes = {
        generate(model, ids, max_new_tokens=n, return_dict_in_generate=True).past_key_values.nbytes for n in (10, 300)
    }
    assert len(sizes) == 1


@pytest.mark.parametrize("implementation", ["static", "offloaded", "quantized", "dynamic"])
def test_other_cache_implementations_are_refused(model, ids, implementation):
    with pytest.raises(CacheError, match="cannot carry the memory"):
        generate(model, ids, cache_implementation=implementation)


def test_what_takes_tokens_back_is_refused_at_the_start(model, base, ids):
    with pytest.raises(CacheError, match="assisted_generation"):
        generate(model, ids[:1], prompt_lookup_num_tokens=3)
    with pytest.raises(CacheError, match="assisted_generation"):
        generate(model, ids[:1], assistant_model=base)


def test_continuous_batching_is_refused(model):
    with pytest.raises(CacheError, match="pages keys and values"):
        model.init_continuous_batching()
