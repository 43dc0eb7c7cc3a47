"""What is learned: one problem, one file."""

import jax.numpy as jnp
from jaxtyping import Array
from ml_collections import ConfigDict

from date_jax.tasks import date, pgda
from date_jax.tasks.task import Task

TASKS = {"pgda": pgda.build, "date": date.build}


def build(config: ConfigDict, vocab_size: int, swap_table: Array) -> Task:
    """The task that `config.task` names.

    Args:
        vocab_size: of the corpus' tokenizer.
        swap_table: int `[vocab_size]`, token id → token id under a mirror.
    """
    return TASKS[config.task](config, vocab_size, jnp.asarray(swap_table, jnp.int32))
