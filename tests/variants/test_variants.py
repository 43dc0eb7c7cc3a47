from pathlib import Path

import pytest

from tests.variants.cases import answer_of_case, case_folder
from tests.variants.tables import pictures
from tests.variants.ways import WAYS

CASES = 20


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("variants") / "img")


@pytest.mark.parametrize("number", range(CASES))
def test_a_random_table_is_read_rightly_or_refused_clearly(images: Path, number: int) -> None:
    with case_folder(images.parent, number, images) as folder:
        answer = answer_of_case(0, number, folder)
    assert answer.result == "right", answer


@pytest.mark.parametrize("name", WAYS)
def test_each_way_alone_is_answered_rightly(images: Path, name: str) -> None:
    # Three tables: of other languages, kinds and sizes.
    for number in range(3):
        with case_folder(images.parent / name, number, images) as folder:
            answer = answer_of_case(1, number, folder, [name])
        assert answer.result == "right", answer


def test_a_case_is_the_same_again(images: Path, tmp_path: Path) -> None:
    answers = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        with case_folder(tmp_path / name, 7, images) as folder:
            answers.append(answer_of_case(3, 7, folder)._replace(message=""))
    assert answers[0] == answers[1]


def test_there_are_ways_for_both_tables_and_both_answers() -> None:
    assert len(WAYS) > 80
    assert {way.reads for way in WAYS.values()} == {True, False}
    assert all(way.subjects and way.forms and way.kinds for way in WAYS.values())
