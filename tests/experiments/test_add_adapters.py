"""Adapters that went on from one another are added up, and others refused."""

import importlib.util
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from infini_attention.models import InfiniSettings, read_adapter_header
from infini_attention.models.adapter_file import AdapterHeader, write_adapter

SCRIPT = Path(__file__).parents[2] / "experiments" / "add_adapters.py"
SPEC = importlib.util.spec_from_file_location("add_adapters", SCRIPT)
add_adapters = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(add_adapters)


@pytest.fixture
def paths(tmp_path):
    """START is 1 everywhere, one added 2 to its first number and another 3 to its second."""
    found = []
    for name, first, second in (("start", 1.0, 1.0), ("one", 3.0, 1.0), ("two", 1.0, 4.0)):
        header = AdapterHeader("tiny", "0" * 64, InfiniSettings(rank=4).to_dict(), None, {"name": name})
        write_adapter(tmp_path / name, header, {"gate": torch.tensor([first, second])})
        found.append(tmp_path / name)
    return found


def test_what_each_has_learnt_is_added(paths, tmp_path):
    out = tmp_path / "sum.safetensors"
    assert add_adapters.main([*map(str, paths), "-o", str(out)]) == 0
    assert load_file(out)["gate"].tolist() == [3.0, 4.0]
    about = read_adapter_header(out).about["sum"]
    assert {of["name"] for of in about.values()} == {"start", "one", "two"}


def test_an_adapter_with_other_settings(paths, tmp_path, capsys):
    header = AdapterHeader("tiny", "0" * 64, InfiniSettings(rank=8).to_dict(), None, {})
    write_adapter(tmp_path / "other", header, {"gate": torch.zeros(2)})
    out = tmp_path / "sum.safetensors"
    assert add_adapters.main([str(paths[0]), str(tmp_path / "other"), "-o", str(out)]) == 2
    assert "its base or settings are others" in capsys.readouterr().err
    assert not out.exists()
