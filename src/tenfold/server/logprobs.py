"""Log-probabilities in the two forms clients know."""

from collections.abc import Callable, Iterable, Sequence

from tenfold.core.request import RequestOutput, SampleLogprobs, TokenLogprob
from tenfold.server.protocol import ChatLogprob, ChatLogprobs, LegacyLogprobs, TopLogprob

LOWEST = -9999.0  # JSON has no -Infinity; OpenAI's value for "as good as impossible"


def logprobs_of(outputs: Sequence[RequestOutput]) -> list[SampleLogprobs] | None:
    """Those of a whole answer; None where none were asked for."""
    if all(output.logprobs is None for output in outputs):
        return None
    return [entry for output in outputs for entry in output.logprobs or ()]


def legacy_logprobs(entries: Iterable[SampleLogprobs], offset: int) -> LegacyLogprobs:
    """As completions give them; ``offset`` is where, in characters, the first token's text begins.

    Of tokens with equal text (parts of characters) the likeliest is shown.
    """
    result = LegacyLogprobs([], [], [], [])
    for entry in entries:
        sampled = entry.sampled
        top: dict[str, float] = {}
        for token in (*entry.top, sampled):
            top.setdefault(token.text, max(token.logprob, LOWEST))
        result.tokens.append(sampled.text)
        result.token_logprobs.append(max(sampled.logprob, LOWEST))
        result.top_logprobs.append(top)
        result.text_offset.append(offset)
        offset += len(sampled.text)
    return result


def chat_logprobs(entries: Iterable[SampleLogprobs], token_bytes: Callable[[int], bytes]) -> ChatLogprobs:
    """As chat gives them, with each token's bytes: joined, they give the text even where characters are split."""

    def show(token: TokenLogprob) -> TopLogprob:
        return TopLogprob(token.text, max(token.logprob, LOWEST), list(token_bytes(token.token)))

    content = []
    for entry in entries:
        sampled = show(entry.sampled)
        top = [show(token) for token in entry.top]
        content.append(ChatLogprob(sampled.token, sampled.logprob, sampled.bytes, top))
    return ChatLogprobs(content)
