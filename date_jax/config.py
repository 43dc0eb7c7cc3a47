"""Checks of a config that no type makes: ranges, choices, fields that contradict each other.

The schema is the config file itself, and a choice belongs to the module that offers it. Here stand
the ranges and what holds for every task; each task says what contradicts itself in it. A rule about
a key that a config does not have is skipped, so every task's config passes through here.
"""

import itertools
import math
from collections.abc import Callable, Collection, Iterator
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from date_jax import features, optim
from date_jax.capture import network as capture_network
from date_jax.capture import post_search
from date_jax.data.files import preprocess
from date_jax.data.sources import SOURCES
from date_jax.date import aligner, batches, box_heads, pseudo_boxes, supervised, teacher
from date_jax.errors import UsageError, spelling_hint
from date_jax.networks import extractors, freezing, vit
from date_jax.networks.layouts import KINDS
from date_jax.networks.sizes import stage_widths, token_side
from date_jax.run.workdir import flat
from date_jax.same_style import task as same_style
from date_jax.tasks import TASKS

_MOST_LINES = 7  # messages have at most 8, with the one that says whose mistake it is

CHOICES: dict[str, Collection[str]] = {
    "task": tuple(TASKS),
    "method": batches.METHODS,
    "modality": tuple(same_style.SINGLES),
    "data.name": tuple(SOURCES),
    "data.fit": preprocess.FITS,
    "init.kept_dtype": features.STORED,
    "model.dtype": extractors.DTYPES,
    "model.regions.kind": capture_network.REGIONS,
    "model.image.kind": extractors.IMAGE_KINDS,
    "model.image.pooling": tuple(dict.fromkeys(itertools.chain(*extractors.POOLINGS.values()))),
    "model.image.vit.activation": tuple(vit.ACTIVATIONS),
    "model.image.vit.pixels": tuple(vit.PIXELS),
    "model.text.kind": extractors.TEXT_KINDS,
    "model.fusion.head": box_heads.HEADS,
    "losses.kind": same_style.LOSSES,
    "image_seeker.loss": supervised.LOSSES,
    "image_seeker.prior": supervised.PRIORS,
    "aligner.kind": aligner.KINDS,
    "pseudo_boxes.teacher": teacher.TEACHERS,
    "pseudo_boxes.rank": pseudo_boxes.RANKS,
    "pseudo_boxes.theta_kind": pseudo_boxes.THETA_KINDS,
    "pseudo_boxes.combine": pseudo_boxes.COMBINE,
    "retrieval.embedding": tuple(post_search.EMBEDDINGS),
    "retrieval.merge": post_search.MERGES,
    "optim.schedule": tuple(optim.SCHEDULES),
}


class Range(NamedTuple):
    """A range, or another condition, that the numbers of some keys must fulfil.

    Attributes:
        text: says it to the user.
        holds: `(value) -> bool`.
        keys: patterns of the keys that it is about, as `fnmatch` reads them.
    """

    text: str
    holds: Callable[[Any], bool]
    keys: tuple[str, ...]


def _whole(low: int, high: int | float = math.inf) -> Callable[[Any], bool]:
    """A test for whole numbers from `low` to `high`."""
    return lambda x: isinstance(x, int) and not isinstance(x, bool) and low <= x <= high


def _number(holds: Callable[[float], bool]) -> Callable[[Any], bool]:
    """A test for finite numbers that pass the test `holds`."""
    return lambda x: isinstance(x, int | float) and math.isfinite(x) and holds(x)


def _are_sizes(value: Any) -> bool:
    return isinstance(value, tuple | list) and value != () and all(map(_whole(1), value))


def _is_span(value: Any) -> bool:
    """Whether `value` is two numbers, 0 < least <= greatest <= 1."""
    is_pair = isinstance(value, tuple | list) and len(value) == 2
    return is_pair and all(map(_number(lambda x: 0 < x <= 1), value)) and value[0] <= value[1]


