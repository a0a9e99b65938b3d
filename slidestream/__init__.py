"""The command `slidestream`, which joins the data of `wsidata` and the networks of `streammodels`."""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from wsidata.utils.public_names import lazy_names

if TYPE_CHECKING:
    from slidestream.trained import Trained as Trained
    from slidestream.trained import load_trained as load_trained

__getattr__, __dir__, __all__ = lazy_names(__name__, {"trained": ["Trained", "load_trained"]})
__all__ = [*__all__, "__version__"]

try:
    __version__ = version("slidestream")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"
