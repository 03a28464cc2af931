"""Prove it: scores of language models and of tasks, language by language, within-language and zero-shot."""

from hf_meta_adapters.evaluation._answers import normalize_answer
from hf_meta_adapters.evaluation._arguments import parse_arguments
from hf_meta_adapters.evaluation._bits_per_character import LanguageModelScore, bits_per_character
from hf_meta_adapters.evaluation._checks import ConstantPredictionWarning
from hf_meta_adapters.evaluation._comparison import compare_methods
from hf_meta_adapters.evaluation._comparison_report import MethodComparison, PairedDifference
from hf_meta_adapters.evaluation._evaluate import evaluate_languages
from hf_meta_adapters.evaluation._grid import read_grid, run_grid
from hf_meta_adapters.evaluation._language_data import load_language_datasets
from hf_meta_adapters.evaluation._language_modeling import CausalLM, LanguageModeling, MaskedLM
from hf_meta_adapters.evaluation._local_data import load_local_datasets
from hf_meta_adapters.evaluation._majority import majority_baseline
from hf_meta_adapters.evaluation._masked_lm import causal_lm_features, masked_lm_features
from hf_meta_adapters.evaluation._metrics import AnswerMatch, ClassF1, SpanF1, TagAccuracy
from hf_meta_adapters.evaluation._nli import NLI
from hf_meta_adapters.evaluation._question_answering import QuestionAnswering
from hf_meta_adapters.evaluation._scores import LanguageScores
from hf_meta_adapters.evaluation._task import Task, TaskScore, get_task, register_task
from hf_meta_adapters.evaluation._token_classification import NER, POS, TokenClassification
from hf_meta_adapters.evaluation._wiring import MiswiringWarning

__all__ = [
    "NER",
    "NLI",
    "POS",
    "AnswerMatch",
    "CausalLM",
    "ClassF1",
    "ConstantPredictionWarning",
    "LanguageModelScore",
    "LanguageModeling",
    "LanguageScores",
    "MaskedLM",
    "MethodComparison",
    "MiswiringWarning",
    "PairedDifference",
    "QuestionAnswering",
    "SpanF1",
    "TagAccuracy",
    "Task",
    "TaskScore",
    "TokenClassification",
    "bits_per_character",
    "causal_lm_features",
    "compare_methods",
    "evaluate_languages",
    "get_task",
    "load_language_datasets",
    "load_local_datasets",
    "majority_baseline",
    "masked_lm_features",
    "normalize_answer",
    "parse_arguments",
    "read_grid",
    "register_task",
    "run_grid",
]
