"""Text to token ids and back, as the server needs it."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from tenfold.core.errors import InvalidRequest

OFFLOAD_CHARS = 4_000  # longer texts are tokenized in a thread: the event loop must not wait for them
OFFLOAD_MESSAGES = 64  # the same for rendering conversations
NO_VARIABLES: Mapping[str, Any] = MappingProxyType({})


class Tokenizer(Protocol):
    """What the server asks of a model's tokenizer; safe to call from threads."""

    def encode(self, text: str, *, add_special: bool) -> Sequence[int]:
        """Token ids; ``add_special`` adds what the model expects around a text (such as begin-of-text)."""
        ...

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """The ids' text."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """What the token stands for: not always whole characters."""
        ...


class ChatTemplate(Protocol):
    """How a model writes a conversation."""

    @property
    def source(self) -> str:
        """Its text, which tells how the model writes."""
        ...

    def render(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True, **variables: Any
    ) -> str:
        """The conversation as text. Raises InvalidRequest where the template refuses it."""
        ...


@dataclass(frozen=True, slots=True)
class TextCodec:
    """A model's tokenizer and chat template (None where it has none)."""

    tokenizer: Tokenizer
    template: ChatTemplate | None

    async def encode(self, text: str, *, add_special: bool) -> tuple[int, ...]:
        """Token ids of ``text``; a long text does not hold up the event loop."""
        if len(text) > OFFLOAD_CHARS:
            return tuple(await asyncio.to_thread(self.tokenizer.encode, text, add_special=add_special))
        return tuple(self.tokenizer.encode(text, add_special=add_special))

    async def encode_chat(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool
    ) -> tuple[int, ...]:
        """Token ids of a conversation as the model's template writes it."""
        text = await self.write_chat(messages, add_generation_prompt=add_generation_prompt)
        return await self.encode(text, add_special=False)

    async def write_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool,
        variables: Mapping[str, Any] = NO_VARIABLES,
    ) -> str:
        """A conversation as the model's template writes it, given ``variables``."""
        if self.template is None:
            raise InvalidRequest("this model has no chat template: use /v1/completions with a prompt", param="messages")
        if len(messages) > OFFLOAD_MESSAGES:
            return await asyncio.to_thread(self.template.render, messages, add_generation_prompt, **variables)
        return self.template.render(messages, add_generation_prompt, **variables)

    async def decode(self, ids: Sequence[int]) -> str:
        """The ids' text, special tokens included."""
        if len(ids) > OFFLOAD_CHARS:
            return await asyncio.to_thread(self.tokenizer.decode, ids, skip_special=False)
        return self.tokenizer.decode(ids, skip_special=False)

    def hidden(self, mark: str) -> int | None:
        """The id of a mark that is one special token, which answers do not show and text cannot spell; else None."""
        ids = self.tokenizer.encode(mark, add_special=False)
        return ids[0] if len(ids) == 1 and not self.tokenizer.decode(ids) else None
