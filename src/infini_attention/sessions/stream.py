"""Reading: a model that has read something, and goes on from there."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from infini_attention.data import blocks_of, tokenize_stream
from infini_attention.data.text import Readable
from infini_attention.errors import CacheError, InputError
from infini_attention.models import InfiniCache
from infini_attention.models.scoring import logits_of, score
from infini_attention.models.states import full_kv_bytes
from infini_attention.sessions.chunks import after_known_start, chunks, limited
from infini_attention.sessions.history import HistorySettings
from infini_attention.sessions.passes import Chunk
from infini_attention.sessions.position import Position
from infini_attention.sessions.stats import ReadStats

# Tokens handled at a time unless asked otherwise. It changes no result.
CHUNK_TOKENS = 1024


class Stream:
    """A stream of one row that is read. `position` is all that changes, in one assignment at a time.

    Args:
        model: an Infini model.
        tokenizer: its tokenizer.
        name: what the model is called, kept in snapshots as a hint.
        adapter: that gave the model its memory, kept in snapshots as a hint.
        history: how much of its past it keeps, to go back to.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str = "",
        adapter: str = "",
        history: HistorySettings | None = None,
    ) -> None:
        self.model, self.tokenizer, self.name, self.adapter = model, tokenizer, name, adapter
        self.position = Position.start(model, history or HistorySettings())

    @property
    def cache(self) -> InfiniCache:
        return self.position.cache

    @property
    def stats(self) -> ReadStats:
        return self.position.stats

    @property
    def turns(self) -> int:
        """Messages of a chat that were replied to."""
        return self.position.turns

    @property
    def segment_size(self) -> int:
        return self.model.config.infini_settings.segment_size

    @property
    def state_bytes(self) -> int:
        """Bytes of the whole state: the same from the first token on. What the history keeps comes on top."""
        return self.cache.nbytes

    @property
    def full_kv_bytes(self) -> int:
        """Bytes that a full key-value cache would take for what was read."""
        return full_kv_bytes(self.model, self.stats.tokens_read)

    @property
    def tokens_in_window(self) -> int:
        """Tokens of the unfinished segment, which attention sees exactly."""
        return self._tokens_seen % self.segment_size

    @property
    def tokens_compressed(self) -> int:
        """Tokens that are in the memory alone."""
        return self._tokens_seen - self.tokens_in_window

    @property
    def _tokens_seen(self) -> int:
        seen = self.cache.tokens_seen
        return 0 if seen is None else int(seen[0])

    @property
    def dropped_tokens(self) -> int:
        """Tokens that are neither in the window nor in the memory: none."""
        return self.stats.tokens_read - self.tokens_in_window - self.tokens_compressed

    def fork(self) -> Self:
        """A second session that goes on from here; what both have read is shared, not copied."""
        fork = type(self)(self.model, self.tokenizer, name=self.name, adapter=self.adapter)
        fork.position = self.position
        return fork

    def read(self, text: str | Iterable[str] | Path | Readable, **options: Any) -> ReadStats:
        """Reads a text to its end: a string, blocks of one, a path, or an open file; see `blocks_of`.

        A file is read block by block, in UTF-8 where it does not say otherwise. The options are those of `read_steps`.
        """
        for _ in self.read_steps(blocks_of(text), **options):
            pass
        return self.stats

    def read_steps(
        self,
        blocks: Iterable[str],
        *,
        chunk_size: int | None = None,
        scored: bool = True,
        max_tokens: int | None = None,
        resume: bool = False,
    ) -> Iterator[ReadStats]:
        """Reads blocks of text as they come, and yields after each chunk.

        However it is interrupted, the session is that of all whole chunks so far.

        Args:
            blocks: pieces of one text, cut anywhere.
            chunk_size: tokens handled at a time; changes no result. None means one segment, and at least 1024.
            scored: whether to compute the loss of each token.
            max_tokens: stop after so many.
            resume: the text begins with all that the session has read; that is checked, and the rest is read.

        Raises:
            InputError: bad text, or with `resume` a text that begins otherwise.
        """
        chunk_size = max(CHUNK_TOKENS, self.segment_size) if chunk_size is None else chunk_size
        if chunk_size < 1:
            raise InputError(f"chunk_size must be at least 1, in tokens; got {chunk_size}")
        pieces = tokenize_stream(blocks, self.tokenizer, start=resume or self.stats.tokens_read == 0)
        if resume:
            pieces = after_known_start(pieces, self.stats.tokens_read, self.position.digest)
        if max_tokens is not None:
            pieces = limited(pieces, max_tokens)
        first = -self.tokens_in_window % self.segment_size or chunk_size  # chunks then begin where segments do
        for ids, nbytes in chunks(pieces, min(first, chunk_size), chunk_size):
            self._advance(ids, nbytes, scored)
            yield self.stats

    def read_tokens(self, token_ids: Sequence[int]) -> ReadStats:
        """Reads tokens as they are, without a score. Raises `InputError` for one that the model does not have."""
        vocab_size = self.model.config.vocab_size
        strange = next((token for token in token_ids if not 0 <= token < vocab_size), None)
        if strange is not None:
            raise InputError(f"token {strange} is none of the model's; expected 0 to {vocab_size - 1}")
        for first in range(0, len(token_ids), CHUNK_TOKENS):
            self._advance(token_ids[first : first + CHUNK_TOKENS], 0, scored=False)
        return self.stats

    def commit(self, token_ids: Sequence[int], cache: InfiniCache, logits: Tensor) -> None:
        """Takes over what a forward pass elsewhere has made of the next tokens, as in a batch of several sessions.

        Args:
            token_ids: that followed what the session has read.
            cache: of one row, after them.
            logits: `[V]` float32, of the token after them.

        Raises:
            CacheError: a cache that stands elsewhere.
        """
        tokens = self.stats.tokens_read + len(token_ids)
        seen = None if cache.tokens_seen is None else cache.tokens_seen.tolist()
        if seen != [tokens]:
            raise CacheError(f"the cache must be one row of {tokens} tokens, as many as were read; got {seen}")
        chunk = Chunk(array("i", token_ids), 0, scored=False)
        self._move(chunk, cache, replace(self.stats, tokens_read=tokens), logits)

    @torch.inference_mode()
    def _advance(self, token_ids: Sequence[int], text_bytes: int, scored: bool) -> None:
        ids = torch.tensor([token_ids], device=self.model.device)
        cache, stats, foretold = self.cache.fork(), self.stats, self.position.logits
        base: nn.Module = self.model.base_model
        hidden = base(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state[0]
        stats = replace(stats, tokens_read=stats.tokens_read + len(token_ids), text_bytes=stats.text_bytes + text_bytes)
        if scored:
            losses = score(self.model, hidden[:-1], ids[0, 1:])
            if foretold is not None:  # the first token was foretold by the chunk before
                losses = torch.cat((F.cross_entropy(foretold, ids[0, 0])[None], losses))
            stats = replace(
                stats,
                nats=stats.nats + float(losses.double().sum()),
                tokens_scored=stats.tokens_scored + len(losses),
                bytes_scored=stats.bytes_scored + text_bytes,
            )
        chunk = Chunk(array("i", token_ids), text_bytes, scored)
        self._move(chunk, cache, stats, logits_of(self.model, hidden[-1]))

    def _move(self, chunk: Chunk, cache: InfiniCache, stats: ReadStats, logits: Tensor) -> None:
        position = self.position.after(chunk, cache, stats, logits)
        if stats.tokens_read - position.history.latest.tokens >= self.segment_size:
            position = position.keep()
        self.position = position  # one assignment: an interrupt finds the session before the chunk or after it
