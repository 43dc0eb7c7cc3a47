"""`~` in flags and configs: the home where there is one, else a message in place of a traceback."""

from pathlib import Path

import pytest
from absl import flags
from ml_collections import ConfigDict

from date_jax.data.cache import cache_folder
from date_jax.data.command import Parser
from date_jax.errors import SetupError
from date_jax.networks import pretrained
from date_jax.run import commandline
from date_jax.run.user_paths import expanded_flag, user_path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user of a container who is not in its list of users."""

    def unknown(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("--workdir=~/run", "--workdir={home}/run"),
        ("-out=~", "-out={home}"),
        ("~/list.tsv", "{home}/list.tsv"),
        ("--workdir=run~/a", "--workdir=run~/a"),
        ("--text=~ 3 kg", "--text=~ 3 kg"),
        ("--config.data.path=~/shop.jsonl", "--config.data.path=~/shop.jsonl"),
    ],
)
def test_a_tilde_at_the_beginning_of_a_flag_s_value_is_the_home(
    home: Path, typed: str, read: str
) -> None:
    assert expanded_flag(typed) == read.format(home=home)


def test_the_commands_of_runs_read_a_tilde(home: Path) -> None:
    definitions = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "where the run is kept", flag_values=definitions)
    commandline.parse(["main.py", "--workdir=~/run"], definitions)
    assert definitions.workdir == str(home / "run")


@pytest.mark.parametrize("arguments", [["--out=~/pictures"], ["--out", "~/pictures"]])
def test_the_commands_of_data_read_a_tilde(home: Path, arguments: list[str]) -> None:
    parser = Parser("mill", None)
    parser.add_argument("--out", type=Path)
    assert parser.options(arguments).out == home / "pictures"


def test_published_weights_are_looked_for_at_home(home: Path) -> None:
    config = ConfigDict({"init": {"text": "~/absent.safetensors"}})
    with pytest.raises(Exception, match=str(home / "absent.safetensors")):
        pretrained.weight_files(config)


@pytest.mark.usefixtures("no_home")
def test_a_path_at_home_is_refused_where_there_is_no_home() -> None:
    with pytest.raises(SetupError, match="no home folder ~ here"):
        user_path("~/shop.jsonl")
    assert user_path("shop~.jsonl") == Path("shop~.jsonl")


@pytest.mark.usefixtures("no_home")
def test_without_a_home_the_cache_asks_for_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATE_JAX_CACHE", raising=False)
    with pytest.raises(SetupError, match=r"(?s)data cache.*cache_dir=… or DATE_JAX_CACHE=…") as why:
        cache_folder(ConfigDict({"cache_dir": ""}))
    assert len(str(why.value).splitlines()) <= 8


def test_a_home_of_nobody_is_named() -> None:
    with pytest.raises(SetupError, match="no home folder ~nobody-of-that-name here"):
        user_path("~nobody-of-that-name/shop.jsonl")
