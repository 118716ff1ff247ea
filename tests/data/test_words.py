"""Keys of words: no two alike, and no way to read one for another."""

import random

from infini_attention.data.words import ADJECTIVES, NOUNS, word_keys


def test_words():
    for words in (ADJECTIVES, NOUNS):
        assert len(set(words)) == len(words) >= 150
        assert all(word.isalpha() and word.isascii() and word.islower() and 3 <= len(word) <= 8 for word in words)
    assert not set(ADJECTIVES) & set(NOUNS)


def test_keys_are_different():
    keys = word_keys(5000, random.Random(0))
    assert len(set(keys)) == 5000
    assert {tuple(key.split("-")) for key in keys} <= {(first, last) for first in ADJECTIVES for last in NOUNS}
    assert {key.split("-")[0] for key in keys} == set(ADJECTIVES)
    assert {key.split("-")[1] for key in keys} == set(NOUNS)
