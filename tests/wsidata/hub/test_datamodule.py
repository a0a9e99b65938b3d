import warnings

import pandas as pd
import pytest
import torch
from lightning import LightningModule, seed_everything
from mean_color import trainer

from wsidata import HubDataModule, LazyImage, WSIDataModule
from wsidata.hub.card import unfinished_card
from wsidata.hub.client import HubError, HubOfflineWarning, HubWarning, Patience, UnreachableError, is_busy
from wsidata.hub.export.writer import export
from wsidata.hub.manifest import PREPROCESSING_FILE, ExportFormatError
from wsidata.stats.result import ChannelStats


def module(folder, **options):
    options = {"image_dir": folder / "images", "test_prefix": "test_", "level": 1, "image_size": 64} | options
    return WSIDataModule(folder / "evaluation" / "reference.csv", **{"num_workers": 0, "batch_size": 3} | options)


def exported(dm, folder, **options):
    export(dm, folder, quiet=True, say=lambda _: None, **options)
    return folder


@pytest.fixture(scope="module")
def published(camelyon, tmp_path_factory):
    """A data module, and the folder it was exported to."""
    dm = module(camelyon)
    return dm, exported(dm, tmp_path_factory.mktemp("published") / "slides", layout="files")


@pytest.fixture
def address(hub, tmp_path):
    """Arguments for the local Hub and an empty cache."""
    return {"endpoint": hub.url, "cache_dir": tmp_path / "cache", "token": "hf_reader", "num_workers": 0}


def batches(dm, *parts):
    """All batches of an epoch of each loader."""
    seed_everything(7, verbose=False)
    dm.setup("fit")
    return [batch for part in parts or ("train", "val", "test") for batch in getattr(dm, f"{part}_dataloader")()]


def equal(first, second):
    return len(first) == len(second) and all(
        torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(first, second, strict=True)
    )


class Mean(LightningModule):
    """A linear classifier on the mean color."""

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(3, 2)

    def training_step(self, batch, _):
        return torch.nn.functional.cross_entropy(self.head(batch[0].float().mean((2, 3)) / 255), batch[1])

    def validation_step(self, batch, _):
        self.log("val_loss", self.training_step(batch, 0))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


# -- the same as was published -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "how"),
    [
        ({}, {"layout": "files"}),
        ({}, {"layout": "parquet"}),
        ({"crop": "pack", "dtype": "float"}, {"image_format": "tiff"}),
        ({"image_size": (48, 80), "sampling": "balanced", "predict_on": "all"}, {"layout": "files"}),
        ({"image_size": None, "batch_size": 1, "max_side": 90, "level": None}, {"layout": "parquet"}),
    ],
)
def test_folder_gives_the_batches_tables_and_memory_of_the_data_module(camelyon, tmp_path, options, how):
    dm = module(camelyon, **options)
    statistics = dm.stats
    again = HubDataModule(exported(dm, tmp_path / "out", **how), num_workers=0, cache_dir=tmp_path / "cache")
    assert equal(batches(again), batches(dm))
    assert all(torch.equal(a, b) for a, b in zip(batches(again, "predict"), batches(dm, "predict"), strict=True))
    assert again.class_names == dm.class_names
    assert again.class_weights.tolist() == dm.class_weights.tolist()
    pd.testing.assert_frame_equal(again.labels.frame.drop(columns="path"), dm.labels.frame.drop(columns="path"))
    for part, table in dm.tables.items():
        assert again.tables[part]["image_id"].tolist() == table["image_id"].tolist()
    assert again.stats == statistics
    memory = again.state_dict()
    expected = {name: value for name, value in dm.state_dict().items() if name != "mpp"}  # of the slides
    read = [ChannelStats.from_json(one.pop("stats")) for one in (memory, expected)]
    assert read[0] == read[1]  # how slides were read is not published where it is the default
    assert {name: memory[name] for name in expected} == expected
    assert len(again.show_batch("val").axes) >= 2


@pytest.mark.slow
def test_published_statistics_are_available_first(published):
    dm, folder = published
    assert HubDataModule(folder).stats == dm.stats


