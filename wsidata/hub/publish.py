"""Export of a data module and upload to the Hub in one call.

What will be visible, and to whom, is printed first; that the repository is private is checked before the export, and
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
    into_private: bool = False,
    message: str | None = None,
    say: Callable[[str], None] = print,
    **export_options: Any,
) -> Published:
    """Publish the images of a data module to the Hub: preprocessed and split, with statistics and a dataset card.

    Anyone with access to the repository can train from it with `HubDataModule(repo_id)`.

    Args:
        dm: A `WSIDataModule` or an `ImageFolderDataModule`.
        repo_id: Dataset on the Hub, "owner/name"; created if there is none.
        private: True publishes to private repositories only. False: to everybody.
        folder: Folder of the export, which is kept, so that publishing again sends only what changed. None:
            "published/<repo_id>" in the working folder.
        revision: Branch, created if there is none. None: main.
        create_pr: Open a pull request instead of changing main.
        token: Access token that may write. None: HF_TOKEN, or the one stored by `hf auth login`.
        endpoint: Address of the Hub. None: HF_ENDPOINT, or huggingface.co.
        into_private: With `private=False`: publish to a repository that exists and is private, and stays so.
        message: Commit message.
        say: Called first with what will be visible to whom.
        **export_options: See `export`: `layout`, `image_format`, `quality`, `opaque_ids`, `keep_names`, `card`,
            `stats`, `executor`, `quiet`.

    Returns:
        Its URL and commit.

    Raises:
        PublishError: without token, permission, network or space, for a public repository with `private=True`, and for
            a private one with `private=False`.
        ExportError, PrivacyError, ValueError: as in `export`.
        CardError: if the card was changed both in the folder and on the Hub.

    Example:
        >>> publish(dm, "me/camelyon16-2um", image_format="jpeg", quality=90, opaque_ids=True)
    """
    if export_options.get("share"):
        raise ValueError("share=True is for export(): let the jobs export, and then publish that folder once.")
    to = HubRepository(repo_id, private, revision, create_pr, token, endpoint, into_private=into_private)
    folder = Path("published") / repo_id if folder is None else Path(folder)
    audience = f"Private at '{repo_id}'" if private else f"PUBLIC, for everybody, at '{repo_id}'"
    export(dm, folder, say=say, audience=audience, ready=lambda: to.ensure(say), **export_options)
    return upload(folder, to, message=message, say=say)
