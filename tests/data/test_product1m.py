"""Product1M's lists and pictures: what is read, what never reaches training, and what is found."""

import csv
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from configs import capture as configs
from date_jax import config as rules
from date_jax import sharding
from date_jax.capture import evaluation
from date_jax.capture.task import TASK as CAPTURE
from date_jax.data import pipeline
from date_jax.data.files import download, photos, product1m_lists, region_files
from date_jax.errors import DataError, UsageError
from date_jax.task import Learner
from tests.capture.test_ranked_lists import counted

HERE = pipeline.Share(0, 1)
WIDTH = 40  # numbers of a region, more than there are labels
SPLITS = {
    "post_train": ("post_train",),
    "suite_val": ("suite_val",),
    "suite_test": ("suite_test",),
    "single_test": ("single_val", "single_test"),  # one gallery for both
}


def line(post_id: str, title: str, labels: list[str]) -> str:
    addresses = [f"http://{host}.example/{post_id}.jpg" for host in ("a", "b")]
    return "#####".join([post_id, title, *addresses, *(["#;#".join(labels)] if labels else [])])


def write_lists(
    corpus: pipeline.Corpus, folder: Path, labels: Callable[[str, list[str]], list[str]]
) -> None:
    """Rendered posts as Product1M's lists; `labels` says what a split's post has, given its own."""
    for name, parts in SPLITS.items():
        splits = [corpus.splits[part] for part in parts]
        lines = [
            line(post_id, title, labels(name, own))
            for split in splits
            for post_id, title, own in zip(split.ids(), split.texts, split.labels(), strict=True)
        ]
        (folder / product1m_lists.FILES[name]).write_text("".join(f"{each}\n" for each in lines))


def published_labels(name: str, own: list[str]) -> list[str]:
    return [] if name == "post_train" else own


def write_pictures(corpus: pipeline.Corpus, folder: Path) -> None:
    for name in sum(SPLITS.values(), ()):
        split = corpus.splits[name]
        images = pipeline.pictures(corpus, name, np.arange(split.size))
        for post_id, image in zip(split.ids(), images, strict=True):
            Image.fromarray(image).save(folder / f"{post_id}.png")


def write_regions(corpus: pipeline.Corpus, folder: Path, *, count: int) -> None:
    """For each product of a picture one region: where it is, and which it is, 1 of WIDTH."""
    number: dict[str, int] = {}
    ids, regions = [], []
    for name in (*sum(SPLITS.values(), ()), "unseen_test"):
        split = corpus.splits[name]
        box, has = split.records.box_xyxy(), split.records.has_box()
        for row, (post_id, own) in enumerate(zip(split.ids(), split.labels(), strict=True)):
            which = [number.setdefault(label, len(number)) % WIDTH for label in own]
            ids.append(post_id)
            regions.append((np.eye(WIDTH)[which], np.clip(box[row][has[row]], 0, 1)))
    order = np.random.default_rng(0).permutation(len(ids))  # a folder has an order of its own
    shuffled = [regions[at] for at in order]
    region_files.write(folder, [ids[at] for at in order], shuffled, count=count, width=WIDTH)


@pytest.fixture
def rendered_corpus(tiny_capture: ConfigDict) -> pipeline.Corpus:
    return pipeline.load(tiny_capture.data, "posts")


@pytest.fixture
def config(
    tiny_capture_sizes: dict[str, Any], rendered_corpus: pipeline.Corpus, tmp_path: Path
) -> ConfigDict:
    """Of a job on rendered posts that were written out."""
    config = configs.get_config("product1m")
    config.data.fit = "stretch"  # as precomputed has it; all pictures here are square
    config.update_from_flattened_dict(tiny_capture_sizes)
    config.data.update(path=str(tmp_path), images=str(tmp_path / "pictures"))
    (tmp_path / "pictures").mkdir()
    write_lists(rendered_corpus, tmp_path, published_labels)
    write_pictures(rendered_corpus, tmp_path / "pictures")
    return config


@pytest.fixture
def with_regions(
    config: ConfigDict, rendered_corpus: pipeline.Corpus, tmp_path: Path
) -> ConfigDict:
    write_regions(rendered_corpus, tmp_path / "regions", count=6)
    config.data.regions = str(tmp_path / "regions")
    config.model.regions.update(kind="precomputed", count=6, width=WIDTH)
    return config


