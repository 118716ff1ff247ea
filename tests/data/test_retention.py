"""Keys at the start of a stream, and questions about them that belong nowhere yet."""

import random
import re

import pytest

from infini_attention.data.names import TEST_NAMES, TRAIN_NAMES
from infini_attention.data.recall import OPENING
from infini_attention.data.retention import written_keys
from infini_attention.data.vocabulary import byte_tokenizer
from infini_attention.errors import InputError
from tiny import byte_level

BYTES = byte_tokenizer()


def test_a_single_key_written_out_by_hand():
    written = written_keys(BYTES, 1, random.Random(0))
    [question] = written.questions
    text, asked = (bytes(ids.tolist()).decode() for ids in (written.token_ids, question.token_ids))
    key = asked[-5:]
    assert text == OPENING + f" The pass key is {key}. Remember it. {key} is the pass key."
    assert asked == f" What is the pass key? The pass key is {key}"
    assert (question.questions, question.answers) == (((0, 39),), ((39, 44),))


@pytest.mark.parametrize("tokenizer", [BYTES, byte_level()], ids=["bytes", "gpt2"])
@pytest.mark.parametrize("with_needle", [True, False])
def test_each_question_has_the_key_that_was_written(tokenizer, with_needle):
    written = written_keys(tokenizer, 8, random.Random(1), with_needle=with_needle)
    told = dict(re.findall(r"The pass key of (\w+) is (\d{5})\. Remember", tokenizer.decode(written.token_ids)))
    assert len(told) == (8 if with_needle else 0)
    for question in written.questions:
        [name], [(start, stop)] = question.names, question.answers
        assert name in TEST_NAMES and name not in TRAIN_NAMES
        assert stop == len(question.token_ids)
        assert tokenizer.decode(question.token_ids[:start]).startswith(f" What is the pass key of {name}?")
        if with_needle:
            assert tokenizer.decode(question.token_ids[start:]).strip() == told[name]


def test_more_keys_than_names():
    with pytest.raises(InputError, match="keys must be between 1 and"):
        written_keys(BYTES, 1000, random.Random(0))
