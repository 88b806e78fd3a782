"""A TCP proxy between a process and a server, with faults: it delays, cuts and holds connections."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

_CLOSE_SECONDS = 5.0


class Proxy:
    """Forwards each connection to `host` and `port`.

    - `delay`: how many seconds later the server gets what a client sends. It does not limit the throughput.
    - `cut`: close all connections, as a firewall does that restarts. New connections work.
    - `target`: where new connections lead to; a failover changes it.
    - `hold` and `release`: forward nothing in between, as if the network were gone.
    """

    def __init__(self, host: str, port: int) -> None:
        self.delay = 0.0
        self.port = 0
        self.target = (host, port)
        self._writers: set[asyncio.StreamWriter] = set()
        self._connections: set[asyncio.Task[None]] = set()
        self._released = asyncio.Event()
        self._released.set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["Proxy"]:
        server = await asyncio.start_server(self._accept, "127.0.0.1")
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.release()
            self.cut()
            if self._connections:
                await asyncio.wait(self._connections, timeout=_CLOSE_SECONDS)

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    def hold(self) -> None:
        self._released.clear()

    def release(self) -> None:
        self._released.set()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        self._writers.add(writer)
        try:
            with suppress(OSError):
                server_reader, server_writer = await asyncio.open_connection(*self.target)
                self._writers.add(server_writer)
                try:
                    await asyncio.gather(
                        self._forward(reader, server_writer, delayed=True),
                        self._forward(server_reader, writer, delayed=False),
                    )
                finally:
                    self._writers.discard(server_writer)
                    server_writer.transport.abort()
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, delayed: bool) -> None:
        """Forward until the sender closes its connection; then close the other one."""
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def receive() -> None:
            try:
                while data := await reader.read(2**16):
                    arrived.put_nowait((loop.time(), data))
            finally:
                arrived.put_nowait((loop.time(), b""))

        receiving = asyncio.create_task(receive())
        try:
            while True:
                arrived_at, data = await arrived.get()
                if delayed:
                    await asyncio.sleep(arrived_at + self.delay - loop.time())
                await self._released.wait()
                if not data:
                    return
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)