def test_posts_are_read_with_the_labels_that_evaluation_needs_and_no_others(
    config: ConfigDict, rendered_corpus: pipeline.Corpus
) -> None:
    rules.validate(config, device_count=8, process_count=1)
    corpus = CAPTURE.load(config)
    composites = {f"composite_{kind}" for kind in ("train", "val", "test")}
    assert set(corpus.splits) == {*SPLITS, *composites}
    for name, parts in SPLITS.items():
        split, own = corpus.splits[name], [rendered_corpus.splits[part] for part in parts]
        assert split.ids() == [post_id for part in own for post_id in part.ids()]
        assert split.texts == [text for part in own for text in part.texts]
        labels = [label for part in own for label in part.labels()]
        assert split.labels() == ([[""]] * split.size if name == "post_train" else labels)
    images = pipeline.pictures(corpus, "suite_test", np.arange(4)).astype(int)
    expected = pipeline.pictures(rendered_corpus, "suite_test", np.arange(4)).astype(int)
    assert np.abs(images - expected).mean() < 4  # a JPEG lies between
    for name in composites:
        one, other = (
            next(pipeline.eval_batches(c, [name], share=HERE, batch_size=8, boxes=True, columns=()))
            for c in (corpus, rendered_corpus)
        )
        for key, value in one.items():
            np.testing.assert_array_equal(value, other[key], err_msg=key)
    assert [evaluation.gallery_name(corpus, kind) for kind in ("val", "test")] == [
        "single_test"
    ] * 2


def test_no_label_of_any_list_reaches_training(
    with_regions: ConfigDict, rendered_corpus: pipeline.Corpus, tmp_path: Path
) -> None:
    """Other labels everywhere, and labels in the training list: the same vocabulary and batches."""
    jobs = with_regions.copy_and_resolve_references(), with_regions.copy_and_resolve_references()
    for job in jobs:
        job.data.regions, job.model.regions.kind = "", "proposals"
    for job in (*jobs[:1], with_regions):
        before = CAPTURE.load(job)
        batches = [next(CAPTURE.batches(job, before, step)) for step in (0, 3)]
        write_lists(rendered_corpus, tmp_path, lambda name, own: [f"{name}-{own[0][::-1]}", "mug"])
        after = CAPTURE.load(job)
        assert after.fingerprint != before.fingerprint
        assert after.tokenizer.vocab == before.tokenizer.vocab
        assert set(after.splits["post_train"].records.products()) == {""}
        for step, expected in zip((0, 3), batches, strict=True):
            batch = next(CAPTURE.batches(job, after, step))
            assert set(batch) == set(expected)
            assert not set(batch["posts"]) & {"product_id", "box_cxcywh", "box_mask"}
            for part, rows in expected.items():
                for key, value in rows.items():
                    np.testing.assert_array_equal(batch[part][key], value, err_msg=key)
        write_lists(rendered_corpus, tmp_path, published_labels)


def test_batches_have_the_regions_of_their_posts_in_place_of_pictures(
    with_regions: ConfigDict, rendered_corpus: pipeline.Corpus
) -> None:
    corpus = CAPTURE.load(with_regions)
    assert not any(name.startswith("composite") for name in corpus.splits)
    batches = CAPTURE.batches(with_regions, corpus, 0)
    own, split = rendered_corpus.splits["post_train"], corpus.splits["post_train"]
    row_of = {post_id: row for row, post_id in enumerate(own.ids())}
    for batch in (next(batches), next(batches)):
        assert set(batch) == {"posts"}
        rows = batch["posts"]
        places = {"regions", "region_box_xyxy", "region_mask"}
        assert set(rows) == {*places, "text", "text_mask", "index", "mask"}
        for at, index in enumerate(rows["index"]):
            row = row_of[split.ids()[index]]
            has = own.records.has_box()[row]
            assert rows["region_mask"][at].tolist() == has.tolist()
            box = rows["region_box_xyxy"][at][has]
            np.testing.assert_allclose(box, own.records.box_xyxy()[row][has], atol=1e-6)
            assert rows["regions"][at].sum() == has.sum()


def by_regions() -> Learner:
    """Vectors that are the regions themselves: an instance is one region, a post their mean."""

    def four(x: Any) -> Any:
        return jnp.stack([x.astype(jnp.float32)] * 4, axis=-2)

    def mean(params: Any, batch: Any) -> Any:
        return four(batch["regions"].mean(axis=1) + params)

    return Learner(
        init=None,
        loss=None,
        predict={
            "vectors": mean,
            "proposal_box": lambda params, batch: batch["region_box_xyxy"],
            "instance_box": lambda params, batch: batch["region_box_xyxy"][:, :3],
            "instance_mask": lambda params, batch: batch["region_mask"][:, :3],
            "instance_vectors": lambda params, batch: four(batch["regions"][:, :3] + params),
        },
    )


