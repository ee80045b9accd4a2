/* function.bpf.c: the probes at functions of the page cache, for kernels without a tracepoint of buffered reads: by fentry
 * (SWP_FENTRY) or kprobe (SWP_KPROBE). Both see the beginning of a read, when its pages may still be missing: a miss is
 * counted where readahead is asked for. Times that readers wait and writes are not known this way.
 *
 * Functions of mm/filemap.c and mm/readahead.c: filemap_read(iocb, iter, already_read), filemap_map_pages(vmf, start,
 * end), filemap_fault(vmf), page_cache_sync_ra(ractl, req_count). OFF_* as in btf.bpf.c. */
#include <linux/types.h>
#include <linux/ptrace.h>
#define SWP_ENTRY
#include "books.h"
#include "writes.h"
#include "waits.h"

static __always_inline u64 load(u64 base, u32 offset)
{
	u64 value = 0;

	bpf_probe_read_kernel(&value, sizeof value, (void *)(base + offset));
	return value;
}

static __always_inline u32 parent_pid(void)
{
	return (u32)load(load(bpf_get_current_task(), OFF_TASK_REAL_PARENT), OFF_TASK_TGID);
}

static __always_inline u32 session_id(void)
{
#ifdef OFF_TASK_SIGNAL
	return (u32)load(load(load(bpf_get_current_task(), OFF_TASK_SIGNAL), OFF_SIGNAL_SESSION), OFF_PID_NUMBER);
#else
	return 0;
#endif
}

static __always_inline int is_kernel_thread(void)
{
	return 0; /* asked of writers, which are not known this way */
}

#define DEV(inode) ((u32)load(load(inode, OFF_INODE_SB), OFF_SB_DEV))
#define INO(inode) load(inode, OFF_INODE_INO)
#define SIZE(inode) load(inode, OFF_INODE_SIZE)

static __always_inline u64 inode_of(u64 file)
{
	return load(load(file, OFF_FILE_MAPPING), OFF_MAPPING_HOST);
}

static __always_inline int enter_read(u64 iocb, u64 iter)
{
	u64 inode = inode_of(load(iocb, OFF_KIOCB_FILE));
	u64 at = load(iocb, OFF_KIOCB_POS), count = load(iter, OFF_ITER_COUNT), size = SIZE(inode);

	if (!count || at >= size) /* at the end of the file nothing is read */
		return 0;
	return on_read(DEV(inode), INO(inode), at >> 12, (at + count - 1) >> 12, size, 0);
}

static __always_inline u64 fault_inode(u64 fault)
{
	return inode_of(load(load(fault, OFF_FAULT_VMA), OFF_VMA_FILE));
}

static __always_inline int enter_map(u64 fault, u64 first, u64 last)
{
	u64 inode = fault_inode(fault);

	return on_map(DEV(inode), INO(inode), first, last, SIZE(inode), 0);
}

static __always_inline int enter_fault(u64 fault)
{
	u64 inode = fault_inode(fault);

	return on_fault(DEV(inode), INO(inode), load(fault, OFF_FAULT_PAGE), SIZE(inode), 0);
}

static __always_inline int enter_miss(u64 ractl)
{
	u64 inode = load(load(ractl, OFF_RACTL_MAPPING), OFF_MAPPING_HOST);

	return on_miss(DEV(inode), INO(inode), load(ractl, OFF_RACTL_INDEX), 0);
}

#ifdef SWP_FENTRY
KFUNC_PROBE(filemap_read, u64 iocb, u64 iter)
{
	return enter_read(iocb, iter);
}

KFUNC_PROBE(filemap_map_pages, u64 fault, u64 first, u64 last)
{
	return enter_map(fault, first, last);
}

KFUNC_PROBE(filemap_fault, u64 fault)
{
	return enter_fault(fault);
}

KFUNC_PROBE(page_cache_sync_ra, u64 ractl)
{
	return enter_miss(ractl);
}
#else
int on_filemap_read(struct pt_regs *ctx)
{
	return enter_read(PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx));
}

int on_filemap_map_pages(struct pt_regs *ctx)
{
	return enter_map(PT_REGS_PARM1(ctx), PT_REGS_PARM2(ctx), PT_REGS_PARM3(ctx));
}

int on_filemap_fault(struct pt_regs *ctx)
{
	return enter_fault(PT_REGS_PARM1(ctx));
}

int on_page_cache_sync_ra(struct pt_regs *ctx)
{
	return enter_miss(PT_REGS_PARM1(ctx));
}
#endif
