"""What is seen of a server under load, summed up, and as a table."""

import statistics
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Figures:
    """What was seen. Times in seconds."""

    answers: int = 0
    own_key: int = 0
    key_of_another: int = 0  # cross-talk, whether the own key was given as well or not
    no_key: int = 0
    sent_away: int = 0
    errors: list[str] = field(default_factory=list)
    first_token: list[float] = field(default_factory=list)
    per_token: list[float] = field(default_factory=list)
    resident: list[tuple[float, int]] = field(default_factory=list)


def summary(figures: Figures) -> dict[str, Any]:
    """Percentiles, and how far the resident set of the last quarter is from that of the second."""

    def percentiles(values: list[float]) -> dict[str, float]:
        if len(values) < 2:
            return {}
        cuts = statistics.quantiles(values, n=100, method="inclusive")
        return {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98], "most": max(values)}

    resident = [nbytes for _, nbytes in figures.resident]
    quarter = len(resident) // 4
    growth = None
    if quarter:
        second, last = statistics.mean(resident[quarter : 2 * quarter]), statistics.mean(resident[-quarter:])
        growth = last / second - 1
    counts = asdict(figures)
    for name in ("first_token", "per_token", "resident", "errors"):
        del counts[name]
    return counts | {
        "errors": len(figures.errors),
        "first_errors": figures.errors[:5],
        "first_token_seconds": percentiles(figures.first_token),
        "per_token_seconds": percentiles(figures.per_token),
        "resident_bytes": {"start": resident[0], "end": resident[-1], "most": max(resident), "growth": growth},
        "resident_over_time": figures.resident[:: max(1, len(resident) // 100)],
    }


def table(result: dict[str, Any]) -> str:
    """What was asked of the server, in Markdown."""
    mb, first, each = 1e-6, result["first_token_seconds"], result["per_token_seconds"]
    speed, turns, forks = result["throughput"], result["history"], result["forks"]
    resident, growth = result["resident_bytes"], result["resident_bytes"]["growth"]

    def milliseconds(times: dict[str, float]) -> str:
        return f"{times['p50'] * 1000:.0f} / {times['p95'] * 1000:.0f} ms" if times else "-"

    lines = {
        "sessions, tokens of each": f"{result['sessions']}, {result['tokens']:,}",
        "answers, with the own key, with another's": f"{result['answers']:,}, {result['own_key']:,}, "
        f"{result['key_of_another']}",
        "errors; sent away, to try again": f"{result['errors']}; {result['sent_away']}",
        "time to the first token, p50 / p95": milliseconds(first),
        "time per token, p50 / p95": milliseconds(each),
        "resident set at the start, at the end": f"{resident['start'] * mb:.0f} MB, {resident['end'] * mb:.0f} MB"
        + ("" if growth is None else f" (last quarter against the second: {growth:+.1%})"),
        f"{speed['rows']} replies side by side against one by one": f"{speed['side_by_side']:.0f} against "
        f"{speed['one_by_one']:.0f} tokens/s: {speed['ratio']:.1f} times",
        f"turn {turns['turns']} / turn 2 of a history that is sent again": f"{turns['ratio']:.2f} "
        f"({turns['read_at_the_last']} and {turns['read_at_turn_2']} tokens read)",
        "turns whose cached_tokens were right, wrong": f"{turns['cached_tokens_right']}, "
        f"{turns['cached_tokens_wrong']}",
        f"{forks['count']:,} forks: bytes of states, of the resident set": f"{forks['bytes_in_the_store']:,}, "
        f"{forks['resident_bytes']:,}",
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in lines.items())])
