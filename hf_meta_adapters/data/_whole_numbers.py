"""The check of a setting that counts something."""

from __future__ import annotations

from hf_meta_adapters.errors import ConfigurationError


def check_whole_number(
    name: str, value: int, *, lowest: int = 1, highest: int | None = None
) -> int:
    """Return `value` if it is a whole number within the bounds.

    Args:
        name: The name of the setting, for the message.
        value: Its value.
        lowest: The smallest value allowed.
        highest: The largest value allowed; `None` for no bound.

    Returns:
        The same value.

    Raises:
        ConfigurationError: If it is anything else.
    """
    bounds = f"of at least {lowest}"
    if highest is not None:
        bounds = f"from {lowest} to {highest}"

    too_large = highest is not None and value > highest
    if not isinstance(value, int) or value < lowest or too_large:
        raise ConfigurationError(f"`{name}` must be a whole number {bounds}. Found {value!r}.")

    return value
