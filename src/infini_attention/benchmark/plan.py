"""What each benchmark measures, unless it is told otherwise."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from infini_attention.benchmark.contender import PHASES, Phase
from infini_attention.benchmark.lineup import NO_MEMORY, OF_PACKAGES, PEERS, check_peers
from infini_attention.benchmark.models import CHUNK
from infini_attention.benchmark.sizes import Sizes, named_shapes
from infini_attention.errors import ConfigError
from infini_attention.shapes import Rule

Bench = Literal["ops", "prefill", "decode", "train", "peers"]
BENCHES = get_args(Bench)
ALL_RULES: tuple[Rule, ...] = ("gated_delta", "linear", "delta")
OWN_SHAPES = ("1024x12", "builtin")
PEER_SHAPES = ("256x4-c128", "256x4-c512", "512x6-c128", "512x6-c512")
ROWS = 16  # streams that are decoded side by side


@dataclass(frozen=True)
class Case:
    """One comparison of one shape.

    Attributes:
        phase: what is timed.
        batch: rows.
        tokens: per row; for decode, what was read before (by a staggered row, at most).
        steps: tokens that are decoded in a round.
        staggered: rows whose segments end at different tokens, in decode.
        int8: the rule under which ours has int8 weights, beside itself with float32 ones; None: as it is, beside peers.
    """

    phase: Phase
    batch: int
    tokens: int
    steps: int
    staggered: bool = False
    int8: Rule | None = None


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        bench: its name.
        shapes: by name.
        phases: which.
        rules: of ours.
        peers: by name.
        quick: fewer tokens and rounds.
        tokens: of prefill and train; None means 2,048 (1,024 if quick), and at least two segments. Decode reads as many
            and half a segment before it starts; None means one segment.
        chunk: tokens that ours reads in one call.
        int8: in the benchmark of decode, also the first rule with int8 weights, which are for the CPU.
    """

    bench: Bench
    shapes: dict[str, Sizes]
    phases: tuple[Phase, ...]
    rules: tuple[Rule, ...]
    peers: tuple[str, ...]
    quick: bool = False
    tokens: int | None = None
    chunk: int = CHUNK
    int8: bool = True

    def cases(self, sizes: Sizes) -> list[Case]:
        """Raises `ConfigError` for tokens that are no whole segments."""
        segment = sizes.segment
        tokens = max(2 * segment, 1024 if self.quick else 2048) if self.tokens is None else self.tokens
        if tokens % segment:
            raise ConfigError(f"tokens must be a multiple of the segment size, {segment}; got {tokens}")
        steps = 16 if self.quick else 128
        cases = []
        for phase in self.phases:
            if phase != "decode":
                cases.append(Case(phase, 1, tokens, steps))
                continue
            cases.append(Case(phase, 1, (self.tokens or segment) + segment // 2, steps))
            if self.bench == "decode":
                cases.append(Case(phase, ROWS, 2 * segment, steps, staggered=True))
                if self.int8:
                    cases.append(Case(phase, 1, (self.tokens or segment) + segment // 2, steps, int8=self.rules[0]))
        return cases


def make_plan(
    bench: Bench,
    *,
    shapes: Sequence[str] = (),
    rules: Sequence[Rule] = (),
    peers: Sequence[str] = (),
    quick: bool = False,
    tokens: int | None = None,
    chunk: int = CHUNK,
    int8: bool = True,
) -> Plan:
    """A benchmark with its defaults for whatever is not given. Raises `ConfigError` for unknown names."""
    check_peers(peers)
    others = bench == "peers"
    phases = tuple(phase for phase in PHASES if phase == bench) or PHASES
    usual = ("full-attention", "sliding-window", *OF_PACKAGES) if others else (NO_MEMORY,)
    plan = Plan(
        bench,
        named_shapes(shapes or (PEER_SHAPES if others else OWN_SHAPES)),
        phases,
        tuple(rules) or (ALL_RULES[:1] if others else ALL_RULES),
        tuple(name for name in PEERS if name in (peers or usual)),
        quick,
        tokens,
        chunk,
        int8,
    )
    for sizes in plan.shapes.values():
        plan.cases(sizes)  # a mistake is found before the work
    return plan
