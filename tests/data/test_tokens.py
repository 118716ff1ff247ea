"""A text that arrives in blocks gives the tokens of the whole text, whatever the tokenizer and wherever it is cut."""

from itertools import chain

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from infini_attention.data import TextPiece, tokenize_stream, tokens
from infini_attention.errors import InputError
from tiny import book, byte_level, byte_tokenizer, pieces_of, trained

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def metaspace(kind, scheme):
    """SentencePiece's way: a space is a letter of the word that follows it."""
    backend = Tokenizer(models.Unigram() if kind == "unigram" else models.BPE(unk_token="<unk>", byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=kind != "whole")
    backend.decoder = decoders.Metaspace(prepend_scheme=scheme)
    options = {"vocab_size": 700, "special_tokens": ["<unk>"], "show_progress": False}
    if kind == "unigram":
        return trained(backend, trainers.UnigramTrainer(unk_token="<unk>", **options))
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    options |= {"vocab_size": 900, "special_tokens": ["<unk>", *byte_tokens]}
    return trained(backend, trainers.BpeTrainer(**options))


def llama2():
    """As Llama 2: no pre-tokenizer at all, the whole text is one word to the BPE."""
    words = metaspace("bpe", "first")
    backend = words.backend_tokenizer
    backend.pre_tokenizer = None
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return words


TOKENIZERS = {
    "bytes": byte_tokenizer,
    "gpt2": byte_level,
    "llama3": lambda: byte_level(LLAMA3),
    "qwen": lambda: byte_level(QWEN),
    "bpe-first": lambda: metaspace("bpe", "first"),
    "bpe-always": lambda: metaspace("bpe", "always"),
    "unigram-first": lambda: metaspace("unigram", "first"),
    "unigram-always": lambda: metaspace("unigram", "always"),
    "llama2": llama2,
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]()


def whole(text, tokenizer):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def streamed(blocks, tokenizer, **options):
    pieces = list(tokenize_stream(blocks, tokenizer, **options))
    return list(chain.from_iterable(piece.token_ids for piece in pieces)), pieces


words = st.sampled_from(
    [
        "the",
        " the",
        "don't",
        "  ",
        "\n",
        "\n\n",
        "\r\n",
        "\t",
        " 1",
        "2",
        "33",
        " 4444 ",
        "...",
        " é",
        "日本語",
        "e\u0301",
    ]
)
texts = st.lists(words | st.text(st.characters(codec="utf-8"), max_size=5), max_size=30).map("".join)


@given(text=texts, seed=st.integers(0, 1000), longest=st.integers(1, 12))
@example(text="a b", seed=0, longest=1)
@example(text=" a  b\n c d ", seed=0, longest=1)
@example(text="x 1 2 3 4 12345 y", seed=0, longest=1)
def test_streamed_is_whole(tokenizer, text, seed, longest):
    ids, pieces = streamed(pieces_of(text, seed, longest), tokenizer)
    assert ids == whole(text, tokenizer)
    assert "".join(piece.text for piece in pieces) == text
    assert sum(piece.nbytes for piece in pieces) == len(text.encode())


@pytest.mark.parametrize("longest", [7, 300, 5000])
def test_a_novel(tokenizer, longest):
    text = book(50_000)
    ids, pieces = streamed(pieces_of(text, 0, longest), tokenizer)
    assert ids == whole(text, tokenizer)
    assert max(len(piece.text) for piece in pieces) < longest + 200


def test_the_start_token_comes_once_and_first():
    tokenizer = byte_tokenizer(bos="<s>")
    ids, pieces = streamed(["ab", "c d", " e"], tokenizer)
    assert ids == tokenizer("abc d e")["input_ids"]
    assert ids.count(tokenizer.bos_token_id) == 1
    assert sum(piece.nbytes for piece in pieces) == len("abc d e")


def test_a_stream_that_goes_on_has_no_start_token():
    ids, _ = streamed(["ab"], byte_tokenizer(bos="<s>"), start=False)
    assert ids == whole("ab", byte_tokenizer())


def test_a_start_token_that_the_tokenizer_does_not_use_is_left_out():
    tokenizer = byte_tokenizer(bos="<s>")
    tokenizer.backend_tokenizer.post_processor = None
    assert streamed(["ab"], tokenizer)[0] == whole("ab", byte_tokenizer())


def test_a_slow_tokenizer_is_refused():
    class Slow:
        is_fast = False
        bos_token_id = None

        def __call__(self, text, *, add_special_tokens, return_offsets_mapping=False):
            raise AssertionError("not to be asked")

    with pytest.raises(InputError, match="Slow gives no offsets"):
        list(tokenize_stream(["a"], Slow()))


class TestWithoutSpaces:
    """There is no safe place to cut: the tokens may be others than the whole text's, but nothing is lost."""

    def test_pieces_stay_bounded(self):
        text = "x" * (tokens.MAX_PENDING + 9)
        sizes = [len(piece.text) for piece in tokenize_stream([text], byte_tokenizer())]
        assert sizes == [tokens.MAX_PENDING, 9]

    @given(text=texts, seed=st.integers(0, 1000), longest=st.integers(1, 40))
    def test_nothing_is_lost_and_blocks_do_not_matter(self, tokenizer, text, seed, longest):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tokens, "MAX_PENDING", 20)
            patch.setattr(tokens, "MAX_BEFORE", 8)
            ids, pieces = streamed(pieces_of(text, seed, longest), tokenizer)
            assert ids == streamed([text], tokenizer)[0]
        assert max((len(piece.text) for piece in pieces), default=0) <= 20
        assert "".join(piece.text for piece in pieces) == text
        for piece in pieces:
            decoded = tokenizer.decode(piece.token_ids, clean_up_tokenization_spaces=False)
            if "<unk>" not in tokenizer.get_vocab():
                assert decoded == piece.text


@pytest.mark.parametrize("count", range(5))
def test_split(count):
    piece = TextPiece([5, 6, 7], [2, 3, 5], "ab\u00e9d\u00e9f")  # what follows the last token goes with it
    first, rest = piece.split(count)
    assert first.token_ids + rest.token_ids == piece.token_ids
    assert first.token_ids == piece.token_ids[:count]
    assert first.text + rest.text == piece.text
    assert first.nbytes + rest.nbytes == piece.nbytes == 8
    assert [*first.ends, *(len(first.text) + end for end in rest.ends)] == piece.ends or not rest.token_ids


def test_split_inside_a_character():
    tokenizer = byte_tokenizer()
    [piece] = tokenize_stream(["€a"], tokenizer)
    parts = [piece.part(i, i + 1) for i in range(4)]
    assert [part.text for part in parts] == ["€", "", "", "a"]


def test_a_special_token_written_out_in_a_text_is_text():
    tokenizer = byte_tokenizer("<start>")
    ids, _ = streamed(["it says <start> here"], tokenizer, start=False)
    assert tokenizer.bos_token_id not in ids
