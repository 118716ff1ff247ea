"""The byte tokenizer: ids are bytes, and text comes back."""

from hypothesis import given
from hypothesis import strategies as st

from infini_attention.data.bytes import byte_tokenizer
from infini_attention.models import load_tokenizer

TOKENIZER = byte_tokenizer()


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
