"""The outputs of frozen extractors, computed once and kept on disk.

An extractor that no step changes says the same of the same picture again and again. So its outputs
for every fixed view of every picture, and for every text, are computed before the first step and
read from then on: a step is then as long as that of the network's other parts.

They lie in the cache of prepared data, in a folder named by a fingerprint of all that they depend
on. They are written in blocks, each whole or not at all, so whoever comes later, or again after a
kill, computes only the blocks that are not there.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from ml_collections import ConfigDict

from date_jax import augment, sharding
from date_jax.data import pipeline
from date_jax.data.cache import cache_folder, folder_lock
from date_jax.data.features import Blocks, FeatureFiles, SplitFeatures
from date_jax.errors import Preempted, SetupError
from date_jax.networks import extractors, freezing
from date_jax.run.countdown import Countdown
from date_jax.run.workdir import sees_host_0
from date_jax.task import KeptSplit, Params, ShouldStop

VERSION = 2  # raise it when the same config gives other views or another layout of the files
STORED = ("float16", "float32")  # by config.init.kept_dtype
_BLOCK = 256  # entries of a file, at least
_FILES = 256  # of a kind of entries, at most or a little more
_ROWS = 32  # of a device at a time, where config.model.rows_at_once does not say it
_PLAIN, _OTHER = -1, -2  # in place of a view's number
_WHOLE_WINDOW = (0.0, 0.0, 1.0, 1.0)


class Entries(NamedTuple):
    """The pictures' entries, in the order in which they are kept.

    Attributes:
        names: of the splits.
        split: index of the split that its picture is read from, `[E]`.
        row: of that split, `[E]`.
        view: number of the training view, `_PLAIN` or `_OTHER`, `[E]`.
        place: of training views, see `pipeline.view_places`, `[E 2]`.
        window_xyxy, flip: of the other entries, `[E 4]` and `[E]`.
        columns: by split and by `plain`, `other`, `views` and `picture`, see `SplitFeatures`.
    """

    names: list[str]
    split: np.ndarray
    row: np.ndarray
    view: np.ndarray
    place: np.ndarray
    window_xyxy: np.ndarray
    flip: np.ndarray
    columns: dict[str, dict[str, np.ndarray]]


class Texts(NamedTuple):
    """The different texts of some splits, and those that they become in mirrored pictures.

    Attributes:
        text, mask: token ids and which of them are no padding, `[U T]`.
        columns: by split and by `text` and `mirrored_text`, see `SplitFeatures`.
    """

    text: np.ndarray
    mask: np.ndarray
    columns: dict[str, dict[str, np.ndarray]]


class Store(NamedTuple):
    """The files of one kind of entries.

    Attributes:
        folder: they lie in.
        name: of the kind.
        size: entries, all together.
        shape: of an entry.
        dtype: of its numbers.
    """

    folder: Path
    name: str
    size: int
    shape: tuple[int, int]
    dtype: np.dtype

    @property
    def rows(self) -> int:
        """Entries of a file."""
        return max(_BLOCK, -(-self.size // _FILES))

    @property
    def paths(self) -> list[Path]:
        """The files in order."""
        blocks = range(-(-self.size // self.rows))
        return [self.folder / f"{self.name}_{block:05}.npy" for block in blocks]

    def slice_of(self, block: int) -> slice:
        """The entries of a file."""
        return slice(block * self.rows, min((block + 1) * self.rows, self.size))

    def missing(self) -> list[int]:
        """The blocks that are not there yet."""
        return [block for block, path in enumerate(self.paths) if not path.exists()]

    def bytes_of(self, blocks: Sequence[int]) -> int:
        """The size of some blocks."""
        rows = sum(self.slice_of(block).stop - self.slice_of(block).start for block in blocks)
        return rows * math.prod(self.shape) * self.dtype.itemsize


def with_features(
    config: ConfigDict,
    corpus: pipeline.Corpus,
    frozen: Params,
    splits: Sequence[KeptSplit],
    *,
    say: Callable[[str], None],
    should_stop: ShouldStop,
) -> pipeline.Corpus:
    """The corpus with the kept features of `splits`; those that are not there yet are computed.

    Every process calls it.

    Args:
        config: the run's.
        corpus: of `pipeline.load`.
        frozen: the parameters of the network that no step changes.
        splits: what the task reads of which split.
        say: takes a line about the progress.
        should_stop: asked between blocks, equally often on all processes.

    Raises:
        Preempted: `should_stop` said so; what is computed so far stays.
        SetupError: the disk has no room.
    """
    kinds = [kind for kind in ("image", "text") if freezing.choice(config.model, kind) == "none"]
    params = {f"{kind}_extractor": _host_arrays(frozen[f"{kind}_extractor"]) for kind in kinds}
    entries = image_entries(config, corpus, splits)
    texts = None
    # A folder for exactly these numbers.
    key = fingerprint(config, corpus, params, splits)
    folder = cache_folder(config.data) / "features" / key
    folder.mkdir(parents=True, exist_ok=True)
    dtype = np.dtype(config.init.get("kept_dtype", "float16"))
    image_shape = _entry_shape(config, params, "image")
    stores = {"image": Store(folder, "image", len(entries.row), image_shape, dtype)}
    work = {"image": _image_outputs(config, corpus, entries, params)}
    if "text" in kinds:
        texts = text_entries(corpus, splits)
        shape = _entry_shape(config, params, "text")
        stores["text"] = Store(folder, "text", len(texts.text), shape, dtype)
        work["text"] = _text_outputs(config, texts, params)

    # What is not there yet: hosts that share the folder share the work, else each does all of it.
    is_shared = bool(sharding.values_of_hosts(np.array(sees_host_0(folder))).all())
    index, count = (jax.process_index(), jax.process_count()) if is_shared else (0, 1)
    say(_summary(stores, folder, config.data.views))
    _require_space(stores, folder)
    with folder_lock(folder) if index == 0 else contextlib.nullcontext():
        sharding.wait_for_hosts("features begin")
        for name, store in stores.items():
            _fill(store, work[name], index, count, say=say, should_stop=should_stop)
        sharding.wait_for_hosts("features end")
    return dataclasses.replace(corpus, features=_opened(stores, entries, texts))


def fingerprint(
    config: ConfigDict, corpus: pipeline.Corpus, params: Params, splits: Sequence[KeptSplit]
) -> str:
    """The name of the folder of features: another one for whatever else they depend on."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    network = {
        kind: {key: value for key, value in config.model[kind].to_dict().items() if key != "train"}
        for kind in ("image", "text")
    }
    strengths = {key: value for key, value in config.augment.to_dict().items() if key != "ramp"}
    content = {
        "version": VERSION,
        "weights": digest.hexdigest(),
        "network": network,
        "model_dtype": config.model.dtype,
        "stored": config.init.get("kept_dtype", "float16"),
        "image_size": config.data.image_size,
        "views": config.data.views,
        "augment": strengths,
        "data": corpus.fingerprint,
        "splits": [list(map(str, split)) for split in splits],
    }
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def image_entries(
    config: ConfigDict, corpus: pipeline.Corpus, splits: Sequence[KeptSplit]
) -> Entries:
    """All entries of pictures, each view of a picture once."""
    columns: dict[str, dict[str, np.ndarray]] = {split.name: {} for split in splits}
    parts: list[dict[str, np.ndarray]] = []
    picture_of: dict[str, int] = {}
    entry_of: dict[tuple[str, int], int] = {}
    total = 0

    def add(number: int, row: np.ndarray, view: np.ndarray | int, **values: Any) -> None:
        """Adds entries of a split's rows; `values` are those that differ from nothing."""
        nonlocal total
        count = len(row)
        default: dict[str, Any] = {
            "split": number,
            "row": row,
            "view": view,
            "place": np.zeros(2, np.uint32),
            "window_xyxy": np.array(_WHOLE_WINDOW, np.float32),
            "flip": False,
        }
        shapes = {"place": (count, 2), "window_xyxy": (count, 4)}
        parts.append(
            {
                name: np.broadcast_to(value, shapes.get(name, (count,)))
                for name, value in (default | values).items()
            }
        )
        total += count

    for number, split in enumerate(splits):
        rows = corpus.splits[split.name]
        hashes = rows.records.texts("image_hash")
        here = columns[split.name]
        here["picture"] = np.array([picture_of.setdefault(h, len(picture_of)) for h in hashes])
        # Pictures as they are, and their other view, once for all rows of all splits.
        looks: dict[str, tuple[int, tuple[float, ...], bool]] = {}
        looks |= {"plain": (_PLAIN, _WHOLE_WINDOW, False)} if split.plain else {}
        if split.other is not None:
            looks["other"] = (_OTHER, *split.other)
        first = {h: row for row, h in reversed([*enumerate(hashes)])}
        for part, (view, window, flip) in looks.items():
            new = [h for h in first if (h, view) not in entry_of]
            entry_of |= {(h, view): total + place for place, h in enumerate(new)}
            here[part] = np.array([entry_of[h, view] for h in hashes])
            new_rows = np.array([first[h] for h in new], np.int64)
            add(number, new_rows, view, window_xyxy=np.array(window, np.float32), flip=flip)
        # Training views, which lie one after the other.
        if split.views:
            new = [h for h in first if (h, 0) not in entry_of]
            for place, h in enumerate(new):
                entry_of[h, 0] = total + place * config.data.views
            here["views"] = np.array([entry_of[h, 0] for h in hashes])
            new_rows = np.repeat(np.array([first[h] for h in new], np.int64), config.data.views)
            numbers = np.tile(np.arange(config.data.views), len(new))
            places = pipeline.view_places(corpus, [split.name])
            add(number, new_rows, numbers, place=places[new_rows])
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Entries([split.name for split in splits], **arrays, columns=columns)


