"""What the engine is asked to do, step by step."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from infini_attention.evaluation.inspection import Reading, inspecting
from infini_attention.server.engine import Read, Steps, Write
from infini_attention.server.prefixes import Prefixes
from infini_attention.server.texts import Prompt
from infini_attention.server.writing import Writer
from infini_attention.sessions import ReadStats, Session, Snapshot, room_of


@dataclass(frozen=True)
class Outcome:
    """A reply, and where it leaves the stream.

    Attributes:
        prompt_tokens: before the reply, `cached_tokens` of which did not have to be read.
        account: see `account_of`.
    """

    text: str
    finish: str
    prompt_tokens: int
    cached_tokens: int
    written_tokens: int
    account: dict[str, int]


def account_of(session: Session, pending: int = 0) -> dict[str, int]:
    """Where every token of a stream is.

    Args:
        pending: tokens that were written and not yet read: they are what the stream goes on with.
    """
    return {
        "tokens_seen": session.stats.tokens_read,
        "in_window": session.tokens_in_window,
        "compressed": session.tokens_compressed,
        "pending": pending,
        "dropped": session.dropped_tokens,
        "state_bytes": session.state_bytes,
    }


def read_tokens(session: Session, token_ids: Sequence[int], piece: int) -> Steps[None]:
    """Reads tokens, at most `piece` at a time, cut where segments end: the last ones share a pass with others'."""
    first = 0
    while first < len(token_ids):
        room, left = room_of(session), len(token_ids) - first
        if min(left, piece) <= room:
            part = token_ids[first : first + min(left, piece)]
            yield Read(session, part)
        else:
            whole = (min(left, piece) - room) // session.segment_size * session.segment_size
            part = token_ids[first : first + room + whole]
            session.read_tokens(part)
            yield len(part)
        first += len(part)


def read_text(
    session: Session,
    blocks: Iterable[str],
    piece: int,
    *,
    scored: bool,
    progress: Callable[[ReadStats], Any],
    stopping: Callable[[], bool],
) -> Steps[bool]:
    """Reads a text; whether all of it, or only what was read before the server was asked to stop."""
    before = session.stats.tokens_read
    for stats in session.read_steps(blocks, chunk_size=piece, scored=scored):
        progress(stats)
        yield stats.tokens_read - before
        before = stats.tokens_read
        if stopping():
            return False
    return True


def read_prompt(
    begin: Callable[[Snapshot | None], Session], prompt: Prompt, prefixes: Prefixes, owner: str, piece: int
) -> Steps[tuple[Session, int]]:
    """A session that has read a prompt, beginning at the longest part of it that is known; how many tokens that were.

    Args:
        begin: gives a session that stands at a snapshot.
    """
    token_ids = prompt.token_ids
    session = begin(prefixes.longest(owner, token_ids))
    cached = session.stats.tokens_read
    for border in sorted({border for border in prompt.borders if cached < border < len(token_ids)} | {len(token_ids)}):
        yield from read_tokens(session, token_ids[session.stats.tokens_read : border], piece)
        prefixes.add(owner, session.snapshot())
    return session, cached


def reply(session: Session, cached: int, writer: Writer, prefixes: Prefixes, owner: str) -> Steps[Outcome]:
    """Goes on from a prompt that was read."""
    prompt = session.stats.tokens_read
    yield Write(session, writer)
    prefixes.add(owner, session.snapshot())
    return _outcome(session, writer, prompt, cached, pending=1)


def complete(
    begin: Callable[[Snapshot | None], Session],
    prompt: Prompt,
    writer: Writer,
    prefixes: Prefixes,
    owner: str,
    piece: int,
) -> Steps[Outcome]:
    """Reads a prompt and goes on from it."""
    session, cached = yield from read_prompt(begin, prompt, prefixes, owner, piece)
    return (yield from reply(session, cached, writer, prefixes, owner))


def ask(session: Session, token_ids: Sequence[int], writer: Writer, piece: int) -> Steps[Outcome]:
    """Asks a fork of a session, which is of no more use afterwards."""
    cached = session.stats.tokens_read
    yield from read_tokens(session, token_ids, piece)
    prompt = session.stats.tokens_read
    yield Write(session, writer)
    return _outcome(session, writer, prompt, cached, pending=1)


def say(session: Session, token_ids: Sequence[int], writer: Writer, piece: int) -> Steps[Outcome]:
    """A turn of a conversation, which stays in the session."""
    cached = session.stats.tokens_read
    session.open_turn()
    yield from read_tokens(session, token_ids, piece)
    prompt = session.stats.tokens_read
    yield Write(session, writer)
    session.close_turn(writer.token_ids[-1:], finished=writer.ended)
    return _outcome(session, writer, prompt, cached, pending=0)


def rewind(session: Session, **place: Any) -> Steps[int]:
    """Goes back; how many tokens were read again."""
    again = session.rewind(**place)
    yield again
    return again


def look(session: Session, reading: Reading | None) -> Steps[dict[str, Any]]:
    """What the memory of a session holds, and what it does in a fork that reads on; the session stays as it is.

    No second one may be at work on the same model: see `Collector`.
    """
    steps = inspecting(session.model, session.tokenizer, reading, name=session.name, cache=session.cache)
    before = 0
    while True:
        try:
            done = next(steps)
        except StopIteration as end:
            figures: dict[str, Any] = end.value
            return figures
        yield done - before
        before = done


def _outcome(session: Session, writer: Writer, prompt: int, cached: int, *, pending: int) -> Outcome:
    assert writer.finish is not None
    account = account_of(session, pending)
    return Outcome(writer.text, writer.finish, prompt, cached, len(writer.token_ids), account)
