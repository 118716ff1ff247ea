"""What results say about where they were made."""

import json

from infini_attention.environment import environment


def test_the_environment_is_told():
    found = environment()
    assert set(found["versions"]) == {"infini-attention", "torch", "transformers", "python"}
    assert found["threads"] == 1
    assert json.loads(json.dumps(found)) == found
