import json
import shutil
import threading
from concurrent.futures import Executor, Future, ThreadPoolExecutor

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import pyvips
import tifffile
from PIL import Image

from wsidata import ImageFolderDataModule, Slide, WSIDataModule
from wsidata.hub.export import images as export_images
from wsidata.hub.export import writer as export_module
from wsidata.hub.export.journal import Journal
from wsidata.hub.export.plan import ExportError
from wsidata.hub.export.writer import export
from wsidata.hub.manifest import PREPROCESSING_FILE, ExportFormatError, Preprocessing
from wsidata.jobs import claims
from wsidata.stats.compute import process_pool
from wsidata.utils.files import file_sha256

SPLITS = ("train", "validation", "test")


def module(folder, **options):
    options = {"image_dir": folder / "images", "test_prefix": "test_", "level": 1, "image_size": 64} | options
    return WSIDataModule(options.pop("table", folder / "evaluation" / "reference.csv"), **{"num_workers": 0} | options)


def quietly(dm, folder, **options):
    return export(dm, folder, **{"quiet": True, "say": lambda _: None} | options)


def files(folder):
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and ".export" not in path.parts
    }


def metadata(folder, split):
    return pd.read_parquet(folder / split / "metadata.parquet")


def pixels_of(path):
    image = pyvips.Image.new_from_file(str(path))
    return np.asarray(image.numpy())


@pytest.fixture
def slides(camelyon, tmp_path):
    """A copy that tests may modify."""
    shutil.copytree(camelyon, tmp_path / "slides")
    return tmp_path / "slides"


