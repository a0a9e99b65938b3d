import json
import subprocess
import sys
from functools import partial

import numpy as np
import pytest

from wsidata.jobs.identity import identity
from wsidata.slides.tissue.mask import otsu_saturation

LIMIT = 200


def made(text, **names):
    """The function `f` that a source text defines."""
    scope = {"__name__": "mine", "np": np, "LIMIT": 200, **names}
    exec(compile(text, names.get("file", "a.py"), "exec"), scope)
    return scope["f"]


FIRST = "def f(x, least=3):\n    'One.'\n    return x.mean() in {'a', 'b', 'c', 'd'}"


@pytest.mark.parametrize(
    ("text", "same"),
    [
        (FIRST.replace("One", "Another"), True),
        (FIRST.replace("'One.'", "'One.'  # why"), True),
        ("\n\n\n" + FIRST, True),
        (FIRST.replace("'a', 'b', 'c'", "'c', 'b', 'a'"), True),
        (FIRST.replace("mean", "max"), False),
        (FIRST.replace("'d'", "'e'"), False),
        (FIRST.replace("least=3", "least=4"), False),
    ],
)
def test_only_what_a_function_does_counts(text, same):
    assert (identity(made(text)) == identity(made(FIRST))) == same
    json.dumps(identity(made(text)))


@pytest.mark.parametrize(
    "text", ["def f(x):\n    return x < LIMIT", "f = lambda x: g(x)", "def f(x):\n    return [y < LIMIT for y in x]"]
)
def test_globals_of_its_own_package_count(text):
    def helper(limit):
        scope = {"__name__": "mine", "LIMIT": limit}
        exec("def g(x):\n    return x < LIMIT", scope)
        return made(text, LIMIT=limit, g=scope["g"])

    assert identity(helper(200)) == identity(helper(200))
    assert identity(helper(200)) != identity(helper(201))


def test_closures_and_bound_arguments_count():
    def closing(value):
        def inner(x):
            """Another docstring."""
            return x < value

        return inner

    assert identity(closing(np.arange(3))) == identity(closing(np.arange(3)))
    assert identity(closing(np.arange(3))) != identity(closing(np.arange(4)))
    assert identity(partial(max, default=1)) == identity(partial(max, default=1))
    assert identity(partial(max, default=1)) != identity(partial(max, default=2))


class Method:
    """A callable with settings."""

    def __init__(self, limit, more=None):
        self.limit, self.more = limit, more

    def __call__(self, pixels):
        return pixels < self.limit


def test_callables_count_with_their_settings():
    assert identity(Method(1)) == identity(Method(1))
    assert identity(Method(1)) != identity(Method(2))
    assert identity(Method(1).__call__) == identity(Method(1).__call__)


def test_what_cannot_be_identified_equals_nothing():
    unknown = object()
    assert identity(unknown) != identity(unknown)
    assert identity(Method(1, object())) != identity(Method(1, object()))


def test_functions_that_call_themselves_end():
    def again(x):
        return again(x)

    assert identity(again) == identity(again)


@pytest.mark.slow
def test_identity_is_the_same_in_every_process():
    code = (
        "import json; from wsidata.jobs.identity import identity; "
        "from wsidata.slides.tissue.mask import otsu_saturation; "
        "f = lambda x: x in {'a', 'b', 'c', 'd'}; print(json.dumps([identity(otsu_saturation), identity(f)]))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }  # fmt: skip
    assert len(said) == 1
    assert json.loads(said.pop())[0] == json.loads(json.dumps(identity(otsu_saturation)))
