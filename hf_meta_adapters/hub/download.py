"""From a repository to a folder: the manifest first, then the files of the languages that are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils._validators import validate_repo_id

from hf_meta_adapters._typing import Language
from hf_meta_adapters.errors import HubError, check_known_language, check_languages
from hf_meta_adapters.hub._safety import LARGEST_TEXT, check_folder, check_sizes, needed_files
from hf_meta_adapters.hub.client import Access, speaking_of
from hf_meta_adapters.hub.manifest import MANIFEST, Family, read_manifest


def list_languages(
    repo_or_path: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> tuple[Language, ...]:
    """Return the languages of a saved or published family; of a repository only the manifest is downloaded.

    Args:
        repo_or_path: A folder that `save_pretrained` wrote, or a repository on the Hub such as
            `"me/family"`.
        revision: A branch, a tag or a commit of the repository.
        token: The token for a private or gated repository; default that of `hf auth login`.
        cache_dir: Where downloads are kept; default the cache of the Hub.
        local_files_only: Whether to ask nothing but that cache.

    Returns:
        The keys, as `from_pretrained(..., languages=[...])` takes them.

    Raises:
        HubError: If there is no family, or it cannot be read.

    Example:
        >>> import tempfile
        >>> from peft import LoraConfig
        >>> from transformers import BertConfig, BertModel
        >>> from hf_meta_adapters import get_language_model
        >>> sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=9)
        >>> config = LoraConfig(target_modules=["query"])
        >>> model = get_language_model(BertModel(BertConfig(**sizes)), config, languages=["en", "sw"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save_pretrained(folder)
        ...     list_languages(folder)
        ('en', 'sw')
    """
    folder = local_folder(repo_or_path)
    if folder is not None:
        return read_manifest(folder).languages
    access = Access(
        revision, token, None if cache_dir is None else str(cache_dir), local_files_only
    )
    return read_manifest(_fetch_manifest(str(repo_or_path), access)[0]).languages


def fetch_family(
    repo_or_path: str | Path, languages: Sequence[object] | None, access: Access
) -> tuple[Path, Family]:
    """Return a folder with the files of some languages, all checked, and its manifest.

    Args:
        repo_or_path: A folder, or a repository on the Hub.
        languages: The languages; `None` for all.
        access: How the repository is reached.

    Raises:
        HubError: If files are missing, foreign, damaged or unsafe, or the Hub does not give them.
        LanguageError: If a language is asked for that is not there.
    """
    folder, online = local_folder(repo_or_path), False
    where = str(repo_or_path) if folder is None else folder.name
    if folder is None:
        folder, online = _fetch_manifest(where, access)
    family = read_manifest(folder)
    wanted = family.languages if languages is None else check_languages(languages)
    for key in wanted:
        check_known_language(key, family.languages, what=f"those saved in {where}")
    if local_folder(repo_or_path) is None:
        if family.base_model:
            _check_base_name(where, family.base_model)
        _fetch_weights(where, folder, family, wanted, access, online=online)
    check_folder(folder, family, wanted)
    return folder, family


def local_folder(repo_or_path: str | Path) -> Path | None:
    """The folder that is meant, or `None` for a repository."""
    path = Path(repo_or_path)
    if path.is_dir() or isinstance(repo_or_path, Path):
        return path
    try:
        validate_repo_id(repo_or_path)
    except HFValidationError:
        return path
    return None


def _fetch_manifest(repo_id: str, access: Access) -> tuple[Path, bool]:
    """The folder in the cache with the manifest, and whether the Hub could be asked for more."""
    online = not (access.local_files_only or constants.HF_HUB_OFFLINE)
    with speaking_of(repo_id, access.token):
        if online:
            try:
                found = access.api().get_paths_info(repo_id, [MANIFEST], revision=access.revision)
                if not found:
                    raise HubError(
                        f"A family must have a file `{MANIFEST}`. Found none in {repo_id!r}. Name a"
                        " repository that `push_to_hub` wrote; an adapter by itself goes into a"
                        " model with `load_language`."
                    )
                size = getattr(found[0], "size", 0)
            except (HfHubHTTPError, HFValidationError, HubError):
                raise
            except (
                Exception
            ):  # of the HTTP library: no connection, so that the cache is what there is
                online, size = False, 0
            if size > LARGEST_TEXT:
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
            local_files_only=not online,
        )
    return Path(path).parent, online


def _fetch_weights(
    repo_id: str,
    folder: Path,
    family: Family,
    languages: Sequence[Language],
    access: Access,
    *,
    online: bool,
) -> None:
    """Download what is missing in a folder of the cache, whose name is the commit of the manifest."""
    commit = folder.name
    weights, texts = needed_files(family, languages)
    with speaking_of(repo_id, access.token):
        if not online:
            if absent := [name for name in weights if not (folder / name).is_file()]:
                raise HubError(
                    f"Files must be in the cache where there is no connection. Found {repo_id!r}"
                    f" there without {', '.join(absent)}. Load these languages once with a"
                    " connection."
                )
            return
        tree = access.api().list_repo_tree(repo_id, recursive=True, revision=commit)
        sizes = {one.path: one.size for one in tree if isinstance(one, RepoFile)}
        check_sizes(repo_id, family, languages, sizes)
        wanted = [name for name in (*weights, *texts) if name in sizes]
        snapshot_download(
            repo_id,
            revision=commit,
            allow_patterns=wanted,
            token=access.token,
            cache_dir=access.cache_dir,
        )


def _check_base_name(repo_id: str, base: str) -> None:
    try:
        validate_repo_id(base)
    except HFValidationError as error:
        raise HubError(
            f"A published family over a frozen base must name a repository. Found {base!r} in"
            f" {repo_id!r}, which is none. Publish the base, load it from there, and push the"
            " family again."
        ) from error
