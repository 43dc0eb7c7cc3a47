"""The words that other programs of the field use for what a config here calls by another name."""

from collections.abc import Container

# By key of a config, or by flag, the words that stand for it elsewhere.
WORDS = {
    "optim.learning_rate": "lr lr0 base_lr peak_lr max_lr init_lr initial_lr alpha step_size",
    "optim.schedule": "scheduler lr_scheduler lr_schedule lr_scheduler_type lr_decay",
    "optim.warmup": "warmup_steps warmup_epochs warmup_iters warmup_ratio warmup_fraction "
    "num_warmup_steps",
    "optim.weight_decay": "wd decay l2 adam_weight_decay",
    "optim.beta2": "b2 betas adam_beta2",
    "optim.clip": "grad_clip clip_grad clip_norm max_norm max_grad_norm clip_grad_norm "
    "gradient_clip gradient_clip_val gradient_clipping",
    "optim.ema": "ema_decay ema_rate polyak",
    "optim.backbone_scale": "lr_backbone backbone_lr backbone_lr_mult layer_decay",
    "steps": "epoch epochs num_epochs n_epochs max_epochs train_epochs num_train_epochs "
    "step max_steps num_steps n_steps total_steps train_steps num_train_steps training_steps "
    "iters iterations num_iters max_iter max_iters max_iterations num_iterations",
    "batch_size": "bs batch batchsize train_batch_size global_batch_size batch_size_per_gpu "
    "per_device_batch_size per_device_train_batch_size",
    "eval.batch_size": "eval_batch_size val_batch_size test_batch_size per_device_eval_batch_size",
    "eval.every": "eval_every eval_steps eval_interval val_interval val_check_interval",
    "checkpoint.every": "save_every save_steps save_interval save_freq checkpoint_every "
    "ckpt_every checkpoint_interval",
    "checkpoint.keep": "save_total_limit max_to_keep keep_checkpoints",
    "log.every": "log_every log_steps logging_steps log_interval print_freq",
    "seed": "random_seed rng_seed random_state manual_seed",
    "data.image_size": "img_size imgsz imsize input_size resolution image_resolution img_res",
    "data.text_length": "max_length max_len max_seq_length seq_len seq_length context_length "
    "max_text_length text_len max_query_len",
    "data.path": "dataset_path data_path data_dir data_root data_file train_file train_data "
    "csv jsonl",
    "data.name": "dataset dataset_name",
    "data.vocab": "tokenizer vocab_file vocab_path",
    "model.dtype": "fp16 bf16 amp half precision mixed_precision",
    "model.remat": "gradient_checkpointing grad_checkpointing use_checkpoint checkpointing",
    "model.rows_at_once": "micro_batch micro_batch_size microbatch accum_steps grad_accum "
    "accumulate_grad_batches gradient_accumulation_steps",
    "model.width": "dim hidden_dim hidden_size embed_dim d_model",
    "init.image": "pretrained weights backbone_weights",
    "--workdir": "output output_dir out_dir outdir save_dir logdir log_dir run_dir resume "
    "resume_from exp_name run_name",
}
# What a user of the other word would not expect of the key.
_REMARKS = {
    "steps": "one batch each",
    "optim.warmup": "a share of config.steps",
    "optim.backbone_scale": "a share of config.optim.learning_rate",
    "batch_size": "rows of all devices",
    "model.rows_at_once": "rows of a device that go through the network at a time",
}
_KEY_OF = {word: key for key, words in WORDS.items() for word in words.split()}


def usual_word_hint(name: str, keys: Container[str], *, prefix: str = "") -> str:
    """A hint for a name that another program would know, to put behind it in a message; or nothing.

    >>> usual_word_hint("optim.lr", ["optim.learning_rate"])
    " (did you mean 'config.optim.learning_rate'?)"
    >>> usual_word_hint("epochs", ["steps"], prefix="--")
    " (did you mean '--config.steps', one batch each?)"

    Args:
        name: an unknown key of a config, or an unknown flag without its dashes.
        keys: all that there are, and all flags, these with their dashes.
        prefix: what stands before `config.` in the hint.
    """
    section, dot, word = name.lower().replace("-", "_").rpartition(".")
    key = _KEY_OF.get(word, "")
    # The same word in the section that was named comes first: `eval.bs` is eval.batch_size.
    near = section + dot + key.rpartition(".")[2]
    if key and section and near in keys:
        key = near
    if not key or key not in keys:
        return ""
    remark = f", {_REMARKS[key]}" if key in _REMARKS else ""
    flag = key if key.startswith("--") else f"{prefix}config.{key}"
    return f" (did you mean {flag!r}{remark}?)"
