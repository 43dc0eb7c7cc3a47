"""The benchmark counts and prints what it should; how fast anything is, no test says."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from date_jax import benchmark
from date_jax.benchmarks import loss, measure, plan, selection
from date_jax.benchmarks.flops import matmul_flops
from date_jax.sharding import device_mesh

A, B = jax.ShapeDtypeStruct((3, 5), jnp.float32), jax.ShapeDtypeStruct((5, 7), jnp.float32)
ONE = 2 * 3 * 5 * 7  # flops of A @ B


def repeated(a: Any, b: Any) -> Any:
    return jax.lax.scan(lambda sum_, _: (sum_ + a @ b, None), jnp.zeros((3, 7)), length=4)[0]


def branched(a: Any, b: Any) -> Any:
    return jax.lax.cond(a[0, 0] > 0, lambda: a @ b, lambda: (a @ b) + (a @ b) * 2)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda a, b: a @ b, ONE),
        (lambda a, b: jnp.sin(a) @ b, ONE),
        (jax.jit(lambda a, b: a @ b), ONE),
        (jax.grad(lambda a, b: (a @ b).sum(), (0, 1)), 3 * ONE),
        (jax.grad(jax.checkpoint(lambda a, b: jnp.sin(a @ b).sum()), (0, 1)), 4 * ONE),
        (repeated, 4 * ONE),
        (branched, 2 * ONE),
        (lambda a, b: jnp.einsum("ij,jk,ik->", a, b, jnp.ones((3, 7))), None),
    ],
)
def test_flops_are_those_of_the_products_in_the_program(function: Any, expected: Any) -> None:
    found = matmul_flops(function, A, B)
    assert found == expected if expected else found >= ONE


def test_flops_of_a_convolution_and_of_a_batched_product_are_counted() -> None:
    image, kernel = jnp.zeros((2, 8, 8, 3)), jnp.zeros((4, 4, 3, 6))

    def convolved(image: Any, kernel: Any) -> Any:
        numbers = ("NHWC", "HWIO", "NHWC")
        options = {"window_strides": (4, 4), "padding": "VALID", "dimension_numbers": numbers}
        return jax.lax.conv_general_dilated(image, kernel, **options)

    assert matmul_flops(convolved, image, kernel) == 2 * (2 * 2 * 2 * 6) * (4 * 4 * 3)
    batched = [jnp.zeros((4, 3, 5)), jnp.zeros((4, 5, 7))]
    assert matmul_flops(jnp.matmul, *batched) == 4 * ONE


def test_every_round_counts_but_those_that_warm_up() -> None:
    calls = []
    taken = measure.seconds(lambda: calls.append(1) or jnp.zeros(2), rounds=5, warm_up=2)
    assert len(calls) == 7
    assert 0 < taken.least <= taken.median <= taken.most


@pytest.mark.parametrize("name", loss.LOSSES)
def test_both_forms_of_a_loss_are_measured_and_the_dense_one_needs_more(name: str) -> None:
    found = loss.row(loss.LOSSES[name], device_mesh(), 4096, rounds=1)
    assert found["dense_bytes"] > 2 * found["tiled_bytes"] > 0
    assert found["tiled_seconds"] > 0


def test_the_selection_counts_what_random_vectors_have_in_common() -> None:
    found = selection.run(device_mesh(), sources=300, targets=200, width=16, modalities=1)
    # A product of two random unit vectors has deviation width^-0.5; the limit is twice that.
    assert found["mean_count"] / 300 == pytest.approx(0.025, abs=0.01)
    assert found["share_of_peak"] > 0


def test_a_report_is_a_line_for_each_number_and_a_table_for_rows() -> None:
    rows = [{"batch": 1024, "seconds": 0.123456}, {"batch": 65536, "seconds": None}]
    shown = benchmark.lines({"mode": "loss", "machine": {"host": "an abacus"}, "mmd": rows})
    assert [" ".join(line.split()) for line in shown] == [
        *("mode loss", "machine", "host an abacus"),
        *("", "mmd", "batch seconds", "1,024 0.1235", "65,536 -"),
    ]


@pytest.mark.slow
def test_the_command_times_the_real_step_without_tensorflow(
    tmp_path: Path, overrides: list[str], root: Path
) -> None:
    code = (
        "import sys; from absl import flags; from date_jax import benchmark, commandline\n"
        "benchmark.define_flags(flags.FLAGS)\n"
        "try: commandline.run(benchmark.main)\n"
        "finally: assert 'tensorflow' not in sys.modules"
    )
    out = tmp_path / "report.json"
    own = [f"--config={root / 'configs' / 'pgda.py'}", "--rounds=2", f"--out={out}"]
    command = [sys.executable, "-c", code, *own, *overrides]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert 0 < report["mfu"] < 1
    assert report["parts"].keys() >= {"image extractor", "fusion", "optimizer"}
    assert np.isclose(report["examples_per_second"], 32 / report["step_seconds"]["median"])


def test_collectives_are_counted_whatever_their_results_are() -> None:
    text = """
      %a = f32[64,32]{1,0} all-gather(%x), dimensions={0}
      %b = (f32[64,32]{1,0}, f32[64]{0}) all-reduce(%y, %z), to_apply=%sum
      %c = (f32[8], f32[64]) all-gather-start(%w)
      %d = f32[64] all-gather-done(%c)
      %e = f32[64] add(%a, %d)
    """
    assert plan.collectives(text) == {"all-gather": 2, "all-reduce": 1}
