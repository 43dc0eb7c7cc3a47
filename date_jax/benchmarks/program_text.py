"""A reader of a compiled program's text: its exchanges, and the purpose of each instruction."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


def collectives(text: str) -> dict[str, int]:
    """The number of exchanges of each kind in a compiled program.

    One in a loop counts once, as does one that is carried on in steps during other work.
    """
    return dict(Counter(kind for kind, _ in _exchanges(text)))


def exchanged_bytes(text: str) -> dict[str, int]:
    """The results of each kind of exchange in a compiled program, counted as in `collectives`."""
    total: Counter[str] = Counter()
    for kind, size in _exchanges(text):
        total[kind] += size
    return dict(total)


# An exchange that goes on during other work stands again in each piece of that work.
_CHAIN = r'chain_id="\d+"'
_BYTES = {"f64": 8, "s64": 8, "u64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2}


def _exchanges(text: str) -> list[tuple[str, int]]:
    """Kind and bytes of the result of each exchange."""
    names = "|".join(COLLECTIVES)
    # The result may be a tuple: where several are joined, and of those that start and end apart.
    matches = re.findall(rf"= (\S+|\(.*?\)) ({names})(-start)?\((.*)", text)
    exchanges: list[tuple[str, int]] = []
    chains: set[tuple[str, ...]] = set()
    for result, kind, starts, rest in matches:
        if match := re.search(_CHAIN, rest):
            chain = (kind, match[0], *re.findall(r"channel_id=\d+", rest))
            if chain in chains:
                continue
            chains.add(chain)
        # A permutation that starts apart has two scalars in its tuple that nobody exchanges.
        arrays = re.findall(r"([a-z]+\d+|pred)\[([\d,]*)\]", result.replace("u32[]", ""))
        sizes = [
            _BYTES.get(dtype, 1) * math.prod(map(int, filter(None, shape.split(","))))
            for dtype, shape in arrays
        ]
        # What starts apart has its operands in front of its results, but for a reduction.
        operands = len(sizes) // 2 if starts and kind != "all-reduce" else 0
        exchanges.append((kind, sum(sizes[operands:])))
    return exchanges


class Cost(NamedTuple):
    """The cost of one instruction in all its runs, as often as the loops around it turn.

    Attributes:
        spent: cycles that the compiler estimates, 0 where it gives none, as for a gather or for a
            copy that runs during the computation; or nanoseconds that were measured.
        kind: `exchanges` between devices, `products`, `reductions`, `moves` (of memory, from layout
            to layout) or `elementwise`.
        part: of the network; `rest` is augmentation, losses and optimizer.
    """

    spent: float
    kind: str
    part: str


_PARTS = ("image_extractor", "text_extractor", "object_seeker")
_KINDS = {  # by the first that an instruction, or what was fused into it, contains
    "exchanges": rf" ({'|'.join(COLLECTIVES)})(-start|-done)?\(",
    "products": r" (convolution|dot)\(",
    "reductions": r" (reduce|reduce-window|scatter)\(",
    "moves": r" (copy|copy-done|transpose|reshape|slice|concatenate|pad|gather|dynamic-slice"
    r"|dynamic-update-slice)\(",
}


_WORKING = r" (fusion|custom-call|gather|scatter|sort|copy-start|slice-start)\("


def costs(text: str) -> list[Cost]:
    """The compiler's estimates of a whole program, instruction by instruction.

    Args:
        text: of the compiled program.
    """
    programs, entry = _programs(text)

    def costs_of(name: str) -> list[Cost]:
        """The costs of one of the program's computations."""
        return [cost for line in programs[name] for cost in costs_of_line(line)]

    def costs_of_line(line: str) -> list[Cost]:
        """The costs of an instruction, and of the computations that it calls."""
        estimates = re.findall(r'"estimated_cycles":"(\d+)"', line)
        if not estimates and re.search(_WORKING, line):
            estimates = ["0"]
        costs = [Cost(int(n), _kind(line, programs), _part(line)) for n in estimates]
        # A loop runs its body as often as it turns.
        if loop := re.search(r" while\(.*condition=%([\w.-]+), body=%([\w.-]+)", line):
            turns = _turns(programs[loop[1]])
            return costs + [cost._replace(spent=turns * cost.spent) for cost in costs_of(loop[2])]
        # Of several branches one runs: the most expensive is counted.
        if match := re.search(r" conditional\(.*branch_computations=\{([^}]*)\}", line):
            branches = [costs_of(branch.strip(" %")) for branch in match[1].split(",")]
            return costs + max(branches, key=lambda branch: sum(cost.spent for cost in branch))
        if call := re.search(r" call\(.*to_apply=%([\w.-]+)", line):
            return costs + costs_of(call[1])
        return costs

    return costs_of(entry)


def instructions(text: str) -> dict[str, Cost]:
    """The instructions that compute, by name, with nothing spent; no loops, branches and calls.

    Args:
        text: of the compiled program.
    """
    programs, _ = _programs(text)
    named = (
        (match[1], line)
        for lines in programs.values()
        for line in lines
        if (match := re.match(r"\s*(?:ROOT )?%?([\w.-]+) = ", line))
        and not re.search(r" (while|conditional|call)\(", line)
    )
    return {name: Cost(0, _kind(line, programs), _part(line)) for name, line in named}


def _programs(text: str) -> tuple[dict[str, list[str]], str]:
    """The lines of each computation of a program by its name, and the name of the first to run."""
    programs: dict[str, list[str]] = defaultdict(list)
    name = entry = ""
    for line in text.splitlines():
        if head := re.match(r"(ENTRY )?%?([\w.-]+) \(.*\{$", line):
            name = head[2]
            entry = name if head[1] else entry
        elif name:
            programs[name].append(line)
    return programs, entry


def _kind(line: str, programs: dict[str, list[str]]) -> str:
    """The kind of an instruction; of a fusion that of what is inside it."""
    fusion = re.search(r" fusion\(.*calls=%([\w.-]+)", line)
    lines = programs[fusion[1]] if fusion else [line]
    # A step of an exchange that goes on during the work does not tell the work's kind.
    work = [inner for inner in lines if not re.search(_CHAIN, inner)]
    content = "\n".join(work)
    kinds = (kind for kind, pattern in _KINDS.items() if re.search(pattern, content))
    return next(kinds, "elementwise" if len(work) == len(lines) else "exchanges")


def _part(line: str) -> str:
    """The part of the network whose source an instruction names."""
    source = re.search(r'op_name="([^"]*)"', line)
    return next((part for part in _PARTS if source and part in source[1]), "rest")


def shares(costs: Sequence[Cost], field: str) -> dict[str, float]:
    """Shares of all that is spent by `kind` or by `part`, the largest first."""
    spent: dict[str, float] = defaultdict(float)
    for cost in costs:
        spent[getattr(cost, field)] += cost.spent
    total = sum(spent.values())
    largest_first = sorted(spent, key=spent.__getitem__, reverse=True)
    return {name: spent[name] / total for name in largest_first}


def _turns(condition: Sequence[str]) -> int:
    """The number of turns of a loop: the constant that its counter is compared with."""
    limits = [
        int(n) for line in condition for n in re.findall(r"= s32\[\]\S* constant\((\d+)\)", line)
    ]
    return max(limits, default=1)
