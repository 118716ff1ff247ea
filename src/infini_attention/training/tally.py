"""Figures of many steps on the way to the log."""

from accelerate.utils import gather_object
from torch import Tensor


class Tally:
    """Adds up figures until they are asked for; their means are those of all processes together.

    A batch counts for the figures that it has: one without text says nothing about the loss on text.
    """

    def __init__(self) -> None:
        self.batch: dict[str, float] = {}
        self.totals: dict[str, tuple[float, int]] = {}

    def add(self, **parts: Tensor | float) -> None:
        """Adds parts of this batch's figures."""
        for name, value in parts.items():
            self.batch[name] = self.batch.get(name, 0.0) + float(value)

    def add_hits(self, name: str, hits: int, of: int) -> None:
        """Adds a count, whose mean is a share and does not ask which batch it came from."""
        before = self.totals.get(name, (0.0, 0))
        self.totals[name] = (before[0] + hits, before[1] + of)

    def close_batch(self) -> None:
        """Each figure that the batch has counts once."""
        for name, value in self.batch.items():
            before = self.totals.get(name, (0.0, 0))
            self.totals[name] = (before[0] + value, before[1] + 1)
        self.batch = {}

    def means(self) -> dict[str, float]:
        """Of what came since the last call in all processes, each of which must call. What nobody has is left out."""
        everywhere = gather_object([self.totals])
        self.totals = {}
        means = {}
        for name in sorted({name for totals in everywhere for name in totals}):
            sums, counts = zip(*(totals.get(name, (0.0, 0)) for totals in everywhere), strict=True)
            if sum(counts):
                means[name] = sum(sums) / sum(counts)
        return means
