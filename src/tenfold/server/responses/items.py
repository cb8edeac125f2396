"""Items of an answer: begun without their text, done with it."""

from typing import Literal

import msgspec

from tenfold.server.responses.protocol import OutputItem, OutputPart

Status = Literal["completed", "incomplete"]


def thought_item(identity: str) -> OutputItem:
    """What the model thinks."""
    return OutputItem(id=identity, type="reasoning", status="in_progress", summary=[], content=[])


def message_item(identity: str) -> OutputItem:
    """Text for the reader."""
    return OutputItem(id=identity, type="message", status="in_progress", role="assistant", content=[])


def call_item(identity: str, call_id: str, name: str) -> OutputItem:
    """A function to call."""
    return OutputItem(id=identity, type="function_call", status="in_progress", call_id=call_id, name=name, arguments="")


def text_part(item: OutputItem, text: str) -> OutputPart:
    """The one part of an item's content."""
    if item.type == "reasoning":
        return OutputPart(type="reasoning_text", text=text)
    return OutputPart(type="output_text", text=text, annotations=[], logprobs=[])


def done(item: OutputItem, text: str, status: Status) -> OutputItem:
    """The item with all its text, or arguments."""
    if item.type == "function_call":
        return msgspec.structs.replace(item, arguments=text, status=status)
    return msgspec.structs.replace(item, content=[text_part(item, text)], status=status)
