"""infini generate: goes on from a prompt, or from a session and a prompt."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from infini_attention.cli.shared import common
from infini_attention.cli.shared.sampling import MaxNewTokens, Seed, Temperature, TopP, sampling

NAME = "generate"


def run(
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="Text to go on from; - reads it from stdin.")],
    model: common.Model = "",
    session: Annotated[
        Path | None, typer.Option("--from", help="Go on from a session file, which stays as it is.")
    ] = None,
    max_new_tokens: MaxNewTokens = 128,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = None,
    segment_size: common.SegmentSize = None,
    rule: common.Rule = None,
    adapter: common.Adapter = None,
    dtype: common.DType = None,
    device: common.Device = "cpu",
    as_json: common.AsJson = False,
) -> None:
    """Write on from a prompt, or from a session.

    With --from, as one who has read all that the session has read.
    """
    text = sys.stdin.read() if prompt == "-" else prompt
    options = common.ModelOptions(model, segment_size, rule, dtype, device, adapter=adapter)
    stream = common.open_session(options, session)

    from transformers import TextStreamer

    chances = sampling(temperature, top_p, seed)
    streamer = None if as_json else TextStreamer(stream.tokenizer, skip_prompt=True, skip_special_tokens=True)
    before, start = stream.stats.tokens_read, time.perf_counter()
    written = stream.generate(text, max_new_tokens=max_new_tokens, streamer=streamer, **chances)
    if as_json:
        result = {
            "text": written,
            "tokens_before": before,
            "tokens_read": stream.stats.tokens_read,
            "seconds": time.perf_counter() - start,
            "state_bytes": stream.state_bytes,
        }
        common.emit(result, as_json=True)
