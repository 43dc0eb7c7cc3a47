import json
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from date_jax.data import tokenizer, tokenizer_files
from date_jax.errors import DataError, UsageError
from tests.data.titles import TITLES
from tests.data.unknown_words import published, without_marks

TEXTS = [
    "2024 new striped red mug, kitchen gift",
    "look at this mug, the striped red one on the left",
    "the lamp on the right of the mug",
    "a left shoe and a right shoe",
    "Café cup",
]
SPECIAL = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n"


@pytest.fixture(scope="module")
def learned() -> tokenizer.Tokenizer:
    return tokenizer.tokenizer_of_texts(TEXTS, size=200, length=12)


def pieces(words: tokenizer.Tokenizer, text: str) -> list[str]:
    encoded = words.encode([text])
    return [words.vocab[number] for number in encoded.ids[0][encoded.mask[0]]]


def test_a_learned_vocabulary_begins_with_the_special_pieces(
    learned: tokenizer.Tokenizer,
) -> None:
    assert tuple(learned.vocab[:5]) == tokenizer.SPECIAL
    assert len(set(learned.vocab)) == len(learned.vocab) <= 200


def test_common_words_are_single_pieces_between_cls_and_sep(learned: tokenizer.Tokenizer) -> None:
    assert pieces(learned, "Striped RED mug") == ["[CLS]", "striped", "red", "mug", "[SEP]"]
    assert pieces(learned, "") == ["[CLS]", "[SEP]"]


def test_case_does_not_matter_and_neither_does_how_a_mark_is_typed(
    learned: tokenizer.Tokenizer,
) -> None:
    assert pieces(learned, "CAFÉ") == pieces(learned, "cafe\u0301")


@pytest.mark.parametrize(
    ("word", "other"),
    [("バッグ", "ハック"), ("เสื้อ", "เสือ"), ("vòng", "võng"), ("में", "म"), ("café", "cafe")],
)
def test_words_that_differ_by_a_mark_stay_different_in_a_learned_vocabulary(
    tmp_path: Path, word: str, other: str
) -> None:
    words = tokenizer.tokenizer_of_texts([word, other], size=100, length=12)
    assert pieces(words, word) != pieces(words, other)
    # What was saved is read with the rules that it was learned with.
    words.save(tmp_path)
    from_file = tokenizer_files.tokenizer_of_file(tmp_path / "vocab.txt", length=12)
    assert pieces(from_file, word) == pieces(words, word)
    assert pieces(from_file, other) == pieces(words, other)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, "uber case 红 色"),
        ("{}", "uber case 红 色"),
        ('{"do_lower_case": true, "strip_accents": null}', "uber case 红 色"),
        ('{"do_lower_case": false}', "Über Case 红 色"),
        ('{"do_lower_case": false, "strip_accents": true}', "Uber Case 红 色"),
        ('{"do_lower_case": true, "strip_accents": false}', "über case 红 色"),
        ('{"tokenize_chinese_chars": false}', "uber case 红色"),
    ],
)
def test_a_published_vocabulary_is_read_by_the_rules_next_to_it(
    tmp_path: Path, config: str | None, expected: str
) -> None:
    lines = "uber\nUber\nüber\nÜber\ncase\nCase\n红\n色\n红色\n"
    (tmp_path / "vocab.txt").write_text(SPECIAL + lines, encoding="utf-8")
    if config is not None:
        (tmp_path / "tokenizer_config.json").write_text(config)
    words = tokenizer_files.tokenizer_of_file(tmp_path / "vocab.txt", length=12)
    assert pieces(words, "Über Case 红色")[1:-1] == expected.split()


