"""One request of a trace."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """``at`` is seconds from the trace's start; ``prompt`` and ``outputs`` are tokens.

    ``blocks`` names the prompt's blocks of ``block_tokens`` tokens each, from the start: where two rows begin with the
    same names, their prompts begin with the same text. Empty where the trace does not tell.
    """

    at: float
    prompt: int
    outputs: int
    tenant: str = ""
    blocks: tuple[int, ...] = ()
    block_tokens: int = 0
    slo_class: str = ""  # empty: the server's default
