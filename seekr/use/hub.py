"""A folder on the hub: asked for before anything is written, uploaded once it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import huggingface_hub
from huggingface_hub import HfApi
from huggingface_hub.utils import validate_repo_id

from seekr.errors import InputError, RunError, said_by


def check_upload(name: str | None, api: Callable[[], HfApi] | None, *, dry_run: bool) -> HfApi | None:
    """The client that will upload, None = nothing is. Raises InputError for a name that is none, or a closed door."""
    if name is None:
        return None

    try:
        validate_repo_id(name)
    except ValueError as error:
        raise InputError(f"--push {name}: {error}") from None
    if name.count("/") != 1:
        raise InputError(f"--push {name}: it reads OWNER/NAME")
    if dry_run:
        return None
    if huggingface_hub.get_token() is None:
        raise InputError("--push: the hub wants a token; `hf auth login` keeps one, or set HF_TOKEN")
    client = (api or HfApi)()
    try:
        client.whoami()
    except Exception as error:  # a token that is refused, no network
        raise InputError(f"--push {name}: the hub does not let you in: {said_by(error)}") from None
    return client


def upload(client: HfApi, name: str, folder: Path) -> str:
    """Uploads a folder. A model that is new there is private. Raises RunError; the folder stays then."""
    try:
        client.create_repo(name, private=True, exist_ok=True)
        commit = client.upload_folder(repo_id=name, folder_path=folder, commit_message="A stage of a run of seekr")
    except Exception as error:  # whatever the hub and the network raise
        raise RunError(
            f"--push {name}: {said_by(error)}; {folder} is written, `hf upload --private {name} {folder} .` uploads it"
        ) from None
    return f"uploaded: {getattr(commit, 'commit_url', name)} (a model that is new there is private)"
