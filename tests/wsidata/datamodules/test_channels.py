"""Slides of other channels than RGB through the whole data module: exact pixels, nothing taken for a colour."""

import numpy as np
import pandas as pd
import pytest
import pyvips
import tifffile
import torch

from wsidata import TissueCrop, WSIDataModule
from wsidata.datamodules.checks import ChannelNamesWarning, SlideCheckError
from wsidata.slides.slide import Slide
from wsidata.splits.leaks import LeakWarning
from wsidata.transforms.base import TransformError
from wsidata.transforms.color.stain import StainJitter
from wsidata.transforms.geometry.crop import CropOrPad

NAMES = ["DAPI", "CD3", "CD8", "CD20"]


def write_panel(path, seed, names=NAMES, dtype=np.uint16):
    pixels = np.random.default_rng(seed).integers(1, 200, (len(names), 80, 96)).astype(dtype)
    with tifffile.TiffWriter(path, ome=True) as tiff:
        options = {"tile": (32, 32), "photometric": "minisblack"}
        tiff.write(pixels, subifds=1, metadata={"axes": "CYX", "Channel": {"Name": names}}, **options)
        tiff.write(pixels[:, ::2, ::2], subfiletype=1, **options)
    return pixels


@pytest.fixture
def panels(tmp_path):
    pixels = {f"s{i}": write_panel(tmp_path / f"s{i}.ome.tif", i) for i in range(8)}
    table = pd.DataFrame({"image": [f"s{i}.ome.tif" for i in range(8)], "class": ["a", "b"] * 4})
    return tmp_path, table, pixels


def module(panels, **options):
    folder, table, _ = panels
    options = {"level": 0, "channels": ["CD8", "DAPI"], "dtype": "float", "num_workers": 0, "leaks": "off"} | options
    return WSIDataModule(options.pop("table", table), folder, **options)


def whole(panels, name, channels=(2, 0)):
    return torch.from_numpy(panels[2][name].astype(np.float32)[list(channels)])


@pytest.mark.parametrize("lazy", [False, True])
def test_samples_are_the_chosen_channels_on_black(panels, lazy):
    dm = module(panels, image_size=(100, 90), lazy=lazy, eval_transform=None)
    dm.setup("fit")
    for row, name in enumerate(dm.tables["val"]["image_id"]):
        image, _ = dm.datasets["val"][row]
        assert image.shape == (2, 100, 90)
        assert image.dtype == torch.float32
        pixels = image.rows(0, 100) if lazy else image
        torch.testing.assert_close(pixels[:, 10:90], whole(panels, name)[:, :, 3:93] / 65535)
        assert pixels[:, :10].max() == pixels[:, 90:].max() == 0


def test_lazy_rows_of_16_bit_channels_are_floats_if_asked(panels):
    with Slide(panels[0] / "s0.ome.tif", channels=["CD8", "DAPI"]) as slide:
        with pytest.raises(
            TransformError, match=r"ends in 'ushort' pixels.*dtype='float' divides 16-bit ones by 65535"
        ):
            slide.lazy()
        image = slide.lazy(dtype="float")
    assert image.dtype == torch.float32
    torch.testing.assert_close(image.rows(3, 70), whole(panels, "s0")[:, 3:70] / 65535)


def test_training_turns_channels_and_mixes_none(panels):
    dm = module(panels, image_size=80, batch_size=2)
    dm.setup("fit")
    images, _ = next(iter(dm.train_dataloader()))
    assert images.shape == (2, 2, 80, 80)
    means = {name: whole(panels, name)[:, :, 8:88].mean((1, 2)) for name in panels[2]}
    for image in images:
        mean = image.mean((1, 2)) * 65535
        assert min(float((mean - other).abs().max()) for other in means.values()) < 1e-2


def test_scaled_samples_are_bytes(panels):
    dm = module(panels, scale_to_8bit=(0, 255), dtype="uint8", channels="CD3")
    dm.setup("fit")
    image, _ = dm.datasets["val"][0]
    assert image.dtype == torch.uint8
    name = dm.tables["val"]["image_id"][0]
    assert torch.equal(image.float(), whole(panels, name, [1]))


def test_statistics_are_of_the_channels_that_are_read(panels):
    dm = module(panels)
    names = dm.tables["train"]["image_id"].tolist()
    pixels = np.stack([panels[2][name][[2, 0]] for name in names]).astype(np.float64) / 65535
    assert dm.stats.max_value == 65535
    np.testing.assert_allclose(dm.stats.mean, pixels.mean((0, 2, 3)), rtol=0, atol=1e-12)
    np.testing.assert_allclose(dm.stats.std, pixels.std((0, 2, 3)), rtol=0, atol=1e-12)


def test_statistics_of_other_channels_are_refused(panels):
    stats = module(panels, channels=["DAPI"]).stats
    with pytest.raises(SlideCheckError, match=r"stats= are of 1 channels, and slides are read with 2 \(CD8, DAPI\)"):
        module(panels, stats=stats).setup("fit")


