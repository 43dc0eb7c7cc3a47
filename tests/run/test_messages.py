"""What a user reads after a mistake: table-driven, one row a mistake; data files have their own."""

import errno
import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from absl import flags
from ml_collections import config_flags

from configs import pgda
from date_jax import config, errors
from date_jax.run import commandline, config_file, usual_words, workdir
from date_jax.tasks import TASKS

ROOT = Path(__file__).parent.parent.parent
PGDA = "--config=configs/pgda.py"
CONFIGS = sorted(f for f in (ROOT / "configs").glob("*.py") if "def get_config(" in f.read_text())
CONFIG_CHOICES = "there are: " + ", ".join(f"configs/{file.name}" for file in CONFIGS)


@pytest.mark.parametrize(
    ("cores", "batch", "eval_batch", "devices"),
    [(2, 64, 256, 2), (3, 48, 256, 2), (16, 16, 256, 1)],
)
def test_the_devices_made_of_cores_divide_what_they_share(
    monkeypatch: pytest.MonkeyPatch, cores: int, batch: int, eval_batch: int, devices: int
) -> None:
    monkeypatch.setattr("date_jax.run.subprocesses.cores", lambda: [*range(cores)])
    sized = pgda.get_config()
    sized.batch_size, sized.eval.batch_size = batch, eval_batch
    assert commandline.cores_worth_a_device(sized) == devices
    config.validate(sized, device_count=devices, process_count=1)


@pytest.fixture
def definitions(monkeypatch: pytest.MonkeyPatch) -> flags.FlagValues:
    """An entry point's flags, apart from those of the process that runs the tests."""
    monkeypatch.chdir(ROOT)
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "the config", flag_values=values)
    flags.DEFINE_string("workdir", None, "where the run is kept", flag_values=values)
    flags.DEFINE_boolean("debug", False, "show tracebacks", flag_values=values)
    flags.DEFINE_integer("port", 1, "a number", flag_values=values)
    return values


def parse(
    arguments: list[str], definitions: flags.FlagValues, monkeypatch: pytest.MonkeyPatch
) -> flags.FlagValues:
    argv = ["main.py", *arguments]
    monkeypatch.setattr(sys, "argv", argv)  # where ml_collections looks for overrides
    commandline.parse(argv, definitions)
    return definitions


def assert_readable(text: str) -> None:
    assert len(text.splitlines()) <= 8, text
    assert "Traceback" not in text


