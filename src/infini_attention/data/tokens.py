"""Tokens of a text that arrives in blocks: the same as those of the whole text."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol, runtime_checkable

from infini_attention.errors import InputError

# Without a place to cut for this many characters (a file without spaces), the text is cut where it is.
MAX_PENDING = 1 << 16
# Characters of such a text that the next piece is encoded with.
MAX_BEFORE = 256


@runtime_checkable
class Tokenizer(Protocol):
    """What is used of a Hugging Face tokenizer."""

    is_fast: bool
    bos_token_id: int | None

    def __call__(
        self,
        text: str,
        *,
        add_special_tokens: bool,
        split_special_tokens: bool = ...,
        return_offsets_mapping: bool = ...,
    ) -> dict: ...


class TextPiece(NamedTuple):
    """A piece of text as tokens; token i ends at character `ends[i]`."""

    token_ids: list[int]
    ends: list[int]
    text: str

    @property
    def nbytes(self) -> int:
        """Of the text, in UTF-8."""
        return len(self.text.encode())

    def split(self, count: int) -> "tuple[TextPiece, TextPiece]":
        """The first `count` tokens with their text, and the rest."""
        if count >= len(self.token_ids):
            return self, TextPiece([], [], "")
        return self.part(0, count), self.part(count, len(self.token_ids))

    def part(self, start: int, stop: int) -> "TextPiece":
        """Tokens `start` to `stop` with their text; what follows the last token belongs to it."""
        first = self.ends[start - 1] if start else 0
        last = len(self.text) if stop == len(self.token_ids) else self.ends[stop - 1] if stop else 0
        ends = [end - first for end in self.ends[start:stop]]
        return TextPiece(self.token_ids[start:stop], ends, self.text[first:last])


def tokenize_stream(blocks: Iterable[str], tokenizer: Tokenizer, *, start: bool = True) -> Iterator[TextPiece]:
    """Tokenizes blocks of text as if they were one.

    The text is cut only between a letter or digit and a space that is followed by another one, where no tokenizer in
    use joins anything; each piece is encoded with the word before it, because some tokenizers treat the first word
    apart.
    The tokens do not depend on the blocks, even where there is no such place for `MAX_PENDING` characters.

    Args:
        blocks: pieces of text, cut anywhere.
        tokenizer: a fast Hugging Face tokenizer.
        start: whether this is the start of the stream: the tokenizer's start token, if it has one, comes first.

    Raises:
        InputError: a tokenizer without offsets.
    """
    if not tokenizer.is_fast:
        raise InputError(f"{type(tokenizer).__name__} gives no offsets; reading a stream needs a fast tokenizer")
    if start and tokenizer.bos_token_id in tokenizer("", add_special_tokens=True)["input_ids"]:
        assert tokenizer.bos_token_id is not None
        yield TextPiece([tokenizer.bos_token_id], [0], "")
    before = pending = ""
    for block in blocks:
        taken = 0
        while taken < len(block):
            room = MAX_PENDING - len(pending)
            pending, taken = pending + block[taken : taken + room], taken + room
            cut = _last_cut(pending) or (MAX_PENDING if len(pending) == MAX_PENDING else None)
            if cut:
                yield encode_after(before, pending[:cut], tokenizer)
                before, pending = _last_word(pending[:cut]), pending[cut:]
    if pending:
        yield encode_after(before, pending, tokenizer)


def _last_cut(text: str) -> int | None:
    """The index of the last space between two letters or digits."""
    index = len(text) - 1
    while (index := text.rfind(" ", 1, index)) > 0:
        if text[index - 1].isalnum() and text[index + 1].isalnum():
            return index
    return None


def _last_word(text: str) -> str:
    """The end of the text, from its last place to cut on."""
    return text[_last_cut(text) or 0 :][-MAX_BEFORE:]


def encode_after(before: str, text: str, tokenizer: Tokenizer) -> TextPiece:
    """The tokens of `text` where it stands after `before`, without start or end tokens."""
    encoded = tokenizer(
        before + text,
        add_special_tokens=False,
        split_special_tokens=True,  # a book that contains "<|endoftext|>" has not ended there
        return_offsets_mapping=True,
    )
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    after = (i for i, (start, end) in enumerate(offsets) if start >= len(before) or end > len(before))
    first = next(after, len(ids))
    if before and first < len(ids) and offsets[first][0] < len(before):
        return encode_after("", text, tokenizer)  # a token across a cut that was forced: joining nothing loses nothing
    return TextPiece(ids[first:], [end - len(before) for _, end in offsets[first:]], text)
