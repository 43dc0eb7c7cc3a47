"""Predictions over a whole split: made on the mesh, every real row brought to every host."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from date_jax import sharding
from date_jax.errors import Preempted
from date_jax.pairs.tiles import map_chunks

# Keys of a batch that go with the predictions. The true box is renamed: there is a predicted one.
_ROW_KEYS = {
    "index": "index",
    "product_id": "product_id",
    "box_mask": "box_mask",
    "box_cxcywh": "true_box_cxcywh",
}

Predict: TypeAlias = Mapping[str, Callable[[Any, dict[str, Any]], jax.Array]]
Collect: TypeAlias = Callable[..., dict[str, np.ndarray]]


def collector(predict: Predict, mesh: jax.sharding.Mesh, *, rows_at_once: int = 0) -> Collect:
    """The function that collects predictions over batches.

    It is made once, for its first use compiles. All predictions are one program, so that those
    which share an extractor pay for it once.

    Args:
        predict: by name, `(params, batch) -> [B ...]`.
        mesh: the batch's rows are spread over it, the results are replicated.
        rows_at_once: of each device; see `map_chunks`. 0 for all.

    Returns:
        `collect(params, batches, *, should_stop=None) -> dict of arrays [N ...]`. `batches` are
        this process's rows of padded batches of one size (`mask` false = padding), equally many on
        every process. The result holds the real rows in the order of the split, the same on every
        process: the predictions by name, `index`, `product_id`, and where the batches have boxes
        `box_mask` and `true_box_cxcywh`. `should_stop()` is asked before each batch, has to answer
        alike on every process, and ends the work with `Preempted`.
    """

    def rows(params: Any, batch: dict[str, Any]) -> dict[str, jax.Array]:
        columns = {name: batch[key] for key, name in _ROW_KEYS.items() if key in batch}
        return columns | predictions(params, batch) | {"mask": batch["mask"]}

    def predictions(params: Any, batch: dict[str, Any]) -> dict[str, jax.Array]:
        def chunk_predictions(params: Any, chunk: dict[str, Any], _: Any) -> dict[str, jax.Array]:
            return {name: function(params, chunk) for name, function in predict.items()}

        with sharding.mesh_context(mesh):
            return map_chunks(chunk_predictions, params, batch, at_once=rows_at_once)

    # Results are small: every device, and so every host, gets all of them.
    replicated_rows = jax.jit(rows, out_shardings=sharding.replicated_sharding(mesh))

    def collect(
        params: Any,
        batches: Iterable[dict[str, np.ndarray]],
        *,
        should_stop: Callable[[], bool] | None = None,
    ) -> dict[str, np.ndarray]:
        fetched: list[dict[str, np.ndarray]] = []
        running = None
        for local in batches:
            # Between batches, so that no process leaves the others alone in a program.
            if should_stop is not None and should_stop():
                raise Preempted("stopped during an evaluation")
            dispatched = replicated_rows(params, sharding.global_batch(mesh, local))
            # The devices compute this batch while the host waits for the one before.
            if running is not None:
                fetched.append(_real_rows(running))
            running = dispatched
        if running is None:
            raise ValueError("there is nothing to collect: the split gave no batch")
        fetched.append(_real_rows(running))
        return {name: np.concatenate([rows[name] for rows in fetched]) for name in fetched[0]}

    return collect


def not_finite_notes(rows: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Notes on predictions that are not finite, the outcome of a run that diverges.

    Args:
        rows: predictions by name, `[N ... D]`: boxes where the name speaks of one, else embeddings.

    Returns:
        A note such as "3 of 8 boxes are not finite, ..." for boxes and for embeddings; none where
        all are finite.
    """
    # Of each kind how many are not finite, and how many there are. Instances come from proposals,
    # and those that a mask leaves out may be anything.
    counts = {"boxes": [0, 0], "embeddings": [0, 0]}
    for name, values in rows.items():
        is_prediction = name not in _ROW_KEYS.values() and not name.startswith("instance_")
        if is_prediction and jnp.issubdtype(values.dtype, jnp.floating):
            finite = np.isfinite(values).all(axis=-1)
            kind = counts["boxes" if "box" in name else "embeddings"]
            kind[0] += finite.size - int(finite.sum())
            kind[1] += finite.size
    return tuple(
        f"{wrong:,} of {size:,} {kind} are not finite, and the measures mean nothing\n"
        "  the run has diverged: lower --config.optim.learning_rate"
        for kind, (wrong, size) in counts.items()
        if wrong
    )


def _real_rows(rows: dict[str, jax.Array]) -> dict[str, np.ndarray]:
    """Host copies without the rows that only fill the batch."""
    host = {name: np.asarray(value) for name, value in rows.items()}
    mask = host.pop("mask").astype(bool)
    return {name: value[mask] for name, value in host.items()}
