"""Whether a stream stays as fast, and the process as small, as they were."""

from typing import Any

from infini_attention.cli.shared.common import peak_rss_bytes

MOST_MARKS = 2000
EARLY_TOKENS = 100_000


class Pace:
    """Marks along a stream; their number is bounded, however long it gets."""

    def __init__(self) -> None:
        self.marks = [(0, 0.0)]  # tokens, seconds: evenly spaced, every `spacing`-th that was given
        self.last = self.marks[0]
        self.given, self.spacing = 0, 1
        self.early_rss: int | None = None

    def mark(self, tokens: int, seconds: float) -> None:
        """`tokens` were read after `seconds`."""
        self.last, self.given = (tokens, seconds), self.given + 1
        if self.given % self.spacing == 0:
            self.marks.append(self.last)
        if len(self.marks) > MOST_MARKS:
            self.marks, self.spacing = self.marks[::2], 2 * self.spacing
        if self.early_rss is None and tokens >= EARLY_TOKENS:
            self.early_rss = peak_rss_bytes()

    def figures(self) -> dict[str, Any]:
        """Tokens per second of the first and the last tenth (None where nothing was read), and the peak resident set.

        The early peak, after 100,000 tokens, is None for shorter texts.
        """
        end = self.last[0]
        first, last = self._rate(0, end / 10), self._rate(end * 9 / 10, end)
        return {
            "first_tenth_tokens_per_second": first,
            "last_tenth_tokens_per_second": last,
            "peak_rss_bytes_after_100k": self.early_rss,
            "peak_rss_bytes": peak_rss_bytes(),
        }

    def _rate(self, start: float, stop: float) -> float | None:
        """Between the marks that are nearest to two places."""
        marks = [*self.marks, self.last]
        (a, began), (b, ended) = (min(marks, key=lambda mark: abs(mark[0] - place)) for place in (start, stop))
        return round((b - a) / (ended - began), 1) if b > a and ended > began else None
