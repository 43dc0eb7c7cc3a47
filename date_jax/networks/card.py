"""The model card of an export: what it is, how it was trained, what it scored, how to load it."""

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path

import jax
from ml_collections import ConfigDict

from date_jax.networks import programs
from date_jax.networks.programs import Program
from date_jax.networks.published_config import module_name, unreadable
from date_jax.networks.sizes import stride
from date_jax.networks.vit import PIXELS
from date_jax.task import Card

Scores = Mapping[str, Mapping[str, float]]  # metrics by split


def model_card(
    config: ConfigDict, card: Card, *, step: int, scores: Scores, content: Sequence[str]
) -> str:
    """The text of the card in Markdown.

    Args:
        config: the run's.
        card: what the task says of its networks.
        step: of the checkpoint.
        scores: metrics by split, of results.json; may be empty.
        content: lines on the files and on how to read them, such as `parameter_lines`.
    """
    data = config.data
    lines = [
        # The kind of network, its training, and its scores where it has some.
        f"# {card.title}",
        "",
        f"{card.purpose} Trained with date_jax after",
        f"{card.paper}: {card.training(config)}, {step:,} of {config.steps:,} steps of",
        f"{config.batch_size} {card.rows}, data `{data.name}`,",
        f"pictures of {data.image_size} px, texts of {data.text_length} pieces, seed",
        f"{config.seed}. The weights are the moving average of training.",
        "",
        *_score_table(scores, card.columns),
        *content,
    ]
    return "\n".join(lines) + "\n"


