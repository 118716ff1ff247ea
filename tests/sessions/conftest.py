"""Tiny sessions."""

import pytest


@pytest.fixture(scope="session", params=["linear", "delta", "gated_delta", "none"])
def rule(request):
    return request.param


@pytest.fixture(scope="session")
def model(rule):
    """float64: what is left between two splits of a text is a mistake and no rounding. One rule has overlaps."""
    from tiny import infini_model

    return infini_model(rule=rule, overlap=5 if rule == "gated_delta" else 0).double()


@pytest.fixture
def session(model):
    from tiny import new_session

    return new_session(model)
