"""Findings about pictures: unreadable, on both sides of a split, there twice, dark or blurred."""

from collections.abc import Iterator, Mapping, Sequence

from date_jax.data.files.photos import short_name
from date_jax.data.survey.duplicates import near_pairs, same_files
from date_jax.data.survey.finding import EXAMPLES, Data, Finding, is_leak, splits_by_picture

SMALL_PICTURE = 64  # pixels of the longer side
_FAULTS = {
    "dark": "dark pictures, 19 of 20 pixels below a quarter of full brightness",
    "blank": "pictures of one colour, as placeholders are",
    "blurred": "blurred pictures",
}


def picture_findings(data: Data) -> Iterator[Finding]:
    """All findings about pictures."""
    for part in (_unreadable, _leaks, _twins, _faults):
        yield from part(data)


def _unreadable(data: Data) -> Iterator[Finding]:
    """Pictures that cannot be read."""
    lost = [row for row in data.rows if row.image in data.unreadable]
    if lost:
        names = list(dict.fromkeys(row.image for row in lost))
        allowed = int(data.budget * len(data.rows))
        yield Finding(
            "unreadable_pictures",
            len(lost) > allowed,
            f"rows whose picture cannot be read: {len(lost):,} of {len(data.rows):,}; "
            f"config.data.bad_image_budget={data.budget:g} allows {allowed:,}",
            len(lost),
            tuple(f"{short_name(name)} {data.unreadable[name]}" for name in names[:EXAMPLES]),
        )


def _leaks(data: Data) -> Iterator[Finding]:
    """The same picture on both sides: what is measured was trained on."""
    sides = splits_by_picture(data.rows)
    groups = [[name] for name in sides] + same_files(data.looks)
    leaks = [names for names in groups if is_leak(set().union(*(sides[n] for n in names)))]
    # A name that is itself on both sides need not be told again with its equals.
    singles = {names[0] for names in leaks if len(names) == 1}
    leaks = [names for names in leaks if len(names) == 1 or not singles.intersection(names)]
    if leaks:
        yield Finding(
            "same_picture_in_train_and_test",
            True,
            f"THE SAME PICTURE IN TRAIN AND IN VAL OR TEST: {len(leaks):,}; what is measured "
            "there was trained on\n  put all rows of a picture into one split",
            len(leaks),
            tuple(_place(data, _crossing_names(names, sides)) for names in leaks[:EXAMPLES]),
            tuple(name for names in leaks[:EXAMPLES] for name in _crossing_names(names, sides)),
        )


def _twins(data: Data) -> Iterator[Finding]:
    """Pictures that are there several times, or nearly the same."""
    sides = splits_by_picture(data.rows)
    groups = [
        names
        for names in same_files(data.looks)
        if not is_leak(set().union(*(sides[name] for name in names)))
    ]
    if groups:
        yield Finding(
            "same_picture_twice",
            False,
            f"the same picture under several names, not across train and test: {len(groups):,}; "
            "rows of other words or products contradict each other",
            len(groups),
            tuple(_place(data, names[:2]) for names in groups[:EXAMPLES]),
            tuple(name for names in groups[:2] for name in names[:2]),
        )
    near = near_pairs(data.looks)
    across = [pair for pair in near if is_leak(sides[pair[0]] | sides[pair[1]])]
    within = [pair for pair in near if not is_leak(sides[pair[0]] | sides[pair[1]])]
    for kind, pairs, text, advice in (
        (
            "near_duplicates_in_train_and_test",
            across,
            "PAIRS OF NEARLY EQUAL PICTURES ACROSS TRAIN AND VAL OR TEST",
            "\n  if they show the same product, give both one split",
        ),
        (
            "near_duplicates",
            within,
            "pairs of nearly equal pictures, both or none of them in train",
            "",
        ),
    ):
        if pairs:
            yield Finding(
                kind,
                False,
                f"{text}: {len(pairs):,}{advice}",
                len(pairs),
                tuple(_place(data, pair) for pair in pairs[:EXAMPLES]),
                tuple(name for pair in pairs[:6] for name in pair),
            )


def _faults(data: Data) -> Iterator[Finding]:
    """Pictures in which little can be seen."""
    for fault, text in _FAULTS.items():
        names = [name for name, look in data.looks.items() if look.fault == fault]
        yield from _pictures_finding(f"{fault}_pictures", names, text)
    small = [
        name
        for name, header in data.headers.items()
        if max(header.width, header.height) < SMALL_PICTURE
    ]
    yield from _pictures_finding("small_pictures", small, f"pictures below {SMALL_PICTURE} pixels")


def _pictures_finding(kind: str, names: Sequence[str], text: str) -> Iterator[Finding]:
    """The finding about some pictures, if there are any."""
    if names:
        examples = tuple(short_name(name) for name in names[:EXAMPLES])
        text = f"{text}: {len(names):,}"
        yield Finding(kind, False, text, len(names), examples, tuple(names[:4]))


def _crossing_names(names: Sequence[str], sides: Mapping[str, set[str]]) -> tuple[str, ...]:
    """Of some equal pictures one that is trained on and one that is measured; or the only one."""
    trained = next(name for name in names if "train" in sides[name])
    measured = next(name for name in names if sides[name] - {"train"})
    return (trained,) if trained == measured else (trained, measured)


def _place(data: Data, names: Sequence[str]) -> str:
    """Some pictures with the first line of each and its split, for a message."""
    row_of = {row.image: row for row in reversed(data.rows)}
    parts = []
    for name in names:
        splits = sorted({row.split for row in data.rows if row.image == name})
        parts.append(f"{short_name(name)} (line {row_of[name].line}, {' and '.join(splits)})")
    return " = ".join(parts)
