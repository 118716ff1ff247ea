"""Writes docs/families.md: the families that can be converted, and what their tests switch on and check.

Run by `make docs`; a test compares the file with what it would write.
"""

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

PAGE = Path(__file__).with_suffix(".md")
TESTS = Path(__file__).parents[1] / "tests"

# What a setting of a tiny model switches on, in words.
WORDS = {
    "sliding_window": "sliding window",
    "attn_logit_softcapping": "softcap of the scores",
    "partial_rotary_factor": "partial rotation",
    "num_experts": "experts",
    "num_local_experts": "experts",
    "n_routed_experts": "experts",
    "attention_bias": "biases",
    "qk_layernorm": "q/k norms",
    "use_qk_norm": "q/k norms",
    "clip_qkv": "clipped q, k and v",
    "attention_multiplier": "scale of its own",
    "query_pre_attn_scalar": "scale of its own",
    "scale_attn_by_inverse_layer_idx": "scale by layer",
    "final_logit_softcapping": "capped logits",
    "logits_scaling": "scaled logits",
}

HEAD = """# Families

Written by `make docs` from the table in [`models/families.py`](../src/infini_attention/models/families.py) and from
the tests.

A family is a few lines in that table; its own forward computes q, k and v, so that fused projections, biases, q/k
norms, the scale of the scores, softcaps, sliding windows and scaled or partial rotations need no code here. The twin of
`mistral` has the model type `infini_mistral`, and `AutoModelForCausalLM` loads it once `infini_attention.models` is
imported. Whoever saves or pushes a twin needs no code beside it; where this package is not imported, Transformers says
that it does not know the model type, and never takes the twin for its base. GGUF files are read for the families whose
files Transformers can read; for others the error names the architecture.

Each family is tested with tiny random models: two layers, weights so sharp that a wrong rotation or mask shows, and
everything switched on that the last column names.
"""

USE = """
## In use

`generate()` works as with any model: greedy, sampled and beam search, several sequences for each prompt, batches of
prompts padded on the left, streamers, stopping criteria, prefill in chunks, a start from `inputs_embeds`. The cache
that it returns is what the model has read, and goes on with the next turn. A forward pass takes and returns it too:

```python
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM
from infini_attention import convert

torch.manual_seed(0)
sizes = {"vocab_size": 100, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "head_dim": 16}
base = Qwen3ForCausalLM(Qwen3Config(**sizes, num_attention_heads=4, num_key_value_heads=2))
model = convert(base, segment_size=32)

cache, text = None, torch.randint(3, 100, (2, 500))
for piece in text.split(128, dim=1):  # back-propagation through time, truncated: within each piece
    out = model(piece, labels=piece, past_key_values=cache, use_cache=True)
    out.loss.backward()
    cache = out.past_key_values.detach()
print(cache.tokens_seen.tolist(), "tokens read")
# prints: [500, 500] tokens read

prompts = torch.tensor([[0, 0, 11, 12], [21, 22, 23, 24]])
options = {"max_new_tokens": 8, "pad_token_id": 0}
mask = (prompts > 0).long()
first = model.eval().generate(prompts, attention_mask=mask, return_dict_in_generate=True, **options)
turn = torch.cat((first.sequences[:, -1:], prompts[:, 2:]), dim=1)  # what the cache has not read yet
mask = torch.nn.functional.pad(mask, (0, 8 + 2), value=1)  # of all
again = model.generate(turn, attention_mask=mask, past_key_values=first.past_key_values, num_beams=4, **options)
print(list(again.shape), first.past_key_values.tokens_seen.tolist(), "tokens in the cache")
# prints: [2, 11] [9, 11] tokens in the cache
```

What the cache has read need not be given again, only a mask of all; and whoever has the whole text may give that.
Beams and several sequences go on from copies of a cache, which may be asked again. Beam search itself returns the
cache of all its beams, which have read other tokens than the sequences that it returns: that one is refused.

## Training with Transformers

`Trainer` trains a twin as it is. Activation checkpointing, gradient accumulation and bfloat16 autocast learn what a
plain run learns; a run that goes on from a checkpoint ends with the same weights to the last bit; and under `accelerate
launch`, two gloo processes see the losses of one, with DDP and with FSDP (version 2). All of it is tested; on CPUs
alone accelerate leaves models whole, and the test makes it shard. Under FSDP all parameters that are trained must have
one dtype, and a memory's is float32: load the base in float32 and set `bf16=True`, or train the memory alone.

For a LoRA beside the memory, give PEFT's `LoraConfig` `modules_to_save=["infini"]`: both are trained, saved and loaded
again. Gates want a rate of their own, about ten times that of the rest, and no weight decay. `infini train` and
`infini adapt` ([cli.md](cli.md)) see to that, with tasks that teach a memory to recall, and with whole models in each
process.
"""

