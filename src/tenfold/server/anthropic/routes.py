"""POST /v1/messages and POST /v1/messages/count_tokens."""

import msgspec

from tenfold.server.anthropic.format import MessagesFormat
from tenfold.server.anthropic.protocol import CountBody, CountResponse, MessagesBody
from tenfold.server.anthropic.translate import chat_of, prompt_of_chat
from tenfold.server.completions import converse
from tenfold.server.conversation import Conversation, prompt_of
from tenfold.server.decode import decode
from tenfold.server.exchange import Exchange
from tenfold.server.formats import Format, Head
from tenfold.server.service import Service
from tenfold.server.tools.toolbox import toolbox_of

_decoder = msgspec.json.Decoder(MessagesBody)
_count_decoder = msgspec.json.Decoder(CountBody)


async def messages(service: Service, exchange: Exchange) -> None:
    """Answer a conversation."""
    arrival = service.clock.now()
    body = chat_of(decode(await exchange.json_body(), _decoder))

    def shape(head: Head, asked: Conversation) -> Format:
        return MessagesFormat(head, reading=asked.reading, prompt_tokens=len(asked.ids))

    await converse(service, exchange, body, arrival, "msg_", shape)


async def count_tokens(service: Service, exchange: Exchange) -> None:
    """How many tokens a conversation has."""
    body = prompt_of_chat(decode(await exchange.json_body(), _count_decoder))
    service.check_model(body.model)
    loaded = service.require()
    text = await prompt_of(
        loaded,
        body.messages,
        toolbox_of(body.tools, body.tool_choice, parallel=None),
        add_generation_prompt=True,
        variables=body.chat_template_kwargs or {},
    )
    ids = await loaded.codec.encode(text, add_special=False)
    await exchange.send_json(CountResponse(len(ids)))
