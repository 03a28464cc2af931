"""The folder in which pages run: small models under the names that the pages ask the Hub for."""

import shutil
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaForMaskedLM

from hf_meta_adapters.cli.copying import copy_bundled
from tests.tiny import HEADS, tiny
from tests.wheel import build, install

SPECIAL = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>"}
TEXT = [
    "In the beginning was the Word.",
    "Au commencement était la Parole.",
    "В начале было Слово.",
    "Hapo mwanzo",
]


def tokenizer(*, sentinels: int = 0, **names: str) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of 320 pieces, plus sentinels.

    Without `names`, it has the special tokens of XLM-R, and its space before each word alone.
    """
    backend = Tokenizer(models.BPE(unk_token=None))
    backend.normalizer = normalizers.NFC()
    space = not names
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=list(SPECIAL.values()),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[(token, backend.token_to_id(token)) for token in ("<s>", "</s>")],
    )
    backend.add_tokens([f"▁<extra_id_{number}>" for number in range(sentinels)])
    names = names or {f"{role}_token": token for role, token in SPECIAL.items()}
    inputs = ["input_ids", "attention_mask"]

    # transformers 4 sets the space of the backend anew, to none unless it is told.
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=128,
        model_input_names=inputs,
        add_prefix_space=space,
        **names,
    )


@pytest.fixture(scope="session")
def furnished(tmp_path_factory: pytest.TempPathFactory, project_root: Path) -> Path:
    """`from_pretrained` prefers a folder to the Hub, so a page finds the small model."""
    folder = tmp_path_factory.mktemp("furnished")
    config = XLMRobertaConfig(
        vocab_size=320,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=130,
    )
    for name in ("FacebookAI/xlm-roberta-base", "xlm-roberta-base"):
        XLMRobertaForMaskedLM(config).save_pretrained(folder / name)
        tokenizer().save_pretrained(folder / name)
    others = {
        "meta-llama/Llama-3.2-1B": (tiny("llama"), tokenizer(bos_token="<s>", eos_token="</s>")),
        "google/mt5-small": (
            tiny("mt5"),
            tokenizer(sentinels=100, pad_token="<pad>", eos_token="</s>"),
        ),
    }
    others["HuggingFaceTB/SmolLM2-135M"] = others["meta-llama/Llama-3.2-1B"]
    for name, (cell, words) in others.items():
        sizes = cell.config()
        sizes.vocab_size, sizes.max_position_embeddings = len(words), 128
        sizes.pad_token_id, sizes.eos_token_id, sizes.bos_token_id = 1, 2, 0
        base = getattr(transformers, HEADS[cell.head]).from_config(sizes)
        # as on the Hub: transformers 5 loads it in this type unless it is told another one
        if cell.kind == "decoder":
            base = base.to(torch.bfloat16)
        base.save_pretrained(folder / name)
        words.save_pretrained(folder / name)
    copy_bundled("verses", str(folder / "verses"))

    # `find_spec` fails once the library has been imported.
    if "adapters" in packages_distributions():
        base = XLMRobertaForMaskedLM(config)
        publish(base, folder / "AdapterHub" / "xlm-roberta-base-sw-wiki_pfeiffer")
    return folder


def publish(base: XLMRobertaForMaskedLM, folder: Path) -> None:
    """Save an adapter in the format that most adapters on the Hub have: a pickle of the library."""
    import adapters

    adapters.init(base)
    base.add_adapter("sw", config="seq_bn_inv")
    folder.parent.mkdir()
    base.save_adapter(str(folder), "sw")


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory, project_root: Path) -> Path:
    """The folder in which the wheel is installed, without what it depends on."""
    pytest.importorskip(
        "hatchling", reason="NOT CHECKED: hatchling is absent; the extra `dev` brings it"
    )
    pytest.importorskip("pip", reason="NOT CHECKED: pip is absent")
    dist = build(project_root, tmp_path_factory.mktemp("wheel"))
    return install(dist, tmp_path_factory.mktemp("installed"))


@pytest.fixture
def workshop(furnished: Path, tmp_path: Path) -> Path:
    """A fresh copy of the furnished folder."""
    return Path(shutil.copytree(furnished, tmp_path / "workshop"))
