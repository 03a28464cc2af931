"""What a repository holds at a commit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.hf_api import RepoFile

from hf_meta_adapters.errors import HubError
from hf_meta_adapters.hub._card import CARD
from hf_meta_adapters.hub._needed_files import LARGEST_TEXT
from hf_meta_adapters.hub.client import Access
from hf_meta_adapters.hub.manifest import MANIFEST, Family, read_manifest


@dataclass(frozen=True)
class Remote:
    """A repository at a commit.

    Args:
        repo_id: The repository.
        commit: The commit.
        files: The path of every file → what the Hub knows about it.
        access: How the repository is reached, and the cache for its files.
        family: The manifest, if there is one.
    """

    repo_id: str
    commit: str
    files: Mapping[str, RepoFile]
    access: Access
    family: Family | None = None

    def fetch(self, path: str) -> Path:
        """Download a file."""
        return Path(
            hf_hub_download(
                self.repo_id,
                path,
                revision=self.commit,
                token=self.access.token,
                cache_dir=self.access.cache_dir,
            )
        )

    @property
    def name(self) -> str:
        """The repository."""
        return self.repo_id

    def size(self, path: str) -> int | None:
        """The bytes of a file; `None` if it is missing."""
        return self.files[path].size if path in self.files else None

    def sha256(self, path: str) -> str | None:
        """The SHA-256 that the Hub has of a large file."""
        lfs = self.files[path].lfs
        return None if lfs is None else lfs.sha256

    def text(self, path: str) -> str | None:
        """The content of a text; `None` if there is none.

        Raises:
            HubError: If it is no text.
        """
        if path not in self.files:
            return None

        try:
            return self.fetch(path).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise HubError(
                f"`{path}` must be a text in UTF-8. Found, in {self.repo_id!r}: {error}. Correct or"
                " remove it there."
            ) from error


def read_remote(api: HfApi, repo_id: str, access: Access) -> Remote:
    """List what a repository holds now.

    Args:
        api: The client.
        repo_id: The repository.
        access: Its revision, the token, and the cache.

    Raises:
        HubError: If its manifest or its card is unreasonably large, or the manifest is damaged.
    """
    commit = str(api.repo_info(repo_id, revision=access.revision).sha)
    tree = api.list_repo_tree(repo_id, recursive=True, revision=commit)
    files = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}

    for path in (MANIFEST, CARD):
        if path in files and files[path].size > LARGEST_TEXT:
            raise HubError(
                f"`{path}` must be a short text. Found {files[path].size:,} bytes of it in"
                f" {repo_id!r}. Remove it there, or push to another repository."
            )

    remote = Remote(repo_id, commit, files, access)
    if MANIFEST not in files:
        return remote

    return replace(remote, family=read_manifest(remote.fetch(MANIFEST).parent))
