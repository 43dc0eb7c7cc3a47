"""Embeds a catalogue: a folder of vectors, which date_jax.search and date_jax.serve read.

    python -m date_jax.embed --workdir=runs/one --catalogue=offers.csv --out=vectors

--catalogue is a .csv or .jsonl table with the columns id, image and text, or what --columns says:

    --columns=id=sku,image=image_path,text=title

Pictures are relative to the table. Its other columns are kept for filters. The same command goes on
after a stop, and follows the catalogue: only new and changed offers are embedded again. --out holds
Parquet files (id, text, path, vector, the other columns) and manifest.json.

For runs of all tasks: DATE embeds pictures, same-style pictures and titles (or one of them where
the other is lacking), CAPTURE posts. Several processes share the work, each with its
--process_index of --process_count, on machines that share --out:

    bash launch/local.sh 2 embed --workdir=runs/one --catalogue=offers.csv --out=vectors
"""

import os
from collections.abc import Mapping

from absl import flags, logging

from date_jax.errors import UsageError
from date_jax.run import commandline
from date_jax.run.rendezvous import meet
from date_jax.run.user_paths import user_path

_PATIENCE = 300.0  # seconds that processes which are there wait for one that is not


def define_flags(definitions: flags.FlagValues) -> None:
    """Defines the command's flags.

    They are not defined at import, so that a test can import two commands.
    """
    for name, default, text in (
        ("workdir", None, "folder of a run, or of an export"),
        ("catalogue", None, "a .csv or .jsonl table of offers"),
        ("columns", "", "what ours are called there: id=sku,image=image_path,text=title"),
        ("out", "vectors", "the folder of vectors to make, or to bring to the catalogue's state"),
        ("coordinator", "", "host:port of process 0: the processes meet there before they begin"),
    ):
        flags.DEFINE_string(name, default, text, flag_values=definitions)
    for name, text in (
        ("process_count", "processes that share the work; SLURM's and a TPU slice's are found"),
        ("process_index", "number of this one"),
    ):
        flags.DEFINE_integer(name, None, text, flag_values=definitions)
    flags.DEFINE_bool("debug", False, "show tracebacks", flag_values=definitions)


def main(_: list[str]) -> None:
    """Reads the catalogue, embeds it, and says what was done."""
    logging.set_verbosity(logging.ERROR)
    values = flags.FLAGS
    if not values.workdir or not values.catalogue:
        raise UsageError("--workdir and --catalogue are required: a run, and a table of offers")
    index, count = place(values.process_index, values.process_count, os.environ)
    # The table first: a mistake in it is told before JAX is imported.
    from date_jax.index.catalogue import catalogue_of_file

    catalogue = catalogue_of_file(user_path(values.catalogue), values.columns)
    if values.coordinator:
        meet(values.coordinator, index=index, count=count, timeout=_PATIENCE)
    commandline.require_devices()
    from date_jax.index.embedding import embed
    from date_jax.opening import opened_run

    run = opened_run(values.workdir)
    try:
        lines = embed(
            run, catalogue, user_path(values.out), process_index=index, process_count=count
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on; whole parts are kept") from None
    for warning in run.warnings:
        print(f"warning: {warning}")
    print("\n".join(lines))


def place(index: int | None, count: int | None, environment: Mapping[str, str]) -> tuple[int, int]:
    """The number of this process and the count of all: of the flags, or of who has started us.

    Args:
        index, count: of the flags; None where they are not given.
        environment: the shell's variables.

    Raises:
        UsageError: the numbers make no sense.
    """
    if index is None and count is None:
        names = environment.get("TPU_WORKER_HOSTNAMES", "").split(",")
        if int(environment.get("SLURM_NTASKS", "1")) > 1:
            index, count = int(environment["SLURM_PROCID"]), int(environment["SLURM_NTASKS"])
        elif len(names) > 1:
            index, count = int(environment.get("TPU_WORKER_ID", "0")), len(names)
    index, count = index or 0, 1 if count is None else count
    if not 0 <= index < count:
        raise UsageError(
            f"--process_index={index} --process_count={count}: the index is from 0 to {count - 1}"
        )
    return index, count


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    commandline.run(main)