@pytest.fixture
def photos(tmp_path):
    """Six photos of two classes, all with EXIF, one rotated."""
    rng = np.random.default_rng(0)
    names = [f"p{number}" for number in range(6)]
    (tmp_path / "photos").mkdir()
    for number, name in enumerate(names):
        exif = Image.Exif()
        exif[0x013B], exif[0x0112] = "Jane Doe", 6 if number == 1 else 1
        pixels = rng.integers(0, 255, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{name}.jpg", exif=exif)
    table = pd.DataFrame({"image": names, "class": ["a", "b"] * 3})
    return lambda **options: ImageFolderDataModule(
        table,
        tmp_path / "photos",
        **{"num_workers": 0, "val_fraction": 0.34, "leaks": "off", "batch_size": 1} | options,
    )


@pytest.mark.slow
def test_every_image_is_the_input_of_the_transform(camelyon, tmp_path):
    dm = module(camelyon)
    found = quietly(dm, tmp_path / "out", layout="files")
    assert found == Preprocessing.load(tmp_path / "out")
    for split, part in (("train", "train"), ("validation", "val"), ("test", "test")):
        rows = metadata(tmp_path / "out", split)
        assert rows["image_id"].tolist() == dm.tables[part]["image_id"].tolist()
        assert rows["label"].tolist() == dm.tables[part]["label"].tolist()
        for name, path in zip(rows["file_name"], dm.tables[part]["path"], strict=True):
            with Slide(path) as slide:
                pixels = slide.numpy(level=1)
            top, left = (pixels.shape[0] - 64) // 2, (pixels.shape[1] - 64) // 2
            expected = pixels[top : top + 64, left : left + 64]
            np.testing.assert_array_equal(pixels_of(tmp_path / "out" / split / name), expected)


@pytest.mark.slow
def test_facts_of_images_are_written_beside_them(camelyon, tmp_path):
    dm = module(camelyon, image_size=None)
    found = quietly(dm, tmp_path / "out", layout="files")
    rows = metadata(tmp_path / "out", "train")
    with Slide(dm.tables["train"]["path"][0]) as slide:
        size, spacing = slide.size_at(level=1), slide.mpp[0] * slide.downsample_at(level=1)[0]
    assert (rows["width"][0], rows["height"][0]) == size
    assert rows["mpp_x"][0] == pytest.approx(spacing)
    assert rows["sha256"][0] == file_sha256(tmp_path / "out" / "train" / rows["file_name"][0])
    assert found.stats == dm.stats
    assert found.split_digest == dm.split_digest
    assert found.image_count == 16


@pytest.mark.slow
def test_crop_that_only_evaluation_begins_with_is_kept_from_training_images(camelyon, tmp_path):
    found = quietly(
        module(camelyon, image_size=(48, 64)), tmp_path / "out", layout="files"
    )  # turned first, cropped then
    assert (metadata(tmp_path / "out", "train")["width"] > 64).all()
    assert (metadata(tmp_path / "out", "test")[["height", "width"]] == [48, 64]).all().all()
    assert found.transforms["train"].applied is None
    assert found.transforms["train"].is_default
    assert "CropOrPad" in found.transforms["eval"].applied


@pytest.mark.slow
def test_layouts_hold_the_same_and_follow_the_size_of_images(camelyon, tmp_path):
    assert quietly(module(camelyon), tmp_path / "a").layout == "parquet"
    assert quietly(module(camelyon), tmp_path / "b", layout="files").layout == "files"
    assert files(tmp_path / "a") == {
        "README.md", PREPROCESSING_FILE, *(f"data/{split}-00000-of-00001.parquet" for split in SPLITS),
    }  # fmt: skip
    for split in ("train", "validation", "test"):
        shard = pq.read_table(tmp_path / "a" / f"data/{split}-00000-of-00001.parquet").to_pylist()
        for row, packed in zip(metadata(tmp_path / "b", split).to_dict("records"), shard, strict=True):
            image = packed.pop("image")
            assert image["bytes"] == (tmp_path / "b" / split / row.pop("file_name")).read_bytes()
            assert row == packed


@pytest.mark.slow
def test_disclosure_is_printed_before_anything_is_written(camelyon, tmp_path):
    said = []

    def say(line):
        said.append((line, (tmp_path / "out").exists()))

    quietly(module(camelyon), tmp_path / "out", say=say)
    assert said[0][0].startswith(f"In '{tmp_path / 'out'}': 16 images (10 train, 2 validation, 4 test)")
    assert not said[0][1]


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["files", "parquet"])
def test_second_run_writes_nothing(camelyon, tmp_path, layout, monkeypatch):
    first = quietly(module(camelyon), tmp_path / "out", layout=layout)
    times = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in files(tmp_path / "out")}
    monkeypatch.setattr(export_images, "encode", lambda *_, **__: pytest.fail("an image was encoded again"))
    monkeypatch.setattr(WSIDataModule, "compute_stats", lambda _: pytest.fail("statistics were computed again"))
    assert quietly(module(camelyon), tmp_path / "out", layout=layout) == first
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in files(tmp_path / "out")} == times


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["files", "parquet"])
def test_only_what_changed_is_written_again(slides, tmp_path, layout, monkeypatch):
    quietly(module(slides), tmp_path / "out", layout=layout)
    written = []
    encode = export_images.encode
    monkeypatch.setattr(export_images, "encode", lambda *a, **o: written.append(o["name"]) or encode(*a, **o))
    shutil.copy(slides / "images" / "tumor_001.tif", slides / "images" / "tumor_002.tif")
    dm = module(slides, leaks="off")
    found = quietly(dm, tmp_path / "out", layout=layout)
    assert written == ["tumor_002.tif"]
    assert found == quietly(dm, tmp_path / "new", layout=layout)
    assert files(tmp_path / "out") == files(tmp_path / "new")
    written.clear()
    quietly(module(slides, leaks="off", level=2, image_size=32), tmp_path / "out", layout=layout)
    assert len(written) == 16


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["altered", "deleted", "metadata"])
def test_damaged_export_is_repaired(camelyon, tmp_path, damage):
    first = quietly(module(camelyon), tmp_path / "out", layout="files")
    image = tmp_path / "out" / "train" / metadata(tmp_path / "out", "train")["file_name"][0]
    content = image.read_bytes()
    if damage == "altered":
        image.write_bytes(content[:-9] + b"x" * 9)
    elif damage == "deleted":
        image.unlink()
    else:
        (tmp_path / "out" / "train" / "metadata.parquet").write_bytes(b"")
    assert quietly(module(camelyon), tmp_path / "out", layout="files") == first
    assert image.read_bytes() == content
    assert len(metadata(tmp_path / "out", "train")) == 10


