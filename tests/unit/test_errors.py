"""Language keys, what the messages about them say, and names that have moved."""

from __future__ import annotations

import ast
import inspect
import pkgutil
import warnings
from importlib import import_module
from types import ModuleType

import pytest
import torch

import hf_meta_adapters
from hf_meta_adapters import errors
from hf_meta_adapters.errors import (
    LanguageError,
    check_known_language,
    check_language,
    check_languages,
)


@pytest.mark.parametrize(
    "key", ["en", "zh-Hant", "pt-BR", "sr_Latn", "x", "aze-Latn-x-1", "es-419", "EN", "a" * 64]
)
def test_a_tag_is_a_key(key: str) -> None:
    assert check_language(key) == key


@pytest.mark.parametrize(
    "key",
    ["", " ", "en ", "a/b", "a\\b", "..", ".", "../evil", "/etc", "~", "C:", "a.b", "-en", "en-",
     "e--n", "_en", "en\n", "español", "中文", "en\x00", "a" * 65, "%2e%2e", "$HOME", "en sw"],
)  # fmt: skip
def test_what_is_no_name_of_a_folder_and_a_module_is_no_key(key: str) -> None:
    with pytest.raises(
        LanguageError, match=r"^A language key must consist of .*Found .*\. Use for example"
    ):
        check_language(key)


@pytest.mark.parametrize("key", [None, 3, ("en",), b"en", torch.zeros(100, 100)])
def test_a_key_is_a_string(key: object) -> None:
    with pytest.raises(
        LanguageError, match=f"must be a string. Found .*`{type(key).__name__}`. Use"
    ) as caught:
        check_language(key)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "key", ["checkpoint-1", "Checkpoint-500", "checkpoint-1-x", "checkpoint-a"]
)
def test_the_folder_of_a_checkpoint_is_no_key(key: str) -> None:
    with pytest.raises(
        LanguageError, match=rf"must not begin as .*`checkpoint-`.* Found '{key}'\. Use another"
    ) as caught:
        check_languages(["en", key])
    suggested = str(caught.value).split("'")[-2]
    assert check_language(suggested) == suggested


@pytest.mark.parametrize("key", ["checkpoint", "checkpoint_1", "checkpoints-1", "my-checkpoint-1"])
def test_no_other_folder_is_taken_for_a_checkpoint(key: str) -> None:
    assert check_language(key) == key


@pytest.mark.parametrize("key", ["shared", "Shared", "SHARED"])
def test_the_folder_of_what_is_shared_is_no_key(key: str) -> None:
    with pytest.raises(
        LanguageError, match=f"must not be the name of the folder .*Found '{key}'. Use another"
    ):
        check_language(key)


@pytest.mark.parametrize(
    "keys",
    [["sw", "en"], ("sw", "en"), {"sw": 1, "en": 2}, {"sw": 1, "en": 2}.keys(), iter(["sw", "en"])],
)
def test_keys_keep_their_order(keys) -> None:
    assert check_languages(keys) == ("sw", "en")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("en", r"must be a list of keys. Found the string 'en'. Use \['en'\]."),
        ([], "must name at least one language. Found none. Use"),
        (["en", "sw", "en"], r"once.*Found 'en' and 'en' in \['en', 'sw', 'en'\]. Remove or"),
        (["zh-Hant", "zh-hant"], "letter case. Found 'zh-Hant' and 'zh-hant'"),
        ({"en"}, r"an order that is the same in every process. Found {'en'} of type `set`. Use"),
        (frozenset(["en"]), "`frozenset`"),
        (None, "Found None of type `NoneType`. Use"),
        (["en", 5], "must be a string. Found 5"),
    ],
)
def test_wrong_lists_are_refused(keys, message: str) -> None:
    with pytest.raises(LanguageError, match=message):
        check_languages(keys)


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("swa", "'sw'"),
        ("zh-hant", "'zh-Hant'"),
        ("zh_Hant", "'zh-Hant'"),
        ("EN", "'en'"),
        ("te", None),
    ],
)
def test_an_unknown_language_is_refused_with_the_nearest(key: str, hint: str | None) -> None:
    known = ["en", "sw", "zh-Hant"]
    with pytest.raises(LanguageError) as caught:
        check_known_language(key, known)
    end = f" Did you mean {hint}?" if hint else ""
    assert (
        str(caught.value) == f"The language must be one of this model: {known}. Found {key!r}.{end}"
    )
    assert all(check_known_language(one, iter(known)) == one for one in known)


def test_every_error_is_public_and_has_a_builtin_base() -> None:
    kinds = [getattr(errors, name) for name in errors.__all__ if name.endswith("Error")]
    assert len(kinds) == 8
    assert all(issubclass(kind, errors.MetaAdapterError) for kind in kinds)
    assert all(
        issubclass(kind, (ValueError, ArithmeticError))
        for kind in kinds
        if kind is not errors.MetaAdapterError
    )


