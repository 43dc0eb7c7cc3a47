"""The table of tasks: what `config.task` may name."""

import jax.numpy as jnp
from jaxtyping import Array
from ml_collections import ConfigDict

from date_jax.capture import evaluation as capture
from date_jax.date import adaptive, evaluation, supervised
from date_jax.same_style import evaluation as same_style
from date_jax.task import Course, Task

TASKS = {"pgda": adaptive.build, "date": supervised.build}

COURSES: dict[str, Course] = {  # by config.task
    "pgda": evaluation.COURSE,
    "date": evaluation.COURSE,
    "capture": capture.COURSE,
    "same_style": same_style.COURSE,
}


def build(config: ConfigDict, vocab_size: int, swap_table: Array) -> Task:
    """The task that `config.task` names.

    Args:
        vocab_size: of the corpus' tokenizer.
        swap_table: int `[vocab_size]`, token id → token id under a mirror.
    """
    return TASKS[config.task](config, vocab_size, jnp.asarray(swap_table, jnp.int32))
