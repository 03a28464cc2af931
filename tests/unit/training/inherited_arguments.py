"""What `MetaAdapterTrainer` makes of every argument that it inherits, in all supported releases."""

from __future__ import annotations

WORKS = "works"
REFUSED = "refused"
HARMLESS = "no effect on training, and harmless: "

_SCRIPTS = HARMLESS + "read by scripts, not by any Trainer"
_DDP = HARMLESS + "the outer step sums its gradients itself, past the wrapper that would use it"
_REFUSED_PARTNER = HARMLESS + "acts only together with an argument that is refused"

_WORKING = """
    output_dir per_device_train_batch_size num_train_epochs max_steps learning_rate
    lr_scheduler_type lr_scheduler_kwargs warmup_steps warmup_ratio optim_args weight_decay
    adam_beta1 adam_beta2 adam_epsilon adafactor gradient_accumulation_steps label_smoothing_factor
    bf16 fp16 bf16_full_eval fp16_full_eval tf32 activation_checkpointing
    gradient_checkpointing torch_compile torch_compile_backend
    torch_compile_mode torchdynamo use_cache neftune_noise_alpha auto_find_batch_size
    full_determinism seed data_seed use_cpu no_cuda use_mps_device skip_memory_metrics debug
    tpu_metrics_debug

    logging_dir logging_strategy logging_steps logging_first_step log_on_each_node
    logging_nan_inf_filter log_level log_level_replica disable_tqdm report_to run_name project
    trackio_space_id trackio_bucket_id trackio_static_space_id

    eval_strategy eval_steps eval_delay per_device_eval_batch_size per_gpu_eval_batch_size
    prediction_loss_only eval_on_start eval_do_concat_batches eval_use_gather_object
    eval_accumulation_steps include_for_metrics include_inputs_for_metrics batch_eval_metrics

    save_only_model save_strategy save_steps save_on_each_node save_total_limit
    load_best_model_at_end metric_for_best_model greater_is_better ignore_data_skip
    restore_callback_states_from_checkpoint enable_jit_checkpoint

    push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision
    push_to_hub_model_id push_to_hub_organization push_to_hub_token

    dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers
    dataloader_prefetch_factor dataloader_multiprocessing_context remove_unused_columns label_names
    group_by_length length_column_name

    ddp_backend ddp_timeout local_rank
    fsdp fsdp_config fsdp_min_num_params fsdp_transformer_layer_cls_to_wrap parallelism_config
"""
"""The last line, what of it the outer step can use: the rest is refused by the launch checks."""

_REFUSED = """
    dataloader_drop_last dataloader_in_order
    per_gpu_train_batch_size optim_target_modules average_tokens_across_devices
    torch_empty_cache_steps include_num_input_tokens_seen include_tokens_per_second
    use_liger_kernel liger_kernel_config save_safetensors past_index
    jit_mode_eval use_legacy_prediction_loop half_precision_backend fp16_backend mp_parameters
    deepspeed
    train_sampling_strategy optim max_grad_norm accelerator_config gradient_checkpointing_kwargs
    activation_checkpointing_kwargs
"""
"""The last two lines, with some of their values: the others work. Of `accelerator_config`,
`even_batches`, `use_seedable_sampler` and `non_blocking` act on the loaders of evaluation; rows of
training are shared out, and drawn from the seed, by `LanguageBatchSampler`.
"""

ARGUMENTS: dict[str, str] = {
    **dict.fromkeys(_WORKING.split(), WORKS),
    **dict.fromkeys(_REFUSED.split(), REFUSED),
    **dict.fromkeys(
        ("do_train", "do_eval", "do_predict", "overwrite_output_dir", "resume_from_checkpoint"),
        _SCRIPTS,
    ),
    **dict.fromkeys(
        (
            "ddp_find_unused_parameters",
            "ddp_bucket_cap_mb",
            "ddp_broadcast_buffers",
            "ddp_static_graph",
        ),
        _DDP,
    ),
    "fp16_opt_level": _REFUSED_PARTNER,
    "tpu_num_cores": HARMLESS + "read by the launcher of TPUs, which are refused",
    "ray_scope": HARMLESS + "of `hyperparameter_search`, which needs a `model_init`",
    "_n_gpu": HARMLESS + "an internal count of devices, set by transformers",
}
"""Name → what becomes of it."""
