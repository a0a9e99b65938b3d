import pytest

from wsidata.tables.class_names import class_map


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["tumor", "normal", ""], ("normal", "tumor")),
        (["10", "2", "1"], ("1", "2", "10")),
        (["10", "2", "x"], ("10", "2", "x")),
    ],
)
def test_default_order_is_sorted_and_whole_numbers_count(labels, classes):
    assert class_map(labels).class_names == classes


@pytest.mark.parametrize("given", [["tumor", "normal"], {"normal": 1, "tumor": 0}])
def test_given_order_is_kept(given):
    classes = class_map(["normal"], given)
    assert classes.class_names == ("tumor", "normal")
    assert classes.renames == {"tumor": "tumor", "normal": "normal"}


def test_mapping_to_names_merges():
    classes = class_map([], {"neg": "normal", "itc": "tumor", "macro": "tumor"})
    assert classes.class_names == ("normal", "tumor")
    assert classes.renames["itc"] == "tumor"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"a": 0, "b": 2}, "must number the classes 0, 1"),
        ({"a": 0, "b": 0}, "must number the classes.*merge"),
        ("normal", "is one text; pass a list"),
        (["a", "a"], "each once"),
        ([], "at least one class"),
        ({}, "at least one class"),
    ],
)
def test_impossible_class_names_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        class_map(["a"], given)
