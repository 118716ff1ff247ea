"""infini generate: goes on from a prompt, or from a session and a prompt."""

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from infini_attention.cli import common
from infini_attention.errors import ConfigError

NAME = "generate"


def run(
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="Text to go on from; - reads it from stdin.")],
    model: common.Model = "",
    session: Annotated[
        Path | None, typer.Option("--from", help="Go on from a session file, which stays as it is.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", "-n", min=1, help="At most so many.")] = 128,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0, help="0 always takes the likeliest token.")
    ] = 0.0,
    top_p: Annotated[float, typer.Option("--top-p", min=0, max=1, help="Sample from the likeliest share.")] = 1.0,
    seed: Annotated[int | None, typer.Option("--seed", help="For sampling.")] = None,
    segment_size: common.SegmentSize = None,
    rule: common.Rule = None,
    dtype: common.DType = None,
    device: common.Device = "cpu",
    as_json: common.AsJson = False,
) -> None:
    """Write on from a prompt, or from a session.

    With --from, as one who has read all that the session has read.
    """
    if top_p == 0:
        raise ConfigError("--top-p must be above 0 and at most 1; got 0")
    text = sys.stdin.read() if prompt == "-" else prompt
    stream = common.open_session(common.ModelOptions(model, segment_size, rule, dtype, device), session)

    import torch
    from transformers import TextStreamer

    if seed is not None:
        torch.manual_seed(seed)
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p}
    streamer = None if as_json else TextStreamer(stream.tokenizer, skip_prompt=True, skip_special_tokens=True)
    before, start = stream.stats.tokens_read, time.perf_counter()
    written = stream.generate(text, max_new_tokens=max_new_tokens, streamer=streamer, **sampling)
    if as_json:
        result = {
            "text": written,
            "tokens_before": before,
            "tokens_read": stream.stats.tokens_read,
            "seconds": time.perf_counter() - start,
            "state_bytes": stream.state_bytes,
        }
        common.emit(result, as_json=True)
