"""Splits (train, val, test), their files, and leak checks."""

from wsidata.splits.duplicates import describe_duplicates as describe_duplicates
from wsidata.splits.duplicates import find_duplicates as find_duplicates
from wsidata.splits.duplicates import group_duplicates as group_duplicates
from wsidata.splits.leaks import Leak as Leak
from wsidata.splits.leaks import LeakReport as LeakReport
from wsidata.splits.leaks import check_leaks as check_leaks
from wsidata.splits.make import make_splits as make_splits
from wsidata.splits.split_file import load_splits as load_splits
from wsidata.splits.split_file import save_splits as save_splits
