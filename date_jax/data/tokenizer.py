"""Words to numbers: a WordPiece vocabulary, learned from the training texts or read from a file.

A published `vocab.txt` is read with BERT's rules (lower case, accents stripped, Chinese characters
one by one), or with those of the tokenizer_config.json or tokenizer.json next to it. A learned
vocabulary keeps marks: without them words of Japanese, Thai or Vietnamese become other words. It
is written in the same form, with its rules.
"""

import dataclasses
import json
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from tokenizers import Regex
from tokenizers import Tokenizer as FastTokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import NFC, NFD, BertNormalizer, Normalizer
from tokenizers.normalizers import Sequence as NormalizerSequence
from tokenizers.pre_tokenizers import BertPreTokenizer, FixedLength, Split
from tokenizers.pre_tokenizers import Sequence as PreTokenizerSequence
from tokenizers.trainers import WordPieceTrainer

from date_jax.errors import DataError, UsageError
from date_jax.run import git_lfs

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# Words that a mirrored picture exchanges.
MIRRORED = (("left", "right"), ("Left", "Right"), ("LEFT", "RIGHT"), ("左", "右"))
ALPHABET = string.ascii_lowercase + string.digits  # of article numbers and sizes anywhere
MAX_WORD = 100  # letters; WordPiece takes a longer word for one unknown piece
MAX_UNKNOWN = 0.2  # above this share a given vocabulary is for another language than the texts
# As Hugging Face names them, next to a vocab.txt.
RULES_FILE = "tokenizer_config.json"
WHOLE_FILE = "tokenizer.json"
_NAMES_THERE = {  # of the rules, in the normalizer of a tokenizer.json
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}


@dataclasses.dataclass(frozen=True)
class Rules:
    """What happens to a text before its words become pieces.

    The first three are named as in a tokenizer_config.json; published vocabularies lack the others.

    Attributes:
        do_lower_case: capitals become small letters.
        strip_accents: letters lose their marks; else letter and marks become one character (NFC).
        tokenize_chinese_chars: each Chinese character is a word.
        split_marks: marks that are kept are letters too, and so are the parts of a Korean syllable
            (NFD): a few dozen letters give every syllable.
        split_unknown: a letter outside the vocabulary is a word. Else it makes its whole word
            unknown, and a title without blanks is one word.
    """

    do_lower_case: bool = True
    strip_accents: bool = True
    tokenize_chinese_chars: bool = True
    split_marks: bool = False
    split_unknown: bool = False

    def normalizer(self) -> Normalizer:
        """The step of the package `tokenizers` that changes a text by these rules."""
        bert = BertNormalizer(
            clean_text=True,
            handle_chinese_chars=self.tokenize_chinese_chars,
            strip_accents=self.strip_accents,
            lowercase=self.do_lower_case,
        )
        if self.strip_accents:
            return bert
        return NormalizerSequence([NFD() if self.split_marks else NFC(), bert])


_RULE_FIELDS = dataclasses.fields(Rules)
_RULES_ADVICE = "mend it, or remove it to read the vocabulary with BERT's uncased rules"
UNCASED = Rules()  # those of BERT's uncased vocabularies
LEARNED = Rules(strip_accents=False, split_marks=True, split_unknown=True)


@dataclasses.dataclass(frozen=True)
class EncodedTexts:
    """Texts as token ids, and what was lost on the way.

    Attributes:
        ids: a text a row: [CLS], its word pieces, [SEP], and [PAD] up to T.
        mask: False = padding.
        cut: how many texts were longer than T and lost their end.
        empty: how many texts held no word.
        pieces: how many word pieces all texts hold, without special ones.
        unknown: how many of them are not in the vocabulary.
        unknown_texts: the first few texts with unknown pieces.
    """

    ids: Int[np.ndarray, "N T"]
    mask: Bool[np.ndarray, "N T"]
    cut: int
    empty: int
    pieces: int
    unknown: int
    unknown_texts: list[str]


