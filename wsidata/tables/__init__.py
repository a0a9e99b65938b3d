"""Label tables, their class names and targets, and the images they name."""

from wsidata.tables.class_folders import read_class_folders as read_class_folders
from wsidata.tables.class_names import read_label_names as read_label_names
from wsidata.tables.label_table import LabelTable as LabelTable
from wsidata.tables.label_table import read_table as read_table
from wsidata.tables.targets import read_targets as read_targets
from wsidata.tables.text_table import TableError as TableError
