"""`FaultProxy`: each fault hits the message that it is meant for, and no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType

import pytest
from servers import eventually

from aresilience.testing.proxy import FaultProxy, _end_of_message

pytestmark = pytest.mark.real_time


class Echo:
    """A server that answers each line of an inline command with a bulk of it."""

    async def __aenter__(self) -> Echo:
        self.got: list[bytes] = []
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                self.got.append(line.strip())
                writer.write(b"$%d\r\n%s\r\n" % (len(line.strip()), line.strip()))
                if line == b"quit\r\n":
                    break
        except OSError:
            pass
        finally:
            writer.close()


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    """A server to be in front of."""
    async with Echo() as echo:
        yield echo


@pytest.fixture
async def between(echo: Echo) -> AsyncIterator[FaultProxy]:
    """The proxy."""
    async with FaultProxy("127.0.0.1", echo.port) as proxy:
        yield proxy


class Client:
    """A connection to the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def to(cls, proxy: FaultProxy) -> Client:
        return cls(*await asyncio.open_connection("127.0.0.1", proxy.port))

    def ask(self, *words: bytes) -> None:
        self.writer.write(b"".join(word + b"\r\n" for word in words))

    async def hear(self) -> bytes:
        """One bulk, or what else there is in a line."""
        head = await self.reader.readline()
        return (await self.reader.readline()).strip() if head.startswith(b"$") else head.strip()

    async def ended(self) -> bytes:
        """How it ends."""
        try:
            rest = await self.reader.read()
        except ConnectionResetError:
            return b"RST"
        return rest or b"FIN"


@pytest.fixture
async def client(between: FaultProxy) -> AsyncIterator[Client]:
    """A client of the proxy."""
    client = await Client.to(between)
    yield client
    client.writer.close()


async def test_without_a_fault_all_is_passed_on(client: Client, between: FaultProxy, echo: Echo) -> None:
    """Requests and replies pass, and are counted."""
    client.ask(b"one", b"two", b"three")
    assert [await client.hear() for _ in range(3)] == [b"one", b"two", b"three"]
    assert (between.requests.seen, between.replies.seen, between.connections, between.accepted) == (
        3,
        3,
        1,
        1,
    )
    assert repr(between) == f"<FaultProxy port {between.port}, 1 connections, 1 so far>"


async def test_the_nth_reply_is_lost(client: Client, between: FaultProxy, echo: Echo) -> None:
    """swallow: the server did it, and nobody hears of it; the count begins now."""
    client.ask(b"zero")
    await client.hear()
    between.replies.swallow(nth=2, times=2)
    client.ask(b"one", b"two", b"three", b"four")
    assert [await client.hear() for _ in range(2)] == [b"one", b"four"]
    assert echo.got == [b"zero", b"one", b"two", b"three", b"four"]


async def test_the_nth_request_is_lost(client: Client, between: FaultProxy, echo: Echo) -> None:
    """swallow: the server never gets it."""
    between.requests.swallow(nth=2)
    client.ask(b"one", b"two", b"three")
    assert [await client.hear() for _ in range(2)] == [b"one", b"three"]
    assert echo.got == [b"one", b"three"]


async def test_replies_are_held(client: Client, between: FaultProxy) -> None:
    """delay: a time, or one that depends on the number of the reply."""
    loop = asyncio.get_running_loop()
    held: list[int] = []

    def seconds(number: int) -> float:
        held.append(number)
        return 0.05 if number == 2 else 0.0

    between.replies.delay(seconds, times=None)
    started = loop.time()
    client.ask(b"one", b"two")
    assert await client.hear() == b"one"
    assert await client.hear() == b"two"
    assert loop.time() - started >= 0.05
    assert held == [1, 2]


async def test_replies_are_replaced_and_inserted(client: Client, between: FaultProxy) -> None:
    """replace: instead of it; insert: before it; inject: now."""
    between.replies.replace(b"-LOADING\r\n", nth=1)
    between.replies.insert(b"+STRAY\r\n", nth=2)
    client.ask(b"one", b"two")
    assert [await client.hear() for _ in range(3)] == [b"-LOADING", b"+STRAY", b"two"]
    between.inject(b"+NOW\r\n")
    assert await client.hear() == b"+NOW"


async def test_a_reply_comes_in_pieces(client: Client, between: FaultProxy) -> None:
    """split: byte by byte."""
    between.replies.split()
    client.ask(b"one")
    pieces = [await client.reader.read(100)]
    while not b"".join(pieces).endswith(b"one\r\n"):
        pieces.append(await client.reader.read(100))
    assert b"".join(pieces) == b"$3\r\none\r\n"
    assert len(pieces) > 1


