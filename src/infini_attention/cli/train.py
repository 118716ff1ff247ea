"""infini train: a run, from its recipe."""

import logging
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

    Runs under `torchrun` and `accelerate launch` as it is. A run that was killed goes on with --resume, with the same
    samples and to the same weights.
    """
    import torch

    try:
        from infini_attention.training.recipe import load_recipe
        from infini_attention.training.run import train
    except ImportError as error:
        raise ConfigError(f"{error}; training needs more: pip install 'infini-attention[train]'") from error

    loaded = load_recipe(recipe)
    if threads is not None:
        torch.set_num_threads(threads)
    handler = RichHandler(console=common.console, show_path=False, markup=False)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
    result = train(loaded, Path("runs") / loaded.name if out is None else out, resume=resume)
    shown = {name: result[name] for name in ("steps", "seconds", "parameters", "threads", "model")}
    common.emit(result if as_json else shown | result["last"], as_json=as_json)
