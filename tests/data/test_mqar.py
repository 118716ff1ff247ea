"""MQAR samples: pairs, text without their tokens, and each key once more."""

import random
from collections import Counter

import pytest
import torch

from infini_attention.data.haystack import Haystack
from infini_attention.data.mqar import PairTokens, mqar_sample
from infini_attention.data.seeds import evaluation_rng, training_rng
from infini_attention.data.vocabulary import byte_tokenizer
from infini_attention.errors import InputError
from tiny import byte_level
from tiny import byte_tokenizer as with_start

BYTES = byte_tokenizer()
TOKENS = PairTokens.of(BYTES, Haystack.repeat(BYTES))


def draw(length=256, seed=0, **options):
    options = {"pairs": 8, "questions": 5} | options
    return mqar_sample(BYTES, length, random.Random(seed), Haystack.repeat(BYTES), TOKENS, **options)


def test_a_sample_written_out_by_hand():
    sample = draw(60, seed=1, pairs=3, questions=2)
    (k0, v0, k1, v1, k2, v2), text = sample.token_ids[:6].tolist(), bytes(sample.token_ids[6:56].tolist())
    assert text == b" The grass is green. The sky is blue. The sun is y"
    value = {k0: v0, k1: v1, k2: v2}
    a, va, b, vb = sample.token_ids[56:].tolist()
    assert (va, vb) == (value[a], value[b])
    assert (sample.questions, sample.answers) == (((56, 57), (58, 59)), ((57, 58), (59, 60)))
    assert sample.needles == ((0, 2), (2, 4), (4, 6))
    assert sample.sources == tuple(sample.needles[[k0, k1, k2].index(key)] for key in (a, b))


@pytest.mark.parametrize("tokenizer", [BYTES, with_start("<s>"), byte_level()], ids=["bytes", "start token", "gpt2"])
@pytest.mark.parametrize("with_needle", [True, False])
def test_pairs_are_where_they_are_said_to_be(tokenizer, with_needle):
    haystack = Haystack.repeat(tokenizer)
    tokens = PairTokens.of(tokenizer, haystack)
    for seed in range(20):
        sample = mqar_sample(
            tokenizer, 300, random.Random(seed), haystack, tokens, pairs=16, questions=9, with_needle=with_needle
        )
        ids = sample.token_ids.tolist()
        assert len(ids) == 300
        asked = [ids[start] for start, _ in sample.questions]
        assert len(set(asked)) == 9
        assert all(stop == answer for (_, stop), (answer, _) in zip(sample.questions, sample.answers, strict=True))
        counts = Counter(ids)
        for question, (place, _), source in zip(sample.questions, sample.answers, sample.sources, strict=True):
            key, value = ids[question[0]], ids[place]
            assert counts[key] == counts[value] == 1 + with_needle  # nothing else says it
            assert key in tokens.keys and value in tokens.values
            assert (ids[slice(*source)] == [key, value]) if with_needle else source is None
        start = tokenizer.bos_token_id
        assert (ids[0] == start) == (start is not None)


def test_tokens_are_ordinary_and_not_of_the_text():
    tokenizer, haystack = with_start("<s>"), Haystack(list(b"some words. "))
    tokens = PairTokens.of(tokenizer, haystack)
    assert not {*tokens.keys, *tokens.values} & {*b"some words. ", tokenizer.bos_token_id}
    assert not {*tokens.keys} & {*tokens.values}
    assert len(tokens.keys) == len(tokens.values) == (256 - len({*b"some words. "})) // 2
    few = PairTokens.of(tokenizer, haystack, 11)
    assert (len(few.keys), len(few.values), few.chance) == (5, 5, 0.2)


def test_keys_and_values_are_uniform():
    keys, values = Counter(), Counter()
    for seed in range(400):
        sample = draw(seed=seed)
        for start, _ in sample.needles:
            keys[int(sample.token_ids[start])] += 1
            values[int(sample.token_ids[start + 1])] += 1
    for counts, kinds in ((keys, TOKENS.keys), (values, TOKENS.values)):
        expected = 3200 / len(kinds)
        chi2 = sum((counts[kind] - expected) ** 2 / expected for kind in kinds)
        assert chi2 < len(kinds) + 5 * (2 * len(kinds)) ** 0.5


def test_tests_never_draw_what_training_does():
    one = mqar_sample(BYTES, 256, evaluation_rng(0, "mqar"), Haystack.repeat(BYTES), TOKENS, pairs=8, questions=8)
    two = mqar_sample(BYTES, 256, training_rng(0, "mqar"), Haystack.repeat(BYTES), TOKENS, pairs=8, questions=8)
    assert not torch.equal(one.token_ids, two.token_ids)


def test_what_cannot_be():
    with pytest.raises(InputError, match=r"pairs must be between 1 and \d+, half of the tokens that the haystack"):
        draw(4096, pairs=200)
    with pytest.raises(InputError, match="20 tokens are too few for 8 pairs and 5 questions, which take 26"):
        draw(20)
    with pytest.raises(InputError, match=r"of 256 there are 1: use another haystack"):
        PairTokens.of(BYTES, Haystack(list(range(255))))
