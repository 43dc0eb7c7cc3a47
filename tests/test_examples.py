"""The examples in docstrings are true, to three decimals."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WITH_EXAMPLES = sorted(
    str(path.relative_to(ROOT).with_suffix("")).replace("/", ".")
    for path in (ROOT / "date_jax").rglob("*.py")
    if ">>> " in path.read_text()
)
NUMBER = re.compile(r"-?\d+\.\d*(?:e[+-]\d+)?")


class Rounded(doctest.OutputChecker):
    """Equal text, and numbers that agree to three decimals, however many are shown."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        if NUMBER.sub("", want).split() != NUMBER.sub("", got).split():
            return False
        shown, computed = ([float(x) for x in NUMBER.findall(text)] for text in (want, got))
        return len(shown) == len(computed) and shown == pytest.approx(computed, rel=0, abs=1e-3)


def test_losses_have_examples() -> None:
    losses = {
        "date_jax.losses",
        "date_jax.pairs.contrastive",
        "date_jax.capture.pretext",
        "date_jax.same_style.matching",
    }
    assert losses <= set(WITH_EXAMPLES)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_an_example_gives_what_it_says(name: str) -> None:
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(Rounded())
    for example in doctest.DocTestFinder().find(module):
        runner.run(example)
    assert runner.tries > 0
    assert runner.failures == 0


def test_a_wrong_digit_is_seen() -> None:
    check = Rounded().check_output
    assert check("Array([1.099, 0.], dtype=float32)", "Array([1.0986123, 0.0], dtype=float32)", 0)
    assert check("Array([0.693, 0.000])", "Array([6.9314718e-01, 1.2340219e-04])", 0)
    assert not check("Array([1.099])", "Array([1.102])", 0)
    assert not check("Array([0.])", "Array([0., 0.])", 0)
