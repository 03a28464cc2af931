"""What may become of each argument where a run is resumed: data, and the comparison that reads it.

Every field of `MetaAdapterTrainingArguments` is in one class, in all supported releases of
transformers; a test says which one is not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum

_STAYS = """
    preset meta_gradient lookahead meta_languages meta_languages_per_step inner_steps
    finite_difference_scheme finite_difference_radius max_indirect_ratio indirect_ratio
    indirect_ratio_scope shared_update shared_update_groups surgery_gradients mixed_rows
    mixed_languages
    inner_optimizer inner_learning_rate embedding_learning_rate adapter_update update_order
    meta_every languages_per_step sampling sampling_alpha sampling_max_epochs sampling_end_alpha
    language_weights language_weights_rate reptile_steps reptile_rate

    train_sampling_strategy group_by_length length_column_name
    label_smoothing_factor label_names remove_unused_columns neftune_noise_alpha
    optim optim_args adafactor seed data_seed bf16 fp16
"""
"""They decide which rows are read, what is computed from them, or what the optimizer keeps."""

_STAYS_IF_SET = "metric_for_best_model greater_is_better"
"""Neither may change, once set: the best score so far is one of this metric. `None` is no value."""

_TAKES_EFFECT = """
    learning_rate adapter_learning_rate weight_decay adam_beta1 adam_beta2 adam_epsilon
    lr_scheduler_type lr_scheduler_kwargs warmup_steps warmup_ratio max_grad_norm
    fidelity_check_steps min_fidelity skip_nonfinite_steps ignore_data_skip load_best_model_at_end
"""
"""They may change, and hold from the resumed step on, with a warning that names them."""

_LENGTH = "max_steps num_train_epochs"
"""They may change, and hold from the resumed step on; nobody makes a run longer by accident."""

_BATCHES = """
    per_device_train_batch_size gradient_accumulation_steps meta_batch_size auto_find_batch_size
"""
"""Factors of the rows of a step: they may change if the product does not (`run_settings`)."""

_SAME_NUMBERS = """
    cpu_offload sparse_head languages_per_pass gradient_checkpointing activation_checkpointing
    gradient_checkpointing_kwargs activation_checkpointing_kwargs use_cache torch_compile
    torch_compile_backend torch_compile_mode torchdynamo tf32 full_determinism use_cpu no_cuda
    use_mps_device _n_gpu local_rank ddp_backend ddp_timeout ddp_find_unused_parameters
    ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph fsdp fsdp_config fsdp_min_num_params
    fsdp_transformer_layer_cls_to_wrap parallelism_config accelerator_config half_precision_backend
    fp16_backend fp16_opt_level dataloader_num_workers dataloader_pin_memory
    dataloader_persistent_workers dataloader_prefetch_factor dataloader_multiprocessing_context
    tpu_num_cores tpu_metrics_debug
"""
"""The same numbers up to rounding, computed elsewhere or otherwise."""

_BESIDE_TRAINING = """
    output_dir overwrite_output_dir do_train do_eval do_predict resume_from_checkpoint
    logging_dir logging_strategy logging_steps logging_first_step log_on_each_node
    logging_nan_inf_filter log_level log_level_replica disable_tqdm report_to run_name project
    trackio_space_id trackio_bucket_id trackio_static_space_id debug skip_memory_metrics ray_scope
    eval_strategy eval_steps eval_delay per_device_eval_batch_size per_gpu_eval_batch_size
    prediction_loss_only eval_on_start eval_do_concat_batches eval_use_gather_object
    eval_accumulation_steps include_for_metrics include_inputs_for_metrics batch_eval_metrics
    bf16_full_eval fp16_full_eval
    save_only_model save_strategy save_steps save_on_each_node save_total_limit
    restore_callback_states_from_checkpoint enable_jit_checkpoint
    push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision
    push_to_hub_model_id push_to_hub_organization push_to_hub_token
"""
"""What is watched, written and published; of no consequence for what is trained."""

_ONE_VALUE = """
    sampling_temperature dataloader_drop_last
    dataloader_in_order per_gpu_train_batch_size optim_target_modules average_tokens_across_devices
    torch_empty_cache_steps include_num_input_tokens_seen include_tokens_per_second
    use_liger_kernel liger_kernel_config save_safetensors past_index jit_mode_eval
    use_legacy_prediction_loop mp_parameters deepspeed
"""
"""All other values are refused in every run, or replaced (`sampling_temperature`)."""

CLASSES: Mapping[str, tuple[str, ...]] = {
    "stays": tuple(_STAYS.split()),
    "stays if set": tuple(_STAYS_IF_SET.split()),
    "takes effect": tuple(_TAKES_EFFECT.split()),
    "takes effect without a word": tuple(_LENGTH.split()),
    "of no consequence": tuple(
        f"{_BATCHES} {_SAME_NUMBERS} {_BESIDE_TRAINING} {_ONE_VALUE}".split()
    ),
}
"""What may become of an argument → the arguments."""

_RECORDED = (*CLASSES["stays"], *CLASSES["stays if set"], *CLASSES["takes effect"])


def recorded_arguments(given: Mapping[str, object]) -> dict[str, object]:
    """The arguments that a checkpoint records, JSON.

    Args:
        given: name → value of the arguments.

    Returns:
        Those that matter where the run is resumed; what this release does not have is left out.
    """
    return {name: plain(given[name]) for name in _RECORDED if name in given}


def refused_changes(saved: Mapping[str, object], current: Mapping[str, object]) -> list[str]:
    """The arguments of which both are known, and which must not differ but do."""
    refused = _changed(CLASSES["stays"], saved, current)

    for name in _changed(CLASSES["stays if set"], saved, current):
        if saved[name] is not None and current[name] is not None:
            refused.append(name)
    return refused


def allowed_changes(saved: Mapping[str, object], current: Mapping[str, object]) -> list[str]:
    """The arguments of which both are known, and which differ and take effect."""
    return _changed(CLASSES["takes effect"], saved, current)


def plain(value: object) -> object:
    """A value as JSON gives it back: without enums, tuples, sets, and objects of other kinds."""
    if isinstance(value, Enum):
        return value.value
    return json.loads(json.dumps(value, default=_for_json))


def _for_json(value: object) -> object:
    # The order of a set differs from process to process.
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    return str(value)


def _changed(
    names: tuple[str, ...], saved: Mapping[str, object], current: Mapping[str, object]
) -> list[str]:
    both = [name for name in names if name in saved and name in current]
    return [name for name in both if saved[name] != current[name]]