RANGES = [  # of several that are about one key, the first holds
    Range(
        "a tuple of positive whole numbers", _are_sizes, ("model.image.depths", "model.image.heads")
    ),
    Range("two numbers, 0 < least <= greatest <= 1", _is_span, ("data.paste.sizes",)),
    Range("a whole number, 2 or more", _whole(2), ("data.paste.most",)),
    Range(
        "a number from 0 to less than 1",
        _number(lambda x: 0 <= x < 1),
        ("data.paste.share", "pseudo_boxes.mask"),
    ),
    Range("1 or 2", lambda x: x in (1, 2), ("pseudo_boxes.looks",)),
    Range("a whole number, 2 or more", _whole(2), ("data.text_length",)),
    Range("a whole number, 100 or more", _whole(100), ("data.vocab_size",)),
    Range("a whole number from 0 to 4294967295", _whole(0, 2**32 - 1), ("seed", "data.*.seed")),
    Range(
        "a whole number, 0 or more",
        _whole(0),
        (
            *("data.*.workers", "data.views", "data.paste.pictures", "model.rows_at_once"),
            *("model.streams.*.layers", "model.*.max_length", "aligner.queue"),
            *("model.image.vit.class_tokens", "model.image.vit.registers"),
        ),
    ),
    Range(
        "a number from 0 to 1",
        _number(lambda x: 0 <= x <= 1),
        (
            *("data.bad_image_budget", "data.*.min_relevance", "data.*_share", "optim.warmup"),
            *("data.words", "model.regions.overlap", "model.regions.min_score", "stages.*"),
            *("pseudo_boxes.keep_*", "pseudo_boxes.min_*", "pseudo_boxes.self_check"),
            *(f"augment.{kind}" for kind in ("ramp", "focus", "flip", "erase", "noise", "cast")),
            *(f"augment.{kind}" for kind in ("brightness", "contrast", "saturation")),
        ),
    ),
    Range("a number from -1 to 1", _number(lambda x: -1 <= x <= 1), ("pseudo_boxes.theta",)),
    Range(
        "a number from 0 to less than 1",
        _number(lambda x: 0 <= x < 1),
        ("model.*.dropout", "optim.beta2", "optim.ema"),
    ),
    Range(
        "a number, 1 (off) or more",
        _number(lambda x: x >= 1),
        ("augment.zoom_*", "augment.aspect", "retrieval.margin"),
    ),
    Range(
        "a positive number",
        _number(lambda x: x > 0),
        ("*.mlp_ratio", "*temperature", "optim.learning_rate", "optim.clip", "model.*.epsilon"),
    ),
    Range(
        "a number, 0 or more",
        _number(lambda x: x >= 0),
        (
            *("*weight", "*_margin", "loss.*", "augment.blur", "retrieval.context"),
            *("optim.weight_decay", "optim.backbone_scale"),
        ),
    ),
    Range(
        "a positive whole number",
        _whole(1),
        (
            *("steps", "batch_size", "mesh.fsdp", "*.every", "eval.batch_size", "checkpoint.keep"),
            *("data.image_size", "data.max_pixels", "data.shop.*", "data.suites.*"),
            *("data.suppliers.*", "data.clicks.rows", "data.clicks.min_*", "data.clicks.max_*"),
            *("model.*width", "model.*.heads", "model.*.layers", "model.*embedding"),
            *("model.image.patch", "model.image.window", "model.image.pool"),
            *("model.image.vit.positions", "model.image.vit.rep_layers", "model.regions.count"),
            *("aligner.hidden", "pseudo_boxes.every"),
            *("losses.nearest", "retrieval.instances"),
        ),
    ),
]


