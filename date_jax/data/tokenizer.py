"""Words to numbers: what every tokenizer does, and WordPiece over a list of pieces.

A learned vocabulary keeps marks: without them words of Japanese, Thai or Vietnamese become other
words. It is written as a `vocab.txt` with its rules next to it. `tokenizer_files` reads files.
"""

import dataclasses
import json
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

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

from date_jax.errors import DataError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# Words that a mirrored picture exchanges.
MIRRORED = (("left", "right"), ("Left", "Right"), ("LEFT", "RIGHT"), ("左", "右"))
ALPHABET = string.ascii_lowercase + string.digits  # of article numbers and sizes anywhere
MAX_WORD = 100  # letters; WordPiece takes a longer word for one unknown piece
MAX_UNKNOWN = 0.2  # above this share a given vocabulary is for another language than the texts
# As Hugging Face names them: the pieces alone with their rules, or all of a tokenizer.
VOCAB_FILE = "vocab.txt"
RULES_FILE = "tokenizer_config.json"
WHOLE_FILE = "tokenizer.json"


class SpecialIds(NamedTuple):
    """The ids of the pieces that are no words, by what they are for.

    Attributes:
        pad: fills a text up to its length.
        start: stands before each text; None where nothing does.
        end: stands behind each text; None where nothing does.
        unknown: takes the place of what the vocabulary lacks; None where it lacks nothing.
        mask: hides a word that is to be guessed; None where the vocabulary has no such piece.
    """

    pad: int
    start: int | None = None
    end: int | None = None
    unknown: int | None = None
    mask: int | None = None


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


UNCASED = Rules()  # those of BERT's uncased vocabularies
LEARNED = Rules(strip_accents=False, split_marks=True, split_unknown=True)


