import errno
import json
import os
import random
import resource
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from date_jax import sharding
from date_jax.errors import CheckpointError, Preempted, UsageError
from date_jax.run import checkpoint
from date_jax.run.checkpoint import Checkpoints
from date_jax.run.fingerprint import fingerprint
from date_jax.run.preemption import Preemption

DTYPES = ("float32", "bfloat16", "int32", "uint8", "bool")
# Of a step that cannot be read Orbax drops the other arrays half read. `checkpoint` keeps that from
# the user; on a busy machine some of it happens later, in whatever test comes next.
pytestmark = pytest.mark.filterwarnings(
    r"ignore:[\s\S]*(Event loop is closed|_read_array_index)"
    ":pytest.PytestUnraisableExceptionWarning"
)

DAMAGED = 10  # of each kind; 100 pass as well, in a minute


@flax.struct.dataclass
class Small:
    step: Any
    params: Any
    rng: Any


@flax.struct.dataclass
class WithFrozen(Small):
    frozen: Any


def state_of(value: float) -> Small:
    return Small(
        step=jnp.array(int(value), jnp.int32),
        params={
            "kernel": jnp.arange(512 * 256, dtype=jnp.float32).reshape(512, 256) * value,
            "norm": {"scale": jnp.full(7, value, jnp.bfloat16), "on": jnp.array([True, False])},
        },
        rng=jax.random.key(int(value)),
    )


def target(fsdp: int = 1, **changes: Any) -> Small:
    shapes = jax.eval_shape(lambda: state_of(1)).replace(**changes)
    return sharding.sharded_shapes(
        shapes, sharding.tree_shardings(sharding.device_mesh(fsdp), shapes)
    )


def sharded_state(value: float, fsdp: int = 1) -> Small:
    shardings = jax.tree.map(lambda leaf: leaf.sharding, target(fsdp))
    return jax.jit(lambda: state_of(value), out_shardings=shardings)()


def anything(_: dict[str, Any]) -> None:
    """Any run may go on with any other."""


def values(state: Small) -> list[np.ndarray]:
    plain = state.replace(rng=jax.random.key_data(state.rng))
    return [np.asarray(leaf) for leaf in jax.tree.leaves(plain)]


def assert_equal(state: Small, value: float) -> None:
    for leaf, wanted in zip(values(state), values(state_of(value)), strict=True):
        assert leaf.dtype == wanted.dtype
        assert leaf.tobytes() == wanted.tobytes()


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the steps 2 and 3."""
    directory = tmp_path_factory.mktemp("runs") / "run" / "checkpoints"
    checkpoints = Checkpoints(directory, keep=2)
    for step in (1, 2, 3):
        checkpoints.save(step, sharded_state(step, 2), {"note": f"of {step}"})
    checkpoints.close()
    assert checkpoint.steps_in(directory) == [2, 3]
    return directory


@pytest.fixture
def checkpoints_copy(two_steps: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(two_steps, tmp_path / "checkpoints"))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_fingerprint_changes_with_every_single_bit(dtype: str) -> None:
    rng = np.random.default_rng(0)
    leaf = np.asarray(jnp.asarray(rng.integers(0, 2, (6, 5)), dtype))
    expected = fingerprint(jnp.asarray(leaf))
    bits = 1 if dtype == "bool" else 8 * leaf.itemsize
    flipped = []
    for element in range(leaf.size):
        for bit in range(bits):
            raw = bytearray(leaf.tobytes())
            raw[element * leaf.itemsize + bit // 8] ^= 1 << bit % 8
            flipped.append(np.frombuffer(bytes(raw), leaf.dtype).reshape(leaf.shape))
    prints = jax.vmap(fingerprint)(jnp.asarray(np.stack(flipped)))
    assert not (np.asarray(prints) == int(expected)).any()


def test_where_copies_may_differ_the_first_is_the_one_that_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on GPUs, whose sums have no fixed order: each device writing a share would mix them."""
    monkeypatch.setattr(checkpoint, "_SMALLEST_SLICE", 64)
    monkeypatch.setattr(checkpoint.jax, "default_backend", lambda: "gpu")
    everywhere = sharding.replicated_sharding(sharding.device_mesh())
    copies = [
        jax.device_put(jnp.full((256, 8), 1 + number * 1e-3), device)
        for number, device in enumerate(jax.devices())
    ]
    kernel = jax.make_array_from_single_device_arrays((256, 8), everywhere, copies)
    state = sharded_state(1).replace(params={"kernel": kernel})
    saving = Checkpoints(tmp_path, keep=1)
    saving.save(1, state, {})
    saving.close()
    shapes = sharding.sharded_shapes(
        jax.eval_shape(lambda: state), jax.tree.map(lambda x: x.sharding, state)
    )
    restored = Checkpoints(tmp_path, keep=1).restore(shapes, check=anything)
    assert restored is not None
    np.testing.assert_array_equal(restored.state.params["kernel"], copies[0])


