"""infini bench: speed beside other implementations, and beside the limit of the machine."""

import json
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from infini_attention.cli.shared import common
from infini_attention.cli.shared.counts import parse_tokens
from infini_attention.cli.shared.progress import StepProgress
from infini_attention.cli.shared.training import Threads
from infini_attention.errors import InputError

NAME = "bench"


class BenchName(StrEnum):
    """What is measured."""

    ops = "ops"
    prefill = "prefill"
    decode = "decode"
    train = "train"
    peers = "peers"


def run(
    bench: Annotated[BenchName, typer.Argument(help="The operation alone, a phase of whole models, or all phases.")],
    shape: Annotated[
        list[str] | None,
        typer.Option("--shape", help="Such as 1024x12, builtin or smollm2-135m; may be given several times."),
    ] = None,
    rule: Annotated[
        list[common.RuleName] | None,
        typer.Option("--rule", help="Of ours; may be given several times.  [default: all; gated_delta for peers]"),
    ] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(
            "--peer",
            help="Beside whom; may be given several times.  [default: none, the same model without a memory; for "
            "peers, all others]",
        ),
    ] = None,
    tokens: Annotated[
        str | None,
        typer.Option("--tokens", help="Of prefill and train, or read before decoding, such as 4K: whole segments."),
    ] = None,
    chunk_size: Annotated[int, typer.Option("--chunk-size", min=1, help="Tokens that ours reads in one call.")] = 4096,
    threads: Threads = None,
    device: common.Device = "cpu",
    quick: Annotated[bool, typer.Option("--quick", help="Fewer tokens and rounds: over within ten minutes.")] = False,
    profile: Annotated[
        Path | None,
        typer.Option("--profile", help="Also write a trace of ours in the first case, for ui.perfetto.dev."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write the result into this file.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Measure although the machine is busy; replace files that exist.")
    ] = False,
    as_json: common.AsJson = False,
) -> None:
    """Measure speed, side by side in one run: ours, peers and the limit of the machine in turn, round by round.

    Figures are medians over the rounds, with the least and the greatest. The limit is the time of the model's own
    matrix products (prefill, train: forward, loss and gradients, without optimizer) or of reading its weights (decode);
    what the memory adds is not part of it. Peers come with `make peers`; those that are left out are named, with the
    reason.
    """
    for path in (out, profile):
        if path is not None:
            common.check_output(path, force=force)
    count = None if tokens is None else parse_tokens("--tokens", tokens)
    import torch

    from infini_attention.benchmark.plan import make_plan
    from infini_attention.benchmark.run import run as measure

    rules: Any = [name.value for name in rule or ()]
    plan = make_plan(
        bench.value,
        shapes=shape or (),
        rules=rules,
        peers=peer or (),
        quick=quick,
        tokens=count,
        chunk=chunk_size,
        int8=device == "cpu",
    )
    if threads is not None:
        torch.set_num_threads(threads)
    common.check_device(device)
    with StepProgress(f"bench {bench.value}") as progress:
        result = measure(plan, device=device, force=force, profile=profile, on_case=progress.show)
    if out is not None:
        try:
            out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise InputError(f"{out}: could not be written ({error.strerror})") from error
    if as_json:
        common.emit(result, as_json=True)
        return
    for line in table(result):
        print(line)


def table(result: dict[str, Any]) -> Iterator[str]:
    """The rows of a result, and who was left out."""
    yield _line("phase", "shape", "rule", "peer", "ours t/s", "of limit", "peer t/s", "ours/peer")
    for row in result["rows"]:
        low, high = row["spread"]["ratio"]
        yield _line(
            row["phase"] + (f" x{row['batch']}" if row["batch"] > 1 else "") + (" int8" if row["int8"] else ""),
            row["shape"],
            row["rule"],
            row["peer"],
            f"{row['ours_tokens_per_second']:,.0f}",
            f"{row['limit_fraction']:.1%}",
            f"{row['peer_tokens_per_second']:,.0f}",
            f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})",
        )
    for left in result["left_out"]:
        yield f"left out: {left['peer']}, {left['shape']}, {left['phase'] or 'all phases'}: {left['reason']}"
    load = "BUSY, " if result["busy"] else ""
    load += f"load {result['load_before']} before, {result['load_after']} after"
    yield f"{result['threads']} threads, {result['processor']}, {load}; {result['seconds']} s"


def _line(*cells: str) -> str:
    widths = (-11, -13, -12, -36, 9, 9, 9, 22)
    return " ".join(
        f"{cell:<{-width}}" if width < 0 else f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)
    )
