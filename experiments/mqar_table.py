"""A table and curves from results of mqar.py: python experiments/mqar_table.py FOLDER [--plot FILE.png]"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infini_attention.errors import ConfigError

# What one table compares; everything else must be equal in all its rows.
COMPARED = {"rule", "idea", "heads", "head_dim", "seed", "threads", "limit_seconds"}

Result = dict[str, Any]


def load(folder: Path) -> list[Result]:
    """The results in `folder`, by size of memory and name.

    Raises:
        ConfigError: there are none, or they differ in more than a table may compare.
    """
    files = sorted(folder.glob("*.json"))
    if not files:
        raise ConfigError(f"expected results of mqar.py (*.json) in {folder}; got none")
    results = []
    for file in files:
        result = json.loads(file.read_text())
        if not isinstance(result, dict) or result.get("task") != "mqar":
            raise ConfigError(f"{file} is no result of mqar.py; keep other files in another folder")
        results.append(result)
        first = fixed(results[0])
        if differing := sorted(name for name, value in fixed(result).items() if first.get(name) != value):
            raise ConfigError(
                f"{file} differs from {files[0]} in {', '.join(differing)}: such runs cannot be compared; put them in "
                "folders of their own"
            )
    return sorted(results, key=lambda result: (carried(result), name_of(result), result["settings"]["seed"]))


def fixed(result: Result) -> dict[str, Any]:
    """What must be equal: all settings but the compared ones, and the steps that were really trained."""
    settings = {name: value for name, value in result["settings"].items() if name not in COMPARED}
    return settings | {"steps": result["steps"]}


def name_of(result: Result) -> str:
    """The rule and its ideas."""
    return " + ".join((result["settings"]["rule"], *sorted(result["settings"]["idea"])))


def carried(result: Result) -> int:
    """Bytes that one stream carries beyond its window."""
    return int(result["memory_bytes"] + result["conv_bytes"])


def answers(result: Result) -> dict[int, Result]:
    """The cell of each number of pairs, with the memory on where there is one."""
    memory = "off" if result["settings"]["rule"] == "none" else "on"
    return {cell["pairs"]: cell for cell in result["cells"] if cell["memory"] == memory}


def table(results: Sequence[Result]) -> str:
    """Markdown: a row per run, a column per number of pairs."""
    head = ["rule", "bytes", "parameters", "seed", "seconds"]
    head += [f"{pairs} pairs" for pairs in answers(results[0])] + ["memory off, most"]
    rows = [head, ["---"] * len(head)]
    for result in results:
        row = [name_of(result), f"{carried(result):,}", f"{result['parameters']:,}"]
        row += [str(result["settings"]["seed"]), f"{result['train_seconds']:.0f}"]
        for cell in answers(result).values():
            low, high = cell["interval"]
            row.append(f"{cell['exact']:.3f} [{low:.3f}, {high:.3f}]")
        rows.append([*row, f"{max(cell['exact'] for cell in result['cells'] if cell['memory'] == 'off'):.3f}"])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def plot(results: Sequence[Result], path: Path) -> None:
    """Writes a PNG: exact answers by pairs, a line per run; and at the most pairs by bytes, a line per rule.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("curves need matplotlib: pip install 'infini-attention[plot]'") from error
    figure = Figure(figsize=(11, 4.5), dpi=120, layout="constrained")
    by_pairs, by_bytes = figure.subplots(1, 2, sharey=True)
    names = sorted({name_of(result) for result in results})
    sizes = sorted({result["settings"]["head_dim"] for result in results}, reverse=True)
    for result in results:
        cells, color = answers(result), f"C{names.index(name_of(result))}"
        low, high = zip(*(cell["interval"] for cell in cells.values()), strict=True)
        label = f"{name_of(result)}, {carried(result):,} bytes"
        line = ("-", "--", ":", "-.")[sizes.index(result["settings"]["head_dim"]) % 4]
        exact = [cell["exact"] for cell in cells.values()]
        by_pairs.plot(list(cells), exact, color=color, linestyle=line, marker="o", label=label)
        by_pairs.fill_between(list(cells), low, high, color=color, alpha=0.2, linewidth=0)
    ticks = sorted(answers(results[0]))
    for number, name in enumerate(names):
        same = [result for result in results if name_of(result) == name]
        points = sorted((carried(result), answers(result)[ticks[-1]]["exact"]) for result in same)
        by_bytes.plot(*zip(*points, strict=True), color=f"C{number}", marker="o", label=name)
    by_pairs.set_xscale("log", base=2)
    by_pairs.set_xticks(ticks, [str(tick) for tick in ticks])
    by_pairs.set(xlabel="pairs", ylabel="exact answers", ylim=(-0.02, 1.02))
    by_pairs.legend(fontsize="x-small")
    by_bytes.set(xlabel="bytes", title=f"{ticks[-1]} pairs")
    figure.savefig(path, format="png")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the results of mqar.py lie")
    parser.add_argument("--plot", type=Path, help="PNG file for the curves")
    given = parser.parse_args(arguments)
    try:
        results = load(given.folder)
        if given.plot is not None:
            plot(results, given.plot)
    except ConfigError as error:
        print(f"mqar_table: {error}", file=sys.stderr)
        return 2
    print(table(results), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