@pytest.mark.slow
def test_export_changes_its_layout_without_reading_a_slide(camelyon, tmp_path, monkeypatch):
    quietly(module(camelyon), tmp_path / "out", layout="files")
    monkeypatch.setattr(export_images, "encode", lambda *_, **__: pytest.fail("an image was encoded again"))
    quietly(module(camelyon), tmp_path / "out", layout="parquet")
    assert not any(name.endswith(".png") for name in files(tmp_path / "out"))
    quietly(module(camelyon), tmp_path / "out", layout="files")
    assert not any(name.startswith("data/") for name in files(tmp_path / "out"))
    monkeypatch.undo()
    quietly(module(camelyon), tmp_path / "new", layout="files")
    assert files(tmp_path / "out") == files(tmp_path / "new")


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["files", "parquet"])
@pytest.mark.parametrize("moment", ["images", "finishing", "tables", "last file"])
def test_interrupted_export_never_looks_complete_and_goes_on(camelyon, tmp_path, monkeypatch, layout, moment):
    quietly(module(camelyon), tmp_path / "expected", layout=layout)
    encode, calls = export_images.encode, []

    def stop(*arguments, **options):
        calls.append(1)
        if len(calls) > 5 or moment != "images":
            raise KeyboardInterrupt
        return encode(*arguments, **options)

    if moment == "images":
        monkeypatch.setattr(export_images, "encode", stop)
    elif moment == "tables":
        monkeypatch.setattr(export_module, "write_metadata" if layout == "files" else "write_shards", stop)
    elif moment == "last file":
        monkeypatch.setattr(Preprocessing, "save", stop)
    else:
        monkeypatch.setattr(export_module, "_finish", stop)
    with pytest.raises(KeyboardInterrupt), ThreadPoolExecutor(1) as pool:
        quietly(module(camelyon), tmp_path / "out", layout=layout, executor=pool)
    with pytest.raises(ExportFormatError, match="not a finished export"):
        Preprocessing.load(tmp_path / "out")
    if moment in ("images", "finishing"):
        assert not files(tmp_path / "out")
    monkeypatch.undo()
    monkeypatch.setattr(export_images, "encode", lambda *a, **o: calls.append(1) or encode(*a, **o))
    calls.clear()
    assert (
        quietly(module(camelyon), tmp_path / "out", layout=layout).digest
        == Preprocessing.load(tmp_path / "expected").digest
    )
    assert len(calls) == (11 if moment == "images" else 0)
    assert files(tmp_path / "out") == files(tmp_path / "expected")


def test_all_unreadable_slides_are_named_and_the_others_kept(slides, tmp_path):
    dm = module(slides, stats=None, leaks="off")
    dm.tables  # noqa: B018 - read before the damage, as in a long run
    for name in ("tumor_001", "normal_003"):
        path = slides / "images" / f"{name}.tif"
        path.write_bytes(path.read_bytes()[:3000])
    dm.check = lambda: None
    with pytest.raises(ExportError, match=r"(?s)2 problems.*normal_003.tif.*tumor_001.tif.*what is done is kept"):
        quietly(dm, tmp_path / "out")
    assert len(Journal(tmp_path / "out").entries) == 14


class Inline(Executor):
    """An executor whose jobs, of several images each, are done at once."""

    def submit(self, function, /, *arguments, **options):
        future = Future()
        try:
            future.set_result(function(*arguments, **options))
        except OSError as error:
            future.set_exception(error)
        return future