def validate(config: ConfigDict, *, device_count: int, process_count: int) -> None:
    """Refuses values that cannot work, before anything is loaded or compiled.

    Args:
        config: a whole config, as `get_config` gives it.
        device_count: of all processes together.
        process_count: processes that share each global batch.

    Raises:
        UsageError: one line for each wrong value: key, value, what it must be.
    """
    values = flat(config.to_dict())
    problems = [*_wrong_values(values)]
    # Contradictions are sought only among values that make sense on their own.
    if not problems:
        problems += _lacking_paths(values)
        problems += _two_beginnings(values)
        problems += TASKS[config.task].contradictions(config)
        problems += _batch_misfits(values, device_count, process_count)
        problems += _width_misfits(values)
        problems += _frozen_misfits(config)
        problems += _kept_misfits(config)
        problems += _image_misfits(config) if "model.image.depths" in values else []
    if len(problems) > _MOST_LINES:
        hidden = len(problems) - _MOST_LINES + 1
        problems = [*problems[: _MOST_LINES - 1], f"and {hidden} more"]
    if problems:
        raise UsageError("\n".join(problems))


def range_of(key: str) -> Range | None:
    """The range that a dotted key's number must be in; None where nothing is said of it."""
    return next((r for r in RANGES if any(fnmatchcase(key, pattern) for pattern in r.keys)), None)


def _wrong_values(values: dict[str, Any]) -> Iterator[str]:
    """Values that are wrong on their own, by dotted keys."""
    for key, value in values.items():
        choices, allowed = CHOICES.get(key), range_of(key)
        if choices and value not in choices:
            hint = spelling_hint(str(value), choices)
            yield f"config.{key}={value}: must be one of {', '.join(choices)}{hint}"
        if allowed and not allowed.holds(value):
            yield f"config.{key}={value}: must be {allowed.text}"
    for kind in KINDS:
        train = values.get(f"model.{kind}.train", "all")
        if not freezing.TRAIN.fullmatch(train):
            yield f"config.model.{kind}.train={train}: must be one of all, head, last_<n>, none"


def _lacking_paths(values: dict[str, Any]) -> Iterator[str]:
    """Paths that the source of the data needs."""
    for key, content in SOURCES[values["data.name"]].needs.items():
        if values.get(f"data.{key}") == "":
            yield f"config.data.{key} is empty: name {content}"


def _two_beginnings(values: dict[str, Any]) -> Iterator[str]:
    """Weights of an extractor next to a run that has them too."""
    for kind in ("image", "text"):
        if values.get("init.run") and values.get(f"init.{kind}"):
            yield f"config.init.run has the whole network: leave config.init.{kind} empty"


def _batch_misfits(values: dict[str, Any], device_count: int, process_count: int) -> Iterator[str]:
    """Batches and mesh axes that the devices do not divide."""
    fsdp = values.get("mesh.fsdp")
    if fsdp and device_count % fsdp:
        divisors = [str(n) for n in range(1, device_count + 1) if device_count % n == 0]
        yield (
            f"config.mesh.fsdp={fsdp}: must divide the number of devices, {device_count}: "
            f"{', '.join(divisors)}"
        )
    unit = math.lcm(device_count, process_count)
    for key in ("batch_size", "eval.batch_size"):
        size = values.get(key)
        if size and size % unit:
            yield f"config.{key}={size}: {_multiple_of(unit, 'the devices', size)}"


def _frozen_misfits(config: ConfigDict) -> Iterator[str]:
    """More trained blocks than an extractor has."""
    for kind in KINDS:
        section = config.model.get(kind, ConfigDict())
        if freezing.frozen_blocks(section) < 0:
            count = freezing.block_count(section)
            yield (
                f"config.model.{kind}.train={section.train}: the {kind} extractor has {count} "
                f"layers; take last_{count} or fewer, or all"
            )