def test_a_fingerprint_knows_the_places_of_equal_values() -> None:
    leaf = jnp.arange(12.0).reshape(3, 4)
    prints = [fingerprint(x) for x in (leaf, leaf[::-1], leaf[:, ::-1])]
    assert len({int(value) for value in prints}) == 3


def test_a_fingerprint_does_not_depend_on_the_sharding() -> None:
    prints = {
        int(jax.jit(fingerprint)(sharded_state(3, fsdp).params["kernel"])) for fsdp in (1, 2, 8)
    }
    assert prints == {int(fingerprint(state_of(3).params["kernel"]))}


@pytest.mark.parametrize("fsdp", [1, 2, 8])
def test_a_state_comes_back_to_the_bit_on_another_mesh(checkpoints_copy: Path, fsdp: int) -> None:
    restored = Checkpoints(checkpoints_copy, keep=2).restore(target(fsdp), check=anything)
    assert restored is not None
    state, meta, warnings = restored
    assert_equal(state, 3)
    assert meta["note"] == "of 3"
    assert not warnings
    assert state.params["kernel"].sharding == target(fsdp).params["kernel"].sharding
    assert jax.random.uniform(state.rng) == jax.random.uniform(jax.random.key(3))


def test_nothing_saved_is_nothing_restored(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "new", keep=1).restore(target(), check=anything) is None


def damage(step: Path, kind: str, rng: random.Random) -> str:
    """Harms one random file of a step; tells which."""
    files = sorted(path for path in step.rglob("*") if path.is_file() and path.stat().st_size)
    path = rng.choices(files, weights=[path.stat().st_size ** 0.5 for path in files])[0]
    content = bytearray(path.read_bytes())
    if kind == "flip":
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
    elif kind == "cut":
        path.write_bytes(content[: rng.randrange(len(content))])
    else:
        path.unlink()
    return f"{kind} {path.relative_to(step)}"


@pytest.mark.parametrize("kind", ["flip", "cut", "delete"])
def test_a_damaged_step_is_never_used_and_the_one_before_it_is(
    two_steps: Path, tmp_path: Path, kind: str
) -> None:
    """Where the damage hits no value (a time stamp), the right values of the step may come back."""
    noticed = 0
    for seed in range(DAMAGED):
        directory = Path(shutil.copytree(two_steps, tmp_path / str(seed) / "checkpoints"))
        what = damage(directory / "3", kind, random.Random(seed))
        restored = Checkpoints(directory, keep=2).restore(target(), check=anything)
        assert restored is not None, what
        state, _, warnings = restored
        assert_equal(state, 2 if warnings else 3)
        if warnings:
            noticed += 1
            assert "step 3 is damaged" in warnings[0]
            assert warnings[1] == "using the checkpoint of step 2"
            aside = list((directory.parent / "checkpoints_set_aside").iterdir())
            assert [path.name.split("-")[0] for path in aside] == ["3"]
    assert noticed >= DAMAGED // 2, noticed


def test_an_empty_newer_step_is_set_aside_and_saving_goes_on(checkpoints_copy: Path) -> None:
    (checkpoints_copy / "7").mkdir()
    checkpoints = Checkpoints(checkpoints_copy, keep=2)
    restored = checkpoints.restore(target(), check=anything)
    assert restored is not None
    state, _, warnings = restored
    assert_equal(state, 3)
    assert "step 7 is damaged" in warnings[0]
    checkpoints.save(4, sharded_state(4), {})
    checkpoints.close()
    assert checkpoint.steps_in(checkpoints_copy) == [3, 4]


