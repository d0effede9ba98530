"""The special tokens of Hunyuan-Large, by name and by what they are for."""

from __future__ import annotations

from dataclasses import dataclass

USER_END = "<|extra_0|>"
"""After a user's message: the answer begins here."""
SYSTEM_END = "<|extra_4|>"
"""After the system message."""


@dataclass(frozen=True)
class SpecialNames:
    """Which special token does which work; the defaults are the release's.

    ``<|bos|>`` exists too, and the release uses it nowhere: what begins a text is ``<|startoftext|>``.
    """

    bos: str = "<|startoftext|>"
    document_end: str = "<|endoftext|>"
    """Ends a document in pre-training."""
    eos: str = "<|eos|>"
    """Ends an answer."""
    pad: str = "<|pad|>"


END_NAMES = ("<|eos|>", "<|endoftext|>", "<|extra_5|>")
"""What ends a generation: the release's ``generation_config.json`` lists the first and the last of them, and a base
model ends with the second."""
RELEASE_EXTRAS = 204
"""How many ``<|extra_N|>`` Hunyuan-Large has."""


def special_tokens(extras: int) -> list[str]:
    """All special tokens in the order of their ids, with ``extras`` tokens ``<|extra_0|>``, ``<|extra_1|>``, ..."""
    named = ["<|endoftext|>", "<|startoftext|>", "<|bos|>", "<|eos|>", "<|pad|>"]
    return named + [f"<|extra_{number}|>" for number in range(extras)]
