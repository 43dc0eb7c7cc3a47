"""Serves a finished run over HTTP, with a page for people.

    python -m date_jax.serve --workdir=runs/one
    python -m date_jax.serve --workdir=runs/one --index=vectors
    # then http://127.0.0.1:8000

It listens on this machine alone. With --host=0.0.0.0 others can ask as well, which takes a token:
DATE_JAX_TOKEN=<long random text> in the shell, and `Authorization: Bearer <it>` in every request.
SIGTERM answers what was asked before it ends. docs/serving.md has the routes.
"""

import contextlib
import os
import signal
from collections.abc import Iterator

from absl import flags, logging

from date_jax.errors import SetupError, UsageError
from date_jax.run import commandline

_DRAIN_SECONDS = 20


def define_flags(definitions: flags.FlagValues) -> None:
    """Defines the command's flags.

    They are not defined at import, so that a test can import two commands.
    """
    flags.DEFINE_string(
        "workdir", None, "folder of a run, or of an export", flag_values=definitions
    )
    flags.DEFINE_string(
        "index", "", "folder of vectors that date_jax.embed made", flag_values=definitions
    )
    flags.DEFINE_string(
        "pictures", "", "folder of the catalogue's pictures, where moved", flag_values=definitions
    )
    flags.DEFINE_string("host", "127.0.0.1", "address to listen on", flag_values=definitions)
    flags.DEFINE_integer("port", 8000, "to listen on; 0 for a free one", flag_values=definitions)
    flags.DEFINE_bool("debug", False, "show tracebacks", flag_values=definitions)


def main(_: list[str]) -> None:
    """Opens the run, says where it answers, and serves until it is stopped."""
    logging.set_verbosity(logging.ERROR)
    values = flags.FLAGS
    if not values.workdir:
        raise UsageError("--workdir is required: the folder of a run, or of an export")
    try:
        import uvicorn

        from date_jax.serving.app import create_app
    except ImportError as error:
        raise SetupError(f"{error.name} is not installed: pip install 'date_jax[serve]'") from error
    from date_jax.index.exact import open_index
    from date_jax.opening import opened_run
    from date_jax.serving.limits import require_safe

    token = os.environ.get("DATE_JAX_TOKEN", "")
    require_safe(values.host, token)
    commandline.require_devices()
    run = opened_run(values.workdir)
    index = None
    if values.index:
        index = open_index(values.index, values.pictures)
        index.require(run)
    config = uvicorn.Config(
        create_app(run, index=index, token=token),
        host=values.host,
        port=values.port,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=_DRAIN_SECONDS,
    )
    # The socket first: a port that is taken is told before anything is compiled.
    try:
        socket = config.bind_socket()
    except SystemExit:
        raise SetupError(
            f"--port={values.port}: is taken on {values.host}; choose another, or 0 for a free one"
        ) from None
    port = socket.getsockname()[1]
    print(f"{values.workdir}, step {run.step}: http://{values.host}:{port}", flush=True)
    print("  it answers once /readyz does; Ctrl-C ends it", flush=True)

    class Server(uvicorn.Server):
        """A server that ends with 0 when it is told to, where uvicorn's would die of the signal."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self.handle_exit)
            yield

    Server(config).run(sockets=[socket])


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    commandline.run(main)
