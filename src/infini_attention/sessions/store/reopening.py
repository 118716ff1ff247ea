"""From a store back to a session: its snapshots, and the history that they make."""

from collections.abc import Sequence
from dataclasses import replace

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from infini_attention.errors import SnapshotError
from infini_attention.models.fingerprint import fingerprint
from infini_attention.models.states import empty_states
from infini_attention.sessions.history import History, HistorySettings
from infini_attention.sessions.position import Position
from infini_attention.sessions.session import Session
from infini_attention.sessions.snapshot import Part, Snapshot
from infini_attention.sessions.store.depot import Depot
from infini_attention.sessions.store.manifest import Blob
from infini_attention.sessions.store.rows import StoredPlace


def reopen(
    depot: Depot,
    owner: str,
    places: Sequence[StoredPlace],
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: HistorySettings | None,
) -> Session:
    """A session that stands at the last of some places, and can go back to the others.

    Raises:
        SnapshotError: another model's, or damaged blobs.
        FileNotFoundError: a blob that is not there.
        InputError: marked places that take more than the settings allow.
    """
    found, states, parts = fingerprint(model), empty_states(model), dict[Blob, Part]()

    def part(blob: Blob) -> Part:
        if blob not in parts:  # places share them
            parts[blob] = depot.part(owner, blob).to(model.device)
        return parts[blob]

    last = places[-1]
    session = Session(model, tokenizer, name=last.model, adapter=last.adapter, history=settings)
    history, snapshot = session.position.history, Snapshot.start()
    for place in places:
        name = f"the stored place of {place.tokens} tokens"
        manifest = depot.manifest(owner, place)
        manifest.header.check_model(name, found)
        if (manifest.header.stats.tokens_read, manifest.header.digest.hex) != (place.tokens, place.tokens_digest):
            raise SnapshotError(f"{name}: is another one than the index says: `infini session rebuild` makes a new one")
        snapshot = manifest.snapshot(states, model.config.vocab_size, part, name)
        history = _kept(history, snapshot, place)
    session.position = Position.at(snapshot, model, history)
    return session


def _kept(history: History, snapshot: Snapshot, place: StoredPlace) -> History:
    history = replace(history, text=None)  # a store has no text
    history = history.keep(snapshot, border=place.border, opens=place.opens)
    for mark in place.marks:
        history = history.keep(snapshot, mark=mark)
    return history