def _score_table(scores: Scores, columns: tuple[str, ...]) -> list[str]:
    """The metrics by split in Markdown, with an empty line after it; nothing without any."""
    if not scores:
        return []
    rows = [f"| split | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for split, metrics in scores.items():
        cells = (f"{metrics[name]:.3f}" if name in metrics else "-" for name in columns)
        rows.append(f"| {split} | {' | '.join(cells)} |")
    return [*rows, ""]


def parameter_lines(config: ConfigDict, card: Card, folder: Path) -> list[str]:
    """The card's lines on a folder of parameters.

    Args:
        config: the run's.
        card: of the task.
        folder: of the export, whose files are there already.
    """
    return [*_file_table(config, folder, card), "", *_how_to_load(config, folder)]


def program_lines(
    config: ConfigDict, written: Sequence[Program], left_out: Mapping[str, str], file_format: str
) -> list[str]:
    """The card's lines on a folder of programs.

    Args:
        config: the run's.
        written: the programs that have a file.
        left_out: why there is no file, by program.
        file_format: "stablehlo" or "onnx".
    """
    # What each file takes and gives, then what the numbers mean.
    lines = ["| file | takes | gives |", "|---|---|---|"]
    for program in written:
        takes, gives = programs.description(program)
        lines.append(f"| `{program.name}.{file_format}` | {takes} | {gives} |")
    lines += [f"- no `{name}`: {reason}" for name, reason in left_out.items()]
    side, length = config.data.image_size, config.data.text_length
    lines += [
        "",
        f"B is any number of rows. Pictures are RGB in a square of {side} px; a letterbox",
        "(`config.data.fit`) has margins of 127. Texts are ids of the vocabulary in `text/`, split",
        "by the rules there: with a vocab.txt [CLS], the pieces, [SEP]. Padding follows up to",
        f"{length}; the mask is false there. Boxes are shares of that square. The parameters are",
        "in each file.",
        "",
    ]
    return lines + (_how_to_call(written) if file_format == "stablehlo" else _how_to_run(written))


def _how_to_call(written: Sequence[Program]) -> list[str]:
    """How JAX reads a program, and for how long."""
    name, inputs = written[0].name, ", ".join(f"{key}={key}" for key in written[0].inputs)
    today = date.today()
    return [
        f"Each file is for {', '.join(programs.PLATFORMS)} and needs JAX alone:",
        "",
        "    from pathlib import Path",
        "    from jax import export",
        f'    content = Path("{name}.stablehlo").read_bytes()',
        f"    answers = export.deserialize(bytearray(content)).call({inputs})",
        "",
        f"Written on {today} by jax {jax.__version__}, which always reads it. JAX promises that "
        "versions",
        "up to six months newer than that read it too: at the latest those until "
        f"{programs.last_day_of_promise(today)}.",
    ]


def _how_to_run(written: Sequence[Program]) -> list[str]:
    """How onnxruntime reads a program."""
    name, inputs = written[0].name, ", ".join(f'"{key}": {key}' for key in written[0].inputs)
    return [
        "onnxruntime gave our answers on random rows before this folder was written:",
        "",
        "    import onnxruntime",
        f'    session = onnxruntime.InferenceSession("{name}.onnx")',
        f"    answers = session.run(None, {{{inputs}}})",
    ]


def _module(config: ConfigDict, kind: str) -> str:
    """The name of the published network in whose layout an extractor is written."""
    if kind not in config.model:  # CAPTURE has no text extractor
        return ""
    return module_name(kind, config.model[kind])


def _file_table(config: ConfigDict, folder: Path, card: Card) -> list[str]:
    """The files of the folder in Markdown, and what each holds."""
    table = {
        "image/model.safetensors": f"the layout of Hugging Face's `{_module(config, 'image')}`; "
        "`rep`, `*/rep_bias`, `rep_offset` and the like are ours",
        "text/model.safetensors": f"the layout of Hugging Face's `{_module(config, 'text')}`",
        "text/vocab.txt": "word pieces, with their rules in `tokenizer_config.json`",
        "text/tokenizer.json": "word pieces and how texts are split, see `tokenizer_config.json`",
        f"{card.rest}.safetensors": f"{card.rest_content}, under our names",
        "training": "parameters that only training uses",
        "calibration.json": "the score as a probability",
        "config.json": "the config of the run",
        "export.json": "step, task, and the SHA-256 of the files of tensors",
    }
    rows = [f"| `{name}` | {text} |" for name, text in table.items() if (folder / name).exists()]
    return ["| file | what it holds |", "|---|---|", *rows]


def _how_to_load(config: ConfigDict, folder: Path) -> list[str]:
    """A command to load it here, then the pixels and the reader that other programs need."""
    kinds = [kind for kind in ("image", "text") if (folder / kind / "model.safetensors").exists()]
    train = f"    python -m date_jax.main --config=configs/{config.task}.py"
    lines = [
        "Begin a run with all of it; what its config must have in common is listed if it has not:",
        "",
        f"{train} --config.init.run=<here>",
        "",
    ]
    if len(kinds) == 2:
        lines += [
            "Or with the extractors alone, where `config.model` has their sizes (`config.json`):",
            "",
            f"{train} \\",
            "        --config.init.image=<here>/image \\",
            "        --config.init.text=<here>/text --config.data.vocab=<here>/text",
            "",
        ]
    if "image" in kinds:
        lines.append(
            _plain_swin(config.model.image, config.data.image_size)
            if _module(config, "image") == "SwinModel"
            else _plain_vit(config.model.image, config.data.image_size)
        )
    return lines


def _plain_swin(image: ConfigDict, image_size: int) -> str:
    """The card's sentence on whether transformers' `SwinModel` reads the exported tensors."""
    grid = image_size // stride(image)
    pixels = "Pixels are in [0, 1], less ImageNet's mean, over its deviation. "
    if grid != image.window:
        return pixels + (
            "transformers'\n`SwinModel` cannot read `image/`: its windows are all alike, here of "
            f"{image.window}, but the last\nstage is one of {grid}."
        )
    pooling = image.get("pooling", "mean")
    return pixels + (
        "transformers'\n`SwinModel` reads `image/`, without `[REP]`, and gives the same numbers "
        f"where\n`model.image.pooling` was `mean` (here: `{pooling}`)."
    )


def _plain_vit(image: ConfigDict, image_size: int) -> str:
    """The card's sentences on how transformers reads an exported ViT."""
    module = module_name("image", image)
    mean, deviation = PIXELS[image.vit.pixels]
    lines = [f"Pixels are in [0, 1], less {mean}, over {deviation}."]
    if reason := unreadable("image", image):
        return "\n".join([*lines, f"transformers' `{module}` cannot read `image/`: {reason}."])
    # What theirs gives is what ours has before it pools.
    norm = ", but for the last norm" if module == "CLIPVisionModel" else ""
    lines.append(
        f"transformers' `{module}` reads `image/`, without `[REP]`, and gives the same "
        f"tokens{norm}."
    )
    if image.pool > 1:
        lines.append(f"Here squares of {image.pool} by {image.pool} of them are averaged to one.")
    if image_size != image.patch * image.vit.positions:
        lines.append(
            "It resizes its positions with `interpolate_pos_encoding=True`, as DINOv2 does unasked."
        )
    return "\n".join(lines)
