"""The run on large slides leaves its results in a folder, and goes on from them."""

import json

import pandas as pd
import pytest

from study.gigapixel import main


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*(many workers|too small|litlogger|isinstance).*")
def test_a_run_is_whole_and_is_not_done_again(tmp_path):
    settings = {"slides": 12, "side": 1024, "small_slides": 16, "small_steps": 2}
    main(tmp_path, epochs=1, largest=1024, **settings)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["gradients"] < 1e-11
    assert summary["step_1024"]["step_s"] > 0
    assert set(pd.read_csv(tmp_path / "scores.csv").trained) == {"before", "after"}
    assert pd.read_csv(tmp_path / "epochs.csv").epoch.tolist() == [0]
    assert "train" in pd.read_csv(tmp_path / "memory.csv").stage.tolist() + list(summary["peak_mb_by_stage"])
    names = ("epochs.csv", "predictions_after.csv", "heatmap.npy", "epoch.ckpt")
    before = [(tmp_path / name).read_bytes() for name in names]
    (tmp_path / "gigapixel.png").unlink()
    main(tmp_path, epochs=1, largest=1024, **settings)
    assert (tmp_path / "gigapixel.png").stat().st_size > 1000
    assert before == [(tmp_path / name).read_bytes() for name in names]
    with pytest.raises(ValueError, match=r"another epochs\. Choose another folder"):
        main(tmp_path, epochs=2, **settings)
