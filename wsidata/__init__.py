"""Lightning data modules for whole-slide images: a pyramid on disk becomes labelled, split, augmented samples.

Names are imported when they are first used, so that `import wsidata` costs next to nothing.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsidata import transforms as transforms
    from wsidata.cropping import TissueCrop as TissueCrop
    from wsidata.datamodules import WSIDataModule as WSIDataModule
    from wsidata.datasets import SlideDataset as SlideDataset
    from wsidata.hub.card import CardText as CardText
    from wsidata.hub.datamodule import HubDataModule as HubDataModule
    from wsidata.hub.export import export as export
    from wsidata.hub.publish import publish as publish
    from wsidata.lazy import LazyImage as LazyImage
    from wsidata.leaks import check_leaks as check_leaks
    from wsidata.packing import Packing as Packing
    from wsidata.photos.datamodule import ImageFolderDataModule as ImageFolderDataModule
    from wsidata.slide import Slide as Slide
    from wsidata.split_files import load_splits as load_splits
    from wsidata.split_files import save_splits as save_splits
    from wsidata.splits import make_splits as make_splits
    from wsidata.stats import ChannelStats as ChannelStats
    from wsidata.stats import channel_stats as channel_stats
    from wsidata.tables import read_table as read_table
    from wsidata.tissue import TissueMask as TissueMask

_HOME = {
    "CardText": "wsidata.hub.card",
    "ChannelStats": "wsidata.stats",
    "HubDataModule": "wsidata.hub.datamodule",
    "ImageFolderDataModule": "wsidata.photos.datamodule",
    "LazyImage": "wsidata.lazy",
    "Packing": "wsidata.packing",
    "Slide": "wsidata.slide",
    "SlideDataset": "wsidata.datasets",
    "TissueCrop": "wsidata.cropping",
    "TissueMask": "wsidata.tissue",
    "WSIDataModule": "wsidata.datamodules",
    "channel_stats": "wsidata.stats",
    "check_leaks": "wsidata.leaks",
    "export": "wsidata.hub.export",
    "load_splits": "wsidata.split_files",
    "make_splits": "wsidata.splits",
    "publish": "wsidata.hub.publish",
    "read_table": "wsidata.tables",
    "save_splits": "wsidata.split_files",
}

__all__ = [
    "CardText",
    "ChannelStats",
    "HubDataModule",
    "ImageFolderDataModule",
    "LazyImage",
    "Packing",
    "Slide",
    "SlideDataset",
    "TissueCrop",
    "TissueMask",
    "WSIDataModule",
    "__version__",
    "channel_stats",
    "check_leaks",
    "export",
    "load_splits",
    "make_splits",
    "publish",
    "read_table",
    "save_splits",
    "transforms",
]

try:
    __version__ = version("slidestream")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    if name == "transforms":
        return import_module("wsidata.transforms")
    if name not in _HOME:
        raise AttributeError(f"module 'wsidata' has no attribute '{name}'. It offers {', '.join(__all__)}.")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
