"""A branch has read the beginning of its own text, whatever texts came before."""

from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from evaluation.readers import Oracle
from infini_attention.evaluation.trunk import Trunk, common_start

TEXTS = st.lists(st.text("ab", min_size=6, max_size=6), min_size=1, max_size=6)


def ids_of(text, rows=2):
    return torch.tensor([list(text.encode())] * rows)


@given(texts=TEXTS, data=st.data(), piece_size=st.integers(1, 7))
def test_a_branch_has_read_the_beginning_of_its_text(texts, data, piece_size):
    trunk = Trunk(lambda: Oracle(log=[]))
    for text, following in zip(texts, [*texts[1:], None], strict=True):
        after = None if following is None else ids_of(following)
        limit = data.draw(st.integers(0, 6))
        stream, place = trunk.branch(ids_of(text), after, limit, piece_size)
        assert place <= limit
        assert stream.rows == ([text[:place].encode()] * 2 if place else None)
        stream.read(ids_of("zz"))  # the trunk must not notice


def test_what_is_common_is_read_once():
    log = []
    trunk = Trunk(lambda: Oracle(log=log))
    texts = ["aabbbb", "aaaabb", "aaaaab"]
    places = [trunk.branch(ids_of(text), ids_of(following), 6, 4)[1] for text, following in pairwise(texts)]
    assert places == [2, 4]
    assert sum(columns for _, _, columns in log) == 4
    assert trunk.branch(ids_of("bbbbbb"), None, 6, 4)[1] == 0  # another text: from its start


def test_rows_share_what_all_of_them_share():
    left, right = torch.tensor([[1, 2, 3], [1, 2, 3]]), torch.tensor([[1, 2, 3], [1, 4, 3]])
    assert common_start(left, right) == 1
    assert common_start(left, left) == 3
    assert common_start(left, right[:1]) == 0
