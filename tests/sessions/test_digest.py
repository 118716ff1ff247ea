"""The digest of a stream of tokens: the same however the tokens come, another for any other tokens."""

from hypothesis import given
from hypothesis import strategies as st

from infini_attention.sessions.digest import BLOCK_TOKENS, TokenDigest, prefix_digests

token_ids = st.lists(st.integers(0, 2**63 - 1), max_size=8)


def digest_of(tokens, cuts=()):
    digest = TokenDigest()
    for start, stop in zip([0, *cuts], [*cuts, len(tokens)], strict=True):
        digest = digest.update(tokens[start:stop])
    return digest


@given(repeats=st.integers(0, 700), tokens=token_ids, cuts=st.lists(st.integers(0, 6000), max_size=5))
def test_the_split_does_not_matter(repeats, tokens, cuts):
    tokens = tokens * repeats
    cuts = sorted(min(cut, len(tokens)) for cut in cuts)
    digest = digest_of(tokens, cuts)
    assert digest == digest_of(tokens)
    assert digest.hex == digest_of(tokens).hex
    assert len(digest.pending) == len(tokens) % BLOCK_TOKENS


@given(tokens=st.lists(st.integers(0, 9), min_size=1, max_size=3000), data=st.data())
def test_one_other_token_gives_another_digest(tokens, data):
    index = data.draw(st.integers(0, len(tokens) - 1))
    other = [*tokens[:index], tokens[index] + 1, *tokens[index + 1 :]]
    assert digest_of(other).hex != digest_of(tokens).hex


def test_the_order_and_the_count_matter():
    assert len({digest_of(tokens).hex for tokens in ([], [0], [0, 0], [0, 1], [1, 0])}) == 5


def test_it_stays_small():
    digest = digest_of(list(range(50_000)))
    assert len(digest.chain) == 64
    assert len(digest.pending) < BLOCK_TOKENS


def test_it_is_a_value():
    digest = digest_of([1, 2])
    before = digest.hex
    digest.update([3])
    assert digest.hex == before == digest_of([1, 2]).hex


@given(tokens=st.lists(st.integers(0, 9), max_size=3000), lengths=st.lists(st.integers(-5, 3100), max_size=9))
def test_the_digests_of_prefixes(tokens, lengths):
    ref = {length: digest_of(tokens[:length]).hex for length in lengths if 0 <= length <= len(tokens)}
    assert prefix_digests(tokens, lengths) == ref
