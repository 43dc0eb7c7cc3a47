"""Tokenizers out of files: BERT's `vocab.txt`, or a `tokenizer.json` of Hugging Face.

A `vocab.txt` is read with BERT's rules (lower case, accents stripped, Chinese characters one by
one), or with those of the tokenizer_config.json or tokenizer.json next to it. A `tokenizer.json`
says itself how a text is split: by WordPiece, BPE, bytes or Unigram. What its special pieces are
for is read from it and from the files next to it, never guessed from how they are spelt, unless no
file says it.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as FastTokenizer
from tokenizers.normalizers import Lowercase
from tokenizers.normalizers import Sequence as NormalizerSequence

from date_jax.data.tokenizer import (
    MAX_WORD,
    RULES_FILE,
    SPECIAL,
    VOCAB_FILE,
    WHOLE_FILE,
    Rules,
    SpecialIds,
    Tokenizer,
    WordPieces,
)
from date_jax.errors import DataError, UsageError
from date_jax.run import git_lfs

MAX_BYTES = 2**27  # of a file; the largest published tokenizers take 35 MB
MAX_IDS = 2**22  # of a vocabulary; the largest published ones have 2**18
_MAP_FILE = "special_tokens_map.json"
_RULE_FIELDS = dataclasses.fields(Rules)
_RULES_ADVICE = "mend it, or remove it to read the vocabulary with BERT's uncased rules"
_VOCAB_ADVICE = "one piece a line, as in BERT's vocab.txt"
_NAMES_THERE = {  # of the rules, in the normalizer of a tokenizer.json
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
# What each special piece is called in a tokenizer_config.json; and how it is often spelt, for a
# tokenizer.json that comes alone and says nothing of it.
_ROLES = {
    "pad": ("pad_token",),
    "start": ("cls_token", "bos_token"),
    "end": ("sep_token", "eos_token"),
    "unknown": ("unk_token",),
    "mask": ("mask_token",),
}
_SPELLINGS = {"pad": ("[PAD]", "<pad>"), "mask": ("[MASK]", "<mask>")}


@dataclasses.dataclass(frozen=True)
class FileRules:
    """What tells two tokenizers of a tokenizer.json apart.

    Attributes:
        sha256: of that file.
        special: names of the special pieces by their part in `SpecialIds`; None for none.
        pads_left: whether a text is filled up before its beginning.
        lower_case: whether capitals become small letters before the file's own steps.
    """

    sha256: str
    special: Mapping[str, str | None]
    pads_left: bool
    lower_case: bool


class FileTokenizer(Tokenizer):
    """The tokenizer of a tokenizer.json, which is kept as it was read.

    Args:
        source: the text of the file.
        others: see `Tokenizer`.
    """

    rules: FileRules

    def __init__(self, source: str, *others: Any, **options: Any):
        self._source = source
        super().__init__(*others, **options)

    def words(self, text: str) -> list[str]:
        """The words of a text; its pieces may hold blanks and bytes in other letters."""
        return re.findall(r"\w+", text)

    def save(self, folder: Path) -> None:
        """Writes `tokenizer.json` as it was, and next to it what was read from elsewhere."""
        (folder / WHOLE_FILE).write_text(self._source, encoding="utf-8", newline="")
        fields: dict[str, Any] = {
            name: self.rules.special[role] for role, (name, *_) in _ROLES.items()
        }
        fields["padding_side"] = "left" if self.rules.pads_left else "right"
        fields["do_lower_case"] = self.rules.lower_case
        text = json.dumps(fields, indent=2)
        (folder / RULES_FILE).write_text(text + "\n", encoding="utf-8")


def vocabulary_file(folder: Path) -> Path:
    """The file in a folder that `tokenizer_of_file` reads: a tokenizer.json before a vocab.txt.

    The first says all; BERT's own gives what its vocab.txt gives.
    """
    whole = folder / WHOLE_FILE
    return whole if whole.exists() else folder / VOCAB_FILE


def tokenizer_of_file(path: str | Path, *, length: int) -> Tokenizer:
    """The tokenizer of a vocab.txt, of a tokenizer.json, or of the one of them in a folder.

    Args:
        path: of the file, which is a tokenizer.json if its name ends in `.json`; or of the folder.
        length: T, the number of ids a text.

    Raises:
        DataError: the file is missing, too large, damaged, or no vocabulary.
    """
    path = Path(path)
    if path.is_dir():
        path = vocabulary_file(path)
    if path.suffix == ".json":
        return _tokenizer_of_json(path, length)
    return WordPieces(_pieces_of_file(path), length=length, rules=rules_next_to(path))


def _file_text(path: Path, advice: str) -> str:
    """The text of a user's file of a vocabulary; faults of reading name it and a way out."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise DataError(
                f"vocabulary {path} has more than {MAX_BYTES // 2**20} MiB: expected {advice}"
            )
        if git_lfs.is_pointer(content):
            raise DataError(
                f"vocabulary {path} is a Git LFS pointer, not the file\n  {git_lfs.WAY_OUT}"
            )
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise DataError(f"vocabulary {path} is not UTF-8 text: expected {advice}") from None
    except OSError as error:
        raise DataError(
            f"cannot read the vocabulary {path}: {error.strerror} (looked from {Path.cwd()})\n"
            '  set config.data.vocab to a vocab.txt or a tokenizer.json, or to "" to learn one '
            "from the texts"
        ) from None


