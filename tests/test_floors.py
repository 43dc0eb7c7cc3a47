"""The house's rules that no type can hold, read from the source: who may import and name what."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "date_jax"

# From the roof to the ground: a module imports only from lines below its own, or from its room.
FLOORS = [
    # commands
    {"__main__", "main", "ablate", "export", "benchmark", "search", "ground", "embed", "serve"},
    {"serving"},
    {"seek", "benchmarks"},
    {"index", "opening"},
    {"api"},
    {"train", "ablation"},
    {"job", "config", "published_sizes"},
    {"finished"},
    {"tasks"},
    {"date", "capture", "same_style", "towers"},  # the systems, which do not know each other
    {"evals", "features", "step"},
    {"data", "networks", "augment"},
    {"pairs", "optim", "task"},
    {"losses", "run"},
    {"boxes", "lettering", "partition", "sharding"},
    {"errors"},
]
ENTRY_POINTS = FLOORS[0]
SETS_UP_JAX = {*ENTRY_POINTS, "opening"}
# The same inside data/.
DATA_FLOORS = [
    {  # commands
        *("click_pairs", "click_trials", "download", "photo_offers", "published_offers"),
        "region_files",
    },
    {
        "baselines",
        "check",
        "convert",
        "shop",
        "simulated_clicks",
        "suites",
        "suppliers",
    },  # commands too
    {"pipeline"},
    {"corpus"},
    {"sources"},
    {"datasets"},
    {"clicks", "composites", "conversion", "survey"},
    {"files", "mirrored_words", "rendering", "tokenizer_files"},
    {"decode", "domains", "features", "prepared", "tokenizer"},
    {"cache", "command", "streams"},
]
# Who never imports whom, also where a floor would let it.
LOOP = ("main", "train", "step", "job", "task")
SYSTEMS = ("date", "capture", "same_style")
NEVER = [
    *((part, system) for part in (*LOOP, "evals") for system in SYSTEMS),
    *((one, other) for one in SYSTEMS for other in SYSTEMS if one != other),
    *((part, "networks") for part in ("losses", "data")),
    *((part, "data") for part in ("losses", "networks", "pairs")),
]

IMPORTS_TENSORFLOW = {
    "tensorflow",
    "tensorflow_datasets",
    "clu.metric_writers",
    "clu.periodic_actions",
}
WRITES_SUMMARIES = {"run/progress.py"}  # may import CLU's writers, inside functions
TAKES_AXIS = {
    *("PartitionSpec", "P", "NamedSharding", "Mesh", "make_mesh", "shard_map"),
    *("psum", "pmean", "pmax", "pmin", "ppermute", "pcast", "psum_scatter"),
    *("all_gather", "all_to_all", "axis_index", "axis_size"),
}
# Of a config: without them no published weights are read, and no further rows are made.
OPTIONAL_SECTIONS = {"init", "paste", "words"}
NO_SUBJECT = re.compile(
    r"^(utils?|misc|common|helpers?|managers?)$|^base_|_(utils?|helpers?|manager)$"
)


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room(path: Path, house: Path = PACKAGE) -> str:
    """The part of the house that a file belongs to: `data` for date_jax/data/shop.py."""
    return path.relative_to(house).parts[0].removesuffix(".py")


def imported(tree: ast.AST, package: str) -> Iterator[tuple[str, int]]:
    """Every module the code imports, absolute, with its line; `from a import b` gives a, a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = (
                package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            )
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield module, node.lineno
            yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)


def imports_of(path: Path) -> list[tuple[str, int]]:
    package = ".".join(path.relative_to(ROOT).parts[:-1])
    return list(imported(ast.parse(path.read_text()), package))


def arrows(house: Path = PACKAGE) -> Iterator[tuple[str, str, str]]:
    """Every import of one part of a folder by another: who, whom, and on which line."""
    name = ".".join(house.relative_to(ROOT).parts)
    for path in sorted(house.rglob("*.py")):
        for module, line in imports_of(path):
            if module.startswith(f"{name}."):
                part = module.removeprefix(f"{name}.").split(".")[0]
                if part != room(path, house):
                    yield room(path, house), part, f"{path.relative_to(ROOT)}:{line}"


