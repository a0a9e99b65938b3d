"""Training on slides that workers decode, and the share of the time in which the GPU is busy."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType

from gpu.blocks import Record, Setting
from gpu.speed import busy_us


def end_to_end(setting: Setting) -> Iterator[Record]:
    """An epoch of a ResNet-18 on synthetic slides, whole and read by rows, as a user trains."""
    import numpy as np
    import pandas as pd
    from lightning.pytorch import Callback, Trainer

    from streammodels import StreamingResNet
    from wsidata import WSIDataModule
    from wsidata.synthetic.slides import write_pixels
    from wsidata.synthetic.tissue import paint_tissue

    side, times, slides, workers = (128, 1, 2, 0) if setting.tiny else (8192, 4, 9, 8)

    class Watch(Callback):
        """When batches begin and end."""

        def __init__(self) -> None:
            self.begun: list[float] = []
            self.ended: list[float] = []

        def on_train_batch_start(self, *_: Any) -> None:
            self.begun.append(time.perf_counter())

        def on_train_batch_end(self, *_: Any) -> None:
            setting.wait()
            self.ended.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        names = [f"slide_{number}" for number in range(slides)]
        painted = paint_tissue(side // times, side // times, tumor=False, mpp=0.5, rng=np.random.default_rng(0))
        first = write_pixels(Path(folder) / f"{names[0]}.tif", np.tile(painted, (times, times, 1)), mpp=0.5)
        for name in names[1:]:
            shutil.copy(first, first.with_stem(name))
        table = pd.DataFrame({"image": names, "class": ["tumor" if i % 2 else "normal" for i in range(slides)]})
        for lazy in (True,) if setting.tiny else (False, True):
            data = WSIDataModule(
                table, folder, level=0, lazy=lazy, num_workers=workers, val_fraction=0.0, leaks="off",
                image_size=side,
            )  # fmt: skip
            model = StreamingResNet(
                "resnet9" if setting.tiny else "resnet18", memory="1GB" if setting.tiny else "24GB", num_classes=2,
                weights=None,
            )  # fmt: skip
            watch = Watch()
            trainer = Trainer(
                max_epochs=1, accelerator="gpu" if setting.on_gpu else "cpu", devices=1, logger=False,
                callbacks=[watch], precision="bf16-mixed", enable_checkpointing=False, enable_progress_bar=False,
                limit_val_batches=0, enable_model_summary=False, default_root_dir=folder, num_sanity_val_steps=0,
            )  # fmt: skip
            record: Record = {
                "slides": slides,
                "side": side,
                "workers": workers,
                "read": "by rows" if lazy else "whole",
            }
            spans = _busy(setting, trainer, model, data)
            measured = watch.ended[-1] - watch.ended[0]  # the first batch waits for workers to start
            in_steps = sum(end - begin for begin, end in zip(watch.begun[1:], watch.ended[1:], strict=True))
            record |= {"slide_s": measured / (len(watch.ended) - 1), "in_steps": in_steps / measured}
            if setting.on_gpu:
                first = min(start for start, _ in spans)
                late = [span for span in spans if span[0] > first + 1e6 * (watch.ended[0] - watch.begun[0])]
                record["busy"] = busy_us(late) / 1e6 / measured
            yield record


def _busy(setting: Setting, trainer: Any, model: Any, data: Any) -> list[tuple[float, float]]:
    """Train; the spans in which the GPU computed or copied, in microseconds."""
    if not setting.on_gpu:
        trainer.fit(model, data)
        return []
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        trainer.fit(model, data)
    events = [event for event in profile.events() or [] if event.device_type == DeviceType.CUDA]
    return [(event.time_range.start, event.time_range.end) for event in events]