@pytest.mark.slow
def test_arguments_override_the_published_ones(published):
    dm, folder = published
    mine = ChannelStats((0.5,) * 3, (0.5,) * 3, 1, 1, "pooled", False, 255)
    again = HubDataModule(
        folder, num_workers=0, batch_size=2, dtype="float", image_size=32, predict_on="val", stats=mine
    )
    images, _ = batches(again)[0]
    assert (images.shape, images.dtype) == ((2, 3, 32, 32), torch.float32)
    assert len(again.tables["predict"]) == len(dm.tables["val"])
    assert again.stats is mine


@pytest.mark.slow
def test_unpublished_transform_is_named_in_a_warning(camelyon, tmp_path):
    from wsidata.transforms.geometry.crop import CropOrPad

    folder = exported(module(camelyon, train_transform=CropOrPad(64)), tmp_path / "out")
    with pytest.warns(HubWarning, match=r"a train transform of its own.*CropOrPad.*Pass train_transform="):
        HubDataModule(folder).setup()
    with warnings.catch_warnings():
        warnings.simplefilter("error", HubWarning)
        again = HubDataModule(folder, train_transform=CropOrPad(64), num_workers=0)
        assert equal(batches(again), batches(module(camelyon, train_transform=CropOrPad(64))))


@pytest.mark.slow
def test_lazy_images_come_from_pyramids(camelyon, tmp_path):
    dm = module(camelyon, lazy=True, level=0, image_size=None)
    again = HubDataModule(exported(dm, tmp_path / "out"), num_workers=0)
    again.setup()
    [image, *_], labels = next(iter(again.val_dataloader()))
    [original, *_], theirs = next(iter(_set_up(dm).val_dataloader()))
    assert isinstance(image, LazyImage)
    assert labels.tolist() == theirs.tolist()
    assert torch.equal(image.rows(10, 90), original.rows(10, 90))


def _set_up(dm):
    dm.setup()
    return dm


def test_lazy_images_of_files_without_pyramid_warn(published):
    with pytest.warns(HubWarning, match=r"holds png images, which are decoded whole.*image_format='tiff'"):
        HubDataModule(published[1], lazy=True).setup()


# -- what is refused ---------------------------------------------------------------------------------------------------


def copied(folder, tmp_path):
    import shutil

    return shutil.copytree(folder, tmp_path / "copy")


def test_changed_and_absent_images_are_refused_together(published, tmp_path):
    folder = copied(published[1], tmp_path)
    first, second, third = sorted(folder.rglob("*.png"))[:3]
    first.write_bytes(second.read_bytes())
    third.unlink()
    with pytest.raises(HubError, match=r"2 problems(.|\n)*is not the image that was published(.|\n)*cannot be read"):
        HubDataModule(folder).setup()
    third.write_bytes(second.read_bytes())
    HubDataModule(folder, verify=False, leaks="off").setup()


def test_changed_tables_are_refused(published, tmp_path):
    folder = copied(published[1], tmp_path)
    table = folder / "test" / "metadata.parquet"
    pd.read_parquet(table).assign(label=0).to_parquet(table)
    with pytest.raises(ExportFormatError, match="was changed since it was published"):
        HubDataModule(folder).setup()
    table.unlink()
    with pytest.raises(ExportFormatError, match="is absent"):
        HubDataModule(folder).setup()


def test_unfinished_exports_are_refused(published, tmp_path):
    folder = copied(published[1], tmp_path)
    (folder / PREPROCESSING_FILE).unlink()
    with pytest.raises(ExportFormatError, match="not a finished export"):
        HubDataModule(folder).setup()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"revision": "main"}, "is a folder on this disk: leave out revision="),
        ({"streaming": True}, "is a folder on this disk: leave out streaming="),
        ({"val_fraction": 0.5, "label_column": "x"}, "which label_column=, val_fraction= would not change"),
        ({"normalize": "stats"}, "holds slides, for which there is no normalize="),
    ],
)
def test_arguments_without_effect_are_refused(published, options, message):
    with pytest.raises(HubError, match=message):
        HubDataModule(published[1], **options).setup()


