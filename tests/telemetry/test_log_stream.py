"""Log lines while their reader is slow, stalls, or is gone."""

from __future__ import annotations

import fcntl
import io
import json
import os
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest
import structlog

from tests.support.waiting import wait_until
from worker import log_stream
from worker.log_stream import LogStream, write_at_once
from worker.telemetry.logs import configure_logging

if TYPE_CHECKING:
    from collections.abc import Iterator

LINE = "x" * 99 + "\n"


class Pipe:
    """A pipe whose reader reads only when it is told to."""

    def __init__(self) -> None:
        self.reading, writing = os.pipe()
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
        os.set_blocking(self.reading, False)
        self.stream = os.fdopen(writing, "w")

    def read(self) -> bytes:
        found = b""
        with suppress(BlockingIOError):
            while part := os.read(self.reading, 65536):
                found += part
        return found


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    one = Pipe()
    yield one
    with suppress(OSError):
        os.close(one.reading)
    with suppress(OSError):
        one.stream.close()


@contextmanager
def logging_to(pipe: Pipe, form: str = "json") -> Iterator[LogStream]:
    try:
        yield configure_logging(form=form, stream=pipe.stream)
    finally:
        structlog.reset_defaults()


async def test_no_line_is_lost_while_the_reader_is_slow(pipe: Pipe) -> None:
    stream = LogStream(pipe.stream)
    lines = [f"{number} {LINE}" for number in range(1000)]
    for line in lines:  # the pipe takes about forty
        stream.write(line)
    found = b""

    def all_read() -> bool:
        nonlocal found
        found += pipe.read()
        return len(found) >= len("".join(lines))

    await wait_until(all_read, "all lines were read")
    assert found.decode() == "".join(lines)
    stream.write("after\n")
    assert pipe.read() == b"after\n"


async def test_a_line_longer_than_the_pipe_comes_whole(pipe: Pipe) -> None:
    stream = LogStream(pipe.stream)
    long = "ä" * 100_000 + "\n"
    stream.write(long)
    stream.write("next\n")
    found = b""

    def all_read() -> bool:
        nonlocal found
        found += pipe.read()
        return found.endswith(b"next\n")

    await wait_until(all_read, "the line and the next were read")
    assert found.decode() == long + "next\n"


@pytest.mark.parametrize("form", ["json", "console"])
async def test_lines_that_nobody_takes_are_dropped_and_counted(
    pipe: Pipe, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_stream, "MOST_WAITING", 20_000)
    with logging_to(pipe, form):
        log = structlog.get_logger("worker")
        for number in range(2000):
            log.info("ping", number=number)
        found = b""

        def told() -> bool:
            nonlocal found
            found += pipe.read()
            return b"log.dropped" in found and found.endswith(b"\n")

        await wait_until(told, "the loss was logged")
    lines = found.decode().splitlines()
    kept = [line for line in lines if "ping" in line]
    assert "log.dropped" in lines[-1]
    assert "warning" in lines[-1]
    if form == "json":
        assert [json.loads(line)["number"] for line in kept] == list(range(len(kept)))
        assert json.loads(lines[-1])["lines"] == 2000 - len(kept)


async def test_lines_of_several_threads_stay_whole(pipe: Pipe) -> None:
    stream = LogStream(pipe.stream)

    def write(name: str) -> None:
        for _ in range(200):
            stream.write(name * 50 + "\n")

    threads = [threading.Thread(target=write, args=[name]) for name in "abc"]
    for thread in threads:
        thread.start()
    found = b""

    def all_read() -> bool:
        nonlocal found
        found += pipe.read()
        return found.count(b"\n") == 600

    await wait_until(all_read, "all lines were read")
    for thread in threads:
        thread.join()
    assert all(line == line[:1] * 50 for line in found.decode().splitlines())


async def test_a_reader_that_leaves_while_lines_wait_is_noticed(pipe: Pipe) -> None:
    stream = LogStream(pipe.stream)
    gone: list[bool] = []
    stream.on_reader_gone = lambda: gone.append(True)
    for _ in range(100):
        stream.write(LINE)
    os.close(pipe.reading)
    await wait_until(lambda: stream.reader_gone, "the reader is gone")
    stream.write(LINE)
    stream.finish(5)
    assert gone == [True]


async def test_the_end_waits_for_the_last_lines_but_not_for_ever(pipe: Pipe) -> None:
    stream = LogStream(pipe.stream)
    for _ in range(100):
        stream.write(LINE)
    stream.finish(0.01)  # returns, although nobody reads
    ending = threading.Thread(target=stream.finish, args=[60])
    ending.start()
    found = b""

    def ended() -> bool:
        nonlocal found
        found += pipe.read()
        return not ending.is_alive()

    await wait_until(ended, "it ended")
    assert found + pipe.read() == LINE.encode() * 100


def test_last_words_do_not_wait_for_a_reader(pipe: Pipe) -> None:
    while log_stream.Descriptor(pipe.stream.fileno()).takes_now():
        os.write(pipe.stream.fileno(), b"x" * 4096)
    write_at_once(pipe.stream.fileno(), b"killed\n")
    assert b"killed" not in pipe.read()
    write_at_once(pipe.stream.fileno(), b"killed\n")
    assert pipe.read() == b"killed\n"


def test_a_stream_without_a_descriptor_is_written_directly() -> None:
    text = io.StringIO()
    LogStream(text).write("line\n")
    assert text.getvalue() == "line\n"
