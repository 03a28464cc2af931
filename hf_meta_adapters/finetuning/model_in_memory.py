"""One model for many experiments: set back to its first weights instead of loaded again."""

from __future__ import annotations

from collections.abc import Callable

from hf_meta_adapters.modeling.model import LanguageAdapterModel

__all__ = ["model_in_memory"]


def model_in_memory(model: LanguageAdapterModel) -> Callable[[], LanguageAdapterModel]:
    """Return a function that sets a model back to its present weights, and returns it.

    It takes the place of a function that loads the model, for protocols that make one model.
    Loading a large encoder may take longer than fine-tuning it on a few labels.

    Args:
        model: The model, with the head of the task. A copy of its weights is kept.

    Returns:
        The function. What it returned before is the same model, and is set back with it.

    Example:
        >>> import torch
        >>> from peft import LoraConfig
        >>> from transformers import BertConfig, BertModel
        >>> from hf_meta_adapters import get_language_model
        >>> sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> base = BertModel(BertConfig(**sizes, intermediate_size=16, vocab_size=9))
        >>> model = get_language_model(base, LoraConfig(target_modules=["query"]), ["en", "sw"])
        >>> again = model_in_memory(model)
        >>> parameter = next(iter(model.language_parameters("sw").values()))
        >>> before = parameter.detach().clone()
        >>> _ = torch.nn.init.ones_(parameter)
        >>> same = again()
        >>> torch.equal(parameter, before)
        True
    """
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}

    def set_back() -> LanguageAdapterModel:
        model.load_state_dict(state)
        # Gradients of the run before would be memory, no more: a Trainer begins without any.
        model.zero_grad(set_to_none=True)
        return model.eval()

    return set_back
