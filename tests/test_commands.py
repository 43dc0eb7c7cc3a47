"""The command `date_jax` from a clone and from a wheel, and what launchers say of themselves."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from date_jax import __main__ as date_jax_command

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel holds, as pip would unpack it."""
    source, wheels, site = (tmp_path_factory.mktemp(name) for name in ("source", "wheels", "site"))
    # A copy, for setuptools writes where it builds.
    for name in ("date_jax", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    subprocess.run([*command, "-w", wheels, source], check=True, cwd=wheels)
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


def run(site: Path, folder: Path, *words: str) -> subprocess.CompletedProcess:
    """`date_jax WORDS` in a folder, as the console script of an installed wheel starts it."""
    (script,) = site.glob("*.dist-info/entry_points.txt")
    assert script.read_text() == "[console_scripts]\ndate_jax = date_jax.__main__:main\n"
    code = "import sys; from date_jax.__main__ import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )


def test_a_wheel_lists_its_commands_from_any_folder(installed: Path, tmp_path: Path) -> None:
    done = run(installed, tmp_path, "--help")
    assert done.returncode == 0, done.stderr
    listed = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")]
    assert listed[:3] == ["main", "ground", "search"]
    assert {"export", "ablate", "benchmark", "data.download", "data.click_pairs"} <= {*listed}
    assert all(len(line.split()) > 3 for line in done.stdout.splitlines() if line[:2] == "  ")
    assert run(installed, tmp_path).stdout == done.stdout


def test_a_wheel_holds_the_configs_that_bare_names_mean(installed: Path, tmp_path: Path) -> None:
    done = run(installed, tmp_path, "main", "--config=pgda:files", "--config.data.path=shop.jsonl")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("error: config.data.path: no file shop.jsonl")
    done = run(installed, tmp_path, "main", "--config", "pgda:fils")
    assert done.returncode == 2
    assert f"--config={installed}/configs/pgda.py:fils: " in done.stderr
    assert "did you mean 'files'" in done.stderr
    done = run(installed, tmp_path, "main", "--config=pgdaa:files")
    assert "no such file (did you mean 'pgda:files'?)" in done.stderr
    assert "there are: capture, date, pgda, same_style" in done.stderr
    done = run(installed, tmp_path, "main")
    assert "--config is required, e.g. --config=pgda\n" in done.stderr
    done = run(installed, tmp_path, "data.download", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "python -m date_jax.data.download" in done.stdout


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("grond", "did you mean 'ground'?"),
        ("zzzz", "date_jax --help lists them"),
        ("--config=pgda", "name a command first, as in date_jax main --config=pgda"),
    ],
)
def test_an_unknown_command_is_answered_with_the_nearest(
    word: str, text: str, capsys: pytest.CaptureFixture
) -> None:
    assert date_jax_command.main([word]) == 2
    assert capsys.readouterr().err == f"error: {word}: unknown command; {text}\n"


@pytest.mark.parametrize(
    "script", sorted({*ROOT.glob("launch/*.sh")}, key=lambda path: path.name), ids=lambda p: p.stem
)
def test_a_launcher_answers_help_without_doing_anything(script: Path, tmp_path: Path) -> None:
    if script.stem in ("arguments", "help"):  # which others source
        return
    done = subprocess.run(
        ["bash", script, "--help"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "VENV": str(tmp_path / "none")},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    comment = [line for line in script.read_text().splitlines()[1:] if line.startswith("#")]
    assert done.stdout.splitlines()[0] == comment[0].removeprefix("# ")
    assert not (tmp_path / "none").exists()