EXPORTED = {
    "": """
        BottleneckConfig GradientConflictCallback LanguageAdapterModel LanguageMasks
        MetaAdapterTrainer MetaAdapterTrainingArguments MetaGradients MetaOptions MetaSignal
        ModuleCopyConfig RoutedLoss SparseHead __version__ bits_per_character check_roles
        evaluate_languages get_data_collator get_language_model gradient_conflict
        interference_report joint_step learn_language_masks list_languages mask_overlap
        masked_lm_features meta_fidelity meta_step plan_language_capacity split_roles
        temperature_distribution""",
    "backends": """
        Backend ChecksMeans MergesLanguages ReplacesModules SharedPart TakesSharedPart backend_for
        backend_named""",
    "data": """
        Key LanguageBatchSampler LanguageCollator LanguageDatasets LanguageRoles Role
        SpanCorruptionCollator StepBatch apportion check_roles seeded size_of split_roles
        temperature_distribution""",
    "diagnostics": """
        CapacityPlan Conflict ConflictMatrix DiagnosticReport Interference InterferenceReport
        LanguageMasks LayerNeed OverlapMatrix ReportSection gradient_conflict interference_report
        learn_language_masks mask_overlap plan_language_capacity plot_conflict_over_time""",
    "errors": """
        CheckpointError ConfigurationError DataError HubError LanguageError MetaAdapterError
        NonFiniteLossError UnsupportedModelError check_known_language check_language
        check_languages""",
    "evaluation": """
        NER NLI POS AnswerMatch CausalLM ClassF1 ConstantPredictionWarning LanguageModelScore
        LanguageModeling LanguageScores MaskedLM MethodComparison MiswiringWarning PairedDifference
        QuestionAnswering SpanF1 TagAccuracy Task TaskScore TokenClassification bits_per_character
        causal_lm_features compare_methods evaluate_languages get_task load_language_datasets
        load_local_datasets majority_baseline masked_lm_features normalize_answer parse_arguments
        read_grid register_task run_grid""",
    "finetuning": """
        PROTOCOLS FinetuningArguments FinetuningSettings few_shot finetune load_for_task
        run_finetuning within_language zero_shot""",
    "hub": """
        MANIFEST SHARED_ADAPTER Access Family Push base_reference body_name fetch_family
        list_languages load_base load_weights published_card push_family read_manifest save_family
        write_card_file""",
    "meta": """
        PRESETS SGD Adam AdamState InnerOptimizer JointGradients MetaGradients MetaOptions
        MetaSignal fidelity joint_gradient meta_gradient meta_options""",
    "pretraining": """
        PretrainingArguments new_model pack_rows run_pretraining tokenize train_tokenizer""",
    "study": """
        METHODS ComputeTable Method Pretrained StudyArguments compute_cell count_lines
        examples_seen pretrain read_texts scores_by_method small_sizes study_cells study_report
        train_tokenizer trial_cells tune_methods""",
}
"""What version 0.1.0 exported, before modules moved to their rooms; "" is the root."""


def exported() -> list[tuple[str, str]]:
    pairs = []
    for package, names in EXPORTED.items():
        module = f"hf_meta_adapters.{package}".rstrip(".")
        pairs += [(module, name) for name in names.split()]
    return pairs


def moved() -> list[tuple[str, str, str]]:
    """Module, name and home of every entry in the tables that are given to `moved_names`."""
    entries = []
    for found in pkgutil.walk_packages(hf_meta_adapters.__path__, "hf_meta_adapters."):
        if not found.ispkg:
            continue
        module = import_module(found.name)
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "moved_names":
                table = ast.literal_eval(node.args[1])
                entries += [(found.name, name, home) for name, home in table.items()]
    return entries


def without_warning(module: ModuleType, name: str) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return getattr(module, name)


@pytest.mark.parametrize(("package", "name"), exported())
def test_a_name_that_was_exported_is_still_found(package: str, name: str) -> None:
    module = import_module(package)
    # Listed, or found as well where the root lists it. Lazy names are in no `vars` until used.
    if name in vars(module) or name in getattr(module, "__all__", ()):
        assert without_warning(module, name) is not None
        return

    with pytest.warns(DeprecationWarning, match=rf"^`{name}` has moved from") as caught:
        found = getattr(module, name)
    message = str(caught[0].message)
    home = message.removeprefix(f"`{name}` has moved from `{package}`. Import it from `")
    assert home.endswith("`."), message
    assert found is without_warning(import_module(home.removesuffix("`.")), name)
    assert (len(caught), caught[0].filename) == (1, __file__)  # the line that has to be changed


@pytest.mark.parametrize(("package", "name", "home"), moved())
def test_a_name_in_a_table_has_left_and_is_at_home(package: str, name: str, home: str) -> None:
    module = import_module(package)
    assert name not in vars(module), "a name that is still there needs no table"
    assert name not in getattr(module, "__all__", ())
    with pytest.warns(DeprecationWarning, match=rf"Import it from `{home}`\.$"):
        found = getattr(module, name)
    assert found is without_warning(import_module(home), name)


def test_tables_are_found() -> None:
    packages = {package for package, _, _ in moved()}
    assert {"hf_meta_adapters.hub", "hf_meta_adapters.evaluation"} <= packages


def test_a_name_that_never_was_is_no_attribute() -> None:
    find = errors.moved_names("old", {"sqrt": "math"})
    with pytest.raises(AttributeError, match="module 'old' has no attribute 'root'"):
        find("root")
    assert not hasattr(import_module("hf_meta_adapters.hub"), "never_there")


def test_the_names_of_steps_are_functions_and_not_modules() -> None:
    for name in ("meta_step", "joint_step", "meta_fidelity"):
        assert inspect.isfunction(getattr(hf_meta_adapters, name))
    import_module("hf_meta_adapters.steps.meta_step")  # importing the module does not shadow it
    assert inspect.isfunction(hf_meta_adapters.meta_step)