COMMANDS = [
    ([], ["--config is required, e.g. --config=configs/pgda.py"]),
    (["--workdir=x"], ["--config is required"]),
    (["--confg=configs/pgda.py"], ["--confg: unknown flag", "did you mean '--config'"]),
    ([PGDA, "--wrkdir=x"], ["--wrkdir: unknown flag", "did you mean '--workdir'"]),
    ([PGDA, "--batch_size=8"], ["--batch_size: unknown flag", "'--config.batch_size'"]),
    ([PGDA, "--epochs=3"], ["--epochs: unknown flag", "'--config.steps', one batch each?"]),
    ([PGDA, "--lr=1e-3"], ["did you mean '--config.optim.learning_rate'"]),
    ([PGDA, "--learning_rate=1"], ["did you mean '--config.optim.learning_rate'"]),
    ([PGDA, "--output_dir=here"], ["did you mean '--workdir'"]),
    ([PGDA, "--verbosty=1"], ["--verbosty: unknown flag; --help lists the flags"]),
    ([PGDA, "--zzzzzz"], ["--zzzzzz: unknown flag", "--help"]),
    ([PGDA, "--port=many"], ["port=many"]),
    ([PGDA, "workdir=x"], ["workdir=x: unexpected", "did you mean '--workdir'"]),
    (["--config=configs/pgad.py"], ["no such file", "'configs/pgda.py'", str(ROOT)]),
    (["--config=configs/pgad.py:files"], ["did you mean 'configs/pgda.py:files'"]),
    (
        ["--config=configs"],
        ["--config=configs: no such file", CONFIG_CHOICES],
    ),
    (["--config="], ["--config=: no such file", CONFIG_CHOICES]),
    (["--config=configs/pgda.py:tinny"], ["unknown word 'tinny'", "live2mall"]),
    ([PGDA, PGDA], ["--config is given 2 times"]),
    (["--config.seed=1", PGDA], ["--config.seed stands before", "put --config first"]),
    ([PGDA, "--config.sed=1"], ["--config.sed=1: unknown key", "'config.seed'"]),
    ([PGDA, "--config.lrr=3e-4"], ["--config.lrr=3e-4: unknown key"]),
    ([PGDA, "--config.optim.lr=1"], ["(did you mean 'config.optim.learning_rate'?)"]),
    ([PGDA, "--config.LR=1"], ["(did you mean 'config.optim.learning_rate'?)"]),
    ([PGDA, "--config.optim.wd=1"], ["(did you mean 'config.optim.weight_decay'?)"]),
    ([PGDA, "--config.optim.warmup_steps=9"], ["'config.optim.warmup', a share of config.steps?"]),
    ([PGDA, "--config.max_steps=9"], ["'config.steps', one batch each?"]),
    ([PGDA, "--config.eval.bs=9"], ["(did you mean 'config.eval.batch_size'?)"]),
    ([PGDA, "--config.bs=9"], ["'config.batch_size', rows of all devices?"]),
    ([PGDA, "--config.optim.foo=1"], ["config.optim has: backbone_scale, beta2, clip, ema"]),
    ([PGDA, "--config.optim.learning_rat=1"], ["'config.optim.learning_rate'"]),
    ([PGDA, "--config.learning_rate=1"], ["'config.optim.learning_rate'"]),
    (
        [PGDA, "--config.aligner.qqqqqqqqqqqqqqqqq=1"],
        ["config.aligner has: hidden, image_weight, kind"],
    ),
    ([PGDA, "--config.seed.x=1"], ["--config.seed.x=1: unknown key"]),
    ([PGDA, "--config.batch_size=abc"], ["batch_size=abc: must be a whole number"]),
    ([PGDA, "--config.batch_size", "abc"], ["batch_size=abc: must be a whole number"]),
    ([PGDA, "--config.steps=1.5"], ["steps=1.5: must be a whole number"]),
    ([PGDA, "--config.seed"], ["seed=: must be a whole number"]),
    ([PGDA, "--config.optim.ema=high"], ["ema=high: must be a number"]),
    ([PGDA, "--config.aligner.unbiased=maybe"], ["unbiased=maybe: must be true or false"]),
    ([PGDA, "--config.model.image.depths=(1,"], ["depths=(1,: must be a tuple"]),
    ([PGDA, "--config.model=big"], ["--config.model: a section", "--config.model.dtype"]),
]


