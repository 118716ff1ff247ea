"""What the memory of a model or of a session holds, and what it does while it reads on."""

from collections.abc import Callable, Generator
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from infini_attention.data.haystack import Haystack
from infini_attention.errors import ConfigError
from infini_attention.evaluation.journal import Record
from infini_attention.evaluation.stream import ModelStream
from infini_attention.evaluation.tasks.planted import plant_and_ask
from infini_attention.models import InfiniCache
from infini_attention.monitor import Collector, retention, six_metrics, stream_figures
from infini_attention.monitor.file import Recording, about_model
from infini_attention.monitor.states import HELD
from infini_attention.monitor.summary import current_layers

TASK = "inspect"
LEAST_TOKENS, LEAST_SEGMENTS = 4096, 8
MARKS = 16


@dataclass(frozen=True)
class Reading:
    """What is read to see a memory at work.

    Attributes:
        haystack: the text, in which keys are planted.
        tokens: how many; 0 reads nothing.
        seed: of the keys and of the place in the text.
    """

    haystack: Haystack
    tokens: int
    seed: int = 0


def default_tokens(segment_size: int) -> int:
    """How many tokens are read unless asked otherwise."""
    return max(LEAST_TOKENS, LEAST_SEGMENTS * segment_size)


def inspect(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    reading: Reading | None,
    *,
    name: str,
    cache: InfiniCache | None = None,
    on_piece: Callable[[int], None] = lambda done: None,
) -> Record:
    """Looks at a stream as it is, and at a fork of it that reads on.

    Args:
        model: an Infini model.
        tokenizer: its tokenizer.
        reading: what the fork reads; None reads nothing.
        name: what the model is called.
        cache: of a session, which stays as it is; None is a stream that has read nothing.
        on_piece: called with the tokens read so far.

    Returns:
        what `summarize` says, and what was read.

    Raises:
        ConfigError: a model without a memory, or nothing to look at.
    """
    steps = inspecting(model, tokenizer, reading, name=name, cache=cache)
    while True:
        try:
            on_piece(next(steps))
        except StopIteration as done:
            result: Record = done.value
            return result


def inspecting(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    reading: Reading | None,
    *,
    name: str,
    cache: InfiniCache | None = None,
) -> Generator[int, None, Record]:
    """`inspect` step by step: yields after each piece, when the model may be used for something else."""
    about = about_model(model, name)
    states = () if cache is None else tuple(state for state in cache.states if state is not None)
    held, collector = stream_figures(states) if states else None, Collector(model, every=_every(reading))
    recall = None
    if reading is not None:
        stream = ModelStream(model, None if cache is None else cache.fork())
        with collector:
            recall = yield from plant_and_ask(
                stream,
                tokenizer,
                reading.haystack,
                tokens=reading.tokens,
                segment_size=about["segment_size"],
                overlap=model.config.infini_settings.overlap,
                start=held["tokens"] if held else 0,
                seed=reading.seed,
                aside=collector.paused,
            )
    result = summarize(Recording(about, collector.marks, collector.probes), held=held, recall=recall)
    text = None if reading is None else {"name": reading.haystack.name, "digest": reading.haystack.digest}
    return result | {"haystack": text, "seed": None if reading is None else reading.seed}


def summarize(recording: Recording, *, held: Record | None = None, recall: Record | None = None) -> Record:
    """The figures of `inspect` for a stream that was watched.

    Args:
        recording: its marks, which may be none where there is `held`.
        held: `stream_figures` of a session as it was before it read on.
        recall: of `plant_and_ask`.

    Returns:
        about the model, metrics (of `six_metrics`), layers (of `current_layers`), retention, recall, marks.

    Raises:
        ConfigError: no mark and no session.
    """
    marks = ([held] if held else []) + recording.marks
    if not marks:
        raise ConfigError("a model that has read nothing has an empty memory: give --tokens, or name a session")
    layers = current_layers(marks)
    if held:  # the session as it is, not as the fork left it
        kept = ({name: layer[name] for name in HELD} for layer in held["layers"])
        layers = [seen | each for seen, each in zip(layers, kept, strict=True)]
    per_token = recording.about["full_kv_bytes_per_token"]
    return {
        "task": TASK,
        **recording.about,
        "metrics": six_metrics(
            recording.marks, recording.probes, full_kv_bytes_per_token=per_token, recall=recall, now=held
        ),
        "layers": layers,
        "retention": retention(recording.probes),
        "recall": recall,
        "marks": recording.marks,
    }


def _every(reading: Reading | None) -> int:
    return max(1, reading.tokens // MARKS) if reading else 1
