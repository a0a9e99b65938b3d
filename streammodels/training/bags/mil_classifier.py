"""`MILClassifier`, a classifier or regression model of bags of features by multiple-instance learning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from streammodels.models.pool_names import make_pool
from streammodels.models.pooling import GatedAttention
from streammodels.training.steps import OptimizerFactory, SchedulerFactory, SupervisedModule
from streammodels.training.tasks import Loss, head_outputs

Bags = Tensor | Sequence[Tensor]
"""(B, N, F), or a list of (N, F) of any N."""


class MILClassifier(SupervisedModule):
    """A network on bags, the features of the tiles of one slide each: embedding, pool over the tiles, linear layer.

        (N, features) -> Linear, ReLU, Dropout -> (N, embedding) -> pool -> (embedding,) -> Linear -> (num_classes,)

    With `pooling="attention"` it is attention-based multiple-instance learning (Ilse, Tomczak, Welling 2018,
    https://arxiv.org/abs/1802.04712), gated. Its pools are those of streamed networks, so patch methods and streaming
    differ in the features alone.

    Args:
        features: Numbers of a tile, F.
        num_classes: Number of classes, or of values in a regression.
        pooling: "attention", "avg", "max", or another name of `make_pool`; or a `GlobalPool` of the embedding.
        embedding: Length of the embedding of a tile. None pools the features as they are.
        dropout: Dropout probability of the embedding.
        task: As for `StreamingClassifier`, like those that follow.
        loss_fn: ``loss_fn(logits, labels)``; None for the task's default.
        metrics: A metric, or collection of metrics.
        optimizer: Called with the parameters. None for AdamW with a learning rate of 1e-4.
        lr_scheduler: Called with the optimizer.

    Raises:
        ValueError: For sizes that are not positive, an unknown pool or task.

    Example:
        >>> model = MILClassifier(features=512, num_classes=2)
        >>> model([torch.zeros(900, 512), torch.zeros(40, 512)]).shape
        torch.Size([2, 2])
    """

    def __init__(
        self,
        features: int,
        num_classes: int = 2,
        pooling: str | nn.Module = "attention",
        embedding: int | None = 256,
        dropout: float = 0.25,
        task: str | None = None,
        loss_fn: Loss | None = None,
        metrics: Metric | MetricCollection | None = None,
        optimizer: OptimizerFactory | None = None,
        lr_scheduler: SchedulerFactory | None = None,
    ) -> None:
        super().__init__()
        for name, size in (("features", features), ("embedding", features if embedding is None else embedding)):
            if size < 1:
                raise ValueError(f"MILClassifier needs {name} of at least 1, got {size}")
        self.features = features
        channels = features if embedding is None else embedding
        layers = [] if embedding is None else [nn.Linear(features, embedding), nn.ReLU(), nn.Dropout(dropout)]
        self.embed = nn.Sequential(*layers)
        self.pool = make_pool(pooling, channels)
        self.head = nn.Linear(channels, head_outputs(task, num_classes))
        self._configure_steps(num_classes, task, loss_fn, metrics, optimizer, lr_scheduler)
        own = ["loss_fn", "metrics", "optimizer", "lr_scheduler"]
        self.save_hyperparameters(ignore=own if isinstance(pooling, str) else [*own, "pooling"])
        self.hparams.update(task=self.task.name)

    def forward(self, bags: Bags) -> Tensor:
        """Logits (B, num_classes) of bags, each pooled by itself.

        Raises:
            ValueError: If a bag is empty, or its tiles have another number of features.
        """
        if isinstance(bags, Tensor) and bags.ndim == 3:
            pooled = self.pool(self._map(bags)).flatten(1)
        else:
            pooled = torch.cat([self.pool(self._map(bag[None])).flatten(1) for bag in bags])
        logits: Tensor = self.head(pooled)
        return logits if self.link is None else self.link(logits)

    def attention(self, bag: Tensor) -> Tensor:
        """The weights of a bag's tiles in its result, (N,), or (heads, N); they sum to 1.

        Raises:
            ValueError: If the pool is no attention pooling.
        """
        if not isinstance(self.pool, GatedAttention):
            raise ValueError(f"{type(self.pool).__name__} has no attention. Train with pooling='attention'.")
        scores = self.pool.scores(self._map(bag[None]))[0, :, :, 0]
        weights = torch.softmax(scores, dim=1)
        return weights[0] if self.pool.heads is None else weights

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Probabilities, or values in a regression, (B, num_classes) of bags with or without what else is known."""
        return self.task.predictions(self(batch[0] if isinstance(batch, tuple) else batch))

    def _map(self, bags: Tensor) -> Tensor:
        """The embedded tiles of bags of one size as the pixels of maps, (B, C, N, 1)."""
        if bags.ndim != 3 or not bags.shape[1] or bags.shape[2] != self.features:
            raise ValueError(
                f"a bag has the shape {tuple(bags.shape[1:])}, and tiles of {self.features} features, "
                f"(N, {self.features}), belong there. Pass features={bags.shape[-1]}, or bags of the same encoder."
            )
        embedded: Tensor = self.embed(bags.to(self.head.weight.dtype))
        return embedded.transpose(1, 2)[..., None]