@pytest.mark.slow
def test_no_image_that_was_written_is_encoded_again(camelyon, tmp_path, monkeypatch):
    encode, calls = export_images.encode, []

    def full(*arguments, **options):
        calls.append(1)
        if len(calls) == 8:  # the second of a job of two
            raise OSError(28, "No space left on device")
        return encode(*arguments, **options)

    monkeypatch.setattr(export_images, "encode", full)
    with pytest.raises(ExportError, match="cannot take more"):
        quietly(module(camelyon), tmp_path / "out", layout="files", executor=Inline())
    written = len(list((tmp_path / "out" / ".export" / "files").rglob("*.png")))
    assert written >= 7
    calls.clear()
    monkeypatch.setattr(export_images, "encode", lambda *a, **o: calls.append(1) or encode(*a, **o))
    quietly(module(camelyon), tmp_path / "out", layout="files")
    assert len(calls) == 16 - written


def test_full_disk_stops_at_once_and_says_so(camelyon, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_images, "encode", full)
    with pytest.raises(ExportError, match=r"cannot take more.*No space left.*Free some space and run the export again"):
        quietly(module(camelyon), tmp_path / "out")


@pytest.mark.slow
def test_foreign_folders_are_refused_and_a_card_in_them_kept(camelyon, tmp_path):
    (tmp_path / "out" / "train").mkdir(parents=True)
    with pytest.raises(ExportError, match="is not empty"):
        quietly(module(camelyon), tmp_path / "out")
    (tmp_path / "out" / "train").rmdir()
    (tmp_path / "out" / "README.md").write_text("My own words.\n")
    quietly(module(camelyon), tmp_path / "out")
    assert "My own words." in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(ExportError, match="is a file"):
        quietly(module(camelyon), tmp_path / "out" / "README.md")


@pytest.mark.slow
def test_opaque_ids_leave_no_name_in_any_file(camelyon, tmp_path):
    quietly(module(camelyon), tmp_path / "out", opaque_ids=True, layout="files")
    assert metadata(tmp_path / "out", "test")["image_id"].str.fullmatch(r"image-\d{4}").all()
    for name in files(tmp_path / "out"):
        assert "normal_0" not in name
        content = (tmp_path / "out" / name).read_bytes()
        assert not any(word in content for word in (b"normal_0", b"tumor_0", b"test_0", str(camelyon).encode()))


@pytest.mark.slow
def test_processes_make_the_same_export(camelyon, tmp_path):
    with process_pool(2) as pool:
        found = quietly(module(camelyon), tmp_path / "a", executor=pool)
    assert found == quietly(module(camelyon), tmp_path / "b")


@pytest.mark.slow
def test_lazy_images_become_pyramids_of_the_whole_image(camelyon, tmp_path):
    found = quietly(module(camelyon, lazy=True, image_size=None, level=0), tmp_path / "out")
    assert (found.layout, found.encoding.format, found.arguments["lazy"]) == ("files", "tiff", True)
    rows = metadata(tmp_path / "out", "train")
    path = tmp_path / "out" / "train" / rows["file_name"][0]
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_bigtiff
    with Slide(path) as made, Slide(module(camelyon).tables["train"]["path"][0]) as slide:
        np.testing.assert_array_equal(made.numpy(), slide.numpy())
        assert made.mpp == pytest.approx(slide.mpp)


@pytest.mark.slow
def test_tissue_crops_are_applied_before_export(camelyon, tmp_path):
    dm = module(camelyon, crop="pack", image_size=None, level=0)
    found = quietly(dm, tmp_path / "out", layout="files")
    assert found.crop["kind"] == "pack"
    assert found.crop["method"] == "find_tissue"
    row = metadata(tmp_path / "out", "validation").iloc[0]
    expected = dm.make_dataset("val").image(0).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(pixels_of(tmp_path / "out" / "validation" / row["file_name"]), expected)