@pytest.mark.parametrize(("arguments", "texts"), COMMANDS, ids=lambda x: " ".join(x)[:60])
def test_a_wrong_command_is_refused_in_a_few_words(
    arguments: list[str],
    texts: list[str],
    definitions: flags.FlagValues,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(errors.UsageError) as caught:
        parse(arguments, definitions, monkeypatch)
    for text in texts:
        assert text in str(caught.value)
    assert_readable(str(caught.value))


def test_every_usual_word_leads_to_a_key_or_flag_and_is_none() -> None:
    keys = values_of_all_configs()
    words = [word for text in usual_words.WORDS.values() for word in text.split()]
    assert len(words) == len({*words})
    assert {*usual_words.WORDS} - {"--workdir"} <= {*keys}
    assert not {*words} & {*keys}
    with_flags = [*keys, "--workdir"]
    for key, text in usual_words.WORDS.items():
        assert all(key in usual_words.usual_word_hint(word, with_flags) for word in text.split())


def test_a_right_command_reaches_the_config(
    definitions: flags.FlagValues, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--workdir", "here", f"{PGDA}:live2mall", "--config.seed", "3"]
    arguments += ["--config.aligner.unbiased", "--config.model.image.depths=(1, 1)", "--debug"]
    arguments += ["--config.optim.learning_rate=-1"]  # read here, refused by `validate`
    values = parse(arguments, definitions, monkeypatch)
    assert (values.config.seed, values.workdir, values.debug) == (3, "here", True)
    assert values.config.data.source == "live"
    assert values.config.aligner.unbiased is True
    assert values.config.model.image.depths == (1, 1)
    assert values.config.optim.learning_rate == -1.0


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("def get_config(:", ":1: SyntaxError"),
        ("def get_config():\n    return missing", ":2: NameError: name 'missing'"),
        ("import no_such_module", ":1: ModuleNotFoundError"),
        ("x = 1", "defines no get_config()"),
    ],
)
def test_a_fault_in_the_config_file_names_its_line(tmp_path: Path, code: str, text: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(code)
    with pytest.raises(errors.UsageError, match=re.escape(text)) as caught:
        config_file.config_from_file(str(path))
    assert_readable(str(caught.value))


VIT = {"model.image.kind": "vit", "model.image.depths": (3,), "model.image.heads": (2,)}
VALUES = [
    ({"batch_size": -5}, "config.batch_size=-5: must be a positive whole number"),
    ({"steps": 0}, "config.steps=0: must be a positive whole number"),
    ({"seed": -1}, "config.seed=-1: must be a whole number from 0"),
    ({"optim.learning_rate": float("nan")}, "config.optim.learning_rate=nan: must be a positive"),
    ({"optim.learning_rate": float("inf")}, "config.optim.learning_rate=inf: must be a positive"),
    ({"optim.ema": 1.0}, "config.optim.ema=1.0: must be a number from 0 to less than 1"),
    ({"model.fusion.dropout": 1.5}, "config.model.fusion.dropout=1.5: must be"),
    ({"augment.zoom_in": 0.5}, "config.augment.zoom_in=0.5: must be a number, 1"),
    ({"aligner.kind": "mmdd"}, "none, mmd, adversarial, conditional_adversarial (did you mean"),
    ({"method": "DATE"}, "config.method=DATE: must be one of date, source_only, oracle"),
    ({"model.rows_at_once": -1}, "config.model.rows_at_once=-1: must be a whole number, 0 or more"),
    ({"data.words": 1.5}, "config.data.words=1.5: must be a number from 0 to 1"),
    ({"data.paste.share": 1.0}, "config.data.paste.share=1.0: must be a number from 0 to less"),
    ({"data.paste.sizes": (0.5, 0.2)}, "two numbers, 0 < least <= greatest <= 1"),
    ({"data.paste.most": 1}, "config.data.paste.most=1: must be a whole number, 2 or more"),
    ({"model.dtype": "fp16"}, "config.model.dtype=fp16: must be one of float32, bfloat16"),
    ({"model.image.depths": ()}, "config.model.image.depths=(): must be a tuple of positive"),
    ({"model.image.depths": (2, 0)}, "config.model.image.depths=(2, 0): must be a tuple"),
    ({"model.image.depths": (1, 1, 1)}, "config.model.image.heads=(2, 4): needs one number"),
    ({"model.image.heads": (2, 5)}, "config.model.image.heads=(2, 5): 5 does not divide 64"),
    ({"model.fusion.heads": 5}, "config.model.fusion.heads=5: does not divide config.model.width"),
    (
        {"model.width": 66, "model.fusion.heads": 2},
        "a multiple of 4 (2-D positions), e.g. 64 or 68",
    ),
    ({"data.image_size": 100}, "a multiple of 8 (the last stage's patches), e.g. 96 or 104"),
    ({"batch_size": 100}, "config.batch_size=100: must be a multiple of 8 (the devices), e.g. 96"),
    ({"batch_size": 4}, "must be a multiple of 8 (the devices), e.g. 8"),
    ({"eval.batch_size": 9}, "config.eval.batch_size=9: must be a multiple of 8"),
    ({"mesh.fsdp": 3}, "config.mesh.fsdp=3: must divide the number of devices, 8: 1, 2, 4, 8"),
    ({"data.source": ""}, "config.data.source is empty"),
    ({"data.target": ""}, "config.method=date needs a target: set --config.data.target"),
    ({"data.target": "live+mall"}, "mall is also in config.data.source=mall"),
    ({"data.name": "files"}, "config.data.path is empty"),
    (
        {"data.name": "files", "data.path": "shop.jsonl", "data.target": ""},
        "one domain alone is for --config=configs/date.py:files",
    ),
    ({"stages.align": 0.8}, "config.stages.align=0.8: must not be above config.stages.pseudo=0.5"),
    ({"stages.pseudo": 1.2}, "config.stages.pseudo=1.2: must be a number from 0 to 1"),
    ({"optim.ema": 0.0}, "would be the student itself"),
    ({"pseudo_boxes.theta": -0.5}, "a quantile must be from 0 to 1"),
    ({"pseudo_boxes.rank": "score"}, "config.pseudo_boxes.rank=score: must be one of agreement, c"),
    ({"pseudo_boxes.teacher": "frozen", "pseudo_boxes.min_agreement": 0.5}, "never changes"),
    ({"pseudo_boxes.soft": True}, "has no distribution to learn; set head=bins or places"),
    ({"pseudo_boxes.mask": 1.0}, "config.pseudo_boxes.mask=1.0: must be a number from 0 to less"),
    ({"pseudo_boxes.self_check": 33.0}, "pseudo_boxes.self_check=33.0: must be a number from 0"),
    ({"pseudo_boxes.rank": "heat"}, "set config.image_seeker.places_weight, e.g. 0.1"),
    ({"model.fusion.heat": True}, "has no scores to add it to; set head=places, or heat=False"),
    ({"model.fusion.head": "place"}, "config.model.fusion.head=place: must be one of loc, bins"),
    ({"stages.align": 1.0, "stages.pseudo": 1.0}, "the target would never be seen"),
    ({"image_seeker.loss": "sigmoid", "image_seeker.prior": "dual_softmax"}, "has no softmax"),
    (
        {"method": "oracle", "pseudo_boxes.weight": 0.0},
        "config.pseudo_boxes.weight=0.0: config.method=oracle would never",
    ),
    (
        {"method": "oracle", "stages.pseudo": 1.0},
        "config.stages.pseudo=1.0: config.method=oracle would never",
    ),
    ({"augment.ramp": -1.0}, "config.augment.ramp=-1.0: must be a number from 0 to 1"),
    ({"augment.focus": float("nan")}, "must be a number from 0 to 1"),
    ({"task": "pgdaa"}, "config.task"),
    (
        {"image_seeker.weight": 0.0, "object_seeker.weight": 0.0},
        "config.image_seeker.weight=0, config.object_seeker.weight=0: there is nothing to learn",
    ),
    (
        {"aligner.queue": 64, "aligner.kind": "adversarial"},
        "config.aligner.queue=64: only MMD remembers",
    ),
    (
        {"aligner.unbiased": True, "aligner.kind": "adversarial"},
        "config.aligner.unbiased=True: adversarial has no diagonal",
    ),
    ({"pseudo_boxes.combine": "min"}, "config.pseudo_boxes.combine=min: makes the count, and"),
    (
        {"pseudo_boxes.theta_kind": "absolute", "pseudo_boxes.theta": 0.5},
        "set rank=count, or leave theta=0.9",
    ),
    (
        {"model.image.pooling": "multi_scale"},
        "joins all stages but the first, and model.image.depths=(1, 2) has 2",
    ),
    (
        {"model.image.pooling": "map"},
        "config.model.image.pooling=map: not of kind=swin, which has rep",
    ),
    (
        {"model.image.kind": "vit"},
        "config.model.image.depths=(1, 2): a ViT (kind=vit) is one stage",
    ),
    (
        {**VIT, "model.image.pooling": "cls", "model.image.vit.class_tokens": 0},
        "config.model.image.pooling=cls: needs model.image.vit.class_tokens=1",
    ),
    ({**VIT, "model.image.vit.rep_layers": 4}, "vit.rep_layers=4: there are 3 layers"),
    ({"model.image.pool": 3}, "a multiple of 24 (the last stage's patches), e.g. 48 or 72"),
    (
        {"model.image.train": "last_4"},
        "train=last_4: the image extractor has 3 layers; take last_3 or fewer, or all",
    ),
    ({"model.text.train": "last_3"}, "train=last_3: the text extractor has 2 layers"),
    ({"model.image.train": "last_0"}, "train=last_0: must be one of all, head, last_<n>, none"),
    ({"image_seeker.target_weight": -1.0}, "config.image_seeker.target_weight=-1.0: must be"),
    ({"task": "date"}, "config.data.target=live: this task has no target"),
]


def validate(changes: dict[str, object]) -> None:
    """Validates configs/pgda.py with some values changed, for 8 devices of 2 processes."""
    changed = pgda.get_config()
    changed.update_from_flattened_dict(changes)
    config.validate(changed, device_count=8, process_count=2)


@pytest.mark.parametrize(("changes", "text"), VALUES, ids=lambda x: str(x)[:50])
def test_a_wrong_value_is_refused(changes: dict[str, object], text: str) -> None:
    with pytest.raises(errors.UsageError) as caught:
        validate(changes)
    assert text in str(caught.value)
    assert_readable(str(caught.value))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_a_config_of_another_task_is_refused(file: Path, task: str) -> None:
    other = importlib.import_module(f"configs.{file.stem}").get_config()
    if other.task == task:
        return
    other.task = task
    lacks = f"config.task={task}: needs config."
    text = "this task has no target" if (file.stem, task) == ("pgda", "date") else lacks
    with pytest.raises(errors.UsageError, match=re.escape(text)):
        config.validate(other, device_count=1, process_count=1)


NO_AUGMENT = {
    f"augment.{kind}": 1.0 if kind in ("zoom_in", "zoom_out", "aspect") else 0.0
    for kind in pgda.get_config().augment
    if kind not in ("ramp", "focus")  # the one is a time, the other ends with it
}


def test_a_student_without_strong_views_is_refused() -> None:
    with pytest.raises(errors.UsageError, match=r"config\.augment: all off"):
        validate(NO_AUGMENT)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"method": "source_only", "data.target": ""},
        {"method": "oracle", **NO_AUGMENT},
        {"pseudo_boxes.weight": 0.0, **NO_AUGMENT},
        {"pseudo_boxes.teacher": "frozen", "optim.ema": 0.0},
        {"data.name": "files", "data.path": "shop.csv", "data.source": "mall+mall_collage"},
        {
            "pseudo_boxes.rank": "count",
            "pseudo_boxes.theta_kind": "absolute",
            "pseudo_boxes.theta": -0.5,
        },
    ],
    ids=str,
)
def test_a_sound_config_passes(changes: dict[str, object]) -> None:
    validate(changes)


