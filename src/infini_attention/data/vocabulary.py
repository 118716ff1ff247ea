"""Our own tokenizers: one whose tokens are bytes, and one that is trained on the texts it will read."""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

BYTES = 256


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """256 tokens, each one's id its byte's value, and no special tokens. Decoding gives back any text."""
    return _wrap(Tokenizer(models.BPE(vocab={symbol: byte for byte, symbol in enumerate(_symbols())}, merges=[])))


def train_tokenizer(texts: Iterable[Path], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-pair encoding over bytes, in which each digit is a token of its own: numbers are spelt in one way only.

    Args:
        texts: UTF-8 files.
        vocab_size: tokens; at least 256, the bytes, so that nothing is unknown.
    """
    tokenizer = Tokenizer(models.BPE())
    _wrap(tokenizer)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train([str(path) for path in texts], trainer)
    return _wrap(tokenizer)


def _wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)


def _symbols() -> list[str]:
    """The letters that byte-level tokenizers since GPT-2 write the bytes 0 to 255 with: a visible one for each."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(BYTES) if byte not in visible]
    symbols = {byte: chr(byte) for byte in visible} | {byte: chr(256 + n) for n, byte in enumerate(hidden)}
    return [symbols[byte] for byte in range(BYTES)]