def text_entries(corpus: pipeline.Corpus, splits: Sequence[KeptSplit]) -> Texts:
    """The different texts of some splits, as they are and as they are in mirrored pictures."""
    swap = np.asarray(corpus.tokenizer.swap_table())
    of_splits = [corpus.splits[split.name] for split in splits]
    text = np.concatenate([split.text for split in of_splits])
    mask = np.concatenate([split.text_mask for split in of_splits])
    both = [np.concatenate([ids, mask], axis=1) for ids in (text, swap[text])]
    different, entry = np.unique(np.concatenate(both), axis=0, return_inverse=True)
    plain, mirrored = np.split(entry.ravel(), 2)
    # Back to the splits, one after the other.
    columns: dict[str, dict[str, np.ndarray]] = {}
    start = 0
    for split in of_splits:
        rows = slice(start, start + split.size)
        columns[split.name] = {"text": plain[rows], "mirrored_text": mirrored[rows]}
        start += split.size
    ids, is_token = np.split(different, 2, axis=1)
    return Texts(ids.astype(np.int32), is_token.astype(bool), columns)


def _host_arrays(params: Params) -> Params:
    """Parameters as host arrays, wherever on the mesh they lie."""
    mesh = jax.tree.leaves(params)[0].sharding.mesh
    whole = jax.jit(lambda tree: tree, out_shardings=sharding.replicated_sharding(mesh))(params)
    return jax.tree.map(lambda leaf: np.asarray(leaf.addressable_data(0)), whole)


