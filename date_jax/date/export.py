"""A network of DATE for other programs: safetensors, and a model card that says what they are."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

from date_jax.data.tokenizer import RULES_FILE
from date_jax.networks import pretrained
from date_jax.networks.sizes import stride
from date_jax.task import Params

COLUMNS = ("acc_at_0.5", "mean_iou", "recall_at_1", "recall_at_10")  # of the card's table
Scores = Mapping[str, Mapping[str, float]]  # metrics by split


def export_supervised(
    folder: Path, config: ConfigDict, params: Params, *, vocab: Path, step: int, scores: Scores
) -> None:
    """Writes a network that saw boxes in every domain; see `task.Export`."""
    _write(folder, config, params, vocab, card(config, "supervised", step, scores))


def export_adaptive(
    folder: Path, config: ConfigDict, params: Params, *, vocab: Path, step: int, scores: Scores
) -> None:
    """Writes a network that was adapted to a target; see `task.Export`."""
    _write(folder, config, params, vocab, card(config, config.method, step, scores))


def _write(folder: Path, config: ConfigDict, params: Params, vocab: Path, text: str) -> None:
    """Writes both extractors, the seekers, the word pieces and the card."""
    pretrained.write(folder, config, params["model"])
    shutil.copy(vocab, folder / "text" / "vocab.txt")
    # Runs of earlier versions have no file of rules: theirs are BERT's.
    if (rules := vocab.with_name(RULES_FILE)).exists():
        shutil.copy(rules, folder / "text" / RULES_FILE)
    (folder / "README.md").write_text(text)


def card(config: ConfigDict, method: str, step: int, scores: Scores) -> str:
    """The model card: what it is, how it was trained, what it scored, how to load it.

    Args:
        config: the run's.
        method: how it was trained.
        step: of the checkpoint.
        scores: metrics by split, of results.json; may be empty.
    """
    data = config.data
    domains = f"`{data.source}`" + (f" to `{data.target}`" if data.target else "")
    lines = [
        # The kind of network, its training, and its scores where it has some.
        "# A product seeker",
        "",
        "Finds the picture and the box that a text query asks for; trained with date_jax after",
        f"DATE (arXiv 2304.03669): `{method}`, {step:,} of {config.steps:,} steps of",
        f"{config.batch_size} pairs a domain, data `{data.name}`, domains {domains},",
        f"pictures of {data.image_size} px, texts of {data.text_length} pieces, seed",
        f"{config.seed}. The weights are the moving average of training.",
        "",
        *_score_table(scores),
        # The folder that the card lies in.
        "| file | what it holds |",
        "|---|---|",
        "| `image/` | Swin in Hugging Face's layout; `rep`, `*/rep_bias` and the like are ours |",
        "| `text/` | BERT in Hugging Face's layout, with its `vocab.txt` and its rules |",
        "| `seekers.safetensors` | projections, image seeker, object seeker |",
        "| `config.json` | the config of the run |",
        "",
        # A command to load it here, then the pixels and the reader that other programs need.
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
    """The card's sentence on whether transformers' `SwinModel` reads the exported tensors."""
    grid = image_size // stride(image)
    if grid != image.window:
        return (
            "transformers'\n`SwinModel` cannot read `image/`: its windows are all alike, here of "
            f"{image.window}, but the last\nstage is one of {grid}."
        )
    return (
        "transformers'\n`SwinModel` reads `image/`, without `[REP]`, and gives the same numbers "
        f"where\n`model.image.pooling` was `mean` (here: `{image.pooling}`)."
    )


def _score_table(scores: Scores) -> list[str]:
    """The metrics by split in Markdown, with an empty line after it; nothing without any."""
    if not scores:
        return []
    rows = [f"| split | {' | '.join(COLUMNS)} |", f"|---|{'---|' * len(COLUMNS)}"]
    for split, metrics in scores.items():
        cells = (f"{metrics[name]:.3f}" if name in metrics else "-" for name in COLUMNS)
        rows.append(f"| {split} | {' | '.join(cells)} |")
    return [*rows, ""]
