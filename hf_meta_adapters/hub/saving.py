"""A folder for a model and its languages: a checkpoint, a folder per adapter, a manifest.

config.json, model.safetensors    the shared weights; `AutoModel….from_pretrained` reads them
shared/                           θ, if it is an adapter; a base that has a name is then not copied
<language>/                       an adapter, in the format of its own library
language_adapters.json            what belongs together, with sizes and checksums of the files
README.md                         the model card
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import transformers
from torch import Tensor

from hf_meta_adapters.hub._card import CARD, card_text
from hf_meta_adapters.hub._card_files import card_files
from hf_meta_adapters.hub._needed_files import adapter_folders, weight_sizes
from hf_meta_adapters.hub._same_family import Folder
from hf_meta_adapters.hub._staging import save_over
from hf_meta_adapters.hub.checksums import checksums
from hf_meta_adapters.hub.links import check_no_links, cut_hard_links
from hf_meta_adapters.hub.manifest import SHARED_ADAPTER, Family
from hf_meta_adapters.hub.others import Others, saved_family, with_others
from hf_meta_adapters.hub.record import draw_conflict, json_details


class AdapterWriter(Protocol):
    """Holds the base model and writes the adapters of its languages: a backend."""

    base: transformers.PreTrainedModel

    def save(self, language: str, directory: Path) -> None:
        """Write an adapter."""


class ThetaWriter(Protocol):
    """Writes θ where it is an adapter."""

    def save(self, directory: Path, base_name: str) -> None:
        """Write it, for the base of that name."""


def save_family(
    folder: Path,
    family: Family,
    backend: AdapterWriter,
    state: Mapping[str, Tensor],
    shared: ThetaWriter | None = None,
    *,
    others: Others | None = None,
    max_shard_size: int | str | None = None,
) -> None:
    """Write the shared weights as a transformers checkpoint, then every adapter, then the manifest.

    A model that lies in the folder is replaced as a whole or, if this fails, not at all. Languages
    of it that the model left out when it was loaded stay, as long as θ is theirs; other files in
    the folder stay in any case. Nothing is written through a link: a folder that has links to
    files, or a link in place of the folder of an adapter, is refused and stays as it is. A file
    that has other names elsewhere (hard links) is replaced by one of its own.

    Args:
        folder: Where to; created if it is missing.
        family: The content of the manifest, without the files, which are measured here.
        backend: Holds the model and writes the adapters.
        state: The tensors of the base model under the names of its own checkpoint.
        shared: θ, where it is an adapter.
        others: The languages that the model lacks, and what happens to them.
        max_shard_size: The largest file of shared weights; `None` for the default of transformers.

    Raises:
        HubError: If the folder has such links, or languages that cannot stay, or another process
            saves into it.
    """
    measured = family.details
    family = replace(family, details=json_details(measured))
    # These fail before anything is written, if the details are not JSON or there are links.
    family.to_json()
    check_no_links(folder, adapter_folders(family, family.languages))
    # For what others write beside the model next: a tokenizer, the arguments of a run.
    cut_hard_links(folder, adapter_folders(family, family.languages))

    def write(place: Path) -> str:
        if family.base_model:
            backend.base.config.save_pretrained(str(place))
        else:
            _save_base(place, backend.base, state, max_shard_size)
        if shared is not None:
            shared.save(place / SHARED_ADAPTER, family.base_model)
        for adapter in family.adapters(family.languages):
            backend.save(adapter, place / adapter)

        drawn = draw_conflict(place, measured)
        written = replace(
            family, files=weight_sizes(place, family), details={**family.details, **drawn}
        )
        written = replace(written, hashes=checksums(place, written))
        before = saved_family(folder)
        if others is not None and before is not None:
            written = with_others(place, written, others, Folder(folder, before), before)

        # The card of an earlier save may have been edited since.
        card = folder / CARD
        previous = None
        if card.is_file():
            previous = card.read_text(encoding="utf-8")
        text = card_text(written, previous, files=card_files(place, written))
        (place / CARD).write_text(text, encoding="utf-8")
        return written.to_json()

    save_over(folder, write)


def _save_base(
    folder: Path,
    base: transformers.PreTrainedModel,
    state: Mapping[str, Tensor],
    max_shard_size: int | str | None,
) -> None:
    options: dict[str, int | str] = {}
    if max_shard_size is not None:
        options["max_shard_size"] = max_shard_size

    # Not `base.save_pretrained`: the library `adapters` replaces that method by one that lists its
    # adapters in config.json.
    save = transformers.PreTrainedModel.save_pretrained
    save(base, str(folder), state_dict=dict(state), **options)
