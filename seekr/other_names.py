"""Keys by the names that other tools give them, and what means the same here."""

from __future__ import annotations

from collections.abc import Callable, Collection

from seekr.errors import nearest

_ROWS = "tasks, a list of {name: NAME, train: FILE, test: FILE}"

SAME = {
    "model": "model_name_or_path model_name model_id base_model pretrained_model_name_or_path",
    "model, whose folder holds the tokenizer too": "tokenizer tokenizer_name tokenizer_name_or_path",
    _ROWS: (
        "dataset datasets dataset_name dataset_dir dataset_path data_path data_files train_file train_data "
        "train_dataset dataset_mixer"
    ),
    "tasks.N.eval": "validation_file eval_file eval_dataset val_data validation valid dev val",
    "tasks.N.test": "test_file test_dataset predict_dataset",
    "tasks.N.train": "path file training rows",
    "tasks.N.train_limit": "max_samples max_train_samples num_train_samples n_train",
    "tasks.N.test_limit": "max_eval_samples max_predict_samples max_test_samples n_test",
    "tasks.N.max_new_tokens": "max_tokens generation_max_length max_target_length max_answer_length",
    "tasks.N.metric": "metrics compute_metrics scorer",
    "max_length": (
        "max_seq_length max_seq_len cutoff_len sequence_len seq_len seq_length model_max_length block_size "
        "max_input_length max_source_length max_prompt_length context_length"
    ),
    "chat_template, the file of a Jinja template; without one the tokenizer's own is used": (
        "template prompt_template chat_template_file jinja_template conversation_template"
    ),
    "dtype": "torch_dtype precision model_dtype compute_dtype pure_bf16",
    "training.bf16: true, or training.fp16: true": (
        "mixed_precision amp half_precision_backend fp16_backend fp16_opt_level apex"
    ),
    "training.learning_rate": "lr base_lr max_lr",
    "training.num_train_epochs": "epochs num_epochs n_epochs max_epochs train_epochs",
    "training.max_steps": "num_steps train_steps max_train_steps num_training_steps iters",
    "training.per_device_train_batch_size": (
        "batch_size train_batch_size micro_batch_size per_gpu_train_batch_size mini_batch_size"
    ),
    "training.per_device_eval_batch_size": "eval_batch_size per_gpu_eval_batch_size test_batch_size",
    "training.gradient_accumulation_steps": "gradient_accumulation grad_accum accumulate_grad_batches",
    "training.lr_scheduler_type": "lr_scheduler scheduler scheduler_type lr_schedule",
    "training.warmup_steps, where a number below 1 is a share of the steps": "warmup_ratio warmup warmup_fraction",
    "training.optim": "optimizer optimizer_name optimiser adafactor",
    "training.max_grad_norm": "gradient_clipping grad_clip clip_grad_norm max_gradient_norm",
    "training.adam_beta1 and training.adam_beta2": "betas adam_betas",
    "training.gradient_checkpointing": "use_gradient_checkpointing recompute",
    "training.use_cpu": "no_cuda use_mps_device",
    "training.report_to": "use_wandb wandb wandb_project tracker log_with",
    "training.report_to: tensorboard, which writes to logs/ in output_dir": "logging_dir log_dir",
    "training.save_steps": "saves_per_epoch checkpoint_every save_every checkpointing_steps",
    "training.save_total_limit": "max_checkpoints checkpoints_total_limit",
    "training.dataloader_num_workers": "num_workers preprocessing_num_workers dataset_num_proc",
    "training.use_liger_kernel": "enable_liger_kernel use_liger liger",
    "training.torch_compile": "compile use_compile torchdynamo",
    "training.fsdp_config": "fsdp_transformer_layer_cls_to_wrap fsdp_min_num_params",
    "lora.r": "lora_rank lora_r rank lora_dim",
    "lora.lora_alpha": "alpha",
    "lora.lora_dropout": "dropout",
    "lora.target_modules": "lora_target lora_targets lora_target_modules target targets lora_modules",
    "lora.modules_to_save": "additional_target lora_modules_to_save",
    "lora, such as lora: {r: 8}; without it all weights are trained": (
        "finetuning_type use_lora adapter use_peft peft peft_config"
    ),
    "method": "cl_method continual_method algorithm",
    "method.replay_ratio": (
        "buffer_size memory_size mem_size replay_size rehearsal_ratio replay_buffer_size past_task_ratio"
    ),
    "method.penalty_weight": "ewc_lambda lambda_ewc",
    "method.prompt_tokens": "num_virtual_tokens prompt_length prefix_length",
    "output_dir": "save_dir output_path out_dir run_dir save_path",
    "seed": "random_seed random_state",
    "vllm: {}": "use_vllm infer_backend",
}
"""What is written here → what other tools call it."""

