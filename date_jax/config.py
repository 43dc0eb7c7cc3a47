"""What no type can refuse in a config: ranges, choices, and fields that contradict each other.

The schema is the config file itself. Here stands only what would otherwise fail late or silently; a
rule about a key that a config does not have is skipped, so every task's config passes through here.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

from ml_collections import ConfigDict

from date_jax.data.sources import SOURCES
from date_jax.errors import UsageError, spelling_hint
from date_jax.networks.sizes import stage_widths, stride

_SHOWN = 7  # messages have at most 8 lines

CHOICES = {
    "task": ("pgda", "date", "capture", "same_style"),
    "modality": ("both", "image", "text"),
    "losses.kind": ("hinge", "softmax"),
    "method": ("date", "source_only", "oracle"),
    "data.name": tuple(SOURCES),
    "data.fit": ("letterbox", "stretch"),
    "model.dtype": ("float32", "bfloat16"),
    "model.regions.kind": ("proposals", "grid", "precomputed"),
    "model.image.pooling": ("rep", "mean", "multi_scale"),
    "retrieval.embedding": ("author", "sum"),
    "retrieval.merge": ("round_robin", "max"),
    "image_seeker.loss": ("softmax", "sigmoid"),
    "image_seeker.prior": ("none", "dual_softmax"),
    "aligner.kind": ("none", "mmd", "adversarial", "conditional_adversarial"),
    "pseudo_boxes.teacher": ("ema", "frozen"),
    "pseudo_boxes.rank": ("agreement", "count"),
    "pseudo_boxes.theta_kind": ("quantile", "absolute"),
    "pseudo_boxes.combine": ("mean", "rank", "min"),
    "optim.schedule": ("cosine", "step"),
}


def _whole(low: int, high: int | float = math.inf) -> Callable[[Any], bool]:
    return lambda x: isinstance(x, int) and not isinstance(x, bool) and low <= x <= high


def _number(test: Callable[[float], bool]) -> Callable[[Any], bool]:
    return lambda x: isinstance(x, int | float) and math.isfinite(x) and test(x)


def _sizes(value: Any) -> bool:
    return isinstance(value, tuple | list) and value != () and all(map(_whole(1), value))


RANGES: list[tuple[str, Callable[[Any], bool], tuple[str, ...]]] = [
    (
        "a positive whole number",
        _whole(1),
        (
            *("steps", "batch_size", "mesh.fsdp", "log.every", "eval.every", "eval.batch_size"),
            *("checkpoint.every", "checkpoint.keep", "pseudo_boxes.every", "aligner.hidden"),
            *("data.image_size", "data.max_pixels", "data.shop.pictures", "data.shop.products"),
            *("model.width", "model.image.patch", "model.image.width", "model.image.window"),
            *("model.text.layers", "model.text.width", "model.text.heads"),
            *("model.fusion.layers", "model.fusion.heads", "model.fusion.mlp_width"),
            *(f"data.suites.{kind}" for kind in ("posts", "composites", "queries", "views")),
            *("data.suites.products", "data.suites.unseen"),
            *("model.regions.count", "model.regions.width", "retrieval.instances"),
            *("data.suppliers.products", "model.embedding", "losses.nearest"),
            *("model.joint.layers", "model.joint.heads", "model.joint.mlp_width"),
            *(f"data.clicks.{least}" for least in ("rows", "min_support", "max_clicks")),
            *("data.clicks.min_coclicks", "data.clicks.max_pairs"),
            *(f"model.streams.{name}" for name in ("width", "embedding", "cross.width")),
            *(f"model.streams.{part}.heads" for part in ("text", "image", "cross", "joint")),
            *(f"model.streams.{part}.mlp_width" for part in ("text", "image")),
        ),
    ),
    ("1 or 2", lambda x: x in (1, 2), ("pseudo_boxes.looks",)),
    ("a whole number, 2 or more", _whole(2), ("data.text_length",)),
    ("a whole number, 100 or more", _whole(100), ("data.vocab_size",)),
    (
        "a whole number, 0 or more",
        _whole(0),
        (
            *(f"data.{shop}.workers" for shop in ("shop", "suites", "suppliers")),
            *("aligner.queue", "model.rows_at_once"),
            *(f"model.streams.{part}.layers" for part in ("text", "image", "cross", "joint")),
        ),
    ),
    (
        "a whole number from 0 to 4294967295",
        _whole(0, 2**32 - 1),
        ("seed", *(f"data.{name}.seed" for name in ("shop", "suites", "suppliers", "clicks"))),
    ),
    ("a tuple of positive whole numbers", _sizes, ("model.image.depths", "model.image.heads")),
    (
        "a positive number",
        _number(lambda x: x > 0),
        (
            *("optim.learning_rate", "optim.clip", "image_seeker.prior_temperature"),
            *("model.image.mlp_ratio", "model.text.mlp_ratio", "loss.temperature"),
            "losses.temperature",
        ),
    ),
    (
        "a number, 0 or more",
        _number(lambda x: x >= 0),
        (
            *("optim.weight_decay", "optim.backbone_scale", "augment.blur"),
            *("image_seeker.weight", "image_seeker.target_weight", "object_seeker.weight"),
            *("object_seeker.l1_weight", "object_seeker.giou_weight", "pseudo_boxes.weight"),
            *("aligner.weight", "aligner.image_weight", "aligner.text_weight"),
            *(f"losses.{kind}_margin" for kind in ("match", "distinct", "local")),
            *("losses.distinct_weight", "losses.local_weight"),
            *(
                f"loss.{term}"
                for term in ("words", "regions", "contrast", "joined", "objectness", "box")
            ),
            "retrieval.context",
        ),
    ),
    (
        "a number, 1 (off) or more",
        _number(lambda x: x >= 1),
        ("augment.zoom_in", "augment.zoom_out", "augment.aspect", "retrieval.margin"),
    ),
    (
        "a number from 0 to 1",
        _number(lambda x: 0 <= x <= 1),
        (
            *("stages.align", "stages.pseudo", "data.bad_image_budget", "optim.warmup"),
            *("pseudo_boxes.keep_start", "pseudo_boxes.keep_end"),
            *("pseudo_boxes.min_agreement", "pseudo_boxes.min_row_agreement"),
            *(f"augment.{kind}" for kind in ("ramp", "focus", "flip", "erase", "noise", "cast")),
            *(f"augment.{kind}" for kind in ("brightness", "contrast", "saturation")),
            *("model.regions.overlap", "model.regions.min_score"),
            *("data.clicks.min_relevance", "data.clicks.drop_duplicates_share"),
        ),
    ),
    ("a number from -1 to 1", _number(lambda x: -1 <= x <= 1), ("pseudo_boxes.theta",)),
    (
        "a number from 0 to less than 1",
        _number(lambda x: 0 <= x < 1),
        (
            *("optim.ema", "optim.beta2", "model.text.dropout", "model.fusion.dropout"),
            *("model.streams.dropout", "model.joint.dropout"),
        ),
    ),
]
# What `pseudo_boxes.rank=count` reads, and the value in configs/pgda.py.
_OF_COUNT = {"combine": "mean", "theta_kind": "quantile", "theta": 0.9}
_DIAGONAL = ("none", "mmd")  # aligners that may be told to leave it out
_OFF_AT_ONE = ("zoom_in", "zoom_out", "aspect")  # of `augment`; all else is off at 0


def validate(config: ConfigDict, *, device_count: int, process_count: int) -> None:
    """Refuses values that cannot work, before anything is loaded or compiled.

    Args:
        config: a whole config, as `get_config` gives it.
        device_count: of all processes together.
        process_count: processes that share each global batch.

    Raises:
        UsageError: one line for each wrong value: key, value, what it must be.
    """
    found = [*_wrong_values(config)]
    # Contradictions are asked for only among values that make sense on their own.
    found = found or [*_contradictions(config), *_misfits(config, device_count, process_count)]
    if len(found) > _SHOWN:
        found = [*found[: _SHOWN - 1], f"and {len(found) - _SHOWN + 1} more"]
    if found:
        raise UsageError("\n".join(found))


def _get(config: ConfigDict, key: str) -> Any:
    """The value of a dotted key; None where the config has no such key."""
    value: Any = config
    for part in key.split("."):
        if part not in value:
            return None
        value = value[part]
    return value


def _wrong_values(config: ConfigDict) -> Iterator[str]:
    for key, choices in CHOICES.items():
        value = _get(config, key)
        if value is not None and value not in choices:
            hint = spelling_hint(str(value), choices)
            yield f"config.{key}={value}: must be one of {', '.join(choices)}{hint}"
    for text, is_right, keys in RANGES:
        for key in keys:
            value = _get(config, key)
            if value is not None and not is_right(value):
                yield f"config.{key}={value}: must be {text}"


def _contradictions(config: ConfigDict) -> Iterator[str]:
    """Fields that are each right, but not together."""
    yield from _lacking_paths(config)
    if _get(config, "data.target") is not None:
        yield from _data_contradictions(config)
    if "regions" in config.data:
        yield from _region_contradictions(config)
    if "stages" in config and config.stages.align > config.stages.pseudo:
        yield (
            f"config.stages.align={config.stages.align}: must not be above "
            f"config.stages.pseudo={config.stages.pseudo}, for pseudo boxes come after alignment"
        )
    if "stages" in config and config.method == "date" and config.stages.align >= 1:
        yield (
            f"config.stages.align={config.stages.align}: the target would never be seen; begin "
            "earlier, or set --config.method=source_only"
        )
    lacking = [key for key in ("stages", "aligner", "pseudo_boxes") if key not in config]
    if config.task == "pgda" and lacking:
        yield f"config.task=pgda: needs config.{lacking[0]}, which this config file does not have"
    if "image_seeker" in config:
        seeker = config.image_seeker
        if not (seeker.weight or config.object_seeker.weight):
            yield (
                "config.image_seeker.weight=0, config.object_seeker.weight=0: there is nothing to "
                "learn; raise one of them"
            )
        if seeker.loss == "sigmoid" and seeker.prior != "none":
            yield (
                f"config.image_seeker.prior={seeker.prior}: the sigmoid loss has no softmax to "
                "correct; set prior=none, or loss=softmax"
            )
    if "pseudo_boxes" in config and config.method == "date":
        yield from _teacher_contradictions(config)
    if "pseudo_boxes" in config and config.method == "oracle":
        yield from _oracle_contradictions(config)
    if "aligner" in config and config.aligner.queue and config.aligner.kind != "mmd":
        yield (
            f"config.aligner.queue={config.aligner.queue}: only MMD remembers earlier batches; set "
            "aligner.kind=mmd, or queue=0"
        )
    if "aligner" in config and config.aligner.unbiased and config.aligner.kind not in _DIAGONAL:
        yield (
            f"config.aligner.unbiased=True: {config.aligner.kind} has no diagonal to leave out; "
            "set aligner.kind=mmd, or unbiased=False"
        )
    if "aligner" in config and config.aligner.unbiased and config.batch_size == 1:
        yield "config.aligner.unbiased=True: needs a batch_size of at least 2"


def _lacking_paths(config: ConfigDict) -> Iterator[str]:
    for key, says in SOURCES[config.data.name].needs.items():
        if _get(config, f"data.{key}") == "":
            yield f"config.data.{key} is empty: name {says}"
    without = _get(config, "data.clicks.without")
    if without and config.data.name != "suppliers":
        yield (
            f"config.data.clicks.without={without}: no clicks are simulated where pairs are given; "
            'leave it ""'
        )


def _region_contradictions(config: ConfigDict) -> Iterator[str]:
    precomputed = config.model.regions.kind == "precomputed"
    if precomputed and not config.data.regions:
        yield (
            "config.data.regions is empty, but config.model.regions.kind=precomputed: name the "
            "folder that date_jax.data.region_files wrote"
        )
    if config.data.regions and not precomputed:
        yield (
            f"config.data.regions={config.data.regions}: not read unless "
            "config.model.regions.kind=precomputed"
        )
    if precomputed and config.data.fit != "stretch":
        yield (
            f"config.data.fit={config.data.fit}: precomputed regions lie in shares of the whole "
            "picture; set fit=stretch"
        )


def _data_contradictions(config: ConfigDict) -> Iterator[str]:
    source, target = (
        {part for part in config.data[side].split("+") if part} for side in ("source", "target")
    )
    if not source:
        yield "config.data.source is empty: name the domain whose boxes are known"
    if target and config.task == "date":
        yield (
            f"config.data.target={config.data.target}: this task has no target; name every domain "
            "in config.data.source, joined by +"
        )
    method = _get(config, "method")
    if not target and method not in (None, "source_only"):
        yield (
            f"config.data.target is empty, but config.method={method} needs a target: set "
            "--config.data.target=<domain>, or --config.method=source_only"
        )
    if source & target:
        both = "+".join(sorted(source & target))
        yield (
            f"config.data.target={config.data.target}: {both} is also in config.data.source"
            f"={config.data.source}; a domain is one or the other"
        )


def _teacher_contradictions(config: ConfigDict) -> Iterator[str]:
    """A teacher that is its own pupil, seeing the same picture, teaches nothing: no gradient."""
    pseudo = config.pseudo_boxes
    if not pseudo.weight or config.stages.pseudo >= 1:
        return
    if pseudo.teacher == "ema" and not config.optim.ema:
        yield (
            "config.optim.ema=0: the teacher (config.pseudo_boxes.teacher=ema) would be the "
            "student itself; set optim.ema, e.g. 0.995, or pseudo_boxes.teacher=frozen"
        )
    lasting = {k: v for k, v in config.augment.items() if k not in ("ramp", "focus")}
    off = all(value == (1 if kind in _OFF_AT_ONE else 0) for kind, value in lasting.items())
    if off:
        yield (
            "config.augment: all off, so the student would see just what the teacher sees and "
            "learn next to nothing from it; switch one on, or set pseudo_boxes.weight=0"
        )
    if pseudo.theta_kind == "quantile" and pseudo.theta < 0:
        yield f"config.pseudo_boxes.theta={pseudo.theta}: a quantile must be from 0 to 1"
    if pseudo.rank != "count":
        for key, unused in _OF_COUNT.items():
            if pseudo[key] != unused:
                yield (
                    f"config.pseudo_boxes.{key}={pseudo[key]}: makes the count, and "
                    f"pseudo_boxes.rank={pseudo.rank} does not count; set rank=count, or leave "
                    f"{key}={unused}"
                )
    if pseudo.teacher == "frozen" and pseudo.min_agreement:
        yield (
            f"config.pseudo_boxes.min_agreement={pseudo.min_agreement}: a frozen teacher's never "
            "changes; set pseudo_boxes.teacher=ema, or min_agreement=0"
        )


def _oracle_contradictions(config: ConfigDict) -> Iterator[str]:
    """The oracle has the target's true boxes where and when `date` has pseudo boxes."""
    for key, never in (
        ("pseudo_boxes.weight", config.pseudo_boxes.weight == 0),
        ("stages.pseudo", config.stages.pseudo >= 1),
    ):
        if never:
            yield (
                f"config.{key}={_get(config, key)}: config.method=oracle would never see the "
                "target's boxes; raise the weight, or begin earlier"
            )


