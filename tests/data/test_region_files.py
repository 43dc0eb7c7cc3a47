"""Regions found beforehand: written and read back, refused where they are not what they should be,
and what the network makes of them."""

import json
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from date_jax.capture import proposals as regions
from date_jax.data.files import region_files
from date_jax.data.files.region_files import RegionFiles
from date_jax.errors import DataError
from tests.capture.test_capture import batch, compiled, learner_of, small, some_params

COUNT, WIDTH = 3, 5
IDS = ["b", "a", "杯"]


def random_regions(number: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features and boxes of `number` regions."""
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.random((number, 2, 2)), axis=1).reshape(number, 4)
    return rng.normal(size=(number, WIDTH)), corners


def written(folder: Path, seed: int = 0, dtype: str = "float16") -> list:
    """A folder with fewer, as many and more regions than fit; returns what it was given."""
    regions = [random_regions(number, seed) for number in (2, 3, 5)]
    region_files.write(folder, IDS, regions, count=COUNT, width=WIDTH, dtype=dtype)
    return regions


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_regions_are_read_back_by_their_posts_ids(tmp_path: Path, dtype: str) -> None:
    regions = written(tmp_path, dtype=dtype)
    files = RegionFiles(tmp_path)
    assert (files.shape, files.dtype) == ((COUNT, WIDTH), np.dtype(dtype))
    rows_read = files[files.rows(["杯", "b", "b"], "post_train")]
    for at, (feature, box) in enumerate((regions[2], regions[0], regions[0])):
        real = min(len(feature), COUNT)
        assert rows_read.mask[at].tolist() == [place < real for place in range(COUNT)]
        np.testing.assert_array_equal(rows_read.features[at, :real], feature[:real].astype(dtype))
        np.testing.assert_array_equal(rows_read.box_xyxy[at, :real], box[:real].astype(np.float32))
        assert not rows_read.features[at, real:].any()
        assert not rows_read.box_xyxy[at, real:].any()
    with pytest.raises(DataError, match=r"no regions of 2 of 3 posts of suite_val\n.*x, y; it"):
        files.rows(["a", "x", "y"], "suite_val")


def test_the_arrays_are_plain_files_and_their_fingerprint_is_that_of_their_content(
    tmp_path: Path,
) -> None:
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        written(tmp_path / name, seed)
    prints = [RegionFiles(tmp_path / name).fingerprint for name in ("one", "same", "other")]
    assert prints[0] == prints[1] != prints[2]
    features = np.load(tmp_path / "one/features.npy", mmap_mode="r", allow_pickle=False)
    assert isinstance(features, np.memmap)
    assert features.shape == (3, COUNT, WIDTH)
    assert (tmp_path / "one/ids.txt").read_text(encoding="utf-8") == "b\na\n杯\n"


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def array_writer(name: str, array: np.ndarray) -> Callable[[Path], None]:
    return lambda folder: np.save(folder / name, array)


def manifest_writer(**fields: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


def cut(folder: Path) -> None:
    path = folder / "features.npy"
    path.write_bytes(path.read_bytes()[:-10])


def write_pickle(folder: Path) -> None:
    np.save(folder / "mask.npy", np.array([{"a": 1}] * 3, object), allow_pickle=True)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (without("manifest.json"), r"cannot read manifest\.json: No such file .*\n.*not finished"),
        (without("boxes.npy"), r"boxes\.npy: cannot be read: No such file"),
        (without("ids.txt"), r"ids\.txt: cannot be read"),
        (cut, r"features\.npy: not a whole \.npy file of numbers"),
        (write_pickle, r"mask\.npy: not a whole \.npy file of numbers"),
        (
            lambda folder: (folder / "mask.npy").write_text("version https://git-lfs.github.com/x"),
            r"mask\.npy is a Git LFS pointer\n.*git lfs pull",
        ),
        (lambda folder: (folder / "mask.npy").write_text("x"), r"mask\.npy: not a whole \.npy"),
        (
            array_writer("boxes.npy", np.zeros((3, 2, 4), np.float32)),
            r"boxes\.npy: holds float32 \[3, 2, 4\]; the manifest says float32 \[3, 3, 4\]",
        ),
        (
            array_writer("mask.npy", np.zeros((3, 3), np.int64)),
            r"mask\.npy: holds int64 .* says bool",
        ),
        (
            array_writer("boxes.npy", np.full((3, 3, 4), 7, np.float32)),
            r"not shares .*\n.*divide pixels",
        ),
        (lambda folder: (folder / "ids.txt").write_text("a\nb\na\n"), "3 lines, 2 different ids"),
        (lambda folder: (folder / "manifest.json").write_text("{"), r"manifest\.json: not JSON"),
        (manifest_writer(format="2"), r'expected an object with "format": "date_jax regions 1"'),
        (manifest_writer(rows=-1), r"rows is -1: expected a number above 0"),
        (manifest_writer(dtype="object"), "dtype must be one of float16, float32"),
        (manifest_writer(fingerprint=None), "fingerprint must be a text"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(
    tmp_path: Path, change: Callable[[Path], None], says: str
) -> None:
    written(tmp_path)
    change(tmp_path)
    with pytest.raises(DataError, match=says) as caught:
        RegionFiles(tmp_path)
    assert len(str(caught.value).splitlines()) <= 8


@pytest.mark.parametrize(
    ("feature", "box", "says"),
    [
        (np.zeros((2, 4)), np.zeros((2, 4)), r"regions of a: features \[2, 4\], .*\[R 5\]"),
        (np.zeros((2, 5)), np.zeros((3, 4)), r"boxes \[3, 4\]"),
        (np.full((1, 5), 1e6), np.zeros((1, 4)), "not finite in float16"),
        (np.zeros((1, 5)), np.array([[0.5, 0, 0.2, 1]]), "not x_min, y_min, x_max, y_max"),
        (np.zeros((1, 5)), np.array([[0, 0, 9, 9]]), "not x_min, y_min, x_max, y_max"),
    ],
)
def test_wrong_regions_are_not_written(
    tmp_path: Path, feature: np.ndarray, box: np.ndarray, says: str
) -> None:
    with pytest.raises(DataError, match=says):
        region_files.write(tmp_path, ["a"], [(feature, box)], count=COUNT, width=WIDTH)
    with pytest.raises(DataError, match="cannot read manifest"):
        RegionFiles(tmp_path)


def test_a_detectors_npz_files_become_a_folder_and_no_pickle_is_opened(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    feature, box = random_regions(4)
    pixels = box * np.array([40, 20, 40, 20])
    rest = {"image_w": 40, "image_h": 20, "info": np.array({"never": "read"}, object)}
    (tmp_path / "npz").mkdir()
    for post in IDS:
        np.savez(tmp_path / "npz" / f"{post}.npz", x=feature, bbox=pixels, num_bbox=4, **rest)
    out = tmp_path / "out"
    flags = [f"--npz={tmp_path / 'npz'}", f"--out={out}", "--count=2"]
    assert region_files.main(flags) == 0
    assert "regions of 3 pictures, 2 of 5 numbers" in capsys.readouterr().out
    files = RegionFiles(out)
    rows_read = files[files.rows(["b"], "post_train")]
    np.testing.assert_array_equal(rows_read.features[0], feature[:2].astype(np.float16))
    np.testing.assert_allclose(rows_read.box_xyxy[0], box[:2], rtol=1e-6)
    np.savez(tmp_path / "npz" / "c.npz", x=np.array([{}], object), bbox=pixels, image_w=1)
    assert region_files.main(flags) == 3
    assert "c.npz: not an .npz file with numbers x, bbox" in capsys.readouterr().err
    assert region_files.main([f"--npz={tmp_path}", f"--out={out}"]) == 3


def closer(box: np.ndarray, frame: np.ndarray) -> np.ndarray | None:
    """The box in a picture of the frame alone; None where less than half of it is there."""
    cut = [*np.maximum(box[:2], frame[:2]), *np.minimum(box[2:], frame[2:])]
    wide, high = cut[2] - cut[0], cut[3] - cut[1]
    whole = (box[2] - box[0]) * (box[3] - box[1])
    if wide <= 0 or high <= 0 or wide * high < 0.5 * whole:
        return None
    low, side = frame[:2], frame[2:] - frame[:2]
    return np.concatenate([(cut[:2] - low) / side, (cut[2:] - low) / side])


def test_a_close_up_keeps_the_regions_that_lie_in_it() -> None:
    rng = np.random.default_rng(0)
    box = np.sort(rng.random((40, 9, 2, 2)), axis=2).reshape(40, 9, 4).astype(np.float32)
    mask, frame = rng.random((40, 9)) < 0.8, box[:, 0]
    near, kept = regions.regions_in_frame(*map(jnp.asarray, (box, mask, frame)))
    assert kept[:, 0].tolist() == mask[:, 0].tolist()  # the frame itself
    assert 0.05 < np.mean(np.asarray(kept)[:, 1:]) < 0.5
    for post in range(40):
        for place in range(9):
            expected = closer(box[post, place].astype(np.float64), frame[post].astype(np.float64))
            assert bool(kept[post, place]) == bool(mask[post, place] and expected is not None)
            if expected is not None:
                np.testing.assert_allclose(near[post, place], expected, atol=2e-3)


def test_instances_are_the_regions_that_do_not_overlap_seen_close_up() -> None:
    """Against the vectors of posts that have only the regions which lie in one."""
    learner, given = learner_of(small("precomputed")), batch("precomputed")["posts"]
    given["region_box_xyxy"][0] = [[0.1, 0.1, 0.5, 0.5], [0.1, 0.1, 0.5, 0.52], [0.6, 0.6, 1, 1]]
    given["region_mask"][:2] = [[True] * 3, [True, False, False]]
    params = some_params(learner, {"posts": given})
    names = ("instance_box", "instance_mask", "instance_vectors", "vectors")
    ask = {name: learner.predict[name] for name in names}
    run = compiled(lambda p, b: {name: f(p, b) for name, f in ask.items()}, params, given)
    found = run(params, given)
    first, second, third = given["region_box_xyxy"][0]
    np.testing.assert_array_equal(found["instance_box"][0], [first, third])
    assert found["instance_mask"][0].tolist() == [True, True]
    assert found["instance_mask"][1].tolist() == [True, False]
    alone = {key: value.copy() for key, value in given.items()}
    alone["region_mask"][0] = [True, True, False]
    alone["region_box_xyxy"][0] = [[0, 0, 1, 1], closer(second, first), [0, 0, 0, 0]]
    expected = run(params, alone)["vectors"]
    np.testing.assert_allclose(found["instance_vectors"][0, 0], expected[0], rtol=1e-4, atol=1e-5)
    alone["region_mask"][0] = [False, False, True]
    alone["region_box_xyxy"][0] = [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 1]]
    expected = run(params, alone)["vectors"]
    np.testing.assert_allclose(found["instance_vectors"][0, 1], expected[0], rtol=1e-4, atol=1e-5)
    assert np.abs(found["instance_vectors"][0, 0] - found["vectors"][0]).max() > 1e-3
