"""The probes' programs: which tracepoints each way of probing takes, and what it needs to be compiled.

The ways, best first; ``bpf/README.md`` has what each costs and sees:

    btf         BTF-typed tracepoints: the kernel's own pointers, no copy, no tracefs (BTF, kernel 5.5 on)
    tracepoint  the same tracepoints by their formatted fields: slower, file sizes are not known
    fentry      functions of the page cache, for kernels without a tracepoint of reads (before 6.10)
    kprobe      the same functions by breakpoint
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from swmld.errors import HostError
from swmld.observe.btf import Btf

WAYS = ("btf", "tracepoint", "fentry", "kprobe")

READS = ("mm_filemap_get_pages", "mm_filemap_map_pages", "mm_filemap_fault", "page_cache_sync_ra")
"""Without these a way does not work."""
SWITCHED = READS[0]
"""The only event that may come so often that a look at each costs too much: it is detached for a part of the
time then (``budget.py``)."""
EXTRAS = (
    "page_cache_async_ra", "page_cache_ra_order", "sched_switch", "fuse_request_send", "fuse_request_end",
    "sched_process_fork", "sched_process_exec", "sched_process_exit", "iomap_dio_rw_begin",
    "writeback_dirty_folio",
)  # fmt: skip
"""These add that short reads which are torn count once, misses of page faults, waits, processes that end,
O_DIRECT of what is passed through, and writes; a kernel may lack some.
"""

FUNCTIONS = ("filemap_read", "filemap_map_pages", "filemap_fault", "page_cache_sync_ra")
"""What fentry and kprobe take instead of READS."""

SIZES = {
    "SWP_WATCHED": 524288,  # 200,000 backing files are kept registered, and those that are open
    "SWP_CURSORS": 65536,  # a power of 2. 21 MB: new files that are begun within two seconds
    "SWP_HINT_BITS": 14,  # 16,384 streams are found without a look into a hash, if they do not collide
    "SWP_THREADS": 16384,
    "SWP_PROCESSES": 8192,
    "SWP_STRANGERS": 4096,  # processes that ask for names and have read nothing yet
    "SWP_RING_PAGES": 512,  # 2 MiB: 26,000 events, a second of small files
}
"""Sizes of the maps, in elements (ring: pages; hints: as a power of 2). Most take memory only when used."""

QUICKLY = ("-Xclang", "-disable-llvm-passes")
"""How the typed tracepoints are compiled: without clang's passes. bcc lets LLVM make its own afterwards, so
the programs are the same but for one instruction in a hundred, in two thirds of the time."""

_OFFSETS = {
    "OFF_MAPPING_HOST": ("address_space", "host", 0),
    "OFF_INODE_INO": ("inode", "i_ino", 0),
    "OFF_INODE_SB": ("inode", "i_sb", 0),
    "OFF_INODE_SIZE": ("inode", "i_size", 0),
    "OFF_SB_DEV": ("super_block", "s_dev", 0),
    "OFF_TASK_PID": ("task_struct", "pid", 0),
    "OFF_TASK_TGID": ("task_struct", "tgid", 0),
    "OFF_TASK_FLAGS": ("task_struct", "flags", 0),
    "OFF_TASK_REAL_PARENT": ("task_struct", "real_parent", 0),
}
_SESSION_OFFSETS = {
    "OFF_TASK_SIGNAL": ("task_struct", "signal"),
    "OFF_SIGNAL_SESSION": ("signal_struct", "pids"),  # an element for each enum pid_type, since 4.19
    "OFF_PID_NUMBER": ("pid", "numbers"),  # the first is that of the initial namespace
}
_FUSE_OFFSETS = {
    "OFF_REQ_MOUNT": ("fuse_req", "fm", 0),
    "OFF_FUSE_MOUNT_CONN": ("fuse_mount", "fc", 0),
    "OFF_CONN_DEV": ("fuse_conn", "dev", 0),
    # struct fuse_in_header of include/uapi/linux/fuse.h: len, opcode, unique, nodeid, uid, gid, pid
    "OFF_REQ_LENGTH": ("fuse_req", "in", 0),
    "OFF_REQ_OPCODE": ("fuse_req", "in", 4),
    "OFF_REQ_NODEID": ("fuse_req", "in", 16),
    "OFF_REQ_SENDER": ("fuse_req", "in", 32),
}
_CALL_OFFSETS = {
    "OFF_KIOCB_POS": ("kiocb", "ki_pos", 0),
    "OFF_KIOCB_FILE": ("kiocb", "ki_filp", 0),
    "OFF_ITER_COUNT": ("iov_iter", "count", 0),
    "OFF_FILE_MAPPING": ("file", "f_mapping", 0),
}
_DIRECT_OFFSETS = _CALL_OFFSETS | {"OFF_ITER_SOURCE": ("iov_iter", "data_source", 0)}
_FOLIO_OFFSETS = {
    "OFF_FOLIO_FLAGS": ("folio", "flags"),
    "OFF_FOLIO_FLAGS_1": ("folio", "_flags_1"),  # its lowest byte is the order, since 6.6
}
_TREE_OFFSETS = {
    "OFF_MAPPING_ROOT": ("address_space", "i_pages"),
    "OFF_NODE_SHIFT": ("xa_node", "shift"),
    "OFF_NODE_SLOTS": ("xa_node", "slots"),  # 64 of them, but for CONFIG_BASE_SMALL
    "OFF_FOLIO_INDEX": ("folio", "index"),
}
_FUNCTION_OFFSETS = _CALL_OFFSETS | {
    "OFF_FAULT_VMA": ("vm_fault", "vma", 0),
    "OFF_FAULT_PAGE": ("vm_fault", "pgoff", 0),
    "OFF_VMA_FILE": ("vm_area_struct", "vm_file", 0),
    "OFF_RACTL_MAPPING": ("readahead_control", "mapping", 0),
    "OFF_RACTL_INDEX": ("readahead_control", "_index", 0),
}


def directory() -> Path:
    """Where the sources are: in the checkout, else where the package put them."""
    for place in (Path(__file__).resolve().parents[3] / "bpf", Path(sys.prefix) / "share/swmld/bpf"):
        if (place / "swmld.h").exists():
            return place
    raise HostError("the sources of the probes are missing: install swmld anew")


def source(name: str) -> str:
    """One program with its own headers in place: bcc rewrites map accesses in the main file alone.

    ``#line`` keeps the compiler's messages right.
    """
    return _flat(directory() / name, set())


def _flat(path: Path, seen: set[Path]) -> str:
    seen.add(path)
    out = [f'#line 1 "{path.name}"']
    for number, line in enumerate(path.read_text().splitlines(), 1):
        included = re.match(r'#include "(.+)"', line)
        if included is None:
            out.append(line)
            continue
        other = path.parent / included[1]
        if other not in seen:
            out.append(_flat(other, seen))
        out.append(f'#line {number + 1} "{path.name}"')
    return "\n".join(out)


def defines(way: str, btf: Btf | None) -> dict[str, str]:
    """What a program of this way is compiled with. Raises HostError if this kernel has no such layout."""
    found = {name: str(value) for name, value in SIZES.items()}
    if _release() >= (5, 6):
        found["SWP_JIFFIES"] = "1"
    if way == "tracepoint":
        return found
    if btf is None:
        raise HostError("the kernel was built without BTF")
    wanted = dict(_OFFSETS)
    found |= _of_sessions(btf)
    if way == "btf":
        # Since 5.18 (fa2c3254d7cf): (preempt, prev, next, prev_state).
        found["SWITCH_STATE"] = "((u32)ctx[3])" if (btf.params("btf_trace_sched_switch") or 0) >= 4 else "0"
        if btf.typedef("btf_trace_iomap_dio_rw_begin") is not None:  # since 6.6, data_source since 6.0
            wanted |= _DIRECT_OFFSETS
        else:
            found["SWP_NO_DIRECT"] = "1"
        found |= _of_writes(btf)
        if "PG_HEAD" in found:
            found |= _of_folios(btf)
        if has_fuse(btf):
            wanted |= _FUSE_OFFSETS
        else:
            found["SWP_NO_FUSE"] = "1"
    else:
        wanted |= _FUNCTION_OFFSETS
        found[f"SWP_{way.upper()}"] = "1"
    return found | {name: str(btf.offset(a, b) + more) for name, (a, b, more) in wanted.items()}


def _of_sessions(btf: Btf) -> dict[str, str]:
    """Where a process's session is: nothing but the jobs of short commands depends on it."""
    kind = btf.enumerator("pid_type", "PIDTYPE_SID")
    try:
        found = {name: btf.offset(a, b) for name, (a, b) in _SESSION_OFFSETS.items()}
    except HostError:
        return {}
    if kind is None:
        return {}
    found["OFF_SIGNAL_SESSION"] += 8 * kind
    return {name: str(value) for name, value in found.items()}


