"""The command itself: version, help, and what it does when its reader goes away."""

import subprocess
import sys

import pytest

import infini_attention

COMMANDS = (
    "adapt",
    "ask",
    "bench",
    "chat",
    "convert",
    "demo",
    "eval",
    "generate",
    "inspect",
    "pull",
    "read",
    "report",
    "serve",
    "session",
    "train",
)


def test_version(run_cli):
    assert run_cli("--version") == (0, f"infini-attention {infini_attention.__version__}\n", "")


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_names_every_command(run_cli, arguments):
    code, out, err = run_cli(*arguments)
    assert (code, err) == (0, "")
    assert all(f"  {command} " in out for command in COMMANDS)


@pytest.mark.parametrize(
    "command",
    [
        *(command for command in COMMANDS if command not in ("eval", "session")),
        *(f"session {name}" for name in ("ls", "show", "fork", "rewind", "verify", "rebuild", "rm")),
        "eval passkey",
        "eval keys",
        "eval facts",
        "eval needle",
        "eval ruler",
        "eval mqar",
        "eval retention",
        "eval babilong",
        "eval perplexity",
        "eval summary",
    ],
)
def test_help_of_each_command(run_cli, command):
    code, out, err = run_cli(*command.split(), "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: infini {command} ")
    assert "--json" in out


def test_help_imports_nothing_heavy():
    code = "import sys; from infini_attention.cli import app; print({'transformers', 'safetensors'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.slow
def test_a_reader_that_goes_away(model_dir):
    command = [sys.executable, "-c", "from infini_attention.cli import main; main()"]
    command += ["generate", "-p", "hello", "-n", "5", "-m", str(model_dir)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == 1
