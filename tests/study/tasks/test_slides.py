"""Slides of the study are read as users read theirs, in the same order for all arms."""

from dataclasses import replace
from itertools import islice

import pandas as pd
import pytest
import torch

from study.arms import NEEDLES, SLIDES
from study.tasks.slides import Slides
from study.training import Job, train
from wsidata import Slide


@pytest.mark.slow
def test_all_arms_see_the_same_slides_and_patients_are_in_one_part(tmp_path):
    data = Slides(tmp_path, slides=18, steps=2, batch=3)
    whole, tiles = (next(arm for arm in SLIDES if arm.name == name) for name in ("whole image", "tiles, attention"))
    torch.manual_seed(5)
    first = list(islice(data.batches(whole), 6))  # more than an epoch
    torch.manual_seed(6)
    again = list(islice(Slides(tmp_path, slides=18, steps=2, batch=3).batches(tiles), 6))
    for (images, labels), (other_images, other_labels) in zip(first, again, strict=True):
        assert (images == other_images).all()
        assert (labels == other_labels).all()
    assert first[0][0].shape == (3, 3, 512, 512)
    epoch = len(data._module.train_dataloader())
    assert epoch < 6
    assert (first[0][0] != first[epoch][0]).any()
    table = pd.read_csv(next(tmp_path.glob("slides_*/slides.csv")))
    table = table.set_index(table.image.str.removesuffix(".tif"))
    parts = data._module.labels.frame.set_index("image_id")["split"]
    assert table.assign(split=parts).groupby("patient").split.nunique().max() == 1
    assert set(parts) == {"train", "val", "test"}
    images, labels = data.held_out("test", whole)
    assert images.dtype == torch.uint8
    assert labels.float().mean() == 0.5
    assert ((data.lesion_shares > 0) == labels.numpy()).all()
    with Slide(
        next(tmp_path.glob("slides_*")) / "images" / f"{data._module.tables['val']['image_id'][1]}.tif"
    ) as slide:
        assert (data.held_out("val", tiles)[0][1].permute(1, 2, 0).numpy() == slide.numpy(level=0)).all()
    for arm in (whole, tiles):
        assert 0 <= train(Job(data, arm, 3e-3, 0))["val_auroc"] <= 1
    frozen = replace(next(arm for arm in NEEDLES if arm.encoder == "random"), tile_px=64, stride_px=64)
    bags = list(islice(data.batches(frozen), 4))
    known, of_train = data._features("train", frozen), data._labels("train")
    assert known.shape == (len(of_train), 64, 32)
    rows = torch.cat([bag for bag, _ in bags])[: len(known)]  # an epoch
    order = [int((known == bag).all((1, 2)).nonzero()[0]) for bag in rows]
    assert sorted(order) == list(range(len(known)))
    assert torch.cat([labels for _, labels in bags])[: len(known)].tolist() == of_train[order].tolist()
