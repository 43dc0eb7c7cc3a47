"""Writes a run's network as safetensors, as StableHLO or as ONNX, for other programs and runs.

    python -m date_jax.export --workdir=runs/… --out=exported
    python -m date_jax.export --workdir=runs/… --out=programs --format=stablehlo

It takes the moving average of the latest checkpoint.

`safetensors`: every parameter, the config, the vocabulary with its rules, and a model card. The
folders `image/` and `text/` are the two extractors in Hugging Face's layout; what that layout does
not know, such as [REP], keeps our names. See `networks.exported`. `--config.init.run=exported`
begins another run with it, `--config.init.image=exported/image` one with an extractor alone.

`stablehlo`, `onnx`: a file for each question that the network answers, with its parameters inside.
JAX alone reads the one, onnxruntime the other. See `networks.programs`.
"""

import json
import os
import shutil
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import flags, logging
from ml_collections import ConfigDict

from date_jax.errors import UsageError, spelling_hint
from date_jax.run import checkpoint, commandline

FORMATS = ("safetensors", "stablehlo", "onnx")


def define_flags(definitions: flags.FlagValues) -> None:
    """Defines the command's flags.

    They are not defined at import, so that a test can import two commands.
    """
    flags.DEFINE_string("workdir", None, "of the run", flag_values=definitions)
    flags.DEFINE_string("out", None, "a new folder to write", flag_values=definitions)
    flags.DEFINE_string("format", "safetensors", ", ".join(FORMATS), flag_values=definitions)
    flags.DEFINE_bool("debug", False, "show tracebacks", flag_values=definitions)


def main(_: list[str]) -> None:
    """Reads the checkpoint, writes the folder, says what is in it."""
    import jax

    jax.config.update("jax_platforms", "cpu")  # an accelerator may be busy with the run itself
    logging.set_verbosity(logging.ERROR)
    values = flags.FLAGS
    if not values.workdir or not values.out:
        raise UsageError("--workdir and --out are required: the run, and a new folder to write")
    for line in export(Path(values.workdir), Path(values.out), file_format=values.format):
        print(line)


def export(run: Path, out: Path, *, file_format: str = "safetensors") -> list[str]:
    """Writes `out` from the run's latest whole checkpoint; lines that say what was done.

    Args:
        run: its folder.
        out: a new folder.
        file_format: of FORMATS.

    Raises:
        CheckpointError: there is no checkpoint.
        SetupError: a package for this format is missing.
        UsageError: `out` exists, there is no such format, or the network is in none of its files.
    """
    # The networks come along here, which --help does not need.
    from date_jax.data.tokenizer import RULES_FILE
    from date_jax.data.tokenizer_files import vocabulary_file
    from date_jax.networks.card import model_card
    from date_jax.tasks import TASKS

    if file_format not in FORMATS:
        hint = spelling_hint(file_format, FORMATS)
        raise UsageError(f"--format={file_format}: one of {', '.join(FORMATS)}{hint}")
    if out.exists():
        raise UsageError(f"--out={out}: exists already; name a new folder")
    part = checkpoint.latest_part(run)
    config = ConfigDict(part.meta["config"])

    # Under another name until it is whole. First what a run has for all formats: config,
    # vocabulary, its rules (early versions: BERT's), calibration.
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "text").mkdir(parents=True)
    (partial / "config.json").write_text(json.dumps(config.to_dict(), indent=2) + "\n")
    folder_of_run = checkpoint.checkpoint_directory(run).parent
    shutil.copy(vocabulary_file(folder_of_run), partial / "text")
    for name, folder in ((RULES_FILE, "text"), ("calibration.json", "")):
        if (folder_of_run / name).exists():
            shutil.copy(folder_of_run / name, partial / folder)

    # Then the numbers, and last the card, which tells what is there.
    write = _write_parameters if file_format == "safetensors" else _write_programs
    content, warnings = write(partial, config, part, file_format)
    results = folder_of_run / "results.json"
    scores = json.loads(results.read_text())["eval"] if results.exists() else {}
    card = TASKS[config.task].card
    text = model_card(config, card, step=part.step, scores=scores, content=content)
    (partial / "README.md").write_text(text)
    partial.rename(out)
    size = sum(file.stat().st_size for file in out.rglob(f"*.{file_format}")) / 2**20
    warnings = [*part.warnings, *warnings]
    return [*warnings, f"step {part.step} of {run}: {size:.1f} MiB in {out}"]


def _write_parameters(
    folder: Path, config: ConfigDict, part: checkpoint.Part, _: str
) -> tuple[list[str], list[str]]:
    """Writes every parameter; the card's lines on them, and warnings."""
    from date_jax.networks import exported
    from date_jax.networks.card import parameter_lines
    from date_jax.tasks import TASKS

    card = TASKS[config.task].card
    meta = {"task": config.task, "step": part.step, "data": part.meta.get("data")}
    exported.write(folder, config, part.params, rest=card.rest, meta=meta)
    return parameter_lines(config, card, folder), []


def _write_programs(
    folder: Path, config: ConfigDict, part: checkpoint.Part, file_format: str
) -> tuple[list[str], list[str]]:
    """Writes a program for each question; the card's lines on them, and warnings."""
    from date_jax.data.tokenizer_files import tokenizer_of_file
    from date_jax.networks import programs
    from date_jax.networks.card import program_lines
    from date_jax.tasks import TASKS

    # The predictions need no data but the vocabulary.
    task = TASKS[config.task]
    tokenizer = tokenizer_of_file(folder / "text", length=config.data.text_length)
    predict = task.learner(config, tokenizer, {}).predict
    questions = programs.programs(predict, task.answer, part.params, task.example(config))

    # A program that a format cannot hold is told, not written.
    left_out: dict[str, str] = {}
    for program in questions:
        if file_format == "stablehlo":
            content = programs.stablehlo(program)
        else:
            content, left_out[program.name] = programs.onnx(program)
        if content:
            (folder / f"{program.name}.{file_format}").write_bytes(content)
    left_out = {name: reason for name, reason in left_out.items() if reason}
    written = [program for program in questions if program.name not in left_out]
    if not written:
        shutil.rmtree(folder)
        lines = [f"  {name}: {reason}" for name, reason in left_out.items()]
        head = f"--format={file_format}: no program of this network can be written; take stablehlo"
        raise UsageError("\n".join([head, *lines]))
    warnings = [f"warning: no {name}: {reason}" for name, reason in left_out.items()]
    return program_lines(config, written, left_out, file_format), warnings


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    commandline.run(main)
