"""Published sets whose tables or arguments are not what they should be, though every digest is right."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wsidata import HubDataModule
from wsidata.hub.client import HubError
from wsidata.hub.manifest import ExportFormatError, Preprocessing
from wsidata.utils.files import file_sha256

pytestmark = pytest.mark.slow


def opened(folder, tmp_path):
    dm = HubDataModule(folder, num_workers=0, leaks="off", cache_dir=tmp_path / "cache")
    dm.setup()
    return dm


def seal(folder, change=None, **facts):
    """Write the manifest again with right digests, as whoever published it can; `change` gets an Arrow table."""
    content = json.loads((folder / "preprocessing.json").read_text()) | facts
    if change is not None:
        first = content["tables"][0]
        path = folder / first["path"]
        change(path)
        first["sha256"] = file_sha256(path)
    del content["digest"], content["format_version"]
    Preprocessing._from_plain(content).save(folder)


def with_column(name, values):
    def change(path):
        table = pq.read_table(path)
        place = table.schema.get_field_index(name)
        table = table.remove_column(place)
        if values is not None:
            table = table.append_column(name, pa.array((values * table.num_rows)[: table.num_rows]))
        pq.write_table(table, path)

    return change


@pytest.mark.parametrize("layout", ["files", "parquet"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        *((with_column(name, None), f"has no column '{name}'") for name in ("image_id", "label_name", "row", "sha256")),
        (with_column("row", ["x"]), "column 'row' is not of int64"),
        (with_column("image_id", ["a", None]), "column 'image_id' has rows without a value"),
        (with_column("label", [7]), "column 'label' has numbers that are none of the 2 classes"),
        (with_column("width", [[1]]), "column 'width' is not of int64"),
        (lambda path: path.write_bytes(b"PAR1 nothing"), "is no table of Parquet"),
    ],
)
def test_odd_tables_are_named(exports, tmp_path, layout, change, message):
    shutil.copytree(exports / layout, tmp_path / "set")
    seal(tmp_path / "set", change)
    with pytest.raises(ExportFormatError, match=rf"(?s)\.parquet'.*{message}.*again"):
        opened(tmp_path / "set", tmp_path)


def test_shards_without_images_are_named(exports, tmp_path):
    for number, values in enumerate((None, [{"bytes": None, "path": "/etc/passwd"}])):
        folder = tmp_path / str(number)
        shutil.copytree(exports / "parquet", folder)
        seal(folder, with_column("image", values))
        with pytest.raises(HubError, match="has no image"):
            opened(folder, tmp_path)


ODD = ["x", [], {}, -1, 0, [0, 0], [1, 2, 3], True, 10**12, 1.5]


@pytest.mark.parametrize("name", ["image_size", "batch_size", "dtype", "sampling", "predict_on", "lazy"])
def test_odd_arguments_are_refused(exports, tmp_path, name):
    for number, odd in enumerate(one for one in ODD if (name, one) != ("lazy", True)):
        folder = tmp_path / str(number)
        shutil.copytree(exports / "files", folder)
        arguments = json.loads((folder / "preprocessing.json").read_text())["arguments"]
        seal(folder, arguments=arguments | {name: odd})
        if (name, odd) == ("batch_size", 10**12):
            assert len(opened(folder, tmp_path).tables["train"]) == 10
            continue
        with pytest.raises(ExportFormatError, match=rf"arguments.{name} is .*again"):
            opened(folder, tmp_path)
