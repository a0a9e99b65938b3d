"""Tables that name slides on a server, which may be those of the server that the user names, and no others."""

import numpy as np
import pandas as pd
import pytest
import torch
from lightning import LightningModule, Trainer
from web_server import serving

from wsidata.datamodules.checks import SlideCheckError
from wsidata.datamodules.geometry import GeometryError
from wsidata.datamodules.image_folder import ImageFolderDataModule
from wsidata.datamodules.restore import as_table, refuse_other_kind
from wsidata.datamodules.wsi import WSIDataModule
from wsidata.errors import UnreachableImageError
from wsidata.evaluation import PredictionWriter
from wsidata.remote.address import Address
from wsidata.remote.source import identity_of
from wsidata.slides.file_facts import FileFacts
from wsidata.splits.near_duplicates import same_bytes
from wsidata.staging.stage import Stage
from wsidata.synthetic.slides import write_pixels
from wsidata.tables.label_table import read_table
from wsidata.tables.text_table import TableError


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (96, 128, 3), dtype=np.uint8)
        write_pixels(folder / "a b" / f"{number}.tif", pixels, tile=64)
    (folder / "copy.tif").write_bytes((folder / "a b" / "1.tif").read_bytes())
    with serving(folder) as served:
        served.folder = folder
        yield served


