"""The listening socket of `tunewright serve`: answers must not wait for acknowledgements."""

import asyncio
import socket

from tunewright.cli.serve import _listen


def test_answers_are_sent_at_once():
    """Nagle's algorithm is off on what is accepted: it cost every kept connection 40 ms a call."""
    listener, address = _listen("127.0.0.1", 0)

    async def accepted() -> int:
        heard = asyncio.get_running_loop().create_future()

        def hear(reader, writer):
            line = writer.get_extra_info("socket")
            heard.set_result(line.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        server = await asyncio.start_server(hear, sock=listener)
        async with server:
            port = int(address.rpartition(":")[2])
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            value = await asyncio.wait_for(heard, 10)
            writer.close()
            return value

    assert asyncio.run(accepted()) != 0
