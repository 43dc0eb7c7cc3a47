"""Words to numbers: a WordPiece vocabulary, learned from the training texts or read from a file.

The rules are BERT's (lower case, accents stripped, Chinese characters one by one), so a published
`vocab.txt` fits, and a learned one can be read and written in the same form.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int
from tokenizers import Tokenizer as FastTokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.trainers import WordPieceTrainer

from date_jax.errors import DataError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MIRRORED = (("left", "right"), ("左", "右"))  # words that a mirrored picture exchanges
MAX_UNKNOWN = 0.2  # above this share the vocabulary is for another language than the texts


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
    """

    def __init__(self, vocab: Sequence[str], *, length: int):
        self.vocab = list(vocab)
        self.length = length
        self._id = {piece: number for number, piece in enumerate(self.vocab)}
        self._fast = _fast_tokenizer(self._id)

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

    def save_vocab(self, path: str | Path) -> None:
        """Writes `vocab.txt`, one piece a line."""
        Path(path).write_text("".join(piece + "\n" for piece in self.vocab), encoding="utf-8")

    def swap_table(self, word_pairs: Iterable[tuple[str, str]]) -> Int[np.ndarray, " V"]:
        """The id that takes the place of each id when the picture is mirrored.

        Args:
            word_pairs: such as ("left", "right"); a pair counts where both are single pieces.
        """
        table = np.arange(len(self.vocab), dtype=np.int32)
        for one, other in word_pairs:
            if one in self._id and other in self._id:
                table[self._id[one]], table[self._id[other]] = self._id[other], self._id[one]
        return table


def tokenizer_of_texts(texts: Iterable[str], *, size: int, length: int) -> Tokenizer:
    """A tokenizer whose vocabulary of at most `size` pieces is learned from `texts`.

    Equal texts give equal vocabularies, in any order and in any process.
    """
    fast = _fast_tokenizer({piece: number for number, piece in enumerate(SPECIAL)})
    words = Counter(
        word
        for text in texts
        for word, _ in fast.pre_tokenizer.pre_tokenize_str(fast.normalizer.normalize_str(text))
    )
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
    return Tokenizer(sorted(pieces, key=pieces.__getitem__), length=length)


def tokenizer_of_file(path: str | Path, *, length: int) -> Tokenizer:
    """The tokenizer whose vocabulary is a `vocab.txt`, one piece a line.

    Raises:
        DataError: the file is missing, no UTF-8, empty, or lacks or repeats pieces.
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
    return Tokenizer(vocab, length=length)


def check_vocabulary(encoded: EncodedTexts, *, name: str, vocab: str) -> None:
    """Refuses texts in a language that the vocabulary does not hold.

    Args:
        encoded: the texts of a split.
        name: of the split, for the message.
        vocab: `config.data.vocab`.

    Raises:
        DataError: more than MAX_UNKNOWN of their pieces are unknown.
    """
    share = encoded.unknown / max(encoded.pieces, 1)
    if share > MAX_UNKNOWN:
        raise DataError(
            "\n".join(
                [
                    f"{share:.0%} of the words in the texts of {name} are not in the vocabulary",
                    *(f"  such as: {text[:60]!r}" for text in encoded.unknown_texts),
                    f"  the vocabulary is {vocab or 'learned from the training texts'}",
                    "  give one of their language in config.data.vocab "
                    '("" learns it from the training texts)',
                ]
            )
        )


def _fast_tokenizer(ids: dict[str, int]) -> FastTokenizer:
    """The tokenizer of the package `tokenizers` for a vocabulary, with BERT's rules."""
    fast = FastTokenizer(WordPiece(ids, unk_token="[UNK]"))
    fast.normalizer = BertNormalizer()
    fast.pre_tokenizer = BertPreTokenizer()
    return fast
