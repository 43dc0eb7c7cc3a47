"""Which domains a run asks for, and whether the data has them."""

from collections.abc import Collection

from date_jax.errors import DataError, spelling_hint

SPLITS = ("train", "val", "test")


def joined_domains(names: str) -> list[str]:
    """`"mall+mall_collage"` as a list, each once; `""` is no domain."""
    return list(dict.fromkeys(name for name in names.split("+") if name))


def split_names(domains: str, split: str) -> list[str]:
    """The names of one split of several domains: "mall+live" and "train" give "mall_train" and
    "live_train"."""
    return [f"{domain}_{split}" for domain in joined_domains(domains)]


def check_domains(
    there: Collection[str], *, source: str, target: str, where: str = "the data"
) -> None:
    """Refuses a run whose domains cannot be trained on.

    Args:
        there: the splits `<domain>_<split>` that hold rows.
        source: `config.data.source`: the domains with boxes, joined with "+".
        target: `config.data.target`: those without, or "".
        where: what the data is called in the message.

    Raises:
        DataError: a domain has no rows, or no training rows.
    """
    domains = sorted({split.rpartition("_")[0] for split in there})
    for key, names in (("source", source), ("target", target)):
        for domain in joined_domains(names):
            if domain not in domains:
                raise DataError(
                    f"config.data.{key}: no domain {domain!r} in {where}"
                    f"{spelling_hint(domain, domains)}\n  its domains: {', '.join(domains)}"
                )
            if f"{domain}_train" not in there:
                held = sorted(s for s in there if s.rpartition("_")[0] == domain)
                raise DataError(
                    f"config.data.{key}: domain {domain!r} has no training rows in {where}\n"
                    f"  it holds only {', '.join(held)}; give some of its rows the split 'train'"
                )
    if not joined_domains(source):
        raise DataError(
            f"config.data.source is empty: name the domain to learn boxes from, "
            f"one of {', '.join(domains)}"
        )