def require_measured(
    config: ConfigDict, corpus: pipeline.Corpus, folder: Path, names: set[str]
) -> Any:
    """Evaluates; the lists that were written and the labels, counted slowly, give its measures."""
    evaluate = CAPTURE.evaluator(config, corpus, by_regions(), sharding.device_mesh())
    results = dict(evaluate(jnp.float32(0.0), ["val", "test"], lambda: False))
    assert set(results) == names
    for name, evaluated in results.items():
        ((file, written),) = evaluated.files.items()
        assert file == f"ranked_{name}.csv"
        written(folder / file)
        among = corpus.splits[evaluation.gallery_name(corpus, name.rpartition("_")[2])]
        row_of = {post_id: row for row, post_id in enumerate(among.ids())}
        assert len(row_of) == among.size
        first = [labels[0] for labels in among.labels()]
        split = corpus.splits[name]
        with (folder / file).open() as lines:
            lists = [*csv.reader(lines)]
        assert [query for query, *_ in lists] == split.ids()
        slow = [
            counted([row_of[each] for each in ids], labels, first, 10)
            for (_, *ids), labels in zip(lists, split.labels(), strict=True)
        ]
        measures = ("map", "precision", "mar", "standard_map")
        for measure, mean in zip(measures, np.mean(slow, axis=0), strict=True):
            assert evaluated.metrics[f"{measure}_at_10"] == pytest.approx(mean), (name, measure)
    return results


def test_what_is_found_by_regions_is_written_and_measured_by_labels(
    with_regions: ConfigDict, tmp_path: Path
) -> None:
    corpus = CAPTURE.load(with_regions)
    results = require_measured(with_regions, corpus, tmp_path, {"suite_val", "suite_test"})
    for evaluated in results.values():
        assert "proposal_recall_at_10" not in evaluated.metrics  # nobody knows Product1M's boxes
        assert evaluated.metrics["mar_at_10"] > 0.5


def test_queries_of_unseen_categories_are_measured_apart(
    tiny_capture: ConfigDict, rendered_corpus: pipeline.Corpus, tmp_path: Path
) -> None:
    write_regions(rendered_corpus, tmp_path / "regions", count=6)
    tiny_capture.data.regions = str(tmp_path / "regions")
    tiny_capture.model.regions.update(kind="precomputed", count=6, width=WIDTH)
    corpus = CAPTURE.load(tiny_capture)
    kinds = {"suite_val", "suite_test", "unseen_test"}
    results = require_measured(tiny_capture, corpus, tmp_path, kinds)
    assert all(results[name].metrics["proposal_recall_at_10"] == 1 for name in results)
    categories = {
        name: {each for row in split.records.texts("category") for each in row.split("#;#")}
        for name, split in rendered_corpus.splits.items()
    }
    trained, unseen = categories["post_train"], categories["unseen_test"]
    assert len(unseen) > 1
    assert not trained & unseen
    assert categories["suite_test"] <= trained
    assert unseen <= categories["single_test"], "the gallery has their products"
    assert categories["single_test"] & trained, "and those of others"


def test_a_missing_picture_takes_its_post_along_within_the_budget(
    config: ConfigDict, rendered_corpus: pipeline.Corpus
) -> None:
    config.data.bad_image_budget = 0.0
    gone = rendered_corpus.splits["suite_test"].ids()[0]
    Path(config.data.images, f"{gone}.png").unlink()
    with pytest.raises(DataError, match=rf"(?s)the pictures of 1 of .*{gone}\.jpg cannot be"):
        pipeline.load(config.data, "posts")
    config.data.bad_image_budget = 0.05
    corpus = pipeline.load(config.data, "posts")
    assert corpus.splits["suite_test"].ids() == rendered_corpus.splits["suite_test"].ids()[1:]
    assert any("1 of " in note and "rows are left out" in note for note in corpus.notes)


def test_labels_are_a_multiset_and_a_post_told_again_counts_once(tmp_path: Path) -> None:
    lines = [line("7", "two cups, a pot", ["L1", "L1", "L2"]), line("8", "", ["L3"])]
    (tmp_path / "list.txt").write_text("\r\n".join([*lines, line("7", "again", ["L9"])]) + "\r\n")
    posts, again = product1m_lists.posts(tmp_path / "list.txt", labelled=True)
    assert again == 1
    assert [(post.post_id, post.title) for post in posts] == [("7", "two cups, a pot"), ("8", "")]
    assert Counter(posts[0].labels) == {"L1": 2, "L2": 1}
    assert posts[0].urls == ("http://a.example/7.jpg", "http://b.example/7.jpg")
    bare, _ = product1m_lists.posts(tmp_path / "list.txt", labelled=False)
    assert [post.labels for post in bare] == [(), ()]


