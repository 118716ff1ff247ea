"""What a run says as a whole."""

from collections.abc import Sequence

from infini_attention.evaluation.journal import Record
from infini_attention.evaluation.stats import wilson_interval_of_mean


def summarize(records: Sequence[Record], axis: str) -> Record:
    """The figures over all cells of a run.

    Args:
        records: one per cell.
        axis: what tells cells of a length apart: depth, or keys.

    Returns:
        accuracy (the mean over cells), worst_cell, interval (of that mean, Wilson, 95 %), samples per cell,
        answers, outside_window_share (of answers whose needle local attention cannot see), state_bytes, seconds, cells.
    """
    answers = sum(record["answers"] for record in records)
    worst = min(records, key=lambda record: record["exact"])
    return {
        "accuracy": sum(record["exact"] for record in records) / len(records),
        "worst_cell": {name: worst[name] for name in ("length", axis, "exact")},
        "interval": list(wilson_interval_of_mean([(record["hits"], record["answers"]) for record in records])),
        "samples": records[0]["samples"],
        "answers": answers,
        "outside_window_share": sum(record["outside_window"] for record in records) / answers,
        "memory": records[0]["memory"],
        "state_bytes": max(record["state_bytes"] for record in records),
        "seconds": round(sum(record["seconds"] for record in records), 3),
        "cells": list(records),
    }
