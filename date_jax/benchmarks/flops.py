"""Flops of a traced program, from its equations: what the mathematics asks for, not what XLA made.

Only matrix products and convolutions count, as for a model's MFU: 2 for each multiply-add. What is
computed again in the backward pass (remat) is in the program, so trace it without.
"""

import math
from collections.abc import Callable
from typing import Any

import jax


def matmul_flops(function: Callable[..., Any], *args: Any) -> float:
    """The flops of one call of `function` with arguments of these shapes.

        matmul_flops(jnp.matmul, jnp.ones((2, 3)), jnp.ones((3, 4)))  # 48.0: 2 · 2 · 3 · 4

    Args:
        function: is traced, not run.
        args: arrays or shapes.
    """
    return _program_flops(jax.make_jaxpr(function)(*args).jaxpr)


def _program_flops(program: Any) -> float:
    """The flops of a traced program and of all programs inside it."""
    total = 0.0
    for equation in program.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            total += _product_flops(equation)
        elif name == "conv_general_dilated":
            kernel, out = equation.invars[1].aval.shape, equation.outvars[0].aval.shape
            channels_out = equation.params["dimension_numbers"].rhs_spec[0]
            total += 2.0 * math.prod(out) * math.prod(kernel) / kernel[channels_out]
        else:
            # A shard_map's program is what one device runs.
            repeats = equation.params["length"] if name == "scan" else 1
            repeats = equation.params["mesh"].size if name == "shard_map" else repeats
            inner = [_program_flops(part) for part in _programs(equation.params)]
            # Of several branches one runs: the most expensive.
            total += repeats * (max(inner, default=0.0) if name == "cond" else sum(inner))
    return total


def _product_flops(equation: Any) -> float:
    """The flops of one matrix product: 2 for each number of the result and of the sum behind it."""
    (contracted, _), _ = equation.params["dimension_numbers"]
    left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    return 2.0 * math.prod(out) * math.prod(left[axis] for axis in contracted)


def _programs(params: dict[str, Any]) -> list[Any]:
    """The programs among an equation's parameters."""
    programs = []
    for value in params.values():
        for part in value if isinstance(value, tuple | list) else [value]:
            part = getattr(part, "jaxpr", part)
            if hasattr(part, "eqns"):
                programs.append(part)
    return programs