def published_line(number: int) -> str:
    """A made-up line of the published lists' form: two addresses, labels with blanks, repeated."""
    post_id = 558_000_000_000 + 7_919 * number
    titles = (
        "【限时】NOVA 晨露套盒 3件（水+霜）",
        "现货&nbsp;NOVA&amp;LUMI&nbsp;晨露水",
        "NOVA/lumi 晨露霜50ml#1",
    )
    labels = ("NOVA 晨露霜#;#NOVA 晨露水#;#NOVA 晨露水", "NOVA 晨露水#;#NOVA 晨露水", "NOVA 晨露霜")
    endings = ("_!!0-item_pic.jpg", "_!!2206.bmp", "-0-psf.png")
    address = (
        f"https://img.shop.example/imgextra//i{number % 4 + 1}/{number}/O1CN01{endings[number % 3]}"
    )
    mirror = f"http://mirror.oss.example/alin/product1m/datasets/images/{post_id}.jpg"
    return "#####".join([str(post_id), titles[number % 3], address, mirror, labels[number % 3]])


@pytest.mark.parametrize(("split", "count"), [("suite_val", 2_673), ("suite_test", 6_547)])
def test_lists_of_the_published_form_and_size_are_read_whole(
    tmp_path: Path, split: str, count: int
) -> None:
    path = tmp_path / product1m_lists.FILES[split]
    path.write_text("".join(f"{published_line(n)}\n" for n in range(count)), encoding="utf-8")
    posts, again = product1m_lists.posts(path, labelled=True)
    assert (len(posts), again) == (count, 0)
    assert all(len(post.urls) == 2 for post in posts)
    assert posts[0].labels == ("NOVA 晨露霜", "NOVA 晨露水", "NOVA 晨露水")
    assert posts[1].title == "现货\xa0NOVA&LUMI\xa0晨露水"  # as a browser shows it
    pictures = download.listed_pictures(path)
    assert len(pictures) == count
    assert pictures[1].name == str(558_000_000_000 + 7_919)
    assert [download.web_address(url) for url in pictures[1].urls] == [*posts[1].urls]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", r"l\.txt holds no posts: expected id#####title"),
        ("1#####a#####u", r"l\.txt:1: 3 fields: expected id#####title#####URL"),
        ("1#####a#####u#####m", r"l\.txt:1: 4 fields: expected .*labels"),
        ("1#####a#####u#####m##### #;# ", r"l\.txt:1: no labels"),
        ("\n../1#####a#####u#####m#####L", r"l\.txt:2: the id '\.\./1' cannot name"),
    ],
)
def test_a_wrong_list_is_answered_with_its_line(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "l.txt").write_text(content)
    with pytest.raises(DataError, match=says):
        product1m_lists.posts(tmp_path / "l.txt", labelled=True)


def test_what_is_not_there_is_named(with_regions: ConfigDict) -> None:
    data = with_regions.data
    lists, pictures = data.path, data.images
    for changes, says in (
        ({"regions": f"{lists}/none"}, r"cannot read manifest\.json: No such file"),
        ({"images": f"{pictures}/none"}, r"config\.data\.images=.*none: No such file"),
        ({"path": pictures}, r"no file .*product1m_train_ossurl_v2\.txt"),
        ({"name": "product1n"}, r"data set 'product1n' \(did you mean 'product1m'\?\)"),
    ):
        wrong = data.copy_and_resolve_references()
        wrong.update(changes)
        with pytest.raises((DataError, UsageError), match=says) as caught:
            pipeline.load(wrong, "posts")
        assert len(str(caught.value).splitlines()) <= 8
    with_regions.model.regions.width = 7
    with pytest.raises(DataError, match=rf"holds 6 regions of {WIDTH} numbers; set"):
        CAPTURE.load(with_regions)


def test_regions_are_of_one_kind() -> None:
    with pytest.raises(UsageError, match="grid and precomputed: regions are one or the other"):
        configs.get_config("grid,precomputed")


@pytest.mark.parametrize(
    ("word", "changes", "says"),
    [
        ("product1m", {"data.path": "a"}, "config.data.images is empty: name the folder"),
        ("precomputed", {}, "config.data.regions is empty, but config.model.regions.kind"),
        ("grid", {"data.regions": "a"}, "config.data.regions=a: not read unless"),
        ("precomputed", {"data.regions": "a", "data.fit": "letterbox"}, "set fit=stretch"),
        ("precomputed", {"data.regions": "a", "model.image.train": "none"}, "leave it all"),
    ],
)
def test_what_a_config_lacks_is_named(word: str, changes: dict[str, str], says: str) -> None:
    config = configs.get_config(word)
    config.update_from_flattened_dict(changes)
    with pytest.raises(UsageError, match=says):
        rules.validate(config, device_count=8, process_count=1)


def test_a_picture_is_found_among_other_files_of_its_id(tmp_path: Path) -> None:
    for name in ("7.png", "7.npz", "8.WEBP", "8.json", "9.jpg", "9.gif", "10.gif"):
        (tmp_path / name).touch()
    names = photos.files_by_id(tmp_path, ["7", "8", "9", "10", "11"])
    assert names == ["7.png", "8.WEBP", "9.jpg", "10.gif", "11.jpg"]
