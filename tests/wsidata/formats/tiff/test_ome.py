"""The XML of an OME-TIFF opens no other file, and asks for no more planes than there may be."""

import os
import threading

import numpy as np
import pytest
import tifffile

from wsidata.errors import LimitExceededError, UnsupportedImageError
from wsidata.slides.slide import Slide

GRAY = np.random.default_rng(2).integers(0, 256, (40, 50), dtype=np.uint8)


def write(path, body, *, uuid="urn:uuid:1", sizes='SizeC="1" SizeZ="1" SizeT="1"', after=""):
    root = f' UUID="{uuid}"' if uuid else ""
    xml = (
        f'<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"{root}>{after}'
        f'<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="50" SizeY="40" {sizes}>'
        f'<Channel ID="C:0"/>{body}</Pixels></Image></OME>'
    )
    tifffile.imwrite(path, GRAY, photometric="minisblack", metadata=None, description=xml)
    return path


def place(name, uuid="urn:uuid:2", attributes='IFD="0" PlaneCount="1"'):
    return f'<TiffData {attributes}><UUID FileName="{name}">{uuid}</UUID></TiffData>'


@pytest.mark.parametrize("name", ["other.ome.tif", "../other.ome.tif", "{}/other.ome.tif"])
@pytest.mark.parametrize("body", ["{}", "<TiffData IFD='0' PlaneCount='1'/>{}"])
def test_another_file_is_not_opened(tmp_path, name, body):
    """A named pipe, which would be waited for."""
    os.mkfifo(tmp_path / "other.ome.tif")
    (tmp_path / "in").mkdir()
    folder = tmp_path / "in" if name.startswith("..") else tmp_path
    path = write(folder / "a.ome.tif", body.format(place(name.format(tmp_path))))
    outcome = []

    def look():
        try:
            Slide(path).close()
        except Exception as error:
            outcome.append(error)

    reader = threading.Thread(target=look, daemon=True)
    reader.start()
    reader.join(20)
    if reader.is_alive():  # let it go
        os.close(os.open(tmp_path / "other.ome.tif", os.O_RDWR | os.O_NONBLOCK))
        pytest.fail("it waits for the pipe")
    for error in outcome:
        assert isinstance(error, UnsupportedImageError)
        assert "is spread over several files" in str(error)


def test_a_renamed_file_is_itself(tmp_path):
    path = write(tmp_path / "renamed.ome.tif", place("a.ome.tif", "urn:uuid:1"))
    with Slide(path) as slide:
        np.testing.assert_array_equal(slide.numpy()[..., 0], GRAY)
    path = write(tmp_path / "b.ome.tif", place("B.ome.tif"), uuid=None)
    with Slide(path) as slide:
        np.testing.assert_array_equal(slide.numpy()[..., 0], GRAY)


@pytest.mark.parametrize(
    ("body", "options"),
    [
        ("<TiffData/>", {"sizes": 'SizeC="1" SizeZ="100000" SizeT="100000"'}),
        ('<TiffData IFD="0" PlaneCount="4000000000"/>', {}),
        ('<TiffData IFD="0" NumPlanes="4000000000"/>', {}),
        ('<TiffData IFD="0"/>' * 10_001, {}),
        (
            '<TiffData IFD="0"/>',
            {
                "after": '<StructuredAnnotations><XMLAnnotation ID="A" Namespace="modulo"><Value><Modulo><ModuloAlongC '
                'Type="phase" Start="0" End="1e12"/></Modulo></Value></XMLAnnotation></StructuredAnnotations>'
            },
        ),
    ],
)
def test_more_planes_than_allowed_raise(tmp_path, body, options):
    path = write(tmp_path / "a.ome.tif", body, **options)
    with pytest.raises(LimitExceededError, match=r"planes in its OME-XML, more than 10,000 \(max_planes\)"):
        Slide(path)
