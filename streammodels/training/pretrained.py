"""A trained network as a folder or a repository of the Hugging Face Hub, with a card.

It holds the weights, the plain hyperparameters, and of what the data module remembered only what predicting needs:
classes, how images are read, channel statistics, and a digest of the split. No path, id or name of an image.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import lightning
from torch import Tensor

from streammodels.models.weights import WeightsUnavailableError

CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "config.json", "model.safetensors", "README.md"
FORMAT = 1
_MEMORY = "data_module"
_NAMES_A_FILE = re.compile(
    r"""(?:^|[\s'"=(,])(?:/|~/|\\\\|\.{1,2}[/\\]|[A-Za-z]:[/\\]|file:)\S"""
    r"|\.(?:svs|tiff?|ndpi|mrxs|scn|bif|dcm|czi|vsi|zarr|jpe?g|png|webp|csv|tsv|xlsx|parquet|npy|pth?|ckpt)\b",
    re.IGNORECASE,
)


class PretrainedError(ValueError):
    """A network cannot be saved to a folder, or read from one; the message says why, and what to do."""


@dataclass(frozen=True)
class ModelCard:
    """What a card says that the network does not know itself.

    Attributes:
        title: Name of the model; None for that of the repository.
        license: The Hub's identifier, such as "apache-2.0".
        description: A paragraph: images, scanner, stain, cohort, what it is for.
        metrics: Scores by name, such as {"test AUROC": 0.93}; None for what the Trainer logged last.
    """

    title: str | None = None
    license: str | None = None
    description: str | None = None
    metrics: Mapping[str, float] | None = None


# -- writing -----------------------------------------------------------------------------------------------------------


def save_pretrained(model: Any, folder: str | Path, card: ModelCard | None = None, repo_id: str | None = None) -> Path:
    """Write a trained network to a folder: config.json, model.safetensors and README.md.

    Args:
        model: A `StreamingResNet`, `StreamingNetwork`, or a class derived from them.
        folder: Created, or updated; other files in it stay.
        card: Further text of the card.
        repo_id: The repository that it will be in, for the card.

    Returns:
        The folder.

    Raises:
        PretrainedError: If the network cannot be made again from its hyperparameters, or they, or how images are read,
            name a file of this machine.
    """
    card = card or ModelCard()
    config = _config(model)
    state = {key: value.detach().cpu().clone().contiguous() for key, value in model.state_dict().items()}
    _check_complete(model, config, state)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _safetensors().save_file(state, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / CARD_FILE).write_text(_card(config, model, card, repo_id), encoding="utf-8")
    return folder


def push_to_hub(
    model: Any, repo_id: str, card: ModelCard | None = None, *, private: bool = True, token: str | None = None
) -> str:
    """Publish a trained network on the Hub; see `save_pretrained`.

    Args:
        model: See `save_pretrained`.
        repo_id: "owner/name"; created if there is none.
        card: Further text of the card. It replaces the repository's.
        private: Whether a new repository is private.
        token: Access token that may write. None: HF_TOKEN, or the one stored by `hf auth login`.

    Returns:
        URL of the commit.

    Raises:
        ImportError: Without huggingface_hub.
        PretrainedError: See `save_pretrained`.
    """
    api = _hub().HfApi(token=token)
    with TemporaryDirectory() as folder:
        save_pretrained(model, folder, card, repo_id)
        api.create_repo(repo_id, private=private, exist_ok=True)
        done = api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Upload a trained network")
    return str(done.commit_url)


def _config(model: Any) -> dict[str, Any]:
    kind = type(model)
    if not model.hparams:
        raise PretrainedError(
            f"{kind.__name__} keeps no hyperparameters to make it from again. Use StreamingResNet or StreamingNetwork, "
            "or derive a class from them whose __init__ calls self.save_hyperparameters()."
        )
    config = {
        "format": FORMAT,
        "library": "slidestream",
        "model_class": f"{kind.__module__}.{kind.__qualname__}",
        "task": model.task.name,
        "hyperparameters": {name: value for name, value in model.hparams.items() if name[:1] != "_"},
        _MEMORY: _shared(_memory(model)),
    }
    for path, value in _values(config):
        if isinstance(value, Path) or (isinstance(value, str) and _NAMES_A_FILE.search(value)):
            raise PretrainedError(
                f"{path} would publish {str(value)!r}, which names a file of this machine. Leave it out of the "
                "hyperparameters (save_hyperparameters(ignore=[...])), or change it in model.hparams."
            )
        if not isinstance(value, str | int | float | bool | None):
            raise PretrainedError(f"{path} is no plain value, but a {type(value).__name__}. Keep it out of hparams.")
    return config


def _values(value: Any, path: str = "") -> list[tuple[str, Any]]:
    """All values in nested mappings and lists, with their paths; keys of mappings count, too."""
    if isinstance(value, Mapping):
        keys = [(f"a key of {path or 'the config'}", key) for key in value]
        return keys + [found for key, one in value.items() for found in _values(one, f"{path}.{key}".lstrip("."))]
    if isinstance(value, list | tuple):
        return [found for index, one in enumerate(value) for found in _values(one, f"{path}[{index}]")]
    return [(path, value)]


def _memory(model: Any) -> dict[str, Any] | None:
    """What the data module remembered, from the checkpoint that was loaded or the run that the network comes from."""
    if model.trained_on is not None:
        return dict(model.trained_on)
    data = getattr(getattr(model, "_trainer", None), "datamodule", None)
    state = data.state_dict() if data is not None else {}
    return state if isinstance(state, dict) and state.keys() >= {"class_names", "digest"} else None


def _shared(memory: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The part of a data module's memory that names no image."""
    if memory is None:
        return None
    stats = memory.get("stats")
    if stats is not None:
        stats = json.dumps({**json.loads(stats), "skipped": []}, indent=2)
    return {
        "split": {"train": [], "val": [], "test": []},
        "digest": memory["digest"],
        "skipped": [],
        "class_names": list(memory["class_names"]),
        "stats": stats,
        "hashed": True,
        "geometry": memory.get("geometry"),
        **{name: memory[name] for name in ("target", "time_bins", "time_unit") if name in memory},
    }


def _check_complete(model: Any, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Raise an error if the hyperparameters make another network."""
    try:
        type(model)(**config["hyperparameters"]).load_state_dict(state)
    except (TypeError, ValueError, RuntimeError) as error:
        raise PretrainedError(
            f"the hyperparameters of this {type(model).__name__} do not make it again: {error}. A layer that was "
            "passed as a module, or replaced since, is not among them; use one that has a name."
        ) from error


# -- reading -----------------------------------------------------------------------------------------------------------


def read_pretrained(source: str | Path, revision: str | None = None, token: str | None = None) -> dict[str, Any]:
    """A saved network as the content of a checkpoint of a Trainer: plain values and tensors.

    Args:
        source: A folder, or "owner/name" on the Hub, with or without "hf://" before it.
        revision: Branch, tag or commit on the Hub.
        token: Access token for a private repository.

    Raises:
        ImportError: Without safetensors, or huggingface_hub.
        PretrainedError: If it holds something else.
        WeightsUnavailableError: If it cannot be downloaded or read.
    """
    folder = Path(source)
    if not folder.is_dir():
        folder = download(repo_of(source) or str(source), revision, token)
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        known = isinstance(config, dict) and config.get("format") == FORMAT and config["library"] == "slidestream"
        arguments, kind, memory = config["hyperparameters"], config["model_class"], config[_MEMORY]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PretrainedError(
            f"'{source}' holds no network of slidestream ({type(error).__name__}: {error}). Its {CONFIG_FILE} is "
            "written by save_pretrained or push_to_hub."
        ) from error
    if not known:
        raise PretrainedError(f"'{source}' was written in another format. Update slidestream.")
    library = _safetensors()
    try:
        state = library.load_file(folder / WEIGHTS_FILE)
    except Exception as error:
        raise WeightsUnavailableError(
            f"'{source}': {WEIGHTS_FILE} cannot be read ({error}). Download or copy it again."
        ) from error
    content = {"state_dict": state, "hyper_parameters": arguments, "model_class": kind}
    versions = {"pytorch-lightning_version": lightning.__version__}
    return content | versions | ({} if memory is None else {_MEMORY: memory})


def from_pretrained(
    base: type[Any], source: str | Path, revision: str | None = None, token: str | None = None, **changed: Any
) -> Any:
    """The network of a folder or repository, in eval mode; see `read_pretrained`.

    Args:
        base: Class that it has to be of. Its own class is imported only from `streammodels`; any other has to be
            `base` itself.
        source: See `read_pretrained`.
        revision: See `read_pretrained`.
        token: See `read_pretrained`.
        **changed: Arguments of the class in place of those saved, such as `memory="8GB"`.

    Raises:
        PretrainedError: If it is of another class.
    """
    content = read_pretrained(source, revision, token)
    named = str(content["model_class"])
    kind = base
    if named.startswith("streammodels."):
        module, _, attribute = named.rpartition(".")
        kind = getattr(import_module(module), attribute, object)
    if named != f"{kind.__module__}.{kind.__qualname__}" or not issubclass(kind, base):
        raise PretrainedError(
            f"'{source}' holds a {named}, which is no {base.__name__}. Import its class and call from_pretrained of it."
        )
    model = kind(**{**content["hyper_parameters"], **changed})
    model.on_load_checkpoint(content)
    model.load_state_dict(content["state_dict"])
    return model.eval()


def repo_of(source: str | Path) -> str | None:
    """The repository "owner/name" of "hf://owner/name", also as a path; None for anything else."""
    found = re.fullmatch(r"hf:/{1,2}([^/]+/[^/]+)", str(source))
    return found[1] if found else None


def download(repo_id: str, revision: str | None = None, token: str | None = None) -> Path:
    """The folder of a repository of the Hub on this disk, which has the name of its commit.

    Args:
        repo_id: "owner/name".
        revision: Branch, tag or commit.
        token: Access token for a private repository.

    Raises:
        ImportError: Without huggingface_hub.
        WeightsUnavailableError: If it cannot be downloaded.
    """
    hub = _hub()
    try:
        files = [
            hub.hf_hub_download(repo_id, file, revision=revision, token=token) for file in (CONFIG_FILE, WEIGHTS_FILE)
        ]
    except Exception as error:  # of whichever library downloads
        reason = " ".join(str(error).split())[:200]
        raise WeightsUnavailableError(
            f"'{repo_id}' is no folder, and could not be read from the Hub ({type(error).__name__}: {reason}). Check "
            "the name; for a private repository log in (`hf auth login`, or HF_TOKEN)."
        ) from error
    return Path(files[0]).parent


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError("the Hub needs the library huggingface_hub: pip install 'slidestream[hub]'.") from error
    return huggingface_hub


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError("model.safetensors needs safetensors: pip install 'slidestream[safetensors]'.") from error
    return safetensors.torch


# -- card --------------------------------------------------------------------------------------------------------------


def _card(config: Mapping[str, Any], model: Any, card: ModelCard, repo_id: str | None) -> str:
    memory = config[_MEMORY] or {}
    geometry = memory.get("geometry") or {}
    slides = geometry.get("kind") == "slides"
    front = ["library_name: slidestream", "pipeline_tag: image-classification"]
    front += [f"license: {card.license}"] if card.license else []
    front += ["tags:", "- slidestream", *(["- whole-slide-image", "- histopathology"] if slides else [])]
    title = card.title or (repo_id or "A trained network").rpartition("/")[2]
    classes = ", ".join(f"{number}: `{one}`" for number, one in enumerate(memory.get("class_names", ())))
    facts = {
        "Task": config["task"],
        "Classes": classes or str(model.num_classes),
        "Network": f"`{config['model_class'].rpartition('.')[2]}`, {_network(config['hyperparameters'])}",
        "Images": geometry.get("kind"),
        **{
            key.replace("_", " ").capitalize(): f"`{value}`"
            for key, value in geometry.items()
            if key != "kind" and value
        },
        "Digest of the split": f"`{memory['digest']}`" if memory else None,
    }
    rows = [f"| {key} | {_one_line(value)} |" for key, value in facts.items() if value]
    metrics = _metrics(model) if card.metrics is None else card.metrics
    scores = [f"| {_one_line(key)} | {value:.4g} |" for key, value in metrics.items()]
    source = repo_id or "FOLDER"
    command = ["```bash", f"slidestream predict hf://{repo_id} IMAGES --out predictions.csv", "```", ""]
    parts = [
        "---", *front, "---", "", f"# {_one_line(title)}", "", *([card.description, ""] if card.description else []),
        "| | |", "|---|---|", *rows, "",
        *(["## Scores", "", "| | |", "|---|---|", *scores, ""] if scores else []),
        "## How to predict", "",
        *(command if memory and repo_id else []),
        "```python", "from streammodels import StreamingClassifier", "",
        f'model = StreamingClassifier.from_pretrained("{source}")', "```", "",
        "Images have to be read as in training; `slidestream predict` does so. Which images it was trained on is not "
        "part of this repository: whether an image that is evaluated was among them cannot be checked with it.", "",
    ]  # fmt: skip
    return "\n".join(parts)


def _network(arguments: Mapping[str, Any]) -> str:
    return f"`{arguments.get('network') or arguments.get('model_name') or 'see config.json'}`"


def _metrics(model: Any) -> dict[str, float]:
    """What the Trainer logged last of validation and test."""
    trainer = getattr(model, "_trainer", None)
    logged = {} if trainer is None else trainer.callback_metrics
    return {key: float(value) for key, value in logged.items() if key.startswith(("val_", "test_"))}


def _one_line(value: object) -> str:
    """Text for a cell of a table."""
    return " ".join(str(value).split()).replace("|", "\\|")
