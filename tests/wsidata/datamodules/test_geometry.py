"""Images read otherwise than for the checkpoint's model are refused, by every data module, at every stage."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from lightning import LightningModule
from mean_color import trainer

from wsidata import ChannelStats, HubDataModule, ImageFolderDataModule, TissueCrop, WSIDataModule, export
from wsidata.datamodules.checkpoint import memory_in, read_memory
from wsidata.datamodules.geometry import GeometryError, GeometryWarning
from wsidata.slides.tissue.mask import otsu_saturation
from wsidata.synthetic import write_photo_folders
from wsidata.transforms import Blur, CropOrPad, RandomD4


class Mean(LightningModule):
    """A linear classifier on the mean color."""

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(3, 2)

    def forward(self, images):
        return self.head(images.float().mean((2, 3)))

    def training_step(self, batch, _):
        return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, _):
        self.training_step(batch, 0)

    test_step = validation_step

    def predict_step(self, batch, _):
        return self(batch[0] if isinstance(batch, (list, tuple)) else batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Remembering(Mean):
    """A network that keeps what it was trained on."""

    trained_on = None

    def on_load_checkpoint(self, checkpoint):
        self.trained_on = memory_in(checkpoint)


def slides(folder, **options):
    options = {"test_prefix": "test_", "level": 1, "image_size": 64, "num_workers": 0, "leaks": "off"} | options
    table = options.pop("table", folder / "evaluation" / "reference.csv")
    return WSIDataModule(table, folder / "images", **options)


def photos(folder, **options):
    return ImageFolderDataModule(folder, **({"image_size": 32, "num_workers": 0, "leaks": "off"} | options))


def bright(pixels, limit=200):
    return pixels.mean(2) > limit


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_photo_folders(tmp_path_factory.mktemp("photos"), classes=2, per_class=8, side_px=48)


@pytest.fixture(scope="module")
def trained(camelyon, tmp_path_factory):
    """Checkpoint of a short training on slides."""
    out = tmp_path_factory.mktemp("trained")
    run = trainer(out, max_epochs=1)
    run.fit(Mean(), datamodule=slides(camelyon))
    run.save_checkpoint(out / "slides.ckpt")
    return out / "slides.ckpt"


OTHER_SLIDES = {
    "level": ({"level": 2}, "resolution", "level=1", "level=2"),
    "mpp": ({"level": None, "mpp": 1.0}, "resolution", "level=1", r"mpp=1\.0"),
    "crop": ({"crop": "tissue"}, "crop", "crop=None", "crop={'kind': 'tissue'"),
    "channels": ({"channels": [0, 1, 2]}, "channels", "channels=None", r"channels=\[0, 1, 2\]"),
    "scale": ({"scale_to_8bit": (0, 300)}, "scale_to_8bit", "scale_to_8bit=None", r"scale_to_8bit=\[0, 300\]"),
    "colors": ({"apply_icc": True}, "apply_icc", "apply_icc=False", "apply_icc=True"),
    "size": ({"image_size": 96}, "image_size", r"image_size=\[64, 64\]", r"image_size=\[96, 96\]"),
    "no size": ({"image_size": None}, "image_size", r"image_size=\[64, 64\]", "image_size=None"),
    "type": ({"dtype": "float"}, "dtype", "dtype='uint8'", "dtype='float'"),
    "transform": ({"eval_transform": CropOrPad(48)}, "eval_transform", "eval_transform=the default", "CropOrPad"),
}
OTHER_PHOTOS = {
    "resize": ({"resize_px": 40}, "resize_px", "resize_px=37", "resize_px=40"),
    "size": ({"image_size": 24, "resize_px": 37}, "image_size", r"image_size=\[32, 32\]", r"image_size=\[24, 24\]"),
    "colors": ({"apply_icc": False}, "apply_icc", "apply_icc=True", "apply_icc=False"),
    "normalize": ({"normalize": "imagenet", "dtype": "float"}, "normalize", "normalize=None", "normalize='imagenet'"),
    "transform": ({"eval_transform": Blur((1, 1))}, "eval_transform", "eval_transform=the default", "Blur"),
}
CASES = [(slides, case) for case in OTHER_SLIDES.items()] + [(photos, case) for case in OTHER_PHOTOS.items()]


@pytest.mark.parametrize(("make", "case"), CASES, ids=[f"{make.__name__} {name}" for make, (name, _) in CASES])
def test_another_setting_is_refused_naming_both_values_and_the_override(camelyon, folder, make, case):
    source = camelyon if make is slides else folder
    options, name, theirs, ours = case[1]
    memory = make(source).state_dict()
    changed = [name] if "dtype" not in options or name == "dtype" else ["dtype", name]
    other = make(source, **options)
    with pytest.raises(GeometryError, match=f"trained on .*{theirs}.* and here .*{ours}.*allow_changed=.*'{name}'"):
        other.load_state_dict(memory)
    make(source, **options, allow_changed=changed).load_state_dict(memory)
    make(source).load_state_dict(other.state_dict() | {"geometry": memory["geometry"]})


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"level": None, "mpp": 2}, {"level": None, "mpp": (2.0, 2.0)}),
        ({"level": np.int64(1)}, {"level": 1}),
        ({"image_size": (64, 64)}, {"image_size": 64}),
        ({"channels": 0}, {"channels": [0]}),
        ({"crop": "pack"}, {"crop": TissueCrop("pack", on_empty="whole")}),
        ({"crop": TissueCrop("pack", method=partial(bright, limit=9))},) * 2,
        ({}, {"lazy": True, "batch_size": 3, "num_workers": 1, "val_fraction": 0.3, "mpp_override": 0.5}),
        ({"eval_transform": CropOrPad(48)}, {"eval_transform": CropOrPad(48)}),
        ({"train_transform": RandomD4()}, {}),
    ],
)
def test_the_same_said_otherwise_and_what_changes_no_pixels_are_accepted(camelyon, first, second):
    geometry, dm = slides(camelyon, **first).geometry(), slides(camelyon, **second)
    dm.load_state_dict({**dm.state_dict(), "geometry": geometry})


@pytest.mark.parametrize("other", [{"margin_px": 9}, {"method": partial(bright, limit=8)}])
def test_crops_differ_by_their_settings(camelyon, other):
    memory = slides(camelyon, crop=TissueCrop("pack", method=otsu_saturation)).state_dict()
    with pytest.raises(GeometryError, match=r"crop=\{'kind': 'pack', .* and here .*crop=\{'kind': 'pack'"):
        slides(camelyon, crop=TissueCrop("pack", **other)).load_state_dict(memory)


def test_unknown_settings_cannot_be_allowed(camelyon):
    with pytest.raises(ValueError, match="allow_changed='mpp' is not one of kind, resolution"):
        slides(camelyon, allow_changed=["mpp"])


def test_photos_are_no_slides(camelyon, folder):
    with pytest.raises(GeometryError, match=r"kind='slides'.* and here .*kind='photos'"):
        photos(folder).load_state_dict(slides(camelyon).state_dict())


@pytest.mark.parametrize("stage", ["predict", "test", "validate", "fit"])
def test_every_stage_of_a_trainer_refuses_another_resolution(camelyon, trained, tmp_path, stage):
    run = getattr(trainer(tmp_path, max_epochs=2), stage)
    with pytest.raises(GeometryError, match="level=1, and here they are read with level=2"):
        run(Mean(), datamodule=slides(camelyon, level=2), ckpt_path=trained)
    run(Mean(), datamodule=slides(camelyon, level=2, allow_changed=["resolution"]), ckpt_path=trained)


def test_what_belongs_to_training_is_compared_when_it_resumes(camelyon, trained, tmp_path):
    for name, value in (("train_transform", CropOrPad(64)), ("mpp_override", 0.48)):
        dm = slides(camelyon, **{name: value})
        trainer(tmp_path).predict(Mean(), datamodule=dm, ckpt_path=trained)
        with pytest.raises(GeometryError, match=f"allow_changed=\\['{name}'\\]"):
            trainer(tmp_path, max_epochs=2).fit(Mean(), datamodule=dm, ckpt_path=trained)


def test_the_override_is_not_kept_and_settings_passed_anew_are_compared(camelyon, trained, tmp_path):
    where = {"table": camelyon / "evaluation" / "reference.csv", "image_dir": camelyon / "images"}
    assert WSIDataModule.load_from_checkpoint(trained, **where).resolution == {"level": 1}
    with pytest.raises(GeometryError, match="image_size"):
        WSIDataModule.load_from_checkpoint(trained, **where, image_size=32)
    dm = WSIDataModule.load_from_checkpoint(trained, **where, image_size=32, allow_changed=["image_size"])
    assert "allow_changed" not in dm.hparams


class Mine(WSIDataModule):
    """A data module of one's own."""


