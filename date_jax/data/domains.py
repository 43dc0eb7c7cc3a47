"""Which domains a run asks for, and whether the data has them."""

from collections.abc import Mapping

from date_jax.errors import DataError, nearest


def joined_domains(names: str) -> list[str]:
    """`"mall+mall_collage"` as a list, each once; `""` is no domain."""
    return list(dict.fromkeys(name for name in names.split("+") if name))


def check_domains(
    boxes_of: Mapping[str, int], *, source: str, target: str, where: str = "the data"
) -> None:
    """Refuses a run whose domains cannot be trained on.

    Args:
        boxes_of: how many rows with a box each split `<domain>_<split>` holds.
        source: `config.data.source`: the domains with boxes, joined with "+".
        target: `config.data.target`: those without, or "".
        where: what the data is called in the message.

    Raises:
        DataError: a domain has no rows, or no training rows, or no source row has a box.
    """
    domains = sorted({split.rpartition("_")[0] for split in boxes_of})
    for key, names in (("source", source), ("target", target)):
        for domain in joined_domains(names):
            if domain not in domains:
                raise DataError(
                    f"config.data.{key}: no domain {domain!r} in {where}"
                    f"{nearest(domain, domains)}\n  its domains: {', '.join(domains)}"
                )
            if f"{domain}_train" not in boxes_of:
                held = sorted(s for s in boxes_of if s.rpartition("_")[0] == domain)
                raise DataError(
                    f"config.data.{key}: domain {domain!r} has no training rows in {where}\n"
                    f"  it holds only {', '.join(held)}; give some of its rows the split 'train'"
                )
    if not joined_domains(source):
        raise DataError(
            f"config.data.source is empty: name the domain to learn boxes from, "
            f"one of {', '.join(domains)}"
        )
    if not sum(boxes_of[f"{domain}_train"] for domain in joined_domains(source)):
        boxed = sorted(s for s, count in boxes_of.items() if s.endswith("_train") and count)
        raise DataError(
            f"config.data.source: not one training row of {source} has a box in {where}\n"
            f"  nothing can be learned from it; splits with boxes: {', '.join(boxed) or 'none'}"
        )
