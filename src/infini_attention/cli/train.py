"""infini train: a run, from its recipe."""

import logging
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.logging import RichHandler

from infini_attention.cli import common
from infini_attention.errors import ConfigError

NAME = "train"


def run(
    recipe: Annotated[Path, typer.Argument(help="A TOML file; recipes/ has examples.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="The folder of the run.  [default: runs/NAME]", show_default=False)
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Replace an entry of the recipe, such as model.infini.rule=delta."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint; start if there is none.")
    ] = False,
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, help="Of torch.  [default: torch's own choice]", show_default=False),
    ] = None,
    as_json: common.AsJson = False,
) -> None:
    """Train a model as a recipe says.

    A run that was killed goes on with --resume, with the same samples and to the same weights.

    Runs under `torchrun --nproc_per_node 2 -m infini_attention.cli train RECIPE`, and under `accelerate launch`: each
    process reads samples of its own, and the gradients are averaged. Without GPUs, `accelerate launch` starts several
    processes with --multi_gpu, and only one with --cpu.
    """
    import torch

    try:
        from infini_attention.training.recipe import load_recipe
        from infini_attention.training.run import train
    except ImportError as error:
        raise ConfigError(f"{error}; training needs more: pip install 'infini-attention[train]'") from error

    loaded = load_recipe(recipe, changes or ())
    if threads is not None:
        torch.set_num_threads(threads)
    handler = RichHandler(console=common.console, show_path=False, markup=False)
    first = os.environ.get("RANK", "0") == "0"  # of several processes, only the first one tells how it goes
    logging.basicConfig(level=logging.INFO if first else logging.WARNING, format="%(message)s", handlers=[handler])
    result = train(loaded, Path("runs") / loaded.name if out is None else out, resume=resume)
    if result is None:
        return
    shown = {name: result[name] for name in ("steps", "seconds", "parameters", "threads", "model")}
    common.emit(result if as_json else shown | result["last"], as_json=as_json)
