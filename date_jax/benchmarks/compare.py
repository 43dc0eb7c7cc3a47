"""The training step and that of the same network in PyTorch, in turns, on the same machine.

Both have the same weights and batches, and must agree on their outputs in float32 before anything
is timed. Ours is the step that training runs, with augmentation and moving average; the peer does
without.
"""

import json
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from date_jax import sharding
from date_jax.benchmarks import step
from date_jax.benchmarks.children import Child, answer
from date_jax.errors import SetupError, UsageError
from date_jax.networks import exported
from date_jax.networks.sizes import stride
from date_jax.partition import merged
from date_jax.run import subprocesses

TOLERANCE = 1e-4  # of outputs in float32
SECONDS = 3.0  # that one measurement lasts, about


def run(config: ConfigDict, *, peer: str, rounds: int, devices: int) -> dict[str, Any]:
    """The seconds a step of both, and the median over the rounds of the ratio ours / theirs.

    Args:
        config: supervised, with the last stage's mean as the picture's vector, as the peer has it.
        peer: "torch", or "torch_compile" for its compiled form.
        rounds: each has ours, theirs, theirs, ours.
        devices: that ours makes of a CPU.

    Raises:
        SetupError: PyTorch is not installed, or the two networks do not agree.
        UsageError: the config asks for what the peer does not have.
    """
    _require_same_network(config)
    # Both sides get all cores, as only one of them works at a time.
    cores = subprocesses.cores()
    devices_of_ours = {"JAX_NUM_CPU_DEVICES": str(devices)}
    with (
        TemporaryDirectory() as folder,
        Child("date_jax.benchmarks.compare", cores, devices_of_ours) as ours,
        Child("date_jax.benchmarks.torch_peer", cores) as theirs,
    ):
        # Ours goes first: it writes the weights that the peer reads.
        question = {
            "config": json.loads(config.to_json()),
            "weights": folder,
            "compiled": peer == "torch_compile",
        }
        our_network, peer_network = ours.ask(question), theirs.ask(question)
        difference = _difference(our_network, peer_network)

        # In turns, there and back: a machine that grows slower is unfair to neither.
        sides = {"ours": ours, "theirs": theirs}
        steps = {name: _steps_of_measurement(side) for name, side in sides.items()}
        times: dict[str, list[float]] = {"ours": [], "theirs": []}
        for _ in range(rounds):
            for name in ("ours", "theirs", "theirs", "ours"):
                times[name].append(sides[name].ask({"steps": steps[name]})["seconds"])

    # A side's two times in a round differ by noise; a ratio within it decides nothing.
    pairs = {name: [*zip(x[::2], x[1::2], strict=True)] for name, x in times.items()}
    ratios = [sum(a) / sum(b) for a, b in zip(pairs["ours"], pairs["theirs"], strict=True)]
    noise = statistics.median(abs(a / b - 1) for side in pairs.values() for a, b in side)
    ratio = statistics.median(ratios)
    return {
        "peer": f"{peer_network['version']}{', compiled' if question['compiled'] else ''}",
        "parameters": our_network["parameters"],
        "largest_difference": difference,
        "seconds": statistics.median(times["ours"]),
        "peer_seconds": statistics.median(times["theirs"]),
        "ratio": ratio,
        "ratio_least": min(ratios),
        "ratio_most": max(ratios),
        "noise": noise,
        "verdict": "inconclusive" if abs(ratio - 1) <= noise else ("faster", "slower")[ratio > 1],
    }