@pytest.mark.slow
def test_data_modules_of_another_class_are_compared_too(camelyon, trained, tmp_path):
    arguments = (camelyon / "evaluation" / "reference.csv", camelyon / "images")
    options = {"test_prefix": "test_", "image_size": 64, "num_workers": 0, "leaks": "off"}
    with pytest.raises(GeometryError, match="level=1, and here they are read with level=0"):
        trainer(tmp_path).predict(Mean(), datamodule=Mine(*arguments, level=0, **options), ckpt_path=trained)
    trainer(tmp_path).predict(Mean(), datamodule=Mine(*arguments, level=1, **options), ckpt_path=trained)


@pytest.mark.slow
def test_checkpoints_that_cannot_be_compared_are_warned_of(camelyon, tmp_path):
    torch.save({"other": torch.zeros(2)}, tmp_path / "other.pth")
    assert read_memory(tmp_path / "other.pth") is None
    content = {"state_dict": Mean().state_dict(), "pytorch-lightning_version": "2.5.0", "mine": Mean()}
    torch.save(content, tmp_path / "odd.ckpt")
    with pytest.warns(GeometryWarning, match=r"'.*odd\.ckpt' could not be compared.*weights_only=True"):
        trainer(tmp_path).predict(Mean(), slides(camelyon), ckpt_path=tmp_path / "odd.ckpt", weights_only=False)


