"""Dask's executor, with workers in two processes."""

from collections.abc import Iterator
from concurrent.futures import Executor
from multiprocessing import forkserver
from pathlib import Path

import pandas as pd
import pytest

from wsidata import WSIDataModule
from wsidata.hub.export.writer import export
from wsidata.splits.leaks import check_leaks
from wsidata.stats.compute import channel_stats
from wsidata.stats.result import StatsWarning

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    dask = pytest.importorskip("dask", reason="needs slidestream[cluster]")
    distributed = pytest.importorskip("distributed", reason="needs slidestream[cluster]")
    how = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    forkserver.ensure_running()  # with what the other tests have it import; Dask would choose for itself
    forked = dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"})
    with forked, distributed.LocalCluster(**how) as cluster, distributed.Client(cluster) as client:
        yield client.get_executor(pure=False)


def test_statistics_are_those_of_one_process(camelyon: Path, tmp_path: Path, executor: Executor) -> None:
    broken = tmp_path / "broken.tif"
    broken.write_bytes((camelyon / "images" / "tumor_001.tif").read_bytes()[:3000])
    slides = [broken, *sorted((camelyon / "images").glob("*.tif"))]
    how = {"level": 1, "on_error": "skip", "crop": "pack", "reduction": "per_image"}
    with pytest.warns(StatsWarning, match="broken.tif: UnreadableImageError"):
        found = channel_stats(slides, executor=executor, **how)
    with pytest.warns(StatsWarning):
        assert found.to_json() == channel_stats(slides, **how).to_json()


def test_leaks_are_those_of_one_process(camelyon: Path, executor: Executor) -> None:
    paths = [str(path) for path in sorted((camelyon / "images").glob("*.tif"))]
    table = pd.DataFrame({"image_id": paths, "path": paths, "split": (["train", "val", "test"] * 6)[: len(paths)]})
    table = pd.concat([table, table[:2].assign(image_id="again", split="test")], ignore_index=True)
    assert check_leaks(table, executor=executor) == check_leaks(table)


def test_an_export_and_its_statistics_are_those_of_one_process(
    camelyon: Path, tmp_path: Path, executor: Executor
) -> None:
    def dm() -> WSIDataModule:
        table = camelyon / "evaluation" / "reference.csv"
        return WSIDataModule(table, camelyon / "images", test_prefix="test_", level=1, image_size=64)

    how = {"quiet": True, "say": lambda _: None}
    found = export(dm(), tmp_path / "dask", executor=executor, **how)
    assert found == export(dm(), tmp_path / "one", **how)