class Tokenizer:
    """WordPiece over a fixed vocabulary.

    Args:
        vocab: the pieces; a piece's id is its place. Holds all of SPECIAL.
        length: T, the number of ids a text.
        rules: what happens to a text before it is split into pieces.
    """

    def __init__(self, vocab: Sequence[str], *, length: int, rules: Rules = UNCASED):
        self.vocab = list(vocab)
        self.rules = rules
        self.length = length
        self._id = {piece: number for number, piece in enumerate(self.vocab)}
        self._fast = _fast_tokenizer(self._id, rules)

    def encode(self, texts: Sequence[str]) -> EncodedTexts:
        """The token ids of `texts`, and counts of what was cut, empty or unknown."""
        ids = np.full((len(texts), self.length), self._id["[PAD]"], np.int32)
        mask = np.zeros(ids.shape, bool)
        unknown_id, room = self._id["[UNK]"], self.length - 2
        cut = empty = pieces = unknown = 0
        unknown_texts: list[str] = []
        encodings = self._fast.encode_batch(list(texts), add_special_tokens=False)
        for row, (text, encoding) in enumerate(zip(texts, encodings, strict=True)):
            # What the user is told: losses are counted before the text is cut.
            text_ids = encoding.ids
            unknown_here = text_ids.count(unknown_id)
            cut += len(text_ids) > room
            empty += not text_ids
            pieces += len(text_ids)
            unknown += unknown_here
            if unknown_here and text not in unknown_texts and len(unknown_texts) < 3:
                unknown_texts.append(text)
            # What the network reads: a text that is too long loses its end, never its [SEP].
            framed = [self._id["[CLS]"], *text_ids[:room], self._id["[SEP]"]]
            ids[row, : len(framed)] = framed
            mask[row, : len(framed)] = True
        return EncodedTexts(ids, mask, cut, empty, pieces, unknown, unknown_texts)

    def words(self, text: str) -> list[str]:
        """The words of a text, as they are split into pieces."""
        return _words(self._fast, text)

    def save_vocab(self, path: str | Path) -> None:
        """Writes `vocab.txt`, one piece a line, and its rules next to it."""
        Path(path).write_text("".join(piece + "\n" for piece in self.vocab), encoding="utf-8")
        rules = json.dumps(dataclasses.asdict(self.rules), indent=2)
        Path(path).with_name(RULES_FILE).write_text(rules + "\n", encoding="utf-8")

    def swap_table(self, word_pairs: Iterable[tuple[str, str]] = MIRRORED) -> Int[np.ndarray, " V"]:
        """The id that takes the place of each id when the picture is mirrored.

        Args:
            word_pairs: such as ("left", "right"); a pair counts where both are single pieces.
        """
        table = np.arange(len(self.vocab), dtype=np.int32)
        for one, other in word_pairs:
            if one in self._id and other in self._id:
                table[self._id[one]], table[self._id[other]] = self._id[other], self._id[one]
        return table


