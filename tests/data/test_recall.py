"""Recall samples: exact lengths, places where they are said to be, keys that no one can guess."""

import random
from collections import Counter

import pytest

from infini_attention.data.haystack import SENTENCES, Haystack
from infini_attention.data.names import TEST_NAMES, TRAIN_NAMES
from infini_attention.data.recall import OPENING, draw_key, named_keys, passkey
from infini_attention.data.vocabulary import byte_tokenizer
from infini_attention.errors import InputError
from tiny import BOOK, byte_level
from tiny import byte_tokenizer as with_start

BYTES = byte_tokenizer()
TOKENIZERS = {"bytes": BYTES, "start token": with_start("<s>"), "gpt2": byte_level()}


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]


@pytest.fixture(scope="module", params=["repeat", "book"])
def haystack(request, tokenizer):
    return Haystack.repeat(tokenizer) if request.param == "repeat" else Haystack.book(tokenizer, [BOOK])


def part(tokenizer, sample, span):
    return tokenizer.decode(sample.token_ids[slice(*span)])


def test_a_sample_written_out_by_hand():
    """The whole prompt, as landmark attention's is: opening, filler, needle, filler, question, key."""
    sample = passkey(BYTES, 410, random.Random(3), Haystack.repeat(BYTES), depth=0.5)
    key = bytes(sample.token_ids[-5:].tolist()).decode()
    assert bytes(sample.token_ids.tolist()).decode() == (
        "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. I will quiz you "
        "about the important information there. The grass is green. The sky is blue. The sun is yellow. Here we go. "
        f"There and b The pass key is {key}. Remember it. {key} is the pass key.ack again. The grass is green. The sky "
        f"is blue. The sun is yellow. Here we go.  What is the pass key? The pass key is {key}"
    )
    assert sample.needles == sample.sources == ((228, 287),)
    assert (sample.questions, sample.answers, sample.names) == (((366, 405),), ((405, 410),), ("",))


@pytest.mark.parametrize("length", [400, 511, 4097])
def test_passkey(tokenizer, haystack, length):
    for seed in range(20):
        sample = passkey(tokenizer, length, random.Random(seed), haystack)
        assert len(sample.token_ids) == length == sample.answers[0][1]
        key = part(tokenizer, sample, sample.answers[0]).strip()
        assert 10_000 <= int(key) <= 99_999
        assert (
            part(tokenizer, sample, sample.needles[0]) == f" The pass key is {key}. Remember it. {key} is the pass key."
        )
        [(start, stop)] = sample.questions
        assert stop == sample.answers[0][0]
        asked = part(tokenizer, sample, (start, length))
        assert asked == f" What is the pass key? The pass key is {key}"


@pytest.mark.parametrize("depth", [0, 0.25, 1])
def test_depth_is_a_share_of_the_filler(depth):
    stack = Haystack.repeat(BYTES)
    sample = passkey(BYTES, 5000, random.Random(0), stack, depth=depth)
    [(start, stop)] = sample.needles
    before, filler = (
        start - len(OPENING),
        5000 - len(OPENING) - (stop - start) - len(" What is the pass key? The pass key is 12345"),
    )
    assert before == round(depth * filler)
    rest = [*sample.token_ids[len(OPENING) : start].tolist(), *sample.token_ids[stop : sample.questions[0][0]].tolist()]
    assert bytes(rest) == (SENTENCES.encode() * 100)[:filler]  # one filler, with the needle between


def test_without_a_needle(tokenizer, haystack):
    sample = passkey(tokenizer, 600, random.Random(0), haystack, with_needle=False)
    assert (len(sample.token_ids), sample.needles, sample.sources) == (600, (), (None,))
    key = part(tokenizer, sample, sample.answers[0]).strip()
    assert tokenizer.decode(sample.token_ids).count(key) == 1
    assert "Remember it" not in tokenizer.decode(sample.token_ids)


def test_without_any_name(tokenizer, haystack):
    """The same people are asked about, and nobody has said a word of them before."""

    def drawn(**options):
        return named_keys(tokenizer, 2048, random.Random(0), haystack, keys=4, questions=3, rewritten=2, **options)

    sample, whole = drawn(with_needle=False), drawn()
    assert (len(sample.token_ids), sample.needles, sample.sources) == (2048, (), (None,) * 3)
    assert sample.names == whole.names
    assert [part(tokenizer, sample, span) for span in sample.answers] == [
        part(tokenizer, whole, span) for span in whole.answers
    ]
    before = part(tokenizer, sample, (0, sample.questions[0][0]))
    assert not [name for name in sample.names if f" {name} " in before]
    assert "Remember it" not in before


@pytest.mark.parametrize(("keys", "questions", "rewritten"), [(1, 1, 0), (1, 1, 1), (4, 2, 4), (16, 16, 5)])
def test_named_keys(tokenizer, haystack, keys, questions, rewritten):
    for seed in range(10):
        sample = named_keys(
            tokenizer, 4096, random.Random(seed), haystack, keys=keys, questions=questions, rewritten=rewritten
        )
        assert len(sample.token_ids) == 4096 == sample.answers[-1][1]
        assert len(sample.needles) == keys + rewritten
        assert list(sample.needles) == sorted(sample.needles)
        assert len(set(sample.names)) == questions == len(sample.answers)
        told = {}
        for span in sample.needles:
            words = part(tokenizer, sample, span)
            name, key = words.split()[4], words.split()[6].strip(".")
            assert words == f" The pass key of {name} is {key}. Remember it. {key} is the pass key of {name}."
            assert told.get(name, (None, None))[0] != key  # a new key is another one
            told[name] = (key, span)
        assert len(told) == keys
        for name, question, answer, source in zip(
            sample.names, sample.questions, sample.answers, sample.sources, strict=True
        ):
            assert part(tokenizer, sample, answer).strip() == told[name][0]  # the latest wins
            assert source == told[name][1]
            assert question[1] == answer[0]
            asked = part(tokenizer, sample, (question[0], answer[1]))
            assert asked == f" What is the pass key of {name}? The pass key of {name} is {told[name][0]}"


