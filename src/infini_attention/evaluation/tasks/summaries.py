"""Summaries of documents against references, beside what costs nothing: the beginning, and random sentences."""

import hashlib
import math
import random
import re
import time
from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase

from infini_attention.data.pairs import Pair
from infini_attention.data.seeds import evaluation_rng
from infini_attention.evaluation.journal import Journal, Record
from infini_attention.evaluation.stats import Z95, standard_error
from infini_attention.evaluation.tasks.rouge import KINDS, MEAN, rouge_scorer
from infini_attention.evaluation.tasks.summarizing import ASK_NOTE, ASK_WHOLE, Summarizer

NAME = "summary"
PROTOCOL = 1
LEAD_TOKENS = 1024
METHODS = ("model", "lead", "random")
SENTENCE = re.compile(r".+?[.!?]+[\"'\u201d\u2019)]*(?=\s|$)|.+$", re.DOTALL)


def run_summaries(
    pairs: Sequence[Pair],
    summarizer: Summarizer,
    journal: Journal,
    *,
    seed: int = 0,
    on_sample: Callable[[int, int, int], None] = lambda done, of, tokens: None,
) -> list[Record]:
    """A record for each document, those that the journal had included.

    Args:
        pairs: documents and their references.
        summarizer: writes.
        journal: what was run before; the same document is not summarized again in the same way by the same model.
        seed: of the random sentences.
        on_sample: called after each document with those done, their number, and the tokens read.

    Raises:
        ConfigError: `rouge-score` is not installed.
    """
    score, about = rouge_scorer(), summarizer.subject.about
    keys = [_key(pair, summarizer, seed) | {"fingerprint": about["fingerprint"]} for pair in pairs]
    due = [(number, key) for number, key in enumerate(keys) if journal.find(key) is None]
    tokens = 0
    for done, (number, key) in enumerate(due, 1):
        pair, start = pairs[number], time.perf_counter()
        ids = summarizer.encode(pair.document)
        summary = summarizer.summarize(ids)
        texts = {
            "model": summary.text,
            "lead": str(summarizer.tokenizer.decode(ids[:LEAD_TOKENS], skip_special_tokens=True)),
            "random": random_sentences(
                pair.document,
                summarizer.tokenizer,
                summarizer.new_tokens,
                evaluation_rng(seed, NAME, key["document_digest"]),
            ),
        }
        record = {
            "document": number,
            "summary": summary.text,
            "length": summary.tokens,
            "levels": summary.levels,
            "notes": summary.notes,
            "rouge": {method: score(pair.reference, text) for method, text in texts.items()},
            "state_bytes": summary.nbytes,
            "seconds": round(time.perf_counter() - start, 3),
        }
        journal.append(key | record | about)
        tokens += summary.tokens
        on_sample(done, len(due), tokens)
    found = [journal.find(key) for key in keys]
    return [record for record in found if record is not None]


def random_sentences(text: str, tokenizer: PreTrainedTokenizerBase, most_tokens: int, rng: random.Random) -> str:
    """Sentences of the text, drawn at random and put into its order, as many as fit into so many tokens."""
    sentences = [" ".join(sentence.split()) for sentence in SENTENCE.findall(text) if sentence.strip()]
    kept: list[int] = []
    room = most_tokens
    for number in rng.sample(range(len(sentences)), len(sentences)):
        size = len(tokenizer(sentences[number], add_special_tokens=False)["input_ids"])
        if size <= room:
            kept.append(number)
            room -= size
    return " ".join(sentences[number] for number in sorted(kept))


def summarize_summaries(records: Sequence[Record], summarizer: Summarizer) -> Record:
    """The figures over all documents.

    Returns:
        accuracy (the geometric mean of ROUGE-1, 2 and L, averaged over documents), interval (of that mean, normal, 95
        %; None for one document), worst_cell, rouge (the means of each method and kind), and what other tasks have. A
        token is outside the window where no note was written while it was still in sight.
    """
    means = [record["rouge"]["model"][MEAN] for record in records]
    accuracy, error = sum(means) / len(means), standard_error(means)
    worst = min(records, key=lambda record: record["rouge"]["model"][MEAN])
    tokens = sum(record["length"] for record in records)
    return {
        "accuracy": accuracy,
        "worst_cell": {"document": worst["document"], "length": worst["length"], MEAN: worst["rouge"]["model"][MEAN]},
        "interval": None if error is None else [accuracy - Z95 * error, accuracy + Z95 * error],
        "samples": len(records),
        "rouge": {
            method: {
                kind: sum(record["rouge"][method][kind] for record in records) / len(records) for kind in (*KINDS, MEAN)
            }
            for method in METHODS
        },
        "outside_window_share": sum(_unseen(record["length"], summarizer) for record in records) / tokens,
        "memory": records[0]["memory"],
        "state_bytes": max(record["state_bytes"] for record in records),
        "seconds": round(math.fsum(record["seconds"] for record in records), 3),
        "cells": list(records),
    }


def _unseen(tokens: int, summarizer: Summarizer) -> int:
    """How many tokens of a text no note was written in sight of."""
    unit, seen, before = summarizer.subject.segment_size, 0, 0
    if unit is None:
        return 0
    for place in summarizer.places(tokens):
        seen += place - max(before, place // unit * unit - summarizer.subject.overlap)
        before = place
    return tokens - seen


def _key(pair: Pair, summarizer: Summarizer, seed: int) -> Record:
    """All that a record depends on, but for the model."""
    return {
        "task": NAME,
        "protocol": PROTOCOL,
        "document_digest": _digest(pair.document),
        "reference_digest": _digest(pair.reference),
        "ask_digest": _digest(ASK_NOTE + ASK_WHOLE),
        "section_tokens": summarizer.section_tokens,
        "new_tokens": summarizer.new_tokens,
        "memory": "on" if summarizer.memory else "off",
        "seed": seed,
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
