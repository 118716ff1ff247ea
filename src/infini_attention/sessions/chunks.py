"""Tokens of a text in the chunks that a session reads them in."""

from collections.abc import Iterable, Iterator

from infini_attention.data import TextPiece
from infini_attention.errors import InputError
from infini_attention.sessions.digest import TokenDigest


def limited(pieces: Iterable[TextPiece], count: int) -> Iterator[TextPiece]:
    """The first `count` tokens with their text."""
    for piece in pieces:
        taken, _ = piece.split(count)
        yield taken
        if (count := count - len(taken.token_ids)) == 0:
            return


def chunks(pieces: Iterable[TextPiece], first: int, size: int) -> Iterator[tuple[list[int], int]]:
    """Tokens in chunks of `first` and then `size`, each with the bytes of its text."""
    ids: list[int] = []
    nbytes, due = 0, first
    for piece in pieces:
        start, count = 0, len(piece.token_ids)
        while start < count:
            stop = min(start + due - len(ids), count)
            taken, start = piece.part(start, stop), stop
            ids, nbytes = ids + taken.token_ids, nbytes + taken.nbytes
            if len(ids) == due:
                yield ids, nbytes
                ids, nbytes, due = [], 0, size
    if ids:
        yield ids, nbytes


def after_known_start(pieces: Iterator[TextPiece], tokens_read: int, read: TokenDigest) -> Iterator[TextPiece]:
    """What follows the `tokens_read` tokens that a session has read, once their digest shows that they are the same.

    Raises:
        InputError: the text begins otherwise.
    """
    digest, left, rest = TokenDigest(), tokens_read, TextPiece([], [], "")
    for piece in pieces:
        known, rest = piece.split(left)
        digest, left = digest.update(known.token_ids), left - len(known.token_ids)
        if left == 0:
            break
    if left or digest.hex != read.hex:
        raise InputError(
            f"the text does not begin with the {tokens_read} tokens that the session has read; name the "
            "same files in the same order, or read on from the session with --from"
        )
    yield rest
    yield from pieces
