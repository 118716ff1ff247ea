"""A tokenizer and a model small enough to be made in a test, and a book to read with them."""

import random
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from infini_attention.models import InfiniLlamaForCausalLM, convert
from infini_attention.models.loading import quiet_transformers
from infini_attention.sessions import Session

SEGMENT, VOCABULARY = 16, 257
BOOK = Path(__file__).parents[1] / "examples" / "books" / "northanger-abbey.txt"


def byte_tokenizer(bos: str | None = None) -> PreTrainedTokenizerFast:
    """One token per byte, and one more, which is the start token if `bos` names it."""
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(symbols)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([bos or "<end>"])
    if bos:
        backend.post_processor = start_token(bos, backend.token_to_id(bos))
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, eos_token=bos or "<end>")


def start_token(bos: str, index: int) -> processors.TemplateProcessing:
    """What puts `bos` before a text."""
    return processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, index)])


def byte_level(regex: str | None = None, vocab_size: int = 700) -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on the novel, behind GPT-2's split or another one."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex is None)
    if regex is not None:
        split = pre_tokenizers.Split(Regex(regex), behavior="isolated")
        backend.pre_tokenizer = pre_tokenizers.Sequence([split, backend.pre_tokenizer])
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return trained(backend, trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False))


def trained(backend: Tokenizer, trainer: trainers.Trainer) -> PreTrainedTokenizerFast:
    """On the novel, and some numbers and spaces."""
    backend.train_from_iterator([book(60_000) + " 1 22 333 4444" * 40 + "  \n\n   don't" * 40], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def base_model(*, seed: int = 0, layers: int = 2, width: int = 32, vocabulary: int = VOCABULARY) -> LlamaForCausalLM:
    """A random Llama with SHARP weights: near-uniform attention would hide mistakes."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=None,
        eos_token_id=256,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.3)
    return model


def infini_model(*, rule: str = "gated_delta", overlap: int = 0, seed: int = 0, **sizes: int) -> InfiniLlamaForCausalLM:
    """The twin of `base_model`, with an open gate and every memory parameter at work."""
    twin = convert(
        base_model(seed=seed, **sizes), segment_size=SEGMENT, overlap=overlap, rule=rule, gate_start=0.5
    ).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            if ".infini." in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return twin


def save_model(path: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast | None = None) -> Path:
    """A folder that `-m` takes."""
    with quiet_transformers():
        model.save_pretrained(path)
    (tokenizer or byte_tokenizer()).save_pretrained(path)
    return path


def book(characters: int = -1) -> str:
    return BOOK.read_text(encoding="utf-8")[:characters]


def pieces_of(text: str, seed: int, longest: int) -> list[str]:
    """The text cut at random into pieces of 1 to `longest` characters."""
    chance, pieces, start = random.Random(seed), [], 0
    while start < len(text):
        stop = start + chance.randint(1, longest)
        pieces.append(text[start:stop])
        start = stop
    return pieces


def new_session(model: InfiniLlamaForCausalLM, *, bos: str | None = None) -> Session:
    return Session(model, byte_tokenizer(bos), name="tiny")
