"""What is refused before any file of a saved model is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

from hf_meta_adapters.errors import HubError
from hf_meta_adapters.hub._json_file import read_json, shown
from hf_meta_adapters.hub._needed_files import (
    ADAPTER_CONFIG,
    INDEX,
    LARGEST_TEXT,
    adapter_folders,
    needed_files,
    shard_names,
)
from hf_meta_adapters.hub._settings import check_settings
from hf_meta_adapters.hub.manifest import Family

_INDEX_RULE = "The index of the shared weights must name safetensors files beside it."
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def check_sizes(
    repo_id: str, family: Family, languages: Sequence[str], sizes: Mapping[str, int]
) -> None:
    """Refuse a remote family before any of it is downloaded.

    Args:
        repo_id: The repository, for messages.
        family: Its manifest.
        languages: Those to load.
        sizes: The path of every file in the repository → its bytes.

    Raises:
        HubError: If weights are missing, pickled, not declared or not of the declared size, or a
            text is unreasonably large. It lists all such files.
    """
    weights, texts = needed_files(family, languages)

    # All faults are collected: a family that is repaired one error at a time takes many pushes.
    faults = []
    for path in weights:
        if path in sizes and sizes[path] != family.files[path]:
            declared = f"where the manifest declares {family.files[path]:,}"
            faults.append(f"{path} has {sizes[path]:,} bytes, {declared}")

    # The manifest declares no sizes of texts, so that they need a limit of their own.
    for path in texts:
        if sizes.get(path, 0) > LARGEST_TEXT:
            faults.append(f"{path} has {sizes[path]:,} bytes")

    faults += [f"{path} is missing" for path in weights if path not in sizes]
    faults += _undeclared_weights(family, languages, weights, sizes)

    if faults:
        raise HubError(
            "The weights of a family must be the safetensors files that its manifest declares,"
            f" with their sizes. Found in {repo_id}: {'; '.join(faults)}. Run `push_to_hub` again"
            " from a model that you trust; a pickle is converted by"
            ' `safetensors.torch.save_file(torch.load("….bin", weights_only=True),'
            ' "….safetensors")`.'
        )


def check_folder(folder: Path, family: Family, languages: Sequence[str]) -> None:
    """Refuse files that lie outside the folder or that nobody declared, and code.

    Args:
        folder: The folder of a saved model; in a cache of the Hub its files may be links into the
            `blobs/` of that cache.
        family: Its manifest.
        languages: Those to load.

    Raises:
        HubError: If a file or a folder is a link, a language has no declared weights, an index
            leads elsewhere, or the model brings code of its own.
    """
    _check_links(folder, family, languages)
    _check_declared(folder, family, languages)
    _check_index(folder / INDEX)

    _check_top(folder)
    check_texts(folder, family, languages)


def check_texts(folder: Path, family: Family, languages: Sequence[str]) -> None:
    """Refuse JSON files that cannot be read, or whose settings no model or adapter can have.

    Args:
        folder: The folder of a saved model.
        family: Its manifest.
        languages: Those to load.

    Raises:
        HubError: At the first such file.
    """
    _, texts = needed_files(family, languages)
    for path in texts:
        check_settings(folder / path, is_adapter=path.endswith(ADAPTER_CONFIG))


def _check_declared(folder: Path, family: Family, languages: Sequence[str]) -> None:
    """Refuse languages, or shared weights, for which the manifest declares no files."""
    # Early manifests do not declare their files at all.
    if not family.files:
        return

    weights, _ = needed_files(family, languages)
    places = [folder, *(folder / name for name in adapter_folders(family, languages))]
    files = chain.from_iterable(place.glob("*") for place in places)
    present = [path.relative_to(folder).as_posix() for path in files]

    if faults := _undeclared_weights(family, languages, weights, present):
        raise HubError(
            "The manifest of a saved model must declare the weights of each of its languages. Found"
            f" in {folder}: {'; '.join(faults)}. Save the model again, or load only languages that"
            " have files: `languages=[...]`."
        )


def _undeclared_weights(
    family: Family, languages: Sequence[str], weights: Sequence[str], present: Iterable[str]
) -> list[str]:
    """What is wrong with folders in which the manifest declares no weights."""
    folders = adapter_folders(family, languages)
    if not family.base_model:
        # The shared weights lie at the top.
        folders.insert(0, "")

    faults = []
    for folder in folders:
        if any(path.rpartition("/")[0] == folder for path in weights):
            continue

        # A pickle is worth naming: the user may know where it comes from, and convert it.
        reason = "none declared"
        inside = [path for path in present if path.rpartition("/")[0] == folder]
        pickles = [path for path in inside if path.endswith(_PICKLES)]
        if pickles:
            reason = f"only a pickle, {pickles[0]}, which can run code when it is read"
        faults.append(f"weights of {folder or 'the shared model'}: {reason}")
    return faults


def _check_links(folder: Path, family: Family, languages: Sequence[str]) -> None:
    weights, texts = needed_files(family, languages)
    adapters = adapter_folders(family, languages)

    # Libraries read further files of an adapter's folder than those that a manifest declares.
    paths = {*weights, *texts, *shard_names(folder), *adapters}
    for adapter in adapters:
        paths |= {f"{adapter}/{path.name}" for path in (folder / adapter).glob("*")}

    # What is neither a file nor a folder, such as a pipe, would be read for ever.
    special = sorted(path for path in paths if _is_special(folder / path))
    if special:
        raise HubError(
            "A saved model must consist of files and folders. Found something else in"
            f" {folder}: {', '.join(special)}. Remove it, and save the model again."
        )

    links = sorted(path for path in paths if _leads_elsewhere(folder, folder / path))
    if links:
        raise HubError(
            f"The files of a saved model must lie in its folder. Found links in {folder}:"
            f" {', '.join(links)}. Put the files themselves there."
        )


def _is_special(path: Path) -> bool:
    return path.exists() and not (path.is_file() or path.is_dir() or path.is_symlink())


def _leads_elsewhere(folder: Path, path: Path) -> bool:
    """Whether a path is a link, other than those of which the cache of the Hub consists."""
    if not path.is_symlink():
        return False

    # The cache: models--owner--name/snapshots/<commit>/file → models--owner--name/blobs/<hash>.
    is_cached = folder.parent.name == "snapshots" and path.is_file()
    return not is_cached or path.resolve().parent != (folder.parents[1] / "blobs").resolve()


def _check_index(path: Path) -> None:
    """Refuse an index of shards that names anything but safetensors files next to it."""
    if not path.exists():
        return

    index = read_json(path, _INDEX_RULE)
    if not isinstance(index, dict):
        index = {}

    shards = index.get("weight_map")
    names = {shown(shards)}  # what is no map is refused below, as the name of no file
    if isinstance(shards, dict):
        names = {str(name) for name in shards.values()}

    foreign = [
        name for name in names if Path(name).name != name or not name.endswith(".safetensors")
    ]
    if foreign:
        raise HubError(
            f"{_INDEX_RULE} Found in {path}: {', '.join(map(shown, sorted(foreign)[:3]))}."
            " Save the model again."
        )


def _check_top(folder: Path) -> None:
    """Refuse an adapter beside the shared weights: transformers would put it into the model."""
    if (folder / ADAPTER_CONFIG).exists():
        raise HubError(
            "A saved model must have its adapters in the folders of their languages. Found"
            f" {folder / ADAPTER_CONFIG}, which this package did not write. Remove it."
        )
