"""A text as one stream of tokens, which knows the bytes and the words that each token stands for."""

import hashlib
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from infini_attention.data.documents import file_texts
from infini_attention.data.tokens import tokenize_stream
from infini_attention.errors import InputError


@dataclass(frozen=True)
class Text:
    """What a model reads, and what its losses are spread over.

    Attributes:
        name: what results call it.
        token_ids: `[N]` int32, the tokenizer's start token first if it has one.
        nbytes: `[N]` int32, of each token's text in UTF-8; a character of several tokens belongs to the first of them.
        words: `[N]` int32, how many whitespace-separated words begin in each token's text.
        digest: of all these.

    Raises:
        InputError: fewer than two tokens: there is none that could be predicted.
    """

    name: str
    token_ids: Tensor
    nbytes: Tensor
    words: Tensor
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        if len(self.token_ids) < 2:
            raise InputError(
                f"{self.name}: is too short: expected at least 2 tokens, one to predict the other from; got "
                f"{len(self.token_ids)}"
            )
        columns = (self.token_ids, self.nbytes, self.words)
        digest = hashlib.sha256(b"".join(column.numpy().tobytes() for column in columns)).hexdigest()
        object.__setattr__(self, "digest", digest[:12])

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str | None = None,
        max_tokens: int | None = None,
    ) -> "Text":
        """A UTF-8 file, or its first `max_tokens` tokens. Raises `InputError` for a file that is no text."""
        [blocks] = file_texts([path])
        return cls.from_blocks(blocks, tokenizer, name=str(path) if name is None else name, max_tokens=max_tokens)

    @classmethod
    def from_blocks(
        cls, blocks: Iterable[str], tokenizer: PreTrainedTokenizerBase, *, name: str, max_tokens: int | None = None
    ) -> "Text":
        """A text that comes in blocks, cut anywhere."""
        ids, nbytes, words = array("i"), array("i"), array("i")
        between = True  # whether a letter would now begin a word
        for piece in tokenize_stream(blocks, tokenizer):
            if max_tokens is not None:
                piece, _ = piece.split(max_tokens - len(ids))
            ids.extend(piece.token_ids)
            start = 0
            # What follows the last token belongs to it.
            for end in (*piece.ends[:-1], len(piece.text))[: len(piece.ends)]:
                part, start = piece.text[start:end], end
                nbytes.append(len(part.encode()))
                words.append(len(part.split()) - bool(part and not between and not part[0].isspace()))
                between = part[-1].isspace() if part else between
            if len(ids) == max_tokens:
                break
        columns = (torch.tensor(column, dtype=torch.int32) for column in (ids, nbytes, words))
        return cls(name, *columns)