@dataclasses.dataclass(frozen=True)
class EncodedTexts:
    """Texts as token ids, and what was lost on the way.

    Attributes:
        ids: a text a row: its pieces between special ones, and padding up to T.
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
    """Words to ids by a tokenizer of the package `tokenizers`, and all that a run asks of it.

    Args:
        fast: splits a text into pieces; it neither frames, cuts nor fills up.
        vocab: the pieces; a piece's id is its place.
        rules: a frozen dataclass of JSON values, which tells tokenizers of equal pieces apart.
        length: T, the number of ids a text.
        special: the ids of pieces that are no words.
        frame: the ids before and behind each text.
        pads_left: whether a text is filled up before its beginning.

    Raises:
        DataError: the frame leaves no room for a word.
    """

    def __init__(
        self,
        fast: FastTokenizer,
        vocab: Sequence[str],
        rules: Any,
        *,
        length: int,
        special: SpecialIds,
        frame: tuple[Sequence[int], Sequence[int]],
        pads_left: bool = False,
    ):
        self.vocab = list(vocab)
        self.rules = rules
        self.length = length
        self.special = special
        self.room = length - len(frame[0]) - len(frame[1])  # of a text's own pieces
        self._fast, self._frame, self._pads_left = fast, frame, pads_left
        if self.room < 0:
            raise DataError(
                f"config.data.text_length={length}: leaves no room between the {length - self.room}"
                " special pieces of each text"
            )

    def encode(self, texts: Sequence[str]) -> EncodedTexts:
        """The token ids of `texts`, and counts of what was cut, empty or unknown."""
        ids = np.full((len(texts), self.length), self.special.pad, np.int32)
        mask = np.zeros(ids.shape, bool)
        (before, behind), unknown_id = self._frame, self.special.unknown
        cut = empty = pieces = unknown = 0
        unknown_texts: list[str] = []
        encodings = self._fast.encode_batch(list(texts), add_special_tokens=False)
        for row, (text, encoding) in enumerate(zip(texts, encodings, strict=True)):
            # What the user is told: losses are counted before the text is cut.
            text_ids = encoding.ids
            unknown_here = text_ids.count(-1 if unknown_id is None else unknown_id)
            cut += len(text_ids) > self.room
            empty += not text_ids
            pieces += len(text_ids)
            unknown += unknown_here
            if unknown_here and text not in unknown_texts and len(unknown_texts) < 3:
                unknown_texts.append(text)
            # What the network reads: a text that is too long loses its end, never its frame.
            framed = [*before, *text_ids[: self.room], *behind]
            start = self.length - len(framed) if self._pads_left else 0
            ids[row, start : start + len(framed)] = framed
            mask[row, start : start + len(framed)] = True
        return EncodedTexts(ids, mask, cut, empty, pieces, unknown, unknown_texts)

    def words(self, text: str) -> list[str]:
        """The words of a text, as they are split into pieces."""
        return _words(self._fast, text)

    def save(self, folder: Path) -> None:
        """Writes the files that `tokenizer_files.tokenizer_of_file` makes the same one of."""
        raise NotImplementedError

    def swap_table(self, word_pairs: Iterable[tuple[str, str]] = MIRRORED) -> Int[np.ndarray, " V"]:
        """The id that takes the place of each id when the picture is mirrored.

        Args:
            word_pairs: such as ("left", "right"); a pair counts where both are single pieces.
        """
        table = np.arange(len(self.vocab), dtype=np.int32)
        for pair in word_pairs:
            for one, other in zip(*map(self._word_ids, pair), strict=True):
                if one is not None and other is not None:
                    table[one], table[other] = other, one
        return table

    def exchanges(self, word: str, table: Int[np.ndarray, " V"]) -> bool:
        """Whether a mirrored picture exchanges a word by a `swap_table`, wherever it stands."""
        return all(
            number is not None and table[number] != number for number in self._word_ids(word)
        )

    def _word_ids(self, word: str) -> list[int | None]:
        """The id of a word at the beginning of a text, and behind another word; None for several.

        Some vocabularies have a piece for each of the two, which holds the blank.
        """
        first = self._fast.encode("a", add_special_tokens=False).ids
        alone = self._fast.encode(word, add_special_tokens=False).ids
        behind = self._fast.encode(f"a {word}", add_special_tokens=False).ids[len(first) :]
        ids = [rest[0] if len(rest) == 1 else None for rest in (alone, behind)]
        return [None if number == self.special.unknown else number for number in ids]


class WordPieces(Tokenizer):
    """WordPiece over a fixed vocabulary, with BERT's special pieces by their names.

    Args:
        vocab: the pieces; a piece's id is its place. Holds all of SPECIAL.
        length: T, the number of ids a text.
        rules: what happens to a text before it is split into pieces.
    """

    rules: Rules

    def __init__(self, vocab: Sequence[str], *, length: int, rules: Rules = UNCASED):
        self._id = {piece: number for number, piece in enumerate(vocab)}
        pad, unknown, start, end, mask = (self._id[piece] for piece in SPECIAL)
        super().__init__(
            _fast_tokenizer(self._id, rules),
            vocab,
            rules,
            length=length,
            special=SpecialIds(pad, start, end, unknown, mask),
            frame=([start], [end]),
        )

    def save(self, folder: Path) -> None:
        """Writes `vocab.txt`, one piece a line, and its rules next to it."""
        text = "".join(piece + "\n" for piece in self.vocab)
        (folder / VOCAB_FILE).write_text(text, encoding="utf-8")
        rules = json.dumps(dataclasses.asdict(self.rules), indent=2)
        (folder / RULES_FILE).write_text(rules + "\n", encoding="utf-8")

    def _word_ids(self, word: str) -> list[int | None]:
        return [self._id.get(word)]


def tokenizer_of_texts(
    texts: Iterable[str], *, size: int, length: int, alphabet: str = ""
) -> WordPieces:
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
    return WordPieces(vocab, length=length, rules=LEARNED)


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
