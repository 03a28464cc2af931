"""From a repository to a folder: first the manifest, then the files of the languages asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import HFValidationError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from hf_meta_adapters._typing import Language
from hf_meta_adapters.errors import HubError, check_known_language, check_languages
from hf_meta_adapters.hub._needed_files import LARGEST_TEXT, needed_files
from hf_meta_adapters.hub._safety import check_folder, check_sizes
from hf_meta_adapters.hub.checksums import check_files
from hf_meta_adapters.hub.client import NO_ANSWER, Access, speaking_of
from hf_meta_adapters.hub.manifest import MANIFEST, Family, read_manifest


def list_languages(
    repo_or_path: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> tuple[Language, ...]:
    """Return the languages of a saved or published family; only a manifest is ever downloaded.

    Args:
        repo_or_path: A folder that `save_pretrained` wrote, or a repository on the Hub such as
            `"me/family"`.
        revision: A branch, a tag or a commit of the repository.
        token: The token for a private or gated repository; default that of `hf auth login`.
        cache_dir: Where downloads are kept; default the cache of the Hub.
        local_files_only: Whether to use nothing but that cache.

    Returns:
        The keys, as `from_pretrained(..., languages=[...])` takes them.

    Raises:
        HubError: If there is no family, or it cannot be read.

    Example:
        >>> import tempfile
        >>> from peft import LoraConfig
        >>> from transformers import BertConfig, BertModel
        >>> from hf_meta_adapters import get_language_model
        >>> sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> base = BertModel(BertConfig(**sizes, intermediate_size=16, vocab_size=9))
        >>> config = LoraConfig(target_modules=["query"])
        >>> model = get_language_model(base, config, languages=["en", "sw"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save_pretrained(folder)
        ...     list_languages(folder)
        ('en', 'sw')
    """
    folder = local_folder(repo_or_path)
    if folder is not None:
        return read_manifest(folder).languages

    access = Access(revision, token, cache_dir, local_files_only)
    folder, _ = _fetch_manifest(str(repo_or_path), access)
    return read_manifest(folder).languages


def fetch_family(
    repo_or_path: str | Path, languages: Sequence[object] | None, access: Access
) -> tuple[Path, Family]:
    """Return a folder that holds the checked files of some languages, and its manifest.

    Args:
        repo_or_path: A folder, or a repository on the Hub.
        languages: The languages; `None` for all.
        access: How the repository is reached.

    Raises:
        HubError: If files are missing, foreign, damaged or unsafe, or the Hub does not serve them.
        LanguageError: If the family lacks a language.
    """
    folder = local_folder(repo_or_path)
    if folder is not None:
        family = read_manifest(folder)
        keys = _known_languages(family, languages, folder.name)
    else:
        repo_id = str(repo_or_path)
        folder, online = _fetch_manifest(repo_id, access)
        family = read_manifest(folder)
        keys = _known_languages(family, languages, repo_id)
        _check_base_name(repo_id, family)

        if online:
            _fetch_weights(repo_id, folder, family, keys, access)
        else:
            _check_cached(repo_id, folder, family, keys)

    check_folder(folder, family, keys)
    check_files(folder, family, keys)
    return folder, family


def local_folder(repo_or_path: str | Path) -> Path | None:
    """The folder that is meant, or `None` for a repository."""
    path = Path(repo_or_path)
    if path.is_dir() or isinstance(repo_or_path, Path):
        return path

    # What cannot name a repository, such as "../model", must mean a folder, even a missing one.
    try:
        validate_repo_id(repo_or_path)
    except HFValidationError:
        return path

    return None


def _known_languages(
    family: Family, languages: Sequence[object] | None, where: str
) -> tuple[Language, ...]:
    """The languages to load, each of which the family has."""
    if languages is None:
        return family.languages

    keys = check_languages(languages)
    for key in keys:
        check_known_language(key, family.languages, what=f"those saved in {where}")

    return keys


def _fetch_manifest(repo_id: str, access: Access) -> tuple[Path, bool]:
    """The folder in the cache with the manifest, and whether the Hub can be asked for more."""
    try:
        return _download_manifest(repo_id, access)
    except HubError as error:
        # a folder whose name is misspelt looks like a repository
        raise HubError(
            "A saved model must be a folder, or a repository on the Hub. Found no folder"
            f" {repo_id!r} in the working directory. As a repository: {error}"
        ) from (error.__cause__ or error)


def _download_manifest(repo_id: str, access: Access) -> tuple[Path, bool]:
    """The same without a word on folders."""
    with speaking_of(repo_id, access.token):
        size = _manifest_size(repo_id, access)
        if size is not None and size > LARGEST_TEXT:
            raise HubError(
                f"A manifest must be a short text. Found {size:,} bytes of `{MANIFEST}` in"
                f" {repo_id!r}. Name a repository that `push_to_hub` wrote."
            )

        path = hf_hub_download(
            repo_id,
            MANIFEST,
            revision=access.revision,
            token=access.token,
            cache_dir=access.cache_dir,
            local_files_only=size is None,
        )

    return Path(path).parent, size is not None


def _manifest_size(repo_id: str, access: Access) -> int | None:
    """The bytes of the manifest of a repository; `None` where the Hub is not or cannot be asked."""
    if access.local_files_only or constants.HF_HUB_OFFLINE:
        return None

    try:
        entries = access.api().get_paths_info(repo_id, [MANIFEST], revision=access.revision)
    except NO_ANSWER:
        # The cache may do. Every other error is an answer, which the user has to see.
        return None

    files = [entry for entry in entries if isinstance(entry, RepoFile)]
    if not files:
        raise HubError(
            f"A family must have a file `{MANIFEST}`. Found none in {repo_id!r}. Name a"
            " repository that `push_to_hub` wrote; load a single adapter with `load_language`."
        )

    return files[0].size


def _check_cached(
    repo_id: str, folder: Path, family: Family, languages: Sequence[Language]
) -> None:
    """Refuse a family whose weights the cache lacks and the Hub cannot be asked for."""
    weights, _ = needed_files(family, languages)
    missing = [name for name in weights if not (folder / name).is_file()]

    if missing:
        raise HubError(
            f"Without a connection, files must be in the cache. Found {repo_id!r} there without"
            f" {', '.join(missing)}. Load these languages once with a connection."
        )


def _fetch_weights(
    repo_id: str, folder: Path, family: Family, languages: Sequence[Language], access: Access
) -> None:
    """Download what a folder of the cache lacks."""
    # The commit of the manifest, since which the branch may have moved on.
    commit = folder.name
    weights, texts = needed_files(family, languages)

    with speaking_of(repo_id, access.token):
        tree = access.api().list_repo_tree(repo_id, recursive=True, revision=commit)
        sizes = {entry.path: entry.size for entry in tree if isinstance(entry, RepoFile)}
        check_sizes(repo_id, family, languages, sizes)

        snapshot_download(
            repo_id,
            revision=commit,
            allow_patterns=[name for name in (*weights, *texts) if name in sizes],
            token=access.token,
            cache_dir=access.cache_dir,
        )


def _check_base_name(repo_id: str, family: Family) -> None:
    """Refuse a published family whose frozen base is a path on somebody's machine."""
    if not family.base_model:
        return

    try:
        validate_repo_id(family.base_model)
    except HFValidationError as error:
        raise HubError(
            "A published family over a frozen base must name a repository. Found"
            f" {family.base_model!r} in {repo_id!r}. Publish the base, load it from there, and push"
            " the family again."
        ) from error
