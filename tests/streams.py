"""What tests of sessions share: equality to the last bit, and greedy decoding as plainly as possible."""

import torch

from helpers import tensors_of


def assert_equal(out, ref):
    """Two sessions stand at the same place, to the last bit."""
    assert torch.equal(out.position.logits, ref.position.logits)
    for out_state, ref_state in zip(out.cache.states, ref.cache.states, strict=True):
        for name, tensor in tensors_of(out_state).items():
            assert torch.equal(tensor, tensors_of(ref_state)[name]), name
    assert (out.stats, out.position.digest, out.turns) == (ref.stats, ref.position.digest, ref.turns)


def greedy(session, count):
    """The next `count` tokens and the logits that they were chosen by, one token at a time."""
    written, logits = [], []
    for _ in range(count):
        logits.append(session.position.logits)
        written.append(int(logits[-1].argmax()))
        session.read_tokens(written[-1:])
    return written, torch.stack(logits)
