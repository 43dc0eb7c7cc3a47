"""A run's network as safetensors: python -m date_jax.export --workdir=runs/… --out=exported

Writes the moving average of the latest checkpoint: `image/` and `text/`, the two extractors in
Hugging Face's layout (what it does not know, such as [REP], keeps our names), the seekers, the
config of the run and a model card. `--config.init.image=exported/image` begins a run with it.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import flags, logging
from ml_collections import ConfigDict

from date_jax.errors import UsageError
from date_jax.networks import pretrained
from date_jax.run import checkpoint, commandline

_SHOWN = ("acc_at_0.5", "mean_iou", "recall_at_1", "recall_at_10")


def define_flags(known: flags.FlagValues) -> None:
    """Not at import, so that a test can import this file beside another entry point."""
    flags.DEFINE_string("workdir", None, "of the run", flag_values=known)
    flags.DEFINE_string("out", None, "a new folder to write", flag_values=known)
    flags.DEFINE_bool("debug", False, "show tracebacks", flag_values=known)


def main(_: list[str]) -> None:
    """Reads the checkpoint, writes the folder, says what is in it."""
    import jax

    jax.config.update("jax_platforms", "cpu")  # an accelerator may be busy with the run itself
    logging.set_verbosity(logging.ERROR)
    given = flags.FLAGS
    if not given.workdir or not given.out:
        raise UsageError("--workdir and --out are required: the run, and a new folder to write")
    for line in exported(Path(given.workdir), Path(given.out)):
        print(line)


def exported(run: Path, out: Path) -> list[str]:
    """Writes `out` from the run's latest whole checkpoint; lines that say what was done.

    Raises:
        CheckpointError: there is none.
        UsageError: `out` exists, or the run has no such seekers.
    """
    if out.exists():
        raise UsageError(f"--out={out}: exists already; name a new folder")
    found = checkpoint.latest_part(run)
    config, model = ConfigDict(found.meta["config"]), found.params["model"]
    if config.task not in ("pgda", "date"):
        raise UsageError(f"{run}: a run of task {config.task}; only pgda's and date's are exported")
    folder_of_run = checkpoint.checkpoint_directory(run).parent
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    pretrained.write(partial, config, model)
    shutil.copy(folder_of_run / "vocab.txt", partial / "text" / "vocab.txt")
    (partial / "config.json").write_text(json.dumps(config.to_dict(), indent=2) + "\n")
    results = folder_of_run / "results.json"
    scores = json.loads(results.read_text())["eval"] if results.exists() else {}
    (partial / "README.md").write_text(card(config, found.step, scores))
    partial.rename(out)
    size = sum(file.stat().st_size for file in out.rglob("*.safetensors")) / 2**20
    return [*found.warnings, f"step {found.step} of {run}: {size:.1f} MiB in {out}"]


def card(config: ConfigDict, step: int, scores: dict[str, dict[str, float]]) -> str:
    """The model card: what it is, how it was trained, what it scored, how to load it.

    Args:
        config: the run's.
        step: of the checkpoint.
        scores: metrics by split, of results.json; may be empty.
    """
    data, method = config.data, config.get("method", "supervised")
    domains = f"`{data.source}`" + (f" to `{data.target}`" if data.target else "")
    lines = [
        "# A product seeker",
        "",
        "Finds the picture and the box that a text query asks for; trained with date_jax after",
        f"DATE (arXiv 2304.03669): `{method}`, {step:,} of {config.steps:,} steps of",
        f"{config.batch_size} pairs a domain, data `{data.name}`, domains {domains},",
        f"pictures of {data.image_size} px, texts of {data.text_length} pieces, seed",
        f"{config.seed}. The weights are the moving average of training.",
        "",
        *table(scores),
        "| file | what it holds |",
        "|---|---|",
        "| `image/` | Swin in Hugging Face's layout; `rep`, `*/rep_bias` and the like are ours |",
        "| `text/` | BERT in Hugging Face's layout, with its `vocab.txt` |",
        "| `seekers.safetensors` | projections, image seeker, object seeker |",
        "| `config.json` | the config of the run |",
        "",
        "Begin a run with the extractors, where `config.model` has their sizes (`config.json`):",
        "",
        f"    python -m date_jax.main --config=configs/{config.task}.py \\",
        "        --config.init.image=<here>/image \\",
        "        --config.init.text=<here>/text --config.data.vocab=<here>/text/vocab.txt",
        "",
        "Pixels are in [0, 1], less ImageNet's mean, over its deviation. "
        + _plain_swin(config.model.image, data.image_size),
    ]
    return "\n".join(lines) + "\n"


def _plain_swin(image: ConfigDict, image_size: int) -> str:
    """What to expect of transformers' `SwinModel` with the exported tensors."""
    grid = image_size // (image.patch << (len(image.depths) - 1))
    if grid != image.window:
        return (
            "transformers'\n`SwinModel` cannot read `image/`: its windows are all alike, here of "
            f"{image.window}, but the last\nstage is one of {grid}."
        )
    return (
        "transformers'\n`SwinModel` reads `image/`, without `[REP]`, and gives the same numbers "
        f"where\n`model.image.pooling` was `mean` (here: `{image.pooling}`)."
    )


def table(scores: dict[str, dict[str, Any]]) -> list[str]:
    """The metrics by split in Markdown, with an empty line after it; nothing without any."""
    if not scores:
        return []
    rows = [f"| split | {' | '.join(_SHOWN)} |", f"|---|{'---|' * len(_SHOWN)}"]
    for split, metrics in scores.items():
        cells = (f"{metrics[name]:.3f}" if name in metrics else "-" for name in _SHOWN)
        rows.append(f"| {split} | {' | '.join(cells)} |")
    return [*rows, ""]


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    commandline.run(main)
