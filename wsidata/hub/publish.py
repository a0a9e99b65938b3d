"""From a data module to the Hub in one call: export, and upload.

What will be seen, and by whom, is said first; that the repository is private is checked before the export begins, and
again before anything is sent.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from wsidata.datamodules.base import SplitDataModule
from wsidata.hub.export.writer import export
from wsidata.hub.repository import HubRepository
from wsidata.hub.upload import Published, upload


def publish(
    dm: SplitDataModule,
    repo_id: str,
    private: bool = True,
    *,
    folder: str | Path | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    token: str | None = None,
    endpoint: str | None = None,
    message: str | None = None,
    say: Callable[[str], None] = print,
    **export_options: Any,
) -> Published:
    """Publish exactly what is trained on: every image of every part, preprocessed, split, with statistics and card.

    Anybody who may read the repository then trains from it with `HubDataModule(repo_id)`.

    Args:
        dm: A `WSIDataModule` or an `ImageFolderDataModule`.
        repo_id: Data set on the Hub, "name/of-data-set"; made if there is none.
        private: True publishes only to a private repository, and refuses a public one. False: to everybody.
        folder: Where the export is written, and stays, so that publishing again sends only what changed. None:
            "published/<repo_id>" in the working folder.
        revision: Branch, made if there is none. None: main.
        create_pr: Open a pull request instead of changing main.
        token: Access token that may write. None: HF_TOKEN, or who is logged in (`hf auth login`).
        endpoint: Address of the Hub. None: HF_ENDPOINT, or huggingface.co.
        message: Of the commit.
        say: Told, first, what will be seen by whom.
        **export_options: See `export`: `layout`, `image_format`, `quality`, `opaque_ids`, `keep_names`, `card`,
            `stats`, `executor`, `quiet`.

    Returns:
        Where it is, and the commit.

    Raises:
        PublishError: for no token, permission, network or space, and for a public repository with `private=True`.
        ExportError, PrivacyError, ValueError: as `export`.
        CardError: if the card was changed both in the folder and on the Hub.

    Example:
        >>> publish(dm, "me/camelyon16-2um", image_format="jpeg", quality=90, opaque_ids=True)
    """
    to = HubRepository(repo_id, private, revision, create_pr, token, endpoint)
    folder = Path("published") / repo_id if folder is None else Path(folder)
    audience = f"Private at '{repo_id}'" if private else f"PUBLIC, for everybody, at '{repo_id}'"
    export(dm, folder, say=say, audience=audience, ready=lambda: to.ensure(say), **export_options)
    return upload(folder, to, message=message, say=say)
