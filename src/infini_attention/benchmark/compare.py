"""One case: contenders and limit in turn, and a row of figures for each pair."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch

from infini_attention.benchmark.contender import Contender, prepare
from infini_attention.benchmark.lineup import NO_MEMORY, Lineup, reason
from infini_attention.benchmark.models import Model, staggered
from infini_attention.benchmark.plan import Case
from infini_attention.benchmark.timing import Pace, Run, Spread, Times, measure, ratio

Record = dict[str, Any]
LIMIT = "limit"


def compare(
    lineup: Lineup, case: Case, pace: Pace, clock: Callable[[], float], profile: Path | None = None
) -> tuple[list[Record], dict[str, str]]:
    """The rows of one case, one per rule and peer, and the peers that it leaves out, with the reasons."""
    lineup = lineup if case.int8 is None else lineup.int8(case.int8)
    torch.manual_seed(0)
    ids = torch.randint(1, lineup.sizes.vocabulary, (case.batch, case.tokens)).to(lineup.device)
    runs: dict[str, Run] = {}
    for rule, contender in lineup.ours.items():
        runs[f"ours {rule}"] = _warm(lineup, contender, case, ids)
    runs[LIMIT] = lineup.limit(case.phase, case.batch, case.tokens, case.steps)
    runs[LIMIT]()
    left_out = {}
    for name, contender in lineup.peers.items():
        if case.staggered and name != NO_MEMORY:
            left_out[name] = "its rows cannot stand at different tokens of their segments"
            continue
        try:
            runs[name] = _warm(lineup, contender, case, ids)
        except Exception as error:  # it is others' code: whatever it says is the reason
            if name == NO_MEMORY:
                raise
            left_out[name] = reason(error)
    times = measure(runs, pace, device=lineup.device, clock=clock)
    if profile is not None:
        trace(next(iter(runs.values())), profile)
    rows = [
        _about(case, rule, name)
        | {"ours_parameters": contender.parameters, "peer_parameters": lineup.peers[name].parameters}
        | figures(times, f"ours {rule}", name, case)
        for rule, contender in lineup.ours.items()
        for name in lineup.peers
        if name in runs
    ]
    return rows, left_out


def figures(times: Times, ours: str, peer: str, case: Case) -> Record:
    """Medians, and under `spread` the least and the greatest; ratios are those of each round."""
    work = case.batch * (case.steps if case.phase == "decode" else case.tokens)
    spreads = {
        "ours_tokens_per_second": Spread.of([work / seconds for seconds in times[ours]]),
        "peer_tokens_per_second": Spread.of([work / seconds for seconds in times[peer]]),
        "limit_tokens_per_second": Spread.of([work / seconds for seconds in times[LIMIT]]),
        "ratio": ratio(times[peer], times[ours]),
        "limit_fraction": ratio(times[LIMIT], times[ours]),
        "peer_limit_fraction": ratio(times[LIMIT], times[peer]),
    }
    medians = {name: float(f"{spread.median:.4g}") for name, spread in spreads.items()}
    ends = {name: [float(f"{end:.4g}") for end in (spread.low, spread.high)] for name, spread in spreads.items()}
    return medians | {"spread": ends, "rounds": len(times[ours])}


def trace(run: Run, path: Path) -> None:
    """Writes what one run does, operation by operation."""
    from torch.profiler import ProfilerActivity, profile

    devices = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])
    with profile(activities=devices, record_shapes=True) as profiler:
        run()
    profiler.export_chrome_trace(str(path))


def _warm(lineup: Lineup, contender: Contender, case: Case, ids: torch.Tensor) -> Run:
    """What a round runs, which has run once."""
    stream = None
    if case.staggered:
        with torch.no_grad():
            stream = staggered(cast(Model, contender), ids[:1], case.batch)
    run = prepare(contender, case.phase, ids, case.steps, stream)
    run()
    return run


def _about(case: Case, rule: str, peer: str) -> Record:
    return {
        "phase": case.phase,
        "rule": rule,
        "peer": peer,
        "batch": case.batch,
        "tokens": case.tokens,
        "decoded": case.steps if case.phase == "decode" else None,
        "staggered": case.staggered,
        "int8": case.int8 is not None,
    }