def test_many_mistakes_fit_in_eight_lines() -> None:
    wrong = {"batch_size": 0, "steps": 0, "log.every": 0, "model.width": 0, "optim.clip": 0.0}
    wrong |= {"checkpoint.keep": 0, "eval.every": 0, "mesh.fsdp": 0, "method": "x"}
    with pytest.raises(errors.UsageError, match="and 3 more") as caught:
        validate(wrong)
    assert_readable("error: " + str(caught.value))


def values_of_all_configs() -> dict[str, object]:
    """A value of every key that some config file has."""
    modules = [importlib.import_module(f"configs.{file.stem}") for file in CONFIGS]
    return {k: v for m in modules for k, v in workdir.flat(m.get_config().to_dict()).items()}


def test_every_rule_is_about_a_key_that_there_is() -> None:
    keys = values_of_all_configs()
    assert {*config.CHOICES} <= {*keys}
    about = {key: config.range_of(key) for key in keys}
    for row in config.RANGES:
        for pattern in row.keys:
            assert any(fnmatchcase(k, pattern) for k, r in about.items() if r is row), pattern


def test_every_number_of_every_config_has_a_range() -> None:
    for key, value in values_of_all_configs().items():
        if isinstance(value, int | float | tuple) and not isinstance(value, bool):
            assert config.range_of(key), f"config.{key}: a line of config.RANGES must fit it"
        else:
            assert not config.range_of(key), f"config.{key} is no number"


