"""The contradictions in a config of DATE: values that are each right, but not together."""

from collections.abc import Iterator

from ml_collections import ConfigDict

from date_jax.augment import Strengths
from date_jax.data.domains import domain_names
from date_jax.task import missing_section

# Of `pseudo_boxes`, what ranking by count reads alone, with the values of configs/pgda.py.
_READ_BY_COUNT = {"combine": "mean", "theta_kind": "quantile", "theta": 0.9}


def contradictions(config: ConfigDict) -> Iterator[str]:
    """The contradictions in a config of the task `date`, a line each."""
    if missing := missing_section(config, "image_seeker", "object_seeker"):
        yield missing
        return
    if config.data.target:
        yield (
            f"config.data.target={config.data.target}: this task has no target; name every domain "
            "in config.data.source, joined by +"
        )
    yield from _source_contradictions(config)
    yield from _seeker_contradictions(config)


def adaptation_contradictions(config: ConfigDict) -> Iterator[str]:
    """The contradictions in a config of the task `pgda`, a line each."""
    if missing := missing_section(config, "stages", "aligner", "pseudo_boxes"):
        yield missing
        return
    yield from _source_contradictions(config)
    yield from _target_contradictions(config)
    yield from _stage_contradictions(config)
    yield from _seeker_contradictions(config)
    if config.method == "date" and config.pseudo_boxes.weight and config.stages.pseudo < 1:
        yield from _teacher_contradictions(config)
        yield from _selection_contradictions(config.pseudo_boxes)
    if config.pseudo_boxes.soft and config.model.fusion.head == "loc":
        yield (
            "config.pseudo_boxes.soft=True: config.model.fusion.head=loc has no distribution to "
            "learn; set head=bins or places, or soft=False"
        )
    if config.method == "oracle":
        yield from _oracle_contradictions(config)
    yield from _aligner_contradictions(config)
    if config.pseudo_boxes.rank == "heat" and not config.image_seeker.places_weight:
        yield (
            "config.pseudo_boxes.rank=heat: nobody learns where words are; set "
            "config.image_seeker.places_weight, e.g. 0.1"
        )


def _source_contradictions(config: ConfigDict) -> Iterator[str]:
    if not domain_names(config.data.source):
        yield "config.data.source is empty: name the domain whose boxes are known"


def _target_contradictions(config: ConfigDict) -> Iterator[str]:
    target = domain_names(config.data.target)
    if not target and config.method != "source_only":
        yield (
            f"config.data.target is empty, but config.method={config.method} needs a target: set "
            "--config.data.target=<domain>, or --config.method=source_only; one domain alone is "
            f"for --config=configs/date.py{':files' * (config.data.name == 'files')}"
        )
    if both := sorted({*domain_names(config.data.source)} & {*target}):
        yield (
            f"config.data.target={config.data.target}: {'+'.join(both)} is also in "
            f"config.data.source={config.data.source}; a domain is one or the other"
        )


def _stage_contradictions(config: ConfigDict) -> Iterator[str]:
    align, pseudo = config.stages.align, config.stages.pseudo
    if align > pseudo:
        yield (
            f"config.stages.align={align}: must not be above config.stages.pseudo={pseudo}, for "
            "pseudo boxes come after alignment"
        )
    if config.method == "date" and align >= 1:
        yield (
            f"config.stages.align={align}: the target would never be seen; begin earlier, or set "
            "--config.method=source_only"
        )


def _seeker_contradictions(config: ConfigDict) -> Iterator[str]:
    seeker = config.image_seeker
    if not (seeker.weight or config.object_seeker.weight):
        yield (
            "config.image_seeker.weight=0, config.object_seeker.weight=0: there is nothing to "
            "learn; raise one of them"
        )
    if config.model.fusion.heat and config.model.fusion.head != "places":
        yield (
            f"config.model.fusion.heat=True: config.model.fusion.head={config.model.fusion.head} "
            "has no scores to add it to; set head=places, or heat=False"
        )
    if seeker.loss == "sigmoid" and seeker.prior != "none":
        yield (
            f"config.image_seeker.prior={seeker.prior}: the sigmoid loss has no softmax to "
            "correct; set prior=none, or loss=softmax"
        )


