"""The LoRA that recipes use where they are asked for one."""

from __future__ import annotations

from peft import LoraConfig, PeftConfig

__all__ = ["PeftConfig", "lora_config"]


def lora_config(rank: int) -> PeftConfig:
    """Return a LoRA of a rank in all linear layers but the head, scaled by 2.

    Args:
        rank: The rank r.

    Example:
        >>> lora_config(4).lora_alpha
        8
    """
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