def table(*names):
    return pd.DataFrame({"image": names, "class": ["x", "y"] * (len(names) // 2)})


def test_a_data_module_reads_slides_of_a_server(server, tmp_path):
    names = [f"a b/{number}.tif" for number in range(4)]
    names[2] = f"{server.base}/a%20b/2.tif"
    options = {"level": 0, "num_workers": 0, "val_fraction": 0.5, "leaks": "off"}
    data = WSIDataModule(table(*names), server.base, **options)
    data.setup("fit")
    local = WSIDataModule(table(*(f"a b/{number}.tif" for number in range(4))), server.folder, **options)
    local.setup("fit")
    assert list(data.labels.frame["image_id"]) == list(local.labels.frame["image_id"])
    for ours, theirs in zip(data.val_dataloader(), local.val_dataloader(), strict=True):
        np.testing.assert_array_equal(ours[0].numpy(), theirs[0].numpy())
    staged = WSIDataModule(table(*names), server.base, stage_dir=tmp_path, **options)
    staged.setup("fit")
    image = next(iter(staged.val_dataloader()))[0]
    server.forget()
    np.testing.assert_array_equal(image.numpy(), next(iter(local.val_dataloader()))[0].numpy())


@pytest.mark.parametrize(
    "name", ["http://127.0.0.1:1/a.tif", "{base}.evil.org/a.tif", "{base}@evil.org/a.tif", "a b/../../x.tif",
             "{base}/slides/%2e%2e/a.tif", "{base}/slides/..\\a.tif", "s3://bucket/a.tif", "a\r\nX: y.tif", "/"],
)  # fmt: skip
def test_a_table_names_no_other_server(server, name):
    server.forget()
    with pytest.raises(TableError):
        read_table(table(name.format(base=server.base), "b.tif"), f"{server.base}/slides")
    with pytest.raises(TableError):
        read_table(table(name.format(base=server.base), "b.tif"), server.folder)
    assert not server.asked


def test_what_is_not_read_from_servers_says_so(server):
    with pytest.raises(TableError, match=r"is an address, and a table may name only those below .* image_dir="):
        read_table(table(f"{server.base}/copy.tif", "b.tif"), server.folder)
    with pytest.raises(TableError, match="masks and annotations are not read from servers"):
        read_table(table("a.tif", "b.tif"), server.base, target="mask", class_names=["x", "y"])
    with pytest.raises(TableError, match="only slides are read from servers"):
        ImageFolderDataModule(table("a.jpg", "b.jpg"), server.base).setup()


def test_addresses_are_read_as_a_checkpoint_says(server):
    trained = WSIDataModule(table("a b/0.tif", "a b/1.tif"), server.folder, level=0, image_size=64, val_fraction=0.0)
    content = {"WSIDataModule": trained.state_dict()}
    names = [f"{server.base}/a%20b/2.tif?sig=SECRET", f"{server.base}/copy.tif"]
    data = WSIDataModule.from_checkpoint(content, names, num_workers=0)
    local = WSIDataModule.from_checkpoint(
        content, [server.folder / "a b" / "2.tif", server.folder / "copy.tif"], num_workers=0
    )
    data.setup("predict")
    local.setup("predict")
    for ours, theirs in zip(data.predict_dataloader(), local.predict_dataloader(), strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    assert data.tables["predict"]["image_id"].tolist() == ["a b/2", "copy"]
    content["WSIDataModule"]["geometry"]["kind"] = "photos"
    with pytest.raises(GeometryError, match="is a slide"):
        refuse_other_kind([f"{server.base}/copy.tif?sig=SECRET"], "photos", ())
    for wrong, said in (
        ([names[0], "b.tif"], "is a path, and others are addresses"),
        (f"{server.base}/a%20b", "does not tell which files are in a folder.*image_dir="),
        (["https://one/a.tif", "https://two/a.tif"], "no server or bucket in common"),
    ):
        with pytest.raises(ValueError, match=said):
            as_table(wrong, None, "image")


class Even(LightningModule):
    def predict_step(self, batch, batch_idx):
        return torch.full((len(batch), 2), 0.5)


def test_what_is_secret_in_an_address_is_written_nowhere(server, tmp_path):
    names = [f"a b/{number}.tif" for number in range(4)]
    names[2] = f"{server.base}/a%20b/2.tif?sig=SECRET"
    whole = f"{server.base}?sig=SECRET"
    cases = table(*names).assign(case=["p", "q", "p", "q"])
    options = {"level": 0, "num_workers": 0, "val_fraction": 0.5, "leaks": "off", "predict_on": "all"}
    data = WSIDataModule(cases, whole, **options)
    assert data.hparams["image_dir"] == f"{server.base}?<hidden>"
    assert "SECRET" not in f"{data.hparams} {data.hparams_initial} {data.state_dict()}"
    assert data.arguments["image_dir"] == whole
    for number, module in enumerate(
        (data, WSIDataModule(cases, whole, case_column="case", **options | {"val_fraction": 0.0}))
    ):
        quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "accelerator": "cpu"}
        path = tmp_path / f"{number}.csv"
        Trainer(default_root_dir=tmp_path, callbacks=PredictionWriter(path), **quiet).predict(Even(), module)
        assert f"{server.base}/a%20b/0.tif?<hidden>" in path.read_text()
        assert "SECRET" not in path.read_text() + path.with_name(f"{path.name}.json").read_text()
    (server.folder / "cut.tif").write_bytes((server.folder / "copy.tif").read_bytes()[:3000])
    with pytest.raises(SlideCheckError, match=r"cut.tif\?<hidden>: Unreadable") as caught:
        WSIDataModule(table(*names[:3], "cut.tif"), whole, **options).setup()
    assert "SECRET" not in str(caught.value)
    server.move = f"{server.base}/round?sig=SECRET"
    with pytest.raises(UnreachableImageError, match="TooManyRedirects") as reached:
        identity_of(Address(f"{server.base}/copy.tif?sig=SECRET"))
    server.move = None
    assert "SECRET" not in str(reached.value)


def test_copies_and_facts_of_a_server(server, tmp_path):
    paths = [f"{server.base}/copy.tif", *(f"{server.base}/a%20b/{number}.tif" for number in range(3))]
    assert same_bytes(paths) == [[paths[0], paths[2]]]
    facts = FileFacts(paths[0])
    assert facts._identity.is_at_rest()
    stage = Stage(tmp_path)
    with stage.copy_of(paths[0]) as copy:
        assert copy.read_bytes() == (server.folder / "copy.tif").read_bytes()
    (server.folder / "copy.tif").write_bytes((server.folder / "a b" / "2.tif").read_bytes())
    with stage.copy_of(paths[0]) as copy:
        assert copy.read_bytes() == (server.folder / "copy.tif").read_bytes()
    assert FileFacts(paths[0])._identity != facts._identity
