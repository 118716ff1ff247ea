"""One run of a benchmark, and the conditions that its figures were found under."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

from infini_attention.benchmark.compare import Record, compare
from infini_attention.benchmark.lineup import Lineup, model_lineup, operation_lineup, peer_versions
from infini_attention.benchmark.machine import check_idle, is_busy, load, processor
from infini_attention.benchmark.plan import Plan
from infini_attention.benchmark.sizes import Sizes
from infini_attention.benchmark.timing import QUICK, THOROUGH, Pace
from infini_attention.environment import environment

QUICK_SECONDS = 480  # after so many, --quick begins nothing more: it is over within ten minutes
OVER = f"not begun: the {QUICK_SECONDS} seconds of --quick were over; choose it with --shape, or leave out --quick"


def run(
    plan: Plan,
    *,
    device: str = "cpu",
    force: bool = False,
    profile: Path | None = None,
    pace: Pace | None = None,
    clock: Callable[[], float] = time.perf_counter,
    on_case: Callable[[int, int], None] = lambda done, total: None,
) -> Record:
    """Measures everything that a plan names.

    Args:
        plan: what to measure.
        device: where.
        force: measure although the machine is busy; the result says so.
        profile: where to write a trace of ours in the first case, for chrome://tracing and ui.perfetto.dev.
        pace: how long; None means the plan's.
        clock: seconds.
        on_case: called with the cases that are done, and all of them.

    Returns:
        `rows`, `left_out`, and the conditions that they were found under.

    Raises:
        ConfigError: the machine is busy.
    """
    before, began = check_idle(force=force), clock()
    pace = pace or (QUICK if plan.quick else THOROUGH)
    rows: list[Record] = []
    left_out: list[Record] = []
    done, total = 0, sum(len(plan.cases(sizes)) for sizes in plan.shapes.values())

    def leave_out(shape: str, phase: str | None, reasons: Mapping[str, str]) -> None:
        left_out.extend({"peer": peer, "shape": shape, "phase": phase, "reason": why} for peer, why in reasons.items())

    for shape, sizes in plan.shapes.items():
        lineup: Lineup | None = None
        for case in plan.cases(sizes):
            done += 1
            if plan.quick and clock() - began > QUICK_SECONDS:
                leave_out(shape, case.phase, dict.fromkeys(plan.peers, OVER))
                continue
            if lineup is None:
                lineup = _lineup(plan, sizes, device)
                leave_out(shape, None, lineup.left_out)
            found, missing = compare(lineup, case, pace, clock, profile if done == 1 else None)
            rows += [{"bench": plan.bench, "shape": shape, **row} for row in found]
            leave_out(shape, case.phase, missing)
            on_case(done, total)
    return {
        "bench": plan.bench,
        "quick": plan.quick,
        "rows": rows,
        "left_out": left_out,
        "shapes": {shape: asdict(sizes) for shape, sizes in plan.shapes.items()},
        "chunk_size": plan.chunk,
        "profile": None if profile is None else str(profile),
        "seconds": round(clock() - began, 1),
        "load_before": round(before, 2),
        "load_after": round(load(), 2),
        "busy": is_busy(before),
        "processor": processor(device),
        "device": device,
        "peer_versions": peer_versions(),
        **environment(),
    }


def _lineup(plan: Plan, sizes: Sizes, device: str) -> Lineup:
    if plan.bench == "ops":
        return operation_lineup(sizes, plan.rules, plan.peers, device)
    return model_lineup(sizes, plan.rules, plan.peers, plan.chunk, device)
