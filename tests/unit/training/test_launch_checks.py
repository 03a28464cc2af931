"""What a run cannot be spread over devices by is refused by name, before training."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import FullyShardedDataParallelPlugin

from hf_meta_adapters import MetaAdapterTrainingArguments
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.training._launch_checks import check_distribution
from tests.training import make_model, make_trainer


def accelerator(kind, plugin=None, sizes=None):
    state = SimpleNamespace(fsdp_plugin=plugin)
    return SimpleNamespace(distributed_type=kind, state=state, parallelism_config=sizes)


def plugin(**given):
    return FullyShardedDataParallelPlugin(**{"fsdp_version": 2, **given})


REFUSED = {
    "DeepSpeed": (accelerator("DEEPSPEED"), {}, "Found DeepSpeed: its engine owns the gradients"),
    "Megatron-LM": (accelerator("MEGATRON_LM"), {}, "Found Megatron-LM"),
    "XLA": (accelerator("XLA"), {}, "Found XLA devices"),
    "parallel layers": (
        accelerator("MULTI_GPU", sizes=SimpleNamespace(tp_size=2)),
        {},
        "Found tensor, context or seq",
    ),
    "parallel rows": (
        accelerator("MULTI_GPU", sizes=SimpleNamespace(cp_size=4)),
        {},
        "Found tensor, context or seq",
    ),
    "replicas of shards": (
        accelerator("FSDP", plugin(), sizes=SimpleNamespace(dp_replicate_size=2, dp_shard_size=4)),
        {},
        "Found hybrid sharding",
    ),
    "FSDP2, exact": (
        accelerator("FSDP", plugin()),
        {"meta_gradient": "exact"},
        'Found `meta_gradient="exact"`',
    ),
    "FSDP2, the paper's": (
        accelerator("FSDP", plugin()),
        {"preset": "paper"},
        'Found `meta_gradient="exact"`',
    ),
    "FSDP2, our offload": (
        accelerator("FSDP", plugin()),
        {"cpu_offload": True},
        "Found `cpu_offload=True`",
    ),
    "FSDP2, its offload": (
        accelerator("FSDP", plugin(cpu_offload=True)),
        {},
        "Found `fsdp_offload_params=True`",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_outer_step_would_be_wrong_under_is_refused(tmp_path, name):
    given, method, message = REFUSED[name]
    args = MetaAdapterTrainingArguments(str(tmp_path), use_cpu=True, report_to="none", **method)
    with pytest.raises(ConfigurationError, match=message) as caught:
        check_distribution(args, make_model(), given)
    assert "\n" not in str(caught.value)
    assert any(
        advice in str(caught.value) for advice in ("Use `", "Launch it with `", "Leave it out")
    )


@pytest.mark.filterwarnings("ignore:FSDP1 is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*FSDP.*version:UserWarning")
def test_fsdp1_is_refused(tmp_path):
    args = MetaAdapterTrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    first = SimpleNamespace(fsdp_version=1, cpu_offload=None)
    with pytest.raises(
        ConfigurationError,
        match=r"by FSDP2 only.* Found version 1. Launch it with `--fsdp_version 2`",
    ):
        check_distribution(args, make_model(), accelerator("FSDP", first))


@pytest.mark.parametrize("kind", ["NO", "MULTI_CPU", "MULTI_GPU", "FSDP"])
def test_what_it_is_right_under_is_not(tmp_path, kind):
    args = MetaAdapterTrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    check_distribution(args, make_model(), accelerator(kind, plugin()))


def test_a_model_on_several_devices_is_refused(tmp_path):
    model = make_model()
    model.base_model.lm_head.to("meta")
    args = MetaAdapterTrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    with pytest.raises(
        ConfigurationError, match=r"on one device per process.* Load the model without `device_map`"
    ):
        check_distribution(args, model, accelerator("NO"))


def test_processes_that_would_train_alone_are_refused(tmp_path, monkeypatch):
    args = MetaAdapterTrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        ConfigurationError, match=r"must train together. Found 2 of them.* Pass `use_cpu=True`"
    ):
        check_distribution(args, make_model(), accelerator("NO"))


@pytest.mark.parametrize("how", ["argument", "launcher"])
def test_deepspeed_is_refused_where_it_is_not_installed(tmp_path, monkeypatch, how):
    if how == "launcher":
        monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    given = {"deepspeed": {"zero_optimization": {"stage": 2}}} if how == "argument" else {}
    with pytest.raises(ConfigurationError, match=r"Found DeepSpeed.* Launch it with `--multi_gpu`"):
        MetaAdapterTrainingArguments(str(tmp_path), report_to="none", **given)


def test_a_step_on_one_device_needs_no_process_group(tmp_path):
    trainer = make_trainer(tmp_path, make_model())
    assert not torch.distributed.is_initialized()
    trainer.train()
