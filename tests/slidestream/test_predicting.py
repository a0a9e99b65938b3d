"""Predictions made by the processes of an executor are those of one process."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from lightning import Trainer

from slidestream.predicting import Done, predict
from streammodels import StreamingResNet
from wsidata import ImageFolderDataModule, SplitDataModule, WSIDataModule
from wsidata.stats.compute import process_pool
from wsidata.synthetic.photos import write_photos

Make = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Make:
    """Writes a checkpoint of an untrained network for images of a data module."""

    def write(dm: SplitDataModule, outputs: int) -> Path:
        torch.manual_seed(0)
        trainer = Trainer(logger=False, accelerator="cpu", enable_checkpointing=False)
        trainer.strategy.connect(StreamingResNet("resnet9", 64, num_classes=outputs, weights=None))
        trainer.save_checkpoint(tmp_path / "best.ckpt")
        content = torch.load(tmp_path / "best.ckpt", weights_only=True)
        torch.save({**content, type(dm).__name__: dm.state_dict()}, tmp_path / "best.ckpt")
        return tmp_path / "best.ckpt"

    return write


def run(checkpoint: Path, images: Path, out: Path, **options: object) -> Done:
    how = {"loading": {"num_workers": 0}, "trainer": {"accelerator": "cpu"}, **options}
    return predict(checkpoint, [images], out, **how)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::wsidata.splits.unreadable.SkipWarning", "ignore:.*many workers")
def test_slides(camelyon: Path, tmp_path: Path, save: Make) -> None:
    table = camelyon / "evaluation" / "reference.csv"
    dm = WSIDataModule(table, camelyon / "images", test_prefix="test_", leaks="off", level=0, lazy=True)
    checkpoint = save(dm, 2)
    (tmp_path / "slides").mkdir()
    for path in sorted((camelyon / "images").glob("*_00[1-2].tif"))[:4]:
        (tmp_path / "slides" / path.name).symlink_to(path)
    content = bytearray((camelyon / "images" / "tumor_001.tif").read_bytes())
    (tmp_path / "slides" / "cut.tif").write_bytes(content[:3000])
    content[len(content) // 3 : len(content) // 3 + 4000] = bytes(4000)
    (tmp_path / "slides" / "damaged.tif").write_bytes(content)
    one = run(checkpoint, tmp_path / "slides", tmp_path / "one.csv")
    (tmp_path / "many.csv").write_text("".join((tmp_path / "one.csv").read_text().splitlines(keepends=True)[:4]))
    (tmp_path / "many.csv.json").write_text((tmp_path / "one.csv.json").read_text())
    with process_pool(2) as pool:
        many = run(checkpoint, tmp_path / "slides", tmp_path / "many.csv", executor=pool)
    assert (tmp_path / "many.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()
    assert (many.images, many.unreadable) == (one.images, one.unreadable)
    assert len(many.unreadable) == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*many workers", "ignore:.*in the checkpoint's training set")
def test_photos_in_batches_with_labels(tmp_path: Path, save: Make) -> None:
    photos = write_photos(tmp_path / "photos", classes=3, per_class=3, side_px=48, seed=1)
    dm = ImageFolderDataModule(photos / "labels.csv", label_column="label", image_size=32, num_workers=0, leaks="off")
    checkpoint = save(dm, 3)
    damaged = sorted(photos.rglob("*.jpg"))[4]
    damaged.write_bytes(damaged.read_bytes()[:-400])
    how = {"loading": {"num_workers": 0, "batch_size": 4}, "columns": {"label_column": "label"}}
    one = run(checkpoint, photos / "labels.csv", tmp_path / "one.csv", **how)
    with process_pool(1) as pool:
        many = run(checkpoint, photos / "labels.csv", tmp_path / "many.csv", executor=pool, **how)
    assert (tmp_path / "many.csv").read_bytes() == (tmp_path / "one.csv").read_bytes()
    assert many.summary().replace("many", "one") == one.summary()


def test_threads_and_shared_runs_are_refused(camelyon: Path, tmp_path: Path, save: Make) -> None:
    table = camelyon / "evaluation" / "reference.csv"
    checkpoint = save(WSIDataModule(table, camelyon / "images", test_prefix="test_", leaks="off", level=1), 2)
    with ThreadPoolExecutor(1) as pool:
        for options, said in (({}, "this executor has threads"), ({"share": True}, "Pass one of them")):
            with pytest.raises(ValueError, match=said):
                run(checkpoint, camelyon / "images", tmp_path / "out.csv", executor=pool, **options)
