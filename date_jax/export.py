"""Writes a run's network as safetensors, for other programs and other runs.

    python -m date_jax.export --workdir=runs/… --out=exported

It takes the moving average of the latest checkpoint: every parameter, the config, the vocabulary
with its rules, and a model card. `image/` and `text/` are the two extractors in Hugging Face's
layout; what that layout does not know, such as [REP], keeps our names. See `networks.exported`.
`--config.init.run=exported` begins another run with it, `--config.init.image=exported/image` one
with an extractor alone.
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
        UsageError: `out` exists.
    """
    # The networks come along here, which --help does not need.
    from date_jax.data.tokenizer import RULES_FILE
    from date_jax.networks import exported
    from date_jax.networks.card import model_card
    from date_jax.tasks import TASKS

    if out.exists():
        raise UsageError(f"--out={out}: exists already; name a new folder")
    part = checkpoint.latest_part(run)
    config = ConfigDict(part.meta["config"])
    card = TASKS[config.task].card

    # Under another name until it is whole: the tensors first, for the card names what is there.
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    meta = {"task": config.task, "step": part.step, "data": part.meta.get("data")}
    exported.write(partial, config, part.params, rest=card.rest, meta=meta)
    (partial / "config.json").write_text(json.dumps(config.to_dict(), indent=2) + "\n")

    # What the run has besides: vocabulary, its rules (early versions: BERT's), calibration, scores.
    folder_of_run = checkpoint.checkpoint_directory(run).parent
    (partial / "text").mkdir(exist_ok=True)
    shutil.copy(folder_of_run / "vocab.txt", partial / "text")
    for name, folder in ((RULES_FILE, "text"), ("calibration.json", "")):
        if (folder_of_run / name).exists():
            shutil.copy(folder_of_run / name, partial / folder)
    results = folder_of_run / "results.json"
    scores = json.loads(results.read_text())["eval"] if results.exists() else {}
    text = model_card(config, card, step=part.step, scores=scores, folder=partial)
    (partial / "README.md").write_text(text)
    partial.rename(out)
    size = sum(file.stat().st_size for file in out.rglob("*.safetensors")) / 2**20
    return [*part.warnings, f"step {part.step} of {run}: {size:.1f} MiB in {out}"]


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    commandline.run(main)
