"""The commands of `data/`: one parser, whose complaints are short, and one set of exit codes."""

import argparse

import pytest

from date_jax.data.command import Parser, run
from date_jax.data.streams import Stream
from date_jax.errors import DataError


def parser() -> Parser:
    parser = Parser("mill", "Grinds corn.\n\n    python -m date_jax.data.mill --corn=sack\n")
    parser.add_argument("--corn", required=True)
    parser.add_argument("--count", type=int, default=3)
    return parser


def exit_code(arguments: list[str], work: object = lambda _: None) -> int:
    return run(parser(), arguments, work, interrupted="the flour is lost")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        # A typo is told even where it leaves a required flag out.
        (["--cron=a"], "--cron=a: unknown flag (did you mean '--corn'?); --help lists the flags"),
        (["--corn=a", "--cont=4"], "--cont=4: unknown flag (did you mean '--count'?)"),
        (["--co=4"], "ambiguous option: --co=4 could match --corn, --count"),
        ([], "the following arguments are required: --corn; --help lists the flags"),
        (["--corn=a", "--count=few"], "argument --count: invalid int value: 'few'"),
        (["--corn=a", "wheat"], "unrecognized arguments: wheat"),
    ],
)
def test_a_wrong_command_is_told_in_one_line(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture
) -> None:
    assert exit_code(arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: {says}")
    assert len(printed.err.splitlines()) == 1
    assert not printed.out


def test_flags_are_read_with_and_without_an_equals_sign() -> None:
    options = parser().options(["--corn", "sack", "--count=-1"])
    assert vars(options) == {"corn": "sack", "count": -1}


def test_the_beginning_of_a_flag_stands_for_it() -> None:
    assert vars(parser().options(["--cor=sack", "--cou=4"])) == {"corn": "sack", "count": 4}


def test_help_is_printed_as_it_is_written(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as end:
        exit_code(["--help"])
    assert not end.value.code
    said = capsys.readouterr().out
    assert "usage: python -m date_jax.data.mill" in said
    assert "\n    python -m date_jax.data.mill --corn=sack\n" in said


def test_the_exit_code_is_that_of_the_work_or_of_its_mistake(
    capsys: pytest.CaptureFixture,
) -> None:
    def mistake(_: argparse.Namespace) -> None:
        raise DataError("the sack is empty")

    def stop(_: argparse.Namespace) -> None:
        raise KeyboardInterrupt

    codes = [exit_code(["--corn=a"], work) for work in (lambda _: None, lambda _: 1, mistake, stop)]
    assert codes == [0, 1, 3, 130]
    said = capsys.readouterr().err
    assert "error: the sack is empty\n" in said
    assert "interrupted: the flour is lost\n" in said


def test_no_two_random_streams_share_a_number_and_none_has_changed_its_own() -> None:
    assert len(set(Stream)) == len(Stream.__members__)  # an alias would be a second name of one
    assert sorted(Stream) == [1, 2, 3, 5, 8, 11, 12, 13, 14, 20, 21, 22, 30, 31]
