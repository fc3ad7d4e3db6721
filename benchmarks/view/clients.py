"""Viewers without a browser, in a process: `python -m benchmarks.view.clients URL COUNT`, until standard input ends.

Prints `ready` once all are connected, and at the end the number of pictures that they have received together.
"""

import asyncio
import sys
from collections.abc import Iterable

from websockets.asyncio.client import ClientConnection, connect

REQUEST = '{"next": 0, "size": 640, "attention": true}'


async def watch(socket: ClientConnection, received: list[int]) -> None:
    """Request pictures of the first source, each as soon as the one before has arrived, and count them."""
    async for message in socket:
        is_picture = isinstance(message, bytes)
        received[0] += is_picture
        if is_picture or '"sources": ["' in message:
            await socket.send(REQUEST)


async def main(url: str, count: int) -> None:
    """Connect viewers, and watch until standard input ends."""
    received = [0]
    sockets: Iterable[ClientConnection] = await asyncio.gather(
        *(connect(url, compression=None, max_size=None, proxy=None) for _ in range(count))
    )
    watching = [asyncio.create_task(watch(socket, received)) for socket in sockets]
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for task in watching:
        task.cancel()
    await asyncio.gather(*watching, return_exceptions=True)
    print(received[0], flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
