"""Filler of any length, as tokens: what needles are hidden in."""

import hashlib
import random
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from infini_attention.data.documents import Documents, file_texts
from infini_attention.data.tokens import encode_after
from infini_attention.errors import InputError

# The filler of landmark attention (Mohtashami and Jaggi 2023), which the paper's passkey task uses.
SENTENCES = " The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
# Short filler is written out to this many tokens once: a long cut then takes few copies.
_MIN_TOKENS = 1 << 16


class Haystack:
    """Token ids that repeat without end.

    Args:
        token_ids: `[N]` integers, all of the filler once.
        name: what results call it.
        random_start: whether a cut begins anywhere; otherwise it begins where the filler does.

    Raises:
        InputError: no token at all.
    """

    def __init__(self, token_ids: Tensor | Sequence[int], *, name: str = "custom", random_start: bool = True) -> None:
        ids = torch.as_tensor(token_ids).to(torch.int32)  # as int64, a library of books would take twice the bytes
        if ids.dim() != 1 or not len(ids):
            raise InputError(f"a haystack needs a list of at least one token; got shape {list(ids.shape)}")
        self.name, self.random_start, self.period = name, random_start, len(ids)
        self.digest = hashlib.sha256(ids.numpy().tobytes()).hexdigest()[:12]
        copies = -(-_MIN_TOKENS // len(ids))
        self._ids = ids.repeat(copies) if copies > 1 else ids  # repeat copies a library even if it is to stand once

    @classmethod
    def repeat(cls, tokenizer: PreTrainedTokenizerBase) -> "Haystack":
        """The same five short sentences again and again: the paper's haystack."""
        ids = encode_after(SENTENCES, SENTENCES, tokenizer).token_ids
        return cls(ids, name="repeat", random_start=False)

    @classmethod
    def book(cls, tokenizer: PreTrainedTokenizerBase, paths: Iterable[str | Path]) -> "Haystack":
        """Texts one after the other, from a random place on, and round again at the end. Tokenized once, here.

        Raises:
            InputError: no file, or one that is no UTF-8 text.
        """
        return cls.across(Documents.tokenize(tokenizer, file_texts(paths)))

    @classmethod
    def across(cls, documents: Documents) -> "Haystack":
        """All documents one after the other, as filler that may cross their borders."""
        return cls(documents.token_ids, name="book")

    def kinds(self) -> set[int]:
        """The different tokens that there are."""
        return set(self._ids.unique().tolist())

    def cut(self, count: int, rng: random.Random) -> Tensor:
        """`count` tokens of filler, `[count]` int64."""
        start = rng.randrange(self.period) if self.random_start else 0
        out = torch.empty(count, dtype=torch.int64)
        done = 0
        while done < count:
            part = self._ids[start : start + count - done]
            out[done : done + len(part)] = part
            done, start = done + len(part), 0
        return out


def sentence_ends(tokenizer: PreTrainedTokenizerBase, filler: Tensor, count: int, rng: random.Random) -> list[int]:
    """Places in `filler [N]` for `count` needles, in order: behind sentences, all of them equally likely.

    In short filler, several may stand behind the same sentence; anywhere where there is none.
    """
    places = (torch.isin(filler, _sentence_end_tokens(tokenizer)).nonzero().flatten() + 1).tolist()
    if len(places) < count:
        return sorted(rng.choices(places or range(len(filler) + 1), k=count))
    return sorted(rng.sample(places, count))


@lru_cache(maxsize=8)
def _sentence_end_tokens(tokenizer: PreTrainedTokenizerBase) -> Tensor:
    texts = ((token, str(tokenizer.decode([token]))) for token in range(len(tokenizer)))
    return torch.tensor(
        [token for token, text in texts if text.rstrip().rstrip("\"'\u201d\u2019)").endswith((".", "!", "?"))],
        dtype=torch.int64,
    )
