"""Writes docs/performance.md and its picture from the result files of `infini bench`.

Run by `make docs`; tests compare the page with what it would write, and the picture with the rows that it shows.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_suffix(".md")
PICTURE = PAGE.with_suffix(".svg")
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
BENCHES = ("ops", "prefill", "decode", "train", "peers")
PHASES = ("prefill", "train", "decode")
COLUMNS = ("phase", "shape", "rule", "peer", "parameters, ours / peer", "ours, tokens/s", "of the limit")
COLUMNS += ("peer, tokens/s", "ours / peer")

Result = dict[str, Any]

HEAD = """# Performance

Written by `make docs` from the files `bench-*.json` in [benchmarks/results](../benchmarks/results), which these
commands write on an idle machine:

```sh
{commands}
```

With `--quick` there are fewer tokens and rounds, and after eight minutes nothing more is begun: what was not reached
is named. `--profile FILE` adds a trace of ours in the first case, to be opened in ui.perfetto.dev.

## How it is measured

- Ours, peers and limit in turn, round by round, in one process with one number of threads; each has run once before.
  Figures are medians over the rounds, in brackets the least and the greatest; ratios are those of each round.
- The limit is measured in the same run. In prefill and training it is the time of the model's own matrix products:
  those of its weights, and the two of attention over the half of each segment that is seen; three times that in
  training. In decoding it is the time to read the weights once. What the memory adds, norms, rotations and the softmax
  are not part of it.
- Prefill has the logits of every token. Training is loss and gradients, without an optimizer; ours goes back through
  all of the text, peers as far as they do by themselves. Decoding goes on by single tokens; of 16 streams side by side,
  each is at another token of its segment.
- The peer `none` is the same model with local attention alone: what the memory costs. `full-attention` is the same
  model with sdpa and a `DynamicCache`, `sliding-window` has a window of one segment, `by-segment` reads each segment
  alone. The others are set for speed, and matched in size as closely as their options allow.
- `decode, int8` is ours with int8 weights (`--dtype int8`), beside itself with float32 weights: the peer `float32`. Its
  limit is the time to read the int8 weights. What the rounding costs in perplexity is the last figure of
  `infini eval perplexity --dtype int8`.
- Weights are random. `smollm2-135m` and `builtin` are those models' shapes; `builtin`
  alone has an overlap, as that model does.

| shape | width | layers | heads | key/value heads | head size | feed-forward | segment | vocabulary |
|---|---|---|---|---|---|---|---|---|
{shapes}

The other packages, which `make peers` installs:

{packages}
"""

NOTHING = """
## Results

