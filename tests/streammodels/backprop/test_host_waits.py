"""The loops over strips never wait for a GPU, by the program `host_waits.py`, which needs none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from preloaded import run_python
from torch.utils import backend_registration

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
        reason="this release of torch cannot pretend to have a device",
    ),
]
ROOT = Path(__file__).resolve().parents[3]
CLEAN = (
    "resnet", "resnet, few carries on the host", "frozen prefix", "average pool", "average pool, padding not counted",
    "max pool", "reflect padding", "replicate padding", "decoder", "losses of pixels", "global pools",
)  # fmt: skip
WAITING = {
    "pool of masked pixels": "how many pixels a mask chooses is read from it",
    "statistics of whole maps": "copies that run beside the computation are those of CUDA; tests/gpu checks them there",
}


@pytest.fixture(scope="module")
def places() -> dict[str, list[str]]:
    """Where each network waits."""
    program = Path(__file__).with_name("host_waits.py")
    found: dict[str, list[str]] = json.loads(run_python(program, check=True, cwd=ROOT).stdout)
    return found


def test_all_networks_are_listed(places: dict[str, list[str]]) -> None:
    assert places.keys() == {*CLEAN, *WAITING}


@pytest.mark.parametrize("network", CLEAN)
def test_nothing_waits_for_the_device(network: str, places: dict[str, list[str]]) -> None:
    assert places[network] == []


@pytest.mark.parametrize(
    "network", [pytest.param(n, marks=pytest.mark.xfail(strict=True, reason=why)) for n, why in WAITING.items()]
)
def test_known_waits(network: str, places: dict[str, list[str]]) -> None:
    assert places[network] == []
