"""HTTP as bytes on a connection, for calls that no client library makes."""

import asyncio
import json
import resource
from contextlib import closing

import httpx

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def request(line: bytes, *headers: bytes) -> bytes:
    """A request up to its body."""
    return b"\r\n".join([line, b"Host: localhost", *headers, b"", b""])


def allow_files(count: int) -> None:
    """Let this process open so many connections, as far as the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, count)), hard))


async def connect(url: str | httpx.URL) -> Connection:
    parsed = httpx.URL(url)
    return await asyncio.open_connection(parsed.host, parsed.port)


async def exchange(url: str | httpx.URL, *chunks: bytes) -> bytes:
    """Send these bytes on a new connection, and read until the server closes it."""
    reader, writer = await connect(url)
    with closing(writer):
        for chunk in chunks:
            writer.write(chunk)
        return await read_to_end(reader)


async def read_to_end(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(10):
        return await reader.read(-1)


def status_and_code(answer: bytes) -> tuple[int, str]:
    """The status of an answer and the code of its first error. Fails if the body has not its announced length."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-length: %d" % len(body) in head.lower().split(b"\r\n"), answer
    return int(head.split()[1]), json.loads(body)["errors"][0]["code"]
