"""RULER-style samples: exact lengths, needles where they are said to be, and answers that only they tell."""

import random
import re
import uuid
from collections import Counter

import pytest

from infini_attention.data.haystack import SENTENCES, Haystack
from infini_attention.data.ruler import ruler_sample
from infini_attention.data.ruler_text import KINDS
from infini_attention.data.vocabulary import byte_tokenizer
from infini_attention.errors import InputError
from tiny import book, byte_level
from tiny import byte_tokenizer as with_start

BYTES = byte_tokenizer()
TOKENIZERS = {"bytes": BYTES, "start token": with_start("<s>"), "gpt2": byte_level()}
LISTS = [name for name, kind in KINDS.items() if kind.haystack == "list"]
FILLED = [name for name in KINDS if name not in LISTS]
KEYED = [name for name in FILLED if name != "vt"]


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]


@pytest.fixture(scope="module")
def draw(tokenizer):
    stacks = {
        "repeat": Haystack.repeat(tokenizer),
        "book": Haystack(tokenizer(book(100_000), add_special_tokens=False)["input_ids"]),
    }

    def draw(name, length=1600, seed=0, **options):
        return ruler_sample(tokenizer, name, length, random.Random(seed), stacks.get(KINDS[name].haystack), **options)

    return draw


def part(tokenizer, sample, span):
    return tokenizer.decode(sample.token_ids[slice(*span)])


def test_a_sample_written_out_by_hand():
    """The whole prompt: opening, filler with a needle behind a sentence, question, and the beginning of the answer."""
    sample = ruler_sample(BYTES, "niah_single_1", 550, random.Random(1), Haystack.repeat(BYTES))
    [value] = sample.expected
    assert bytes(sample.token_ids.tolist()).decode() == (
        "A special magic number is hidden within the following text. Make sure to memorize it. I will quiz you about "
        "the number afterwards.\n The grass is green. The sky is blue. One of the special magic numbers for "
        f"common-quarry is: {value}. The sun is yellow. Here we go. There and back again. The grass is green. The sky "
        "is blue. The sun is yellow. Here we go. There \nWhat is the special magic number for common-quarry mentioned "
        "in the provided text? The special magic number for common-quarry mentioned in the provided text is"
    )
    assert sample.needles == sample.sources == ((168, 232),)
    assert (sample.questions, sample.new_tokens) == (((360, 520),), 30)


def test_a_chain_written_out_by_hand():
    sample = ruler_sample(BYTES, "vt", 840, random.Random(1), Haystack.repeat(BYTES))
    one, two, three, four, five = sample.expected
    text = bytes(sample.token_ids.tolist()).decode()
    [value] = re.findall(r"VAR \w+ = (\d+)", text)
    filler = text
    for said in (f"{one} = {value}", f"{two} = VAR {one}", f"{three} = VAR {two}", f"{four} = VAR {three}"):
        assert filler.count(f". VAR {said}.") == 1
        filler = filler.replace(f" VAR {said}.", "")
    filler = filler.replace(f" VAR {five} = VAR {four}.", "")
    opening = "Memorize and track the chain(s) of variable assignment hidden in the following text.\n"
    question = (
        f"\nQuestion: Find all variables that are assigned the value {value} in the text above. Answer: According to "
        f"the chain(s) of variable assignment in the text above, 5 variables are assigned the value {value}, they are:"
    )
    assert filler == opening + (SENTENCES * 9)[: len(filler) - len(opening) - len(question)] + question
    assert text.index(f"{one} = ") < text.index(f"{two} = ") < text.index(f"{five} = ")


@pytest.mark.parametrize("name", FILLED)
@pytest.mark.parametrize("length", [1600, 1999, 4096])
def test_lengths_are_exact(tokenizer, draw, name, length):
    for seed in range(5):
        sample = draw(name, length, seed)
        assert len(sample.token_ids) == length - sample.new_tokens == sample.questions[0][1]
        assert set(sample.questions) == {sample.questions[0]}
        assert len(sample.questions) == len(sample.expected) == len(sample.sources)


