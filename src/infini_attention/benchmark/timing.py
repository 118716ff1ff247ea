"""Times that can be compared: all contenders in turn, round by round, in one run."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

Run = Callable[[], None]
Times = dict[str, list[float]]


@dataclass(frozen=True)
class Pace:
    """How long to measure one comparison.

    Attributes:
        least, most: rounds.
        seconds: no round begins later, once there are `least`.
    """

    least: int
    most: int
    seconds: float


QUICK = Pace(least=3, most=51, seconds=6)
THOROUGH = Pace(least=7, most=101, seconds=60)


@dataclass(frozen=True)
class Spread:
    """The median of a figure over the rounds, and its extremes."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))


def measure(
    contenders: Mapping[str, Run], pace: Pace, *, device: str = "cpu", clock: Callable[[], float] = time.perf_counter
) -> Times:
    """Seconds of each run, one per round: A B C, A B C, ... so that whatever else the machine does meets all alike.

    The caller has warmed them up: each has run once.
    """
    times: Times = {name: [] for name in contenders}
    began = clock()
    for done in range(pace.most):
        if done >= pace.least and clock() - began > pace.seconds:
            break
        for name, run in contenders.items():
            wait_for(device)
            start = clock()
            run()
            wait_for(device)
            times[name].append(clock() - start)
    return times


def wait_for(device: str) -> None:
    """Until all work that was given to the device is done; a CPU does it at once."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def ratio(slower: Sequence[float], faster: Sequence[float]) -> Spread:
    """How many times as long one takes as the other, round by round: a slow moment slows both of a pair."""
    return Spread.of([a / b for a, b in zip(slower, faster, strict=True)])
