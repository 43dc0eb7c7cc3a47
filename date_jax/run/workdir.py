"""A run's directory: one job at a time, writable, with room; the config that made it."""

import contextlib
import hashlib
import json
import math
import secrets
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import numpy as np

from date_jax import sharding
from date_jax.errors import SetupError, UsageError
from date_jax.run import locks

_PATIENCE = 2.0  # seconds until a network file system shows what another host has written
# What runs of one table may differ in: nothing that weights or measures depend on, except the
# choice of the units that dropout drops. A vocabulary is compared by content, with the data.
FREE_IN_A_TABLE = (
    "log.",
    "eval.",
    "checkpoint.",
    "mesh.",
    "data.cache_dir",
    "data.vocab",
    "model.remat",
    "model.scan",
    "model.rows_at_once",
    "data.shop.workers",
    "data.suites.workers",
    "data.suppliers.workers",
)
# What another start of the same run may change besides: its data are compared by content, published
# weights were read by the first start, and all is measured anew.
_FREE = (*FREE_IN_A_TABLE, "data.path", "data.images", "data.regions", "init.", "retrieval.")
# Options that earlier versions did not have, with the values that do what these versions did; and
# sections whose values mean nothing where such an option has that value.
_SINCE_ADDED: dict[str, Any] = {
    "data.paste.pictures": 0,
    "data.views": 0,
    "data.words": 0.0,
    "image_seeker.places_weight": 0.0,
    "model.fusion.head": "loc",
    "model.fusion.heat": False,
    "model.image.kind": "swin",
    "model.image.pool": 1,
    "model.image.pooling": "mean",
    "model.image.train": "all",
    "model.text.kind": "bert",
    "model.text.train": "all",
    "object_seeker.place_weight": 1.0,
    "object_seeker.score_weight": 1.0,
    "pseudo_boxes.mask": 0.0,
    "pseudo_boxes.once": False,
    "pseudo_boxes.self_check": 0.0,
    "pseudo_boxes.soft": False,
    "pseudo_boxes.verify": False,
}
_SECTIONS_SINCE_ADDED = ("data.paste.", "model.image.vit.")


class Workdir:
    """A context in which a directory belongs to this job.

    Args:
        path: made if absent.

    Raises:
        SetupError: it cannot be written, lies inside another run, or a job is running in it.
        UsageError: another host does not see it.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lock: Any = None
        self._is_new = not path.exists()
        problem = ""
        if jax.process_index() == 0:
            problem = self._problem()
        if sharding.values_of_hosts(np.array(bool(problem))).any():
            raise SetupError(problem or f"{path}: host 0 cannot use it")
        require_equal_hosts({"what it sees of --workdir": sees_host_0(path)})

    def _problem(self) -> str:
        """Takes the directory's lock; why it cannot be used, or ""."""
        # A run inside another's checkpoints would be taken for one of its steps.
        for folder in (self.path.absolute(), *self.path.absolute().parents):
            if folder.name == "checkpoints" and (folder.parent / "config.json").is_file():
                return (
                    f"{self.path}: these are checkpoints of the run {folder.parent}; "
                    f"go on with --workdir={folder.parent} or choose another"
                )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / ".lock").open("a")
        except OSError as error:
            return f"{self.path}: cannot write there ({error.strerror}); choose another --workdir"
        # False, not None: a file system without locks is used, with a warning.
        if locks.take(lock, self.path, "see that no other job runs in it") is False:
            lock.close()
            return (
                f"{self.path}: another job is running in it; wait or choose another --workdir\n"
                f"  if its machine is gone for good, delete {self.path / '.lock'}"
            )
        self._lock = lock
        return ""

    def __enter__(self) -> "Workdir":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._lock is None:
            return
        # A start that failed before it wrote anything leaves no folder behind.
        if kind is not None and self._is_new:
            is_empty = all(file.name == ".lock" for file in self.path.iterdir())
            if is_empty:
                shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def sees_host_0(folder: Path) -> bool:
    """Whether `folder` is that of host 0: whether this host finds there what that one puts there.

    All hosts call it together. Nothing else tells a shared disk from one of the same name.
    """
    if jax.process_count() == 1:
        return True
    # Host 0 puts down a file whose name nobody can know, and removes it when all have looked.
    number = sharding.values_of_hosts(np.array(secrets.randbits(31), np.int32))[0]
    mark = folder / f".seen_{number:08x}"
    if jax.process_index() == 0:
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            mark.touch()
    sharding.wait_for_hosts("put there")
    give_up = time.monotonic() + _PATIENCE
    while not (is_seen := mark.exists()) and time.monotonic() < give_up:
        time.sleep(0.1)
    sharding.wait_for_hosts("looked for")
    if jax.process_index() == 0:
        mark.unlink(missing_ok=True)
    return is_seen


