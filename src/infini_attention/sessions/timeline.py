"""Going back: marks, rewinding, snapshots and session files."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Self

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from infini_attention.errors import InputError, SnapshotError
from infini_attention.models.fingerprint import fingerprint
from infini_attention.models.states import empty_states
from infini_attention.sessions.history import HistorySettings
from infini_attention.sessions.position import Position
from infini_attention.sessions.snapshot import Snapshot
from infini_attention.sessions.snapshot_file import SnapshotHeader, load_snapshot, save_snapshot
from infini_attention.sessions.stream import Stream


class Timeline(Stream):
    """A stream that can go back to where it was."""

    @property
    def marks(self) -> Mapping[str, int]:
        """The tokens before each mark, by its name."""
        return self.position.history.marks

    @property
    def places(self) -> tuple[int, ...]:
        """Tokens before each place whose state is kept: `rewind` goes there and reads nothing again."""
        return tuple(place.tokens for place in self.position.history.places)

    @property
    def history_bytes(self) -> int:
        """Bytes of all that is kept to go back to: at most `HistorySettings.max_bytes`."""
        return self.position.history.nbytes

    def mark(self, name: str) -> None:
        """Gives this place a name. It stays within reach until `unmark`; a name that was given before moves here.

        Raises:
            InputError: an empty name, or no room for one more state.
        """
        if not name.strip() or len(name) > 200:
            raise InputError(f"a mark's name must have 1 to 200 characters, not all of them spaces; got {name!r:.80}")
        self.position = self.position.keep(mark=name)

    def unmark(self, name: str) -> None:
        """Takes a mark off its place. Raises `InputError` for one that there is not."""
        self.position = replace(self.position, history=self.position.history.unmark(name))

    def rewind(self, *, to_token: int | None = None, to_mark: str | None = None, to_turn: int | None = None) -> int:
        """Goes back; what came after is gone, with its marks. A fork from before keeps it.

        The state of the last kept place before is taken, equal to the last bit to what it was, and the tokens from
        there on are read again, in the passes in which they were read. So a session that went wrong, was rewound to the
        end of a pass (a chunk, a text, a message) and goes on right equals one that never went wrong, to the last bit.
        In the middle of a pass it equals it but for rounding, and its `text_bytes` are those of the decoded tokens.

        All kept `places` are within reach, and the tokens whose text is kept too: the last ones, see `HistorySettings`.

        Args:
            to_token: how many tokens will have been read.
            to_mark: the place of that mark.
            to_turn: just before the message that came after so many others.

        Returns:
            How many tokens were read again: fewer than are taken back, or than a chunk; 0 at a kept place.

        Raises:
            InputError: a place that is not within reach.
        """
        history = self.position.history
        if (to_token is None) + (to_mark is None) + (to_turn is None) != 2:
            raise InputError("rewind to one of to_token, to_mark and to_turn; got none, or several of them")
        if to_mark is not None:
            to_token = history.tokens_at(to_mark)
        elif to_turn is not None:
            to_token = history.tokens_before_turn(to_turn)
        assert to_token is not None
        if not 0 <= to_token <= self.stats.tokens_read:
            raise InputError(f"to_token must be 0 to {self.stats.tokens_read}, the tokens read so far; got {to_token}")
        if to_token == self.stats.tokens_read:
            return 0
        history, chunks = history.back_to(to_token)
        back = self.fork()  # an interrupt leaves this one where it is
        back.position = Position.at(history.latest, self.model, history)
        for chunk, count in chunks:
            ids, nbytes = chunk.token_ids.tolist()[:count], chunk.text_bytes
            if count < len(chunk.token_ids):
                nbytes = min(nbytes, len(str(self.tokenizer.decode(ids)).encode()))
            back._advance(ids, nbytes, chunk.scored)
        self.position = back.position
        return sum(count for _, count in chunks)

    def snapshot(self) -> Snapshot:
        """The state here as a small value: what an idle session is kept as. `from_snapshot` goes on from it."""
        return self.position.snapshot()

    @classmethod
    def from_snapshot(
        cls,
        snapshot: Snapshot,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str = "",
        adapter: str = "",
        history: HistorySettings | None = None,
    ) -> Self:
        """A session that goes on from a snapshot of one with the same model. Its history begins here."""
        session = cls(model, tokenizer, name=name, adapter=adapter, history=history)
        snapshot = snapshot.to(model.device)
        begun = replace(session.position.history, text=None)  # what was read before this place is not known
        session.position = Position.at(snapshot, model, begun.keep(snapshot, border=True))
        return session

    def header(self, snapshot: Snapshot) -> SnapshotHeader:
        """What a snapshot of this session says about itself."""
        return SnapshotHeader(
            model=self.name,
            fingerprint=fingerprint(self.model),
            settings=self.model.config.infini,
            dtype=str(self.model.dtype).removeprefix("torch."),
            stats=snapshot.stats,
            digest_chain=snapshot.digest.chain,
            digest_pending=list(snapshot.digest.pending),
            turns=snapshot.turns,
            adapter=self.adapter,
        )

    def save(self, path: str | Path) -> None:
        """Writes a snapshot: the session can go on from it in another process. The history is not part of it.

        Raises:
            SnapshotError: nothing was read yet, the disk is full, or the folder cannot be written.
        """
        snapshot = self.snapshot()
        if snapshot.tokens == 0:
            raise SnapshotError("the session has read nothing yet: there is nothing to save")
        save_snapshot(Path(path), self.header(snapshot), snapshot)

    @classmethod
    def load(
        cls,
        path: str | Path,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str = "",
        adapter: str | None = None,
        history: HistorySettings | None = None,
    ) -> Self:
        """The session of a snapshot. Raises `SnapshotError` for a damaged one, or one that another model made."""

        def check(header: SnapshotHeader) -> None:
            header.check_model(str(path), fingerprint(model))

        header, snapshot = load_snapshot(Path(path), empty_states(model), model.config.vocab_size, check=check)
        name, adapter = name or header.model, header.adapter if adapter is None else adapter
        return cls.from_snapshot(snapshot, model, tokenizer, name=name, adapter=adapter, history=history)
