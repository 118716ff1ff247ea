"""Figures of the log: each is a mean over the batches that have it, in all processes."""

import pytest
import torch

from infini_attention.training.entries import Loss
from infini_attention.training.rows import answer_shares, count_tokens, split_rows
from infini_attention.training.tally import Tally


def test_a_batch_counts_for_the_figures_that_it_has():
    tally = Tally()
    for parts in ([{"a": 1.0}, {"a": 2.0, "b": 4.0}], [{"a": 5.0}]):
        for part in parts:
            tally.add(**part)
        tally.close_batch()
    tally.add_hits("recall", 1, 2)
    tally.add_hits("recall", 0, 2)
    tally.add_hits("nothing", 0, 0)
    assert tally.means() == {"a": 4.0, "b": 4.0, "recall": 0.25}
    assert tally.means() == {}


def test_processes_may_have_other_figures(monkeypatch):
    other = {"text_loss": (6.0, 1), "answer_loss": (1.0, 1), "recall": (3, 4)}
    monkeypatch.setattr("infini_attention.training.tally.gather_object", lambda mine: [*mine, other])
    tally = Tally()
    tally.add(answer_loss=3.0)
    tally.close_batch()
    assert tally.means() == {"answer_loss": 2.0, "text_loss": 6.0, "recall": 0.75}


def rows(*answers, length=4):
    marks = torch.zeros(len(answers), length, dtype=torch.int8)
    for row, count in enumerate(answers):
        marks[row, length - count :] = 1
    return torch.arange(marks.numel()).view(marks.shape), marks


def test_a_long_answer_counts_as_much_as_a_short_one():
    answers = torch.tensor([[0, 1, 0, 2, 2, 2, 0, 0], [2, 2, 0, 0, 0, 0, 0, 1], [0] * 8], dtype=torch.int8)
    shares = [[0, 1, 0, 1 / 3, 1 / 3, 1 / 3, 0, 0], [0.5, 0.5, 0, 0, 0, 0, 0, 1], [0.0] * 8]
    assert answer_shares(answers).tolist() == torch.tensor(shares).tolist()


@pytest.mark.parametrize("filler", [None, 0.2])
def test_rows_stay_together_where_all_tokens_weigh_the_same(filler):
    parts = split_rows(*rows(1, 0, 2), Loss(text=0.2, filler=filler))
    assert [(len(part.ids), part.weight) for part in parts] == [(3, 0.2)]
    assert count_tokens(parts) == (2, 9, 3)


def test_filler_of_another_weight_lies_apart():
    ids, answers = rows(1, 0, 2)
    asking, text = split_rows(ids, answers, Loss(text=0.2, filler=0.1))
    assert (asking.weight, text.weight) == (0.1, 0.2)
    assert asking.ids.tolist() == ids[[0, 2]].tolist()
    assert text.answers.tolist() == answers[[1]].tolist()
    assert count_tokens([asking, text]) == (2, 9, 3)
    assert count_tokens(split_rows(ids, answers, Loss(text=0.2, filler=0))) == (2, 3, 3)


def test_a_batch_of_one_kind_has_no_empty_part():
    [part] = split_rows(*rows(1, 1), Loss(text=0.2, filler=0))
    assert (part.weight, count_tokens([part])) == (0, (2, 1, 2))


def test_long_rows_go_one_by_one():
    parts = split_rows(*rows(1, 1, 0, length=1500), Loss())
    assert [len(part.ids) for part in parts] == [1, 1, 1]
