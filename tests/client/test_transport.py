"""What gRPC says of calls that no service answered is told in a sentence: where, why, and what to look at."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import outrider
import pytest
from outrider._transport import sentence

from .fake_service import Failure, Hang, error_info, started, token
from .test_client import reconnecting_fails

CODE = re.compile(rf"\b({'|'.join(code.name for code in grpc.StatusCode)})\b")
ALONE = [("grpc.use_local_subchannel_pool", 1)]


async def told(target: str, **options) -> str:
    """What a call raises that reaches no session service at the target."""
    async with outrider.AsyncClient(target, channel_options=ALONE, **options) as client:
        with pytest.raises(outrider.OutriderError) as caught:
            await client.describe()
    assert not CODE.search(caught.value.message)
    return caught.value.message


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("127.0.0.1:1", "nothing answers at 127.0.0.1:1: Connection refused"),
        ("dns:///127.0.0.1:1", "nothing answers at dns:///127.0.0.1:1: Connection refused"),
        (
            "unix:/nowhere/a b.sock",
            "nothing answers at unix:/nowhere/a b.sock: No such file or directory",
        ),
        ("unix-abstract:nobody", "nothing answers at unix-abstract:nobody: Connection refused"),
    ],
)
async def test_nobody_at_an_address_is_told_with_the_systems_cause(target, message):
    assert await told(target) == f"{message}; is the service running?"


async def test_an_address_that_a_name_stands_for_is_told_too():
    message = await told("localhost:1")
    assert re.fullmatch(
        r"nothing answers at localhost:1 \((127\.0\.0\.1|\[::1\]):1\): Connection refused; "
        r"is the service running\?",
        message,
    )


@pytest.fixture
def web_server() -> Iterator[str]:
    """Speaks HTTP/1 alone."""
    listening = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                connection.recv(1024)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    threading.Thread(target=answer, daemon=True).start()
    yield f"127.0.0.1:{listening.getsockname()[1]}"
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()


async def test_a_server_of_another_kind_is_told_as_one(web_server):
    message = await told(web_server)
    assert message.startswith(f"no connection to {web_server} can be made: ")
    assert message.endswith("; is it the service's address?")


async def test_a_service_of_another_kind_is_told_as_one():
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        message = await told(f"127.0.0.1:{port}")
    finally:
        server.stop(0).wait()
    expected = "has no such call; is it a session service, and no older than this SDK?"
    assert message == f"127.0.0.1:{port} {expected}"


async def test_a_deadline_is_told_by_its_argument(address, service):
    service.failures["Describe"] = Hang()
    assert await told(address, timeout_ms=100) == "the call's timeout_ms ran out before its end"


async def test_a_reply_that_finds_nobody_is_told_so_too(address, server):
    async with outrider.AsyncClient(address, channel_options=ALONE, resume_ms=0) as client:
        session = await client.create_session()
        server[0].stop(0).wait()
        await reconnecting_fails(client)
        with pytest.raises(outrider.UnavailableError) as caught:
            await session.generate("hi")
    expected = f"nothing answers at {address}: Connection refused; is the service running?"
    assert caught.value.message == expected


async def test_what_a_service_says_stays_as_it_is(client, service):
    service.failures["Describe"] = Failure(grpc.StatusCode.UNAVAILABLE, "the ledger is away")
    with pytest.raises(outrider.UnavailableError) as caught:
        await client.describe()
    assert caught.value.message == "the ledger is away"


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            "errors resolving a.b:7: [field:hostname lookup error:address lookup failed for a.b:7: "
            "Domain name not found]",
            "the name in a.b:7 cannot be looked up: Domain name not found; is it written right?",
        ),
        (
            "Received http2 header with status: 404",
            "a.b:7 answers with HTTP status 404 and no gRPC; is it the service's address?",
        ),
        (
            "failed to connect to all addresses; last error: INTERNAL: ipv6:%5B::1%5D:7: Socket closed",
            "no connection to a.b:7 ([::1]:7) can be made: Socket closed; is it the service's address?",
        ),
        *(
            (said, "the connection to a.b:7 was lost; try again")
            for said in (
                "UNAVAILABLE: Socket closed",
                "Stream removed (recvmsg:Connection reset by peer (104))",
            )
        ),
        *(
            (said, "a.b:7, or what lies between, ended the call without a reason; try again")
            for said in ("CANCELLED", "Received RST_STREAM with error code 8")
        ),
    ],
)
def test_sentences_of_grpc_are_known(said, message):
    assert sentence(said, "a.b:7") == message


async def test_a_reply_that_is_taken_over_says_what_happened_and_what_to_do(client, service):
    taken = Failure(grpc.StatusCode.ABORTED, "epoch 1, not 2", error_info("STALE_EPOCH"))
    service.script = [started(), token(0, "abc"), taken]
    reply = (await client.create_session()).generate("hi")
    with pytest.raises(outrider.StaleEpochError) as caught:
        await reply
    assert reply.text == "abc"
    assert caught.value.reason == "STALE_EPOCH"
    assert caught.value.message == (
        "another call took the session over, and this reply ends here; what it committed stays: "
        "session.attach() goes on with the session's last turn (epoch 1, not 2)"
    )
