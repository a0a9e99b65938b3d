"""Lightning DataModules for whole-slide images and folders of photos."""

from wsidata.datamodules.base import SplitDataModule as SplitDataModule
from wsidata.datamodules.camelyon16 import Camelyon16DataModule as Camelyon16DataModule
from wsidata.datamodules.geometry import GeometryError as GeometryError
from wsidata.datamodules.geometry import GeometryWarning as GeometryWarning
from wsidata.datamodules.image_folder import ImageFolderDataModule as ImageFolderDataModule
from wsidata.datamodules.wsi import WSIDataModule as WSIDataModule
