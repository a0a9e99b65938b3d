"""Published and foreign data sets that name files outside their own folder."""

import json
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image as Picture

from wsidata import HubDataModule, WSIDataModule
from wsidata.hub.client import HubError
from wsidata.hub.export.writer import export
from wsidata.hub.manifest import Preprocessing, TableFile
from wsidata.utils.files import file_sha256

pytestmark = pytest.mark.slow  # most of it is the import of `datasets`


def picture(path, number=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Picture.fromarray(np.random.default_rng(number).integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def secret(tmp_path):
    """Photos of the user beside a data set, as files and inside Parquet."""
    for number in range(4):
        picture(tmp_path / "disk" / "train" / "ab"[number % 2] / f"{number}.png", number)
    photo = tmp_path / "disk" / "train" / "a" / "0.png"
    rows = [{"image": {"bytes": photo.read_bytes(), "path": None}, "label": "ab"[number % 2]} for number in range(4)]
    _parquet(tmp_path / "disk" / "train.parquet", rows)
    return photo


def _parquet(path, rows):
    from datasets import Features, Image, Value

    path.parent.mkdir(parents=True, exist_ok=True)
    schema = Features({"image": Image(), "label": Value("string")}).arrow_schema
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def opened(folder, tmp_path, **options):
    dm = HubDataModule(folder, num_workers=0, image_size=16, leaks="off", cache_dir=tmp_path / "cache", **options)
    return dm.labels.frame


def refused(folder, tmp_path, match="only files in its own folder"):
    with pytest.raises(HubError, match=match):
        opened(folder, tmp_path, val_fraction=0.5)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@pytest.mark.parametrize("relative", [False, True])
def test_rows_of_parquet_that_name_files_of_the_disk_are_refused(tmp_path, secret, relative):
    path = "../disk/train/a/0.png" if relative else str(secret)
    rows = [{"image": {"bytes": None, "path": path}, "label": "ab"[number % 2]} for number in range(4)]
    _parquet(tmp_path / "set" / "data" / "train-00000-of-00001.parquet", rows)
    refused(tmp_path / "set", tmp_path)


CARDS = {
    "above": "../disk/train/**",
    "absolute": "{home}/train/**",
    "parquet above": "../disk/train.parquet",
    "parquet": "{home}/train.parquet",
    "scheme": "file://{home}/train.parquet",
    "net": "https://127.0.0.1:9/train.parquet",
    "chain": "zip://*::../disk/x.zip",
    "among": ["data/*", "{home}/train.parquet"],
}


@pytest.mark.parametrize(
    ("which", "name"), [*((which, "README.md") for which in CARDS), ("among", ".huggingface.yaml"), ("among", "crlf")]
)
def test_cards_whose_data_files_lie_elsewhere_are_refused(tmp_path, secret, which, name, monkeypatch):
    given = CARDS[which] if isinstance(CARDS[which], list) else [CARDS[which]]
    paths = [path.format(home=tmp_path / "disk") for path in given]
    picture(tmp_path / "set" / "data" / "a" / "0.png")
    front = yaml.safe_dump({"configs": [{"config_name": "default", "data_files": [{"split": "train", "path": paths}]}]})
    line = "\r\n" if name == "crlf" else "\n"
    text = f"---\n{front}---\n".replace("\n", line) if name != ".huggingface.yaml" else front
    (tmp_path / "set" / ("README.md" if name == "crlf" else name)).write_bytes(text.encode())
    monkeypatch.setattr("datasets.load_dataset_builder", lambda *_, **__: pytest.fail("files were looked for"))
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: pytest.fail("files were looked for"))
    refused(tmp_path / "set", tmp_path)


def test_folders_and_data_dirs_of_cards_are_refused(tmp_path, secret):
    picture(tmp_path / "set" / "data" / "a" / "0.png")
    front = yaml.safe_dump({"configs": [{"config_name": "default", "data_dir": "../disk"}]})
    (tmp_path / "set" / "README.md").write_text(f"---\n{front}---\n")
    refused(tmp_path / "set", tmp_path)


@pytest.mark.parametrize("what", ["file", "table"])
def test_links_out_of_an_image_folder_are_refused(tmp_path, secret, what):
    for number in range(4):
        picture(tmp_path / "set" / "train" / "ab"[number % 2] / f"{number}.png", number)
    place = tmp_path / "set" / "train"
    if what == "file":
        (place / "a" / "9.png").symlink_to(secret)
    else:
        shutil.rmtree(place)
        (tmp_path / "set" / "train.parquet").symlink_to(tmp_path / "disk" / "train.parquet")
    refused(tmp_path / "set", tmp_path)


@pytest.mark.parametrize("target", ["../../disk/train/a", "b"])
def test_linked_folders_of_classes_are_not_left_out_silently(tmp_path, secret, target):
    for number in range(4):
        picture(tmp_path / "set" / "train" / "bc"[number % 2] / f"{number}.png", number)
    (tmp_path / "set" / "train" / "a").symlink_to(target)
    refused(tmp_path / "set", tmp_path, r"train/a' is a link to a folder.*would be left out")


def test_links_inside_an_image_folder_are_followed(tmp_path):
    for number in range(4):
        picture(tmp_path / "set" / ".objects" / f"{number}.png", number)
        link = tmp_path / "set" / "train" / "ab"[number % 2] / f"{number}.png"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(tmp_path / "set" / ".objects" / f"{number}.png")
    assert len(opened(tmp_path / "set", tmp_path, val_fraction=0.5)) == 4


def test_tables_of_an_image_folder_that_lead_out_are_refused(tmp_path, secret):
    picture(tmp_path / "set" / "train" / "0.png")
    rows = pd.DataFrame({"file_name": ["../../disk/train/a/0.png"] * 4, "label": list("abab")})
    rows.to_parquet(tmp_path / "set" / "train" / "metadata.parquet")
    refused(tmp_path / "set", tmp_path, "file_name|only files in its own folder")


def test_kinds_of_files_that_are_no_images_are_refused(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.txt").write_text("a\nb\n")
    refused(tmp_path / "set", tmp_path, "text.*Parquet, Arrow, JSON, CSV, WebDataset or image files")


# -- published sets ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(camelyon, tmp_path_factory):
    """An export; read only."""
    dm = WSIDataModule(
        camelyon / "evaluation" / "reference.csv", camelyon / "images", test_prefix="test_", level=1, image_size=64,
        num_workers=0,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("confined") / "set"
    export(dm, folder, layout="files", quiet=True, say=lambda _: None)
    return folder


@pytest.fixture
def copy(published, tmp_path):
    shutil.copytree(published, tmp_path / "set")
    return tmp_path / "set"


def sealed(folder, change=None, **facts):
    """Write a manifest again, with right digests, as whoever published it can."""
    content = json.loads((folder / "preprocessing.json").read_text())
    content |= facts
    if change is not None:
        table = content["tables"][0]
        rows = pd.read_parquet(folder / table["path"])
        change(rows)
        rows.to_parquet(folder / table["path"], index=False)
        table["sha256"] = file_sha256(folder / table["path"])
    del content["digest"], content["format_version"]
    Preprocessing._from_plain(content).save(folder)


@pytest.mark.parametrize("name", ["../../disk/train/a/0.png", "{home}/train/a/0.png"])
def test_published_rows_that_name_other_files_are_refused(copy, secret, tmp_path, name):
    def change(rows):
        rows.loc[0, "file_name"] = name.format(home=tmp_path / "disk")
        rows.loc[0, "sha256"] = file_sha256(secret)

    sealed(copy, change)
    with pytest.raises(HubError, match=r"metadata.parquet.* leads out of .*only files in its own folder"):
        opened(copy, tmp_path)


def test_published_links_to_other_files_are_refused(copy, secret, tmp_path):
    rows = pd.read_parquet(copy / "train" / "metadata.parquet")
    file = copy / "train" / rows["file_name"][0]
    shutil.copy(file, tmp_path / "disk" / "same.png")
    file.unlink()
    file.symlink_to(tmp_path / "disk" / "same.png")
    with pytest.raises(HubError, match="a link that leads out"):
        opened(copy, tmp_path)


def test_manifests_that_name_other_tables_are_refused(copy, tmp_path):
    table = Preprocessing.load(copy).tables[0]
    shutil.copy(copy / table.path, tmp_path / "t.parquet")
    tables = [vars(TableFile("train", "../t.parquet", table.rows, table.sha256))]
    sealed(copy, tables=tables)
    with pytest.raises(HubError, match=r"preprocessing.json.*names '../t.parquet', which leads out"):
        opened(copy, tmp_path)
