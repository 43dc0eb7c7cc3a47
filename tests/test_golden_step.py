"""Two fixed steps of stage 3, number for number: nothing that trains may change unnoticed.

Every number that the steps depend on stands here, so tuning `configs/` does not move them. A change
that means to alter the arithmetic replaces GOLDEN by what the failing test prints, and says why in
its commit; any other change that fails here is wrong.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from date_jax import sharding
from date_jax.date import adaptive
from date_jax.step import train_step

ROWS, SIDE, LENGTH, VOCAB, TARGETS = 8, 16, 6, 20, 12

CONFIG = {
    "task": "pgda",
    "method": "date",
    "seed": 0,
    "steps": 4,
    "data": {"text_length": LENGTH},
    "model": {
        "dtype": "float32",
        "remat": False,
        "scan": False,
        "rows_at_once": 0,
        "width": 16,
        "image": {
            "patch": 4,
            "width": 8,
            "depths": (1, 1),
            "heads": (1, 2),
            "window": 2,
            "mlp_ratio": 2.0,
            "pooling": "rep",
        },
        "text": {"layers": 1, "width": 8, "heads": 2, "mlp_ratio": 2.0, "dropout": 0.1},
        "fusion": {"layers": 1, "heads": 2, "mlp_width": 16, "dropout": 0.1, "norm_first": True},
    },
    "image_seeker": {
        "weight": 0.3,
        "target_weight": 0.2,
        "loss": "softmax",
        "prior": "dual_softmax",
        "prior_temperature": 10.0,
    },
    "object_seeker": {"weight": 1.0, "l1_weight": 2.0, "giou_weight": 1.5},
    "aligner": {
        "kind": "conditional_adversarial",
        "weight": 0.1,
        "image_weight": 0.5,
        "text_weight": 0.7,
        "unbiased": False,
        "queue": 0,
        "hidden": 8,
    },
    "stages": {"align": 0.0, "pseudo": 0.0},
    "pseudo_boxes": {"weight": 0.8, "teacher": "ema", "looks": 2},
    "augment": {
        "ramp": 0.25,  # off in the first step, whole in the second
        "focus": 0.5,  # and this the other way round
        "zoom_in": 1.5,
        "zoom_out": 1.3,
        "aspect": 1.2,
        "flip": 0.5,
        "brightness": 0.3,
        "contrast": 0.3,
        "saturation": 0.3,
        "cast": 0.2,
        "noise": 0.05,
        "blur": 1.0,
        "erase": 0.5,
    },
    "optim": {
        "learning_rate": 1e-2,
        "warmup": 0.25,  # the first step does not move, the second at the full rate
        "schedule": "cosine",
        "weight_decay": 0.1,
        "clip": 1.0,
        "ema": 0.9,
        "backbone_scale": 0.5,
        "beta2": 0.999,
    },
}


GOLDEN: list[dict[str, float]] = [
    {
        "align_image": 0.7447058,
        "align_object": 0.7068243,
        "align_text": 0.6619952,
        "box": 2.830695,
        "gradient_norm": 23.47134,
        "image": 2.034749,
        "iou": 0.2199071,
        "loss": 5.215181,
        "moved aligner": 0,
        "moved image_extractor": 0,
        "moved image_projection": 0,
        "moved image_seeker": 0,
        "moved object_seeker": 0,
        "moved text_extractor": 0,
        "moved text_projection": 0,
        "pseudo": 1.904989,
        "pseudo_share": 0.75,
        "skipped": 0,
        "target_image": 2.384052,
    },
    {
        "align_image": 0.7475664,
        "align_object": 0.6974519,
        "align_text": 0.7180713,
        "box": 2.097383,
        "ema": 27.35995,
        "gradient_norm": 25.97304,
        "image": 2.322377,
        "iou": 0.3655298,
        "loss": 4.347014,
        "moved aligner": 0.1980746,
        "moved image_extractor": 0.2204354,
        "moved image_projection": 0.1218886,
        "moved image_seeker": 0.01001334,
        "moved object_seeker": 0.388406,
        "moved text_extractor": 0.1002881,
        "moved text_projection": 0.08767496,
        "pseudo": 1.612611,
        "pseudo_share": 0.75,
        "skipped": 0,
        "target_image": 2.139816,
    },
]


def domain(seed: int) -> dict[str, np.ndarray]:
    """A function of the seed that no library's random numbers can change."""
    places = np.arange(ROWS * SIDE * SIDE * 3, dtype=np.int64)
    pixels = (places * 7919 + seed * 104_729) // 13 % 256
    numbers = np.arange(ROWS * LENGTH).reshape(ROWS, LENGTH)
    return {
        "image": pixels.reshape(ROWS, SIDE, SIDE, 3).astype(np.uint8),
        "text": (numbers * 7919 + seed * 104_729) // 13 % (VOCAB - 5) + 5,
        "text_mask": np.arange(LENGTH)[None] < 3 + np.arange(ROWS)[:, None] % 4,
        "product_id": np.arange(ROWS) // 2 + seed,
        "index": (np.arange(ROWS) * 5 + seed) % TARGETS,
        "mask": np.ones(ROWS, bool),
    }


