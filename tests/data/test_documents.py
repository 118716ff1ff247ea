"""Texts with borders: no cut crosses one, and every text that is long enough can be drawn."""

import hashlib
import json
import logging
import random
import sys
from collections import Counter
from itertools import accumulate, chain, count

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from infini_attention.data import documents as module
from infini_attention.data.documents import Documents, dataset_texts, file_texts
from infini_attention.data.haystack import Haystack
from infini_attention.data.vocabulary import byte_tokenizer
from infini_attention.errors import ConfigError, InputError
from tiny import BOOK, book, byte_level, pieces_of

TOKENIZER = byte_tokenizer()

lengths_of_documents = st.lists(st.integers(1, 40), min_size=1, max_size=12)


def numbered(lengths):
    """Documents whose token ids are their places: what a cut holds says where it stood."""
    return Documents(range(sum(lengths)), list(accumulate(lengths)))


class First(random.Random):
    """Draws given numbers, and checks that they were possible."""

    def __init__(self, *numbers):
        super().__init__()
        self.numbers = iter(numbers)

    def randrange(self, limit):
        number = next(self.numbers)
        assert 0 <= number < limit
        return number


@given(lengths_of_documents, st.integers(0, 2**32), st.data())
def test_a_cut_lies_inside_one_document(lengths, seed, data):
    length = data.draw(st.integers(1, max(lengths)))
    cut = numbered(lengths).cut(length, random.Random(seed))
    assert (cut.dtype, cut.shape) == (torch.int64, (length,))
    start = cut[0].item()
    assert cut.tolist() == list(range(start, start + length))
    begins = [0, *accumulate(lengths)]
    home = max(index for index, begin in enumerate(begins) if begin <= start)
    assert start + length <= begins[home] + lengths[home]


@given(lengths_of_documents, st.data())
def test_documents_that_are_long_enough_are_drawn_in_proportion_to_their_length(lengths, data):
    """Every number that can be drawn is drawn once: the counts are the probabilities."""
    length = data.draw(st.integers(1, max(lengths)))
    documents = numbered(lengths)
    reach = documents.within_reach(length)
    begins = dict(zip([0, *accumulate(lengths)], lengths, strict=False))
    drawn = Counter(documents.cut(length, First(number, 0))[0].item() for number in range(reach))
    assert drawn == {begin: size for begin, size in begins.items() if size >= length}


@given(st.lists(st.integers(1, 20), min_size=1, max_size=4), st.data())
def test_all_places_in_a_document_are_alike(lengths, data):
    length = data.draw(st.integers(1, max(lengths)))
    documents, sizes = numbered(lengths), sorted(lengths, reverse=True)
    places = sizes[0] - length + 1
    starts = [documents.cut(length, First(0, place))[0].item() for place in range(places)]
    assert starts == list(range(starts[0], starts[0] + places))


def test_none_is_long_enough():
    documents = numbered([3, 1200, 7])
    assert len(documents.cut(1200, random.Random(0))) == 1200
    with pytest.raises(InputError, match=r"no document is 1,201 tokens long; the longest of 3 has 1,200: ask for"):
        documents.cut(1201, random.Random(0))


@pytest.mark.parametrize("tokenizer", [TOKENIZER, byte_level()], ids=["bytes", "bpe"])
def test_tokens_are_those_of_each_text_alone(tokenizer, tmp_path):
    texts = [book(3000), "Grüße", "a" * 20, book(70_000)]
    documents = Documents.tokenize(tokenizer, (pieces_of(text, seed=1, longest=900) for text in texts))
    expected = [tokenizer(text)["input_ids"] for text in texts]
    assert documents.token_ids.tolist() == list(chain(*expected))
    assert (documents.count, documents.longest) == (4, len(expected[3]))
    assert documents.token_ids.dtype == torch.int32
    assert documents.cut(len(expected[3]), random.Random(0)).tolist() == expected[3]


def test_a_text_without_tokens_is_no_document():
    assert Documents.tokenize(TOKENIZER, [["a"], [], [""], ["b", "c"]]).count == 2


