"""The settings of a pretraining run that the arguments of the Trainer do not cover."""

from __future__ import annotations

from dataclasses import dataclass, field

from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.pretraining._text_arguments import TextArguments

__all__ = ["PretrainingArguments"]


@dataclass
class PretrainingArguments(TextArguments):
    """The model, its adapters and the text of a pretraining run.

    `parse_arguments` reads them together with `MetaAdapterTrainingArguments`.
    """

    # From scratch: in place of `model`.
    model_type: str = field(
        default="", metadata={"help": "From scratch: the architecture, as in AutoConfig."}
    )
    sizes: dict[str, object] = field(
        default_factory=dict,
        metadata={"help": "From scratch: arguments of the model's config (YAML only)."},
    )
    vocabulary: int = field(
        default=16000, metadata={"help": "From scratch: vocabulary size of the new tokenizer."}
    )

    # The rows.
    max_length: int = field(default=128, metadata={"help": "Tokens in a row."})
    pack: bool = field(
        default=True, metadata={"help": "Fill rows with several texts; otherwise, one text a row."}
    )

    def __post_init__(self) -> None:
        """Check everything that can be checked before any work.

        Raises:
            ConfigurationError: If settings are missing or contradict one another.
        """
        super().__post_init__()

        if bool(self.model) == bool(self.model_type):
            raise ConfigurationError(
                "Give either `model`, to continue its training, or `model_type`, to start from"
                f" scratch. Found {self.model!r} and {self.model_type!r}. Pass for example"
                " `--model FacebookAI/xlm-roberta-base`."
            )