def require_space(path: Path, state: Any, *, keep: int) -> None:
    """Raises SetupError if the checkpoints of `state` cannot fit: all kept and one being written.

    Args:
        path: a directory on the disk in question.
        state: tree of arrays or of their shapes.
        keep: checkpoints that stay.
    """
    sizes = [math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)]
    needed = (keep + 1) * sum(sizes) + 2**26  # logs and pictures
    free = shutil.disk_usage(path).free
    if free < needed:
        raise SetupError(
            f"{path}: {free / 2**20:.0f} MiB free, {needed / 2**20:.0f} needed for {keep + 1} "
            "checkpoints; free some space, choose another --workdir or lower checkpoint.keep"
        )


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values of a nested dict by dotted key: `{"optim": {"clip": 1}}` as `{"optim.clip": 1}`."""
    values: dict[str, Any] = {}
    for key, value in config.items():
        is_section = isinstance(value, dict)
        values |= flat(value, f"{prefix}{key}.") if is_section else {prefix + key: value}
    return values


def config_changes(saved: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Keys whose values differ, as `{key: (saved, now)}`; None where a config lacks the key.

    An empty text is the same as no key: an option that is not used. A key that an earlier version
    did not have is the same as what that version did.
    """
    # Through JSON, as the saved one went: it knows no tuples.
    old, new = flat(saved), flat(json.loads(json.dumps(now)))
    for values, others in ((old, new), (new, old)):
        for key in others.keys() - values.keys():
            if key in _SINCE_ADDED:
                values[key] = _SINCE_ADDED[key]
            elif key.startswith(_SECTIONS_SINCE_ADDED):
                values[key] = others[key]
    return {
        key: (old.get(key), new.get(key))
        for key in sorted(old.keys() | new.keys())
        if old.get(key, "") != new.get(key, "")
    }


def require_same_run(
    where: Path, changes: dict[str, tuple[Any, Any]], *, in_table: bool = False
) -> None:
    """Raises UsageError if `changes` would make it another run than the one saved in `where`.

    Args:
        changes: from `config_changes`; or "data", which no flag changes back.
        in_table: whether the run belongs to a table, in which less may change, and which no run of
            other values can join.
    """
    free = FREE_IN_A_TABLE if in_table else _FREE
    fatal = {key: change for key, change in changes.items() if not key.startswith(free)}
    if not fatal:
        return
    lines = [f"{where}: holds a run with another config"]
    lines += [f"  {key}: {old} there, {new} now" for key, (old, new) in fatal.items()][:3]
    if len(fatal) > 3:
        lines.append(f"  and {len(fatal) - 3} more")
    if in_table:
        lines.append("take back the change or choose another --workdir")
    else:
        lines.append("to go on with that run, type its values; may change: " + ", ".join(free))
        lines.append(
            "to begin a new run with its network: a new --workdir, these values and "
            f"--config.init.run={where}"
        )
    raise UsageError("\n".join(lines))


def code_version() -> str:
    """A hash of this package's source, to tell whether two hosts or two starts run the same."""
    root = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for source in sorted(root.rglob("*.py")):
        digest.update(str(source.relative_to(root)).encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:16]


def require_equal_hosts(values: dict[str, Any]) -> None:
    """Raises UsageError naming host and key if a value differs between processes.

    Replicas that start unequal do not fail: they diverge silently, or wait for one another.

    Args:
        values: flat, JSON values: config, code version, data.
    """

    def digest(text: str) -> int:
        """A number of 32 bits, which is what hosts can exchange."""
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")

    def refuse(host: int, what: str) -> None:
        """Raises the error, on every host the same."""
        raise UsageError(f"host {host} differs from host 0 in {what}: start all alike")

    # The devices are known without an exchange, and JAX cannot gather where they differ.
    devices = Counter(device.process_index for device in jax.devices())
    for host in sorted(devices):
        if devices[host] != devices[0]:
            refuse(host, f"the number of devices ({devices[host]} and {devices[0]})")

    # Then the names, for values can only be compared one by one where their number is the same.
    keys = sorted(values)
    sets = sharding.values_of_hosts(np.array(digest(str(keys)), np.uint32))
    for host in np.flatnonzero(sets != sets[0]):
        refuse(int(host), "which keys its config has")

    # Last the values.
    local = np.array([digest(json.dumps(values[key], sort_keys=True)) for key in keys], np.uint32)
    hosts = sharding.values_of_hosts(local)
    for host, row in enumerate(hosts):
        unequal = [key for key, differs in zip(keys, row != hosts[0], strict=True) if differs]
        if unequal:
            refuse(host, ", ".join(unequal[:5]))