def _extractor(config: ConfigDict, params: Params, kind: str) -> Any:
    """The extractor of a kind that `config.model` describes."""
    if kind == "image":
        return extractors.image_extractor(config.model, config.model.image.pooling)
    words = params["text_extractor"]["word_embedding"]["embedding"]
    return extractors.text_extractor(config.model, len(words), config.data.text_length)


def _entry_shape(config: ConfigDict, params: Params, kind: str) -> tuple[int, int]:
    """`(1 + P, C)` of an extractor's outputs."""
    side, length = config.data.image_size, config.data.text_length
    inputs = {
        "image": (jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32),),
        "text": (
            jax.ShapeDtypeStruct((1, length), jnp.int32),
            jax.ShapeDtypeStruct((1, length), jnp.bool_),
        ),
    }[kind]
    variables = {"params": params[f"{kind}_extractor"]}
    _, tokens = jax.eval_shape(_extractor(config, params, kind).apply, variables, *inputs)
    return 1 + tokens.shape[1], tokens.shape[2]


# Entries, and what takes note of how many are done -> what is kept of them: `values [B 1 + P C]`
# and, of pictures, `view [B 5]`.
Outputs = Callable[[slice, Callable[[int], None]], dict[str, np.ndarray]]


def _image_outputs(
    config: ConfigDict, corpus: pipeline.Corpus, entries: Entries, params: Params
) -> Outputs:
    """The function from entries to the image extractor's outputs, windows and flips."""
    extractor = _extractor(config, params, "image")

    def outputs(variables: Any, batch: dict[str, Array]) -> dict[str, Array]:
        # A training view, or one that only a window and a flip make.
        number = jnp.maximum(batch["view"], 0)
        arguments = batch["image"], batch["place"], number
        fixed = augment.fixed_view(*arguments, config=config)
        place = batch["window_xyxy"], batch["flip"]
        plain = augment.FixedView(augment.window_view(batch["image"], *place), *place)
        is_fixed = batch["view"] >= 0
        view = augment.FixedView(
            *(
                jnp.where(is_fixed.reshape(-1, *[1] * (ours.ndim - 1)), ours, other)
                for ours, other in zip(fixed, plain, strict=True)
            )
        )
        window = jnp.concatenate([view.window_xyxy, view.flip[:, None]], axis=1)
        return {"values": _joined(extractor.apply(variables, view.image)), "view": window}

    run = _on_local_devices(config, outputs, {"params": params["image_extractor"]})

    def outputs_of(part: slice, after: Callable[[int], None]) -> dict[str, np.ndarray]:
        names = ("view", "place", "window_xyxy", "flip")
        batch = {name: getattr(entries, name)[part] for name in names}
        batch["view"] = batch["view"].astype(np.int32)
        return run({"image": _pictures(corpus, entries, part), **batch}, after)

    return outputs_of


