"""All that has to be kept to go on from a place in a stream."""

from dataclasses import dataclass, replace

from torch import Tensor
from transformers import PreTrainedModel

from infini_attention.models import InfiniCache
from infini_attention.sessions.digest import TokenDigest
from infini_attention.sessions.history import History, HistorySettings
from infini_attention.sessions.passes import Chunk
from infini_attention.sessions.snapshot import Snapshot
from infini_attention.sessions.stats import ReadStats


@dataclass(frozen=True, eq=False)
class Position:
    """A place in a stream, with what is kept of the way to it. Nothing in it is ever changed."""

    cache: InfiniCache
    stats: ReadStats
    digest: TokenDigest
    logits: Tensor | None  # [V], of the token after the last one read
    history: History
    turns: int = 0  # messages of a chat that were replied to

    @classmethod
    def start(cls, model: PreTrainedModel, settings: HistorySettings) -> "Position":
        """Of a stream that has read nothing."""
        return cls.at(Snapshot.start(), model, History.new(settings))

    @classmethod
    def at(cls, snapshot: Snapshot, model: PreTrainedModel, history: History) -> "Position":
        """Where a snapshot was taken, on the model's device."""
        cache = InfiniCache(model.config.num_hidden_layers)
        if snapshot.tokens:
            states = snapshot.to(model.device).states(model.config.infini_settings.segment_size)
            cache = InfiniCache.from_states(states, snapshot.tokens)
        logits = None if snapshot.logits is None else snapshot.logits.to(model.device)
        return cls(cache, snapshot.stats, snapshot.digest, logits, history, snapshot.turns)

    def snapshot(self) -> Snapshot:
        """A snapshot, which shares with the newest one of the history what has not changed since."""
        latest = self.history.latest
        if latest.tokens == self.stats.tokens_read:
            return replace(latest, turns=self.turns)
        assert self.logits is not None
        states = [state for state in self.cache.states if state is not None]
        return Snapshot.take(states, self.stats, self.digest, self.turns, self.logits, latest)

    def keep(self, *, border: bool = False, opens: int | None = None, mark: str | None = None) -> "Position":
        """With a snapshot of here in the history, if that may keep any. Raises `InputError` as `History.keep` does."""
        if self.history.settings.max_bytes == 0 and mark is None:
            return self
        history = self.history.keep(self.snapshot(), border=border, opens=opens, mark=mark)
        return replace(self, history=history)

    def after(self, chunk: Chunk, cache: InfiniCache, stats: ReadStats, logits: Tensor) -> "Position":
        """After one more pass of the model."""
        digest, history = self.digest.update(chunk.token_ids), self.history.read(chunk)
        return replace(self, cache=cache, stats=stats, digest=digest, logits=logits, history=history)
