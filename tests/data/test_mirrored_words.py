from pathlib import Path

import pytest

from date_jax.data import mirrored_words
from date_jax.data.tokenizer import (
    RULES_FILE,
    SPECIAL,
    Tokenizer,
    tokenizer_of_texts,
)
from date_jax.data.tokenizer_files import tokenizer_of_file

ENGLISH = ["the mug on the left", "the red mug on the right", "a lamp, 5 Ω", "Größe M"]


def notes_of(texts: list[str], words: Tokenizer | None = None, flip: float = 0.5) -> list[str]:
    words = words or tokenizer_of_texts(texts, size=400, length=12)
    return mirrored_words.notes(texts, words, flip)


@pytest.mark.parametrize(
    "texts",
    [
        ENGLISH,
        ["左侧的红色杯子", "右边的灯", "红色杯子"],
        ["左のマグ", "右のランプ"],
        ["cuff links, silver", "sol cream", "only two left"],  # one word of a pair
        ["no side at all"],
        [],
    ],
)
def test_texts_whose_sides_are_exchanged_or_not_told_have_no_note(texts: list[str]) -> None:
    assert notes_of(texts) == []


@pytest.mark.parametrize(
    ("texts", "what"),
    [
        (["кружка слева", "лампа"], "100% of the training texts are in Cyrillic"),
        (["แก้วด้านซ้าย", *ENGLISH], "20% of the training texts are in Thai"),
        (["왼쪽 컵", "כוס", "a cup", "a mug"], "50% of the training texts are in Hangul, Hebrew"),
        (["Tasse links", "Tasse rechts"], "'links' and 'rechts' stay as they are"),
        (["tách bên trái", "tách bên PHẢI"], "'trái' and 'phải' stay as they are"),
    ],
)
def test_words_that_stay_are_named_with_the_way_out(texts: list[str], what: str) -> None:
    notes = notes_of(texts)
    assert what in "\n".join(notes)
    assert "config.augment.flip=0.5" in notes[0]
    assert notes[-1].endswith("add --config.augment.flip=0")
    assert len(notes) <= 8
    assert notes_of(texts, flip=0.0) == []


def test_few_texts_in_another_script_are_no_note() -> None:
    assert notes_of([*ENGLISH * 40, "кружка слева"]) == []


def test_a_given_vocabulary_without_the_words_or_with_capitals_is_told_apart(
    tmp_path: Path,
) -> None:
    texts = ["Left mug", "the mug on the right"]

    def given(*pieces: str, rules: str = "{}") -> Tokenizer:
        (tmp_path / "vocab.txt").write_text("".join(f"{piece}\n" for piece in (*SPECIAL, *pieces)))
        (tmp_path / RULES_FILE).write_text(rules)
        return tokenizer_of_file(tmp_path / "vocab.txt", length=8)

    assert notes_of(texts, given("left", "right", "mug")) == []
    assert "'left', 'right' stay" in "\n".join(notes_of(texts, given("le", "##ft", "right")))
    assert "both words of a pair as one piece" in "\n".join(notes_of(texts, given("left", "mug")))
    cased = '{"do_lower_case": false}'
    assert "'Left' stays" in "\n".join(notes_of(texts, given("left", "right", rules=cased)))
    with_capitals = given("left", "right", "Left", "Right", rules=cased)
    assert notes_of(texts, with_capitals) == []
    table, vocab = with_capitals.swap_table(), with_capitals.vocab
    assert vocab[table[vocab.index("Left")]] == "Right"
    assert vocab[table[vocab.index("right")]] == "left"


def test_the_note_stays_short_where_everything_is_in_it() -> None:
    texts = ["кружка", "แก้ว", "컵컵", "כוס", "ποτήρι", "left", "links rechts", "kiri kanan"]
    notes = notes_of([*texts, "gauche droite", "sol sağ", "lewy prawy", "bal jobb"])
    assert len(notes) <= 8
    assert max(map(len, notes)) < 200
    assert "…" in "\n".join(notes)