def _text_outputs(config: ConfigDict, texts: Texts, params: Params) -> Outputs:
    """The function from entries to the text extractor's outputs."""
    extractor = _extractor(config, params, "text")

    def outputs(variables: Any, batch: dict[str, Array]) -> dict[str, Array]:
        return {"values": _joined(extractor.apply(variables, batch["text"], batch["mask"]))}

    run = _on_local_devices(config, outputs, {"params": params["text_extractor"]})
    return lambda part, after: run({"text": texts.text[part], "mask": texts.mask[part]}, after)


def _joined(outputs: tuple[Array, Array]) -> Array:
    """The two outputs of an extractor as one array `[B 1 + P C]`."""
    rep, tokens = outputs
    return jnp.concatenate([rep[:, None], tokens], axis=1).astype(jnp.float32)


def _on_local_devices(
    config: ConfigDict, function: Callable[..., Any], variables: Any
) -> Callable[..., dict[str, np.ndarray]]:
    """The function `(batch, after) -> arrays` on this host's devices, some rows at a time.

    The batch is of host arrays `[N ...]`; `after` is called with the number of rows done.

    Args:
        config: the run's.
        function: of variables and a batch, to arrays of as many rows.
        variables: placed on the devices once.
    """
    mesh = sharding.device_mesh(devices=jax.local_devices())
    rows = mesh.size * (config.model.rows_at_once or _ROWS)
    compiled = jax.jit(function)
    placed = jax.device_put(variables, sharding.replicated_sharding(mesh))

    def run(batch: dict[str, np.ndarray], after: Callable[[int], None]) -> dict[str, np.ndarray]:
        count = len(next(iter(batch.values())))
        parts: list[Any] = []
        for start in range(0, count, rows):
            # The last rows are filled up, for there to be one program.
            chunk = np.minimum(np.arange(start, start + rows), count - 1)
            chunk_batch = {name: values[chunk] for name, values in batch.items()}
            local = jax.device_put(chunk_batch, sharding.row_sharding(mesh))
            running = compiled(placed, local)
            # The devices compute these rows while the host waits for those before them.
            if parts:
                parts[-1] = jax.device_get(parts[-1])
                after(start)
            parts.append(running)
        host = jax.device_get(parts)
        after(count)
        return {name: np.concatenate([part[name] for part in host])[:count] for name in host[0]}

    return run


def _pictures(corpus: pipeline.Corpus, entries: Entries, part: slice) -> np.ndarray:
    """The pictures of some entries `[B S S 3]`; each is decoded once."""
    keys = np.stack([entries.split[part], entries.row[part]], axis=1)
    different, place = np.unique(keys, axis=0, return_inverse=True)
    pictures = [
        pipeline.pictures(corpus, entries.names[split], different[different[:, 0] == split, 1])
        for split in np.unique(different[:, 0])
    ]
    return np.concatenate(pictures)[place.ravel()]


