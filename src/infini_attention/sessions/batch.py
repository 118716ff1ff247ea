"""Sessions that are written to side by side: one pass of the model takes a token of each of them."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from infini_attention.models import InfiniCache
from infini_attention.models.scoring import logits_of
from infini_attention.models.states import empty_states
from infini_attention.sessions.session import Session
from infini_attention.state import InfiniState


class Batch:
    """Some sessions as the rows of one state, wherever their segments end.

    The rows are copied when sessions join and leave, not from step to step. A session in a batch stands where it stood
    when it joined until it leaves; then it has read all tokens that it was given, with the numbers that it would have
    got alone, but for rounding.

    Args:
        model: that of all the sessions.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.sessions: list[Session] = []
        self._read: list[list[int]] = []
        self._cache = InfiniCache(model.config.num_hidden_layers)
        self._logits: Tensor | None = None  # [B, V], after the last step

    @torch.inference_mode()
    def regroup(self, leaving: Collection[Session] = (), joining: Sequence[Session] = ()) -> None:
        """Lets sessions leave and join.

        Args:
            leaving: take over what they have read in the batch.
            joining: have read at least one token, and are not moved by anyone else while they are here.
        """
        if not (leaving or joining):
            return
        staying = []
        for row, session in enumerate(self.sessions):
            if not any(session is other for other in leaving):
                staying.append(row)
            elif read := self._read[row]:
                assert self._logits is not None
                cache = InfiniCache.from_states(self._rows([row]), session.stats.tokens_read + len(read))
                session.commit(read, cache, self._logits[row].clone())
        groups = [self._rows(staying)] if staying else []
        groups += [_states(session.cache) for session in joining]
        self.sessions = [*(self.sessions[row] for row in staying), *joining]
        self._read = [*(self._read[row] for row in staying), *([] for _ in joining)]
        self._logits = None if self._logits is None or not staying else self._logits[staying]
        if joining:  # their rows of logits are filled by the next step
            self._logits = None if self._logits is None else _padded(self._logits, len(joining))
        layers = zip(*groups, strict=True)
        self._cache = InfiniCache.from_states([_joined(layer) for layer in layers], 0)

    @torch.inference_mode()
    def step(self, token_ids: Sequence[int]) -> Tensor:
        """Reads one token of each session. Gives the logits `[B, V]` (float32) of the tokens after them."""
        ids = torch.tensor(token_ids, device=self.model.device)[:, None]
        base: nn.Module = self.model.base_model
        cache = self._cache.fork()  # a pass that fails changes nothing
        hidden = base(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state[:, -1]
        self._logits, self._cache = logits_of(self.model, hidden), cache
        for read, token in zip(self._read, token_ids, strict=True):
            read.append(token)
        return self._logits

    def _rows(self, rows: Sequence[int]) -> tuple[InfiniState, ...]:
        states = _states(self._cache)
        if list(rows) == list(range(len(self.sessions))):
            return states
        return tuple(state.select_rows(torch.tensor(rows)) for state in states)


@torch.inference_mode()
def read_together(sessions: Sequence[Session], token_ids: Sequence[Sequence[int]]) -> None:
    """Each session reads tokens of its own, all in one pass: for short texts, which would cost a pass each.

    Fast where none of them goes beyond its unfinished segment: see `room_of`. Equal to `Session.read_tokens` but for
    rounding.

    Args:
        sessions: with one model.
        token_ids: those of each, at least one.
    """
    if len(sessions) == 1:
        sessions[0].read_tokens(token_ids[0])
        return
    model, longest = sessions[0].model, max(map(len, token_ids))
    padded = torch.tensor([[*[0] * (longest - len(ids)), *ids] for ids in token_ids], device=model.device)
    real = torch.tensor([[False] * (longest - len(ids)) + [True] * len(ids) for ids in token_ids], device=model.device)
    states = [_states(session.cache) if session.stats.tokens_read else empty_states(model) for session in sessions]
    cache = InfiniCache.from_states([_joined(layer) for layer in zip(*states, strict=True)], 0)
    base: nn.Module = model.base_model
    done = base(input_ids=padded, attention_mask=real, past_key_values=cache, use_cache=True)
    logits = logits_of(model, done.last_hidden_state[:, -1])
    for row, (session, ids) in enumerate(zip(sessions, token_ids, strict=True)):
        own = [state.select_rows(torch.tensor([row])) for state in _states(cache)]
        columns = session.stats.tokens_read + len(ids)
        session.commit(ids, InfiniCache.from_states(own, columns), logits[row].clone())


def room_of(session: Session) -> int:
    """Tokens that its unfinished segment has room for."""
    return session.segment_size - session.tokens_in_window


def _states(cache: InfiniCache) -> tuple[InfiniState, ...]:
    states = tuple(state for state in cache.states if state is not None)
    assert len(states) == len(cache.layers), "a session must have read something before it can be written to"
    return states


def _joined(states: Sequence[InfiniState]) -> InfiniState:
    return states[0] if len(states) == 1 else InfiniState.concatenate(states)


def _padded(logits: Tensor, rows: int) -> Tensor:
    return torch.cat((logits, logits.new_zeros(rows, logits.shape[1])))