POSITIONS = """
## Positions

Positions restart in each segment, and the memory sees none. These rotations are tested, each in one family:

{rotations}

With a dynamic rotation or longrope the base turns by other frequencies once a text is longer than a limit, so a segment
must not be longer than that. GPT-2's positions are learned and part of what its layers read: they restart in each
segment too, a segment must not be longer than their table, and its memory is not free of positions.

A layer with a sliding window attends in the window inside the segment, which does not reach across the segment's
border; what is outside it reads from its memory, if it has one.

## Precision

Memory, gates and all parameters of the memory are float32, whatever dtype the model is loaded in, and autocast does not
lower them. The relative RMS error of a twin's logits is below what the table says: in the first segment, beside its
base in the same dtype; for half of the tokens of a longer stream, beside the same weights in float32. In half
precision this is tested without experts, for rounding may call others.

| float32 | bfloat16 | float16 |
|---|---|---|
| {float32:.0e} | {bfloat16:.0e} | {float16:.0e} |

`load_model(..., dtype=torch.int8)`, `--dtype int8` on the command line, is for writing on the CPU, where the time of a
token is that of reading the weights. Linear layers and the head have int8 weights, a scale for each row of them, and
inputs and outputs rounded to bfloat16; embedding, norms, memory and state are float32 as ever. It is torch's own kernel
(`torch._weight_int8pack_mm`) and needs no package and no compiler. Such a model cannot be trained or saved, its
sessions are its own, and experts are refused. `infini eval perplexity --dtype int8` says what the rounding costs.

`torch.compile` works on a twin, in several graphs: attention and memory run between them as they are, for how full a
row's segment is decides which code runs.

## Refused, and why
"""

REFUSED = (
    (
        "assisted decoding, with a twin as the model or as the assistant, and prompt lookup",
        "they take tokens back, which a memory cannot do",
    ),
    (
        "`DynamicCache`, static, quantised and offloaded caches",
        "they keep every key and value and cannot carry a memory; a twin makes its own cache, whose size does not grow",
    ),
    ("continuous batching of Transformers", "it pages keys and values"),
    ("`output_attentions`", "what is read from a memory has no attention weights"),
    ('`attn_implementation="eager"` and others', "attention inside segments is `sdpa`, or `config.infini['backend']`"),
    ("several documents in one row, 4-D masks", "one would read the memory of another: give each a row of its own"),
    (
        "dropout in attention, in training",
        "a memory has none; `convert` sets it to 0 (GPT-2 and Seed-OSS have some unless told otherwise)",
    ),
    ("other layers than full and sliding attention", "they have no twin"),
    ("attention in both directions, cross-attention", "a memory is written in the order of the text"),
    ("segments longer than the positions allow", "see above"),
    (
        "a LoRA on GPT-2 in an adapter",
        'its layers are transposed; PEFT\'s own files can hold it, with `modules_to_save=["infini"]`',
    ),
)

TAIL = """
Not in the table are families with interleaved rotations (GLM-4, Cohere, ERNIE 4.5, Helium), attention sinks (GPT-OSS),
latent attention (DeepSeek) or norms after the rotation (Hunyuan), and those whose layers pass nothing on to their
attention (StableLM, Nemotron).
"""


def page() -> str:
    """The whole page."""
    if str(TESTS) not in sys.path:
        sys.path.insert(0, str(TESTS))
    from infini_attention.models.families import FAMILIES
    from models.test_positions import ROTATIONS
    from models.tiny_families import BESIDE_BASE, REQUIRED

    others = [name for name in FAMILIES if name not in REQUIRED]
    rotations = "\n".join(f"- {kind} ({family})" for kind, (family, *_) in ROTATIONS.items() if " in " not in kind)
    precision = {str(dtype).removeprefix("torch."): tolerance for dtype, tolerance in BESIDE_BASE.items()}
    checks = (f"- {name}" for file in ("test_families", "test_family_generate") for name in checked(file))
    parts = (
        HEAD,
        *rows(REQUIRED),
        "\nThe same mechanism gives these for nothing; their tests are marked slow:\n",
        *rows(others),
        "\n## What is checked for each\n",
        *checks,
        USE,
        POSITIONS.format(rotations=rotations, **precision),
        "| | |\n|---|---|",
        *(f"| {what} | {why} |" for what, why in REFUSED),
        TAIL,
    )
    return "\n".join(parts)


def rows(names: Iterable[str]) -> Iterator[str]:
    """A table of families."""
    from infini_attention.models.families import FAMILIES
    from models.tiny_families import SPECIAL, shared

    yield "| model type | such as | tested with |"
    yield "|---|---|---|"
    for name in names:
        family, attentions = FAMILIES[name], FAMILIES[name].get("Attention")
        settings = SPECIAL[name] | dict(SPECIAL[name].get("rope_parameters") or {})
        words = [word for setting, word in WORDS.items() if setting in settings]
        if not all(family.rotates(module) for module in shared(name).modules() if isinstance(module, attentions)):
            words.append("a layer without a rotation")
        if family.rotation_by_layer_type:
            words.append("rotations by layer type")
        if family.learned_positions:
            words.append("learned positions")
        yield f"| `{name}` | {family.known_as} | {', '.join(dict.fromkeys(words)) or 'its defaults'} |"


def checked(file: str) -> Iterator[str]:
    """What the tests that run for every family are called."""
    for node in ast.parse((TESTS / "models" / f"{file}.py").read_text()).body:
        marks = (mark.id for mark in getattr(node, "decorator_list", ()) if isinstance(mark, ast.Name))
        if "every_family" in marks:
            yield node.name.removeprefix("test_").replace("_", " ")


if __name__ == "__main__":
    PAGE.write_text(page())
