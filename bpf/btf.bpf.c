/* btf.bpf.c: the probes as BTF-typed tracepoints. The kernel hands over its own pointers and checks each load, so nothing
 * is copied first and tracefs is not needed. OFF_* are byte offsets of struct members, read from the running kernel's
 * BTF when the program is loaded: headers of another kernel will do.
 *
 * Each function's name after on_ is the tracepoint's. Arguments as in include/trace/events/{filemap,readahead,sched,writeback}.h,
 * fs/fuse/fuse_trace.h and fs/iomap/trace.h. */
#include <linux/types.h>

#define LOAD(type, base, offset) (*(type *)((char *)(base) + (offset)))

#include "books.h"
#include "writes.h"
#include "waits.h"

static __always_inline u32 parent_pid(void)
{
	u64 task = bpf_get_current_task(), parent = 0;
	u32 pid = 0;

	bpf_probe_read_kernel(&parent, sizeof parent, (void *)(task + OFF_TASK_REAL_PARENT));
	bpf_probe_read_kernel(&pid, sizeof pid, (void *)(parent + OFF_TASK_TGID));
	return pid;
}

static __always_inline u32 session_id(void)
{
	u32 number = 0;
#ifdef OFF_TASK_SIGNAL
	u64 at = bpf_get_current_task();

	bpf_probe_read_kernel(&at, sizeof at, (void *)(at + OFF_TASK_SIGNAL));
	bpf_probe_read_kernel(&at, sizeof at, (void *)(at + OFF_SIGNAL_SESSION));
	bpf_probe_read_kernel(&number, sizeof number, (void *)(at + OFF_PID_NUMBER));
#endif
	return number;
}

#ifdef SWP_FOLIOS
/* Pages of the page cache's folio that holds `page`, 1 if there is none. As xas_load does (lib/xarray.c): an entry whose
 * lowest bits are 10 is a node's address, or, where the highest is 0, the number of the slot that holds the entry of
 * several; the root's node may end before the page. Read as the kernel reads it, under RCU. Nearly without branches, which
 * the verifier would follow in all of what comes after. */
static __always_inline u64 folio_pages(u64 mapping, u64 page)
{
	u64 entry = 0, flags = 0, first = 0, at, large, slot, sibling;
	u8 shift = 0;

	bpf_probe_read_kernel(&entry, sizeof entry, (void *)(mapping + OFF_MAPPING_ROOT));
#pragma clang loop unroll(disable)
	for (int i = 0; i < 6; i++) { /* 2^36 pages */
		if (!(entry >> 63 & entry >> 1 & ~entry & 1))
			break;
		at = entry - 2;
		bpf_probe_read_kernel(&shift, sizeof shift, (void *)(at + OFF_NODE_SHIFT));
		at += OFF_NODE_SLOTS;
		slot = page >> (shift & 63) & 63;
		bpf_probe_read_kernel(&entry, sizeof entry, (void *)(at + 8 * slot));
		sibling = 0 - (~entry >> 63 & entry >> 1 & 1);
		asm volatile("" : "+r"(sibling));
		slot = (entry >> 2 & sibling) | (slot & ~sibling);
		bpf_probe_read_kernel(&entry, sizeof entry, (void *)(at + 8 * (slot & 63)));
	}
	/* What is no folio's address cannot be read, and stays 0; a small folio's _flags_1 is not its own. */
	bpf_probe_read_kernel(&flags, sizeof flags, (void *)(entry + OFF_FOLIO_FLAGS));
	large = 0 - (flags >> PG_HEAD & 1);
	asm volatile("" : "+r"(large));
	bpf_probe_read_kernel(&flags, sizeof flags, (void *)(entry + OFF_FOLIO_FLAGS_1));
	bpf_probe_read_kernel(&first, sizeof first, (void *)(entry + OFF_FOLIO_INDEX));
	large &= 0 - ((page - first) >> (flags & 31) == 0);
	asm volatile("" : "+r"(large));
	return 1ull << (flags & large & 31);
}
#endif

#define PF_KTHREAD 0x00200000 /* include/linux/sched.h */

static __always_inline int is_kernel_thread(void)
{
	u64 task = bpf_get_current_task();
	u32 flags = 0;

	bpf_probe_read_kernel(&flags, sizeof flags, (void *)(task + OFF_TASK_FLAGS));
	return (flags & PF_KTHREAD) != 0;
}

