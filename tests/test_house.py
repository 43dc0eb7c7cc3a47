"""What surrounds the code: lock file, scripts, documents, and that they agree with each other."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted([*ROOT.glob("launch/*.sh"), ROOT / ".ci/run"])
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
# Written by runs and set-up, so documents may name them though no file is there.
MADE = ("runs", ".venv", "vocab.txt", "shop.jsonl", "shop.csv", "predictions.png")
MADE += ("results.json", "metrics.jsonl", "config.json", "parameters.txt", "table.md", "sheet.png")
MADE += ("found.png", "check/")


def tracked() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("an unpacked archive, not a clone: nothing says which files are tracked")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_the_lock_file_has_a_hash_for_everything_and_no_address() -> None:
    text = (ROOT / "requirements.lock").read_text()
    entries = re.split(r"\n(?=\S)", text.strip())
    assert len(entries) > 50
    assert not [entry for entry in entries if "==" not in entry or "--hash=sha256:" not in entry]
    assert not re.search(r"https?:|file:|--(extra-)?index|--find-links|@ ", text)


def test_the_lock_file_names_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["dev"], *extras["docs"]]
    names = [re.match(r"[A-Za-z0-9_-]+", requirement).group() for requirement in wanted]
    locked = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.lock").read_text(), re.M))
    assert {name.lower().replace("_", "-") for name in names} <= locked


def test_the_hook_runs_the_one_list_of_checks() -> None:
    """Hook and tests both call launch/check.sh, and neither has a check of its own."""
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [(each["repo"], [hook["entry"] for hook in each["hooks"]]) for each in hooks] == [
        ("local", ["bash launch/check.sh"])
    ]
    assert "bash launch/check.sh" in (ROOT / "launch/test.sh").read_text()
    assert "bash launch/test.sh" in (ROOT / ".ci/run").read_text()
    checks = re.findall(r"^check (\w+)", (ROOT / "launch/check.sh").read_text(), re.MULTILINE)
    assert checks == ["ruff", "ruff", "mypy", "sphinx"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_valid_and_executable(script: Path) -> None:
    checked = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    assert os.access(script, os.X_OK)


def dry_run(*arguments: str) -> subprocess.CompletedProcess:
    command = ["bash", "launch/local.sh", *arguments]
    environment = os.environ | {"PORT": "20001", "VENV": ".venv"}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)


def test_local_sh_starts_each_process_with_its_number() -> None:
    shown = dry_run("--dry-run", "2", "--config=configs/pgda.py", "--config.data.path=a b.csv")
    job = ".venv/bin/python -m date_jax.main --config=configs/pgda.py --config.data.path=a\\ b.csv"
    place = "--coordinator=127.0.0.1:20001 --process_count=2 --process_index="
    assert shown.stdout.splitlines() == [f"{job} {place}{index} " for index in (0, 1)]


def test_local_sh_starts_another_command_by_its_name() -> None:
    shown = dry_run("--dry-run", "1", "embed", "--workdir=runs/one", "--out=vectors")
    job = ".venv/bin/python -m date_jax.embed --workdir=runs/one --out=vectors"
    place = "--coordinator=127.0.0.1:20001 --process_count=1 --process_index=0"
    assert shown.stdout == f"{job} {place} \n"


@pytest.mark.parametrize("count", ["", "0", "two", "--config=configs/pgda.py"])
def test_local_sh_asks_for_the_number_of_processes(count: str) -> None:
    refused = dry_run(*filter(None, [count]))
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: how many processes?")


def named_files(text: str) -> set[str]:
    """What looks like a file of the project in a document: `launch/demo.sh`, [a](BUILD.md).

    An answer in JSON names the files of a user.
    """
    text = re.sub(r"```json.*?```", "", text, flags=re.DOTALL)
    named = re.findall(
        r"(?<![\w/.$~<>=:-])([\w.-]+(?:/[\w.-]+)*\.(?:sh|py|md|png|toml|lock))\b", text
    )
    named += re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    return {name for name in named if not name.startswith(MADE)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_that_a_document_names_is_there(document: Path) -> None:
    folders = [document.parent, ROOT, ROOT / "date_jax", ROOT / "date_jax/data"]
    missing = {
        name
        for name in named_files(document.read_text())
        if not any((folder / name).exists() for folder in folders)
    }
    assert not missing, f"{document.name} names files that are not there"


@pytest.mark.parametrize(("name", "most"), [("README.md", 100), ("BUILD.md", 150)])
def test_what_a_visitor_reads_first_is_short(name: str, most: int) -> None:
    assert len((ROOT / name).read_text().splitlines()) <= most


def test_every_page_is_one_link_from_the_readme_or_from_build() -> None:
    first = (ROOT / "README.md").read_text() + (ROOT / "BUILD.md").read_text()
    pages = {f"docs/{path.name}" for path in ROOT.glob("docs/*.md")} - {"docs/index.md"}
    assert pages <= named_files(first)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_prose_of_a_document_has_short_lines(document: Path) -> None:
    """Tables, commands and addresses may be long, and a changelog's entry; a sentence is not."""
    prose = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    lines = [line for line in prose.splitlines() if not line.startswith(("|", "!", "    "))]
    most = 180 if document.name == "CHANGELOG.md" else 110
    long = [line for line in lines if len(re.sub(r"\]\([^)]*\)", "]", line)) > most]
    assert not long, "\n".join(long)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_document_uses_plain_words(document: Path) -> None:
    worn = re.compile(r"\b(at hand|beside|likewise|of (its|their|our|your) own)\b", re.IGNORECASE)
    assert not [line for line in document.read_text().splitlines() if worn.search(line)]


def test_file_names_in_documents_are_seen() -> None:
    text = "run `launch/demo.sh`, see [it](docs/a.png), <file>.py, $HOME/x.sh, https://a.b/c.md"
    assert named_files(text) == {"launch/demo.sh", "docs/a.png"}


def test_no_tracked_file_names_a_path_of_somebodys_machine() -> None:
    machine = re.compile(r"(?<![\w.$}/~-])/(?:home|root|Users|work|opt|mnt)/\w|\.\./[a-z]")
    registry = re.compile(r"(?:index-url|registry) *[=:] *.?http|https?://[^ \"]*/simple\b")
    wrong = []
    for path in tracked():
        if path.suffix in {".png", ".jpg", ".lock"}:
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if machine.search(line) or registry.search(line):
                wrong.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert not wrong, "\n".join(wrong)


def test_no_tracked_file_is_large() -> None:
    large = [str(path) for path in tracked() if path.stat().st_size > 2**20]
    assert not large, "pictures and data of more than 1 MiB do not belong into the repository"
