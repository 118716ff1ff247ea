"""The comparison that all tests rely on must be able to fail."""

import pytest
import torch

from helpers import FLOAT32, FLOAT64, assert_all_close, assert_close, relative_rms

REF = torch.tensor([3.0, -4.0, 0.0], dtype=torch.float64)


def test_relative_rms_by_hand():
    assert relative_rms(REF + torch.tensor([0.0, 0.0, 0.5]), REF) == pytest.approx(0.1)
    assert relative_rms(torch.full((3,), 0.25), torch.zeros(3)) == pytest.approx(0.25)


@pytest.mark.parametrize("tolerance", [FLOAT64, FLOAT32])
def test_the_border_is_the_tolerance(tolerance):
    assert_close(REF * (1 + 0.9 * tolerance), REF, tolerance)
    with pytest.raises(AssertionError, match="here: relative RMS error"):
        assert_close(REF * (1 + 1.1 * tolerance), REF, tolerance, "here")


@pytest.mark.parametrize(
    ("out", "ref", "message"),
    [
        (REF[:2], REF, "shape"),
        (REF[None], REF, "shape"),
        (REF.float(), REF, "torch.float32, expected torch.float64"),
        (torch.tensor([3.0, -4.0, torch.nan], dtype=torch.float64), REF, "1 of 3 numbers are not finite"),
        (REF, torch.tensor([3.0, torch.inf, 0.0], dtype=torch.float64), "reference itself"),
        (torch.full((3,), 1e-9), torch.zeros(3), "relative RMS error"),
        (torch.tensor([1, 2]), torch.tensor([1, 3]), "expected"),
    ],
)
def test_differences_are_errors(out, ref, message):
    with pytest.raises(AssertionError, match=message):
        assert_close(out, ref, FLOAT64)


def test_empty_tensors_are_equal():
    assert_close(torch.zeros(2, 0), torch.zeros(2, 0))


def test_a_missing_tensor_is_an_error():
    with pytest.raises(AssertionError):
        assert_all_close({"a": REF}, {"a": REF, "b": REF})
