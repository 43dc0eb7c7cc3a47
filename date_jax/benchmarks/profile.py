"""The time of a compiled program on this machine, measured operation by operation."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax

from date_jax.benchmarks import program_text

ROUNDS = 3


def profile_of(program: Any, call: Callable[[], Any]) -> dict[str, Any]:
    """Shares of the time that the program's operations take, by kind and by part of the network.

    JAX's profiler writes down each run of each, which slows small ones down. An operation's time
    ends where it hands its work to other threads, so shares are exact on one core alone
    (`taskset -c 0`).

    Args:
        program: compiled.
        call: runs it, and gives device arrays.

    Returns:
        `runs`, of all operations in a call, on all devices together, their `seconds` in all, and
        `kind` and `part`: shares of that. Only what runs on a CPU is known by the names that the
        program's text has; elsewhere `runs` is 0, and there are no shares.
    """
    if jax.default_backend() != "cpu":
        return {"runs": 0, "seconds": 0.0}
    # The first call may still have something to set up; it stays out of the record.
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # what Python does is not asked, and would fill the record
    jax.block_until_ready(call())
    with TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            for _ in range(ROUNDS):
                jax.block_until_ready(call())
        (record,) = Path(folder).rglob("*.xplane.pb")
        data = jax.profiler.ProfileData.from_file(str(record))
    return shares(program_text.instructions(program.as_text()), data)


def shares(instructions: dict[str, program_text.Cost], data: Any) -> dict[str, Any]:
    """The report of `profile_of`, from the profiler's record.

    Args:
        instructions: the program's, by name.
        data: the profiler's record of `ROUNDS` calls.
    """
    spent: dict[str, float] = defaultdict(float)
    runs = 0
    for plane in data.planes:
        for line in plane.lines:
            for event in line.events:
                # An operation's own name: the event's is that of what does it.
                name = dict(event.stats).get("hlo_op")
                if name in instructions:
                    spent[name] += event.duration_ns
                    runs += 1
    costs = [instructions[name]._replace(spent=time) for name, time in spent.items()]
    shares_by = {field: program_text.shares(costs, field) for field in ("kind", "part")}
    return {"runs": runs // ROUNDS, "seconds": 1e-9 * sum(spent.values()) / ROUNDS, **shares_by}