@pytest.mark.slow
def test_models_that_remember_are_compared_without_a_checkpoint(camelyon, trained, tmp_path):
    model = Remembering.load_from_checkpoint(trained)
    with pytest.raises(GeometryError, match="level=1, and here they are read with level=2"):
        trainer(tmp_path).predict(model, datamodule=slides(camelyon, level=2))
    trainer(tmp_path, max_epochs=1).fit(model, datamodule=slides(camelyon, level=2))  # trained anew, at another level
    trainer(tmp_path).predict(model, datamodule=slides(camelyon, level=2))
    with pytest.raises(GeometryError, match="level=2, and here they are read with level=1"):
        trainer(tmp_path).test(model, datamodule=slides(camelyon), verbose=False)


@pytest.mark.slow
def test_class_names_come_back_from_the_checkpoint(camelyon, trained, tmp_path):
    table = pd.DataFrame({"image": ["test_001", "test_002"]})
    dm = slides(camelyon, table=table, label_column=None, test_prefix=None)
    assert dm.class_names == ()
    trainer(tmp_path).predict(Mean(), datamodule=dm, ckpt_path=trained)
    assert (dm.class_names, dm.num_classes) == (("normal", "tumor"), 2)


def test_checkpoints_of_before_load_with_one_warning(camelyon):
    memory = slides(camelyon).state_dict()
    del memory["geometry"]
    with pytest.warns(GeometryWarning, match=r"does not remember.*level=2.*image_size=\[64, 64\]") as said:
        slides(camelyon, level=2).load_state_dict(memory)
    assert len(said) == 1


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"crop": "tissue", "level": None, "mpp": 1.0, "apply_icc": True}])
def test_published_slides_have_the_geometry_of_the_data_module(camelyon, tmp_path, options):
    pytest.importorskip("datasets", reason="publishing needs slidestream[hub]")
    dm = slides(camelyon, **options)
    export(dm, tmp_path / "out", quiet=True, say=lambda _: None)
    memory = dm.state_dict()
    HubDataModule(tmp_path / "out").load_state_dict(memory)
    assert HubDataModule(tmp_path / "out").geometry() == dm.geometry()
    with pytest.raises(GeometryError, match=r"image_size=\[64, 64\], and here .*image_size=\[32, 32\]"):
        HubDataModule(tmp_path / "out", image_size=32).load_state_dict(memory)
    other = slides(camelyon, **options | {"mpp": None, "level": 2}).state_dict()
    with pytest.raises(GeometryError, match=r"and here they are read with (level=1|mpp=1)"):
        HubDataModule(tmp_path / "out").load_state_dict(other)
    HubDataModule(tmp_path / "out", allow_changed=["resolution"]).load_state_dict(other)


