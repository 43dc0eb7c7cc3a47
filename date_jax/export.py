"""Writes a run's network as safetensors, for other programs and other runs.

    python -m date_jax.export --workdir=runs/… --out=exported

It takes the moving average of the latest checkpoint. `image/` and `text/` are the two extractors in
Hugging Face's layout; what that layout does not know, such as [REP], keeps our names. Next to them
are the seekers, the config of the run and a model card. `--config.init.image=exported/image` begins
a run with them.
"""

import json
import os
import shutil
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import flags, logging
from ml_collections import ConfigDict

from date_jax.errors import UsageError
from date_jax.run import checkpoint, commandline


def define_flags(definitions: flags.FlagValues) -> None:
    """Defines the command's flags.

    They are not defined at import, so that a test can import two commands.
    """
    flags.DEFINE_string("workdir", None, "of the run", flag_values=definitions)
    flags.DEFINE_string("out", None, "a new folder to write", flag_values=definitions)
    flags.DEFINE_bool("debug", False, "show tracebacks", flag_values=definitions)


def main(_: list[str]) -> None:
    """Reads the checkpoint, writes the folder, says what is in it."""
    import jax

    jax.config.update("jax_platforms", "cpu")  # an accelerator may be busy with the run itself
    logging.set_verbosity(logging.ERROR)
    values = flags.FLAGS
    if not values.workdir or not values.out:
        raise UsageError("--workdir and --out are required: the run, and a new folder to write")
    for line in export(Path(values.workdir), Path(values.out)):
        print(line)


def export(run: Path, out: Path) -> list[str]:
    """Writes `out` from the run's latest whole checkpoint; lines that say what was done.

    Raises:
        CheckpointError: there is no checkpoint.
        UsageError: `out` exists, or the run's task exports nothing.
    """
    from date_jax.tasks import TASKS  # brings the networks along, which --help does not need

    # Refused before anything is read: what exists, and what cannot be exported.
    if out.exists():
        raise UsageError(f"--out={out}: exists already; name a new folder")
    part = checkpoint.latest_part(run)
    config = ConfigDict(part.meta["config"])
    task = TASKS[config.task]
    if task.export is None:
        names = " and ".join(f"{name}'s" for name, other in TASKS.items() if other.export)
        raise UsageError(f"{run}: a run of task {config.task}; only {names} are exported")

    # Under another name until it is whole.
    folder_of_run = checkpoint.checkpoint_directory(run).parent
    results = folder_of_run / "results.json"
    scores = json.loads(results.read_text())["eval"] if results.exists() else {}
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    task.export(
        partial,
        config,
        part.params,
        vocab=folder_of_run / "vocab.txt",
        step=part.step,
        scores=scores,
    )
    (partial / "config.json").write_text(json.dumps(config.to_dict(), indent=2) + "\n")
    partial.rename(out)
    size = sum(file.stat().st_size for file in out.rglob("*.safetensors")) / 2**20
    return [*part.warnings, f"step {part.step} of {run}: {size:.1f} MiB in {out}"]


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    commandline.run(main)
