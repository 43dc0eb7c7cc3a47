"""The Dockerfile, read as Docker reads it: it copies what is there and starts without rights."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def instructions() -> list[tuple[str, str]]:
    """Each instruction and its arguments, without comments and with continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(*line.split(maxsplit=1),) for line in lines if line.strip()]  # type: ignore[misc]


def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage, those of the stage that it begins with in front."""
    stages: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for word, rest in instructions():
        if word == "FROM":
            image, _, name = rest.partition(" AS ")
            stages[name] = [*stages.get(image, [(word, image)])]
        else:
            stages[name].append((word, rest))
    return stages


def locked_versions(name: str) -> dict[str, str]:
    text = (ROOT / name).read_text()
    return dict(re.findall(r"^([a-z0-9_.-]+)==([^ ;\\]+)", text, re.MULTILINE))


def test_every_instruction_is_one_of_dockers_and_lists_are_json() -> None:
    known = {"FROM", "ARG", "ENV", "RUN", "WORKDIR", "COPY", "USER", "EXPOSE", "ENTRYPOINT", "CMD"}
    for word, rest in instructions():
        assert word in {*known, "HEALTHCHECK"}
        if word in ("ENTRYPOINT", "CMD"):
            assert all(isinstance(part, str) for part in json.loads(rest))


def test_both_images_start_as_a_user_without_rights_from_a_fixed_base() -> None:
    assert stages().keys() == {"base", "serve", "train"}
    for name in ("serve", "train"):
        lines = stages()[name]
        assert re.fullmatch(r"python:3\.11-[a-z-]+", lines[0][1])
        assert ("USER", "seeker") in lines
        last_user = max(i for i, (word, _) in enumerate(lines) if word == "USER")
        assert not [rest for word, rest in lines[last_user:] if word in ("RUN", "COPY")]
        for word, rest in lines:
            if word == "RUN" and "pip install --require" in rest:
                assert "--require-hashes" in rest
            if "apt-get install" in rest:
                assert "--no-install-recommends" in rest
                assert "rm -rf /var/lib/apt/lists" in rest


def test_what_is_copied_is_there_and_reaches_the_builder() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    for word, rest in instructions():
        if word == "COPY":
            for name in rest.split()[:-1]:
                assert (ROOT / name).exists(), name
                assert f"!{name}" in ignored, name


def test_the_serving_image_has_no_tensorflow_and_the_versions_of_the_other_lock_file() -> None:
    serving, training = (locked_versions(f"requirements{end}.lock") for end in ("-serve", ""))
    assert serving.items() <= training.items()
    assert not [name for name in serving if name.startswith(("tensorflow", "torch", "clu"))]
    wanted = (ROOT / "launch/serve.in").read_text().splitlines()
    names = {name.lower().replace("_", "-") for name in wanted if not name.startswith("#")}
    assert names <= serving.keys()


def test_a_server_in_a_container_asks_for_a_token() -> None:
    """It listens on all addresses there, which `serve` refuses without one."""
    entry = dict(stages()["serve"])["ENTRYPOINT"]
    assert json.loads(entry) == ["python", "-m", "date_jax.serve", "--host=0.0.0.0"]
    assert "DATE_JAX_TOKEN" in (ROOT / "Dockerfile").read_text()