@pytest.mark.parametrize("name", KEYED)
def test_needles_are_where_they_are_said_to_be(tokenizer, draw, name):
    kind = KINDS[name]
    for seed in range(10):
        sample = draw(name, seed=seed)
        assert list(sample.needles) == sorted(sample.needles)
        told = {}
        for span in sample.needles:
            found = re.fullmatch(
                r" One of the special magic (\w+)s for (\w+-\w+) is: ([\w-]+)\.", part(tokenizer, sample, span)
            )
            assert found[1] == ("uuid" if kind.uuids else "number")
            told[found[3]] = (found[2], span)
            before = part(tokenizer, sample, (span[0] - 4, span[0])).rstrip().rstrip("\"'")
            assert before[-1] in ".!?", before
        assert len(told) == len(sample.needles) == (kind.asked + kind.others) * kind.values
        assert len({key for key, _ in told.values()}) == kind.asked + kind.others
        assert len(set(sample.expected)) == kind.asked * kind.values
        asked = part(tokenizer, sample, sample.questions[0])
        for value, source in zip(sample.expected, sample.sources, strict=True):
            assert told[value][1] == source
            assert asked.count(told[value][0]) == 2
            assert value not in asked
        assert sum(key in asked for key, _ in told.values()) == len(sample.expected)  # the others are not asked about


@pytest.mark.parametrize("name", KEYED)
def test_values(draw, name):
    for seed in range(5):
        for value in draw(name, seed=seed).expected:
            assert uuid.UUID(value).version == 4 if KINDS[name].uuids else 10**6 <= int(value) < 10**7


def test_a_chain_of_variables(tokenizer, draw):
    for seed in range(10):
        sample = draw("vt", seed=seed)
        assert sample.needles == sample.sources
        chain = [re.fullmatch(r" VAR (\w+) = (.*)\.", part(tokenizer, sample, span)) for span in sample.needles]
        assert tuple(found[1] for found in chain) == sample.expected
        assert all(name.isupper() and len(name) == 5 for name in sample.expected)
        value, *others = (found[2] for found in chain)
        assert others == [f"VAR {name}" for name in sample.expected[:-1]]
        asked = part(tokenizer, sample, sample.questions[0])
        assert 10_000 <= int(value) <= 99_999
        assert asked.count(value) == 2
        assert not any(name in asked for name in sample.expected)


@pytest.mark.parametrize(("name", "left"), [("niah_single_1", 0), ("niah_multikey_1", 3), ("vt", 0)])
def test_without_needles_the_same_is_asked(tokenizer, draw, name, left):
    full, none = draw(name), draw(name, with_needle=False)
    assert (none.expected, len(none.token_ids), len(none.needles)) == (full.expected, len(full.token_ids), left)
    assert set(none.sources) == {None}
    assert part(tokenizer, none, none.questions[0]) == part(tokenizer, full, full.questions[0])
    assert not any(string in tokenizer.decode(none.token_ids) for string in none.expected)


def test_needles_lie_anywhere(draw):
    starts = [draw("niah_single_1", seed=seed).needles[0][0] for seed in range(100)]
    assert min(starts) < 200
    assert max(starts) > 1600 - 30 - 400


def test_filler_without_sentences_is_cut_anywhere():
    stack = Haystack(list(b"no full stop "))
    starts = {ruler_sample(BYTES, "vt", 900, random.Random(seed), stack).needles[0][0] for seed in range(30)}
    assert len(starts) > 15


def test_a_sample_is_its_seed(draw):
    assert draw("niah_multivalue").token_ids.equal(draw("niah_multivalue").token_ids)
    assert draw("niah_multivalue").expected != draw("niah_multivalue", seed=1).expected


def test_too_short():
    stack = Haystack.repeat(BYTES)
    with pytest.raises(InputError, match=r"100 tokens are too few for vt, which takes (\d+)") as failed:
        ruler_sample(BYTES, "vt", 100, random.Random(0), stack)
    shortest = int(re.search(r"takes (\d+)", str(failed.value))[1])
    assert len(ruler_sample(BYTES, "vt", shortest, random.Random(0), stack).token_ids) == shortest - 64


