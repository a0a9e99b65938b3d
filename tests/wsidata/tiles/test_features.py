"""Files of features, and maps of values of tiles, compared with pixels of level 0 one by one."""

import numpy as np
import pytest

from wsidata.tiles.features import FeatureFileError, TileFeatures, feature_facts, read_features
from wsidata.tiles.stitching import stitch

h5py = pytest.importorskip("h5py", reason="files of features need slidestream[features]")


def test_files_are_read_as_they_were_written(tmp_path):
    rng = np.random.default_rng(0)
    features, coords = rng.random((5, 3), np.float32), rng.integers(0, 99, (5, 2))
    TileFeatures(features, coords, {"encoder": "own", "patch_size": 256, "mpp": [0.5, 0.5]}).write(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5") as file:
        assert np.array_equal(file["features"][()], features)
        assert file["coords"].attrs["patch_size"] == 256
    found = read_features(tmp_path / "a.h5")
    assert np.array_equal(found.features, features)
    assert np.array_equal(found.coords, coords)
    assert found.attributes == {"encoder": "own", "patch_size": 256, "mpp": [0.5, 0.5]}
    with h5py.File(tmp_path / "trident.h5", "w") as file:  # some versions keep a dimension for the batch
        file["features"] = features[None].astype(np.float16)
        file.create_dataset("coords", data=coords[None]).attrs["patch_size_level0"] = 512
    found = read_features(tmp_path / "trident.h5")
    assert np.array_equal(found.features, features.astype(np.float16).astype(np.float32))
    assert found.coords.shape == (5, 2)
    assert feature_facts(tmp_path / "trident.h5") == ((5, 3), {"patch_size_level0": 512})


def test_what_holds_no_features_is_refused_by_name(tmp_path):
    (tmp_path / "text.h5").write_text("no features")
    with h5py.File(tmp_path / "coords.h5", "w") as file:
        file["coords"] = np.zeros((2, 2))
    with h5py.File(tmp_path / "flat.h5", "w") as file:
        file["features"] = np.zeros(4)
    with h5py.File(tmp_path / "nan.h5", "w") as file:
        file["features"] = np.full((2, 2), np.nan)
    for name, why in {
        "text.h5": "no whole HDF5 file", "coords.h5": "has the keys coords", "flat.h5": r"has features \(4,\)",
        "nan.h5": "not finite",
    }.items():  # fmt: skip
        with pytest.raises(FeatureFileError, match=f"{name}' .*{why}"):
            read_features(tmp_path / name)
    with pytest.raises(FeatureFileError, match="not finite"):
        TileFeatures(np.full((1, 2), np.inf, np.float32), None).write(tmp_path / "new.h5")
    with pytest.raises(FeatureFileError, match="not one row a tile"):
        TileFeatures(np.zeros((3, 2), np.float32), np.zeros((2, 2), np.int64)).write(tmp_path / "new.h5")
    assert not (tmp_path / "new.h5").exists()


def test_overlapping_values_are_weighted_by_the_area_they_cover():
    rng = np.random.default_rng(3)
    coords, values = rng.integers(-5, 40, (30, 2)), rng.normal(size=(30, 2))
    width, height, tile, step = 44, 36, (13, 9), 4
    total, weight = np.zeros((2, height, width)), np.zeros((height, width))
    for (x, y), value in zip(coords, values, strict=True):
        rows, columns = slice(max(0, y), max(0, y + tile[1])), slice(max(0, x), max(0, x + tile[0]))
        total[:, rows, columns] += value[:, None, None]
        weight[rows, columns] += 1
    blocks = (height // step, step, width // step, step)
    total, weight = total.reshape(2, *blocks).sum(axis=(2, 4)), weight.reshape(blocks).sum(axis=(1, 3))
    expected = np.where(weight > 0, total / np.where(weight > 0, weight, 1), np.nan)
    found = stitch(values, coords, tile, (width, height), step)
    assert np.isnan(found).any()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(stitch(values[:, 0], coords, tile, (width, height), step), found[0])
    assert stitch([2.0], [(0, 0)], (10, 10), (25, 12), (10.0, 5.0)).shape == (3, 3)  # rounded up
    with pytest.raises(ValueError, match="a row for each tile"):
        stitch([1.0, 2.0], [(0, 0)], (1, 1), (2, 2), 1)
    with pytest.raises(ValueError, match="beside a slide"):
        stitch([1.0], [(25, 0)], (10, 10), (25, 12), [10.0, 5.0])
