from __future__ import annotations

import pytest

import streammodels


def test_every_public_name_is_found_and_listed() -> None:
    assert all(getattr(streammodels, name) is not None for name in streammodels.__all__)
    assert set(streammodels.__all__) <= set(dir(streammodels))


def test_unknown_name_raises_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        streammodels.nothing  # noqa: B018 - the access is what is tested