@pytest.mark.parametrize(
    ("normalizer", "config", "expected"),
    [
        ({"type": "BertNormalizer", "lowercase": False}, None, "Über Case 红 色"),
        (
            {"type": "BertNormalizer", "lowercase": True, "strip_accents": None},
            None,
            "uber case 红 色",
        ),
        (
            {
                "type": "Sequence",
                "normalizers": [
                    {"type": "NFC"},
                    {"type": "BertNormalizer", "handle_chinese_chars": False},
                ],
            },
            None,
            "uber case 红色",
        ),
        (
            {"type": "BertNormalizer", "lowercase": True},
            {"do_lower_case": False},
            "Über Case 红 色",
        ),
        (None, None, "uber case 红 色"),
    ],
)
def test_a_published_vocabulary_is_read_by_the_tokenizer_json_next_to_it(
    tmp_path: Path, normalizer: object, config: dict[str, bool] | None, expected: str
) -> None:
    lines = "uber\nUber\nüber\nÜber\ncase\nCase\n红\n色\n红色\n"
    (tmp_path / "vocab.txt").write_text(SPECIAL + lines, encoding="utf-8")
    (tmp_path / "tokenizer.json").write_text(json.dumps({"normalizer": normalizer}))
    if config is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    words = tokenizer_files.tokenizer_of_file(tmp_path / "vocab.txt", length=12)
    assert pieces(words, "Über Case 红色")[1:-1] == expected.split()


@pytest.mark.parametrize(
    ("config", "pattern"),
    [
        ("{", "cannot be read"),
        ("[]", "not a JSON object"),
        ('{"do_lower_case": "no"}', "do_lower_case is 'no', neither true nor false"),
    ],
)
def test_wrong_rules_next_to_a_vocabulary_are_answered(
    tmp_path: Path, config: str, pattern: str
) -> None:
    (tmp_path / "vocab.txt").write_text(SPECIAL)
    (tmp_path / "tokenizer_config.json").write_text(config)
    with pytest.raises(DataError, match=rf"tokenizer_config\.json.*{pattern}"):
        tokenizer_files.tokenizer_of_file(tmp_path / "vocab.txt", length=8)


@pytest.mark.parametrize("name", ["", "model.safetensors"])
def test_rules_next_to_text_weights_that_differ_from_the_vocabulary_s_are_told(
    tmp_path: Path, name: str
) -> None:
    weights, elsewhere = tmp_path / "weights", tmp_path / "elsewhere"
    weights.mkdir()
    elsewhere.mkdir()
    (elsewhere / "vocab.txt").write_text(SPECIAL)
    vocab = str(elsewhere / "vocab.txt")
    words = tokenizer_files.tokenizer_of_file(vocab, length=8)
    tokenizer_files.require_same_rules(weights / name, words, vocab)  # no rules next to the weights
    (weights / "tokenizer_config.json").write_text('{"do_lower_case": true, "model_max_length": 9}')
    tokenizer_files.require_same_rules(weights / name, words, vocab)
    (weights / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    with pytest.raises(
        UsageError, match=r"the rules there are not those that config\.data\.vocab="
    ) as said:
        tokenizer_files.require_same_rules(weights / name, words, vocab)
    assert "do_lower_case is false there, true here" in str(said.value)
    assert "strip_accents is false there, true here" in str(said.value)
    assert "copy tokenizer_config.json or tokenizer.json next to vocab.txt" in str(said.value)
    assert len(str(said.value).splitlines()) <= 8
    tokenizer_files.require_same_rules(weights / name, words, "")  # a learned one
    # Copied next to the vocabulary, as the message says, the rules are one.
    shutil.copy(weights / "tokenizer_config.json", elsewhere)
    tokenizer_files.require_same_rules(
        weights / name, tokenizer_files.tokenizer_of_file(vocab, length=8), vocab
    )


def test_a_pointer_in_place_of_a_vocabulary_is_named(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
    )
    with pytest.raises(DataError, match=r"vocab\.txt is a Git LFS pointer.*\n.*git lfs pull"):
        tokenizer_files.tokenizer_of_file(tmp_path / "vocab.txt", length=8)


def test_text_and_its_mask_have_the_asked_length(learned: tokenizer.Tokenizer) -> None:
    encoded = learned.encode(["mug", "red " * 30])
    ids, mask = encoded.ids, encoded.mask
    assert ids.shape == mask.shape == (2, 12)
    assert (ids.dtype, mask.dtype) == (np.int32, bool)
    np.testing.assert_array_equal(mask.sum(1), [3, 12])
    assert ids[1][-1] == learned.vocab.index("[SEP]")
    assert (ids[0][3:] == learned.vocab.index("[PAD]")).all()


def test_chinese_is_split_into_characters() -> None:
    words = tokenizer.tokenizer_of_texts(["这个红色的杯子", "红色 mug"], size=100, length=12)
    assert pieces(words, "红色杯MUG") == ["[CLS]", "红", "色", "杯", "mug", "[SEP]"]


def test_letters_take_half_of_the_vocabulary_at_most() -> None:
    texts = [chr(0x4E00 + number) for number in range(500)] + ["mug mug mug"] * 5
    words = tokenizer.tokenizer_of_texts(texts, size=100, length=8)
    assert len(words.vocab) <= 100
    assert "mug" in words.vocab


def test_equal_texts_give_equal_vocabularies_in_any_order_and_process() -> None:
    code = (
        "import sys; from date_jax.data import tokenizer\n"
        "texts = sys.argv[1:]\n"
        "print('\\n'.join(tokenizer.tokenizer_of_texts(texts, size=90, length=8).vocab))"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code, *texts], capture_output=True, text=True, check=True
        ).stdout
        for texts in (TEXTS, TEXTS[::-1])
    ]
    here = "\n".join(tokenizer.tokenizer_of_texts(TEXTS, size=90, length=8).vocab) + "\n"
    assert runs == [here, here]


