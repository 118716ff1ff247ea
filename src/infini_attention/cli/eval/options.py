"""Options that the subcommands of `infini eval` share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class HaystackName(StrEnum):
    """What needles are hidden in."""

    repeat = "repeat"
    book = "book"


class Switch(StrEnum):
    """On or off."""

    on = "on"
    off = "off"


Lengths = Annotated[str, typer.Option("--lengths", help="In tokens, such as 4096 or 4K,128K,1M (K = 1024, M = 1024K).")]
Samples = Annotated[int, typer.Option("--samples", min=1, help="Per cell.")]
Seed = Annotated[int, typer.Option("--seed", help="Of keys and filler; training never uses the same ones.")]
Haystack = Annotated[
    HaystackName, typer.Option("--haystack", help="The paper's five sentences again and again, or a book.")
]
HaystackFile = Annotated[
    list[Path] | None,
    typer.Option("--haystack-file", help="A text for --haystack book; may be given several times.  [default: a novel]"),
]
Needle = Annotated[bool, typer.Option("--needle/--no-needle", help="Without it, the key cannot be known: a control.")]
Memory = Annotated[Switch, typer.Option("--memory", help="off empties the memory before each question: a control.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", help="A folder for results and heat map; cells that it has already are not run again."),
]