def test_datasets_whose_publication_was_interrupted_are_refused(hub, address, published, tmp_path):
    folder = copied(published[1], tmp_path)
    (folder / PREPROCESSING_FILE).unlink()
    (folder / "README.md").write_text(unfinished_card((folder / "README.md").read_text()))
    hub.put("tester/slides", folder)
    with pytest.raises(HubError, match="is not complete: it is being published, or that was interrupted"):
        HubDataModule("tester/slides", **address).setup()


def test_absent_folder_is_not_looked_for_on_the_hub(tmp_path):
    with pytest.raises(HubError, match=r"is not a folder.*'owner/name'"):
        HubDataModule(tmp_path / "absent").setup()


# -- from a Hub --------------------------------------------------------------------------------------------------------


def downloads(hub):
    return [
        line["path"].rsplit("/")[-1] for line in hub.log() if line["method"] == "GET" and "/resolve/" in line["path"]
    ]


@pytest.mark.slow
def test_hub_gives_what_the_folder_gives_and_is_asked_once(hub, address, published):
    dm, folder = published
    commit = hub.put("tester/slides", folder, private=True)
    again = HubDataModule("tester/slides", **address)
    assert equal(batches(again), batches(dm))
    assert again.commit == commit
    assert again.preprocessing.arguments["level"] == 1
    assert len([name for name in downloads(hub) if name.endswith(".png")]) == 16
    hub.clear()
    assert equal(batches(HubDataModule("tester/slides", **address)), batches(dm))
    assert downloads(hub) == []


@pytest.mark.slow
def test_streaming_gives_the_same_batches_and_keeps_nothing(hub, address, published):
    dm, folder = published
    hub.put("tester/slides", folder)
    again = HubDataModule("tester/slides", streaming=True, **address)
    assert equal(batches(again), batches(dm))
    assert again.stats == dm.stats
    assert sorted(name for name in downloads(hub) if name.endswith(".png")) == sorted(
        path.name for path in folder.rglob("*.png")
    )
    assert list(address["cache_dir"].rglob("*.png")) == []
    assert again.show_batch("test", max_images=2).axes


@pytest.mark.slow
def test_streaming_retries_transient_errors(hub, address, published):
    dm, folder = published
    hub.put("tester/slides", folder)
    again = HubDataModule("tester/slides", streaming=True, **address)
    again.setup()
    hub.fail("GET", "test_001.png", status=503)
    hub.fail("GET", "test_002.png", how="cut")
    assert equal(batches(again, "test"), batches(dm, "test"))


def test_streaming_refuses_replaced_images(hub, address, published, tmp_path):
    folder = copied(published[1], tmp_path)
    first, second = sorted((folder / "test").rglob("*.png"))[:2]
    first.write_bytes(second.read_bytes())
    hub.put("tester/slides", folder)
    again = HubDataModule("tester/slides", streaming=True, **address)
    with pytest.raises(HubError, match="is not the image that was published"):
        batches(again, "test")


@pytest.mark.slow
def test_streaming_is_refused_where_images_are_inside_parquet(hub, address, camelyon, tmp_path):
    hub.put("tester/slides", exported(module(camelyon), tmp_path / "out", layout="parquet"))
    with pytest.raises(HubError, match=r"one file per image.*Leave streaming= out"):
        HubDataModule("tester/slides", streaming=True, **address).setup()


@pytest.mark.slow
def test_offline_the_cache_is_used_and_named(hub, address, published):
    dm, folder = published
    commit = hub.put("tester/slides", folder)
    batches(HubDataModule("tester/slides", **address))
    hub.stop()
    with pytest.warns(HubOfflineWarning, match=f"does not answer.*copy in the cache is used, commit {commit}"):
        assert equal(batches(HubDataModule("tester/slides", **address)), batches(dm))
    with warnings.catch_warnings():
        warnings.simplefilter("error", HubOfflineWarning)
        assert equal(batches(HubDataModule("tester/slides", revision=commit, **address)), batches(dm))
    with pytest.raises(UnreachableError, match="the cache has no complete copy"):
        HubDataModule("tester/others", **address).setup()


