"""Options of every command that lets a model write."""

from typing import Annotated, Any

import typer

from infini_attention.errors import ConfigError


def _above_zero(top_p: float) -> float:
    if top_p == 0:
        raise ConfigError("--top-p must be above 0 and at most 1; got 0")
    return top_p


MaxNewTokens = Annotated[int, typer.Option("--max-new-tokens", "-n", min=1, help="At most so many.")]
Temperature = Annotated[float, typer.Option("--temperature", min=0, help="0 always takes the likeliest token.")]
TopP = Annotated[
    float, typer.Option("--top-p", min=0, max=1, callback=_above_zero, help="Sample from the likeliest share.")
]
Seed = Annotated[int | None, typer.Option("--seed", help="For sampling.")]


def sampling(temperature: float, top_p: float, seed: int | None) -> dict[str, Any]:
    """Options of `Session.generate`; a seed is set here and now."""
    import torch

    if seed is not None:
        torch.manual_seed(seed)
    if temperature > 0:
        return {"do_sample": True, "temperature": temperature, "top_p": top_p}
    return {"do_sample": False}
