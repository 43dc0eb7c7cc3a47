"""The tables of tasks: what `config.task` may name, and what may be asked."""

from date_jax import towers
from date_jax.capture import task as capture
from date_jax.date import adaptive, supervised
from date_jax.same_style import task as same_style
from date_jax.task import Task

TASKS: dict[str, Task] = {
    "pgda": adaptive.TASK,
    "date": supervised.TASK,
    "capture": capture.TASK,
    "same_style": same_style.TASK,
}
# A published model is asked as a run is, but not trained.
ANSWERING: dict[str, Task] = {**TASKS, "towers": towers.TASK}