def _of_writes(btf: Btf) -> dict[str, str]:
    """How large a folio is. Its layout changes between kernels: without it reads are seen all the same."""
    head = btf.enumerator("pageflags", "PG_head")
    try:
        offsets = {name: str(btf.offset(a, b)) for name, (a, b) in _FOLIO_OFFSETS.items()}
    except HostError:
        offsets = {}
    if head is None or not offsets or btf.typedef("btf_trace_writeback_dirty_folio") is None:
        return {"SWP_NO_WRITES": "1"}
    return offsets | {"PG_HEAD": str(head), "SWP_PAGE_BYTES": str(os.sysconf("SC_PAGESIZE"))}


def _of_folios(btf: Btf) -> dict[str, str]:
    """Where the page cache's tree has its folios: from 6.18 on a fault maps whole ones."""
    if _release() < (6, 18):
        return {}
    try:
        found = {name: btf.offset(a, b) for name, (a, b) in _TREE_OFFSETS.items()}
        found["OFF_MAPPING_ROOT"] += btf.offset("xarray", "xa_head")
        slots = (btf.offset("xa_node", "marks") - found["OFF_NODE_SLOTS"]) // 8
    except HostError:
        return {}
    if slots != 64:
        return {}
    return {"SWP_FOLIOS": "1"} | {name: str(value) for name, value in found.items()}


def has_fuse(btf: Btf) -> bool:
    """Whether FUSE is built in: a module's types are not in the kernel's own BTF."""
    return btf.typedef("btf_trace_fuse_request_send") is not None


def _release() -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])