def _teacher_contradictions(config: ConfigDict) -> Iterator[str]:
    """A teacher that is its own student, seeing the same picture, teaches nothing: no gradient."""
    pseudo = config.pseudo_boxes
    if pseudo.teacher == "ema" and not config.optim.ema:
        yield (
            "config.optim.ema=0: the teacher (config.pseudo_boxes.teacher=ema) would be the "
            "student itself; set optim.ema, e.g. 0.995, or pseudo_boxes.teacher=frozen"
        )
    # Close-ups end with the ramp, so they are not among what lasts.
    lasting = Strengths()._asdict().items() - {("focus", 0.0)}
    if all(config.augment[name] == off for name, off in lasting):
        yield (
            "config.augment: all off, so the student would see just what the teacher sees and "
            "learn next to nothing from it; switch one on, or set pseudo_boxes.weight=0"
        )
    if config.get("init", {}).get("keep", False):
        if pseudo.looks != 1:
            yield (
                f"config.pseudo_boxes.looks={pseudo.looks}: needs close-ups of pictures, and "
                "config.init.keep=True has features alone; set pseudo_boxes.looks=1"
            )
        if pseudo.verify and not config.image_seeker.places_weight:
            yield (
                "config.pseudo_boxes.verify=True: config.init.keep=True has no close-ups, so boxes "
                "are verified by where words are; set image_seeker.places_weight, e.g. 0.1"
            )
    if pseudo.teacher == "frozen" and pseudo.min_agreement:
        yield (
            f"config.pseudo_boxes.min_agreement={pseudo.min_agreement}: a frozen teacher's never "
            "changes; set pseudo_boxes.teacher=ema, or min_agreement=0"
        )


def _selection_contradictions(pseudo: ConfigDict) -> Iterator[str]:
    """The contradictions in how the section `pseudo_boxes` selects boxes."""
    if pseudo.theta_kind == "quantile" and pseudo.theta < 0:
        yield f"config.pseudo_boxes.theta={pseudo.theta}: a quantile must be from 0 to 1"
    for name, default in _READ_BY_COUNT.items():
        if pseudo.rank != "count" and pseudo[name] != default:
            yield (
                f"config.pseudo_boxes.{name}={pseudo[name]}: makes the count, and "
                f"pseudo_boxes.rank={pseudo.rank} does not count; set rank=count, or leave "
                f"{name}={default}"
            )


def _oracle_contradictions(config: ConfigDict) -> Iterator[str]:
    """The oracle has the target's true boxes where and when `date` has pseudo boxes."""
    never = "config.method=oracle would never see the target's boxes"
    if config.pseudo_boxes.weight == 0:
        yield (
            f"config.pseudo_boxes.weight={config.pseudo_boxes.weight}: {never}; raise the weight, "
            "or begin earlier"
        )
    if config.stages.pseudo >= 1:
        yield (
            f"config.stages.pseudo={config.stages.pseudo}: {never}; raise the weight, or begin "
            "earlier"
        )


def _aligner_contradictions(config: ConfigDict) -> Iterator[str]:
    aligner = config.aligner
    if aligner.queue and aligner.kind != "mmd":
        yield (
            f"config.aligner.queue={aligner.queue}: only MMD remembers earlier batches; set "
            "aligner.kind=mmd, or queue=0"
        )
    if aligner.unbiased and aligner.kind not in ("none", "mmd"):
        yield (
            f"config.aligner.unbiased=True: {aligner.kind} has no diagonal to leave out; "
            "set aligner.kind=mmd, or unbiased=False"
        )
    if aligner.unbiased and config.batch_size == 1:
        yield "config.aligner.unbiased=True: needs a batch_size of at least 2"
