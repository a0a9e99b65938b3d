"""The Python examples of docs/publishing.md, run against a local Hub."""

import pandas as pd
import pytest
from places import ROOT

from wsidata.synthetic import write_camelyon16, write_photos

PAGE = """
import os, sys
sys.path.insert(0, sys.argv[1])
from documents import SMALLER, run_examples
from huggingface_hub import HfApi
from wsidata import HubDataModule, WSIDataModule, export

os.chdir(sys.argv[2])
SMALLER |= {'"me/': '"tester/', '"3f0c[.]+"': "commit()"}
plain = WSIDataModule("reference.csv", "images", test_prefix="test_", mpp=2.0, image_size=64, num_workers=0)
commit = lambda: HfApi().dataset_info("tester/camelyon16-2um").sha  # the page has a made-up one
export(plain, "export", quiet=True)
dm = run_examples("docs/publishing.md", {"commit": commit})["dm"]
dm.setup("fit")
print(type(dm).__name__, dm.class_names)
"""


@pytest.mark.slow
def test_publishing_runs(hub, tmp_path):
    folder = tmp_path / "here"
    write_camelyon16(folder, normal=5, tumor=5, test=4, size_px=(256, 256), tile=64)
    table = pd.read_csv(folder / "evaluation" / "reference.csv")
    table.assign(**{"class": table["type"]}).to_csv(folder / "reference.csv", index=False)
    photos = write_photos(folder / "somebody" / "mushrooms", classes=2, per_class=12, side_px=64)
    labels = pd.read_csv(photos / "labels.csv", dtype=str).assign(site=[f"site {row % 8}" for row in range(24)])
    names = {path.stem: f"photos/{path.name}" for path in (photos / "photos").iterdir()}
    labels["file_name"] = labels.pop("image").map(names)
    labels.to_csv(photos / "metadata.csv", index=False)
    (photos / "labels.csv").unlink()
    (photos / "names.csv").unlink()
    found = hub.python(PAGE, ROOT / "tests", folder)
    assert found.returncode == 0, found.stderr[-4000:]
    assert hub.repository("tester/camelyon16-2um")["private"]