def _pieces_of_file(path: Path) -> list[str]:
    """The pieces of a vocab.txt; a piece's id is its line."""
    text = _file_text(path, _VOCAB_ADVICE).replace("\r\n", "\n").replace("\r", "\n")
    # An empty line counts, the newline of the last one does not.
    vocab = text.removesuffix("\n").split("\n") if text else []
    lacking = [piece for piece in SPECIAL if piece not in vocab]
    if not vocab:
        raise DataError(f"vocabulary {path} is empty: expected {_VOCAB_ADVICE}")
    if lacking:
        raise DataError(
            f"vocabulary {path} lacks {' '.join(lacking)} among its {len(vocab)} lines: "
            f"expected {_VOCAB_ADVICE}"
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
    return vocab


def _tokenizer_of_json(path: Path, length: int) -> Tokenizer:
    """The tokenizer of a tokenizer.json and of the files next to it."""
    source = _file_text(path, "a tokenizer.json of Hugging Face")
    try:
        whole = _object(source)
        problem = _fault(whole)
    except (ValueError, RecursionError) as error:
        problem = str(error)
    if problem:
        raise DataError(f"vocabulary {path} is no tokenizer.json of Hugging Face: {problem[:200]}")
    fast = _fast_of_json(path, source)
    fields = _json_object(path.with_name(_MAP_FILE)) | _json_object(path.with_name(RULES_FILE))
    ids = fast.get_vocab(with_added_tokens=True)
    if not ids:
        raise DataError(f"vocabulary {path} has no pieces")
    # An id that no piece has keeps its place.
    vocab = [f"<{number}>" for number in range(max(ids.values()) + 1)]
    for piece, number in ids.items():
        vocab[number] = piece
    frame = _frame(path, fast, ids, fields)
    # BERT's own is read as its vocab.txt is: its special pieces come by name, in a fixed frame.
    if _is_bert(whole, vocab, frame):
        return WordPieces(vocab, length=length, rules=rules_next_to(path))
    special = _special_ids(path, whole, fast, ids, fields, frame)
    padding = whole.get("padding")
    direction = padding.get("direction", "") if isinstance(padding, dict) else ""
    rules = FileRules(
        sha256=hashlib.sha256(source.encode()).hexdigest(),
        special={
            role: None if number is None else vocab[number]
            for role, number in special._asdict().items()
        },
        pads_left=str(fields.get("padding_side", direction)).lower() == "left",
        # SigLIP 2 was trained on small letters, which its file does not say.
        lower_case=fields.get("do_lower_case") is True
        or str(fields.get("tokenizer_class", "")).startswith("Siglip2"),
    )
    if rules.lower_case:
        steps = [Lowercase(), *([fast.normalizer] if fast.normalizer else [])]
        fast.normalizer = NormalizerSequence(steps)
    tokenizer = FileTokenizer(
        source,
        fast,
        vocab,
        rules,
        length=length,
        special=special,
        frame=frame,
        pads_left=rules.pads_left,
    )
    # A file may promise a piece for what it lacks, and not have it.
    _outcome(path, lambda: tokenizer.encode(["a mug, \U0001f525 杯\x00"]))
    return tokenizer


def _fault(whole: Mapping[str, Any]) -> str:
    """What the package `tokenizers` would not survive in a tokenizer.json; "" for nothing.

    Of its other faults it tells itself.
    """
    model = whole["model"] if isinstance(whole.get("model"), dict) else {}
    vocab, merges = model.get("vocab"), model.get("merges")
    # An id is a row of a table.
    ids = vocab.values() if isinstance(vocab, dict) else ()
    if any(isinstance(number, int) and number >= MAX_IDS for number in ids):
        return f"it has ids above {MAX_IDS:,}"
    # What stands around a text must be named below it.
    for step in _steps(whole.get("post_processor")):
        pieces = [
            part["SpecialToken"]
            for part in _objects(step.get("single"))
            if isinstance(part.get("SpecialToken"), dict)
        ]
        stated = step.get("special_tokens")
        stated = stated if isinstance(stated, dict) else {}
        if any(str(piece.get("id")) not in stated for piece in pieces):
            return "its post_processor puts pieces around a text that it does not have"
    # Of a piece within a word the prefix is cut off.
    prefix = model.get("continuing_subword_prefix")
    if model.get("type") == "BPE" and isinstance(prefix, str) and isinstance(merges, list):
        pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in merges)
        if not all(str(pair[-1]).startswith(prefix) for pair in pairs if pair):
            return f"its merges join pieces without {prefix!r}"
    return ""


