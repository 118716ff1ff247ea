"""Known beginnings: the longest one is found, within the bound, and by nobody else."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from infini_attention.server.metrics import Metrics
from infini_attention.server.prefixes import Prefixes
from infini_attention.sessions import Session


def snapshot_of(chatty, token_ids):
    session = Session(*chatty)
    session.read_tokens(token_ids)
    return session.snapshot()


@given(lengths=st.sets(st.integers(1, 60), max_size=40), differs=st.integers(0, 60))
def test_the_longest_one_that_is_the_same(chatty, lengths, differs):
    whole = list(range(60))
    prefixes, snapshot = Prefixes(1 << 40, Metrics()), snapshot_of(chatty, [1])
    made = {}
    for length in lengths:  # what is in a snapshot does not matter here, only what it says of itself
        digest = type(snapshot.digest)().update(whole[:length])
        stats = replace(snapshot.stats, tokens_read=length)
        made[length] = replace(snapshot, digest=digest, stats=stats)
        prefixes.add("ann", made[length])
    asked = [*whole[:differs], 99, *whole[differs + 1 :]]
    expected = max((length for length in lengths if length <= differs), default=None)
    assert prefixes.longest("ann", asked) is (None if expected is None else made[expected])
    assert prefixes.longest("bob", asked) is None


def test_those_go_that_were_used_longest_ago(chatty):
    texts = [[number] * 5 for number in range(4)]
    snapshots = [snapshot_of(chatty, text) for text in texts]
    metrics = Metrics()
    prefixes = Prefixes(3 * snapshots[0].nbytes, metrics)
    for snapshot in snapshots[:3]:
        prefixes.add("ann", snapshot)
    assert prefixes.longest("ann", texts[0]) is snapshots[0]
    prefixes.add("ann", snapshots[3])
    assert [prefixes.longest("ann", text) is not None for text in texts] == [True, False, True, True]
    assert metrics.registry.get_sample_value("infini_prefix_bytes") == 3 * snapshots[0].nbytes
