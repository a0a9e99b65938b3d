"""Every argument of the data module can be given on LightningCLI's command line, or in its YAML file."""

import inspect

import pytest
import yaml
from lightning import LightningModule

from wsidata import WSIDataModule

pytest.importorskip("docstring_parser", reason="the command line needs jsonargparse[signatures]")
pytest.importorskip("typeshed_client", reason="the command line needs jsonargparse[signatures]")

GIVEN = {
    "image_column": "image",
    "label_column": ["class"],
    "class_names": ["tumor", "normal"],
    "target": "multilabel",
    "mask_dir": None,
    "mask_values": None,
    "outline_classes": {"Tumor": "tumor", "unsure": None},
    "max_side": 100,
    "image_size": [32, 48],
    "split": None,
    "split_column": None,
    "test_ids": ["test_001", "test_002"],
    "test_prefix": None,
    "val_ids": ["tumor_001", "normal_001"],
    "val_prefix": None,
    "group_column": "patient",
    "site_column": "centre",
    "case_column": None,
    "max_slides": None,
    "val_fraction": 0.25,
    "test_fraction": 0.0,
    "stratify": False,
    "k_fold": None,
    "repeat": 1,
    "small_classes": "train",
    "seed": 7,
    "train_transform": None,
    "eval_transform": None,
    "dtype": "float",
    "batch_size": 2,
    "num_workers": 0,
    "worker_start": "spawn",
    "decode_threads": 2,
    "mpp_override": [0.5, 0.25],
    "channels": None,
    "scale_to_8bit": [0, 255],
    "apply_icc": True,
    "series": 0,
    "z": 0,
    "t": 0,
    "on_error": "skip",
    "pin_memory": False,
    "predict_on": "all",
    "sampling": "shuffle",
    "leaks": "off",
    "leak_checks": ["content", "site"],
    "lazy": False,
    "crop": "tissue",
    "decimal": ",",
    "time_bins": [12.0, 24.0],
    "time_unit": "months",
    "remember_paths": True,
    "stage_dir": "stage",
    "stage_max_bytes": "1GB",
    "read_timeout_s": 60.0,
}
NOT_STORED = {"allow_changed"}
OF_THE_PATHS = {"table", "image_dir", "stats"}
OTHER_RESOLUTIONS = {"level": 1, "mpp": 0.5, "magnification": 10, "downsample": 2.5}


class Model(LightningModule):
    """A model that is never run."""


def parsed(camelyon, tmp_path, options):
    """What the command line makes of arguments in a YAML file."""
    from lightning.pytorch.cli import LightningCLI

    table = camelyon / "evaluation" / "reference.csv"
    data = {"table": str(table), "image_dir": str(camelyon / "images")} | options
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"data": data}))
    return LightningCLI(Model, WSIDataModule, run=False, args=["--config", str(tmp_path / "config.yaml")]).datamodule


def test_every_argument_is_given_here():
    arguments = set(inspect.signature(WSIDataModule.__init__).parameters) - {"self"}
    assert arguments == set(GIVEN) | OF_THE_PATHS | set(OTHER_RESOLUTIONS) | NOT_STORED


def test_arguments_about_checkpoints_arrive(camelyon, tmp_path):
    dm = parsed(camelyon, tmp_path, {"level": 1, "allow_changed": ["resolution", "crop"], "remember_paths": False})
    assert (dm.allow_changed, dm.remember_paths) == (("resolution", "crop"), False)
    assert NOT_STORED.isdisjoint(dm.hparams)


def test_arguments_arrive_as_they_were_given(camelyon, tmp_path):
    dm = parsed(camelyon, tmp_path, GIVEN)
    left_out = {"train_transform", "eval_transform"}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in dm.hparams.items()}
    assert {name: plain[name] for name in set(GIVEN) - left_out} == {
        n: v for n, v in GIVEN.items() if n not in left_out
    }
    assert dm.image_size == (32, 48)


@pytest.mark.parametrize(("name", "value"), OTHER_RESOLUTIONS.items())
def test_every_resolution_arrives(camelyon, tmp_path, name, value):
    assert parsed(camelyon, tmp_path, {name: value}).resolution == {name: value}


@pytest.mark.slow
def test_folds_statistics_and_labels_arrive_and_work(camelyon, tmp_path):
    from wsidata import channel_stats

    channel_stats(sorted((camelyon / "images").glob("tumor_00[12].tif")), level=1).save(tmp_path / "stats.json")
    options = {"level": 1, "num_workers": 0, "leaks": "off", "image_size": 32}
    folds = [
        parsed(
            camelyon,
            tmp_path,
            options | {"test_prefix": "test_", "k_fold": [i, 3], "stats": str(tmp_path / "stats.json")},
        )
        for i in range(3)
    ]
    validated = [set(dm.tables["val"]["image_id"]) for dm in folds]
    assert set.union(*validated) == set(folds[0].labels.frame.query("split != 'test'")["image_id"])
    assert sum(map(len, validated)) == len(set.union(*validated))
    assert folds[0].stats.image_count == 2
    split = tmp_path / "split.csv"
    folds[1].save_split(split)
    again = parsed(camelyon, tmp_path, options | {"split": str(split), "channels": ["red", 2], "crop": None})
    assert again.split_digest == folds[1].split_digest
    again.setup("fit")
    image, _ = again.datasets["val"][0]
    assert image.shape == (2, 32, 32)