def _misfits(config: ConfigDict, device_count: int, process_count: int) -> Iterator[str]:
    """Sizes that do not divide what they must divide."""
    fsdp = _get(config, "mesh.fsdp")
    if fsdp and device_count % fsdp:
        right = ", ".join(str(n) for n in range(1, device_count + 1) if device_count % n == 0)
        yield f"config.mesh.fsdp={fsdp}: must divide the number of devices, {device_count}: {right}"
    unit = math.lcm(device_count, process_count)
    for key in ("batch_size", "eval.batch_size"):
        value = _get(config, key)
        if value and value % unit:
            yield f"config.{key}={value}: {_multiples(value, unit, 'the devices')}"
    image = _get(config, "model.image")
    if image is not None:
        if len(image.depths) != len(image.heads):
            yield (
                f"config.model.image.heads={image.heads}: needs one number for each stage, as "
                f"model.image.depths={image.depths}"
            )
        for width, heads in zip(stage_widths(image), image.heads, strict=False):
            if width % heads:
                yield f"config.model.image.heads={image.heads}: {heads} does not divide {width}"
        if image.get("pooling") == "multi_scale" and len(image.depths) < 3:
            yield (
                f"config.model.image.pooling=multi_scale: joins all stages but the first, and "
                f"model.image.depths={image.depths} has {len(image.depths)}; take 3 or more"
            )
        coarsest = stride(image)
        if config.data.image_size % coarsest:
            fits = _multiples(config.data.image_size, coarsest, "the last stage's patches")
            yield f"config.data.image_size={config.data.image_size}: {fits}"
    for key, width_key in (
        ("model.text.heads", "model.text.width"),
        ("model.fusion.heads", "model.width"),
        ("model.joint.heads", "model.width"),
    ):
        heads, width = _get(config, key), _get(config, width_key)
        if heads and width and width % heads:
            yield f"config.{key}={heads}: does not divide config.{width_key}={width}"
    if _get(config, "model.streams") is not None:
        yield from _stream_misfits(config)
    width = _get(config, "model.width")
    if width and width % 4:
        yield f"config.model.width={width}: {_multiples(width, 4, '2-D positions')}"


def _stream_misfits(config: ConfigDict) -> Iterator[str]:
    """Heads that do not divide a width, and more proposals than there are tokens."""
    streams, wanted = config.model.streams, config.model.regions
    for part in ("text", "image", "cross", "joint"):
        heads = streams[part].heads
        key = "cross.width" if part == "cross" else "width"
        width = _get(streams, key)
        if width % heads:
            yield (
                f"config.model.streams.{part}.heads={heads}: does not divide "
                f"config.model.streams.{key}={width}"
            )
    side = config.data.image_size // stride(config.model.image)
    if wanted.count > side**2 and wanted.kind != "precomputed":
        yield f"config.model.regions.count={wanted.count}: there are {side**2} tokens to propose"
    if config.retrieval.instances > wanted.count:
        yield (
            f"config.retrieval.instances={config.retrieval.instances}: must not be above "
            f"config.model.regions.count={wanted.count}"
        )


def _multiples(value: int, unit: int, of: str) -> str:
    """E.g. "must be a multiple of 8 (the devices), e.g. 96 or 104"."""
    below = value // unit * unit
    near = " or ".join(str(size) for size in (below, below + unit) if size)
    return f"must be a multiple of {unit} ({of}), e.g. {near}"