def upward(floors: list[set[str]], house: Path = PACKAGE) -> list[str]:
    """The imports that do not go from one of the floors to a lower one."""
    line_of = {part: line for line, parts in enumerate(floors) for part in parts}
    return sorted(
        {
            f"{place} imports {part}, which is not below it"
            for importer, part, place in arrows(house)
            if part in line_of and importer in line_of and line_of[part] <= line_of[importer]
        }
    )


def homeless(floors: list[set[str]], house: Path = PACKAGE) -> list[str]:
    """The parts of a folder that stand on none of its floors."""
    parts = {room(path, house) for path in house.rglob("*.py")}
    return sorted(parts - set().union(*floors) - {"__init__"})


def is_below(module: str, names: set[str]) -> bool:
    return any(module == name or module.startswith(name + ".") for name in names)


def dotted(node: ast.AST) -> str:
    """`jax.config.update` for that expression; "" where it is not a plain chain of names."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return ""


def axis_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Strings handed to a function that takes mesh axes, and "fsdp" anywhere."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value == "fsdp":
            yield "fsdp", node.lineno
        elif isinstance(node, ast.Call) and dotted(node.func).split(".")[-1] in TAKES_AXIS:
            for part in ast.walk(node):
                if isinstance(part, ast.Constant) and part.value == "data":
                    yield "data", part.lineno


def settings(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Definitions of flags and changes of jax.config."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = dotted(node.func)
            if ".DEFINE_" in name or name == "jax.config.update":
                yield name, node.lineno
        elif isinstance(node, ast.Assign):
            for name in map(dotted, node.targets):
                if name.startswith("jax.config."):
                    yield name, node.lineno


def dispatches(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Comparisons of `config.task`, and tests of whether a config has a key."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [dotted(side).split(".") for side in (node.left, *node.comparators)]
            if any(names[-2:] == ["config", "task"] for names in sides):
                yield ast.unparse(node), node.lineno
            has_key = isinstance(node.ops[0], ast.In | ast.NotIn) and "config" in sides[-1]
            if has_key and isinstance(node.left, ast.Constant):
                yield ast.unparse(node), node.lineno
        elif isinstance(node, ast.Call) and dotted(node.func).split(".")[-2:] == ["config", "get"]:
            key = node.args[0].value if isinstance(node.args[0], ast.Constant) else None
            if key not in OPTIONAL_SECTIONS:
                yield ast.unparse(node), node.lineno


def test_every_module_has_a_floor() -> None:
    advice = (
        "stand on no floor: add each in tests/test_floors.py, on the lowest line above everything "
        "it imports, and to the map of files in CONTRIBUTING.md"
    )
    parts = homeless(FLOORS)
    assert not parts, f"{parts} {advice}"
    parts = homeless(DATA_FLOORS, PACKAGE / "data")
    assert not parts, f"{parts} of data/ {advice}"


def test_imports_point_down() -> None:
    wrong = upward(FLOORS)
    assert not wrong, "\n".join(wrong)


def test_imports_point_down_inside_data() -> None:
    wrong = upward(DATA_FLOORS, PACKAGE / "data")
    assert not wrong, "\n".join(wrong)


def test_nobody_imports_whom_he_never_may() -> None:
    wrong = {
        f"{place}: {importer} never imports {part}"
        for importer, part, place in arrows()
        if (importer, part) in NEVER
    }
    assert not wrong, "\n".join(sorted(wrong))


def test_only_data_imports_tensorflow() -> None:
    wrong = []
    for path in files():
        if room(path) == "data":
            continue
        at_top = {line for module, line in imports_of(path) if is_below(module, IMPORTS_TENSORFLOW)}
        if str(path.relative_to(PACKAGE)) in WRITES_SUMMARIES:
            inside = set()
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef):
                    found = imported(node, "date_jax")
                    inside |= {line for module, line in found if module.startswith("clu")}
            at_top -= inside
        wrong += [
            f"{path.relative_to(ROOT)}:{line} brings TensorFlow along" for line in sorted(at_top)
        ]
    assert not wrong, "\n".join(wrong)


def test_only_sharding_names_a_mesh_axis() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} names the mesh axis {axis!r}: let sharding.py do it"
        for path in files()
        if room(path) != "sharding"
        for axis, line in axis_names(ast.parse(path.read_text()))
    ]
    assert not wrong, "\n".join(wrong)


def test_only_entry_points_define_flags_or_set_jax_config() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} calls {name}: only {sorted(SETS_UP_JAX)} may"
        for path in files()
        if room(path) not in SETS_UP_JAX
        for name, line in settings(ast.parse(path.read_text()))
    ]
    assert not wrong, "\n".join(wrong)


def test_only_checkpoint_imports_orbax() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in files()
        if path != PACKAGE / "run/checkpoint.py"
        for module, line in imports_of(path)
        if is_below(module, {"orbax"})
    ]
    assert not wrong, "\n".join(wrong)


def test_the_loop_has_no_word_of_a_system() -> None:
    words = re.compile(r"pseudo|teacher|queue|aligner|stage|source|target", re.IGNORECASE)
    wrong = [
        f"date_jax/{name}:{number}: {line.strip()}"
        for name in ("train.py", "step.py", "job.py")
        for number, line in enumerate((PACKAGE / name).read_text().splitlines(), 1)
        if words.search(line)
    ]
    assert not wrong, "\n".join(wrong)


def test_only_the_table_of_tasks_decides_by_the_name_of_a_task() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line} asks {code}: give Task a field for it"
        for path in files()
        if room(path) not in ("tasks", "config")
        for code, line in dispatches(ast.parse(path.read_text()))
    ]
    assert not wrong, "\n".join(wrong)


def test_every_file_is_named_after_a_subject() -> None:
    everywhere = [*files(), *(ROOT / "tests").glob("*.py"), *(ROOT / "configs").glob("*.py")]
    wrong = [str(path.relative_to(ROOT)) for path in everywhere if NO_SUBJECT.search(path.stem)]
    assert not wrong, f"{wrong}: name what the file is about"


def test_importing_the_entry_points_does_not_import_tensorflow() -> None:
    modules = ", ".join(f"date_jax.{name}" for name in sorted(ENTRY_POINTS))
    code = f"import sys, {modules}; sys.exit('tensorflow' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, (
        done.stderr or "a command imports tensorflow: 8 s before anything is said"
    )


# The rules above pass on an empty house, so each reader is shown a breach that it must see.


def test_relative_and_nested_imports_are_seen() -> None:
    code = "def f():\n    from ..boxes import iou\n    from . import swin\nimport jax.numpy as jnp"
    modules = {module for module, _ in imported(ast.parse(code), "date_jax.networks")}
    assert {"date_jax.boxes", "date_jax.networks.swin", "jax.numpy"} <= modules


def test_imports_that_do_not_point_down_are_seen() -> None:
    floors = [{"boxes", "errors"}, {"sharding", "main"}, {"losses", "train"}]
    wrong = upward(floors)
    assert any(line.startswith("date_jax/main.py") and "imports errors" in line for line in wrong)
    assert not any("imports train" in line for line in wrong)


def test_a_named_mesh_axis_is_seen() -> None:
    assert [*axis_names(ast.parse("x = P(('data', None))"))] == [("data", 1)]
    assert [*axis_names(ast.parse("y = {'fsdp': 2}"))] == [("fsdp", 1)]
    assert not [*axis_names(ast.parse("z = batch['data']; P(None)"))]


def test_flags_and_jax_settings_are_seen() -> None:
    code = "flags.DEFINE_string('a', '', '')\njax.config.update('x', 1)\njax.config.x = 2"
    assert sorted(line for _, line in settings(ast.parse(code))) == [1, 2, 3]


def test_a_decision_by_the_name_of_a_task_is_seen() -> None:
    code = "if config.task != 'date': pass\nx = self.config.task in ('a', 'b')\n"
    code += "y = 'aligner' not in config\nz = config.get('method', '')\nw = 'a' in config.model\n"
    assert [line for _, line in dispatches(ast.parse(code))] == [1, 2, 3, 4, 5]
    assert not [*dispatches(ast.parse("TASKS[config.task]; 'a' in names; f'{config.task}'"))]
