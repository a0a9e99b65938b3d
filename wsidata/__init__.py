"""Lightning DataModules of labeled, split and augmented whole-slide images and photos.

Names are imported when they are first used, so that `import wsidata` costs next to nothing.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from wsidata.utils.installation import warn_of_other_distribution
from wsidata.utils.public_names import lazy_names

if TYPE_CHECKING:
    from wsidata import transforms as transforms
    from wsidata.datamodules.base import SplitDataModule as SplitDataModule
    from wsidata.datamodules.camelyon16 import Camelyon16DataModule as Camelyon16DataModule
    from wsidata.datamodules.image_folder import ImageFolderDataModule as ImageFolderDataModule
    from wsidata.datamodules.tiles.features import FeatureBagDataModule as FeatureBagDataModule
    from wsidata.datamodules.tiles.module import TileDataModule as TileDataModule
    from wsidata.datamodules.wsi import WSIDataModule as WSIDataModule
    from wsidata.datasets.slides import SlideDataset as SlideDataset
    from wsidata.hub.card import CardText as CardText
    from wsidata.hub.datamodule import HubDataModule as HubDataModule
    from wsidata.hub.export.writer import export as export
    from wsidata.hub.publish import publish as publish
    from wsidata.photos.read import read_photo as read_photo
    from wsidata.slides.artifacts.without import TissueWithout as TissueWithout
    from wsidata.slides.exchange.tissue_files import TissueFiles as TissueFiles
    from wsidata.slides.lazy_image import LazyImage as LazyImage
    from wsidata.slides.slide import Slide as Slide
    from wsidata.slides.tissue.crop import TissueCrop as TissueCrop
    from wsidata.slides.tissue.mask import TissueMask as TissueMask
    from wsidata.slides.tissue.packing import Packing as Packing
    from wsidata.splits.leaks import check_leaks as check_leaks
    from wsidata.splits.make import make_splits as make_splits
    from wsidata.splits.split_file import load_splits as load_splits
    from wsidata.splits.split_file import save_splits as save_splits
    from wsidata.stats.compute import channel_stats as channel_stats
    from wsidata.stats.result import ChannelStats as ChannelStats
    from wsidata.tables.label_table import read_table as read_table
    from wsidata.tiles.grid import TileGrid as TileGrid

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "": ["transforms"],
        "datamodules.base": ["SplitDataModule"],
        "datamodules.camelyon16": ["Camelyon16DataModule"],
        "datamodules.image_folder": ["ImageFolderDataModule"],
        "datamodules.tiles.features": ["FeatureBagDataModule"],
        "datamodules.tiles.module": ["TileDataModule"],
        "datamodules.wsi": ["WSIDataModule"],
        "datasets.slides": ["SlideDataset"],
        "hub.card": ["CardText"],
        "hub.datamodule": ["HubDataModule"],
        "hub.export.writer": ["export"],
        "hub.publish": ["publish"],
        "photos.read": ["read_photo"],
        "slides.artifacts.without": ["TissueWithout"],
        "slides.exchange.tissue_files": ["TissueFiles"],
        "slides.lazy_image": ["LazyImage"],
        "slides.slide": ["Slide"],
        "slides.tissue.crop": ["TissueCrop"],
        "slides.tissue.mask": ["TissueMask"],
        "slides.tissue.packing": ["Packing"],
        "splits.leaks": ["check_leaks"],
        "splits.make": ["make_splits"],
        "splits.split_file": ["load_splits", "save_splits"],
        "stats.compute": ["channel_stats"],
        "stats.result": ["ChannelStats"],
        "tables.label_table": ["read_table"],
        "tiles.grid": ["TileGrid"],
    },
)
__all__ = [*__all__, "__version__"]

try:
    __version__ = version("slidestream")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"

warn_of_other_distribution()
