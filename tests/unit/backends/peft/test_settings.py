"""Every setting of `LoraConfig` and every method of PEFT: it works, or is refused by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import LoraConfig, PeftModel
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.lora.config import (
    ArrowConfig,
    BdLoraConfig,
    CordaConfig,
    EvaConfig,
    KasaConfig,
    LoraGAConfig,
    LoraRuntimeConfig,
    MontecloraConfig,
    VeloraConfig,
)

from hf_meta_adapters import LanguageAdapterModel, ModuleCopyConfig, get_language_model
from hf_meta_adapters.errors import ConfigurationError, MetaAdapterError
from tests.adapted import outputs, same, snapshot, stirred
from tests.tiny import tiny

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{message}")
    for message in (
        "fan_in_fan_out is set to",
        "You have requested `ensure_weight_tying`, but no tied modules",
        "`layer_replication`",
        "Unsupported layer type .*Norm",
        "`lora_bias=True` was passed but",
        "Trainable tokens|Model has `tie_word_embeddings=True`",
        "aLoRA is currently only supported",
        "`.*_config` specified but will be ignored|`init_lora_weights` is 'eva' but",
        "The PEFT config's `base_model_name_or_path` was renamed",
        "Detected that the base layer has no bias term",
        "Failed to load the CUDA extension",
        "Setting boft_n_butterfly_factor to 1",
        "Sparse invariant checks are implicitly disabled",
    )
]
QV: dict[str, Any] = {"r": 2, "target_modules": ["q_proj", "v_proj"]}
BOTH, PHI, THETA, NONE = (True, True), (True, False), (False, True), (False, False)

# field → what to set, and whether it works for a language and for θ
LORA: dict[str, list[tuple[dict[str, Any], tuple[bool, bool]]]] = {
    "task_type": [({"task_type": "CAUSAL_LM"}, BOTH)],
    "peft_type": [({}, BOTH)],
    "auto_mapping": [({"auto_mapping": {"x": "y"}}, BOTH)],
    "peft_version": [({"peft_version": "0.1"}, BOTH)],
    "base_model_name_or_path": [({"base_model_name_or_path": "me/base"}, BOTH)],
    "revision": [({"revision": "main"}, BOTH)],
    "inference_mode": [({"inference_mode": True}, BOTH)],
    "r": [({"r": 3}, BOTH)],
    "target_modules": [({"target_modules": "all-linear"}, BOTH), ({"target_modules": None}, BOTH)],
    "exclude_modules": [({"exclude_modules": ["v_proj"]}, BOTH)],
    "lora_alpha": [({"lora_alpha": 3}, BOTH)],
    "lora_dropout": [({"lora_dropout": 0.3}, BOTH)],
    "fan_in_fan_out": [({"fan_in_fan_out": True}, BOTH)],
    "bias": [({"bias": "all"}, NONE), ({"bias": "lora_only"}, NONE)],
    "use_rslora": [({"use_rslora": True, "lora_alpha": 3}, BOTH)],
    "modules_to_save": [({"modules_to_save": ["lm_head"]}, BOTH)],
    "init_lora_weights": [
        *(({"init_lora_weights": how}, BOTH) for how in (False, "gaussian", "orthogonal", "mica")),
        *(({"init_lora_weights": how}, NONE) for how in ("eva", "olora", "pissa", "lora_ga")),
        ({"init_lora_weights": "corda", "corda_config": CordaConfig()}, NONE),
        ({"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}}, NONE),
    ],
    "layers_to_transform": [({"layers_to_transform": [0]}, BOTH)],
    "layers_pattern": [({"layers_to_transform": [0], "layers_pattern": "layers"}, BOTH)],
    "rank_pattern": [({"rank_pattern": {"q_proj": 4}}, BOTH)],
    "alpha_pattern": [({"alpha_pattern": {"q_proj": 4}}, BOTH)],
    "megatron_config": [({"megatron_config": {"a": 1}}, NONE)],
    "megatron_core": [({"megatron_core": "x"}, BOTH)],
    "trainable_token_indices": [
        ({"trainable_token_indices": [3, 40]}, BOTH),
        ({"trainable_token_indices": {"embed_tokens": [3]}}, BOTH),
    ],
    # of these four, PEFT ignores the settings of an initialisation that is not asked for
    "loftq_config": [({"loftq_config": {"loftq_bits": 4}}, BOTH)],
    "eva_config": [({"eva_config": EvaConfig()}, BOTH)],
    "corda_config": [({"corda_config": CordaConfig()}, BOTH)],
    "lora_ga_config": [({"lora_ga_config": LoraGAConfig()}, BOTH)],
    "use_dora": [({"use_dora": True}, BOTH)],
    "velora_config": [({"velora_config": VeloraConfig(num_groups=2, init_type="random")}, BOTH)],
    "kasa_config": [({"kasa_config": KasaConfig()}, NONE)],
    "alora_invocation_tokens": [
        ({"alora_invocation_tokens": [5, 6], "task_type": "CAUSAL_LM"}, PHI)
    ],
    "use_qalora": [({"use_qalora": True, "qalora_group_size": 4}, NONE)],
    "qalora_group_size": [({"qalora_group_size": 4}, BOTH)],
    "monteclora_config": [({"monteclora_config": MontecloraConfig()}, NONE)],
    "layer_replication": [({"layer_replication": [[0, 2], [1, 2]]}, NONE)],
    "runtime_config": [({"runtime_config": LoraRuntimeConfig(ephemeral_gpu_offload=True)}, BOTH)],
    "lora_bias": [({"lora_bias": True}, BOTH)],
    "target_parameters": [
        ({"target_modules": [], "target_parameters": ["q_proj.weight"]}, BOTH),
    ],
    "use_bdlora": [
        (
            {
                "use_bdlora": BdLoraConfig(
                    target_modules_bd_a=["q_proj"], target_modules_bd_b=["v_proj"], nblocks=2
                )
            },
            BOTH,
        )
    ],
    "arrow_config": [({"arrow_config": ArrowConfig()}, NONE)],
    "ensure_weight_tying": [({"ensure_weight_tying": True}, BOTH)],
}
CASES = [(name, *row) for name, rows in LORA.items() for row in rows]

_LAYERS: dict[str, Any] = {"target_modules": ["q_proj", "v_proj"]}
_PROMPT: dict[str, Any] = {"num_virtual_tokens": 2, "task_type": "CAUSAL_LM"}
# method → its options, and whether it works for a language and for θ
METHODS: dict[str, tuple[dict[str, Any], tuple[bool, bool]]] = {
    "LORA": (QV, BOTH),
    "ADALORA": ({"init_r": 2, "target_r": 1, "total_step": 9, **_LAYERS}, NONE),
    "ADAMSS": ({"r": 2, **_LAYERS}, THETA),
    "ADAPTION_PROMPT": ({"adapter_len": 2, "adapter_layers": 1, "task_type": "CAUSAL_LM"}, NONE),
    "BEFT": (_LAYERS, BOTH),
    "BOFT": ({"boft_block_size": 4, **_LAYERS}, BOTH),
    "C3A": ({"block_size": 8, **_LAYERS}, BOTH),
    "CARTRIDGE": (_PROMPT, PHI),
    "CPT": ({"cpt_token_ids": [0], "task_type": "CAUSAL_LM", "cpt_mask": [1]}, NONE),
    "DEFT": ({"r": 2, **_LAYERS}, BOTH),
    "DELORA": ({"r": 2, **_LAYERS}, BOTH),
    "FOURIERFT": ({"n_frequency": 5, **_LAYERS}, BOTH),
    "FROD": (_LAYERS, THETA),
    "GLORA": ({"r": 2, **_LAYERS}, BOTH),
    "GRALORA": ({"r": 2, **_LAYERS}, BOTH),
    "HIRA": ({"r": 2, **_LAYERS}, BOTH),
    "HRA": ({"r": 2, **_LAYERS}, BOTH),
    "IA3": ({"feedforward_modules": [], **_LAYERS}, BOTH),
    "LILY": ({"r": 2, **_LAYERS}, THETA),
    "LN_TUNING": ({"target_modules": ["norm"]}, BOTH),
    "LOHA": ({"r": 2, **_LAYERS}, BOTH),
    "LOKR": ({"r": 2, **_LAYERS}, BOTH),
    "MISS": ({"r": 2, **_LAYERS}, BOTH),
    "OFT": ({"r": 2, "oft_block_size": 0, **_LAYERS}, BOTH),
    "SHIRA": ({"r": 2, **_LAYERS}, BOTH),
    "PROMPT_TUNING": (_PROMPT, PHI),
    "MULTITASK_PROMPT_TUNING": ({"num_tasks": 2, **_PROMPT}, NONE),
    "OSF": (_LAYERS, THETA),
    "P_TUNING": ({"encoder_hidden_size": 4, **_PROMPT}, NONE),
    "PEANUT": ({"r": 2, **_LAYERS}, BOTH),
    "POLY": ({"r": 2, **_LAYERS}, NONE),
    "PREFIX_TUNING": (_PROMPT, PHI),
    "PSOFT": ({"r": 2, **_LAYERS}, THETA),
    "PVERA": ({"r": 2, **_LAYERS}, BOTH),
    "RANDLORA": ({"r": 2, **_LAYERS}, BOTH),
    "ROAD": ({"group_size": 4, **_LAYERS}, BOTH),
    "SHADOW": (_LAYERS, NONE),
    "SUPERTUNING": (_LAYERS, BOTH),
    "TINYLORA": ({"r": 2, **_LAYERS}, BOTH),
    "TRAINABLE_TOKENS": ({"token_indices": [3, 5]}, BOTH),
    "UNILORA": ({"r": 2, **_LAYERS}, BOTH),
    "VBLORA": ({"r": 2, "vector_length": 4, "num_vectors": 8, **_LAYERS}, BOTH),
    "VERA": ({"r": 2, **_LAYERS}, BOTH),
    "WAVEFT": ({"n_frequency": 5, **_LAYERS}, BOTH),
    "XLORA": ({"hidden_size": 16, "adapters": {}}, NONE),
    "BOTTLENECK": ({"bottleneck_size": 2}, BOTH),
    "MODULE_COPY": ({"modules": "layer_norm"}, BOTH),
}


def check(config: Any, is_theta: bool, works: bool, folder: Path) -> None:
    """Wrap, run and save; load by this package and by PEFT; or see the refusal."""
    cell = tiny("llama")
    batch, base = cell.batch(), cell.make()
    batch["input_ids"][:, 2:4] = torch.tensor([5, 6])  # which aLoRA waits for
    before, phi = snapshot(base), config
    options: dict[str, Any] = {}
    if is_theta:
        phi, options = LoraConfig(r=2, target_modules=["o_proj"]), {"shared": config}
    if not works:
        with pytest.raises(MetaAdapterError, match=r"Found .*(Set|Use|Leave|Change) ") as caught:
            get_language_model(base, phi, ["en", "sw"], **options)
        assert isinstance(caught.value, ConfigurationError)
        if config.peft_type == "ADALORA" and not is_theta:
            return  # PEFT refuses the second language, and the first is in the base by then
        after = snapshot(base)
        assert after.keys() == before.keys()
        assert all(torch.equal(after[name], before[name]) for name in before)
        return

    torch.manual_seed(0)
    model = get_language_model(base, phi, ["en", "sw"], **options)
    state = model.base_state_dict()
    assert state.keys() == before.keys()
    assert all(torch.equal(state[name], before[name]) for name in before)
    stirred(model, 0.1)
    expected = outputs(model, batch, language="sw")
    assert not same(outputs(model, batch, language="en"), expected)

    model.save_pretrained(folder)
    loaded = LanguageAdapterModel.from_pretrained(folder)
    assert same(outputs(loaded, batch, language="sw"), expected)
    plain = cell.make().from_pretrained(folder)
    if not is_theta:
        read = PeftModel.from_pretrained(plain, str(folder), subfolder="sw").eval()
        assert same(outputs(read, batch), expected)
        return

    # without the language that lies beside it
    alone = get_language_model(plain, None, ["en"], shared=config)
    alone.shared_part.load(folder / "shared")
    read = PeftModel.from_pretrained(
        cell.make().from_pretrained(folder), str(folder), subfolder="shared"
    ).eval()
    assert same(outputs(read, batch), outputs(alone, batch, language="en"))


@pytest.mark.parametrize(("field", "options", "works"), CASES)
@pytest.mark.parametrize("is_theta", [False, True], ids=["phi", "theta"])
def test_a_setting_of_lora(
    field: str, options: dict[str, Any], works: tuple[bool, bool], is_theta: bool, tmp_path: Path
) -> None:
    check(LoraConfig(**{**QV, **options}), is_theta, works[is_theta], tmp_path)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("is_theta", [False, True], ids=["phi", "theta"])
def test_a_method_of_peft(method: str, is_theta: bool, tmp_path: Path) -> None:
    options, works = METHODS[method]
    kind = PEFT_TYPE_TO_CONFIG_MAPPING[method]
    check(kind(**options), is_theta, works[is_theta], tmp_path)


def test_the_tables_have_every_setting_and_every_method() -> None:
    """A later PEFT may have more, of which somebody has to find out what they do."""
    assert {each.name for each in dataclasses.fields(LoraConfig)} == LORA.keys()
    methods = {str(getattr(name, "value", name)) for name in PEFT_TYPE_TO_CONFIG_MAPPING}
    assert methods == METHODS.keys()


@pytest.mark.parametrize(
    ("name", "config", "shared", "message"),
    [
        ("bert", LoraConfig(trainable_token_indices=[3]), "all", "leaves out the bias"),
        ("gpt2", peft.TrainableTokensConfig(token_indices=[3]), "all", "second language into"),
        (
            "gemma3",
            LoraConfig(target_modules=["embed_tokens"], ensure_weight_tying=True),
            "all",
            "updated twice",
        ),
        (
            "llama",
            peft.PrefixTuningConfig(
                num_virtual_tokens=2, prefix_projection=True, task_type="CAUSAL_LM"
            ),
            "all",
            "not the projection",
        ),
        (
            "gemma3",
            None,
            LoraConfig(target_modules=["lm_head"], ensure_weight_tying=True),
            "updated twice",
        ),
        (
            "llama",
            LoraConfig(target_modules=["q_proj"], modules_to_save=["mlp"]),
            LoraConfig(target_modules=["down_proj"]),
            r"must not lie within one another.*\['en'\]",
        ),
        (
            "llama",
            LoraConfig(target_modules=["q_proj", "down_proj"]),
            LoraConfig(target_modules=["q_proj"], modules_to_save=["mlp"]),
            r"must not lie within one another.*\['shared_adapter'\]",
        ),
    ],
)
def test_combinations_that_would_go_wrong_are_refused(
    name: str, config: Any, shared: Any, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=rf"{message}.*(Use|Set|Leave|Train) "):
        get_language_model(tiny(name).make(), config, ["en", "sw"], shared=shared)


@pytest.mark.parametrize("kept", ["lm_head", "mlp"])
def test_all_linear_means_the_same_layers_for_every_language(kept: str, tmp_path: Path) -> None:
    """PEFT would find, for the second language, the copies that the first one has."""
    config = LoraConfig(r=2, target_modules="all-linear", modules_to_save=[kept])
    model = stirred(get_language_model(tiny("llama").make(), config, ["en", "sw", "te"]))
    names = [set(model.language_parameters(key)) for key in model.languages]
    plain = [
        {name.replace(f".{key}.", ".") for name in own}
        for key, own in zip(model.languages, names, strict=True)
    ]
    assert plain[0] == plain[1] == plain[2]
    batch = tiny("llama").batch()
    expected = outputs(model, batch, language="te")
    model.save_pretrained(tmp_path)
    loaded = LanguageAdapterModel.from_pretrained(tmp_path)
    assert same(outputs(loaded, batch, language="te"), expected)


def test_all_linear_leaves_out_the_copies_that_theta_has(tmp_path: Path) -> None:
    """φ lay within the classifier of θ: what was loaded was something else than was saved."""
    cell = tiny("roberta", "sequence_classification")
    shared = LoraConfig(r=2, target_modules="all-linear", modules_to_save=["classifier"])
    phi = LoraConfig(r=2, target_modules="all-linear")
    model = stirred(get_language_model(cell.make(), phi, ["en", "sw"], shared=shared))
    assert not any("classifier" in name for name in model.language_parameters("sw"))
    expected = outputs(model, cell.batch(), language="sw")
    model.save_pretrained(tmp_path)
    loaded = LanguageAdapterModel.from_pretrained(tmp_path)
    assert same(outputs(loaded, cell.batch(), language="sw"), expected)


def test_copies_within_theta_are_refused_as_before() -> None:
    with pytest.raises(MetaAdapterError, match="which holds another adapter"):
        get_language_model(
            tiny("llama").make(),
            ModuleCopyConfig("attention"),
            ["en"],
            shared=LoraConfig(target_modules=["q_proj"]),
        )
