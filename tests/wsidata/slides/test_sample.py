"""A sample that is decoded into its place is the one the transform makes of the whole image."""

import numpy as np
import pytest
import pyvips
import tifffile
from PIL import Image

from wsidata import Slide
from wsidata.formats.resolution import Resolution
from wsidata.slides.pipeline import outside_of, slide_sample
from wsidata.slides.tissue.crop import as_crop
from wsidata.synthetic.slides import write_slide
from wsidata.transforms.adapters.functions import FunctionTransform
from wsidata.transforms.base import Sample, TransformError
from wsidata.transforms.color.stain import StainJitter
from wsidata.transforms.color.tone import Blur, ToneJitter
from wsidata.transforms.compose import Compose, OneOf, default_train_transform, he_train_transform
from wsidata.transforms.geometry.affine import RandomAffine, RandomD4, RandomRotate90
from wsidata.transforms.geometry.crop import CropOrPad, RandomResizedCrop
from wsidata.transforms.geometry.dropout import CoarseDropout
from wsidata.transforms.geometry.elastic import Elastic

IGNORED = 255


class Peeking(RandomD4):
    """Draws by what it sees, as a class of a user may."""

    def draw(self, image, rng):
        return None if image(0, 0)[0] > 128 else super().draw(image, rng)


def darker(image):
    return (image * 0.5).cast(image.format)


TRANSFORMS = {
    "none": Compose([]),
    "default": default_train_transform(300),
    "default, not square": default_train_transform((200, 310)),
    "stain": he_train_transform(250),
    "nested": Compose(
        [OneOf([RandomRotate90(), CoarseDropout()]), Compose([RandomD4(), CropOrPad(90, position="random")])]
    ),
    "blur in between": Compose([RandomD4(), Blur(p=0.7), ToneJitter(), CropOrPad(200)]),
    "resampled": Compose([RandomD4(), RandomAffine(degrees=20), StainJitter(p=0.5)]),
    "resized": Compose([ToneJitter(p=0.5), RandomResizedCrop(120), RandomD4()]),
    "elastic": Compose([CropOrPad(200), Elastic(alpha_px=4, cell_px=32), CropOrPad(150, position="random")]),
    "peeking": Compose([CropOrPad(330), Peeking(), CropOrPad(100, position="random")]),
}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    jpeg = write_slide(folder / "jpeg.tif", width=400, height=280, tile=64, tumor=True)
    pixels = Slide(jpeg).numpy()
    Image.fromarray(pixels).save(folder / "photo.png")
    turned = folder / "turned.tif"
    tifffile.imwrite(turned, pixels, tile=(64, 64), photometric="rgb", extratags=[(274, "H", 1, 6, True)])
    tifffile.imwrite(folder / "gray.tif", pixels[..., 1], tile=(64, 64), photometric="minisblack")
    rng = np.random.default_rng(0)
    deep = rng.integers(0, 65536, (4, 150, 220), dtype=np.uint16)
    tifffile.imwrite(folder / "deep.ome.tif", deep, ome=True, metadata={"axes": "CYX"}, tile=(64, 64))
    return folder


def by_pipeline(slide, resolution, packing, transform, seed, masks):
    image = slide.image(**resolution)
    image = image if packing is None else packing.apply(image, slide.background)
    sample = Sample(image, masks=masks, fill=outside_of(slide), mask_fill=IGNORED)
    return transform.run(sample, np.random.default_rng(seed))


def as_array(image):
    return (
        np.asarray(image.numpy()).reshape(image.height, image.width, -1) if isinstance(image, pyvips.Image) else image
    )