def test_questions_are_joined_by_full_stops():
    sample = named_keys(BYTES, 2000, random.Random(0), Haystack.repeat(BYTES), keys=3, questions=3)
    text = bytes(sample.token_ids[sample.questions[0][0] :].tolist()).decode()
    parts = [f" What is the pass key of {name}? The pass key of {name} is " for name in sample.names]
    keys = [part(BYTES, sample, answer) for answer in sample.answers]
    assert text == ".".join(question + key for question, key in zip(parts, keys, strict=True))


def test_the_answer_has_the_tokens_of_running_text(tokenizer):
    """So that a model can copy them: they are those that the key has behind any `is `."""
    sample = passkey(tokenizer, 600, random.Random(1), Haystack.repeat(tokenizer), depth=0.5)
    answer = sample.token_ids[slice(*sample.answers[0])].tolist()
    needle = sample.token_ids[slice(*sample.needles[0])].tolist()
    assert any(needle[at : at + len(answer)] == answer for at in range(len(needle)))


def test_a_sample_is_its_seed(tokenizer, haystack):
    def ids(seed):
        return named_keys(tokenizer, 900, random.Random(seed), haystack, keys=3, questions=2, rewritten=1).token_ids

    assert ids(0).equal(ids(0))
    assert not ids(0).equal(ids(1))


def test_keys_are_uniform():
    """Chi-square over 90 bins of a thousand numbers each, and of the last digit: below their 99.9 % points."""
    rng = random.Random(0)
    keys = [int(draw_key(rng)) for _ in range(45_000)]
    assert 10_000 <= min(keys) < 10_050
    assert 99_950 < max(keys) <= 99_999
    for bins, count, limit in (
        (Counter(key // 1000 for key in keys), 90, 135.9),
        (Counter(key % 10 for key in keys), 10, 27.9),
    ):
        expected = len(keys) / count
        assert len(bins) == count
        assert sum((found - expected) ** 2 / expected for found in bins.values()) < limit


def test_needles_lie_anywhere():
    stack = Haystack.repeat(BYTES)
    starts = [passkey(BYTES, 1200, random.Random(seed), stack).needles[0][0] for seed in range(300)]
    assert min(starts) < len(OPENING) + 20
    assert max(starts) > 1200 - 59 - 44 - 20


def test_names():
    assert len(set(TRAIN_NAMES)) == len(TRAIN_NAMES) >= 150
    assert len(set(TEST_NAMES)) == len(TEST_NAMES) >= 70
    assert not set(TRAIN_NAMES) & set(TEST_NAMES)
    assert all(name.isalpha() and name.isascii() and name.istitle() for name in (*TRAIN_NAMES, *TEST_NAMES))


def test_a_start_token_comes_first():
    tokenizer = TOKENIZERS["start token"]
    sample = passkey(tokenizer, 400, random.Random(0), Haystack.repeat(tokenizer))
    assert sample.token_ids.tolist().count(tokenizer.bos_token_id) == 1
    assert sample.token_ids[0] == tokenizer.bos_token_id


class TestMistakes:
    def test_too_short(self, tokenizer, haystack):
        with pytest.raises(InputError, match=r"50 tokens are too few for 1 needles and 1 questions, which take \d+"):
            passkey(tokenizer, 50, random.Random(0), haystack)

    def test_the_shortest(self):
        stack = Haystack.repeat(BYTES)
        shortest = len(OPENING) + 59 + 44
        assert len(passkey(BYTES, shortest, random.Random(0), stack).token_ids) == shortest
        with pytest.raises(InputError, match=f"take {shortest} "):
            passkey(BYTES, shortest - 1, random.Random(0), stack)

    @pytest.mark.parametrize("depth", [-0.1, 1.1, float("nan")])
    def test_depth(self, depth):
        with pytest.raises(InputError, match="between 0 and 1"):
            passkey(BYTES, 400, random.Random(0), Haystack.repeat(BYTES), depth=depth)

    @pytest.mark.parametrize(
        "counts",
        [
            {"keys": 0, "questions": 1},
            {"keys": 168, "questions": 1},
            {"keys": 2, "questions": 0},
            {"keys": 2, "questions": 3},
            {"keys": 2, "questions": 1, "rewritten": 3},
            {"keys": 2, "questions": 1, "rewritten": -1},
        ],
    )
    def test_counts(self, counts):
        with pytest.raises(InputError, match="must be between"):
            named_keys(BYTES, 4000, random.Random(0), Haystack.repeat(BYTES), **counts)

    def test_a_tokenizer_that_loses_digits(self, monkeypatch):
        monkeypatch.setattr(BYTES, "decode", lambda ids: "?")
        with pytest.raises(InputError, match="does not give a key back"):
            passkey(BYTES, 400, random.Random(0), Haystack.repeat(BYTES))
