"""Tokenizers of a tokenizer.json, against transformers' own reading of the same files."""

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as FastTokenizer

from date_jax.data import tokenizer, tokenizer_files
from date_jax.data.tokenizer_files import FileTokenizer, tokenizer_of_file
from date_jax.errors import DataError, UsageError
from tests.data.titles import TITLES

TEXTS = [
    "Striped RED mug, on the left",
    "a lamp on the right of the mug; 2024's best",
    "",
    "  two  blanks ",
    "never </s> seen <eos> words [SEP] here <|endoftext|>",
    *(titles[0] for titles in TITLES.values()),
    "mug " * 40,
]
TRAINING = [*TEXTS[:4], *(title for titles in TITLES.values() for title in titles)]
LENGTH = 24


@functools.cache
def clip() -> tuple[FastTokenizer, dict[str, Any]]:
    """Byte-level BPE with `</w>` behind words, as CLIP's; the end token fills texts up."""
    fast = FastTokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    fast.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = Regex(r"'s|'t|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+")
    fast.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    fast.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        show_progress=False,
        end_of_word_suffix="</w>",
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
    )
    fast.train_from_iterator(TRAINING, trainer)
    start, end = (fast.token_to_id(piece) for piece in ("<|startoftext|>", "<|endoftext|>"))
    fast.post_processor = processors.RobertaProcessing(
        ("<|endoftext|>", end), ("<|startoftext|>", start), False, False
    )
    return fast, {
        "bos_token": {"content": "<|startoftext|>", "lstrip": False},
        **dict.fromkeys(("eos_token", "pad_token", "unk_token"), "<|endoftext|>"),
    }


