"""Export, publishing and loading of preprocessed datasets as folders and Hub repositories.

`manifest` defines the layout of such a folder, `export/` writes it, `publish` uploads it, `load/` reads it back.
"""

from typing import TYPE_CHECKING

from wsidata.utils.public_names import lazy_names

if TYPE_CHECKING:
    from wsidata.hub.card import CardText as CardText
    from wsidata.hub.datamodule import HubDataModule as HubDataModule
    from wsidata.hub.manifest import Encoding as Encoding
    from wsidata.hub.manifest import ExportFormatError as ExportFormatError
    from wsidata.hub.manifest import Preprocessing as Preprocessing
    from wsidata.hub.manifest import TableFile as TableFile
    from wsidata.hub.manifest import Transforms as Transforms
    from wsidata.hub.repository import Destination as Destination
    from wsidata.hub.repository import HubRepository as HubRepository
    from wsidata.hub.repository import PublishError as PublishError
    from wsidata.hub.upload import Published as Published

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "card": ["CardText"],
        "datamodule": ["HubDataModule"],
        "manifest": ["Encoding", "ExportFormatError", "Preprocessing", "TableFile", "Transforms"],
        "repository": ["Destination", "HubRepository", "PublishError"],
        "upload": ["Published"],
    },
)