def check(slide, resolution, transform, seed, *, crop=None, masks=()):
    resolution = Resolution.of(resolution)
    packing = None if crop is None else as_crop(crop).plan(slide, resolution)
    expected = by_pipeline(slide, resolution, packing, transform, seed, masks)
    generator = np.random.default_rng(seed)
    found = slide_sample(slide, resolution, packing, transform, generator, masks=masks, mask_fill=IGNORED)
    np.testing.assert_array_equal(as_array(found.image), as_array(expected.image))
    assert as_array(found.image).dtype == as_array(expected.image).dtype
    for mask, there in zip(found.masks, expected.masks, strict=True):
        np.testing.assert_array_equal(as_array(mask), as_array(there))
    return found, expected


@pytest.mark.slow
@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("file", ["jpeg.tif", "photo.png", "turned.tif", "gray.tif"])
def test_pixels_are_those_of_the_pipeline(files, file, name):
    with Slide(files / file, mpp_override=0.5) as slide:
        for seed in range(3):
            found, expected = check(slide, {"level": 0}, TRANSFORMS[name], seed)
            assert found.operations == expected.operations
        check(slide, {"mpp": 0.83}, TRANSFORMS[name], 3)


@pytest.mark.parametrize("name", ["default", "default, not square", "nested", "blur in between"])
@pytest.mark.parametrize("crop", ["tissue", "pack"])
def test_crops(files, crop, name):
    with Slide(files / "jpeg.tif", mpp_override=0.5) as slide:
        for resolution in ({"level": 0}, {"downsample": 1.4}):
            check(slide, resolution, TRANSFORMS[name], 1, crop=crop)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_masks_move_with_their_image(files, name):
    values = np.random.default_rng(1).integers(0, 4, (280, 400, 1), dtype=np.uint8)
    with Slide(files / "jpeg.tif") as slide:
        for seed in range(2):
            check(slide, {"level": 0}, TRANSFORMS[name], seed, masks=(pyvips.Image.new_from_array(values),))


def test_masks_of_another_size_are_refused(files):
    mask = pyvips.Image.black(10, 10)
    with (
        Slide(files / "jpeg.tif") as slide,
        pytest.raises(TransformError, match="10 x 10 pixels and its image 400 x 280"),
    ):
        slide_sample(slide, Resolution(level=0), None, RandomD4(), np.random.default_rng(0), masks=(mask,))


@pytest.mark.parametrize("channels", [[0, 1, 2], [3, 0], [2]])
def test_channels(files, channels):
    with Slide(files / "deep.ome.tif", channels=channels) as slide:
        for name in ("default", "resampled" if len(channels) == 3 else "nested", "blur in between"):
            if name == "resampled":
                check(slide, {"level": 0}, Compose([RandomD4(), RandomAffine(degrees=20)]), 1)
            else:
                check(slide, {"level": 0}, TRANSFORMS[name], 1)


def test_functions_and_arrays_at_the_end(files):
    with Slide(files / "jpeg.tif") as slide:
        check(slide, {"level": 0}, Compose([RandomD4(), FunctionTransform(darker), CropOrPad(100)]), 0)
        check(slide, {"level": 0}, Compose([RandomD4(), FunctionTransform(lambda image: image.numpy())]), 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRANSFORMS)
def test_large_images_go_through_the_pipeline_where_they_cannot_be_painted(files, name, monkeypatch):
    monkeypatch.setattr("wsidata.slides.pipeline.DECODED_AT_ONCE_BYTES", 1000)
    with Slide(files / "jpeg.tif") as slide:
        check(slide, {"level": 0}, TRANSFORMS[name], 5)
        check(slide, {"level": 0}, TRANSFORMS[name], 5, crop="pack")


def test_it_is_written_where_it_is_asked_to_be(files):
    buffer = np.zeros((300, 300, 3), dtype=np.uint8)
    with Slide(files / "jpeg.tif") as slide:
        sample = slide_sample(
            slide, Resolution(level=0), None, TRANSFORMS["default"], np.random.default_rng(0),
            new_pixels=lambda shape, dtype: buffer if shape == buffer.shape and dtype == np.uint8 else None,
        )  # fmt: skip
    assert sample.image is buffer
    assert buffer.any()
