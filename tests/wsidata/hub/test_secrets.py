import getpass
import json
import os
import shutil
from functools import partial
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image, PngImagePlugin

from wsidata import CardText, WSIDataModule
from wsidata.hub.export.writer import export
from wsidata.hub.manifest import PREPROCESSING_FILE, Preprocessing
from wsidata.hub.privacy import PrivacyError
from wsidata.hub.secrets import Secrets, check_export
from wsidata.hub.upload import published_files
from wsidata.slides.tissue.crop import TissueCrop
from wsidata.slides.tissue.mask import otsu_saturation
from wsidata.utils.files import file_sha256


@pytest.fixture(autouse=True)
def jane(monkeypatch):
    """The user's name and home."""
    monkeypatch.setattr(getpass, "getuser", lambda: "jane-doe")
    monkeypatch.setenv("HOME", "/users/jane-doe")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("read from /users/jane-doe/slides/x.svs", "folder '/users/jane-doe'"),
        ("made by jane-doe.", "name 'jane-doe'"),
        ("jane-doe@host", "name 'jane-doe'"),
        ("in /data/slides, 4 images", "folder '/data/slides'"),
        ("/data/slides/17.tif", "folder '/data/slides'"),
        ("x/images/patient_17/a.png", "id 'patient_17'"),
        ("T-2021 004", "id 'T-2021 004'"),
        ("train/images/T-2021_004.png", "id 'T-2021_004'"),
        ("Müller", "id 'Müller'"),
        ("number 1234567.", "id '1234567'"),
        *(
            (text, None)
            for text in (
                "data/slides/x", "https://x.org/data/slides", "/data/slides-2", "jane-doe-2", "patient_178", "xMüllery",
                "images/00017/a", "12345678", "tumor_9", "train", "the train split", "17", "image-0017", "/users/jane",
            )
        ),
    ],
)  # fmt: skip
def test_words_are_found_as_wholes(text, found):
    names = {"patient_17", "T-2021 004", "Müller", "1234567", "17", "00017", "tumor_9", "train", "image-0017"}
    secrets = Secrets.of_machine(["/data/slides"], names, said=["tumor_9", "image-0017"])
    assert secrets.in_text(text) == found or found in secrets.in_text(text)
    assert (secrets.in_text(text) is None) == (found is None)


@pytest.mark.parametrize("name", ["root", "train", "mpp", "ai", "jane-doe"])
def test_names_that_are_words_of_every_export_count_in_paths_only(monkeypatch, name):
    monkeypatch.setattr(getpass, "getuser", lambda: name)
    secrets = Secrets.of_machine(said=["By jane-doe."])
    assert secrets.in_text(f"the {name} split") is None
    assert "user's name" in secrets.in_text(f"/mnt/home/{name}/x")
    assert "user's name" in secrets.in_text(f"C:\\Users\\{name}\\x")


def test_links_to_folders_are_spelled_both_ways(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    secrets = Secrets.of_machine([tmp_path / "link"])
    assert all(secrets.in_text(f"{tmp_path}/{name}/x") for name in ("real", "link"))


def test_very_many_ids_and_folders_take_little_time():
    secrets = Secrets.of_machine((f"/data/{n}/slides" for n in range(5000)), {f"case_{n}" for n in range(100_000)})
    assert len(secrets.folders) < 5000
    text = "\n".join(f"image-{number:06d}" for number in range(100_000))
    assert secrets.in_text(text) is None
    assert secrets.in_text(f"{text} case_777") == "the id 'case_777'"


def own_method(pixels, reference=None):
    return otsu_saturation(pixels)


class Own:
    """A transform that knows a path."""

    def __init__(self, path):
        self.path = path

    def __call__(self, image):
        return image


def module(folder, **options):
    options = {"image_dir": folder / "images", "test_prefix": "test_", "level": 1, "image_size": 64} | options
    return WSIDataModule(folder / "evaluation" / "reference.csv", **{"num_workers": 0} | options)


def exported(dm, folder, **options):
    return export(dm, folder, **{"quiet": True, "say": lambda _: None, "layout": "files", "opaque_ids": True} | options)


def texts(folder):
    """Every text of an export, by other means than the code's."""
    found = [(folder / name).read_text() for name in ("README.md", PREPROCESSING_FILE)]
    for path in folder.rglob("*.parquet"):
        frame = pd.read_parquet(path)
        if "image" in frame.columns:
            frame["image"] = [image["path"] for image in frame["image"]]
        found += [str(pq.read_schema(path).metadata), frame.to_json()]
    found += [path.relative_to(folder).as_posix() for path in folder.rglob("*") if ".export" not in path.parts]
    return "\n".join(found)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["files", "parquet"])
def test_nothing_of_the_source_is_in_an_export_with_opaque_ids(camelyon, tmp_path, layout):
    crop = TissueCrop("tissue", method=partial(own_method, reference="/users/jane-doe/tumor_001.png"))
    transform = Own("/users/jane-doe/reference/normal_001.png")
    dm = module(camelyon, crop=crop, train_transform=transform, eval_transform=transform, image_size=None)
    found = exported(dm, tmp_path / "out", layout=layout)
    text = texts(tmp_path / "out")
    for secret in ("jane-doe", "tumor_001", "normal_001", "test_001", str(camelyon), "/users", "0x7"):
        assert secret not in text
    assert found.transforms["train"].text == "FunctionTransform(function=own.Own(path=...), colors_only=False)"
    assert found.crop["method"] == "partial(own_method, reference=...)"