def test_a_tokenizer_that_loses_digits(monkeypatch):
    monkeypatch.setattr(BYTES, "decode", lambda ids: "?")
    with pytest.raises(InputError, match=r"does not give \w+ back"):
        ruler_sample(BYTES, "niah_single_1", 700, random.Random(0), Haystack.repeat(BYTES))


class TestLists:
    @pytest.mark.parametrize("name", LISTS)
    @pytest.mark.parametrize("length", [2700, 9001])
    def test_as_many_items_as_fit(self, tokenizer, draw, name, length):
        sample = draw(name, length)
        spare = length - sample.new_tokens - len(sample.token_ids)
        assert 0 <= spare < 0.1 * length
        assert {stop for _, stop in sample.questions} == {len(sample.token_ids)}
        assert len(sample.questions) == len(sample.sources) == len(sample.expected)

    @pytest.mark.parametrize("name", ["niah_multikey_2", "niah_multikey_3"])
    def test_one_needle_among_others_is_asked_for(self, tokenizer, draw, name):
        sample = draw(name, 4096)
        text = tokenizer.decode(sample.token_ids)
        told = re.findall(r"One of the special magic \w+s for (\S+) is: (\S+)\.", text)
        keys = dict(told)
        assert len(told) == len(keys) > 20
        [value], [source] = sample.expected, sample.sources
        [asked] = [key for key in keys if key in part(tokenizer, sample, sample.questions[0])]
        assert keys[asked] == value
        what = "uuid" if KINDS[name].uuids else "number"
        said = f" One of the special magic {what}s for {asked} is: {value}."
        assert part(tokenizer, sample, source) == said

    def test_the_most_common_words(self, tokenizer, draw):
        for length, often, rarely in ((2700, 10, 1), (12_000, 30, 3)):
            if length == 2700 and tokenizer is not BYTES:
                continue  # more words fit
            sample = draw("cwe", length)
            words = re.findall(r"(\d+)\. (\w+-\w+)", tokenizer.decode(sample.token_ids))
            assert [int(number) for number, _ in words] == list(range(1, len(words) + 1))
            counts = Counter(word for _, word in words)
            assert {word for word, count in counts.items() if count == often} == set(sample.expected)
            assert {count for word, count in counts.items() if word not in sample.expected} == {rarely}
            assert sample.sources == (None,) * 10

    def test_the_most_frequent_words(self, tokenizer, draw):
        sample = draw("fwe", 4096)
        text = tokenizer.decode(sample.token_ids).split("\n")[1].split()
        ranked = Counter(text).most_common(6)
        assert ranked[0][0] == "..."
        assert [word for word, _ in ranked[1:4]] == list(sample.expected)
        assert ranked[3][1] > ranked[4][1]
        share = [count / ranked[0][1] for _, count in ranked[1:4]]
        assert share == pytest.approx([1 / 4, 1 / 9, 1 / 16], abs=0.02)

    @pytest.mark.parametrize("name", LISTS)
    def test_without_what_is_asked_for(self, tokenizer, draw, name):
        full, none = draw(name, 4096), draw(name, 4096, with_needle=False)
        assert (none.expected, none.needles, set(none.sources)) == (full.expected, (), {None})
        text = tokenizer.decode(none.token_ids)
        assert not any(string in text for string in none.expected)
        assert part(tokenizer, none, none.questions[0]) == part(tokenizer, full, full.questions[0])

    def test_too_short_and_too_long(self):
        with pytest.raises(InputError, match=r"1000 tokens are too few for cwe, which takes 2\d\d\d"):
            ruler_sample(BYTES, "cwe", 1000, random.Random(0), None)
        with pytest.raises(InputError, match=r"tokens are too many for cwe, which has \d+,\d+ different items"):
            ruler_sample(BYTES, "cwe", 1 << 24, random.Random(0), None)
