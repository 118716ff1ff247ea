import inspect

import pytest

from infini_attention import errors

SPECIFIC = [error for _, error in inspect.getmembers(errors, inspect.isclass) if error.__module__ == errors.__name__]
SPECIFIC.remove(errors.InfiniError)


@pytest.mark.parametrize("error", SPECIFIC)
def test_every_error_is_ours_and_a_value_error(error):
    """So that callers can catch either, and nobody has to know the whole hierarchy."""
    assert issubclass(error, errors.InfiniError)
    assert issubclass(error, ValueError)
    assert error.__doc__
