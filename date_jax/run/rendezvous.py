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
    deadline = time.monotonic() + timeout
    if index == 0:
        _receive((host, int(port)), count, deadline)
    else:
        _report((host, int(port)), index, deadline)


def _receive(address: tuple[str, int], count: int, deadline: float) -> None:
    """Waits for all others, then lets them go together."""
    with contextlib.ExitStack() as stack:
        try:
            # A host's public name need not be an address of its own; the loop's always is.
            own = address[0] if address[0] in ("127.0.0.1", "localhost") else ""
            listener = stack.enter_context(socket.create_server((own, address[1])))
        except OSError as error:
            raise SetupError(f"port {address[1]} cannot be used: {error.strerror}") from error
        came: dict[int, socket.socket] = {}
        remind = time.monotonic() + _REMINDER
        while len(came) < count - 1:
            missing = ", ".join(str(i) for i in range(1, count) if i not in came)
            now = time.monotonic()
            if now > deadline:
                raise SetupError(
                    f"only {len(came) + 1} of {count} processes came; missing: {missing}\n"
                    f"start each with --process_index=<its number> and --coordinator={address[0]}"
                    f":{address[1]}"
                )
            if now > remind:
                print(f"waiting for process {missing} of {count}", file=sys.stderr, flush=True)
                remind = now + _REMINDER
            listener.settimeout(min(1.0, max(deadline - now, 0.01)))
            with contextlib.suppress(OSError):  # nobody in that second, or somebody who left
                connection = stack.enter_context(listener.accept()[0])
                connection.settimeout(1.0)
                word = connection.recv(16)
                if word.isdigit() and 0 < int(word) < count:
                    came[int(word)] = connection
        for connection in came.values():
            with contextlib.suppress(OSError):
                connection.sendall(b"go")


def _report(address: tuple[str, int], index: int, deadline: float) -> None:
    """Tells process 0 that this one is there, until it answers."""
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
