"""Both engines make the same promises; what only one of them does is tested with it at the end."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from support import gates
from swmld.fetch import engine as engine_module
from swmld.fetch import threads
from swmld.fetch.buffers import REST, BufferPool
from swmld.fetch.engine import Engine, make_engine
from swmld.fetch.threads import ThreadEngine

pytestmark = pytest.mark.timeout(60)
KINDS = ("uring", "threads")
CHUNK = 256 << 10


@asynccontextmanager
async def running(kind: str, parallel: int = 8) -> AsyncIterator[Engine]:
    engine: Engine = make_engine(kind, parallel=parallel)  # type: ignore[arg-type]
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            yield engine
            nursery.cancel_scope.cancel()
    finally:
        engine.close()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "uring":
        gates.require("uring")
    return str(request.param)


@pytest.fixture
def pool() -> Iterator[BufferPool]:
    pool = BufferPool(8, CHUNK)
    yield pool
    pool.close()


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., int]]:
    fds: list[int] = []

    def make(name: str, content: bytes = b"", flags: int = 0) -> int:
        path = tmp_path / name
        if not path.exists():
            path.write_bytes(content)
        fds.append(os.open(path, os.O_RDWR | flags))
        return fds[-1]

    yield make
    for fd in fds:
        os.close(fd)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def run(test: Callable[[], object]) -> None:
    async def limited() -> None:
        with trio.fail_after(30):
            await test()  # type: ignore[misc]

    trio.run(limited)


def test_read_write_and_end_of_file(kind: str, pool: BufferPool, opened: Callable[..., int]) -> None:
    content = os.urandom(10_000)
    source, copy = opened("source", content), opened("copy")

    async def test() -> None:
        async with running(kind) as engine:
            buffer = await pool.get(20_000)
            assert await engine.read(source, buffer, 100, 5_000, 2_000) == 5_000
            assert bytes(buffer.view[100:5_100]) == content[2_000:7_000]
            assert await engine.read(source, buffer, 0, 20_000, 9_000) == 1_000
            assert await engine.read(source, buffer, 0, 20_000, 10_000) == 0
            assert await engine.read(source, buffer, 0, 10_000, 0) == 10_000
            await engine.write(copy, buffer, 0, 10_000, 7)
            assert buffer.holds == 0
            pool.put(buffer)

    run(test)
    assert os.pread(copy, 20_000, 0) == bytes(7) + content


def test_put_writes_everything_in_steps(
    kind: str, opened: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that takes less than it is offered gets the rest."""
    content = os.urandom(2 * engine_module.AT_ONCE + 5_000)
    copy = opened("copy")
    asked: list[int] = []

    def some(fd: int, data: memoryview, offset: int) -> int:
        asked.append(len(data))
        return pwrite(fd, data[: len(data) - len(asked) % 2], offset)

    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", some)

    async def test() -> None:
        async with running(kind) as engine:
            engine.put(copy, memoryview(content), 7)
            with pytest.raises(OSError) as caught:
                engine.put(-1, memoryview(content), 0)
            assert caught.value.errno == errno.EBADF

    run(test)
    assert os.pread(copy, len(content) + 100, 0) == bytes(7) + content
    assert max(asked) == engine_module.AT_ONCE


def test_errors_are_oserrors(kind: str, pool: BufferPool, opened: Callable[..., int], tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)

    async def test() -> None:
        async with running(kind) as engine:
            buffer = await pool.get(4096)
            with pytest.raises(IsADirectoryError):
                await engine.read(directory, buffer, 0, 10, 0)
            with pytest.raises(OSError) as caught:
                await engine.write(directory, buffer, 0, 10, 0)
            assert caught.value.errno == errno.EBADF
            assert buffer.holds == 0

    run(test)
    os.close(directory)


def test_direct_read_of_an_odd_tail(kind: str, pool: BufferPool, opened: Callable[..., int]) -> None:
    content = os.urandom(4096 * 3 + 123)
    source = opened("source", content, os.O_DIRECT)

    async def test() -> None:
        async with running(kind) as engine:
            buffer = await pool.get(4096 * 4)
            count = await engine.read(source, buffer, 0, 4096 * 4, 0, minimum=len(content))
            assert bytes(buffer.view[:count]) == content
            with pytest.raises(OSError) as caught:
                await engine.read(source, buffer, 0, 100, 1)
            assert caught.value.errno == errno.EINVAL

    run(test)