def _steps(part: Any) -> list[dict[str, Any]]:
    """The steps of a part of a tokenizer.json: itself, or those in it."""
    steps = [part] if isinstance(part, dict) else []
    for step in steps:  # grows as it goes
        steps += _objects(step.get("processors"))
    return steps


def _objects(values: Any) -> list[dict[str, Any]]:
    """The objects in a list of a file; none where it is no list."""
    return [
        value for value in (values if isinstance(values, list) else []) if isinstance(value, dict)
    ]


def _fast_of_json(path: Path, source: str) -> FastTokenizer:
    """The tokenizer of the package `tokenizers` for the text of a file."""
    fast = _outcome(path, lambda: FastTokenizer.from_str(source))
    # Length and padding are ours; and `</s>` in the title of a product is no end of it.
    fast.no_truncation()
    fast.no_padding()
    fast.encode_special_tokens = True
    return fast


def _outcome(path: Path, action: Callable[[], Any]) -> Any:
    """The value of an action of the package `tokenizers`, whose faults are the file's."""
    try:
        return action()
    except BaseException as error:
        # It raises nothing more special than these two, of which a panic is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise DataError(
            f"vocabulary {path} is no tokenizer.json of Hugging Face: {str(error)[:200]}"
        ) from None


def _frame(
    path: Path, fast: FastTokenizer, ids: Mapping[str, int], fields: Mapping[str, Any]
) -> tuple[list[int], list[int]]:
    """The ids that stand before and behind each text, as the tokenizer itself puts them."""
    if fast.post_processor is None:
        names = [
            _named_piece(fields, (f"{side}_token",)) if fields.get(f"add_{side}_token") else None
            for side in ("bos", "eos")
        ]
        before, behind = ([ids[name]] if name is not None and name in ids else [] for name in names)
        return before, behind
    plain = _outcome(path, lambda: fast.encode("a", add_special_tokens=False).ids)
    framed = _outcome(path, lambda: fast.encode("a", add_special_tokens=True).ids)
    extra = len(framed) - len(plain)
    for count in range(extra + 1):
        if framed[count : count + len(plain)] == plain:
            return framed[:count], framed[count + len(plain) :]
    raise DataError(f"vocabulary {path}: its post_processor changes the pieces of a text")


