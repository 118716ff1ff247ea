"""The OpenAPI description holds: whatever it allows is answered as it says, and whatever it forbids is refused."""

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from infini_attention.server.settings import Limits
from server_helpers import KEYS, bearer, running

pytestmark = pytest.mark.slow
ANN = bearer(KEYS[0])


@pytest.fixture(scope="module")
def url(chatty, tmp_path_factory):
    limits = Limits(new_tokens=8, prompt_tokens=20_000)
    with running(chatty, tmp_path_factory.mktemp("described"), keys=KEYS, limits=limits) as (url, _):
        yield url


def check_all(url, mode, prepare=lambda case: None, *, examples, excluded=()):
    """All operations, with what is generated from their description."""
    operations = [result.ok() for result in schemathesis.openapi.from_url(f"{url}/openapi.json").get_all_operations()]
    assert len(operations) > 20
    wrong = []
    for operation in operations:

        @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case):
            prepare(case)
            # No description says which bytes are a session file.
            more = [positive_data_acceptance] if case.operation.path.endswith("/restore") else []
            case.call_and_validate(headers=ANN, excluded_checks=[*excluded, *more])

        try:
            check()
        except Unsatisfiable:
            assert (mode, operation.path) == (GenerationMode.NEGATIVE, "/health")  # nothing can be wrong there
        except (Exception, BaseExceptionGroup) as error:
            said = [*error.exceptions, error] if isinstance(error, BaseExceptionGroup) else [error]
            wrong.append(f"{operation.label}: {said}")
    assert not wrong, "\n\n".join(wrong)


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_what_is_described_is_what_happens(url, mode):
    check_all(url, mode, examples=8)


def test_with_a_model_and_a_session_that_exist(url):
    """What gets through to the model: it may be refused for what it means, but nothing may fail."""

    def prepare(case):
        if "id" in (case.path_parameters or {}) and "/sessions/" in case.path:
            httpx2.post(f"{url}/v1/sessions", json={"id": "known"}, headers=ANN)
            httpx2.post(f"{url}/v1/sessions/known/text", json={"text": "A text."}, headers=ANN)
            case.path_parameters["id"] = "known"
        if isinstance(case.body, dict) and "model" in case.body:
            case.body["model"] = "tiny"

    check_all(url, GenerationMode.POSITIVE, prepare, examples=3, excluded=[positive_data_acceptance])
