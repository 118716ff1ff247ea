"""A live stream: a model that has read something, and goes on from there."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteriaList

from infini_attention.data import tokenize_stream
from infini_attention.data.chat import PLAIN_QUESTION, ChatTemplate
from infini_attention.errors import InputError, SnapshotError
from infini_attention.models import InfiniCache
from infini_attention.models.fingerprint import fingerprint
from infini_attention.models.scoring import logits_of, score
from infini_attention.models.states import empty_states, full_kv_bytes
from infini_attention.sessions.chunks import after_known_start, chunks, limited
from infini_attention.sessions.dialogue import Ends, Reply, check_message, end_tokens, reply_ends
from infini_attention.sessions.digest import TokenDigest
from infini_attention.sessions.snapshot import SnapshotHeader, load_snapshot, read_header, save_snapshot
from infini_attention.sessions.stats import ReadStats

# Tokens handled at a time unless asked otherwise. It changes no result.
CHUNK_TOKENS = 1024


@dataclass(frozen=True)
class Position:
    """A place in a stream: all that has to be kept to go on from it. Nothing in it is ever changed."""

    cache: InfiniCache
    stats: ReadStats
    digest: TokenDigest
    logits: Tensor | None  # [V], of the token after the last one read
    turns: int = 0  # messages of a chat that were replied to


class Session:
    """A stream of one row. Reading and generating move it forward; `fork()` keeps a place to come back to.

    Args:
        model: an Infini model.
        tokenizer: its tokenizer.
        name: what the model is called, kept in snapshots as a hint.
        adapter: that gave the model its memory, kept in snapshots as a hint.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, name: str = "", adapter: str = ""
    ) -> None:
        self.model, self.tokenizer, self.name, self.adapter = model, tokenizer, name, adapter
        self.position = Position(InfiniCache(model.config.num_hidden_layers), ReadStats(), TokenDigest(), None)

    @property
    def cache(self) -> InfiniCache:
        return self.position.cache

    @property
    def stats(self) -> ReadStats:
        return self.position.stats

    @property
    def segment_size(self) -> int:
        return self.model.config.infini_settings.segment_size

    @property
    def state_bytes(self) -> int:
        """Bytes of the whole state: the same from the first token on."""
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

    def fork(self) -> "Session":
        """A second session that goes on from here; what both have read is shared, not copied."""
        fork = Session(self.model, self.tokenizer, name=self.name, adapter=self.adapter)
        fork.position = self.position
        return fork

    def read(self, text: str | Iterable[str], **options: Any) -> ReadStats:
        """Reads a text, or blocks of one, to its end; the options are those of `read_steps`."""
        for _ in self.read_steps([text] if isinstance(text, str) else text, **options):
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
        # One assignment: an interrupt finds the session before the chunk or after it, never in between.
        digest, logits = self.position.digest.update(token_ids), logits_of(self.model, hidden[-1])
        self.position = replace(self.position, cache=cache, stats=stats, digest=digest, logits=logits)

    def generate(self, prompt: str, **options: Any) -> str:
        """Reads `prompt` and goes on writing. The session has then read the prompt and all that was written.

        Args:
            prompt: text to go on from.
            options: max_new_tokens (128), a streamer of Transformers to print as it comes, and others of
                `GenerationMixin.generate`, such as do_sample (False), temperature, top_p.

        Returns:
            What was written.
        """
        ids = self._tokens_of(prompt)
        if not ids:
            raise InputError("the prompt is empty; give at least one character")
        last, *written = self._write(ids, **options)
        self._advance([last, *written], 0, scored=False)
        return str(self.tokenizer.decode(written, skip_special_tokens=True))

    def ask(self, question: str, *, stop: Callable[[], bool] | None = None, **options: Any) -> Reply:
        """Answers from a fork: the session stays as it is, to the last bit.

        With a chat template, the question is a user's turn behind all that was read; without one, the text goes on
        with "Question: ... Answer:", and the answer is the rest of that line.

        Args:
            question: any text.
            stop: asked after each token; true ends the answer.
            options: those of `generate`.

        Raises:
            InputError: an empty question, or one with control tokens.
            ModelError: a chat template that fails.
        """
        check_message(question, "question", self.tokenizer)
        fork = self.fork()
        if self.tokenizer.chat_template:
            template = ChatTemplate(self.tokenizer)
            ids, ends = self._turn(template, question), reply_ends(template, self.model, stop)
        else:
            ids = self._tokens_of(PLAIN_QUESTION.format(question=question))
            ends = Ends(self.tokenizer, end_tokens(self.model, self.tokenizer), line=True, stop=stop)
        _, *written = fork._write(ids, ends, **options)
        return ends.reply(written)

    def chat(self, message: str, *, stop: Callable[[], bool] | None = None, **options: Any) -> Reply:
        """Replies to a message; both stay in the stream, as the turns that the model's chat template makes of them.

        Only the new tokens are read, and nothing else of the conversation is kept. The system prompt of the template
        stands before the first message. A turn that fails or is interrupted leaves the session as it was; one that
        `stop` or max_new_tokens cut short counts as said.

        Args:
            message: any text.
            stop: asked after each token; true ends the reply.
            options: those of `generate`.

        Raises:
            InputError: an empty message, or one with control tokens.
            ModelError: no chat template, or one that cannot be applied turn by turn.
        """
        template = ChatTemplate(self.tokenizer)
        template.check_stable()
        check_message(message, "message", self.tokenizer)
        turn, ends = self.fork(), reply_ends(template, self.model, stop)
        last, *written = turn._write(self._turn(template, message), ends, **options)
        reply = ends.reply(written)
        template.check_reply(message, reply.text)
        said = written[:-1] if reply.finished else written  # the template's own end follows
        turn._advance([last, *said, *template.closing], 0, scored=False)
        self.position = replace(turn.position, turns=self.position.turns + 1)
        return reply

    def _turn(self, template: ChatTemplate, message: str) -> list[int]:
        """The tokens of the next message."""
        if self.position.turns:
            return template.following(message)
        ids, start = template.first(message), self._tokens_of("", start=True)
        # A start token stands once, at the start of the stream.
        return ids[len(start) :] if self.stats.tokens_read and ids[: len(start)] == start else ids

    def _tokens_of(self, text: str, *, start: bool | None = None) -> list[int]:
        start = self.stats.tokens_read == 0 if start is None else start
        return [token for piece in tokenize_stream([text], self.tokenizer, start=start) for token in piece.token_ids]

    @torch.inference_mode()
    def _write(
        self,
        token_ids: Sequence[int],
        ends: Ends | None = None,
        *,
        max_new_tokens: int = 128,
        streamer: Any = None,
        do_sample: bool = False,
        **options: Any,
    ) -> list[int]:
        """Reads all tokens but the last; gives that one and what the model writes after it, both yet to be read."""
        *read, last = token_ids
        for first in range(0, len(read), CHUNK_TOKENS):
            self._advance(read[first : first + CHUNK_TOKENS], 0, scored=False)
        if ends is not None:
            options["stopping_criteria"] = StoppingCriteriaList([*options.get("stopping_criteria", ()), ends])
        tokens = torch.tensor([[last]], device=self.model.device)
        columns = self.cache.get_seq_length() + 1
        out = self.model.generate(  # type: ignore[operator]
            tokens,
            attention_mask=tokens.new_ones(1, columns),
            past_key_values=self.cache.fork(),
            max_new_tokens=max_new_tokens,
            streamer=streamer,
            do_sample=do_sample,  # given always: a model's own configuration may say otherwise
            pad_token_id=self.tokenizer.pad_token_id or self.tokenizer.eos_token_id or 0,
            **options,
        )
        return [int(token) for token in out[0]]

    def save(self, path: str | Path) -> None:
        """Writes a snapshot: the session can go on from it in another process. Raises `SnapshotError`."""
        position = self.position
        if position.logits is None:
            raise SnapshotError("the session has read nothing yet: there is nothing to save")
        header = SnapshotHeader(
            model=self.name,
            fingerprint=fingerprint(self.model),
            settings=self.model.config.infini,
            stats=position.stats,
            digest_chain=position.digest.chain,
            digest_pending=list(position.digest.pending),
            turns=position.turns,
            adapter=self.adapter,
        )
        states = tuple(state for state in position.cache.states if state is not None)
        save_snapshot(Path(path), header, states, position.logits)

    @classmethod
    def load(
        cls,
        path: str | Path,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str = "",
        adapter: str | None = None,
    ) -> "Session":
        """The session of a snapshot. Raises `SnapshotError` for a damaged one, or one that another model made."""
        header = read_header(Path(path))
        found = fingerprint(model)
        if header.fingerprint != found:
            made_with = " with the adapter ".join(filter(None, (header.model, header.adapter)))
            made_with = made_with and f" ({made_with})"
            raise SnapshotError(
                f"{path}: was made with another model{made_with}: fingerprint {header.fingerprint[:12]}, this model "
                f"has {found[:12]}; open it with the model it was made with"
            )
        session = cls(
            model, tokenizer, name=name or header.model, adapter=header.adapter if adapter is None else adapter
        )
        states, logits = load_snapshot(Path(path), empty_states(model), model.config.vocab_size)
        session.position = Position(
            InfiniCache.from_states(states, header.stats.tokens_read),
            header.stats,
            TokenDigest(header.digest_chain, tuple(header.digest_pending)),
            logits.to(model.device),
            header.turns,
        )
        return session
