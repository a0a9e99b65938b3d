"""Runs the Python examples of a document."""

import re
from typing import Any

from places import ROOT

PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
SMALLER = {
    r"image_size=\d+": "image_size=64", r"max_epochs=\d+": "max_epochs=1", r"tile_size=\d+": "tile_size=64",
    r"num_workers=\d+": "num_workers=0", r"(StreamingResNet\(.*)\)": r"\1, weights=None)", r"8192, 8192": "128, 96",
    r"strip_rows=\d+": "strip_rows=32", r"(?<=StreamingResNet\(\")resnet\d+": "resnet9", "2048, 1024": "64, 96",
    r'weights="DEFAULT"': "weights=None", r"process_pool\(8\)": "process_pool(1)",
    "pretrained=True": "pretrained=False",
    r"CropOrPad\(4096\)": "CropOrPad(64)",
    r"Trainer\(": "Trainer(accelerator='cpu', logger=False, enable_checkpointing=False, enable_model_summary=False, "
    "num_sanity_val_steps=0, ",
}  # fmt: skip
"""What is changed in the examples, so that they take seconds and download nothing."""


def run_examples(document: str, known: dict[str, Any]) -> dict[str, Any]:
    """Run the Python of a document, in the working folder; returns the variables."""
    names: dict[str, Any] = {"__name__": "__main__", **known}
    for block in PYTHON_BLOCK.findall((ROOT / document).read_text()):
        for pattern, smaller in SMALLER.items():
            block = re.sub(pattern, smaller, block)
        exec(compile(block, document, "exec"), names)
    return names
