"""Transformers' own Trainer on a converted model: what costs less, is split up or goes on learns the same."""

import json
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, get_peft_model

from helpers import BFLOAT16, FLOAT32, assert_all_close, assert_close
from infini_attention.models import load_model
from models.conftest import opened
from models.tiny_families import tiny
from processes import environment
from training import finetune
from training.finetune import FAMILY

# PEFT asks Transformers whether it checkpoints activations by a name that is no longer wanted.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run with nothing special about it: its losses and its folder."""
    out = tmp_path_factory.mktemp("whole")
    return finetune.finetune(opened(tiny(FAMILY)), out), out


def weights(out):
    return {name: tensor.detach() for name, tensor in load_model(out).named_parameters()}


def test_the_memory_learns_too_and_is_loaded_again(whole):
    before = dict(opened(tiny(FAMILY)).named_parameters())
    assert not [name for name, tensor in weights(whole[1]).items() if torch.equal(tensor, before[name])]


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({"activation_checkpointing": True}, FLOAT32),
        ({"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}, FLOAT32),
        ({"bf16": True}, BFLOAT16),
        (
            {"bf16": True, "activation_checkpointing": True, "per_device_train_batch_size": 2}
            | {"gradient_accumulation_steps": 2},
            BFLOAT16,
        ),
    ],
    ids=["checkpointing", "accumulation", "autocast", "all of them"],
)
def test_what_costs_less_learns_the_same(whole, options, tolerance, tmp_path):
    losses = finetune.finetune(opened(tiny(FAMILY)), tmp_path, **options)
    assert_close(torch.tensor(losses), torch.tensor(whole[0]), tolerance)
    assert {tensor.dtype for tensor in weights(tmp_path).values()} == {torch.float32}
    if tolerance == FLOAT32:
        assert_all_close(weights(tmp_path), weights(whole[1]), 100 * FLOAT32)  # Adam divides by small gradients


def with_lora():
    settings = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], modules_to_save=["infini"])
    torch.manual_seed(0)
    return get_peft_model(opened(tiny(FAMILY)), settings)


@pytest.mark.parametrize("make", [lambda: opened(tiny(FAMILY)), with_lora], ids=["all weights", "LoRA and memory"])
def test_a_run_that_goes_on_learns_the_same_to_the_last_bit(make, tmp_path):
    ends = []
    for part in ({"save_strategy": "steps", "save_steps": 2}, {"resume": True}):
        model = make()
        finetune.finetune(model, tmp_path, **part)
        ends.append({name: tensor.detach() for name, tensor in model.named_parameters()})
        trained = {name for name, tensor in model.named_parameters() if tensor.requires_grad}
    start = dict(make().named_parameters())
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())
    assert not [name for name in trained if torch.equal(ends[0][name], start[name])]


@pytest.mark.slow
def test_two_processes_see_the_losses_of_one(whole, tmp_path):
    """accelerate launch, gloo: whole models side by side, and one that is sharded."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--num_machines", "1"]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command += ["--use_fsdp", "--fsdp_version", "2", "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP"]
    command += ["--fsdp_state_dict_type", "FULL_STATE_DICT", finetune.__file__, str(tmp_path)]
    done = subprocess.run(
        command, env=environment() | {"CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert {way: kinds for way, (_, kinds) in found.items()} == {"DDP": ["Parameter"], "FSDP": ["DTensor"]}
    for way, (losses, _) in found.items():
        assert_close(torch.tensor(losses), torch.tensor(whole[0]), FLOAT32, way)
        assert_all_close(weights(tmp_path / way), weights(whole[1]), 100 * FLOAT32)