@pytest.mark.parametrize("lazy", [False, True])
def test_colour_profiles_reach_samples_and_statistics(tmp_path, lazy):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    profile = bytes(pyvips.Image.profile_load("p3"))
    for name in "abcd":
        tifffile.imwrite(tmp_path / f"{name}.tif", pixels, photometric="rgb", tile=(64, 64), iccprofile=profile)
    with Slide(tmp_path / "a.tif", apply_icc=True) as slide:
        expected = torch.from_numpy(slide.numpy(level=0)).permute(2, 0, 1)
    table = pd.DataFrame({"image": list("abcd"), "class": ["x", "y"] * 2})
    options = {"level": 0, "num_workers": 0, "leaks": "off", "val_fraction": 0.5, "lazy": lazy}
    dm = WSIDataModule(table, tmp_path, apply_icc=True, **options)
    dm.setup("fit")
    image, _ = dm.datasets["val"][0]
    assert torch.equal(image.rows(0, 64) if lazy else image, expected)
    assert not torch.equal(expected, torch.from_numpy(pixels).permute(2, 0, 1))
    np.testing.assert_allclose(dm.stats.mean, (expected.double() / 255).mean((1, 2)), rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore:val has no image of class")  # four images, two classes
def test_copies_are_found_by_the_look_of_their_channels(panels):
    folder = panels[0]
    ramp = np.stack([np.outer(np.arange(80), np.arange(96))] * 4).astype(np.uint16)
    for name in ("s0", "s1"):
        with tifffile.TiffWriter(folder / f"{name}.ome.tif", ome=True) as tiff:
            tiff.write(ramp + (name == "s1"), metadata={"axes": "CYX", "Channel": {"Name": NAMES}})
    dm = module(panels, leaks="warn", leak_checks=["thumbnail"], val_ids=["s0"], stratify=False)
    with pytest.warns(LeakWarning, match=r"look alike .* train \('s1'\) and val \('s0'\)"):
        dm.setup("fit")


def test_tissue_is_not_looked_for_by_colour(panels):
    folder = panels[0]
    with pytest.raises(ValueError, match=r"crop='pack' cannot be found by color where channels= are chosen"):
        module(panels, crop="pack")
    with Slide(folder / "s0.ome.tif", channels=[0, 1, 2], scale_to_8bit=(0, 255)) as slide:
        with pytest.raises(ValueError, match=r"tissue of slide 's0.ome.tif' cannot be found by color"):
            slide.tissue_mask()
        assert slide.tissue_mask(bright).pixels.any()
    dm = module(panels, crop=TissueCrop("pack", method=bright, margin_px=0), channels=["DAPI"])
    dm.setup("fit")
    image, _ = dm.datasets["val"][0]
    assert image.shape[0] == 1


def bright(pixels):
    """Top left quarter."""
    mask = np.zeros(pixels.shape[:2], dtype=bool)
    mask[: len(mask) // 2, : mask.shape[1] // 2] = True
    return mask


def test_samples_that_fit_no_batch_are_refused_before_training(panels):
    with pytest.raises(SlideCheckError, match=r"16-bit samples \('s0' has ushort\).*dtype='float'.*scale_to_8bit"):
        module(panels, dtype="uint8").setup("fit")
    write_panel(panels[0] / "s3.ome.tif", 3, dtype=np.uint8)
    with pytest.raises(SlideCheckError, match=r"different types \('s3' has uchar, 's0' has ushort\)"):
        module(panels).setup("fit")
    for i in range(8):
        write_panel(panels[0] / f"s{i}.ome.tif", i, dtype=np.float32)
    with pytest.raises(SlideCheckError, match=r"hold floats"):
        module(panels).setup("fit")
    with pytest.raises(SlideCheckError, match=r"channel 'CD99' does not exist"):
        module(panels, channels=["CD99"]).setup("fit")


def test_channels_by_number_with_other_names_are_warned_of(panels):
    write_panel(panels[0] / "s5.ome.tif", 5, names=["DAPI", "CD4", "CD8", "CD20"])
    with pytest.warns(ChannelNamesWarning, match=r"on 1 of 8 slides: 's0' has DAPI, CD3, 's5' has DAPI, CD4"):
        module(panels, channels=[0, 1]).setup("fit")


def test_transforms_for_colours_are_refused_by_name(panels):
    dm = module(panels, train_transform=StainJitter())
    dm.setup("fit")
    with pytest.raises(Exception, match="StainJitter needs an image of 3 channels, and this one has 2") as caught:
        dm.datasets["train"][0]
    assert isinstance(caught.value.__cause__, TransformError)
    with pytest.raises(ValueError, match="apply_icc=True is for RGB slides"):
        module(panels, apply_icc=True)


def test_show_batch_draws_the_bands_it_is_told(panels):
    dm = module(panels)
    with pytest.raises(ValueError, match=r"images of 2 channels cannot be shown with bands=None. Pass bands=\[i\]"):
        dm.show_batch("val")
    figure = dm.show_batch("val", bands=[1])
    assert "channels=['CD8', 'DAPI'], bands 1" in figure.get_suptitle()
    shown = np.asarray(figure.axes[0].images[0].get_array())
    name = dm.tables["val"]["image_id"][0]
    np.testing.assert_allclose(shown, whole(panels, name)[1] / 65535, atol=1e-6)
    assert dm.show_batch("val", bands=[0, 1, 0]).axes[0].images[0].get_array().shape == (80, 96, 3)


def test_a_transform_of_ones_own_pads_channels_with_no_light(panels):
    dm = module(panels, train_transform=CropOrPad(700))
    dm.setup("fit")
    image = next(iter(dm.train_dataloader()))[0]
    assert image.shape[-2:] == (700, 700)
    assert (image[..., 0, :] == 0).all()
