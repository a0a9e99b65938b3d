"""A trained network read from a checkpoint, with its classes and how its images were read."""

from __future__ import annotations

import pickle
import warnings
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule

from streammodels import StreamingResNet, WeightsUnavailableError
from streammodels.training.pretrained import download, read_pretrained, repo_of
from wsidata.datamodules.checkpoint import memory_in
from wsidata.utils.files import atomic_write
from wsidata.utils.messages import name_some

_OWN = "streammodels."
"""Prefix of the classes that a checkpoint may name: importing any other would run code of whoever wrote it."""


TASK_OF_TARGET = {
    "class": "multiclass", "ordinal": "ordinal", "multilabel": "multilabel", "regression": "regression",
    "survival": "survival",
}  # fmt: skip
"""The task of a network for each kind of target of a data module; masks have none."""


class CheckpointError(ValueError):
    """A file is no checkpoint that a network can be made from; the message says why, and what to do."""


@dataclass(frozen=True)
class Trained:
    """A trained network.

    Attributes:
        model: The network, in eval mode, on the CPU.
        class_names: Name of class 0, 1, ..., or of each number of a regression; their numbers, if they have no names.
        memory: What the data module of its training run remembered (see `wsidata.datamodules.checkpoint`): plain
            values, among them `class_names` and `geometry`; None if it was trained with other data modules.
        checkpoint: The file.
    """

    model: LightningModule
    class_names: tuple[str, ...]
    memory: dict[str, Any] | None
    checkpoint: Path

    @property
    def geometry(self) -> dict[str, Any]:
        """How its images were read; empty if that is not known. See `wsidata.datamodules.geometry`."""
        return dict((self.memory or {}).get("geometry") or {})

    @property
    def task(self) -> str:
        """The name of its task, one of `TASK_OF_TARGET`; "multiclass" if it does not say."""
        return str(getattr(getattr(self.model, "task", None), "name", "multiclass"))

    @property
    def explained(self) -> tuple[str, ...]:
        """Names of the outputs that maps are drawn of: classes, the score of ordered classes, or hazards."""
        if self.task == "survival":
            return tuple(f"hazard until {end}" for end in self.class_names)
        return ("score",) if self.task == "ordinal" else self.class_names


def load_trained(checkpoint: str | Path, model_class: str | None = None, **changed: Any) -> Trained:
    """Load the network of a checkpoint that a `Trainer` has written.

    Nothing but plain values and weights is unpickled, and no weights are downloaded.

    Args:
        checkpoint: The file, the folder of a run, or "hf://owner/name", a network of the Hugging Face Hub; see `fetch`.
        model_class: Its class, as "module.Class", which has to be importable. None: as the checkpoint says, which may
            name classes of `streammodels` only.
        **changed: Arguments of the class to use instead of those of the training run, such as `memory="8GB"`.

    Raises:
        CheckpointError: if it cannot be loaded.
    """
    path = fetch(checkpoint)
    content = read_checkpoint(path)
    kind = _class_of(content, path, model_class)
    arguments = {name: value for name, value in content.get("hyper_parameters", {}).items() if name[:1] != "_"}
    try:
        model = kind(**{**arguments, **changed})
        model.on_load_checkpoint(content)
        model.load_state_dict(content["state_dict"])
    except (RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"'{path}' does not fit {kind.__name__}: {' '.join(str(error).split())} Name the class it was trained with "
            "by --model-class MODULE.CLASS (model_class=); its arguments are those kept by save_hyperparameters()."
        ) from error
    memory = memory_in(content)
    return Trained(model.eval(), _names(model, memory), memory, path)


def fetch(checkpoint: str | Path) -> Path:
    """The checkpoint on this disk; a network of the Hub is downloaded, and kept beside the Hub's own cache.

    Args:
        checkpoint: A file, the folder of a run, whose best one is taken, or "hf://owner/name" of what `push_to_hub` has
            published.

    Raises:
        CheckpointError: if the repository cannot be read, or holds something else.
    """
    repo = repo_of(checkpoint)
    if repo is None:
        best = Path(checkpoint, "checkpoints", "best.ckpt")
        return best if best.is_file() else Path(checkpoint)
    try:
        folder = download(repo)
        from huggingface_hub.constants import HF_HOME

        path = Path(HF_HOME, "slidestream", f"{repo.replace('/', '--')}-{folder.name}.ckpt")  # of this commit
        if not path.exists():
            content = read_pretrained(folder)
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as part:
                torch.save(content, part)
    except (ImportError, ValueError, WeightsUnavailableError) as error:
        raise CheckpointError(f"{checkpoint}: {error}") from error
    return path


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint of a `Trainer`.

    Raises:
        CheckpointError: if it is none.
    """
    if not path.is_file():
        raise CheckpointError(f"'{path}' is no file. Name a checkpoint, such as RUN/checkpoints/best.ckpt.")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # it is refused below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, EOFError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"'{path}' cannot be read as a checkpoint: it is cut off, or no file of torch "
            f"({type(error).__name__}). Copy it again, or take another of the run."
        ) from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"'{path}' is no checkpoint of plain values, and is not unpickled, as that would run code of whoever wrote "
            "it. Load it in Python if you trust it, and save it again."
        ) from error
    if not isinstance(content, dict) or "state_dict" not in content:
        kind = f"has the keys {name_some(list(content))}" if isinstance(content, dict) else f"holds a {type(content)}"
        raise CheckpointError(
            f"'{path}' {kind}, and a checkpoint of a Trainer has state_dict and hyper_parameters. A file of weights "
            "alone does not say of which network, nor how images were read: train with it (--model.weights), or name "
            "the checkpoint that the Trainer wrote."
        )
    return content


def import_named(name: str) -> Any:
    """What "package.module.name" names.

    Raises:
        ImportError: saying what to do, if it cannot be imported.
    """
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ImportError(
            f"'{name}' cannot be imported ({error}). Name it as MODULE.NAME, where its module can be found."
        ) from error


def _class_of(content: dict[str, Any], path: Path, requested: str | None) -> type[LightningModule]:
    """The class of the network."""
    name = requested or content.get("model_class") or f"{StreamingResNet.__module__}.{StreamingResNet.__qualname__}"
    if requested is None and not name.startswith(_OWN):
        raise CheckpointError(
            f"'{path}' was trained with the class {name}, which is not imported on a file's word. If you trust it, "
            f"pass --model-class {name} (model_class=)."
        )
    if requested is None and "hyper_parameters" not in content:
        raise CheckpointError(
            f"'{path}' does not say with which arguments its network was made (it has no hyper_parameters). Name the "
            "checkpoint that fit wrote, or the class by --model-class MODULE.CLASS (model_class=), if it needs none."
        )
    try:
        kind = import_named(name)
    except ImportError as error:
        raise CheckpointError(f"the class {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, LightningModule)):
        raise CheckpointError(f"{name} is no LightningModule. Name the class that the checkpoint was trained with.")
    return kind


def _names(model: LightningModule, memory: dict[str, Any] | None) -> tuple[str, ...]:
    """The names of the network's outputs."""
    names = tuple(map(str, (memory or {}).get("class_names", ())))
    outputs = getattr(model, "num_classes", None)
    if outputs is None or len(names) == outputs:
        return names
    return tuple(map(str, range(outputs)))
