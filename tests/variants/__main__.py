"""Tries random tables of users' pictures on the readers, and tells each that is answered wrongly.

    python -m tests.variants --count=300 --seed=0

A table is read rightly, refused by a message that says what is wrong and where, or answered
wrongly. `--prepare=20` makes a corpus of every twentieth as well, and compares its texts and boxes.
A case is the same for the same seed and number: `--only=17` tries one again, `--keep=FOLDER` leaves
its files there.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.variants.cases import Answer, answer_of_case, case_folder
from tests.variants.tables import pictures
from tests.variants.ways import WAYS


def answers(seed: int, numbers: range, root: Path, *, prepare: int = 0) -> list[Answer]:
    """The answers to some cases.

    Args:
        seed: of all.
        numbers: of the cases.
        root: folder for their files.
        prepare: each so-many-th case is made a corpus too; 0 for none.
    """
    images = pictures(root / "img")
    results = []
    for number in numbers:
        with case_folder(root, number, images) as folder:
            is_prepared = prepare > 0 and number % prepare == 0
            results.append(answer_of_case(seed, number, folder, prepare=is_prepared))
    return results


def summary(results: list[Answer]) -> str:
    """A Markdown table: for each subject how many cases had a way of it, and their answers."""
    lines = ["| subject | ways | cases | read | refused | wrong |", "| --- " * 6 + "|"]
    subjects = dict.fromkeys(subject for way in WAYS.values() for subject in way.subjects)
    for subject in (*subjects, "all"):
        names = [n for n, way in WAYS.items() if subject in way.subjects or subject == "all"]
        cases = [result for result in results if set(names) & set(result.ways)]
        right = Counter(result.expected for result in cases if result.result == "right")
        wrong = len(cases) - right.total()
        cells = [subject, len(names), len(cases), right["read"], right["refused"], wrong]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=300, help="number of cases")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random")
    parser.add_argument("--only", type=int, help="the number of one case")
    parser.add_argument("--prepare", type=int, default=0, help="make a corpus of each so-many-th")
    parser.add_argument("--keep", type=Path, help="a new folder for the files")
    parser.add_argument("--out", type=Path, help="a file for the answers, one JSON line each")
    options = parser.parse_args()
    numbers = range(options.count)
    if options.only is not None:
        numbers = range(options.only, options.only + 1)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        root = options.keep or Path(temporary)
        root.mkdir(parents=True, exist_ok=True)
        results = answers(options.seed, numbers, root, prepare=options.prepare)
    lines = [json.dumps(result._asdict(), ensure_ascii=True) for result in results]
    if options.out:
        options.out.write_text("".join(line + "\n" for line in lines))
    # Wrong answers are what a reader of the console looks for.
    wrong = [result for result in results if result.result != "right"]
    for result, line in zip(results, lines, strict=True):
        if result in wrong or options.only is not None:
            print(line)
    print(summary(results))
    print(
        f"{len(results)} cases, {len(wrong)} wrong, {time.monotonic() - start:.0f} s",
        file=sys.stderr,
    )
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