def tokenizer_of_texts(
    texts: Iterable[str], *, size: int, length: int, alphabet: str = ""
) -> Tokenizer:
    """A tokenizer whose vocabulary is learned from texts.

    Equal texts give equal vocabularies, in any order and in any process.

    Args:
        texts: to learn from.
        size: of the vocabulary, at most.
        length: T, the number of ids a text.
        alphabet: letters that the vocabulary has as far as there is room, also those of no text.
    """
    # Until there is a vocabulary, no letter is outside of it.
    rules = dataclasses.replace(LEARNED, split_unknown=False)
    fast = _fast_tokenizer({piece: number for number, piece in enumerate(SPECIAL)}, rules)
    words = Counter(word for text in texts for word in _words(fast, text))
    letter_count: Counter[str] = Counter()
    for word, count in words.items():
        letter_count.update({letter: count * word.count(letter) for letter in set(word)})
    # Letters take half of the vocabulary at most (Chinese has thousands), the commonest first.
    letters = sorted(letter_count, key=lambda letter: (-letter_count[letter], letter))
    letters = letters[: size // 2]
    inner = {letter for word in words for letter in word[1:]}.intersection(letters)
    # The trainer numbers inner letters in the order of a hash map, a new one in every process, and
    # merges ties by number. Named here, they have theirs beforehand.
    first_pieces = [*SPECIAL, *sorted("##" + letter for letter in inner)]
    trainer = WordPieceTrainer(
        vocab_size=size,
        special_tokens=first_pieces,
        initial_alphabet=letters,
        limit_alphabet=len(letters),
        show_progress=False,
    )
    fast.train_from_iterator((" ".join([word] * words[word]) for word in sorted(words)), trainer)
    pieces = fast.get_vocab()
    vocab = sorted(pieces, key=pieces.__getitem__)
    # A handful of texts lacks letters by chance: a word with one of them would be unknown.
    letter_pieces = (piece for letter in alphabet for piece in (letter, "##" + letter))
    absent = (piece for piece in letter_pieces if piece not in pieces)
    vocab += islice(absent, max(size - len(vocab), 0))
    return Tokenizer(vocab, length=length, rules=LEARNED)


def tokenizer_of_file(path: str | Path, *, length: int) -> Tokenizer:
    """The tokenizer whose vocabulary is a `vocab.txt`, one piece a line.

    Its rules are those of `rules_next_to` the file.

    Raises:
        DataError: the file is missing, no UTF-8, empty, or lacks or repeats pieces; or its rules
            cannot be read.
    """
    advice = "one piece a line, as in BERT's vocab.txt"
    # Faults of reading are the user's: the message names the file and a way out.
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise DataError(f"vocabulary {path} is not UTF-8 text: expected {advice}") from None
    except OSError as error:
        raise DataError(
            f"cannot read the vocabulary {path}: {error.strerror} (looked from {Path.cwd()})\n"
            '  set config.data.vocab to a vocab.txt, or to "" to learn one from the texts'
        ) from None
    if git_lfs.is_pointer(text[:64].encode()):
        raise DataError(
            f"vocabulary {path} is a Git LFS pointer, not the file\n  {git_lfs.WAY_OUT}"
        )
    # Ids are line numbers: an empty line counts, the newline of the last one does not.
    vocab = [line.rstrip("\r") for line in text.removesuffix("\n").split("\n")] if text else []
    lacking = [piece for piece in SPECIAL if piece not in vocab]
    if not vocab:
        raise DataError(f"vocabulary {path} is empty: expected {advice}")
    if lacking:
        raise DataError(
            f"vocabulary {path} lacks {' '.join(lacking)} among its {len(vocab)} lines: "
            f"expected {advice}"
        )
    # A piece on two lines would have two ids.
    if len(set(vocab)) < len(vocab):
        line_of: dict[str, int] = {}
        for line, piece in enumerate(vocab, 1):
            if line_of.setdefault(piece, line) != line:
                raise DataError(
                    f"vocabulary {path} holds {piece!r} twice, on lines {line_of[piece]} and "
                    f"{line}: ids would be ambiguous; remove the second"
                )
    return Tokenizer(vocab, length=length, rules=rules_next_to(Path(path)))


def rules_next_to(path: Path) -> Rules:
    """The rules that a tokenizer_config.json or a tokenizer.json states; BERT's without both.

    The first file counts before the second. Accents that neither mentions are stripped exactly
    where capitals become small letters.

    Args:
        path: of the vocabulary that they lie next to.

    Raises:
        DataError: a file is no JSON object, or states a rule that is neither true nor false.
    """
    rules = _rules_of_config(path.with_name(RULES_FILE))
    rules = _rules_of_normalizer(path.with_name(WHOLE_FILE)) | rules
    return Rules(**{"strip_accents": rules.get("do_lower_case", True), **rules})


def _rules_of_config(path: Path) -> dict[str, bool]:
    """The rules that a tokenizer_config.json states, by name; none where there is no such file."""
    fields = _json_object(path)
    return _stated_rules(path, {field.name: fields.get(field.name) for field in _RULE_FIELDS})


def _rules_of_normalizer(path: Path) -> dict[str, bool]:
    """The rules that BERT's normalizer has in a tokenizer.json; none where it has another."""
    whole = _json_object(path).get("normalizer")
    # A step, or several in order.
    steps = whole.get("normalizers", [whole]) if isinstance(whole, dict) else []
    bert = [s for s in steps if isinstance(s, dict) and s.get("type") == "BertNormalizer"]
    fields = bert[0] if bert else {}
    return _stated_rules(path, {name: fields.get(there) for name, there in _NAMES_THERE.items()})


def _json_object(path: Path) -> dict[str, Any]:
    """The object of a JSON file next to a vocabulary; an empty one where there is no file."""
    if not path.exists():
        return {}
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}\n  {_RULES_ADVICE}") from None
    if not isinstance(fields, dict):
        raise DataError(f"{path} is not a JSON object\n  {_RULES_ADVICE}")
    return fields


def _stated_rules(path: Path, rules: dict[str, Any]) -> dict[str, bool]:
    """The rules that a file states; null means the same as a missing rule."""
    rules = {name: rule for name, rule in rules.items() if rule is not None}
    for name, rule in rules.items():
        if not isinstance(rule, bool):
            raise DataError(
                f"{path}: {name} is {rule!r:.60}, neither true nor false\n  {_RULES_ADVICE}"
            )
    return rules


