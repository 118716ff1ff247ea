"""The OpenAPI description holds: whatever it allows is answered as it says, and whatever it forbids is refused."""

import pytest
import schemathesis
from hypothesis import HealthCheck, settings

from infini_attention.server.app import create_app
from infini_attention.server.settings import Limits, ServerSettings
from server_helpers import KEYS, bearer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def described(chatty, tmp_path_factory):
    limits = Limits(new_tokens=8, prompt_tokens=20_000)
    folder = tmp_path_factory.mktemp("described")
    app = create_app(*chatty, ServerSettings(folder / "store", "tiny", keys=KEYS, limits=limits))
    return schemathesis.openapi.from_asgi("/openapi.json", app)


schema = schemathesis.pytest.from_fixture("described")


@schema.parametrize()
@settings(max_examples=12, suppress_health_check=list(HealthCheck))
def test_what_is_described_is_what_happens(case):
    case.call_and_validate(headers=bearer(KEYS[0]))
