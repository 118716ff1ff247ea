"""Random numbers for samples. An evaluation never uses those of training: its seeds begin with another word."""

import random


def training_rng(seed: int, *labels: object) -> random.Random:
    """For the training sample that `labels` name, such as rank, step and row. The same on every machine."""
    return _rng("train", seed, labels)


def evaluation_rng(seed: int, *labels: object) -> random.Random:
    """For the test sample that `labels` name, such as task, length, depth and index. The same on every machine."""
    return _rng("test", seed, labels)


def _rng(use: str, seed: int, labels: tuple[object, ...]) -> random.Random:
    return random.Random("/".join(map(str, (use, seed, *labels))))  # a string is hashed with SHA-512
