"""POST /v1/responses."""

import msgspec

from tenfold.server.completions import converse
from tenfold.server.conversation import Conversation
from tenfold.server.decode import decode
from tenfold.server.exchange import Exchange
from tenfold.server.formats import Format, Head
from tenfold.server.responses.format import ResponsesFormat
from tenfold.server.responses.protocol import ResponsesBody
from tenfold.server.responses.translate import chat_of
from tenfold.server.service import Service

_decoder = msgspec.json.Decoder(ResponsesBody)


async def responses(service: Service, exchange: Exchange) -> None:
    """Answer a conversation."""
    arrival = service.clock.now()
    body = decode(await exchange.json_body(), _decoder)

    def shape(head: Head, asked: Conversation) -> Format:
        return ResponsesFormat(head, body, reading=asked.reading)

    await converse(service, exchange, chat_of(body), arrival, "resp_", shape)
