"""All processes of a run meet before JAX connects them, so that a missing one is named.

JAX itself would wait for five minutes and then abort with a C++ stack that says "another task".
"""

import contextlib
import socket
import sys
import time
from collections.abc import Mapping

from date_jax.errors import SetupError, UsageError

_REMINDER = 10.0  # seconds between two lines about who is missing


def is_cluster(environment: Mapping[str, str]) -> bool:
    """Whether SLURM, GKE or a pair of TPU slices has started several of us, which JAX can find."""
    counts = (environment.get(name, "1") for name in ("SLURM_NTASKS", "MEGASCALE_NUM_SLICES"))
    return any(int(n) > 1 for n in counts) or "," in environment.get("TPU_WORKER_HOSTNAMES", "")


def meet(coordinator: str, *, index: int, count: int, timeout: float) -> None:
    """Returns in all processes as soon as all have come; process 0 listens at `coordinator`.

    Args:
        coordinator: `host:port`, the one that JAX will use afterwards.
        index: number of this process.
        count: how many there are.
        timeout: seconds.

    Raises:
        SetupError: not all came in time; names them.
        UsageError: the address or the numbers make no sense.
    """
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"--coordinator={coordinator}: must be <host>:<port> of process 0")
    if not 0 <= index < count:
        raise UsageError(f"--process_index={index}: must be from 0 to {count - 1}")
    # Process 0 waits for all, the others until it answers.
    deadline = time.monotonic() + timeout
    if index == 0:
        _receive((host, int(port)), count, deadline)
    else:
        _report((host, int(port)), index, deadline)


def _receive(address: tuple[str, int], count: int, deadline: float) -> None:
    """Waits for all others, then lets them go together."""
    host, port = address
    with contextlib.ExitStack() as stack:
        try:
            # A host's public name need not be an address it can listen at; the loop's always is.
            interface = host if host in ("127.0.0.1", "localhost") else ""
            listener = stack.enter_context(socket.create_server((interface, port)))
        except OSError as error:
            raise SetupError(f"port {port} cannot be used: {error.strerror}") from error

        connections: dict[int, socket.socket] = {}  # by the number of the process that came
        next_reminder = time.monotonic() + _REMINDER
        while len(connections) < count - 1:
            missing = ", ".join(str(i) for i in range(1, count) if i not in connections)
            now = time.monotonic()
            if now > deadline:
                raise SetupError(
                    f"only {len(connections) + 1} of {count} processes came; missing: {missing}\n"
                    f"start each with --process_index=<its number> and --coordinator={host}:{port}"
                )
            if now > next_reminder:
                print(f"waiting for process {missing} of {count}", file=sys.stderr, flush=True)
                next_reminder = now + _REMINDER
            # Not longer than a second, so that the reminder and the deadline are kept.
            listener.settimeout(min(1.0, max(deadline - now, 0.01)))
            with contextlib.suppress(OSError):  # nobody in that second, or somebody who left
                connection = stack.enter_context(listener.accept()[0])
                connection.settimeout(1.0)
                number = connection.recv(16)
                if number.isdigit() and 0 < int(number) < count:
                    connections[int(number)] = connection

        # All are here: one that dies now is JAX's to notice.
        for connection in connections.values():
            with contextlib.suppress(OSError):
                connection.sendall(b"go")


def _report(address: tuple[str, int], index: int, deadline: float) -> None:
    """Tells process 0 that this one is there, until it answers."""
    # Process 0 may not listen yet: until it answers, each attempt is a new connection.
    while time.monotonic() < deadline:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(address, timeout=1.0) as connection,
        ):
            connection.sendall(str(index).encode())
            connection.settimeout(max(deadline - time.monotonic(), 0.01))
            if connection.recv(16) == b"go":
                return
        time.sleep(0.1)
    raise SetupError(
        f"process 0 did not call all together at {address[0]}:{address[1]}; is it running, and "
        "were all started?"
    )
