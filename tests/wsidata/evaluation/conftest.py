"""A prediction table with known scores."""

import numpy as np
import pandas as pd
import pytest


@pytest.fixture
def predictions() -> pd.DataFrame:
    rows = [
        ("a", "x", 0.9, 0.1),
        ("b", "x", 0.4, 0.6),
        ("c", "y", 0.8, 0.2),
        ("d", "y", 0.3, 0.7),
        ("e", "y", 0.1, 0.9),
    ]
    table = pd.DataFrame(rows, columns=["image", "label", "probability_x", "probability_y"])
    table.insert(1, "split", "val")
    table.insert(3, "predicted", np.where(table["probability_x"] > 0.5, "x", "y"))
    return table
