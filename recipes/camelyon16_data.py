"""The Camelyon16 table as published, and the organisers' corrections to it, which the file itself does not have."""

from pathlib import Path

import pandas as pd

LEFT_OUT = {"normal_086": "holds a tumour, now tumor_111", "test_049": "a duplicate"}
# test_114 stays: not all of its tumours are outlined, but its slide label is right.


def read_reference(folder: Path) -> pd.DataFrame:
    """The published table, corrected: columns image and class, as text."""
    places = [folder / "evaluation" / "reference.csv", folder / "reference.csv"]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise SystemExit(f"error: no table; looked for {places[0]} and {places[1]}. See docs/tutorial-camelyon16.md.")
    table = pd.read_csv(path, dtype=str, skipinitialspace=True)
    label = next((column for column in ("class", "type") if column in table), None)
    if label is None or "image" not in table:
        raise SystemExit(
            f"error: {path} needs the columns image and class (or type); it has {', '.join(map(str, table.columns))}."
        )
    names = table["image"].str.strip().str.removesuffix(".tif")
    for name in sorted(set(names) & set(LEFT_OUT)):
        print(f"{name} is left out: {LEFT_OUT[name]} (correction by the organisers).")
    return pd.DataFrame({"image": names, "class": table[label]})[~names.isin(list(LEFT_OUT))]
