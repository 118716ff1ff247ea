"""infini eval retention: the curve of forgetting."""

from typing import Annotated

import typer

from infini_attention.cli.eval.options import (
    Haystack,
    HaystackFile,
    HaystackName,
    Memory,
    Needle,
    Out,
    Samples,
    Seed,
    Switch,
)
from infini_attention.cli.eval.request import FullAttention, Request, note_length, with_interval
from infini_attention.cli.shared import common
from infini_attention.cli.shared.progress import SampleProgress

NAME = "retention"


def run(
    model: common.Model = "",
    keys: Annotated[
        int, typer.Option("--keys", min=1, help="Written at the start; one alone is that of eval passkey.")
    ] = 8,
    up_to: Annotated[
        int, typer.Option("--up-to", min=1, help="Ask after 1, 2, 4, ... segments, and for the last time after these.")
    ] = 64,
    samples: Samples = 20,
    seed: Seed = 0,
    haystack: Haystack = HaystackName.repeat,
    haystack_file: HaystackFile = None,
    memory: Memory = Switch.on,
    needle: Needle = True,
    out: Out = None,
    segment_size: common.SegmentSize = None,
    rule: common.Rule = None,
    adapter: common.Adapter = None,
    dtype: common.DType = None,
    device: common.Device = "cpu",
    full_attention: FullAttention = False,
    as_json: common.AsJson = False,
) -> None:
    """Write keys, stream text on, and ask for them after 1, 2, 4, ... segments.

    Each sample is one stream, read once; every question is put to a fork of it, so that none reminds it of a key. All
    questions stand at least one whole segment behind the keys: no answer is in the window. A model without segments is
    asked at the distances of segments of 1024 tokens.
    """
    options = common.ModelOptions(model, segment_size, rule, dtype, device, full_attention, adapter)
    request = Request(options, haystack.value, tuple(haystack_file or ()), out)
    request.check(memory=memory is Switch.on)

    from infini_attention.evaluation.report.recall_pictures import save_forgetting
    from infini_attention.evaluation.stream import subject_of
    from infini_attention.evaluation.tasks.retention import (
        RetentionTask,
        most_tokens,
        run_retention,
        summarize_retention,
    )

    distances = tuple(sorted({*(1 << power for power in range(up_to.bit_length())), up_to}))
    twin, tokenizer = request.open_model()
    filler, with_memory = request.open_haystack(tokenizer), memory is Switch.on
    task = RetentionTask(tokenizer, filler, distances, keys, samples, seed, with_memory, needle)
    subject, journal = subject_of(twin), request.journal(NAME)
    note_length(twin, most_tokens(task, subject))
    with SampleProgress(NAME) as progress:
        records = run_retention(task, subject, journal, on_sample=progress.show)
    figures = summarize_retention(records)
    settings = {"keys": keys, "segments": list(distances), "needle": needle, "seed": seed}
    result = request.finish(
        NAME,
        subject,
        {"lengths": [cell["length"] for cell in figures["cells"]], **settings, **figures},
        draw=lambda path, title: save_forgetting(figures["curve"], path, title),
        picture="picture",
    )
    lines = (f"after {place['segments']:>6,} segments: {with_interval(place)}" for place in result["curve"])
    request.emit(result, as_json=as_json, lines=lines)
