"""The domains that a run asks for, and the check that the data has them."""

from collections.abc import Collection, Sequence
from typing import Any

from date_jax.errors import DataError, spelling_hint

SPLITS = ("train", "val", "test")
# Further training rows of the source, made of its own: composites, and rows that ask by a word.
PASTED, WORDED = "pasted", "word"


def domain_names(joined: str) -> list[str]:
    """The domains that a config joins by "+", each once: "" names none."""
    return list(dict.fromkeys(name for name in joined.split("+") if name))


def split_names(joined: str, split: str) -> list[str]:
    """The names of one split of several domains.

    Example:
        >>> split_names("mall+live", "train")
        ['mall_train', 'live_train']
    """
    return [f"{domain}_{split}" for domain in domain_names(joined)]


def source_shares(config: Any) -> dict[str, float]:
    """The share that each further split of the source has of its training rows, by name.

    What is left of 1 is that of the source's own rows. Without `paste` and `words` there is none.

    Args:
        config: `config.data`.
    """
    pasted = config.paste.share if config.get("paste") and config.paste.pictures else 0.0
    shares = {f"{WORDED}_train": (1 - pasted) * config.get("words", 0.0), f"{PASTED}_train": pasted}
    return {name: share for name, share in shares.items() if share}


def source_splits(config: Any) -> list[str]:
    """The splits that the source's training rows come from, those with a share of it last.

    Args:
        config: `config.data`.
    """
    return [*split_names(config.source, "train"), *source_shares(config)]


def check_domains(
    splits: Collection[str], *, source: str, target: str, where: str = "the data"
) -> None:
    """Refuses a run whose domains cannot be trained on.

    Args:
        splits: the names `<domain>_<split>` of those that hold rows.
        source: `config.data.source`: the domains with boxes, joined with "+".
        target: `config.data.target`: those without, or "".
        where: what the data is called in the message.

    Raises:
        DataError: a domain has no rows, or no training rows.
    """
    # Each domain that is asked for, the first mistake first.
    domains = sorted({split.rpartition("_")[0] for split in splits})
    for key, joined in (("source", source), ("target", target)):
        for domain in domain_names(joined):
            if domain not in domains:
                raise DataError(
                    f"config.data.{key}: no domain {domain!r} in {where}"
                    f"{spelling_hint(domain, domains)}\n  its domains: {', '.join(domains)}"
                    f"{_advice(key, domains)}"
                )
            if f"{domain}_train" not in splits:
                held = sorted(s for s in splits if s.rpartition("_")[0] == domain)
                raise DataError(
                    f"config.data.{key}: domain {domain!r} has no training rows in {where}\n"
                    f"  it holds only {', '.join(held)}; give some of its rows the split 'train'"
                )
    # Without a source nothing says where a box is.
    if not domain_names(source):
        raise DataError(
            f"config.data.source is empty: name the domain to learn boxes from, "
            f"one of {', '.join(domains)}"
        )


def _advice(key: str, domains: Sequence[str]) -> str:
    """The line that says what to set, where a file has one domain and nothing is left to choose."""
    if len(domains) != 1:
        return ""
    source = f"--config.data.source={domains[0]}"
    if key == "source":
        return f"\n  set {source}"
    return f"\n  for one domain alone: --config=configs/date.py:files {source}"
