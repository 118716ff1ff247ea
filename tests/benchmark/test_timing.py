"""Who runs when, and what the times become."""

import pytest

from infini_attention.benchmark.timing import Pace, Spread, measure, ratio


class Clock:
    """Time passes only where a test says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def contender(clock):
    """`contender(name, seconds, log)` takes those seconds, the next one at each run, and writes its name down."""

    def contender(name, seconds, log):
        left = iter(seconds)

        def run():
            log.append(name)
            clock.now += next(left)

        return run

    return contender


def test_contenders_run_in_turn_and_each_run_is_timed_alone(clock, contender):
    log = []
    runs = {"a": contender("a", [1, 2, 3], log), "b": contender("b", [10, 20, 30], log)}
    times = measure(runs, Pace(least=3, most=3, seconds=0), clock=clock)
    assert "".join(log) == "ababab"
    assert times == {"a": [1, 2, 3], "b": [10, 20, 30]}


@pytest.mark.parametrize(
    ("least", "most", "seconds", "rounds"), [(2, 9, 0, 2), (2, 9, 35, 4), (2, 9, 30, 4), (2, 9, 29, 3), (2, 5, 1000, 5)]
)
def test_rounds_end_with_the_time_but_are_never_too_few_or_too_many(clock, contender, least, most, seconds, rounds):
    times = measure({"a": contender("a", [10] * 9, [])}, Pace(least, most, seconds), clock=clock)
    assert len(times["a"]) == rounds


def test_a_spread_is_the_median_and_the_extremes():
    assert Spread.of([5.0, 1.0, 4.0]) == Spread(median=4.0, low=1.0, high=5.0)
    assert Spread.of([1.0, 2.0]).median == 1.5


def test_a_ratio_is_that_of_each_round():
    # The machine was slow in the last round: both took four times as long, and the ratio stays.
    assert ratio([2.0, 2.0, 8.0], [1.0, 1.0, 4.0]) == Spread(2.0, 2.0, 2.0)