def _summary(stores: dict[str, Store], folder: Path, views: int) -> str:
    """The line that says how much is kept, and where."""
    size = sum(store.bytes_of(range(len(store.paths))) for store in stores.values())
    missing = sum(store.bytes_of(store.missing()) for store in stores.values())
    counts = [f"{stores['image'].size:,} views of pictures ({views} of each training picture)"]
    if "text" in stores:
        counts.append(f"{stores['text'].size:,} texts")
    state = "all there" if not missing else f"{missing / 1e9:.2f} GB of it to be computed"
    return f"features of {' and '.join(counts)}: {size / 1e9:.2f} GB in {folder}, {state}"


def _require_space(stores: dict[str, Store], folder: Path) -> None:
    """Raises SetupError where the disk has no room for what is not there yet."""
    needed = sum(store.bytes_of(store.missing()) for store in stores.values())
    free = shutil.disk_usage(folder).free
    if free < needed + 2**26:
        raise SetupError(
            f"{folder}: {free / 1e9:.1f} GB free, {needed / 1e9:.1f} needed for the features that "
            "config.init.keep asks for\n"
            "  free some space, choose another --config.data.cache_dir, or lower "
            "--config.data.views"
        )


def _fill(
    store: Store,
    outputs: Outputs,
    index: int,
    count: int,
    *,
    say: Callable[[str], None],
    should_stop: ShouldStop,
) -> None:
    """Computes the blocks of a store that are not there yet, this host's share of them.

    Args:
        index, count: this host's number among those that share the work.

    Raises:
        Preempted: `should_stop` said so; the finished blocks stay.
    """
    # All hosts share what host 0 misses, in equally many rounds, also where a last one is empty.
    is_missing = np.array([not path.exists() for path in store.paths])
    if count > 1:
        is_missing = sharding.value_of_first_host(is_missing)
    missing = np.flatnonzero(is_missing)
    rounds = int(sharding.values_of_hosts(np.array(-(-len(missing) // count))).max())
    here = [int(block) for block in missing[index::count]]
    total = sum(store.slice_of(block).stop - store.slice_of(block).start for block in here)
    countdown = Countdown(f"features of {store.name}s", total, say)
    done = 0
    countdown.at(done)
    for number in range(rounds):
        if number < len(here):
            block = here[number]
            part = store.slice_of(block)
            arrays = outputs(part, functools.partial(_note, countdown, done))
            # The windows first: a block is there when its values are.
            if "view" in arrays:
                _save(_view_path(store.paths[block]), arrays["view"])
            _save(store.paths[block], arrays["values"].astype(store.dtype))
            done += part.stop - part.start
        if should_stop():
            raise Preempted("stopped while features were computed")


def _note(countdown: Countdown, before: int, rows: int) -> None:
    """Takes note of `rows` entries of a block that are done, behind those `before` it."""
    countdown.at(before + rows)


def _view_path(path: Path) -> Path:
    """The file of windows and flips next to that of a block's values."""
    return path.with_name(path.name.replace("image_", "view_"))


def _save(path: Path, values: np.ndarray) -> None:
    """Writes an array whole or not at all."""
    part = path.with_name(f"{path.stem}.{uuid.uuid4().hex}.part")
    try:
        with part.open("wb") as file:
            np.save(file, values, allow_pickle=False)
        os.replace(part, path)
    except OSError as error:
        raise SetupError(
            f"{path.parent}: cannot write the features ({error.strerror})\n"
            "  free some space, or choose another --config.data.cache_dir"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _opened(stores: dict[str, Store], entries: Entries, texts: Texts | None) -> FeatureFiles:
    """The files, all of which are there, with the entries of each split."""
    view = np.concatenate([np.load(_view_path(path)) for path in stores["image"].paths])
    splits = {}
    for name in entries.names:
        columns = entries.columns[name] | (texts.columns[name] if texts is not None else {})
        splits[name] = SplitFeatures(**columns)
    blocks = {name: Blocks(store.paths, store.rows) for name, store in stores.items()}
    return FeatureFiles(
        splits=splits,
        image=blocks["image"],
        text=blocks.get("text"),
        window_xyxy=view[:, :4],
        flip=view[:, 4] > 0.5,
    )