def test_where_no_step_can_be_read_the_run_stops_at_each_start_and_moves_none(
    checkpoints_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault may be this machine's: what one with more memory can read is not put away."""

    def too_large(*_: Any, **__: Any) -> None:
        raise MemoryError("no room for 512 x 256")

    with monkeypatch.context() as patch:
        patch.setattr(ocp.StandardCheckpointHandler, "restore", too_large)
        for _ in range(2):
            with pytest.raises(
                CheckpointError, match=r"(?s)no whole.*step 3: MemoryError: no room"
            ):
                Checkpoints(checkpoints_copy, keep=2).restore(target(), check=anything)
    assert checkpoint.steps_in(checkpoints_copy) == [2, 3]
    restored = Checkpoints(checkpoints_copy, keep=2).restore(target(), check=anything)
    assert restored is not None
    assert_equal(restored[0], 3)
    for step in (2, 3):
        (checkpoints_copy / str(step) / "meta" / "metadata").write_text("{}")
    with pytest.raises(CheckpointError, match="left in place") as error:
        Checkpoints(checkpoints_copy, keep=2).restore(target(), check=anything)
    assert len(str(error.value).splitlines()) <= 8
    assert checkpoint.steps_in(checkpoints_copy) == [2, 3]


def test_a_host_that_could_not_read_a_step_is_not_waited_for_by_the_others(
    checkpoints_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All hosts compute the fingerprints together, so none may begin where another cannot."""
    restore = ocp.StandardCheckpointHandler.restore
    fingerprints: list[str] = []
    read: list[str] = []
    failures: list[str] = []

    def note_step(handler: Any, directory: Any, *args: Any, **options: Any) -> Any:
        read.append(Path(directory).parent.name)
        return restore(handler, directory, *args, **options)

    def of_two_hosts(local: np.ndarray) -> np.ndarray:
        if read == ["3"] and not failures:  # just after this host has read the state of step 3
            failures.append("3")
            return np.stack([local, np.ones_like(local)])
        return np.stack([local, local])

    undamaged = checkpoint.fingerprint.require_undamaged

    def note_fingerprint(*arguments: Any) -> None:
        fingerprints.append(read[-1])
        undamaged(*arguments)

    monkeypatch.setattr(ocp.StandardCheckpointHandler, "restore", note_step)
    monkeypatch.setattr(sharding, "values_of_hosts", of_two_hosts)
    monkeypatch.setattr(checkpoint.fingerprint, "require_undamaged", note_fingerprint)
    latest = Checkpoints(checkpoints_copy, keep=2).restore(target(), check=anything)
    assert latest is not None
    assert_equal(latest[0], 2)
    assert (read, fingerprints) == (["3", "2"], ["2"])
    assert "another host could not read it" in latest[2][0]


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_sigterm_while_a_step_is_read_damages_nothing(
    checkpoints_copy: Path, wrapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Preempted as stop:
            if wrapped:
                raise ValueError("a layer's own words") from stop
            raise

    monkeypatch.setattr(ocp.StandardCheckpointHandler, "restore", stop)
    with Preemption(), pytest.raises(Preempted, match="before the first step"):
        Checkpoints(checkpoints_copy, keep=2).restore(target(), check=anything)
    assert checkpoint.steps_in(checkpoints_copy) == [2, 3]
    assert not (checkpoints_copy.parent / "checkpoints_set_aside").exists()


def test_a_save_that_fails_at_once_names_its_own_step(
    checkpoints_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(checkpoints_copy, keep=2)
    assert checkpoints.restore(target(), check=anything) is not None

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(ocp.CheckpointManager, "save", refuse)
    with pytest.raises(CheckpointError, match="saving step 4 failed") as error:
        checkpoints.save(4, sharded_state(4), {})
    assert "whole checkpoints: [2, 3]" in str(error.value)


@pytest.mark.parametrize(
    "leaf",
    [jax.ShapeDtypeStruct((512, 128), jnp.float32), jax.ShapeDtypeStruct((512, 256), "bfloat16")],
)
def test_another_model_s_checkpoint_is_refused_and_left_in_place(
    checkpoints_copy: Path, leaf: Any
) -> None:
    other = target(params={**target().params, "kernel": leaf})
    with pytest.raises(CheckpointError, match=r"kernel.*saved float32\[512, 256\], now"):
        Checkpoints(checkpoints_copy, keep=2).restore(other, check=anything)
    assert checkpoint.steps_in(checkpoints_copy) == [2, 3]


def test_a_run_that_may_not_go_on_says_so_before_reading_the_state(checkpoints_copy: Path) -> None:
    shutil.rmtree(checkpoints_copy / "3" / "state")

    def refuse(meta: dict[str, Any]) -> None:
        raise UsageError(meta["note"])

    with pytest.raises(UsageError, match="of 3"):
        Checkpoints(checkpoints_copy, keep=2).restore(target(), check=refuse)


def test_a_state_that_is_not_finite_is_never_saved(checkpoints_copy: Path) -> None:
    checkpoints = Checkpoints(checkpoints_copy, keep=2)
    bad = sharded_state(4)
    bad.params["norm"]["scale"] = bad.params["norm"]["scale"].at[3].set(jnp.nan)
    with pytest.raises(CheckpointError, match="NaN or infinity"):
        checkpoints.save(4, bad, {})
    assert checkpoint.steps_in(checkpoints_copy) == [2, 3]


@contextmanager
def full_disk() -> Iterator[None]:
    """Every write beyond 4 KiB of a file fails, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_save_that_fails_in_the_background_is_told_and_harms_no_older_one(
    checkpoints_copy: Path,
) -> None:
    def save() -> None:
        checkpoints = Checkpoints(checkpoints_copy, keep=2)
        checkpoints.save(4, sharded_state(4), {})
        checkpoints.close()

    with full_disk(), pytest.raises(CheckpointError, match="saving step 4 failed") as error:
        save()
    assert "whole checkpoints: [2, 3]" in str(error.value)
    restored = Checkpoints(checkpoints_copy, keep=2).restore(target(), check=anything)
    assert restored is not None
    assert_equal(restored[0], 3)


def test_a_checkpoint_is_found_in_the_run_s_directory_too(two_steps: Path) -> None:
    assert (
        checkpoint.checkpoint_directory(two_steps)
        == checkpoint.checkpoint_directory(two_steps.parent)
        == two_steps
    )


def test_one_level_off_names_the_runs_that_are_there(two_steps: Path) -> None:
    with pytest.raises(CheckpointError, match=f"runs near it: {two_steps.parent}"):
        checkpoint.checkpoint_directory(two_steps.parent.parent)
    with pytest.raises(CheckpointError, match="no such directory"):
        checkpoint.checkpoint_directory(two_steps.parent.parent / "nowhere")


def test_one_part_is_read_without_knowing_the_rest(two_steps: Path) -> None:
    part = checkpoint.latest_part(two_steps.parent, "params")
    assert (part.step, part.meta["note"], part.warnings) == (3, "of 3", [])
    expected = state_of(3).params
    for read, wanted in zip(jax.tree.leaves(part.params), jax.tree.leaves(expected), strict=True):
        assert read.dtype == wanted.dtype
        np.testing.assert_array_equal(read, wanted)
    assert part.params["norm"].keys() == expected["norm"].keys()


def test_an_empty_field_leaves_no_trace_and_where_it_lacks_none_is_missed(
    tmp_path: Path,
) -> None:
    # Saved before there was such a field, and as its time saved it: a dataclass, not a dict.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "_fields", lambda state: state)
        old = Checkpoints(tmp_path, keep=2)
        old.save(1, sharded_state(1), {})
        old.close()
    checkpoints = Checkpoints(tmp_path, keep=2)
    latest = checkpoints.restore(WithFrozen(**vars(target()), frozen={}), check=anything)
    assert latest is not None
    assert latest.state.frozen == {}
    assert_equal(latest.state, 1)
    # Saved again it is what it was, and read as that.
    checkpoints.save(2, latest.state, {})
    checkpoints.close()
    first, second = (
        json.loads((tmp_path / f"{step}/state/_METADATA").read_text())["tree_metadata"]
        for step in (1, 2)
    )
    assert first == second
    again = Checkpoints(tmp_path, keep=2).restore(target(), check=anything)
    assert again is not None
    assert not again.warnings


def test_parameters_come_with_those_that_were_frozen(tmp_path: Path) -> None:
    frozen = {"norm": {"bias": jnp.arange(3.0)}, "stem": jnp.ones(2)}
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(3, WithFrozen(**vars(state_of(3)), frozen=frozen), {})
    checkpoints.close()
    params = checkpoint.latest_part(tmp_path, "params").params
    assert params.keys() == {"kernel", "norm", "stem"}
    assert params["norm"].keys() == {"scale", "on", "bias"}
    np.testing.assert_array_equal(params["norm"]["bias"], np.arange(3.0))
    assert checkpoint.latest_part(tmp_path, "frozen").params.keys() == {"norm", "stem"}


def test_a_part_of_a_damaged_step_is_passed_over_and_left_in_place(checkpoints_copy: Path) -> None:
    meta = checkpoints_copy / "3" / "meta" / "metadata"
    meta.write_text(meta.read_text().replace("of 3", "of 4"))
    part = checkpoint.latest_part(checkpoints_copy, "params")
    assert part.step == 2
    assert "step 3 is damaged" in part.warnings[0]
    np.testing.assert_array_equal(part.params["kernel"], state_of(2).params["kernel"])
    assert checkpoint.steps_in(checkpoints_copy) == [2, 3]
    shutil.rmtree(checkpoints_copy / "2" / "state")
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        checkpoint.latest_part(checkpoints_copy, "params")


def test_a_part_whose_bits_have_changed_is_never_read(two_steps: Path, tmp_path: Path) -> None:
    for seed in range(DAMAGED):
        directory = Path(shutil.copytree(two_steps, tmp_path / str(seed)))
        what = damage(directory / "3" / "state", "flip", random.Random(seed))
        part = checkpoint.latest_part(directory, "params")
        kernel = state_of(3 if part.step == 3 else 2).params["kernel"]
        np.testing.assert_array_equal(part.params["kernel"], kernel, err_msg=what)


def test_saving_a_step_twice_writes_it_once(checkpoints_copy: Path) -> None:
    checkpoints = Checkpoints(checkpoints_copy, keep=2)
    for _ in range(2):
        checkpoints.save(4, sharded_state(4), {})
    checkpoints.close()
    assert checkpoint.steps_in(checkpoints_copy) == [3, 4]
    assert os.listdir(checkpoints_copy / "4")