NEEDLESS = {
    "tasks are scored after each stage, see the key cells; leave it out": (
        "evaluation_strategy do_predict predict_with_generate evals_per_epoch evaluate_during_training"
    ),
    "each task has its own eval: FILE, and `seekr tune --holdout 0.1` takes rows of train; leave it out": (
        "val_size val_set_size validation_split_percentage test_size"
    ),
    "the same command goes on where a run stopped; leave it out": (
        "resume auto_resume resume_from auto_resume_from_checkpoints overwrite_output_dir"
    ),
    "only answers are trained; leave it out": (
        "train_on_inputs completion_only_loss assistant_only_loss mask_prompt train_on_prompt mask_history"
    ),
    "rows are packed by themselves where that is cheaper, without seeing each other; leave it out": (
        "packing sample_packing neat_packing pad_to_sequence_len padding_free eval_packing"
    ),
    "models are trained in 16 or 32 bits; dtype: bfloat16 with lora takes the least memory; leave it out": (
        "load_in_4bit load_in_8bit quantization quantization_bit qlora bnb_config"
    ),
    "no code of a model is run; leave it out": "trust_remote_code",
    "weights are saved as safetensors; leave it out": "save_safetensors",
    "the order of the rows is fixed by the seed; leave it out": "group_by_length length_column_name",
    "how attention is computed is transformers' choice for the model; leave it out": (
        "flash_attn flash_attention attn_implementation use_flash_attention_2 xformers_attention"
    ),
}
"""What is said of keys of other tools that have no counterpart → those keys."""

HOMES: dict[str, Callable[[], Collection[str]]] = {}
"""Section of the configuration, "" = the top level → its keys. Whoever reads a section adds it."""

REFUSALS: dict[str, str] = {}
"""Keys of training that cannot be set → why, added in the same way."""

_SAME = {name: here for here, names in SAME.items() for name in names.split()}
_NEEDLESS = {name: said for said, names in NEEDLESS.items() for name in names.split()}


def meant(key: str, valid: Collection[str], section: str = "") -> str:
    """The end of a message about an unknown key: what means the same here, or else the nearest by spelling.

    Args:
        key: what was given.
        valid: the keys of the place that it was given in.
        section: that place: "training", "lora", "method", "tasks.N", or "" for the top level.
    """
    plain = key.lower().replace("-", "_")
    if plain in valid:
        return f"did you mean {plain!r}?"
    if plain in _NEEDLESS:
        return _NEEDLESS[plain]
    here = _SAME.get(plain) or _elsewhere(plain, section)
    if here == f"training.{plain}" and plain in REFUSALS:
        return REFUSALS[plain]
    if here is None:
        return nearest(key, valid)
    place = here.partition(",")[0].partition(":")[0].partition(" ")[0]
    home, _, name = place.rpartition(".")
    if section and name in valid:
        return f"here that is {here.removeprefix(f'{home}.')}"
    if section and home == section:
        return nearest(key, valid)  # of another method
    return f"here that is {here}{', at the top level' if section and not home else ''}"


def _elsewhere(key: str, section: str) -> str | None:
    """The dotted name of a key of seekr that was given in the wrong place."""
    return next(
        (f"{home}.{key}".lstrip(".") for home, keys in HOMES.items() if home != section and key in keys()), None
    )