@pytest.mark.parametrize("value", ["1", "True", "on"])
def test_a_shell_with_64_bits_is_refused_before_the_command_begins(
    value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JAX_ENABLE_X64", value)
    begun: list[list[str]] = []
    with pytest.raises(SystemExit) as caught:
        commandline.run(begun.append, ["main.py"])
    text = capsys.readouterr().err
    assert (caught.value.code, begun) == (errors.SetupError.exit_code, [])
    assert f"JAX_ENABLE_X64={value}" in text
    assert "unset JAX_ENABLE_X64" in text
    assert_readable(text)


@pytest.mark.parametrize("environ", [{}, {"JAX_ENABLE_X64": "0"}, {"JAX_ENABLE_X64": "false"}])
def test_a_shell_with_32_bits_is_accepted(environ: dict[str, str]) -> None:
    commandline.require_32_bits(environ)


def test_a_platform_without_plugin_is_named_with_what_to_unset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def find_none() -> None:
        raise AssertionError  # as JAX does for a platform that it knows but cannot load

    monkeypatch.setattr("jax.devices", find_none)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    with pytest.raises(errors.SetupError, match="no devices") as caught:
        commandline.require_devices()
    assert "JAX_PLATFORMS=cuda" in str(caught.value)
    assert "unset JAX_PLATFORMS" in str(caught.value)
    assert_readable(str(caught.value))


def failing_main(error: BaseException) -> Callable[[list[str]], None]:
    def main(_: list[str]) -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (errors.UsageError("a"), 2, "error: a\n"),
        (errors.DataError("b"), 3, "error: b\n"),
        (errors.CheckpointError("c"), 4, "error: c\n"),
        (errors.SetupError("d"), 5, "error: d\n"),
        (errors.Preempted("saved step 7"), 75, "stopped: saved step 7\n"),
        (KeyboardInterrupt(), 130, "interrupted: the same command resumes"),
        (KeyboardInterrupt("nothing is saved yet"), 130, "interrupted: nothing is saved yet\n"),
        (ZeroDivisionError("ours"), 1, "Traceback"),
        (OSError(errno.ENOENT, "ours too"), 1, "Traceback"),
        (OSError(errno.ENOSPC, "No space left", "/r/metrics.jsonl"), 5, "error: [Errno 28] No spa"),
    ],
)
def test_exit_codes_tell_whose_mistake_it_was(
    error: BaseException,
    code: int,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setattr(commandline, "parse", lambda argv, _, **options: argv)
    with pytest.raises(SystemExit) as left:
        commandline.run(failing_main(error), ["main.py"])
    assert left.value.code == code
    assert capsys.readouterr().err.startswith(text)


def test_a_reader_that_leaves_early_gets_no_traceback(root: Path) -> None:
    line = "print('a line ' * 9999, flush=True)"
    code = f"from date_jax.run.commandline import run; run(lambda _: [{line} for _ in range(99)])"
    script = f"{sys.executable} -c {shlex.quote(code)} | head -c 9; exit ${{PIPESTATUS[0]}}"
    process = subprocess.run(["bash", "-c", script], cwd=root, capture_output=True, text=True)
    assert (process.returncode, process.stdout, process.stderr) == (141, "a line a ", "")


SLOW_TO_END = """
import atexit, time
from date_jax.errors import DataError
from date_jax.run.commandline import run
class Slow:
    def __del__(self):
        time.sleep(60)
slow = Slow()
def main(_):
    atexit.register(print, "goodbye")
    raise DataError("no rows")
run(main)
"""


def test_a_command_ends_at_once_when_all_is_said(root: Path) -> None:
    command = [sys.executable, "-c", SLOW_TO_END]
    process = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=30)
    assert (process.returncode, process.stdout) == (3, "goodbye\n")
    assert process.stderr == "error: no rows\n"