#define INODE(mapping) LOAD(char *, mapping, OFF_MAPPING_HOST)
#define DEV(inode) LOAD(u32, LOAD(char *, inode, OFF_INODE_SB), OFF_SB_DEV)
#define INO(inode) LOAD(u64, inode, OFF_INODE_INO)
#define SIZE(inode) LOAD(u64, inode, OFF_INODE_SIZE)

int on_mm_filemap_get_pages(u64 *ctx)
{
	char *inode = INODE(ctx[0]);
	u32 zero = 0;
	u64 *n = calls.lookup(&zero);

	if (n)
		++*n;
	return on_read(DEV(inode), INO(inode), ctx[1], ctx[2], SIZE(inode), 0);
}

int on_mm_filemap_map_pages(u64 *ctx)
{
	char *inode = INODE(ctx[0]);

	return on_map(DEV(inode), INO(inode), ctx[1], ctx[2], SIZE(inode), ctx[0]);
}

int on_mm_filemap_fault(u64 *ctx)
{
	char *inode = INODE(ctx[0]);

	return on_fault(DEV(inode), INO(inode), ctx[1], SIZE(inode), ctx[0]);
}

int on_page_cache_sync_ra(u64 *ctx)
{
	char *inode = (char *)ctx[0];

	return on_miss(DEV(inode), INO(inode), ctx[1], 0);
}

int on_page_cache_async_ra(u64 *ctx)
{
	char *inode = (char *)ctx[0];

	return on_ahead(DEV(inode), INO(inode), ctx[1]);
}

int on_page_cache_ra_order(u64 *ctx)
{
	char *inode = (char *)ctx[0];

	return on_miss(DEV(inode), INO(inode), ctx[1], 1);
}

int on_sched_switch(u64 *ctx)
{
	return on_switch(LOAD(u32, ctx[1], OFF_TASK_PID), SWITCH_STATE, LOAD(u32, ctx[2], OFF_TASK_PID));
}

#ifndef SWP_NO_DIRECT
int on_iomap_dio_rw_begin(u64 *ctx)
{
	char *inode = INODE(LOAD(char *, LOAD(char *, ctx[0], OFF_KIOCB_FILE), OFF_FILE_MAPPING));

	return on_direct(DEV(inode), INO(inode), LOAD(u64, ctx[0], OFF_KIOCB_POS), LOAD(u64, ctx[1], OFF_ITER_COUNT),
			 SIZE(inode), LOAD(u8, ctx[1], OFF_ITER_SOURCE) /* a write */);
}
#endif

#ifndef SWP_NO_WRITES
/* include/linux/mm.h, folio_large_order */
static __always_inline u64 folio_bytes(char *folio)
{
	if (!(LOAD(u64, folio, OFF_FOLIO_FLAGS) >> PG_HEAD & 1))
		return SWP_PAGE_BYTES;
	return (u64)SWP_PAGE_BYTES << (LOAD(u64, folio, OFF_FOLIO_FLAGS_1) & 0xff);
}

int on_writeback_dirty_folio(u64 *ctx)
{
	char *inode;

	if (!ctx[1]) /* no mapping */
		return 0;
	inode = INODE(ctx[1]);
	return on_write(DEV(inode), INO(inode), 0, folio_bytes((char *)ctx[0]));
}
#endif

#ifndef SWP_NO_FUSE /* a module: its types are not in the kernel's own BTF */
int on_fuse_request_send(u64 *ctx)
{
	char *connection = LOAD(char *, LOAD(char *, ctx[0], OFF_REQ_MOUNT), OFF_FUSE_MOUNT_CONN);

	return on_request(ctx[0], LOAD(u32, connection, OFF_CONN_DEV), LOAD(u32, ctx[0], OFF_REQ_OPCODE),
			  LOAD(u32, ctx[0], OFF_REQ_LENGTH), LOAD(u64, ctx[0], OFF_REQ_NODEID),
			  LOAD(u32, ctx[0], OFF_REQ_SENDER));
}

int on_fuse_request_end(u64 *ctx)
{
	return on_reply(ctx[0]);
}
#endif

int on_sched_process_fork(u64 *ctx)
{
	u32 pid = LOAD(u32, ctx[1], OFF_TASK_PID);

	return pid == LOAD(u32, ctx[1], OFF_TASK_TGID) ? on_fork(LOAD(u32, ctx[0], OFF_TASK_TGID), pid) : 0;
}

int on_sched_process_exec(u64 *ctx)
{
	return on_exec();
}

int on_sched_process_exit(u64 *ctx)
{
	return on_exit();
}