@functools.cache
def siglip() -> tuple[FastTokenizer, dict[str, Any]]:
    """Unigram with an end token alone, as SigLIP's."""
    fast = FastTokenizer(models.Unigram())
    fast.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.NFKC()])
    fast.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=600,
        show_progress=False,
        special_tokens=["<unk>", "</s>"],
        unk_token="<unk>",
    )
    fast.train_from_iterator(TRAINING, trainer)
    fast.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", fast.token_to_id("</s>"))]
    )
    return fast, {"eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}


@functools.cache
def gemma() -> tuple[FastTokenizer, dict[str, Any]]:
    """BPE that falls back to bytes and fills up before the text, as Gemma's."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    byte_pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    fast = FastTokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    fast.normalizer = normalizers.Replace(" ", "▁")
    fast.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    trainer = trainers.BpeTrainer(
        vocab_size=600, show_progress=False, special_tokens=[*special, *byte_pieces]
    )
    fast.train_from_iterator(TEXTS[:4], trainer)
    names = [("<bos>", 2), ("<eos>", 1)]
    fast.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=names
    )
    return fast, {
        **{f"{part}_token": f"<{part}>" for part in ("bos", "eos", "pad", "unk", "mask")},
        "padding_side": "left",
    }


@functools.cache
def sentence_pieces() -> tuple[FastTokenizer, dict[str, Any]]:
    """WordPiece with other special pieces than BERT's, as MPNet's."""
    special = ["<s>", "<pad>", "</s>", "[UNK]", "<mask>"]
    fast = FastTokenizer(models.WordPiece(unk_token="[UNK]"))
    fast.normalizer = normalizers.BertNormalizer()
    fast.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=600, show_progress=False, special_tokens=special)
    fast.train_from_iterator(TRAINING[:20], trainer)
    fast.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return fast, {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>"}


MAKERS = (clip, siglip, gemma, sentence_pieces)
Maker = Callable[[], tuple[FastTokenizer, dict[str, Any]]]


def written(folder: Path, maker: Maker) -> dict[str, Any]:
    """Writes the two files of a published tokenizer; what its tokenizer_config.json holds."""
    fast, fields = maker()
    fast.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(fields))
    return fields


@pytest.mark.parametrize("maker", MAKERS)
def test_ids_and_mask_are_those_of_transformers(tmp_path: Path, maker: Maker) -> None:
    transformers = pytest.importorskip("transformers")
    fields = written(tmp_path, maker)
    names = {name: value for name, value in fields.items() if isinstance(value, str)}
    if maker is clip:
        names["bos_token"] = "<|startoftext|>"
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "tokenizer.json"), split_special_tokens=True, **names
    )
    expected = theirs(
        TEXTS, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="np"
    )
    encoded = tokenizer_of_file(tmp_path, length=LENGTH).encode(TEXTS)
    np.testing.assert_array_equal(encoded.ids, expected["input_ids"])
    np.testing.assert_array_equal(encoded.mask, expected["attention_mask"].astype(bool))


def test_special_pieces_are_known_by_what_they_are_for(tmp_path: Path) -> None:
    ids = {}
    for maker in MAKERS:
        written(tmp_path, maker)
        words = tokenizer_of_file(tmp_path / "tokenizer.json", length=LENGTH)
        ids[maker] = {
            role: None if number is None else words.vocab[number]
            for role, number in words.special._asdict().items()
        }
    assert ids[clip]["start"] == "<|startoftext|>"
    assert ids[clip]["end"] == ids[clip]["pad"] == "<|endoftext|>"
    assert (ids[siglip]["start"], ids[siglip]["end"]) == (None, "</s>")
    assert ids[siglip]["unknown"] == "<unk>"
    assert (ids[gemma]["pad"], ids[gemma]["mask"]) == ("<pad>", "<mask>")
    assert [ids[sentence_pieces][role] for role in ("start", "end")] == ["<s>", "</s>"]


def test_a_tokenizer_json_that_comes_alone_says_what_its_pieces_are_for(tmp_path: Path) -> None:
    for maker in MAKERS:
        fast, _ = maker()
        if maker is not clip:  # whose padding nothing but its tokenizer_config.json tells
            fast.save(str(tmp_path / "tokenizer.json"))
            words = tokenizer_of_file(tmp_path, length=LENGTH)
            assert words.special.end == words.vocab.index({gemma: "<eos>"}.get(maker, "</s>"))
            pad = {siglip: "</s>"}.get(maker, "<pad>")
            assert words.special.pad == words.vocab.index(pad)


@pytest.mark.parametrize("maker", MAKERS)
def test_what_is_saved_is_read_as_the_same(tmp_path: Path, maker: Maker) -> None:
    published, run = tmp_path / "published", tmp_path / "run"
    published.mkdir()
    run.mkdir()
    written(published, maker)
    first = tokenizer_of_file(published, length=LENGTH)
    first.save(run)
    again = tokenizer_of_file(run, length=LENGTH)
    assert isinstance(again, FileTokenizer)
    assert (again.vocab, again.rules, again.special) == (first.vocab, first.rules, first.special)
    np.testing.assert_array_equal(again.encode(TEXTS).ids, first.encode(TEXTS).ids)


def test_a_long_text_loses_its_end_but_not_the_end_piece(tmp_path: Path) -> None:
    for maker in MAKERS:
        written(tmp_path, maker)
        words = tokenizer_of_file(tmp_path, length=LENGTH)
        encoded = words.encode(["mug " * 40])
        assert encoded.ids[0, -1] == words.special.end
        assert encoded.mask.all()
        assert encoded.cut == 1


def test_a_mirrored_picture_exchanges_left_and_right_wherever_they_stand(tmp_path: Path) -> None:
    # Enough of the words for a piece each, or all the pieces that there are.
    texts = ["left right", "mug left mug right"] * 50
    special = {
        clip: ["<|startoftext|>", "<|endoftext|>"],
        sentence_pieces: ["<s>", "<pad>", "</s>", "[UNK]"],
    }
    trainer_of: dict[Maker, Any] = {
        clip: trainers.BpeTrainer,
        sentence_pieces: trainers.WordPieceTrainer,
    }
    for maker in (clip, siglip, sentence_pieces):
        trained, fields = maker()
        fast = FastTokenizer.from_str(trained.to_str())
        if maker is siglip:
            pieces = ["<unk>", "</s>", "▁left", "▁right", "▁mug", "▁", "a"]
            fast.model = models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0)
        else:
            options = {"end_of_word_suffix": "</w>"} if maker is clip else {}
            trainer = trainer_of[maker](
                vocab_size=400, show_progress=False, special_tokens=special[maker], **options
            )
            fast.train_from_iterator(texts, trainer)
        fast.save(str(tmp_path / "tokenizer.json"))
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(fields))
        words = tokenizer_of_file(tmp_path, length=LENGTH)
        table = words.swap_table()
        ours = table[words.encode(["left mug right", "mug left"]).ids]
        theirs = words.encode(["right mug left", "mug right"]).ids
        np.testing.assert_array_equal(ours, theirs)
        assert words.exchanges("Left", table)
        assert not words.exchanges("mug", table)


def test_bert_s_own_tokenizer_json_gives_the_ids_of_its_vocab_txt(tmp_path: Path) -> None:
    vocab = [*tokenizer.SPECIAL, "mug", "left", "cafe", "##s", "红"]
    fast = FastTokenizer(
        models.WordPiece({piece: number for number, piece in enumerate(vocab)}, unk_token="[UNK]")
    )
    fast.normalizer = normalizers.BertNormalizer()
    fast.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    fast.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    fast.add_special_tokens([*tokenizer.SPECIAL])
    fast.save(str(tmp_path / "tokenizer.json"))
    whole = tokenizer_of_file(tmp_path, length=LENGTH)
    assert isinstance(whole, tokenizer.WordPieces)
    assert (whole.vocab, whole.rules) == (vocab, tokenizer.UNCASED)


def test_real_bert_files_agree_with_transformers_and_with_each_other() -> None:
    if "DATE_JAX_WEIGHTS" not in os.environ:
        pytest.skip("DATE_JAX_WEIGHTS names no folder of published weights")
    folder = Path(os.environ["DATE_JAX_WEIGHTS"], "minilm")
    whole, vocab = (
        tokenizer_of_file(folder / name, length=LENGTH) for name in ("tokenizer.json", "vocab.txt")
    )
    assert (whole.vocab, whole.rules) == (vocab.vocab, vocab.rules)
    fast = FastTokenizer.from_file(str(folder / "tokenizer.json"))
    fast.enable_truncation(LENGTH)
    fast.enable_padding(length=LENGTH)
    texts = [text for text in TEXTS if "[SEP]" not in text]  # theirs takes it for a special piece
    expected = [encoding.ids for encoding in fast.encode_batch(texts)]
    np.testing.assert_array_equal(whole.encode(texts).ids, expected)


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        (None, "cannot read the vocabulary"),
        (b"", "no tokenizer.json of Hugging Face"),
        (b"{", "no tokenizer.json of Hugging Face"),
        (b"[]", "no tokenizer.json of Hugging Face"),
        (b'{"model": 3}', "no tokenizer.json of Hugging Face"),
        (b"[" * 100_000, "no tokenizer.json of Hugging Face"),
        (b"\xff\xfe", "not UTF-8"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    ],
)
def test_a_wrong_tokenizer_json_is_answered(
    tmp_path: Path, content: bytes | None, pattern: str
) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=pattern) as caught:
        tokenizer_of_file(path, length=8)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 8


def test_a_vocabulary_that_is_too_large_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer_files, "MAX_BYTES", 2**20)
    for name in ("tokenizer.json", "vocab.txt"):
        (tmp_path / name).write_bytes(b" " * (2**20 + 1))
        with pytest.raises(DataError, match="more than 1 MiB"):
            tokenizer_of_file(tmp_path / name, length=8)


def test_a_vocabulary_whose_ids_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    model = {"type": "WordLevel", "vocab": {"mug": 4_000_000_000}, "unk_token": "mug"}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model}))
    with pytest.raises(DataError, match="ids"):
        tokenizer_of_file(tmp_path, length=8)


@pytest.mark.parametrize(
    ("part", "key", "value", "pattern"),
    [
        ("post_processor", "special_tokens", {}, "pieces around a text that it does not have"),
        ("model", "continuing_subword_prefix", "####", "merges join pieces without '####'"),
        ("model", "unk_token", "<none>", "no tokenizer.json of Hugging Face"),
    ],
)
def test_a_file_that_would_end_the_process_is_answered(
    tmp_path: Path, part: str, key: str, value: Any, pattern: str
) -> None:
    written(tmp_path, gemma)
    whole = json.loads((tmp_path / "tokenizer.json").read_text())
    whole[part][key] = value
    whole["model"]["byte_fallback"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
    with pytest.raises(DataError, match=pattern):
        tokenizer_of_file(tmp_path, length=8)


def test_a_special_piece_that_the_file_lacks_and_a_frame_without_room_are_told(
    tmp_path: Path,
) -> None:
    fields = written(tmp_path, gemma)
    with pytest.raises(DataError, match=r"text_length=1: .* 2 special pieces"):
        tokenizer_of_file(tmp_path, length=1)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(fields | {"pad_token": "<none>"}))
    with pytest.raises(DataError, match="pad_token is '<none>'"):
        tokenizer_of_file(tmp_path, length=8)


def test_siglip_2_reads_small_letters(tmp_path: Path) -> None:
    fields = written(tmp_path, gemma)
    capitals, small = "Striped RED mug", "striped red mug"
    assert (
        rows := tokenizer_of_file(tmp_path, length=24).encode([capitals, small]).ids
    ) is not None
    assert (rows[0] != rows[1]).any()
    fields["tokenizer_class"] = "Siglip2Tokenizer"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(fields))
    rows = tokenizer_of_file(tmp_path, length=24).encode([capitals, small]).ids
    np.testing.assert_array_equal(rows[0], rows[1])


def test_text_weights_with_another_tokenizer_json_are_refused(tmp_path: Path) -> None:
    weights, elsewhere = tmp_path / "weights", tmp_path / "elsewhere"
    weights.mkdir()
    elsewhere.mkdir()
    written(weights, clip)
    written(elsewhere, siglip)
    other = tokenizer_of_file(elsewhere, length=8)
    with pytest.raises(UsageError, match=rf"set --config\.data\.vocab={weights}/tokenizer\.json"):
        tokenizer_files.require_same_rules(weights, other, str(elsewhere))
    same = tokenizer_of_file(weights, length=8)
    tokenizer_files.require_same_rules(weights, same, str(weights))
