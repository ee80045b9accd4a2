"""The io_uring engine: the one file that talks to a ring, and through plain ring calls alone.

How it fits into trio: a ``read`` or ``write`` queues an operation and parks its task. The first one of a
loop turn wakes the submitter task, which runs in the next turn and so takes all that were queued in this one
with a single ``io_uring_submit``. Completions raise a registered eventfd; the reaper task waits for it and
wakes the parked tasks. Ring calls are made in the loop's thread alone.

Every operation carries IOSQE_ASYNC: buffered I/O may otherwise run inside ``io_uring_submit`` and block the
event loop for as long as the source takes. The kernel then runs it in its own worker threads (io-wq).

The binding gives no call for a plain address, so each operation is a vector of one: the vector's memory must
live until submit (IORING_FEAT_SUBMIT_STABLE), the buffer's until completion.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections import deque

import liburing as ring_calls
import outcome
import trio

from swmld.fetch.buffers import Buffer
from swmld.fetch.engine import TransferLoop, os_error

SQ_ENTRIES = 256
"""Submission entries. The completion queue has twice as many, and at most SQ_ENTRIES operations are in the
kernel, each with at most one cancel: so completions never overflow. 256 is eight times the default of
parallel reads."""

WORKERS_PER_PARALLEL = 2
"""io-wq workers per parallel transfer: as many may hang at a dead source while as many more go on."""

BUSY_PAUSE = 0.005
"""Seconds before submitting again when the kernel refuses for want of memory (EAGAIN, EBUSY)."""

_CANCEL = 0  # user_data of cancel requests, whose own completions say nothing of interest
_IORING_REGISTER_IOWQ_MAX_WORKERS = 19  # linux/io_uring.h
_SYS_IO_URING_REGISTER = 427  # the same number on every architecture


class _Operation:
    __slots__ = ("buffer", "fd", "number", "offset", "task", "vector", "writing")

    def __init__(self, writing: bool, fd: int, buffer: Buffer, offset: int) -> None:
        self.writing = writing
        self.fd = fd
        self.buffer = buffer
        self.offset = offset
        self.number = 0
        self.vector: ring_calls.Iovec | None = None
        self.task: trio.lowlevel.Task | None = None


class UringEngine(TransferLoop):
    """``Engine`` on one ring. Make it in the loop's thread; ``OSError`` where the kernel refuses a ring."""

    name = "uring"

    def __init__(self, *, parallel: int = 32) -> None:
        self._ring = ring_calls.Ring()
        ring_calls.io_uring_queue_init(SQ_ENTRIES, self._ring)
        self._eventfd = -1
        try:
            self._eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            ring_calls.io_uring_register_eventfd(self._ring, self._eventfd)
            _set_workers(self._ring.ring_fd, WORKERS_PER_PARALLEL * parallel + 4)
        except OSError:
            self.close()
            raise
        self._cqe = ring_calls.Cqe()
        self._numbers = 0
        self._waiting: deque[_Operation] = deque()
        self._cancels: deque[int] = deque()
        self._kernel: dict[int, _Operation] = {}
        self._submitter: trio.lowlevel.Task | None = None
        self._closed = False

    @property
    def in_flight(self) -> int:
        """Operations that the kernel has, those of cancelled callers included."""
        return len(self._kernel)

    async def transfer(
        self, writing: bool, fd: int, buffer: Buffer, start: int, length: int, offset: int
    ) -> int:
        """See ``TransferLoop.transfer``."""
        if self._closed:
            raise os_error(errno.ESHUTDOWN)
        await trio.lowlevel.checkpoint_if_cancelled()
        operation = _Operation(writing, fd, buffer, offset)
        operation.vector = ring_calls.Iovec([buffer.view[start : start + length]])
        operation.task = trio.lowlevel.current_task()
        buffer.hold()
        self._waiting.append(operation)
        self._wake_submitter()

        def abandon(_: object) -> trio.lowlevel.Abort:
            self._abandon(operation)
            return trio.lowlevel.Abort.SUCCEEDED

        result: int = await trio.lowlevel.wait_task_rescheduled(abandon)
        if result < 0:
            raise os_error(-result)
        return result

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve transfers until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._submit_loop)
            nursery.start_soon(self._reap_loop)
            task_status.started()

    def close(self) -> None:
        """Close the ring. The kernel cancels what it can; buffers of the rest must never be freed (they stay
        held, so ``BufferPool.close`` leaves them)."""
        self._closed = True
        if self._ring.ring_fd > 0:
            ring_calls.io_uring_queue_exit(self._ring)
        if self._eventfd >= 0:
            os.close(self._eventfd)
            self._eventfd = -1

    # ---- submitting

    def _wake_submitter(self) -> None:
        task, self._submitter = self._submitter, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    def _abandon(self, operation: _Operation) -> None:
        operation.task = None
        if operation.number:
            self._cancels.append(operation.number)
            self._wake_submitter()
        else:
            self._waiting.remove(operation)
            operation.buffer.drop()

    async def _submit_loop(self) -> None:
        def stop(_: object) -> trio.lowlevel.Abort:
            self._submitter = None
            return trio.lowlevel.Abort.SUCCEEDED

        while True:
            if not self._submit():
                await trio.sleep(BUSY_PAUSE)
                continue
            self._submitter = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(stop)

    def _submit(self) -> bool:
        """Hand over what is queued; False if the kernel would not take it now."""
        ring = self._ring
        while self._fill():
            # A submit stops behind an entry that fails at once, so it may take several.
            while ring_calls.io_uring_sq_ready(ring):
                try:
                    if ring_calls.io_uring_submit(ring) == 0:
                        return False
                except OSError as error:
                    if error.errno not in (errno.EAGAIN, errno.EBUSY, errno.EINTR):
                        raise
                    return False
        return True

    def _fill(self) -> bool:
        """Move what is queued into free entries; True if any entry waits to be submitted."""
        ring = self._ring
        while self._cancels and (entry := ring_calls.io_uring_get_sqe(ring)) is not None:
            ring_calls.io_uring_prep_cancel64(entry, self._cancels.popleft(), 0)
            entry.user_data = _CANCEL
        while self._waiting and len(self._kernel) < SQ_ENTRIES and self._prepare(self._waiting[0]):
            self._waiting.popleft()
        return bool(ring_calls.io_uring_sq_ready(ring))

    def _prepare(self, operation: _Operation) -> bool:
        entry = ring_calls.io_uring_get_sqe(self._ring)
        if entry is None:
            return False
        prepare = ring_calls.io_uring_prep_writev if operation.writing else ring_calls.io_uring_prep_readv
        prepare(entry, operation.fd, operation.vector, operation.offset, 0)
        entry.flags = ring_calls.IOSQE_ASYNC
        self._numbers += 1
        operation.number = entry.user_data = self._numbers
        self._kernel[operation.number] = operation
        return True

    # ---- completing

    async def _reap_loop(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._eventfd)
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._eventfd)
            self._reap()
            if self._waiting:
                self._wake_submitter()

    def _reap(self) -> None:
        ring, cqe = self._ring, self._cqe
        for _ in range(ring_calls.io_uring_cq_ready(ring)):
            ring_calls.io_uring_peek_cqe(ring, cqe)
            entry = cqe[0]
            number = entry.user_data
            try:
                result = entry.res
            except OSError as error:  # the binding raises what the kernel answers
                result = -(error.errno or errno.EIO)
            ring_calls.io_uring_cqe_seen(ring, entry)
            if number != _CANCEL:
                self._complete(self._kernel.pop(number), result)

    def _complete(self, operation: _Operation, result: int) -> None:
        operation.buffer.drop()
        if operation.task is not None:
            trio.lowlevel.reschedule(operation.task, outcome.Value(result))


def _set_workers(ring_fd: int, bounded: int) -> None:
    """Let io-wq run ``bounded`` operations on regular files at once; its default is 4 per CPU.

    The binding cannot pass the pointer that this register call wants. A kernel without it (before 5.15) keeps
    its default, which is slower but correct.
    """
    counts = (ctypes.c_uint * 2)(bounded, 0)  # bounded, unbounded; 0 leaves as it is
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall(
        ctypes.c_long(_SYS_IO_URING_REGISTER),
        ctypes.c_uint(ring_fd),
        ctypes.c_uint(_IORING_REGISTER_IOWQ_MAX_WORKERS),
        counts,
        ctypes.c_uint(2),
    )