def masked(camelyon, folder, value=1, **options):
    table = pd.read_csv(camelyon / "evaluation" / "reference.csv", dtype=str)
    (folder / "masks").mkdir()
    for name in table["image"].str.removesuffix(".tif"):
        with Slide(camelyon / "images" / f"{name}.tif") as slide:
            pixels = np.zeros((slide.height, slide.width), np.uint8)
        pixels[: len(pixels) // 2] = value
        pyvips.Image.new_from_array(pixels).write_to_file(str(folder / "masks" / f"{name}.png"))
    return module(
        camelyon, table=table.assign(mask=table["image"].str.removesuffix(".tif")), label_column="mask", target="mask",
        mask_dir=folder / "masks", class_names=["no", "yes"], **options,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["files", "parquet"])
def test_masks_are_published_on_the_grid_of_their_images(camelyon, tmp_path, layout):
    dm = masked(camelyon, tmp_path, image_size=512)  # larger than the slides: padded
    quietly(dm, tmp_path / "out", layout=layout)
    _, expected = dm.make_dataset("val")[0]
    if layout == "files":
        row = metadata(tmp_path / "out", "validation").iloc[0]
        mask = pixels_of(tmp_path / "out" / "validation" / row["mask_file_name"])
    else:
        row = pq.read_table(tmp_path / "out" / "data/validation-00000-of-00001.parquet").to_pylist()[0]
        mask = np.asarray(pyvips.Image.new_from_buffer(row["mask"]["bytes"], "").numpy())
    assert set(np.unique(mask)) == {0, 1, 255}
    np.testing.assert_array_equal(np.where(mask == 255, -100, mask.astype(int)), expected.numpy())


@pytest.mark.slow
def test_mask_values_of_no_class_are_refused(camelyon, tmp_path):
    with pytest.raises(ExportError, match=r"(?s)16 problems.*values of no class"):
        quietly(masked(camelyon, tmp_path, value=7), tmp_path / "out")


@pytest.mark.slow
def test_several_labels_numbers_and_groups_are_columns(camelyon, tmp_path):
    table = pd.read_csv(camelyon / "evaluation" / "reference.csv", dtype=str)
    table = table.assign(
        age=range(len(table)), size="0.5", who=[f"patient {number // 2}" for number in range(len(table))]
    )
    dm = module(camelyon, table=table, label_column=["age", "size"], target="regression", group_column="who")
    found = quietly(dm, tmp_path / "out", layout="files")
    rows = metadata(tmp_path / "out", "train")
    assert [tuple(target) for target in rows["target"]] == dm.tables["train"]["target"].tolist()
    assert rows["group"].str.fullmatch(r"group-\d{4}").all()
    assert rows.groupby("group").ngroups == dm.tables["train"]["group"].nunique()
    assert found.class_names == ("age", "size")
    assert "patient 1" not in (tmp_path / "out" / "README.md").read_text()


def test_rows_without_labels_are_a_split_of_their_own(camelyon, tmp_path):
    dm = module(camelyon, label_column=None, test_prefix=None)
    found = quietly(dm, tmp_path / "out", layout="files")
    assert found.splits == ("predict",)
    assert found.stats is None
    assert metadata(tmp_path / "out", "predict")["image_id"].tolist() == dm.tables["predict"]["image_id"].tolist()


@pytest.mark.slow
def test_only_the_deterministic_start_of_a_user_transform_is_applied(camelyon, tmp_path):
    from wsidata.transforms.color.stain import StainJitter
    from wsidata.transforms.compose import Compose
    from wsidata.transforms.geometry.affine import RandomD4
    from wsidata.transforms.geometry.crop import CropOrPad

    mine = Compose([CropOrPad(80), RandomD4(), StainJitter()])
    dm = module(camelyon, image_size=None, train_transform=mine, eval_transform=CropOrPad(80))
    found = quietly(dm, tmp_path / "out", layout="files")
    assert not found.transforms["train"].is_default
    assert (metadata(tmp_path / "out", "train")["width"] == 80).all()
    json.loads(found.to_json())


def test_photos_keep_their_compressed_pixels_and_lose_their_exif(photos, tmp_path):
    dm = photos()
    found = quietly(dm, tmp_path / "out", layout="files")
    assert (found.kind, found.encoding.format, found.encoding.lossless) == ("photos", "original", True)
    for split, part in (("train", "train"), ("validation", "val")):
        dataset = dm.make_dataset(part)
        for index, row in metadata(tmp_path / "out", split).iterrows():
            path = tmp_path / "out" / split / row["file_name"]
            np.testing.assert_array_equal(pixels_of(path), dataset.pixels(index))
            assert path.suffix == (".png" if row["image_id"] == "p1" else ".jpg")  # turned by EXIF: not the same pixels
            assert b"Jane" not in path.read_bytes()
            assert b"Exif" not in path.read_bytes()


def test_photos_are_published_at_the_size_they_are_read_at(photos, tmp_path):
    found = quietly(photos(image_size=28), tmp_path / "out", layout="files")
    assert found.arguments["resize_px"] == 32
    assert found.transforms["train"].is_default
    assert found.transforms["train"].applied is None
    assert (metadata(tmp_path / "out", "train")["height"] == 32).sum() >= 3
    assert (metadata(tmp_path / "out", "validation")[["width", "height"]] == 28).all().all()


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["files", "parquet"])
def test_jobs_that_share_an_export_make_that_of_one(camelyon, tmp_path, monkeypatch, layout):
    monkeypatch.setattr(claims, "POLL_S", 0.01)
    quietly(module(camelyon), tmp_path / "one", layout=layout)
    found, start = [], threading.Barrier(3)

    def job():
        dm = module(camelyon)
        start.wait()
        found.append(quietly(dm, tmp_path / "shared", layout=layout, share=True))

    encode, calls = export_images.encode, []
    monkeypatch.setattr(export_images, "encode", lambda *a, **o: calls.append(1) or encode(*a, **o))
    jobs = [threading.Thread(target=job) for _ in range(3)]
    for one in jobs:
        one.start()
    for one in jobs:
        one.join()
    assert found == [Preprocessing.load(tmp_path / "one")] * 3
    assert len(calls) == 16
    names = files(tmp_path / "one")
    assert names == files(tmp_path / "shared")
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "shared" / name).read_bytes() for name in names)
    assert not [*(tmp_path / "shared" / ".export").rglob("job-*")]
    quietly(module(camelyon), tmp_path / "shared", layout=layout, share=True)
    quietly(module(camelyon), tmp_path / "shared", layout=layout)
    assert len(calls) == 16


def test_jobs_that_share_an_export_name_what_none_could_read(slides, tmp_path):
    dm = module(slides, stats=None, leaks="off")
    dm.tables  # noqa: B018 - read before the damage, as in a long run
    path = slides / "images" / "tumor_001.tif"
    whole = path.read_bytes()
    path.write_bytes(whole[:3000])
    dm.check = lambda: None
    with pytest.raises(ExportError, match=r"(?s)1 problem:.*tumor_001.tif.*what is done is kept"):
        quietly(dm, tmp_path / "out", share=True)
    path.write_bytes(whole)
    found = quietly(module(slides), tmp_path / "out", share=True)
    assert found.image_count == 16


def test_jobs_that_export_something_else_are_refused(camelyon, tmp_path):
    (tmp_path / "out").mkdir()
    with (
        claims.SharedRun(tmp_path / "out" / ".export" / "jobs", {"layout": "files"}),
        pytest.raises(claims.SharedRunError, match="other jobs share"),
    ):
        quietly(module(camelyon), tmp_path / "out", layout="parquet", share=True)
