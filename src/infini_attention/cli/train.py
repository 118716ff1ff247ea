"""infini train: a run, from its recipe."""

from pathlib import Path
from typing import Annotated

import typer

from infini_attention.cli.shared import common, training

NAME = "train"


def run(
    recipe: Annotated[Path, typer.Argument(help="A TOML file; recipes/ has examples.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="The folder of the run.  [default: runs/NAME]", show_default=False)
    ] = None,
    changes: training.Changes = None,
    resume: training.Resume = False,
    threads: training.Threads = None,
    as_json: common.AsJson = False,
) -> None:
    """Train a model as a recipe says.

    A run that was killed goes on with --resume, with the same samples and to the same weights.

    Runs under `torchrun --nproc_per_node 2 -m infini_attention.cli train RECIPE`, and under `accelerate launch`: each
    process reads samples of its own, and the gradients are averaged. Without GPUs, `accelerate launch` starts several
    processes with --multi_gpu, and only one with --cpu.
    """
    training.check_extra()
    from infini_attention.training.recipe import load_recipe

    loaded = load_recipe(recipe, changes or ())
    folder = Path("runs") / loaded.name if out is None else out
    training.run_recipe(loaded, folder, resume=resume, threads=threads, as_json=as_json)