def test_many_at_once(kind: str, pool: BufferPool, opened: Callable[..., int]) -> None:
    """More than the submission queue holds, all in one loop turn."""
    content = os.urandom(CHUNK)
    source = opened("source", content)
    count = 1500
    wrong: list[int] = []

    async def test() -> None:
        async with running(kind, parallel=4) as engine:
            buffer = await pool.get(CHUNK)
            step = 128

            async def one(number: int) -> None:
                at = number * step
                if await engine.read(source, buffer, at, step, at) != step:
                    wrong.append(number)

            async with trio.open_nursery() as nursery:
                for number in range(count):
                    nursery.start_soon(one, number)
            assert bytes(buffer.view[: count * step]) == content[: count * step]
            assert buffer.holds == 0

    run(test)
    assert not wrong


def test_read_before_run_waits_for_it(kind: str, pool: BufferPool, opened: Callable[..., int]) -> None:
    source = opened("source", b"early")

    async def test() -> None:
        engine = make_engine(kind)  # type: ignore[arg-type]
        buffer = await pool.get(10)
        async with trio.open_nursery() as nursery:

            async def early() -> None:
                assert await engine.read(source, buffer, 0, 5, 0) == 5
                nursery.cancel_scope.cancel()

            nursery.start_soon(early)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(engine.run)
        engine.close()
        assert bytes(buffer.view[:5]) == b"early"

    run(test)


def test_uring_cancel_quarantines_the_buffer(pool: BufferPool, pipe: tuple[int, int]) -> None:
    """An empty pipe blocks a read for ever; the cancel that follows the caller's makes the kernel let go."""
    gates.require("uring")

    async def test() -> None:
        async with running("uring") as engine:
            buffer = await pool.get(4096)
            freed = trio.Event()
            buffer.when_idle(freed.set)

            async def read() -> None:
                try:
                    await engine.read(pipe[0], buffer, 0, 10, 0)
                finally:
                    pool.put(buffer)
                    assert (pool.quarantined, pool.stuck, pool.lent) == (1, 1, buffer.size)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            await freed.wait()
            assert (pool.quarantined, pool.stuck, pool.lent) == (0, 0, 0)

    run(test)


