"""The settings of instruction tuning that the arguments of the Trainer do not cover."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.pretraining._text_arguments import TextArguments

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig

__all__ = ["InstructionArguments"]

_COPIES = ("layer_norm", "feed_forward", "attention")


@dataclass
class InstructionArguments(TextArguments):
    """The conversations, the model and its adapters in a run of instruction tuning.

    `parse_arguments` reads them together with `MetaAdapterTrainingArguments`. θ is one LoRA over a
    frozen base, and φ a LoRA of each language, unless `shared` and `adapter` say otherwise.
    """

    data: str = field(
        default="",
        metadata={
            "help": "Folder with <language>/<split>.jsonl(.gz), or a name on the Hub. A row has"
            " `messages`, or `prompt` and `completion`."
        },
    )
    adapter: str = field(
        default="lora",
        metadata={"help": "bottleneck, lora, layer_norm, feed_forward, attention, none."},
    )
    shared: str = field(
        default="lora",
        metadata={"help": "θ: one LoRA over a base that is frozen, or all weights."},
    )

    # The model.
    chat_template: str = field(
        default="",
        metadata={
            "help": "A file with a chat template (Jinja), for a tokenizer that has none, or none"
            " that marks the turns of the assistant."
        },
    )
    load_in_4bit: bool = field(
        default=False,
        metadata={"help": "QLoRA: the frozen base in 4 bits, by bitsandbytes. Needs a GPU."},
    )

    # The rows.
    completion_only_loss: bool = field(
        default=True,
        metadata={"help": "Train on the answers alone; otherwise, on every token."},
    )
    max_length: int = field(default=1024, metadata={"help": "Tokens in a row."})
    pack: bool = field(
        default=True,
        metadata={
            "help": "Fill rows with several conversations, kept apart; otherwise, one a row."
        },
    )

    def __post_init__(self) -> None:
        """Check everything that can be checked before any work.

        Raises:
            ConfigurationError: If settings are missing or contradict one another.
        """
        super().__post_init__()

        missing = [name for name in ("data", "model") if not vars(self)[name]]
        if missing:
            raise ConfigurationError(
                "Instruction tuning needs `data`, conversations of each language, and `model`, a"
                f" pretrained model. Found no {' and no '.join(missing)}. Pass for example `--model"
                " Qwen/Qwen3-0.6B --data FOLDER`."
            )

        if self.load_in_4bit:
            self._check_quantized()

    def quantization(self) -> BitsAndBytesConfig | None:
        """What loads the base in 4 bits: NF4, computed in bfloat16; `None` without `load_in_4bit`.

        Returns:
            The configuration, for `from_pretrained`.
        """
        if not self.load_in_4bit:
            return None

        from transformers import BitsAndBytesConfig

        return BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype="bfloat16"
        )

    def template(self) -> str | None:
        """The chat template that `chat_template` names.

        Returns:
            Its text; `None` for that of the tokenizer.

        Raises:
            ConfigurationError: If there is no such file.
        """
        if not self.chat_template:
            return None

        file = Path(self.chat_template)
        if not file.is_file():
            raise ConfigurationError(
                "`chat_template` must be a file with a template in Jinja. Found no file"
                f" {self.chat_template!r}. Leave it out for the template of the tokenizer."
            )
        return file.read_text(encoding="utf-8")

    def _check_quantized(self) -> None:
        if self.shared != "lora" or self.adapter in _COPIES:
            raise ConfigurationError(
                "Weights in 4 bits cannot be trained or copied, so that θ must be a LoRA and φ an"
                f" adapter. Found `load_in_4bit` with `shared={self.shared!r}` and"
                f" `adapter={self.adapter!r}`. Use `--shared lora --adapter lora`."
            )

        if find_spec("bitsandbytes") is None:
            raise ConfigurationError(
                "`load_in_4bit` needs bitsandbytes. Found no such package. Run `pip install"
                " bitsandbytes` on a machine with a GPU, or leave `load_in_4bit` out."
            )
