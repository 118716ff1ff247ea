"""Importing the package is cheap: it loads nothing heavy but torch."""

import json
import subprocess
import sys

import pytest

PROBE = """
import json, sys, time
import torch
before, start = set(sys.modules), time.process_time()
import infini_attention
seconds = time.process_time() - start
print(json.dumps({"seconds": seconds, "modules": sorted(set(sys.modules) - before)}))
"""


@pytest.fixture(scope="module")
def probe():
    """What `import infini_attention` adds to `import torch`, in a fresh interpreter."""
    result = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    return json.loads(result.stdout)


@pytest.mark.parametrize("name", ["transformers", "triton", "fastapi", "uvicorn", "typer", "safetensors", "datasets"])
def test_heavy_packages_are_not_imported(probe, name):
    assert name not in probe["modules"]


def test_it_takes_less_than_a_second_of_cpu_time(probe):
    assert "infini_attention.ops.attention" in probe["modules"]
    print(f"{probe['seconds']:.2f} s")
    assert probe["seconds"] < 1


def test_an_unknown_name_is_an_attribute_error():
    import infini_attention

    with pytest.raises(AttributeError, match="'infini_attention' has no attribute 'no_such_name'"):
        _ = infini_attention.no_such_name