def test_debug_shows_the_traceback_of_a_users_mistake(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(commandline, "parse", lambda argv, _, **options: argv)
    with pytest.raises(SystemExit):
        commandline.run(failing_main(errors.DataError("b")), ["main.py", "--debug"])
    assert re.search(r"Traceback.*error: b\n$", capsys.readouterr().err, re.DOTALL)


@pytest.mark.parametrize(
    ("index", "count", "error", "text"),
    [
        (0, 2, errors.UsageError("all made it"), "error: all made it\n"),
        (1, 2, errors.UsageError("all made it"), ""),
        (1, 1, errors.UsageError("it is alone"), "error on host 1: it is alone\n"),
        (0, 2, errors.DataError("one disk"), "error: one disk\n"),
        (1, 2, errors.DataError("one disk"), "error on host 1: one disk\n"),
        (1, 2, errors.SaveError("its disk"), "error on host 1: its disk\n"),
    ],
)
def test_what_all_hosts_share_is_said_once(
    index: int,
    count: int,
    error: errors.UserError,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setattr(commandline, "parse", lambda argv, _, **options: argv)
    monkeypatch.setattr(commandline, "process", lambda argv=(): (index, count))
    monkeypatch.setattr(commandline, "leave", sys.exit)
    with pytest.raises(SystemExit):
        commandline.run(failing_main(error), ["main.py"])
    assert capsys.readouterr().err == text


@pytest.mark.parametrize(("code", "way"), [(1, "_exit"), (2, "_exit"), (75, "exit"), (0, "exit")])
def test_one_of_several_processes_that_fails_does_not_wait_for_the_others(
    code: int, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exit_stub(name: str) -> Callable[[int], None]:
        def leave(code: int) -> None:
            raise SystemExit(f"{name} {code}")

        return leave

    monkeypatch.setattr(commandline, "process", lambda argv=(): (1, 2))
    monkeypatch.setattr(commandline.os, "_exit", exit_stub("_exit"))
    monkeypatch.setattr(commandline.sys, "exit", exit_stub("exit"))
    with pytest.raises(SystemExit, match=f"^{way} {code}$"):
        commandline.leave(code)


def completed_command(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "date_jax.main", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_real_command_says_it_and_exits_with_2() -> None:
    process = completed_command(PGDA, "--config.batch_sise=8")
    assert process.returncode == 2, process.stderr
    assert process.stderr == (
        "error: --config.batch_sise=8: unknown key (did you mean 'config.batch_size'?)\n"
    )


def test_asking_for_help_is_no_mistake() -> None:
    process = completed_command("--help")
    assert (process.returncode, process.stderr) == (0, "")
    assert "--workdir" in process.stdout
