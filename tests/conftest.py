"""Eight virtual devices, shapes checked at every call, one cache for all workers of a test run."""

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jaxtyping
import pytest
from absl import logging
from ml_collections import ConfigDict

# The process that starts the workers makes it and they inherit it: rendered shops and compiled
# steps are shared.
IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
if not IS_WORKER:
    os.environ["DATE_JAX_CACHE"] = tempfile.mkdtemp(prefix="date_jax_tests_")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# What is compiled here runs a few times: more than half the time of compiling it goes into making
# it fast.
_COMPILE_QUICKLY = [
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
]
if jax.__version_info__ < (0, 11):  # a flag that XLA does not know ends the process
    _COMPILE_QUICKLY.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_COMPILE_QUICKLY])

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", os.environ["DATE_JAX_CACHE"] + "/compiled")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

# As main.py has it. Orbax logs whole trees: kept by pytest, they took 20 s a test to throw away.
logging.set_verbosity(logging.ERROR)

# Before the first import of the package: the shapes in its signatures are then enforced.
jaxtyping.install_import_hook("date_jax", "beartype.beartype")


# Files that take minutes begin first, or one worker would end long after the others.
_LONG = ("train", "multihost", "capture_run", "train_step", "same_style_run", "parity", "tasks")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    names = [f"test_{name}.py" for name in _LONG]
    items.sort(key=lambda item: names.index(item.path.name) if item.path.name in names else 99)


def pytest_unconfigure() -> None:
    if not IS_WORKER:
        shutil.rmtree(os.environ["DATE_JAX_CACHE"], ignore_errors=True)


@pytest.fixture
def tiny_config() -> ConfigDict:
    """The main job at its smallest: 60 pictures a domain, 12 steps through all three stages."""
    from configs.pgda import get_config

    config = get_config()
    config.steps, config.batch_size = 12, 16
    config.data.image_size, config.data.text_length = 32, 12
    config.data.shop.update(pictures=60, products=20, workers=1)
    config.model.width = 32
    config.model.image.update(width=16, depths=(1, 1), heads=(2, 2))
    config.model.text.update(layers=1, width=32, heads=2)
    config.model.fusion.update(layers=1, heads=2, mlp_width=32)
    config.aligner.hidden = 32
    config.stages.update(align=0.34, pseudo=0.5)
    config.pseudo_boxes.every = 3
    config.log.every, config.eval.every, config.eval.batch_size = 2, 6, 8
    config.checkpoint.update(every=4, keep=2)
    return config


@pytest.fixture
def tiny_capture_sizes() -> dict[str, Any]:
    """What makes CAPTURE's job its smallest, by key."""
    streams = {"width": 16, "embedding": 16, "cross.width": 16}
    for part in ("text", "image", "cross", "joint"):
        streams |= {f"{part}.layers": 1, f"{part}.heads": 2}
    streams |= {"text.mlp_width": 16, "image.mlp_width": 16}
    suites = {"posts": 48, "composites": 32, "queries": 12, "views": 2, "products": 100}
    return {
        "steps": 6,
        "batch_size": 16,
        "data.image_size": 32,
        "data.text_length": 20,
        **{f"data.suites.{k}": v for k, v in (suites | {"unseen": 6, "workers": 1}).items()},
        **{f"model.streams.{key}": value for key, value in streams.items()},
        "model.image.width": 16,
        "model.image.depths": (1, 1),
        "model.image.heads": (2, 2),
        "model.regions.count": 6,
        "model.regions.width": 40,
        "retrieval.instances": 3,
        "log.every": 2,
        "eval.every": 4,
        "eval.batch_size": 8,
        "checkpoint.every": 4,
    }


@pytest.fixture
def tiny_capture(tiny_capture_sizes: dict[str, Any]) -> ConfigDict:
    """That job."""
    from configs.capture import get_config

    config = get_config()
    config.update_from_flattened_dict(tiny_capture_sizes)
    return config


@pytest.fixture
def tiny_same_style_sizes() -> dict[str, Any]:
    """What makes same_style's job its smallest, by key."""
    return {
        "steps": 6,
        "batch_size": 16,
        "data.image_size": 32,
        "data.text_length": 12,
        "data.suppliers.products": 60,
        "data.suppliers.workers": 1,
        "data.clicks.rows": 20_000,
        "data.clicks.min_support": 2,
        "model.width": 16,
        "model.embedding": 16,
        "model.image.width": 16,
        "model.image.depths": (1, 1),
        "model.image.heads": (2, 2),
        "model.text.layers": 1,
        "model.text.width": 16,
        "model.text.heads": 2,
        "model.joint.layers": 1,
        "model.joint.heads": 2,
        "model.joint.mlp_width": 16,
        "log.every": 2,
        "eval.every": 4,
        "eval.batch_size": 8,
        "checkpoint.every": 4,
    }


@pytest.fixture
def tiny_same_style(tiny_same_style_sizes: dict[str, Any]) -> ConfigDict:
    """That job."""
    from configs.same_style import get_config

    config = get_config()
    config.update_from_flattened_dict(tiny_same_style_sizes)
    return config


@pytest.fixture
def overrides(tiny_config: ConfigDict) -> list[str]:
    """`tiny_config` as arguments of the command, for tests that start processes."""
    from date_jax.run import workdir

    values = workdir.flat(tiny_config.to_dict())
    return [f"--config.{key}={value}" for key, value in values.items()]


@pytest.fixture(scope="session")
def root() -> Path:
    """Of the repository."""
    return Path(__file__).parent.parent


@pytest.fixture(scope="session")
def untrained_run() -> Callable[[ConfigDict, Path], Path]:
    """Makes a folder that looks like a run of some config that was saved at its first step.

    Its numbers are random: what it answers is the same twice, and means nothing.
    """

    def write(config: ConfigDict, folder: Path) -> Path:
        from date_jax.data.tokenizer import tokenizer_of_texts
        from date_jax.run.checkpoint import Checkpoints
        from date_jax.step import State
        from date_jax.tasks import TASKS

        texts = ["a striped red mug", "the blue bag", "one green lamp on the left", "the shoe"]
        tokenizer = tokenizer_of_texts(texts, size=200, length=config.data.text_length)
        task = TASKS[config.task]
        learner = task.learner(config, tokenizer, {})
        params, _ = jax.jit(learner.init)(jax.random.key(0), task.example(config))
        state = State(*(params if field.name == "ema" else jax.numpy.zeros(1)
                        for field in dataclasses.fields(State)))  # fmt: skip
        checkpoints = Checkpoints(folder / "checkpoints", keep=1)
        checkpoints.save(1, state, {"config": config.to_dict()})
        checkpoints.close()
        tokenizer.save(folder)
        return folder

    return write