def test_no_token_at_all():
    for texts in ([], [[""]]):
        with pytest.raises(InputError, match="at least one token"):
            Documents.tokenize(TOKENIZER, texts)


def test_the_same_texts_give_the_same_cuts_for_ever():
    """A change of these digests changes what every recipe with texts reads, and what a resumed run goes on with."""
    documents = Documents.tokenize(TOKENIZER, file_texts([BOOK] * 2))
    cuts = torch.cat([documents.cut(100, random.Random(seed)) for seed in range(50)])
    digest = hashlib.sha256(bytes(cuts.tolist())).hexdigest()[:12]
    assert (documents.digest, digest) == ("75b86c324c8a", "093d77886eb3")


def test_a_digest_tells_borders_apart():
    assert numbered([3, 4]).digest == numbered([3, 4]).digest != numbered([4, 3]).digest


def test_files(tmp_path):
    (tmp_path / "more.txt").write_text("one more text")
    documents = Documents.tokenize(TOKENIZER, file_texts([BOOK, tmp_path / "more.txt"]))
    assert (documents.count, documents.longest) == (2, BOOK.stat().st_size)
    with pytest.raises(InputError, match="no such file"):
        Documents.tokenize(TOKENIZER, file_texts([tmp_path / "missing.txt"]))


def test_filler_may_cross_the_borders(tmp_path):
    documents = numbered([5, 6])
    assert Haystack.across(documents).cut(11, First(0)).tolist() == list(range(11))
    paths = [BOOK, tmp_path / "more.txt"]
    paths[1].write_text("one more text")
    documents = Documents.tokenize(TOKENIZER, file_texts(paths))
    assert Haystack.across(documents).digest == Haystack.book(TOKENIZER, paths).digest


def test_a_long_reading_is_not_silent(monkeypatch, caplog):
    clock = count(step=4.0)
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    with caplog.at_level(logging.INFO):
        Documents.tokenize(TOKENIZER, [["text"]] * 8)
    assert caplog.messages[0] == "reading texts: 2 documents, 12 tokens so far"
    assert len(caplog.messages) == 2


class TestDatasets:
    """What `datasets` reads; all of it from local files."""

    @pytest.fixture(autouse=True)
    def cache(self, tmp_path, monkeypatch):
        datasets = pytest.importorskip("datasets")
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    @pytest.fixture
    def rows(self, tmp_path):
        path = tmp_path / "rows.jsonl"
        rows = [{"text": text, "number": 1} for text in ("one", "", None, "two\nlines", "three")]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    def test_rows_are_documents(self, rows):
        texts = list(dataset_texts("json", data_files=rows, split="train"))
        assert texts == [["one"], ["two\nlines"], ["three"]]
        assert Documents.tokenize(TOKENIZER, texts).count == 3

    def test_only_the_first(self, rows):
        assert list(dataset_texts("json", data_files=rows, split="train", max_documents=2)) == [["one"]]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"column": "body"}, "data set json: no column 'body'; there are number, text"),
            ({"column": "number"}, "data set json: column 'number' must hold text; row 0 has int"),
            ({"split": "test"}, r"data set json: cannot be read \(Bad split: test"),
            ({"data_files": "missing.jsonl"}, r"data set json: cannot be read \(Unable to find"),
        ],
    )
    def test_mistakes_are_named(self, rows, options, message):
        with pytest.raises(InputError, match=message):
            list(dataset_texts("json", **({"data_files": rows, "split": "train"} | options)))

    def test_code_in_a_data_set_is_not_run(self, tmp_path):
        folder, trace = tmp_path / "coded", tmp_path / "trace"
        folder.mkdir()
        (folder / "coded.py").write_text(f"open({str(trace)!r}, 'w').close()\n")
        with pytest.raises(InputError, match="cannot be read"):
            list(dataset_texts(str(folder), split="train"))
        assert not trace.exists()


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"datasets.* pip install 'infini-attention\[train\]'"):
        list(dataset_texts("json", data_files="rows.jsonl", split="train"))
