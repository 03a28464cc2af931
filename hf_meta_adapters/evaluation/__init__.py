"""Scores of language models and of tasks, language by language, within-language and zero-shot."""

from hf_meta_adapters.errors import moved_names
from hf_meta_adapters.evaluation._causal_lm import CausalLM
from hf_meta_adapters.evaluation._compare_methods import compare_methods
from hf_meta_adapters.evaluation._constant_prediction import ConstantPredictionWarning
from hf_meta_adapters.evaluation._evaluate import evaluate_languages
from hf_meta_adapters.evaluation._language_scores import LanguageScores
from hf_meta_adapters.evaluation._majority_baseline import majority_baseline
from hf_meta_adapters.evaluation._masked_lm import MaskedLM
from hf_meta_adapters.evaluation._ner import NER
from hf_meta_adapters.evaluation._nli import NLI
from hf_meta_adapters.evaluation._pos import POS
from hf_meta_adapters.evaluation._question_answering import QuestionAnswering
from hf_meta_adapters.evaluation._token_classification import TokenClassification
from hf_meta_adapters.evaluation.method_comparison import MethodComparison
from hf_meta_adapters.evaluation.sanity import MiswiringWarning
from hf_meta_adapters.evaluation.task import Task, TaskScore, get_task

__all__ = [
    "NER",
    "NLI",
    "POS",
    "CausalLM",
    "ConstantPredictionWarning",
    "LanguageScores",
    "MaskedLM",
    "MethodComparison",
    "MiswiringWarning",
    "QuestionAnswering",
    "Task",
    "TaskScore",
    "TokenClassification",
    "compare_methods",
    "evaluate_languages",
    "get_task",
    "majority_baseline",
]

__getattr__ = moved_names(
    __name__,
    {
        "AnswerMatch": "hf_meta_adapters.evaluation.metrics",
        "ClassF1": "hf_meta_adapters.evaluation.metrics",
        "LanguageModelScore": "hf_meta_adapters.evaluation.language_model_score",
        "LanguageModeling": "hf_meta_adapters.evaluation._language_modeling",
        "PairedDifference": "hf_meta_adapters.evaluation.method_comparison",
        "SpanF1": "hf_meta_adapters.evaluation.metrics",
        "TagAccuracy": "hf_meta_adapters.evaluation.metrics",
        "bits_per_character": "hf_meta_adapters.evaluation.language_model_score",
        "causal_lm_features": "hf_meta_adapters.evaluation.lm_features",
        "load_language_datasets": "hf_meta_adapters.data",
        "load_local_datasets": "hf_meta_adapters.data",
        "masked_lm_features": "hf_meta_adapters.evaluation.lm_features",
        "normalize_answer": "hf_meta_adapters.evaluation.answers",
        "parse_arguments": "hf_meta_adapters.cli",
        "read_grid": "hf_meta_adapters.study.grid",
        "register_task": "hf_meta_adapters.evaluation.task",
        "run_grid": "hf_meta_adapters.study.grid",
    },
)
