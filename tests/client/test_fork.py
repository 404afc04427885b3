"""Forked processes, second event loops and dropped clients: each in a process of its own, that says nothing.

The service lives in the test's process, so that no gRPC thread is in the one that forks but the client's.
"""

from __future__ import annotations

import os
import subprocess
import sys

from .fake_service import HOLD, started, token

PRELUDE = """
import asyncio, gc, multiprocessing, os, sys, threading
import outrider

address = sys.argv[1]

def forked(work, leave=os._exit):
    "Runs work in a child; gives what it printed, and its status."
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.dup2(writer, 1)
        try:
            print(work(), flush=True)
        except outrider.OutriderError as error:
            print(type(error).__name__, error.message, flush=True)
        leave(0)
    os.close(writer)
    with open(reader) as answer:
        text = answer.read().strip()
    return text, os.wait()[1]

def turn():
    with outrider.Client(address) as client:
        return client.create_session().generate("hi").read().text

async def async_turn():
    async with outrider.AsyncClient(address) as client:
        return (await (await client.create_session()).generate("hi")).text
"""

INHERITED = (
    "UsageError the client was connected before this process was forked: connect in each process, "
    "and close the clients of the parent before it forks"
)
BARRED = (
    "UsageError a client was open when this process was forked, and gRPC cannot be used in it: fork "
    "before the first call or after closing the clients, or start processes with 'spawn'"
)


def said(script: str, address: str) -> list[str]:
    """The lines that a program prints, which must end well and without a word on standard error.

    gRPC's own handling of forks is off: while calls run it crashes a child now and then, whoever uses it.
    """
    outcome = subprocess.run(
        [sys.executable, "-c", PRELUDE + script, address],
        env={**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "0"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert outcome.stderr == ""
    assert outcome.returncode == 0
    return outcome.stdout.splitlines()


def test_a_child_is_told_at_once_that_its_client_is_the_parents(address):
    script = """
client = outrider.Client(address)
session = client.create_session()
reply = session.generate("hi")
next(reply)
for work in (client.describe, session.info, reply.read, session.generate("hi").read):
    print(*forked(work))
print(reply.read().text, client.describe().version)
"""
    told = [f"{INHERITED} 0"] * 4
    assert said(script, address) == [*told, "hello! 1.2.3"]


def test_a_child_of_a_process_with_an_open_client_is_told_at_once_that_no_other_works(address):
    script = """
client = outrider.Client(address)
client.describe()
print(*forked(turn))
print(*forked(lambda: asyncio.run(async_turn())))
print(*forked(lambda: forked(turn)[0]))
print(turn())
"""
    assert said(script, address) == [*[f"{BARRED} 0"] * 3, "hello!"]


def test_a_child_connects_where_no_client_of_the_parent_is_open(address):
    script = """
unused = outrider.Client(address)
unused_too = outrider.AsyncClient(address)
print(*forked(turn))
print(*forked(lambda: unused.create_session().generate("hi").read().text))
print(*forked(lambda: asyncio.run(unused_too.describe()).version))
print(turn(), asyncio.run(async_turn()))
print(*forked(turn))
print(*forked(lambda: asyncio.run(async_turn())))
with multiprocessing.get_context("fork").Pool(1) as pool:
    print(pool.apply(turn))
"""
    whole = "hello! 0"
    assert said(script, address) == [
        *(whole, whole, "1.2.3 0", "hello! hello!", whole, whole, "hello!"),
    ]


def test_a_child_may_close_and_drop_what_it_inherited_and_the_parent_goes_on(address, service):
    service.script = [started(), token(0), HOLD]
    script = """
async def begin():
    reply = (await async_client.create_session()).generate("hi")
    await anext(reply)
    return reply

def drop():
    global client, session, reply, async_client, async_reply
    asyncio.run(async_client.close())
    with reply, client:
        pass
    async_reply.cancel()
    del client, session, reply, async_client, async_reply
    gc.collect()
    return "dropped"

client = outrider.Client(address)
session = client.create_session()
reply = session.generate("hi")
next(reply)
async_client = outrider.AsyncClient(address)
loop = asyncio.new_event_loop()
async_reply = loop.run_until_complete(begin())
print(*forked(drop))
print(*forked(drop, sys.exit))
print(loop.run_until_complete(async_client.describe()).version, client.describe().version)
loop.run_until_complete(async_client.close())
loop.close()
"""
    assert said(script, address) == ["dropped 0", "dropped 0", "1.2.3 1.2.3"]


def test_an_async_client_connects_anew_on_another_loop_once_the_first_is_closed(address):
    script = """
client = outrider.AsyncClient(address)

async def begin():
    reply = (await client.create_session()).generate("hi")
    await anext(reply)
    return reply

async def read(reply):
    try:
        return (await reply.read()).text
    except outrider.UsageError as error:
        return error.message

async def both():
    session = await client.open_session("s0")
    print(await asyncio.to_thread(asyncio.run, read(session.generate("hi"))))

reply = [asyncio.run(begin()) for _ in range(40)][-1]
print(asyncio.run(read(reply)))
print(asyncio.run(client.describe()).version)
asyncio.run(both())
asyncio.run(client.close())
"""
    assert said(script, address) == [
        "the reply was begun on another event loop; session.attach() goes on with its turn",
        "1.2.3",
        "the client is in use on another event loop: make one for each event loop",
    ]


def test_a_dropped_client_gives_its_thread_and_its_descriptors_back(address):
    script = """
def loops():
    return [thread for thread in threading.enumerate() if thread.name == "outrider-client"]

def descriptors():
    return len(os.listdir("/dev/fd"))

turn()
before = descriptors()
outrider.Client(address)
sessions = [outrider.Client(address).create_session() for _ in range(20)]
print(len(loops()), sum(len(session.generate("hi").read().text) for session in sessions))
ending = loops()
next(sessions[0].generate("hi"))
del sessions
for thread in ending:
    thread.join(20)
print(len(loops()), descriptors() - before < 20)  # gRPC's own few are closed a little later
"""
    assert said(script, address) == ["20 120", "0 True"]
