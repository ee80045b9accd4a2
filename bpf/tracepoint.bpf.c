/* tracepoint.bpf.c: the probes as tracepoints with formatted fields, for kernels without BTF. The kernel fills a record
 * for each event first, so a read costs about twice as much as with btf.bpf.c, and a file's size is not among the
 * fields: what is read beyond its end counts as read. writeback_dirty_folio names no device, and a request no file: of
 * writes only the FUSE requests are counted, by process. bcc takes the fields from tracefs. */
#include <linux/types.h>
#include <linux/fuse.h>
#include "books.h"
#include "writes.h"
#include "waits.h"

static __always_inline u32 parent_pid(void)
{
	return 0; /* the daemon asks /proc */
}

static __always_inline u32 session_id(void)
{
	return 0;
}

/* By its name, as far as it matters: these write back dirty pages. */
static __always_inline int is_kernel_thread(void)
{
	union {
		char text[16];
		u64 word;
	} comm = {};

	bpf_get_current_comm(comm.text, sizeof comm.text);
	return (comm.word & 0xffffffffffffff) == 0x72656b726f776b; /* "kworker" */
}

TRACEPOINT_PROBE(filemap, mm_filemap_get_pages)
{
	return on_read(args->s_dev, args->i_ino, args->index, args->last_index, 0, 0);
}

TRACEPOINT_PROBE(filemap, mm_filemap_map_pages)
{
	return on_map(args->s_dev, args->i_ino, args->index, args->last_index, 0, 0);
}

TRACEPOINT_PROBE(filemap, mm_filemap_fault)
{
	return on_fault(args->s_dev, args->i_ino, args->index, 0, 0);
}

TRACEPOINT_PROBE(readahead, page_cache_sync_ra)
{
	return on_miss(args->s_dev, args->i_ino, args->index, 0);
}

TRACEPOINT_PROBE(readahead, page_cache_async_ra)
{
	return on_ahead(args->s_dev, args->i_ino, args->index);
}

TRACEPOINT_PROBE(readahead, page_cache_ra_order)
{
	return on_miss(args->s_dev, args->i_ino, args->index, 1);
}

TRACEPOINT_PROBE(sched, sched_switch)
{
	return on_switch(args->prev_pid, args->prev_state, args->next_pid);
}

TRACEPOINT_PROBE(fuse, fuse_request_send)
{
	return on_request(args->unique, args->connection, args->opcode, args->len, 0, !is_kernel_thread());
}

TRACEPOINT_PROBE(fuse, fuse_request_end)
{
	return on_reply(args->unique);
}

TRACEPOINT_PROBE(sched, sched_process_fork)
{
	return on_fork(args->parent_pid, args->child_pid);
}

TRACEPOINT_PROBE(sched, sched_process_exec)
{
	return on_exec();
}

TRACEPOINT_PROBE(sched, sched_process_exit)
{
	return on_exit();
}
