"""Tables come back from their files as they were."""

import pandas as pd
import pytest

from wsidata.evaluation import read_scores, save_table, scores_with_intervals


def test_scores_come_back_with_their_intervals_by_patient(predictions, tmp_path):
    table = predictions.replace({"label": {"x": "=NA"}, "predicted": {"x": "=NA"}}).rename(
        columns={"probability_x": "probability_=NA"}
    )
    scores = scores_with_intervals(table, groups=["p", "p", "q", "q", "r"])
    save_table(scores, tmp_path / "scores.csv")
    pd.testing.assert_frame_equal(read_scores(tmp_path / "scores.csv"), scores, check_dtype=False)
    alone = scores_with_intervals(table)
    assert not read_scores(tmp_path / "scores.csv")["low"].equals(alone["low"])


def test_no_number_is_an_error(tmp_path):
    (tmp_path / "scores.csv").write_text("split,target,score,value,low,high,images,note\nval,,auroc,high,,,5,\n")
    with pytest.raises(ValueError, match="could not convert string to float: 'high'"):
        read_scores(tmp_path / "scores.csv")