@pytest.mark.slow
def test_published_photos_have_the_geometry_of_the_data_module(folder, tmp_path):
    pytest.importorskip("datasets", reason="publishing needs slidestream[hub]")
    dm = photos(folder, normalize="stats", apply_icc=False)
    export(dm, tmp_path / "out", quiet=True, say=lambda _: None)
    assert HubDataModule(tmp_path / "out").geometry() == dm.geometry()
    with pytest.raises(GeometryError, match=r"normalize='stats'.* and here .*normalize=None"):
        HubDataModule(tmp_path / "out", normalize=None).load_state_dict(dm.state_dict())
    other = HubDataModule(folder, image_size=32)  # not published by this package
    with pytest.raises(GeometryError, match=r"apply_icc=False.* and here .*apply_icc=True"):
        other.load_state_dict(dm.state_dict())


@pytest.mark.slow
def test_photos_of_another_class_are_normalized_with_the_checkpoints_statistics(folder, tmp_path):
    class MyPhotos(ImageFolderDataModule):
        """A data module of one's own."""

    stats = ChannelStats((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 1, 1, "pooled", False, 255)
    run = trainer(tmp_path, max_epochs=1)
    run.fit(Mean(), datamodule=photos(folder, normalize="stats", stats=stats))
    run.save_checkpoint(tmp_path / "photos.ckpt")
    dm = MyPhotos(folder, normalize="stats", image_size=32, num_workers=0, leaks="off")
    trainer(tmp_path).predict(Mean(), datamodule=dm, ckpt_path=tmp_path / "photos.ckpt")
    assert dm.datasets["predict"].normalization == (stats.mean, stats.std)


@pytest.mark.slow
def test_the_override_is_reachable_from_the_command_line(camelyon, trained, tmp_path):
    pytest.importorskip("docstring_parser", reason="the command line needs jsonargparse[signatures]")
    pytest.importorskip("typeshed_client", reason="the command line needs jsonargparse[signatures]")
    from lightning.pytorch.cli import LightningCLI

    arguments = {
        "data.table": camelyon / "evaluation" / "reference.csv", "data.image_dir": camelyon / "images",
        "data.test_prefix": "test_", "data.level": 2, "data.image_size": 64, "data.num_workers": 0,
        "data.leaks": "off", "ckpt_path": trained, "trainer.accelerator": "cpu", "trainer.logger": "false",
        "trainer.enable_progress_bar": "false", "trainer.default_root_dir": tmp_path,
    }  # fmt: skip
    told = ["predict", *(f"--{key}={value}" for key, value in arguments.items())]
    with pytest.raises(GeometryError, match="level=1, and here they are read with level=2"):
        LightningCLI(Mean, WSIDataModule, args=told, save_config_callback=None)
    LightningCLI(Mean, WSIDataModule, args=[*told, "--data.allow_changed=[resolution]"], save_config_callback=None)