def test_uring_buffer_waits_for_what_cannot_be_cancelled(
    pool: BufferPool, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a read that sleeps in the kernel uninterruptibly: cancelling does nothing, its bytes come late."""
    gates.require("uring")
    from swmld.fetch import uring

    def prep_nop(entry: object, *_: object) -> None:
        uring.ring_calls.io_uring_prep_nop(entry)

    monkeypatch.setattr(uring.ring_calls, "io_uring_prep_cancel64", prep_nop)

    async def test() -> None:
        async with running("uring") as engine:
            held = await pool.get(4096)
            held.view[:4] = b"----"
            freed = trio.Event()
            held.when_idle(freed.set)
            with trio.move_on_after(0.01):
                await engine.read(pipe[0], held, 0, 4, 0)
            pool.put(held)
            # Other reads go on, and never into the buffer that the kernel still has.
            other = await pool.get(4096)
            assert other is not held
            assert pool.quarantined == 1
            os.write(pipe[1], b"late")
            await freed.wait()
            assert bytes(held.view[:4]) == b"late"
            assert pool.quarantined == 0

    run(test)


def test_uring_cancelled_before_submit_never_reaches_the_kernel(
    pool: BufferPool, opened: Callable[..., int]
) -> None:
    gates.require("uring")
    source = opened("source", b"x" * 10)

    async def test() -> None:
        async with running("uring") as engine:
            buffer = await pool.get(10)
            with trio.CancelScope() as scope:
                scope.cancel()
                await engine.read(source, buffer, 0, 10, 0)
            assert scope.cancelled_caught
            assert buffer.holds == 0
            assert engine.in_flight == 0  # type: ignore[attr-defined]

    run(test)


def test_cancelled_while_it_waits_never_reaches_the_kernel(
    kind: str, pool: BufferPool, opened: Callable[..., int]
) -> None:
    source = opened("source", b"x" * 10)

    async def test() -> None:
        engine = make_engine(kind)  # type: ignore[arg-type]
        buffer = await pool.get(10)
        buffer.view[:4] = b"----"
        if kind == "threads":
            engine._workers._limit = 0  # no thread takes it
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.read, source, buffer, 0, 10, 0)
            await trio.testing.wait_all_tasks_blocked()
            assert buffer.holds == 1
            nursery.cancel_scope.cancel()
        assert buffer.holds == 0
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            if kind == "threads":
                engine._workers._limit = 1
            other = await pool.get(10)
            assert await engine.read(source, other, 0, 10, 0) == 10
            assert engine.in_flight == 0
            nursery.cancel_scope.cancel()
        engine.close()
        assert (buffer.holds, bytes(buffer.view[:4])) == (0, b"----")

    run(test)


def test_threads_cancel_quarantines_the_buffer(
    pool: BufferPool, opened: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = opened("source", b"x" * 10)
    begun, go = threading.Event(), threading.Event()
    preadv = os.preadv

    def hanging(*arguments: object) -> int:
        begun.set()
        go.wait(20)
        return preadv(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(threads.os, "preadv", hanging)

    async def test() -> None:
        async with running("threads") as engine:
            buffer = await pool.get(10)
            freed = trio.Event()
            buffer.when_idle(freed.set)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(engine.read, source, buffer, 0, 10, 0)
                await trio.to_thread.run_sync(begun.wait)
                nursery.cancel_scope.cancel()
            pool.put(buffer)
            assert (pool.quarantined, pool.stuck) == (1, 1)
            go.set()
            await freed.wait()
            assert (pool.quarantined, pool.stuck) == (0, 0)

    run(test)


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.EINTR])
def test_again_and_interrupted_are_tried_again(pool: BufferPool, code: int) -> None:
    class Flaky(engine_module.TransferLoop):
        def __init__(self) -> None:
            self.answers = [-code, -code, 3, 0]

        async def transfer(self, *_: object) -> int:  # type: ignore[override]
            answer = self.answers.pop(0)
            if answer < 0:
                raise OSError(code, "")
            return answer

    async def test() -> None:
        buffer = await pool.get(10)
        engine = Flaky()
        assert await engine.read(0, buffer, 0, 10, 0) == 3
        engine.answers = [4, -code, 6]
        await engine.write(0, buffer, 0, 10, 0)
        engine.answers = [5, 0]
        with pytest.raises(OSError) as caught:
            await engine.write(0, buffer, 0, 10, 0)
        assert caught.value.errno == errno.EIO
        if code == errno.EAGAIN:
            engine.answers = [-code] * 100
            with pytest.raises(BlockingIOError):
                await engine.read(0, buffer, 0, 10, 0)

    trio.run(test, clock=trio.testing.MockClock(autojump_threshold=0))


def test_without_a_ring_auto_takes_threads_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from swmld.fetch import uring

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "refused")

    monkeypatch.setattr(uring.ring_calls, "io_uring_queue_init", refuse)
    with caplog.at_level(logging.WARNING):
        engine = make_engine("auto")
    assert isinstance(engine, ThreadEngine)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    with pytest.raises(PermissionError):
        make_engine("uring")


def test_a_pool_gives_back_what_nobody_used() -> None:
    pool = BufferPool(4, 1 << 20)
    burst = [pool.try_get() for _ in range(4)]
    for buffer in burst:
        assert buffer is not None
        pool.put(buffer)
    small = pool.try_get(100)  # makes way for one of the four
    assert small is not None
    used = (3 << 20) + small.size

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.run)
            await trio.sleep(REST + 0.1)
            assert pool.allocated == used, "used since the last look"
            await trio.sleep(REST)
            assert pool.allocated == small.size
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    buffer = pool.try_get()
    assert buffer is not None
    buffer.view[-1] = 1
    for kept in (small, buffer):
        pool.put(kept)
    pool.close()
    assert pool.allocated == 0


def test_pool_budget_and_classes() -> None:
    pool = BufferPool(2, 1 << 20)
    small = pool.try_get(100)
    assert small is not None
    assert small.size == 64 << 10
    assert pool.try_get(1 << 20) is not None
    assert pool.try_get(1 << 20) is None
    assert pool.try_get(256 << 10, spare=1 << 20) is None
    pool.put(small)
    big = pool.try_get(1 << 20)  # the idle small one is freed for it
    assert big is not None
    assert pool.allocated == pool.budget
    assert pool.lent == pool.budget
    with pytest.raises(ValueError, match="largest"):
        pool.try_get((1 << 20) + 1)
