"""A finished network is asked from Python: without its data, without TensorFlow, in any number."""

import io
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jaxtyping
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

import date_jax
from date_jax import api
from date_jax.errors import CheckpointError, DataError, UsageError
from date_jax.tasks import TASKS


def random_picture(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {}


@pytest.fixture
def date_run(
    tiny_config: ConfigDict,
    folders: dict[str, Path],
    untrained_run: Callable[[ConfigDict, Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> api.Run:
    if "date" not in folders:
        folders["date"] = untrained_run(tiny_config, tmp_path_factory.mktemp("date"))
    return date_jax.open(folders["date"])


@pytest.fixture
def same_style_run(
    tiny_same_style: ConfigDict,
    folders: dict[str, Path],
    untrained_run: Callable[[ConfigDict, Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> api.Run:
    if "same_style" not in folders:
        folders["same_style"] = untrained_run(tiny_same_style, tmp_path_factory.mktemp("same"))
    return date_jax.open(folders["same_style"])


@pytest.fixture
def capture_run(
    tiny_capture: ConfigDict,
    folders: dict[str, Path],
    untrained_run: Callable[[ConfigDict, Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> api.Run:
    if "capture" not in folders:
        folders["capture"] = untrained_run(tiny_capture, tmp_path_factory.mktemp("capture"))
    return date_jax.open(folders["capture"])


def test_a_box_is_the_networks_own_in_the_pixels_of_the_picture(date_run: api.Run) -> None:
    """By hand: a picture of 64 x 32 lies between two margins of 8 pixels, at half its size."""
    pixels = random_picture(64, 32)
    (answer,) = date_run.ground(pixels, "red mug")
    # The same picture, prepared by hand, through the learner's own function.
    canvas = np.full((32, 32, 3), 127, np.uint8)
    canvas[8:24] = Image.fromarray(pixels).resize((32, 16), Image.Resampling.BICUBIC)
    jpeg = io.BytesIO()
    Image.fromarray(canvas).save(jpeg, "JPEG", quality=95, subsampling=0)
    words = date_run.tokenizer.encode(["red mug"])
    batch = {"image": np.asarray(Image.open(jpeg))[None], "text": words.ids}
    batch["text_mask"] = words.mask
    batch = jax.tree.map(jax.numpy.asarray, batch)
    x, y, w, h = np.asarray(date_run.predict["box_cxcywh"](date_run.params, batch))[0]
    box = np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2]) * 32
    expected = np.clip((box - [0, 8, 0, 8]) * 2, 0, [64, 32, 64, 32])
    np.testing.assert_allclose(answer.box_xyxy_pixels, expected, atol=0.5)


def test_paths_bytes_images_and_arrays_are_one_picture(date_run: api.Run, tmp_path: Path) -> None:
    pixels = random_picture(50, 40)
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    sources = [path, str(path), path.read_bytes(), Image.open(path), pixels]
    vectors = date_run.embed_images(sources)
    assert (vectors == vectors[0]).all()


def test_a_turned_photo_is_answered_as_a_viewer_shows_it(date_run: api.Run, tmp_path: Path) -> None:
    pixels = random_picture(64, 32)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: a viewer turns it by a quarter
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    (turned,) = date_run.ground(tmp_path / "turned.png", "red mug")
    upright = np.ascontiguousarray(np.rot90(pixels, 3))
    # Turned before or after it was resized: the same but for rounding.
    for source in (upright, Image.open(tmp_path / "turned.png")):
        (answer,) = date_run.ground(source, "red mug")
        np.testing.assert_allclose(answer.box_xyxy_pixels, turned.box_xyxy_pixels, atol=0.25)


def test_any_number_of_rows_gives_what_each_gives_alone_and_compiles_nothing(
    date_run: api.Run,
) -> None:
    texts = [f"mug {number}" for number in range(200)]
    texts[::3] = ["a striped red mug on the left"] * len(texts[::3])
    alone = np.concatenate([date_run.embed_texts([text]) for text in texts[:5]])
    date_run.embed_texts(texts[:64])
    date_run.embed_texts(texts)
    compiled: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, seconds, **kwargs: compiled.append(name) if "backend_compile" in name else None
    )
    try:
        for count in (2, 7, 9, 63, 65, 130, 200):
            vectors = date_run.embed_texts(texts[:count])
            assert vectors.shape[0] == count
            np.testing.assert_allclose(vectors[:5], alone[:count], atol=1e-6)
    finally:
        jax.monitoring.clear_event_listeners()
    assert not compiled


def test_no_rows_give_no_rows(date_run: api.Run) -> None:
    width = date_run.embed_texts(["mug"]).shape[1]
    assert date_run.embed_images([]).shape == (0, width)
    assert date_run.ground([], "red mug") == []


def test_one_picture_goes_with_many_queries_and_one_query_with_many_pictures(
    date_run: api.Run,
) -> None:
    one, other = random_picture(40, 40, 1), random_picture(40, 30, 2)
    answers = date_run.ground(one, ["red mug", "blue bag"])
    assert answers == date_run.ground([one, one], ["red mug", "blue bag"])
    answers = date_run.ground([one, other], "red mug")
    assert answers == date_run.ground([one, other], ["red mug", "red mug"])
    with pytest.raises(UsageError, match="2 images and 3 queries"):
        date_run.ground([one, other], ["a", "b", "c"])


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (b"not a picture", "begins with b'not a picture'"),
        (np.zeros((4, 4, 3), np.float32), "float32"),
        ("https://shop.example/1.jpg", "is an address"),
        ("nowhere.jpg", "nowhere.jpg: cannot be opened: No such file"),
    ],
)
def test_what_is_no_picture_is_named(date_run: api.Run, source: object, reason: str) -> None:
    with pytest.raises(DataError) as caught:
        date_run.ground(source, "red mug")  # type: ignore[arg-type]
    assert reason in str(caught.value)


def test_a_closed_image_is_named(date_run: api.Run, tmp_path: Path) -> None:
    Image.fromarray(random_picture(20, 20)).save(tmp_path / "a.png")
    image = Image.open(tmp_path / "a.png")
    image.close()
    with pytest.raises(DataError, match=r"is a PIL image that cannot be read: .*closed"):
        date_run.ground(image, "red mug")


@pytest.fixture
def without_type_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    # Users have none; the tests' would answer first.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("source", [None, io.BytesIO(b"one\ntwo"), [5]])
def test_a_picture_of_another_type_is_named(date_run: api.Run, source: object) -> None:
    with pytest.raises(DataError, match=r"picture 0: is of type \w+; give a path, a file's bytes"):
        date_run.ground(source, "red mug")  # type: ignore[arg-type]


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("query", [None, 5, ["red mug", None]])
def test_what_is_no_text_is_named(date_run: api.Run, query: object) -> None:
    for ask in (lambda: date_run.ground([], query), lambda: date_run.embed_texts(query)):  # type: ignore[arg-type]
        with pytest.raises(UsageError, match=r"query \d: is no text but (NoneType|int)"):
            ask()


def test_one_text_and_one_picture_give_one_vector(date_run: api.Run) -> None:
    picture = random_picture(20, 20)
    np.testing.assert_array_equal(date_run.embed_texts("mug"), date_run.embed_texts(["mug"]))
    np.testing.assert_array_equal(date_run.embed_images(picture), date_run.embed_images([picture]))


def test_what_a_task_does_not_answer_is_refused_with_what_it_does(date_run: api.Run) -> None:
    assert date_run.questions == ("ground", "embed_images", "embed_texts")
    with pytest.raises(UsageError, match="answers ground, embed_images, embed_texts"):
        date_run.embed_products([None], ["mug"])


def test_products_may_lack_a_picture_or_a_title(same_style_run: api.Run) -> None:
    picture = random_picture(32, 32)
    vectors = same_style_run.embed_products(
        [picture, None, picture, None], ["red mug", "red mug", "", "blue bag"]
    )
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(vectors[1:2], same_style_run.embed_texts(["red mug"]), atol=1e-6)
    np.testing.assert_allclose(vectors[2:3], same_style_run.embed_images([picture]), atol=1e-6)
    both = same_style_run.embed_products([picture], ["red mug"])
    np.testing.assert_allclose(vectors[:1], both, atol=1e-6)
    assert np.abs(vectors[0] - vectors[1:]).max(axis=1).min() > 1e-3
    with pytest.raises(DataError, match="product 1 has neither"):
        same_style_run.embed_products([picture, None], ["mug", ""])


def test_the_products_of_a_post_come_with_boxes_scores_and_vectors(capture_run: api.Run) -> None:
    pixels = random_picture(64, 32)
    (instances,) = capture_run.instances([pixels], ["red mug"])
    assert 1 <= len(instances) <= 3
    for instance in instances:
        left, top, right, bottom = instance.box_xyxy_pixels
        assert 0 <= left <= right <= 64
        assert 0 <= top <= bottom <= 32
        assert 0 <= instance.score <= 1
        assert abs(np.linalg.norm(instance.embedding) - 1) < 1e-5
    assert [i.score for i in instances] == sorted((i.score for i in instances), reverse=True)
    assert capture_run.embed_products([pixels], ["red mug"]).shape == (
        1,
        len(instances[0].embedding),
    )


def test_two_openings_have_one_fingerprint_and_another_network_another(
    date_run: api.Run, same_style_run: api.Run
) -> None:
    assert date_run.fingerprint == date_jax.open(date_run.path).fingerprint
    assert date_run.fingerprint != same_style_run.fingerprint
    config = date_run.config.copy_and_resolve_references()
    config.data.fit = "stretch"
    params = jax.tree.map(np.asarray, date_run.params)
    other = api.fingerprint(config, date_run.tokenizer, params)
    assert other != api.fingerprint(date_run.config, date_run.tokenizer, params)


def test_warming_up_leaves_nothing_to_compile(capture_run: api.Run) -> None:
    capture_run.warm_up()
    compiled: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, seconds, **kwargs: compiled.append(name) if "backend_compile" in name else None
    )
    try:
        capture_run.instances([random_picture(9, 9)] * 3, ["mug"] * 3)
    finally:
        jax.monitoring.clear_event_listeners()
    assert not compiled


def test_every_task_answers_by_predictions_that_its_learner_has(
    date_run: api.Run, same_style_run: api.Run, capture_run: api.Run
) -> None:
    for run in (date_run, same_style_run, capture_run):
        answer = TASKS[run.config.task].answer
        names = {answer.image, answer.text, answer.product, answer.box, *answer.instances} - {""}
        assert names <= set(run.predict)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint"):
        date_jax.open(tmp_path)


def test_an_answer_needs_no_tensorflow(date_run: api.Run, root: Path) -> None:
    code = (
        "import sys, numpy, date_jax; "
        f"run = date_jax.open({str(date_run.path)!r}); "
        "run.ground(numpy.zeros((9, 9, 3), 'uint8'), 'red mug'); "
        "sys.exit('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, timeout=120)
    assert done.returncode == 0


def test_an_export_answers_as_its_run(date_run: api.Run, tmp_path: Path) -> None:
    from date_jax.export import export

    export(date_run.path, tmp_path / "exported")
    exported = date_jax.open(tmp_path / "exported")
    assert exported.fingerprint == date_run.fingerprint
    picture = random_picture(40, 30)
    assert exported.ground(picture, "red mug") == date_run.ground(picture, "red mug")


def test_a_calibrated_run_scores_its_boxes(date_run: api.Run, tmp_path: Path) -> None:
    """The features through the calibration by hand: 1 / (1 + exp(-(2 f - 1)))."""
    from date_jax.date import confidence

    assert date_run.ground(random_picture(32, 32), "red mug")[0].score is None
    folder = tmp_path / "calibrated"
    shutil.copytree(date_run.path, folder)
    count = len(confidence.NAMES)
    coefficients = np.zeros(count)
    coefficients[0] = 2.0
    calibration = confidence.Calibration(
        confidence.NAMES, np.zeros(count), np.ones(count), coefficients, -1.0
    )
    confidence.write(calibration, folder / confidence.FILE)
    picture = random_picture(32, 32)
    (answer,) = date_jax.open(folder).ground(picture, "red mug")
    cosine = date_run.embed_images([picture]) @ date_run.embed_texts(["red mug"]).T
    assert answer.score == pytest.approx(1 / (1 + np.exp(1 - 2 * cosine.item())), abs=2e-3)
    assert answer.box_xyxy_pixels == pytest.approx(
        date_run.ground(picture, "red mug")[0].box_xyxy_pixels, abs=1e-3
    )
