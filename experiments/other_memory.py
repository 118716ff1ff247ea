"""Does a memory help because it holds this book? python experiments/other_memory.py BOOK OTHER --out FILE

Two books are read side by side, each with its own memory, with the memory that the other reader has at the same place,
and with an empty one. What attention sees is the same all three times: the book's own window. A memory of the other
book brings whatever training has taught the memory's own weights about books in general, and nothing of this one: own
against other is what was remembered, other against empty is taste.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from transformers import PreTrainedModel

from infini_attention import InfiniState
from infini_attention.environment import environment
from infini_attention.errors import ConfigError, InfiniError
from infini_attention.evaluation.perplexity.texts import Text
from infini_attention.evaluation.stats import batch_means
from infini_attention.models import InfiniCache, load_model, load_tokenizer
from infini_attention.models.fingerprint import fingerprint
from infini_attention.models.scoring import score

MODES = ("own", "other", "empty")  # two rows each, one per book
BLOCKS = 30  # at least so many, where there are as many segments


@torch.inference_mode()
def token_losses(
    model: PreTrainedModel, token_ids: Tensor, on_segment: Callable[[int], None] = lambda done: None
) -> Tensor:
    """Losses `[3, 2, S * C]` (float64, in nats) of two texts under each of `MODES`; 0 for the first token of a text.

    Args:
        model: an Infini model with segments of C tokens.
        token_ids: `[2, S * C]` integers.
        on_segment: called after each with the tokens read so far of either text.
    """
    size, length = model.config.infini_settings.segment_size, token_ids.shape[1]
    losses = torch.zeros(len(MODES), 2, length, dtype=torch.float64)
    cache, base = InfiniCache(model.config.num_hidden_layers), model.base_model
    for start in range(0, length, size):
        ids = token_ids[:, start : start + size].repeat(len(MODES), 1)
        hidden = base(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state
        following = token_ids[:, start + 1 : start + size + 1]
        for row, of_row in enumerate(hidden):
            next_ids = following[row % 2]
            found = score(model, of_row[: len(next_ids)], next_ids)
            losses[row // 2, row % 2, start + 1 : start + 1 + len(found)] = found.double()
        done = start + size
        cache = InfiniCache.from_states([_exchange(state) for state in cache.states if state is not None], done)
        on_segment(done)
    return losses


def _exchange(state: InfiniState) -> InfiniState:
    """At the end of a segment: the memories of the first two rows as they are, then exchanged, then none."""

    def exchanged(memory: Tensor) -> Tensor:
        return torch.cat((memory[[0, 1, 1, 0]], torch.zeros_like(memory[4:])))

    committed, running = (pytree.tree_map(exchanged, memory) for memory in (state.committed, state.running))
    return replace(state, committed=committed, running=running)


def summarize(texts: Sequence[Text], losses: Tensor, segment_size: int) -> list[dict[str, Any]]:
    """For each book bits per byte in each mode, and the differences, each with its standard error of batch means."""
    run = max(1, losses.shape[-1] // segment_size // BLOCKS) * segment_size
    found = []
    for number, text in enumerate(texts):
        nbytes = text.nbytes[: losses.shape[-1]].double()
        nbytes[0] = 0
        sizes = _sums(nbytes, run)
        bits = {mode: _sums(losses[place, number], run) / math.log(2) for place, mode in enumerate(MODES)}
        bits |= {f"{one} - {two}": bits[one] - bits[two] for one, two in (("own", "other"), ("other", "empty"))}
        means = {name: batch_means(sums, sizes) for name, sums in bits.items()}
        figures = {name: {"bits_per_byte": mean, "se": error} for name, (mean, error) in means.items()}
        found.append({"file": Path(text.name).name, "digest": text.digest, "blocks": len(sizes), "memory": figures})
    return found


def _sums(column: Tensor, run: int) -> Tensor:
    return torch.stack([part.sum() for part in column.split(run)])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("books", nargs=2, type=Path, metavar="BOOK", help="two texts that the model was not trained on")
    parser.add_argument("-m", "--model", default="smollm2-135m", help="as of infini eval [default: %(default)s]")
    parser.add_argument("--adapter", help="its file [default: the one shipped for the model]")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the weights")
    parser.add_argument("--max-tokens", type=int, default=32768, help="of either book [default: %(default)s]")
    parser.add_argument("--out", type=Path, required=True, help="the result, a JSON file")
    options = parser.parse_args(arguments)
    try:
        result = _run(options)
    except InfiniError as error:
        print(f"other_memory.py: {error}", file=sys.stderr)
        return 2
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    for book in result["books"]:
        memory = (f"{name} {of['bits_per_byte']:.3f} ({of['se']:.3f})" for name, of in book["memory"].items())
        print(book["file"], *memory, sep="\n  ")
    return 0


def _run(options: argparse.Namespace) -> dict[str, Any]:
    model = load_model(options.model, options.adapter, dtype=getattr(torch, options.dtype)).eval()
    tokenizer, size = load_tokenizer(options.model), model.config.infini_settings.segment_size
    texts = [Text.from_file(book, tokenizer, max_tokens=options.max_tokens) for book in options.books]
    length = min(len(text.token_ids) for text in texts) // size * size
    if length < 2 * size:
        raise ConfigError(f"expected two books of at least {2 * size} tokens, two segments; got {length}")
    ids, began = torch.stack([text.token_ids[:length].long() for text in texts]), time.perf_counter()
    losses = token_losses(model, ids, lambda done: print(f"\r{done:,} of {length:,} tokens", end="", file=sys.stderr))
    print(file=sys.stderr)
    return {
        "task": "other_memory",
        "books": summarize(texts, losses, size),
        "tokens": length,
        "model": options.model,
        "adapter": options.adapter,
        "dtype": options.dtype,
        "segment_size": size,
        "fingerprint": fingerprint(model),
        "seconds": round(time.perf_counter() - began, 1),
        **environment(),
    }


if __name__ == "__main__":
    sys.exit(main())