def batch() -> dict[str, Any]:
    rows = np.arange(ROWS, dtype=np.float32)[:, None]
    boxes = {
        "box_cxcywh": 0.35 + 0.03 * rows + np.float32([[0.0, 0.05, -0.1, 0.02]]),
        "box_mask": np.arange(ROWS) % 4 > 0,
    }
    both = {"source": {**domain(1), **boxes}, "target": domain(2)}
    return jax.tree.map(lambda x: x.astype(np.int32) if x.dtype == np.int64 else x, both)


def table() -> dict[str, np.ndarray]:
    rows = np.arange(TARGETS, dtype=np.float32)[:, None]
    return {
        "box_cxcywh": 0.3 + 0.03 * rows + np.float32([[0.02, 0.0, 0.05, -0.05]]),
        "weight": (np.arange(TARGETS) % 3 > 0).astype(np.float32),
    }


def moved(before: Any, after: Any) -> dict[str, float]:
    """The norm of each module's update. Without the keys' biases: softmax does not see them, so
    their gradient is rounding noise, which Adam blows up to a full step."""

    def update(path: Any, old: np.ndarray, new: np.ndarray) -> np.ndarray:
        return np.zeros(()) if "['key']['bias']" in jax.tree_util.keystr(path) else new - old

    updates = jax.tree_util.tree_map_with_path(update, before, after)
    modules = {**updates["model"], "aligner": updates["aligner"]}
    return {f"moved {name}": float(optax.tree.norm(tree)) for name, tree in modules.items()}


def test_two_steps_give_the_golden_numbers() -> None:
    config, mesh = ConfigDict(CONFIG), sharding.device_mesh(1, jax.devices()[:1])
    # Mirrored, the even words are the odd ones.
    learner = adaptive.learner(config, VOCAB, jnp.arange(VOCAB, dtype=jnp.int32) ^ 1, TARGETS)
    step = train_step(config, learner, mesh, batch())
    state, found = step.init.lower().compile()(), []
    replicated = {
        "pseudo_boxes": sharding.device_arrays(table(), sharding.replicated_sharding(mesh))
    }
    state = dataclasses.replace(state, memory=state.memory._replace(replicated=replicated))
    given = sharding.global_batch(mesh, batch())
    update = step.update.lower(state, given).compile()
    for _ in range(2):
        before = jax.device_get(state.params)
        state, metrics = update(state, given)
        numbers = {name: float(value) for name, value in metrics.items()}
        found.append(numbers | moved(before, jax.device_get(state.params)))
    average = optax.tree.norm(jax.device_get(state.ema))
    found[-1]["ema"] = float(average)
    printed = ",\n".join(
        "    {\n" + "".join(f'        "{k}": {v:.7g},\n' for k, v in sorted(step.items())) + "    }"
        for step in found
    )
    message = f"if the arithmetic was meant to change, and only then:\nGOLDEN = [\n{printed},\n]"
    assert [step.keys() for step in found] == [step.keys() for step in GOLDEN], message
    for now, golden in zip(found, GOLDEN, strict=True):
        for name, value in golden.items():
            np.testing.assert_allclose(now[name], value, 1e-4, 1e-6, err_msg=f"{name}: {message}")