def _is_bert(
    whole: Mapping[str, Any], vocab: Sequence[str], frame: tuple[list[int], list[int]]
) -> bool:
    """Whether a tokenizer.json is what BERT's vocab.txt and the rules next to it say."""
    model, places = whole["model"], {piece: number for number, piece in enumerate(vocab)}
    if not all(piece in places for piece in SPECIAL) or "".join(vocab).count("\n"):
        return False
    added = [token["content"] for token in whole.get("added_tokens") or []]
    steps = [_type(whole.get(part)) for part in ("normalizer", "pre_tokenizer")]
    return (
        (_type(model), model.get("unk_token")) == ("WordPiece", "[UNK]")
        and model.get("continuing_subword_prefix") == "##"
        and model.get("max_input_chars_per_word") == MAX_WORD
        and steps == ["BertNormalizer", "BertPreTokenizer"]
        and set(added) <= set(SPECIAL)
        and frame == ([places["[CLS]"]], [places["[SEP]"]])
    )


def _special_ids(
    path: Path,
    whole: Mapping[str, Any],
    fast: FastTokenizer,
    ids: Mapping[str, int],
    fields: Mapping[str, Any],
    frame: tuple[list[int], list[int]],
) -> SpecialIds:
    """The ids of special pieces, by role: as files next to it say, then as it says itself."""
    numbers: dict[str, int | None] = {}
    for role, names in _ROLES.items():
        piece = _named_piece(fields, names)
        if piece is not None and piece not in ids:
            raise DataError(
                f"{path.with_name(RULES_FILE)}: {names[0]} is {piece!r:.60}, which "
                f"{path.name} does not have"
            )
        numbers[role] = None if piece is None else ids[piece]

    # What stands around each text, and what the parts of the file name.
    model = whole["model"]
    padding = whole["padding"] if isinstance(whole.get("padding"), dict) else {}
    is_unigram = _type(model) == "Unigram"
    unknown = model.get("unk_id") if is_unigram else ids.get(model.get("unk_token") or "")
    stated = {
        "pad": ids.get(padding.get("pad_token") or ""),
        "start": frame[0][0] if frame[0] else None,
        "end": frame[1][-1] if frame[1] else None,
        "unknown": unknown,
    }
    for role, number in stated.items():
        numbers[role] = number if numbers[role] is None else numbers[role]
    # A file that comes alone names neither of these two.
    for role, spellings in _SPELLINGS.items():
        if numbers[role] is None:
            numbers[role] = next((ids[piece] for piece in spellings if piece in ids), None)
    pad = next((numbers[role] for role in ("pad", "end") if numbers[role] is not None), 0)
    return SpecialIds(**{**numbers, "pad": pad})  # type: ignore[arg-type]


def _named_piece(fields: Mapping[str, Any], names: Sequence[str]) -> str | None:
    """The first piece that a tokenizer_config.json names; it is a text, or an object with one."""
    for name in names:
        value = fields.get(name)
        value = value.get("content") if isinstance(value, dict) else value
        if isinstance(value, str):
            return value
    return None


def _type(part: Any) -> str:
    """The kind of a part of a tokenizer.json; "" where it has none."""
    return str(part.get("type", "")) if isinstance(part, dict) else ""


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
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES // 2**20} MiB")
        return _object(content)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {error}\n  {_RULES_ADVICE}") from None


def _object(content: str | bytes) -> dict[str, Any]:
    """The object that a JSON text is; raises ValueError where it is another thing."""
    value = json.loads(content)
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    return value


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
    folder = weights if weights.is_dir() else weights.parent
    path, whole = folder / RULES_FILE, folder / WHOLE_FILE
    if not vocab:
        return
    # A tokenizer.json that is not BERT's is compared as a whole.
    theirs = tokenizer_of_file(whole, length=tokenizer.length) if whole.exists() else None
    if isinstance(theirs, FileTokenizer) or isinstance(tokenizer, FileTokenizer):
        if theirs and (theirs.vocab, theirs.rules) != (tokenizer.vocab, tokenizer.rules):
            raise UsageError(
                f"{folder}: its {WHOLE_FILE} is not what config.data.vocab={vocab} reads words "
                f"with\n  set --config.data.vocab={whole}"
            )
        return
    # A file that states none, as of another kind of tokenizer, says nothing about the words.
    if not (_rules_of_config(path) or _rules_of_normalizer(whole)):
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