def _require_same_network(config: ConfigDict) -> None:
    """Raises UsageError where the config asks for what the peer does not have."""
    # The peer's network is the supervised one, which pools the last stage by its mean.
    is_supervised = [*step.batch_shapes(config)] == ["source"]
    if not is_supervised or config.model.image.pooling != "mean":
        raise UsageError(
            "--compare: the peer is supervised and has no [REP]: take --config=configs/date.py:… "
            "and --config.model.image.pooling=mean"
        )
    for kind, name in {"image": "swin", "text": "bert"}.items():
        if (value := config.model[kind].kind) != name:
            raise UsageError(f"--compare: model.{kind}.kind={value}: the peer has only {name}")
    # The peer's losses have one form, and weight 1.
    for key, choice in {"loss": "softmax", "prior": "none"}.items():
        if (value := config.image_seeker[key]) != choice:
            raise UsageError(f"--compare: image_seeker.{key}={value}: the peer has only {choice}")
    for key in ("l1_weight", "giou_weight"):
        if (value := config.object_seeker[key]) != 1.0:
            raise UsageError(f"--compare: object_seeker.{key}={value}: the peer has only 1")
    # transformers' Swin has one size of window for all stages.
    image = config.model.image
    grid = config.data.image_size // stride(image)
    if image.window != grid:
        raise UsageError(
            f"--compare: our last stage is one window of {grid} tokens, the peer's windows are all "
            f"alike: set --config.model.image.window={grid}"
        )


def _difference(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    """The largest difference between the outputs; raises SetupError where it is not rounding."""
    if ours["parameters"] != theirs["parameters"]:
        raise SetupError(
            f"ours has {ours['parameters']:,} parameters, the peer {theirs['parameters']:,}: these "
            "are not the same network"
        )
    pairs = [(np.array(ours["out"][name]), np.array(theirs["out"][name])) for name in ours["out"]]
    difference = max(float(np.abs(a - b).max()) for a, b in pairs)
    if not difference <= TOLERANCE:
        raise SetupError(f"the outputs differ by {difference:.2g}: these are not the same network")
    return difference


def _steps_of_measurement(side: Child) -> int:
    """The number of steps of one measurement, after some that warm up."""
    for _ in range(2):
        side.ask({"steps": 2})
    return max(1, round(SECONDS / side.ask({"steps": 2})["seconds"]))


class Side:
    """Our side of the comparison: the first question builds it, the others time it."""

    _state: Any

    def __call__(self, question: dict[str, Any]) -> dict[str, Any]:
        if "weights" in question:
            return self._begin(ConfigDict(question["config"]), Path(question["weights"]))
        begun = time.perf_counter()
        for _ in range(question["steps"]):
            self._state, metrics = self._update(self._state, self._batches[self._turn % 3])
            self._turn += 1
        jax.block_until_ready((self._state, metrics))
        return {"seconds": (time.perf_counter() - begun) / question["steps"]}

    def _begin(self, config: ConfigDict, weights: Path) -> dict[str, Any]:
        """Builds the step and writes its weights; returns what must agree with the peer."""
        # The step, as training runs it.
        mesh = sharding.device_mesh(config.mesh.fsdp)
        words = config.data.vocab_size
        rows = [step.random_batch(config, seed, words) for seed in range(3)]
        _, train_step = step.learner_and_step(config, mesh)
        self._batches = [sharding.global_batch(mesh, batch) for batch in rows]
        self._turn, self._update, self._state = 0, train_step.update, train_step.init()
        params = merged(self._state.params, self._state.frozen)
        exported.write(weights, config, params, rest="seekers", meta={})

        # The outputs in float32, whatever it trains in.
        in_float32 = config.copy_and_resolve_references()
        in_float32.model.dtype = "float32"
        predict = step.learner_of(in_float32).predict
        names = ("box_cxcywh", "query_embedding", "image_embedding")
        batch = jax.tree.map(jnp.asarray, rows[0]["source"])
        with jax.default_matmul_precision("highest"):  # an accelerator's default is not float32
            out = jax.jit(lambda p, b: {name: predict[name](p, b) for name in names})(params, batch)
        return {
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
            "out": {name: np.asarray(x).tolist() for name, x in out.items()},
        }


if __name__ == "__main__":
    answer(Side())