There are none yet.
"""


def page(folder: Path = RESULTS) -> str:
    """The whole page."""
    parts, found = [head()], results(folder)
    if not rows(found):
        parts.append(NOTHING)
    else:
        parts.append(f"\n## Results\n\n![speed beside the limit and beside peers]({PICTURE.name})\n")
    parts += ["\n".join(section(name, result)) + "\n" for name, result in found.items()]
    return "".join(parts)


def head() -> str:
    """What the code says of itself."""
    from infini_attention.benchmark.lineup import OF_PACKAGES
    from infini_attention.benchmark.sizes import SHAPES

    shapes = (f"| {name} | {' | '.join(str(size) for size in astuple(sizes)[:8])} |" for name, sizes in SHAPES.items())
    packages = (f"- `{name}`: {build.__doc__}" for name, build in OF_PACKAGES.items())
    commands = map(command, BENCHES)
    return HEAD.format(commands="\n".join(commands), shapes="\n".join(shapes), packages="\n".join(packages))


def command(bench: str) -> str:
    return f"infini bench {bench} -o benchmarks/results/bench-{bench}.json"


def results(folder: Path) -> dict[str, Result]:
    """By file name, in the order of the commands."""
    found = {path.name: json.loads(path.read_text()) for path in sorted(folder.glob("bench-*.json"))}
    return dict(sorted(found.items(), key=lambda item: BENCHES.index(item[1]["bench"])))


def rows(found: dict[str, Result]) -> list[dict[str, Any]]:
    return [row for result in found.values() for row in result["rows"]]


def section(name: str, result: Result) -> Iterator[str]:
    """One file."""
    versions = result["versions"]
    kind = " --quick" if result["quick"] else ""
    yield f"\n### infini bench {result['bench']}{kind}\n"
    yield (
        f"[{name}](../benchmarks/results/{name}): {result['processor']}, {result['threads']} threads, load "
        f"{result['load_before']} before; torch {versions['torch']}, commit {(result['commit'] or 'unknown')[:12]}."
        + (" **The machine was busy.**" if result["busy"] else "")
        + "\n"
    )
    yield f"| {' | '.join(COLUMNS)} |"
    yield "|---" * len(COLUMNS) + "|"
    for row in result["rows"]:
        yield f"| {' | '.join(cells(row))} |"
    if result["left_out"]:
        yield "\nLeft out:\n"
    for left in result["left_out"]:
        yield f"- {left['peer']}, {left['shape']}, {left['phase'] or 'all phases'}: {left['reason']}"


def cells(row: dict[str, Any]) -> Iterator[str]:
    yield label(row)
    yield row["shape"]
    yield f"`{row['rule']}`"
    yield row["peer"]
    yield f"{row['ours_parameters'] / 1e6:.2f} M / {row['peer_parameters'] / 1e6:.2f} M"
    for figure, form in (
        ("ours_tokens_per_second", "{:,.0f}"),
        ("limit_fraction", "{:.1%}"),
        ("peer_tokens_per_second", "{:,.0f}"),
        ("ratio", "{:.2f}"),
    ):
        low, high = (form.format(end) for end in row["spread"][figure])
        yield f"{form.format(row[figure])} ({low} to {high})"


def label(row: dict[str, Any]) -> str:
    parts = [row["phase"], f"{row['batch']} streams" if row["batch"] > 1 else "", "int8" if row["int8"] else ""]
    return ", ".join(filter(None, parts))


def digest(found: Sequence[dict[str, Any]]) -> str:
    """Of what a picture shows; the picture carries it."""
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def picture(found: list[dict[str, Any]], path: Path) -> None:
    """Left, ours as a share of the limit; right, ours beside each peer, with the least and the greatest."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    ours = {f"{label(row)}, {row['shape']}, {row['rule']}": row for row in found}
    peers = list(dict.fromkeys(row["peer"] for row in found))
    with rc_context({"svg.hashsalt": "infini", "svg.fonttype": "none"}):
        height = 1.2 + 0.22 * max(len(ours), 3 * len(peers))
        figure = Figure(figsize=(12, height), layout="constrained")
        left, right = figure.subplots(1, 2)
        shares = [row["limit_fraction"] for row in ours.values()]
        left.barh(list(ours), shares, color=[f"C{PHASES.index(row['phase'])}" for row in ours.values()])
        left.set(xlim=(0, 1), title="share of the limit", ylim=(len(ours) - 0.5, -0.5))
        left.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        for number, phase in enumerate(PHASES):
            mine = [row for row in found if row["phase"] == phase]
            places = [peers.index(row["peer"]) + 0.25 * (number - 1) for row in mine]
            ends = [[abs(row["ratio"] - row["spread"]["ratio"][end]) for row in mine] for end in (0, 1)]
            ratios = [row["ratio"] for row in mine]
            right.errorbar(ratios, places, xerr=ends, fmt="o", markersize=4, capsize=2, color=f"C{number}", label=phase)
        right.axvline(1, color="grey", linewidth=0.8)
        right.set_xscale("log")
        right.set_yticks(range(len(peers)), peers)
        right.set(title="tokens/s, ours / peer", ylim=(len(peers) - 0.5, -0.5))
        right.grid(alpha=0.3, axis="x")
        right.legend(fontsize="small")
        figure.savefig(path, metadata={"Date": None, "Description": digest(found)})


if __name__ == "__main__":
    PAGE.write_text(page())
    if shown := rows(results(RESULTS)):
        picture(shown, PICTURE)
