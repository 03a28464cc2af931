"""Names of PEFT methods that are not PEFT's own."""

from __future__ import annotations


class MethodName(str):
    """The `peft_type` of a method that PEFT's closed enumeration does not have.

    It equals and is saved as a plain string, and has the `value` that PEFT and transformers read
    from the members of the enumeration.

    Example:
        >>> MethodName("BOTTLENECK").value
        'BOTTLENECK'
    """

    __slots__ = ()

    @property
    def value(self) -> str:
        """The plain string."""
        return str(self)
