"""From a port of the host into a network namespace: `relay.py FD HOST:PORT`, started there.

FD is a listening socket that it inherits, and that stays in the namespace in which it was made; HOST:PORT is
where it is, in the other one.
"""

import asyncio
import socket
import sys


async def _main(listening: int, host: str, port: int) -> None:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answers, asked = await asyncio.open_connection(host, port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(_copy(reader, asked), _copy(answers, writer))

    server = await asyncio.start_server(accept, sock=socket.socket(fileno=listening))
    await server.serve_forever()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


if __name__ == "__main__":
    address, _, number = sys.argv[2].rpartition(":")
    asyncio.run(_main(int(sys.argv[1]), address, int(number)))
