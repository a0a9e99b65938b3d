import json
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsidata.utils.plain_json import PlainJSONError, from_plain, json_object


@dataclass(frozen=True)
class Inner:
    text: str
    pair: tuple[float, float] | None = None


@dataclass(frozen=True)
class Outer:
    count: int
    is_so: bool
    kind: Literal["a", "b"] | None
    values: tuple[float, ...]
    inner: Inner
    many: tuple[Inner, ...] = ()
    named: dict[str, Inner] = field(default_factory=dict)
    anything: Any = None


RIGHT: dict[str, Any] = {
    "count": 3, "is_so": True, "kind": "a", "values": [1, 0.5], "inner": {"text": "x", "pair": [1, 2]},
    "many": [{"text": "y"}], "named": {"z": {"text": "z", "pair": None}}, "anything": [1, {"a": None}],
}  # fmt: skip


def test_fields_become_what_they_are_declared_as():
    found = from_plain(Outer, json_object(json.dumps(RIGHT)))
    inner = Inner("x", (1, 2))
    assert found == Outer(3, True, "a", (1, 0.5), inner, (Inner("y"),), {"z": Inner("z")}, [1, {"a": None}])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": "3"}, 'count is "3", and not int'),
        ({"count": True}, "count is true, and not int"),
        ({"count": 2**80}, "count is .*and not int"),
        ({"count": None}, "count is null"),
        ({"is_so": 1}, "is_so is 1, and not bool"),
        ({"kind": "c"}, "kind is \"c\", and not 'a' or 'b'"),
        ({"kind": []}, "kind is a list of 0"),
        ({"values": [1, "x"]}, r'values\[1\] is "x", and not float'),
        ({"values": {"a": 1}}, "values is an object of 1"),
        ({"values": [1e999]}, r"values\[0\] is Infinity"),
        ({"inner": 3}, "inner is 3 where an object"),
        ({"inner": {}}, "inner lacks 'text'"),
        ({"inner": {"text": "x", "pair": [1]}}, "inner.pair is a list of 1"),
        ({"many": [{"text": "y"}, {"text": 3}]}, r"many\[1\].text is 3"),
        ({"named": {"z": None}}, "named.z is null"),
        ({"more": 1}, 'it has "more", which is unknown'),
    ],
)
def test_other_values_are_named(change, message):
    with pytest.raises(PlainJSONError, match=message):
        from_plain(Outer, RIGHT | change)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no JSON"), ("[]", "holds a list of 0"), ("null", "holds null"), ("[" * 100_000, "nested too deeply"),
        ('{"a": NaN}', "NaN is no number"), ('{"a": -Infinity}', "no number"), ("9" * 5000, "no JSON"),
        ('{"a": ' * 50_000, "nested too deeply"), ('"x"', 'holds "x"'),
    ],
)  # fmt: skip
def test_other_texts_are_refused(text, message):
    with pytest.raises(PlainJSONError, match=message):
        json_object(text)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(sorted(RIGHT)), VALUES)
def test_no_value_raises_anything_else(name, value):
    try:
        found = from_plain(Outer, RIGHT | {name: value})
    except PlainJSONError:
        return
    assert isinstance(found, Outer)
    hash((found.count, found.kind, found.values, found.inner))