@pytest.mark.parametrize("after", [0, 4])
async def test_a_reply_is_cut(client: Client, between: FaultProxy, after: int) -> None:
    """reset: so many bytes, then RST; other connections are not touched."""
    other = await Client.to(between)
    other.ask(b"other")
    await other.hear()
    between.replies.reset(after=after)
    client.ask(b"one")
    if after:
        assert await client.reader.readexactly(after) == b"$3\r\n"
    assert await client.ended() == b"RST"
    other.ask(b"still here")
    assert await other.hear() == b"still here"
    other.writer.close()


async def test_all_connections_are_cut(client: Client, between: FaultProxy) -> None:
    """cut: RST to everybody; new ones are welcome."""
    client.ask(b"one")
    await client.hear()
    between.cut()
    assert await client.ended() == b"RST"
    again = await Client.to(between)
    again.ask(b"two")
    assert await again.hear() == b"two"
    again.writer.close()


async def test_new_connections_are_refused_or_swallowed(client: Client, between: FaultProxy) -> None:
    """refuse and black_hole: only new ones; heal: all well again, on the same port."""
    client.ask(b"zero")
    await client.hear()
    port = between.port
    between.refuse()
    with pytest.raises(ConnectionRefusedError):
        await Client.to(between)
    await between.heal()
    between.black_hole()
    silent = await Client.to(between)
    silent.ask(b"hello?")
    client.ask(b"one")
    assert await client.hear() == b"one"
    await between.heal()
    assert between.port == port
    welcome = await Client.to(between)
    welcome.ask(b"two")
    assert await welcome.hear() == b"two"
    assert not silent.reader.at_eof()
    for each in (silent, welcome):
        each.writer.close()
    await eventually(lambda: between.connections == 1)


async def test_an_end_is_passed_on(client: Client, between: FaultProxy, echo: Echo) -> None:
    """Either side leaves: so does the other; nobody upstream: the client hears it."""
    left = await Client.to(between)
    left.ask(b"quit")
    assert await left.hear() == b"quit"
    assert await left.ended() == b"FIN"
    left.writer.close()
    client.writer.close()
    await eventually(lambda: between.connections == 0)
    echo._server.close()
    lonely = await Client.to(between)
    assert await lonely.ended() in (b"FIN", b"RST")
    lonely.writer.close()


async def test_leaving_ends_everything(echo: Echo) -> None:
    """Leaving the proxy cuts its connections and ends its tasks."""
    async with FaultProxy("127.0.0.1", echo.port) as proxy:
        client = await Client.to(proxy)
        client.ask(b"one")
        await client.hear()
        proxy.black_hole()
        silent = await Client.to(proxy)
        silent.ask(b"x")
        await eventually(lambda: proxy.connections == 2)
    assert await client.ended() == b"RST"
    assert await silent.ended() == b"RST"
    client.writer.close()
    silent.writer.close()
    await eventually(lambda: proxy.connections == 0)


MESSAGES = {
    "status": b"+OK\r\n",
    "error": b"-ERR no\r\n",
    "number": b":12\r\n",
    "bulk": b"$6\r\na\r\nb\r\n\r\n",
    "empty bulk": b"$0\r\n\r\n",
    "no bulk": b"$-1\r\n",
    "array": b"*3\r\n:1\r\n$1\r\nx\r\n*1\r\n+y\r\n",
    "empty array": b"*0\r\n",
    "no array": b"*-1\r\n",
    "RESP3 map": b"%1\r\n+a\r\n:1\r\n",
    "RESP3 set and push": b"~2\r\n+a\r\n>1\r\n+b\r\n",
    "RESP3 attribute": b"|1\r\n+a\r\n+b\r\n+answer\r\n",
    "RESP3 scalars": b"*4\r\n_\r\n#t\r\n,1.5\r\n=7\r\ntxt:abc\r\n",
    "inline command": b"PING\r\n",
}


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
@pytest.mark.parametrize("behind", [b"", b"+next\r\n"])
def test_the_end_of_a_message_is_found(message: bytes, behind: bytes) -> None:
    """Complete: its length, whatever comes behind; one byte less: not yet."""
    assert _end_of_message(message + behind) == len(message)
    for cut in range(len(message)):
        assert _end_of_message(message[:cut]) == 0
