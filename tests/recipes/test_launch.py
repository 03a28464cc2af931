"""`accelerate launch` with the configurations of the recipes: every one is read, and processes
agree.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import load_file

from tests.processes import free_port

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "recipes" / "accelerate").glob("*.yaml"))
LIMIT = 240  # seconds


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_reads_every_configuration(path):
    config = load_config_from_file(str(path))
    kind = {"one_device": "NO", "fsdp2": "FSDP"}.get(path.stem, "MULTI_GPU")
    assert getattr(config.distributed_type, "value", config.distributed_type) == kind
    assert config.num_machines == (2 if path.stem == "two_machines" else 1)
    assert config.num_processes >= config.num_machines
    if kind == "FSDP":
        assert config.fsdp_config["fsdp_version"] == 2
        assert config.fsdp_config["fsdp_offload_params"] is False


def start(output_dir, launch):
    """A launcher."""
    recipe = [
        str(ROOT / "recipes" / "pretrain_mlm.py"),
        "--config",
        str(ROOT / "recipes/configs/pretrain_mlm.yaml"),
    ]
    sizes = [
        "--data",
        str(ROOT / "recipes/data"),
        "--languages",
        "en",
        "sw",
        "--limit",
        "40",
        "--vocabulary",
        "300",
    ]
    short = [
        "--max_steps",
        "3",
        "--max_length",
        "16",
        "--per_device_train_batch_size",
        "8",
        "--use_cpu",
        "true",
    ]
    command = [
        sys.executable,
        *launch,
        *recipe,
        *sizes,
        *short,
        "--output_dir",
        str(output_dir),
        "--eval_split",
        "",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def weights(folder, *several):
    """Wait, and read what the first of several launchers wrote."""
    try:
        for one in several:
            said = one.communicate(timeout=LIMIT)[0]
            assert one.returncode == 0, said
    finally:
        for one in several:
            one.kill()
    return load_file(folder / "model.safetensors") | load_file(
        folder / "sw" / "adapter_model.safetensors"
    )


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.xdist_group("distributed")
@pytest.mark.timeout(2 * LIMIT)
def test_two_machines_agree_with_two_processes_of_one(tmp_path):
    launch = [
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(ROOT / "recipes/accelerate/cpu.yaml"),
    ]
    together = [*launch, "--main_process_port", str(free_port())]
    two = weights(tmp_path / "two", start(tmp_path / "two", together))

    where = [
        "--num_machines",
        "2",
        "--main_process_ip",
        "127.0.0.1",
        "--main_process_port",
        str(free_port()),
    ]
    places = [tmp_path / "first", tmp_path / "second"]
    launchers = [
        start(place, [*launch, *where, "--machine_rank", str(rank)])
        for rank, place in enumerate(places)
    ]
    machines = weights(places[0], *launchers)
    assert not (places[1] / "model.safetensors").exists()
    assert [name for name in two if not torch.equal(two[name], machines[name])] == []
