"""The four invariances that every rule and every backend keeps."""

import pytest
import torch
from safetensors.torch import load, save

from helpers import (
    BACKENDS,
    FLOAT32,
    FLOAT64,
    PER_TOKEN,
    RULES,
    assert_all_close,
    assert_close,
    feed,
    sample,
    take,
    tensors_of,
)
from infini_attention import InfiniState
from infini_attention.state import Memory

pytestmark = [
    pytest.mark.parametrize("rule", RULES),
    pytest.mark.parametrize("backend", BACKENDS),
    pytest.mark.parametrize("overlap", [0, 3]),
]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, FLOAT64), (torch.float32, FLOAT32)])
@pytest.mark.parametrize("cuts", [[1], [8], [20], [3, 3, 4, 17, 33], [0, 16, 37]])
def test_stream_equals_whole(rule, backend, overlap, cuts, dtype, tolerance):
    inputs = sample(T=37, C=8, W=overlap, rule=rule, dtype=dtype)
    (out, state), (ref, ref_state) = feed(inputs, cuts, backend=backend), feed(inputs, backend=backend)
    assert_close(out, ref, tolerance)
    assert_all_close(tensors_of(state), tensors_of(ref_state), tolerance)


@pytest.mark.parametrize("C", [1, 2, 7])
def test_segment_equals_token_by_token(rule, backend, overlap, C):
    inputs = sample(T=3 * C, C=C, W=min(overlap, C), rule=rule)
    (out, state) = feed(inputs, range(1, 3 * C), backend=backend)
    (ref, ref_state) = feed(inputs, [C, 2 * C], backend=backend)
    assert_close(out, ref)
    assert_all_close(tensors_of(state), tensors_of(ref_state))


REAL = {
    "left padded": [[True] * 13, [False] * 4 + [True] * 9, [False] * 12 + [True]],
    "right padded": [[True] * 13, [True] * 9 + [False] * 4, [True] + [False] * 12],
    "holes": [[True, False] * 6 + [True], [False] * 5 + [True] * 3 + [False] + [True] * 4, [True] * 5 + [False] * 8],
    "an empty row": [[False] * 13, [True] * 13, [False] * 8 + [True] * 5],
    "one segment": [[True] * 13, [False] * 5 + [True] * 3 + [False] * 5, [False] * 13],
}


@pytest.mark.parametrize("segment_size", [4, 16])
@pytest.mark.parametrize("real", REAL.values(), ids=REAL.keys())
@pytest.mark.parametrize("pad_value", [torch.nan, torch.inf])
def test_row_in_batch_equals_row_alone(rule, backend, overlap, real, pad_value, segment_size):
    """Also in a second call, in which the rows go on side by side from different places in their segments."""
    prompt = sample(B=3, T=13, C=segment_size, W=overlap, rule=rule)
    prompt["padding_mask"] = torch.tensor(real)
    for name in PER_TOKEN[:-1]:
        if name in prompt and prompt[name].dim() > 1:
            prompt[name][~prompt["padding_mask"]] = pad_value
    decoded = sample(B=3, T=6, C=segment_size, W=overlap, rule=rule, seed=1)
    if "gate" in prompt and prompt["gate"].dim() == 1:
        decoded["gate"] = prompt["gate"]
    out, state = feed(prompt, backend=backend)
    assert out[~prompt["padding_mask"]].eq(0).all()
    continued, last = feed(decoded, [1, 2], state=state, backend=backend)

    for row, mask in enumerate(prompt["padding_mask"]):
        alone = take(prompt, rows=[row], span=mask.nonzero()[:, 0])
        del alone["padding_mask"]
        ref, ref_state = feed(alone, backend=backend)
        assert_close(out[row, mask], ref[0])
        assert_all_close(tensors_of(state.select_rows(torch.tensor([row]))), tensors_of(ref_state))
        ref, ref_state = feed(take(decoded, rows=[row]), state=ref_state, backend=backend)
        assert_close(continued[[row]], ref)
        assert_all_close(tensors_of(last.select_rows(torch.tensor([row]))), tensors_of(ref_state))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_save_load_continue_equals_never_saved(rule, backend, overlap, dtype):
    """To the last bit."""
    inputs = sample(T=37, C=8, W=overlap, rule=rule, dtype=dtype)
    before, after = take(inputs, span=slice(21)), take(inputs, span=slice(21, None))
    _, state = feed(before, backend=backend)
    loaded = rebuilt(load(save({name: tensor.contiguous() for name, tensor in tensors_of(state).items()})))
    (out, end), (ref, ref_end) = (feed(after, state=start, backend=backend) for start in (loaded, state))
    assert torch.equal(out, ref)
    for name, tensor in tensors_of(ref_end).items():
        assert torch.equal(tensors_of(end)[name], tensor), name


def rebuilt(tensors) -> InfiniState:
    """The inverse of `tensors_of`."""

    def memory(name):
        return Memory(tensors.pop(f"{name}.matrix"), tensors.pop(f"{name}.normalizer", None))

    return InfiniState(memory("committed"), memory("running"), **tensors)