def _kept_misfits(config: ConfigDict) -> Iterator[str]:
    """Features that shall be kept and cannot be, or would be no use."""
    if not config.get("init", {}).get("keep", False):
        return
    if TASKS[config.task].kept is None:
        yield f"config.init.keep=True: task {config.task} reads no features; leave it out"
        return
    if not config.data.views:
        yield (
            "config.init.keep=True: only fixed views can be kept; set --config.data.views, e.g. 8"
        )
    if freezing.choice(config.model, "image") != "none":
        yield (
            f"config.init.keep=True: training changes the image extractor "
            f"(config.model.image.train={config.model.image.train}); set it to none"
        )


def _width_misfits(values: dict[str, Any]) -> Iterator[str]:
    """Widths that their heads do not divide, or that have no room for 2-D positions."""
    for key, heads in values.items():
        width_key = _width_key(key, values)
        if width_key and isinstance(heads, int) and values[width_key] % heads:
            yield f"config.{key}={heads}: does not divide config.{width_key}={values[width_key]}"
    width = values.get("model.width")
    if width and width % 4:
        yield f"config.model.width={width}: {_multiple_of(4, '2-D positions', width)}"


def _width_key(key: str, values: dict[str, Any]) -> str | None:
    """The key of the width that `<section>.heads` share: the section's, or of one around it."""
    section, _, name = key.rpartition(".")
    while name == "heads" and section:
        if f"{section}.width" in values:
            return f"{section}.width"
        section = section.rpartition(".")[0]
    return None


def _image_misfits(config: ConfigDict) -> Iterator[str]:
    """Stages of the image extractor that do not fit each other, or the picture."""
    image, side = config.model.image, config.data.image_size
    # Heads: one number a stage, which divides the stage's width.
    if len(image.depths) != len(image.heads):
        yield (
            f"config.model.image.heads={image.heads}: needs one number for each stage, as "
            f"model.image.depths={image.depths}"
        )
    for width, heads in zip(stage_widths(image), image.heads, strict=False):
        if width % heads:
            yield f"config.model.image.heads={image.heads}: {heads} does not divide {width}"
    yield from _pooling_misfits(image)
    # The last stage's tokens must cover the picture without a rest.
    if side % token_side(image):
        hint = _multiple_of(token_side(image), "the last stage's patches", side)
        yield f"config.data.image_size={side}: {hint}"


def _pooling_misfits(image: ConfigDict) -> Iterator[str]:
    """A way to one vector that the kind of extractor, or its stages, do not have."""
    kind, pooling = image.get("kind", "swin"), image.get("pooling", "mean")
    if pooling not in extractors.POOLINGS[kind]:
        yield (
            f"config.model.image.pooling={pooling}: not of kind={kind}, which has "
            f"{', '.join(extractors.POOLINGS[kind])}"
        )
    # Pooling over scales needs more than one scale to pool.
    if kind == "swin" and pooling == "multi_scale" and len(image.depths) < 3:
        yield (
            f"config.model.image.pooling=multi_scale: joins all stages but the first, and "
            f"model.image.depths={image.depths} has {len(image.depths)}; take 3 or more"
        )
    if kind == "vit":
        yield from _vit_misfits(image, pooling)


def _vit_misfits(image: ConfigDict, pooling: str) -> Iterator[str]:
    """Sizes that no ViT can have."""
    layers = sum(image.depths)
    if len(image.depths) != 1:
        yield (
            f"config.model.image.depths={image.depths}: a ViT (kind=vit) is one stage; "
            f"set it to ({layers},)"
        )
    if pooling == "cls" and not image.vit.class_tokens:
        yield "config.model.image.pooling=cls: needs model.image.vit.class_tokens=1 or more"
    if pooling == "rep" and image.vit.rep_layers > layers:
        yield (
            f"config.model.image.vit.rep_layers={image.vit.rep_layers}: there are {layers} layers"
        )


def _multiple_of(unit: int, reason: str, value: int) -> str:
    """The text "must be a multiple of 8 (the devices), e.g. 96 or 104", the two around `value`."""
    below = value // unit * unit
    near = " or ".join(str(size) for size in (below, below + unit) if size)
    return f"must be a multiple of {unit} ({reason}), e.g. {near}"
