"""Label tables, their class names and targets, and the images they name."""

from typing import TYPE_CHECKING

from wsidata.utils.public_names import lazy_names

if TYPE_CHECKING:
    from wsidata.tables.class_folders import read_class_folders as read_class_folders
    from wsidata.tables.class_names import read_label_names as read_label_names
    from wsidata.tables.label_table import LabelTable as LabelTable
    from wsidata.tables.label_table import read_table as read_table
    from wsidata.tables.targets import read_targets as read_targets
    from wsidata.tables.text_table import TableError as TableError

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        "class_folders": ["read_class_folders"],
        "class_names": ["read_label_names"],
        "label_table": ["LabelTable", "read_table"],
        "targets": ["read_targets"],
        "text_table": ["TableError"],
    },
)
