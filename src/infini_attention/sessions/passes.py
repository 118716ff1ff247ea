"""The text that went through a model, pass by pass: read again in the same passes, it gives the same bits."""

from array import array
from dataclasses import dataclass

_CHUNK_BYTES = 256  # of a chunk's objects, beside four per token


@dataclass(frozen=True)
class Chunk:
    """Tokens that went through the model in one pass.

    Attributes:
        token_ids: int32.
        text_bytes: of the text that they came from.
        scored: whether their losses were computed.
    """

    token_ids: "array[int]"
    text_bytes: int
    scored: bool

    @property
    def nbytes(self) -> int:
        return 4 * len(self.token_ids) + _CHUNK_BYTES


@dataclass(frozen=True)
class Text:
    """Chunks in a row; `nbytes` is theirs together."""

    chunks: tuple[Chunk, ...] = ()
    nbytes: int = 0

    def plus(self, chunk: Chunk) -> "Text":
        return Text((*self.chunks, chunk), self.nbytes + chunk.nbytes)

    def joined(self, later: "Text") -> "Text":
        return Text(self.chunks + later.chunks, self.nbytes + later.nbytes)