def require_same_rules(weights: Path, tokenizer: Tokenizer, vocab: str) -> None:
    """Refuses text weights next to which other rules are stated than those of the vocabulary.

    The pieces may be the same: with other rules the network still reads other words than those that
    it was trained on, such as `mug` for each `Mug`.

    Args:
        weights: the file or folder of `config.init.text`.
        tokenizer: the run's.
        vocab: `config.data.vocab`; with "" the vocabulary is learned, and nothing is compared.

    Raises:
        UsageError: the rules differ.
        DataError: the file next to the weights cannot be read.
    """
    path = (weights if weights.is_dir() else weights.parent) / RULES_FILE
    # A file that states none, as of another kind of tokenizer, says nothing about the words.
    if not vocab or not (
        _rules_of_config(path) or _rules_of_normalizer(path.with_name(WHOLE_FILE))
    ):
        return
    stated = dataclasses.asdict(rules_next_to(path))
    used = dataclasses.asdict(tokenizer.rules)
    differences = [name for name in stated if stated[name] != used[name]]
    if differences:
        lines = (
            f"  {name} is {str(stated[name]).lower()} there, {str(used[name]).lower()} here"
            for name in differences
        )
        raise UsageError(
            "\n".join(
                [
                    f"{path.parent}: the rules there are not those that config.data.vocab={vocab} "
                    "is read with",
                    *lines,
                    f"  copy {RULES_FILE} or {WHOLE_FILE} next to {Path(vocab).name}, or set "
                    "--config.data.vocab to the vocab.txt next to the weights",
                ]
            )
        )


def vocabulary_notes(encoded: EncodedTexts, *, name: str, vocab: str) -> list[str]:
    """A note for the user where a learned vocabulary lacks many words of a split, else none.

    A small training set lacks words that others have; only a given vocabulary can be a wrong one.

    Args:
        encoded: the texts of a split.
        name: of the split, for the message.
        vocab: `config.data.vocab`; "" = learned from the training texts.

    Raises:
        DataError: more than MAX_UNKNOWN of their pieces are unknown to a given vocabulary.
    """
    share = encoded.unknown / max(encoded.pieces, 1)
    if share <= MAX_UNKNOWN:
        return []
    problem = f"{share:.0%} of the words in the texts of {name} are not in the vocabulary"
    if not vocab:
        example = f"{encoded.unknown_texts[0][:60]!r}"
        return [f"{problem}, which is learned from the training texts, such as in {example}"]
    raise DataError(
        "\n".join(
            [
                problem,
                *(f"  such as: {text[:60]!r}" for text in encoded.unknown_texts),
                f"  the vocabulary is {vocab}",
                "  give one of their language in config.data.vocab "
                '("" learns it from the training texts)',
            ]
        )
    )


def _fast_tokenizer(ids: dict[str, int], rules: Rules) -> FastTokenizer:
    """The tokenizer of the package `tokenizers` for a vocabulary and its rules."""
    word_pieces = WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=MAX_WORD)
    fast = FastTokenizer(word_pieces)
    fast.normalizer = rules.normalizer()
    # Thai, Khmer and Japanese titles have no blanks, so that one can be a single long word.
    steps = [BertPreTokenizer(), *(_unknown_splits(ids) if rules.split_unknown else [])]
    fast.pre_tokenizer = PreTokenizerSequence([*steps, FixedLength(MAX_WORD)])
    return fast


def _words(fast: FastTokenizer, text: str) -> list[str]:
    """The words of a text, changed by the rules of a tokenizer."""
    text = fast.normalizer.normalize_str(text)
    return [word for word, _ in fast.pre_tokenizer.pre_tokenize_str(text)]


def _unknown_splits(vocab: Iterable[str]) -> list[Split]:
    """The steps that make words of the letters without a piece: anywhere, then within a word."""
    pieces = set(vocab)
    first = {piece for piece in pieces if len(piece) == 1}
    inner = {piece[2:] for piece in pieces if len(piece) == 3 and piece.startswith("##")}
    patterns = _other_letter(first), rf"(?!\A){_other_letter(inner)}"
    return [Split(Regex(pattern), "isolated") for pattern in patterns]


def _other_letter(letters: Iterable[str]) -> str:
    """The pattern of every character but these."""
    codes = "".join(rf"\x{{{ord(letter):x}}}" for letter in sorted(letters))
    return f"[^{codes}]" if codes else "."
