"""Lightning DataModules for whole-slide images and folders of photos."""

from typing import TYPE_CHECKING

from wsidata.utils.public_names import lazy_names

if TYPE_CHECKING:
    from wsidata.datamodules.base import SplitDataModule as SplitDataModule
    from wsidata.datamodules.image_folder import ImageFolderDataModule as ImageFolderDataModule
    from wsidata.datamodules.wsi import WSIDataModule as WSIDataModule

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "base": ["SplitDataModule"],
        "image_folder": ["ImageFolderDataModule"],
        "wsi": ["WSIDataModule"],
    },
)
