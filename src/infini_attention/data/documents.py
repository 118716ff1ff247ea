"""Many texts as tokens, with the borders between them kept."""

import hashlib
import logging
import random
import time
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from infini_attention.data.text import check_text, read_blocks
from infini_attention.data.tokens import tokenize_stream
from infini_attention.errors import ConfigError, InputError

SECONDS_BETWEEN_REMARKS = 10.0

logger = logging.getLogger(__name__)


class Documents:
    """Token ids of many documents.

    Args:
        token_ids: `[N]` integers, all documents one after the other.
        ends: for each document, the place after its last token; rising, and the last one is N.

    Attributes:
        token_ids: `[N]` int32.
        count: how many documents.
        longest: tokens of the longest one.
        digest: of the tokens and the borders.

    Raises:
        InputError: no token at all.
    """

    def __init__(self, token_ids: Tensor | Sequence[int], ends: Sequence[int]) -> None:
        self.token_ids = torch.as_tensor(token_ids).to(torch.int32)
        if not len(self.token_ids):
            raise InputError("documents need at least one token together; got none: name texts that are not empty")
        stops = torch.tensor(ends)
        lengths = stops.diff(prepend=stops.new_zeros(1))
        assert lengths.min() > 0
        assert stops[-1] == len(self.token_ids)
        self.count, self.longest = len(lengths), int(lengths.max())
        self.digest = hashlib.sha256(self.token_ids.numpy().tobytes() + stops.numpy().tobytes()).hexdigest()[:12]
        # Longest first: the documents that are long enough for a cut are the first ones, whatever its length.
        self._lengths, order = lengths.sort(descending=True, stable=True)
        self._starts = (stops - lengths)[order]
        self._sums = self._lengths.cumsum(0)

    @classmethod
    def tokenize(cls, tokenizer: PreTrainedTokenizerBase, texts: Iterable[Iterable[str]]) -> "Documents":
        """Each text, which comes in blocks, as a document of its own. Remarks in the log say how far it is."""
        ids, ends, spoke = array("i"), array("q"), time.monotonic()
        for blocks in texts:
            for piece in tokenize_stream(blocks, tokenizer, start=False):
                ids.extend(piece.token_ids)
                if time.monotonic() - spoke > SECONDS_BETWEEN_REMARKS:
                    logger.info("reading texts: %d documents, %d tokens so far", len(ends), len(ids))
                    spoke = time.monotonic()
            if len(ids) > (ends[-1] if ends else 0):
                ends.append(len(ids))
        return cls(torch.frombuffer(ids, dtype=torch.int32) if ids else [], ends)

    def within_reach(self, length: int) -> int:
        """The tokens of all documents that are at least `length` long. Raises `InputError` where there is none."""
        enough = int(torch.searchsorted(-self._lengths, -length, right=True))
        if not enough:
            raise InputError(
                f"no document is {length:,} tokens long; the longest of {self.count:,} has {self.longest:,}: ask for "
                "shorter samples, or add longer texts"
            )
        return int(self._sums[enough - 1])

    def cut(self, length: int, rng: random.Random) -> Tensor:
        """`length` tokens of one document, `[length]` int64: never across a border.

        The documents that are long enough are drawn in proportion to their length, and all places in one are alike.

        Raises:
            InputError: none is long enough.
        """
        place = rng.randrange(self.within_reach(length))
        index = int(torch.searchsorted(self._sums, place, right=True))
        start = int(self._starts[index]) + rng.randrange(int(self._lengths[index]) - length + 1)
        return self.token_ids[start : start + length].long()


def file_texts(paths: Iterable[str | Path]) -> Iterator[Iterator[str]]:
    """Each UTF-8 file as a text in blocks. Raises `InputError` for one that is missing, or no text."""
    for path in map(Path, paths):
        check_text(path)
        yield _blocks(path)


def _blocks(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        yield from read_blocks(file, name=str(path))


def dataset_texts(
    path: str,
    *,
    column: str = "text",
    max_documents: int | None = None,
    **where: str | Sequence[str] | None,
) -> Iterator[list[str]]:
    """Each row of a data set as a text, in order; rows without text are left out. Code in a data set is never run.

    It is streamed: nothing is downloaded beyond what is read, and nothing is converted on disk.

    Args:
        path: what `datasets.load_dataset` takes: a format such as "json", a folder, or a hub id.
        column: that holds the text.
        max_documents: rows to stop after.
        where: name, data_files, revision and split of `datasets.load_dataset`.

    Raises:
        ConfigError: `datasets` is not installed.
        InputError: it cannot be loaded, or the column holds no text.
    """
    for number, row in enumerate(dataset_rows(path, max_rows=max_documents, **where)):
        if column not in row:
            raise InputError(f"data set {path}: no column {column!r}; there are {', '.join(sorted(row))}")
        text = row[column]
        if text is not None and not isinstance(text, str):
            raise InputError(
                f"data set {path}: column {column!r} must hold text; row {number} has {type(text).__name__}"
            )
        if text:
            yield [text]


def dataset_rows(
    path: str, *, max_rows: int | None = None, **where: str | Sequence[str] | None
) -> Iterator[dict[str, Any]]:
    """The rows of a data set, in order, as `dataset_texts` reads them. Raises what it raises."""
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(f"{error}; reading data sets needs more: pip install 'infini-attention[train]'") from error
    try:
        yield from islice(datasets.load_dataset(path, streaming=True, **where), max_rows)
    except (OSError, RuntimeError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise InputError(f"data set {path}: cannot be read ({error})") from error
