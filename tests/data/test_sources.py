"""The table of sources: which name serves which records, and what a reader finds out at once."""

import importlib
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from date_jax.data import pipeline, sources
from date_jax.errors import DataError, UsageError


@pytest.mark.parametrize("records", ["grounding", "posts", "offers"])
def test_every_kind_of_records_has_a_source_that_needs_no_file(records: str) -> None:
    names = [name for name, source in sources.SOURCES.items() if records in source.readers]
    assert any(not sources.SOURCES[name].needs for name in names)


def test_files_are_read_in_another_way_for_grounding_than_for_offers() -> None:
    readers = sources.SOURCES["files"].readers
    assert sources.reader("files", "grounding") is readers["grounding"]
    assert sources.reader("files", "offers") is readers["offers"]
    assert readers["grounding"] is not readers["offers"]


def test_a_source_of_other_records_is_refused_with_those_that_would_do() -> None:
    with pytest.raises(UsageError, match=r"(?s)data set 'shop'.*this task reads files, suites"):
        sources.reader("shop", "posts")


@pytest.mark.parametrize(
    ("module", "word"),
    [("pgda", "files"), ("capture", "product1m"), ("capture", "files"), ("same_style", "files"),
     ("same_style", "published")],
)  # fmt: skip
def test_a_file_that_is_not_there_is_told_by_the_early_check(
    module: str, word: str, tmp_path: Path
) -> None:
    config = importlib.import_module(f"configs.{module}").get_config(word)
    config.data.path = str(tmp_path / "missing.jsonl")
    config.data.cache_dir = str(tmp_path / "cache")
    with pytest.raises(DataError, match=r"config\.data\.path: no file .*missing\.jsonl"):
        sources.check_early(config.data)
    config.data.path = ""  # `config.validate` tells that
    sources.check_early(config.data)


def test_rendered_data_need_no_early_check(tiny_config: ConfigDict) -> None:
    sources.check_early(tiny_config.data)


def test_a_domain_that_the_shop_lacks_is_refused_before_a_picture_is_rendered(
    tiny_config: ConfigDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("pictures are rendered")

    monkeypatch.setattr("date_jax.data.datasets.shop.encoded_pictures", refuse)
    tiny_config.data.target = "street"
    with pytest.raises(DataError, match=r"data\.target: no domain 'street' in 'shop'"):
        pipeline.load(tiny_config.data, "grounding")