def test_a_saved_vocabulary_loads_as_the_same(learned: tokenizer.Tokenizer, tmp_path: Path) -> None:
    learned.save(tmp_path)
    from_file = tokenizer_files.tokenizer_of_file(tmp_path / "vocab.txt", length=12)
    assert from_file.vocab == learned.vocab
    np.testing.assert_array_equal(from_file.encode(TEXTS).ids, learned.encode(TEXTS).ids)


def test_a_vocabulary_with_windows_line_ends_loads(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes((SPECIAL + "mug\n").replace("\n", "\r\n").encode())
    assert tokenizer_files.tokenizer_of_file(tmp_path / "vocab.txt", length=4).vocab[-1] == "mug"


def test_the_swap_table_exchanges_pairs_and_nothing_else(learned: tokenizer.Tokenizer) -> None:
    table = learned.swap_table([("left", "right"), ("unheard", "of"), ("leftmost", "rightmost")])
    left, right = learned.vocab.index("left"), learned.vocab.index("right")
    assert (table[left], table[right]) == (right, left)
    others = np.delete(np.arange(len(table)), [left, right])
    np.testing.assert_array_equal(table[others], others)
    np.testing.assert_array_equal(table[table], np.arange(len(table)))


def test_cut_empty_and_unknown_texts_are_counted(learned: tokenizer.Tokenizer) -> None:
    encoded = learned.encode(["red " * 30, "", "红色 mug"])
    assert (encoded.cut, encoded.empty, encoded.unknown) == (1, 1, 2)
    assert encoded.pieces == 30 + 3
    assert encoded.unknown_texts == ["红色 mug"]


def test_chinese_texts_are_refused_by_an_english_vocabulary(
    learned: tokenizer.Tokenizer,
) -> None:
    encoded = learned.encode(["这个红色的杯子", "mug"])
    with pytest.raises(DataError, match=r"(?s)88% .*live_train.*这个红色的杯子.*english\.txt"):
        tokenizer.vocabulary_notes(encoded, name="live_train", vocab="english.txt")
    same_language = learned.encode(TEXTS)
    assert not tokenizer.vocabulary_notes(same_language, name="mall_train", vocab="english.txt")


def test_words_that_a_small_training_set_lacks_are_a_note() -> None:
    words = tokenizer.tokenizer_of_texts(["white cup 1", "red cup 2"], size=200, length=12)
    encoded = words.encode(["jug 8 xl", "red cup"])
    (note,) = tokenizer.vocabulary_notes(encoded, name="mall_val", vocab="")
    assert all(part in note for part in ("62% of the words", "mall_val", "'jug 8 xl'"))
    assert not tokenizer.vocabulary_notes(words.encode(["red cup"]), name="mall_val", vocab="")


@pytest.mark.parametrize("language", TITLES)
def test_titles_of_ten_languages_are_read_whole_and_with_their_marks(language: str) -> None:
    titles = TITLES[language]
    words = tokenizer.tokenizer_of_texts(titles, size=1000, length=256)
    assert words.encode(titles).unknown == 0
    assert published(titles).encode(titles).unknown == 0
    for title in titles:
        plain = without_marks(title)
        same = words.encode([title]).ids.tolist() == words.encode([plain]).ids.tolist()
        assert same == (plain == unicodedata.normalize("NFD", title))


def test_a_letter_outside_a_learned_vocabulary_leaves_the_rest_of_its_word() -> None:
    words = tokenizer.tokenizer_of_texts(["เสื้อ แมว", "red mug"], size=200, length=12)
    shirt, fire, cat = (pieces(words, text)[1:-1] for text in ("เสื้อ", "🔥", "แมว"))
    assert fire == ["[UNK]"]
    assert pieces(words, "เสื้อ🔥แมว")[1:-1] == [*shirt, *fire, *cat]
    assert words.encode(["🔥red🔥"]).unknown == 2


def test_a_korean_word_that_no_training_text_has_is_read_from_its_letters() -> None:
    words = tokenizer.tokenizer_of_texts(["한글 자석 놀이", "머그컵"], size=200, length=24)
    assert words.encode(["하마 고모"]).unknown == 0
    assert not (words.encode(["하마"]).ids == words.encode(["호모"]).ids).all()


def test_letters_of_the_alphabet_are_in_a_learned_vocabulary_that_has_room_for_them() -> None:
    texts = ["white cup 1", "red cup 2"]
    words = tokenizer.tokenizer_of_texts(texts, size=200, length=12, alphabet=tokenizer.ALPHABET)
    assert words.encode(["jug 8 xl", "mug 1.5"]).unknown == 1  # the point
    learned_pieces = tokenizer.tokenizer_of_texts(texts, size=200, length=12).vocab
    assert words.vocab[: len(learned_pieces)] == learned_pieces
    full = tokenizer.tokenizer_of_texts(TEXTS, size=100, length=12, alphabet=tokenizer.ALPHABET)
    assert len(full.vocab) == len(set(full.vocab)) == 100


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        (None, "cannot read the vocabulary"),
        (b"", "is empty"),
        (b"[PAD]\n[UNK]\nmug\n", r"lacks \[CLS\] \[SEP\] \[MASK\]"),
        (SPECIAL.encode() + b"mug\ncup\nmug\n", "'mug' twice, on lines 6 and 8"),
        ("红".encode("gbk"), "not UTF-8"),
    ],
)
def test_a_wrong_vocabulary_file_is_answered(
    tmp_path: Path, content: bytes | None, pattern: str
) -> None:
    path = tmp_path / "vocab.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=pattern) as caught:
        tokenizer_files.tokenizer_of_file(path, length=8)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 8


def test_a_long_title_without_blanks_is_no_unknown_word() -> None:
    titles = [name * 40 for name in ("เสื้อแดง", "カラスのコップ", "mug")]
    words = tokenizer.tokenizer_of_texts([title[:50] for title in titles], size=200, length=12)
    encoded = words.encode(titles)
    assert encoded.unknown == 0
    assert len({tuple(ids) for ids in encoded.ids.tolist()}) == len(titles)