def test_partial_download_is_not_used(hub, address, published):
    hub.put("tester/slides", published[1])
    hub.fail("GET", "test_003.png", times=100, status=404, code="EntryNotFound")
    with pytest.raises(HubError, match="could not be downloaded"):
        HubDataModule("tester/slides", **address).setup()
    hub.stop()
    with pytest.raises(UnreachableError, match="the cache has no complete copy"):
        HubDataModule("tester/slides", **address).setup()


@pytest.mark.parametrize(
    ("repo_id", "options", "message"),
    [
        ("tester/slides", {"token": False}, "does not exist, or this token may not read it"),
        ("tester/slides", {"token": "hf_unknown"}, "this token may not read it"),
        ("tester/absent", {}, "does not exist"),
        ("tester/slides", {"revision": "v2"}, "there is no revision 'v2'"),
        ("tester/slides", {"revision": "0" * 40}, "there is no revision '0000"),
    ],
)
def test_download_errors_are_explained(hub, address, published, repo_id, options, message):
    hub.put("tester/slides", published[1], private=True)
    with pytest.raises(HubError, match=message):
        HubDataModule(repo_id, **address | options).setup()


@pytest.mark.slow
def test_servers_that_are_down_are_not_taken_for_missing_data(hub, address, published, monkeypatch):
    monkeypatch.setattr("wsidata.hub.repository.DOWNLOAD_PATIENCE", Patience(3, 0.01, is_busy))
    hub.put("tester/slides", published[1])
    hub.fail("GET", "/api/datasets/", times=2, status=503)
    HubDataModule("tester/slides", **address).prepare_data()
    hub.fail("GET", "/api/datasets/", times=100, status=503)
    with pytest.raises(UnreachableError, match="does not answer"):
        HubDataModule("tester/slides", **address | {"cache_dir": address["cache_dir"] / "other"}).setup()


# -- checkpoints -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_checkpoint_pins_the_commit(hub, address, published, camelyon, tmp_path):
    dm, folder = published
    first = hub.put("tester/slides", folder)
    run = trainer(tmp_path)
    run.fit(Mean(), HubDataModule("tester/slides", **address))
    run.save_checkpoint(tmp_path / "last.ckpt")
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert content["HubDataModule"]["hub"]["commit"] == first
    assert "token" not in content["datamodule_hyper_parameters"]

    (copied(folder, tmp_path) / "README.md").write_text("another card")
    second = hub.put("tester/slides", tmp_path / "copy")
    with pytest.raises(HubError, match=rf"trained on commit {first}.*this is {second}.*Pass revision='{first}'"):
        trainer(tmp_path, max_epochs=3).fit(
            Mean(), HubDataModule("tester/slides", **address), ckpt_path=tmp_path / "last.ckpt"
        )
    for same in (HubDataModule("tester/slides", revision=first, **address), HubDataModule(folder, num_workers=0), dm):
        trainer(tmp_path, max_epochs=3).fit(Mean(), same, ckpt_path=_for(same, tmp_path / "last.ckpt"))

    other = HubDataModule(exported(module(camelyon, level=0), tmp_path / "other"), num_workers=0)
    with pytest.raises(HubError, match="other published images"):
        trainer(tmp_path, max_epochs=3).fit(Mean(), other, ckpt_path=tmp_path / "last.ckpt")


def _for(dm, path):
    """Checkpoint with the data module's state under the name of its class."""
    if isinstance(dm, HubDataModule):
        return path
    content = torch.load(path, weights_only=True)
    content[type(dm).__name__] = content.pop("HubDataModule")
    torch.save(content, path.with_name("renamed.ckpt"))
    return path.with_name("renamed.ckpt")


@pytest.mark.slow
def test_workers_make_the_same_batches(hub, address, published):
    dm, folder = published
    hub.put("tester/slides", folder, private=True)
    address = address | {"num_workers": 2}
    assert equal(batches(HubDataModule("tester/slides", streaming=True, **address)), batches(dm))
    assert equal(batches(HubDataModule("tester/slides", **address)), batches(dm))
