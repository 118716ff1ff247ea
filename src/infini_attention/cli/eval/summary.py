"""infini eval summary: whole books into summaries, against references."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infini_attention.cli.eval.options import Memory, Out, Seed, Switch
from infini_attention.cli.eval.request import FullAttention, Request, note_length
from infini_attention.cli.shared import common
from infini_attention.cli.shared.counts import parse_tokens
from infini_attention.cli.shared.progress import SampleProgress
from infini_attention.cli.shared.sampling import MaxNewTokens
from infini_attention.errors import ConfigError

if TYPE_CHECKING:
    from infini_attention.data.pairs import Pair

NAME = "summary"
SECTION_TOKENS = 1024


def run(
    model: common.Model = "",
    file: Annotated[
        Path | None, typer.Option("--file", help="JSON lines, each with a document and its reference.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="In place of a file, such as kmfoda/booksum from the hub.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Of the data set.")] = "test",
    document_column: Annotated[str, typer.Option("--document-column", help="What the text is called.")] = "document",
    reference_column: Annotated[
        str, typer.Option("--reference-column", help="What its summary is called.")
    ] = "reference",
    samples: Annotated[
        int | None, typer.Option("--samples", min=1, help="Only so many, the first ones.  [default: all]")
    ] = None,
    section: Annotated[
        str | None,
        typer.Option("--section", help="A note is written for each so many tokens.  [default: segments, 1024 or more]"),
    ] = None,
    max_new_tokens: MaxNewTokens = 128,
    seed: Seed = 0,
    memory: Memory = Switch.on,
    out: Out = None,
    segment_size: common.SegmentSize = None,
    rule: common.Rule = None,
    adapter: common.Adapter = None,
    dtype: common.DType = None,
    device: common.Device = "cpu",
    full_attention: FullAttention = False,
    as_json: common.AsJson = False,
) -> None:
    """Summarize whole books in bounded bytes, and compare with references.

    A text is read as one stream. Behind each section a fork of it is asked for a note; the notes are read as a text of
    their own, and so on until a single note is left: the summary. Scored with ROUGE-1, 2 and L (F-measure, stemmed) and
    their geometric mean, which is the accuracy, beside the first 1024 tokens (lead) and random sentences of as many
    tokens as a summary may have. --memory off writes each note from the window alone.
    """
    if (file is None) == (dataset is None):
        raise ConfigError("documents come from --file or from --dataset: give one of them")
    options = common.ModelOptions(model, segment_size, rule, dtype, device, full_attention, adapter)
    request = Request(options, "", (), out)
    request.check(memory=memory is Switch.on)

    from infini_attention.data.pairs import Columns, dataset_pairs, file_pairs
    from infini_attention.evaluation.stream import subject_of
    from infini_attention.evaluation.tasks.rouge import rouge_scorer
    from infini_attention.evaluation.tasks.summaries import run_summaries, summarize_summaries
    from infini_attention.evaluation.tasks.summarizing import Summarizer

    rouge_scorer()
    columns, name = Columns(document_column, reference_column), str(file or dataset)
    pairs: list[Pair] = (
        dataset_pairs(name, split, columns, samples) if file is None else file_pairs(file, columns, samples)
    )
    twin, tokenizer = request.open_model()
    subject, journal = subject_of(twin), request.journal(NAME)
    size = -(-SECTION_TOKENS // subject.unit) * subject.unit if section is None else parse_tokens("--section", section)
    summarizer = Summarizer(subject, tokenizer, size, max_new_tokens, memory is Switch.on)
    with SampleProgress(NAME) as progress:
        records = run_summaries(pairs, summarizer, journal, seed=seed, on_sample=progress.show)
    figures = summarize_summaries(records, summarizer)
    lengths = [record["length"] for record in records]
    note_length(twin, max(lengths))
    settings = {"documents": name, "section_tokens": size, "max_new_tokens": max_new_tokens, "seed": seed}
    result = request.finish(NAME, subject, {"lengths": lengths, **settings, **figures}, draw=None)
    request.emit(result, as_json=as_json, lines=_table(result))


def _table(result: dict[str, Any]) -> Iterator[str]:
    """A line per method, and a column per kind of ROUGE; the summary itself where there is only one."""
    kinds = list(result["rouge"]["model"])
    yield f"\n{'':<16}" + "".join(f"{kind.replace('_', ' '):>16}" for kind in kinds)
    for method, scores in result["rouge"].items():
        yield f"{method:<16}" + "".join(f"{scores[kind]:>16.4f}" for kind in kinds)
    if len(result["cells"]) == 1:
        yield f"\n{result['cells'][0]['summary']}"