@pytest.mark.slow
def test_words_in_labels_and_cards_are_refused_before_anything_is_written(camelyon, tmp_path):
    table = pd.read_csv(camelyon / "evaluation" / "reference.csv", dtype=str)
    table["class"] = table["class"].replace("tumor", f"tumor ({camelyon}/images)")
    table.to_csv(tmp_path / "t.csv", index=False)
    dm = WSIDataModule(tmp_path / "t.csv", camelyon / "images", test_prefix="test_", level=1, image_size=64)
    with pytest.raises(PrivacyError, match=r"(?s)column 'label_name' holds the folder '.*Nothing was written or sent"):
        exported(dm, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(PrivacyError, match=r"README.md holds the folder '/users/jane-doe'"):
        exported(module(camelyon), tmp_path / "out", card=CardText(description="See /users/jane-doe/notes."))
    assert not (tmp_path / "out" / PREPROCESSING_FILE).exists()
    exported(module(camelyon), tmp_path / "out", card=CardText(description="By jane-doe.", license="mit"))
    assert (tmp_path / "out" / PREPROCESSING_FILE).exists()


@pytest.fixture(scope="module")
def finished(camelyon, tmp_path_factory):
    """An export of each layout; read only."""
    root = tmp_path_factory.mktemp("secrets")
    for layout in ("files", "parquet"):
        exported(module(camelyon), root / layout, layout=layout)
    return root


def replace_table(folder, path, schema=None, **columns):
    table = pq.read_table(folder / path)
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(name), [values])
    pq.write_table(table.replace_schema_metadata(schema or table.schema.metadata), folder / path)
    content = json.loads((folder / PREPROCESSING_FILE).read_text())
    for one in content["tables"]:
        if one["path"] == path:
            one["sha256"] = file_sha256(folder / path)
    del content["digest"], content["format_version"]
    Preprocessing._from_plain(content).save(folder)


SECRETS = {"names": {"tumor_001"}}


@pytest.mark.slow
def test_every_place_of_an_export_is_looked_at(finished, tmp_path):
    def refused(layout, change, message):
        folder = tmp_path / f"{layout}{len(list(tmp_path.iterdir()))}"
        shutil.copytree(finished / layout, folder)
        check_export(folder, Preprocessing.load(folder), Secrets.of_machine(**SECRETS))
        change(folder)
        with pytest.raises(PrivacyError, match=message):
            check_export(folder, Preprocessing.load(folder), Secrets.of_machine(**SECRETS))

    first = "train/metadata.parquet"
    shard = "data/train-00000-of-00001.parquet"
    names = pq.read_table(finished / "files" / first)["label_name"].to_pylist()
    secret = ["/users/jane-doe/x", *names[1:]]
    refused(
        "files", lambda f: replace_table(f, first, label_name=secret), r"train/metadata.parquet, column 'label_name'"
    )
    refused("files", lambda f: replace_table(f, first, {"made": "jane-doe"}), r"metadata.parquet, metadata 'made'")
    rows = pq.read_table(finished / "parquet" / shard)["image"].to_pylist()
    named = [{**row, "path": "tumor_001.png"} for row in rows]
    refused("parquet", lambda f: replace_table(f, shard, image=named), r"column 'image.path' holds the id 'tumor_001'")

    def tell(image):
        text = PngImagePlugin.PngInfo()
        text.add_text("Source", "x")
        picture = Image.open(image)
        picture.load()
        picture.save(tmp_path / "told.png", pnginfo=text)
        return (tmp_path / "told.png").read_bytes()

    told = [{**rows[0], "bytes": tell(_file(rows[0]["bytes"], tmp_path))}, *rows[1:]]
    refused("parquet", lambda f: replace_table(f, shard, image=told), r"image of row 0 holds a chunk 'tEXt'")

    def in_file(folder):
        path = next((folder / "train" / "images").rglob("*.png"))
        path.write_bytes(tell(path))

    refused("files", in_file, r"train/images/00000/image-\d+.png holds a chunk 'tEXt'")
    refused("files", lambda f: _append(f / "README.md", "jane-doe: tumor_001"), r"README.md holds the id 'tumor_001'")


def _file(content, folder):
    (folder / "image.png").write_bytes(content)
    return folder / "image.png"


def _append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


@pytest.mark.slow
def test_links_in_an_export_are_not_uploaded(finished, tmp_path):
    from wsidata.hub.repository import PublishError

    shutil.copytree(finished / "files", tmp_path / "set")
    path = next((tmp_path / "set" / "train" / "images").rglob("*.png"))
    path.rename(tmp_path / "elsewhere.png")
    os.symlink(tmp_path / "elsewhere.png", path)
    with pytest.raises(PublishError, match="a link that leads out"):
        published_files(tmp_path / "set", Preprocessing.load(tmp_path / "set"))
