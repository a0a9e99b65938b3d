"""Addresses of files on servers."""

import pickle
from pathlib import Path

import pytest

from wsidata.errors import UnsupportedImageError
from wsidata.remote.address import Address, is_address, slide_path
from wsidata.remote.transport import filesystem
from wsidata.slides.slide import Slide


def test_parts_of_an_address():
    one = Address("HTTPS://me:word@host.org/a%20b/slide%201.tif?sig=x%2Fy")
    assert (one.name, one.stem, one.suffix, one.protocol) == ("slide 1.tif", "slide 1", ".tif", "https")
    assert str(one) == "https://<hidden>@host.org/a%20b/slide%201.tif?<hidden>"
    assert one.text == "https://me:word@host.org/a%20b/slide%201.tif?sig=x%2Fy"
    assert {pickle.loads(pickle.dumps(one)), Address(one.text)} == {one}
    assert str(Address("s3://bucket/a?b.zarr").below("0/c")) == "s3://bucket/a?b.zarr/0/c"
    assert Address("https://h/a.zarr?t=1").below("0/zarr.json").text == "https://h/a.zarr/0/zarr.json?t=1"
    assert [Address(f"https://h/{name}").is_store for name in ("a.zarr/0", "a.zarr.zip")] == [True, False]


@pytest.mark.parametrize("name", ["https://h/%2e%2e", "https://h/a%2Fb", "https://h/..", "https://h/x%00.tif"])
def test_a_name_leads_to_no_other_folder(name):
    assert not {"/", "\0"} & set(Address(name).name)
    assert Path("/stage", Address(name).name).parent == Path("/stage") or Address(name).name == ".."


def test_what_is_an_address():
    assert all(map(is_address, ("s3://bucket/a.svs", "ftp://host/a", " https://host/a ")))
    assert not any(map(is_address, ("a.svs", "/data/a.svs", "C:/a.svs", "a:b.svs", "https:/a", "://", "s3://")))
    with pytest.raises(UnsupportedImageError, match="was an address before it became a Path"):
        slide_path(Path("https://host/a.tif"))


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    with pytest.raises(UnsupportedImageError, match=r"'s3://bucket/a.svs' is read through .* pip install 'slidestream"):
        Slide("s3://bucket/a.svs")
    with pytest.raises(UnsupportedImageError, match="not installed"):
        filesystem(Address("s3://bucket/a.svs"))
