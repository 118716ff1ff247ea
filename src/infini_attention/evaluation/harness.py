"""The models of this package in lm-evaluation-harness, as streams: python -m infini_attention.evaluation.harness

That is the command line of lm-eval, with one more model, `infini`:

    python -m infini_attention.evaluation.harness run --model infini --model_args model=builtin --tasks wikitext
"""

import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from infini_attention.errors import ConfigError, InfiniError
from infini_attention.evaluation.perplexity.losses import plain_losses, token_losses
from infini_attention.evaluation.pieces import whole_segments
from infini_attention.evaluation.stream import Stream, is_infini_model, read_span, subject_of
from infini_attention.evaluation.writing import write
from infini_attention.models import load_model, load_tokenizer
from infini_attention.models.loading import load_base

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
except ImportError as error:
    raise ConfigError(
        f"{error}; the adapter for lm-eval needs more: pip install 'infini-attention[harness]'"
    ) from error

NAME = "infini"
SCORED_TOKENS = 256  # at a time; changes no result
DEFAULT_DEVICE = "cuda:0"  # of lm-eval
NEW_TOKENS = 256  # unless a task says otherwise, as in lm-eval's own models


@register_model(NAME)
class InfiniLM(TemplateLM):
    """A model that reads a text of any length as one stream, in the same bytes.

    Nothing is cut off, and there are no windows: `loglikelihood_rolling` carries the memory from the first token of a
    text to the last one. Requests with the same context read it once.

    Args:
        model: what `-m` takes.
        adapter, segment_size, rule: as in the options of the same names.
        dtype: of the weights, such as float32, or int8; None keeps what was saved.
        device: where to run. lm-eval asks for cuda:0 unless told otherwise: without one, it is the CPU, as for its own
            models.
        full_attention: evaluate the base model as it is, with its full key-value cache.
        memory: False, or `off`, is the control: before what is scored or written, the model reads the unfinished
            segment alone, and of a rolling text the segment and its overlap with the one before.
        unused: batch_size and max_batch_size, which lm-eval always gives. One request is read at a time.

    Raises:
        ConfigError: settings that do not go together, or are none.
        ModelError: a model that cannot be loaded.
    """

    def __init__(
        self,
        model: str,
        *,
        adapter: str | None = None,
        segment_size: int | None = None,
        rule: str | None = None,
        dtype: str | None = None,
        device: str | None = None,
        full_attention: bool = False,
        memory: bool | str = True,
        **unused: Any,
    ) -> None:
        super().__init__()
        unknown = sorted({*unused} - {"batch_size", "max_batch_size"})
        if unknown:
            raise ConfigError(f"model_args has no {', '.join(unknown)}; see help(InfiniLM)")
        self.memory = _switch(memory)
        given: dict[str, Any] = {"segment_size": segment_size, "rule": rule}
        settings = {name: value for name, value in given.items() if value is not None}
        if full_attention and (settings or adapter or not self.memory):
            raise ConfigError("full_attention converts nothing and has no memory; leave out the other settings of it")
        where: dict[str, Any] = {"dtype": _dtype(dtype), "device": _device(device)}
        self.model = load_base(model, **where) if full_attention else load_model(model, adapter, **where, **settings)
        self.tokenizer = load_tokenizer(model)
        self.subject = subject_of(self.model)
        self.source = model
        self._device = self.model.device
        empty = self.tokenizer("", add_special_tokens=True)["input_ids"]
        self._start = [self.tokenizer.bos_token_id] if self.tokenizer.bos_token_id in empty else []

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text; a newline for a tokenizer that has none."""
        end = self.tokenizer.eos_token_id
        return int(self.tokenizer("\n", add_special_tokens=False)["input_ids"][-1] if end is None else end)

    @property
    def prefix_token_id(self) -> int:
        """What a text begins with whose first token is to be foretold."""
        start = self.tokenizer.bos_token_id
        return self.eot_token_id if start is None else int(start)

    @property
    def tokenizer_name(self) -> str:
        return self.source.replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **unused: Any) -> list[int]:
        """Its tokens, behind the start token of the tokenizer, if it has one and the text has not."""
        ids = list(self.tokenizer(string, add_special_tokens=False)["input_ids"])
        return ids if add_special_tokens is False or ids[:1] == self._start else self._start + ids

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **unused: Any
    ) -> list[tuple[float, bool]]:
        answers, context, trunk = [], None, self.subject.open_stream()
        for asked, before, ids in requests:
            if before != context:
                context, trunk = before, self._read(before[:-1])
            answers.append(_score(trunk.fork(), before[-1:] + ids))
            if asked is not None:
                self.cache_hook.add_partial("loglikelihood", asked, answers[-1])
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of whole texts, each read as one stream from its first token to its last one."""
        sums = []
        for request in requests:
            [text] = request.args
            ids = torch.tensor([self.prefix_token_id, *self.tok_encode(text, add_special_tokens=False)])
            sums.append(-float(self._losses(ids).sum()))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), sums[-1])
        return sums

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """What the model writes, greedily, up to the first of the strings that end it."""
        texts = []
        for request in requests:
            context, options = request.args
            texts.append(self._generate(context, dict(options)))
            self.cache_hook.add_partial("generate_until", request.args, texts[-1])
        return texts

    def _generate(self, context: str, options: dict[str, Any]) -> str:
        if options.get("do_sample") and options.get("temperature", 1.0) > 0:
            raise ConfigError("the model `infini` writes greedily; leave do_sample and temperature out of the task")
        until = options.get("until") or []
        stops = [stop for stop in ([until] if isinstance(until, str) else until) if stop]
        count = int(options.get("max_gen_toks", options.get("max_new_tokens", NEW_TOKENS)))
        ids = self.tok_encode(context) or [self.prefix_token_id]
        stream = self._read(ids[:-1])

        def text(tokens: list[int]) -> str:
            return str(self.tokenizer.decode(tokens, skip_special_tokens=True))

        [written] = write(
            stream,
            stream.read(torch.tensor([ids[-1:]])),
            count,
            ends=(self.tokenizer.eos_token_id,),
            enough=lambda row, tokens: any(stop in text(tokens) for stop in stops),
        )
        said = text(written)
        return said[: min((said.find(stop) for stop in stops if stop in said), default=len(said))]

    def _read(self, ids: list[int]) -> Stream:
        """A stream that has read so much; without a memory, only what stands in the unfinished segment."""
        if not self.memory:
            ids = ids[len(ids) // self.subject.unit * self.subject.unit :]
        stream = self.subject.open_stream()
        piece_size = whole_segments(self.subject.piece_tokens, self.subject.unit)
        read_span(stream, torch.tensor([ids], dtype=torch.int64), 0, len(ids), piece_size)
        return stream

    def _losses(self, ids: Tensor) -> Tensor:
        if not is_infini_model(self.model):
            return plain_losses(self.subject.open_stream(), ids)
        return token_losses(self.model, ids, memory=self.memory)


def _score(stream: Stream, ids: list[int]) -> tuple[float, bool]:
    """The log-likelihood of all `ids` but the first, and whether each is the likeliest token."""
    total, greedy = 0.0, True
    for start in range(0, len(ids) - 1, SCORED_TOKENS):
        piece = torch.tensor(ids[start : start + SCORED_TOKENS + 1])
        logits = stream.logits(piece[None, :-1])[0].cpu()
        total += float(logits.log_softmax(-1).gather(1, piece[1:, None]).double().sum())
        greedy = greedy and torch.equal(logits.argmax(-1), piece[1:])
    return total, greedy


def _switch(value: bool | str) -> bool:
    if value in (True, "on"):
        return True
    if value in (False, "off"):
        return False
    raise ConfigError(f"memory must be on or off; got {value!r}")


def _device(name: str | None) -> str:
    if name is None or (name == DEFAULT_DEVICE and not torch.cuda.is_available()):
        return "cpu"
    return name


def _dtype(name: str | None) -> torch.dtype | None:
    dtype = None if name is None else getattr(torch, name, None)
    known = isinstance(dtype, torch.dtype) and (dtype.is_floating_point or dtype == torch.int8)
    if name is not None and not known:
        raise ConfigError(f"dtype must be int8 or one of torch's floating-point ones, such as float32; got {name!r}")
    return dtype


@contextmanager
def _tokenizer_for_tasks(args: Namespace) -> Iterator[None]:
    """Tasks that make texts of a given length, such as RULER's, are told a folder with the model's tokenizer.

    They load what `metadata` names, and know nothing of `builtin`, pulled models and GGUF files, so that what they are
    told is a copy of its own, which is gone when they are done. A tokenizer that the user names stays.
    """
    metadata, source = getattr(args, "metadata", None) or {}, (getattr(args, "model_args", None) or {}).get("model")
    if getattr(args, "model", None) != NAME or not source or "tokenizer" in metadata:
        yield
        return
    with TemporaryDirectory(prefix="infini-tokenizer-") as folder:
        tokenizer = load_tokenizer(str(source))
        tokenizer.init_kwargs.pop("auto_map", None)  # names code, which these tasks would run, and we never do
        tokenizer.save_pretrained(folder)
        args.metadata = metadata | {"tokenizer": folder}
        yield


def main() -> None:
    """lm-eval's command line. A mistake that is ours to name is one line on stderr and exit code 2."""
    import lm_eval.models  # noqa: F401 (its own models, which it does not register once there is one)
    from lm_eval.__main__ import HarnessCLI, setup_logging

    setup_logging()
    cli = HarnessCLI()
    args = cli.parse_args()
    try:
        with _tokenizer_for_tasks(args):
            cli.execute(args)
    except InfiniError as error:
        print(f"infini: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
