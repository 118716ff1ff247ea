"""Our tokenizers: text comes back, whatever it is, and digits stay apart."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from infini_attention.data.vocabulary import byte_tokenizer, train_tokenizer
from infini_attention.models import load_tokenizer

TOKENIZER = byte_tokenizer()
NOVEL = Path(__file__).parents[2] / "examples" / "books" / "northanger-abbey.txt"
TRAINED = train_tokenizer([NOVEL], 600)


@given(text=st.text(st.characters(codec="utf-8")))
def test_ids_are_bytes(text):
    ids = TOKENIZER(text)["input_ids"]
    assert ids == list(text.encode())
    assert TOKENIZER.decode(ids) == text


def test_there_is_nothing_else():
    assert (len(TOKENIZER), TOKENIZER.vocab_size) == (256, 256)
    assert (TOKENIZER.bos_token_id, TOKENIZER.eos_token_id, TOKENIZER.pad_token_id) == (None, None, None)


def test_it_is_the_same_from_a_folder(tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "infini_llama", "infini": {}}')
    text = "Grüße,  “Catherine” .\n\t日本 don't <s>"
    loaded = load_tokenizer(tmp_path)
    assert (len(loaded), loaded(text)["input_ids"]) == (256, list(text.encode()))
    assert loaded.decode(loaded(text)["input_ids"]) == text


@given(text=st.text(st.characters(codec="utf-8")))
def test_a_trained_one_gives_back_any_text(text):
    assert TRAINED.decode(TRAINED(text)["input_ids"]) == text


def test_a_trained_one_is_shorter_and_spells_numbers_digit_by_digit():
    text = NOVEL.read_text()[:10_000]
    assert len(TRAINED(text)["input_ids"]) < 0.6 * len(text)
    assert TRAINED.tokenize("a key 12345.")[-6:] == ["1", "2", "3", "4", "5", "."]
    assert len(TRAINED) == 600


def test_training_it_again_gives_the_same():
    assert train_tokenizer([NOVEL], 600).backend_tokenizer.to_str() == TRAINED.backend_tokenizer.to_str()
