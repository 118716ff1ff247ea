"""Evaluations draw other numbers than training, whatever the seed."""

from infini_attention.data.seeds import evaluation_rng, training_rng


def draws(maker):
    return {maker(seed, label).random() for seed in range(300) for label in ("", 0, "a")}


def test_disjoint():
    training, evaluation = draws(training_rng), draws(evaluation_rng)
    assert len(training) == len(evaluation) == 900
    assert not training & evaluation


def test_the_same_on_every_machine():
    assert training_rng(0, "passkey", 4096).randrange(10**9) == 70215201
    assert evaluation_rng(0, "passkey", 4096).randrange(10**9) == 325954047
