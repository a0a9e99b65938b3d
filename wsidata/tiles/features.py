"""Files of the features of a slide's tiles, as TRIDENT and CLAM write them.

HDF5 with the datasets `features` (N, F) float32 and `coords` (N, 2) int64, x and y of the tiles in pixels of level 0.
How tiles were read is said by attributes of `coords`, the encoder by one of `features`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsidata.utils.files import atomic_write


class FeatureFileError(ValueError):
    """A file holds no features of tiles, or those of others; the message names it."""


@dataclass(frozen=True, eq=False)
class TileFeatures:
    """The features of the tiles of one slide.

    Attributes:
        features: (N, F) float32.
        coords: (N, 2) int64, x and y of the upper left corners in pixels of level 0; None if the file has none.
        attributes: How tiles were read and encoded: `encoder`, `patch_size` (pixels that were read),
            `patch_size_level0`, `overlap`, `level0_width`, `level0_height` ...
    """

    features: NDArray[np.float32]
    coords: NDArray[np.int64] | None
    attributes: dict[str, Any] = field(default_factory=dict)

    def write(self, path: str | Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            FeatureFileError: if features are not finite, or not one row a tile.
            ImportError: if h5py is not installed.
        """
        features = np.asarray(self.features, np.float32)
        if features.ndim != 2 or (self.coords is not None and self.coords.shape != (len(features), 2)):
            shape = None if self.coords is None else self.coords.shape
            raise FeatureFileError(f"'{path}': features {features.shape} and places {shape} are not one row a tile.")
        if not np.isfinite(features).all():
            raise FeatureFileError(
                f"'{path}' would hold features that are not finite. Encode in another precision, such as float32."
            )
        h5py = _h5py()
        with atomic_write(path) as part, h5py.File(part, "w") as file:
            stored = file.create_dataset("features", data=features)
            if self.coords is not None:
                coords = file.create_dataset("coords", data=np.asarray(self.coords, np.int64))
                coords.attrs.update(self.attributes)
            stored.attrs.update(self.attributes)


def read_features(path: str | Path) -> TileFeatures:
    """Read a file; also those of TRIDENT and CLAM, with a first dimension of 1 or not.

    Raises:
        FeatureFileError: naming the file, if it is damaged or holds no features.
        FileNotFoundError: if there is none.
        ImportError: if h5py is not installed.
    """
    with _Opened(path) as file:
        features = np.asarray(file["features"][()], np.float32)
        features = features[0] if features.ndim == 3 else features
        coords = np.asarray(file["coords"][()]) if "coords" in file else None
        coords = coords[0] if coords is not None and coords.ndim == 3 else coords
        found = TileFeatures(features, None if coords is None else coords.astype(np.int64), _attributes(file))
    if not np.isfinite(features).all():
        raise FeatureFileError(f"'{path}' holds features that are not finite. Remove it, and encode its slide again.")
    return found


def feature_facts(path: str | Path) -> tuple[tuple[int, int], dict[str, Any]]:
    """(N, F) and the attributes of a file, of which no features are read; errors as `read_features`."""
    with _Opened(path) as file:
        return file["features"].shape[-2:], _attributes(file)


def _attributes(file: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in ("coords", "features"):
        if name in file:
            found |= {key: _plain(value) for key, value in file[name].attrs.items()}
    return found


def _plain(value: Any) -> Any:
    value = value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
    return value.decode(errors="replace") if isinstance(value, bytes) else value


class _Opened:
    """The open file, checked to hold features; all that h5py raises becomes one error."""

    def __init__(self, path: str | Path) -> None:
        self.path, self.file = path, None

    def __enter__(self) -> Any:
        h5py = _h5py()
        try:
            self.file = h5py.File(self.path, "r")
        except FileNotFoundError:
            raise
        except OSError as error:
            raise FeatureFileError(f"'{self.path}' is no whole HDF5 file ({error}). Write it again.") from error
        file: Any = self.file
        shape = file["features"].shape if "features" in file else None
        if shape is None or not (len(shape) == 2 or (len(shape) == 3 and shape[0] == 1)):
            held = f"has the keys {', '.join(file) or 'none'}" if shape is None else f"has features {shape}"
            file.close()
            raise FeatureFileError(f"'{self.path}' {held}, and features (tiles, numbers) belong there.")
        return file

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        file: Any = self.file
        file.close()
        if isinstance(error, (OSError, RuntimeError)):
            raise FeatureFileError(f"'{self.path}' is damaged ({error}). Write it again.") from error


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ImportError("files of features need h5py: pip install 'slidestream[features]'.") from error
    return h5py
