/* maps.h: the maps, and what all programs ask of them: is this file ours, which books has this stream, who is this
 * process. Meaning of all fields: swmld.h. */
#include <linux/types.h>
#include "stream.h"

BPF_F_TABLE("array", u32, struct swp_config, config, 1, 0);
BPF_F_TABLE("array", u32, struct swp_filter, filter, SWP_FILTER_BITS / 64, 1 << 10 /* BPF_F_MMAPABLE */);
BPF_F_TABLE("hash", struct swp_file, struct swp_watch, watched, SWP_WATCHED, 1 /* BPF_F_NO_PREALLOC */);
BPF_TABLE("lru_hash", struct swp_key, struct swp_cursor, cursors, SWP_CURSORS);
BPF_TABLE("lru_hash", u32, struct swp_thread, threads, SWP_THREADS);
BPF_TABLE("lru_hash", u32, struct swp_process, processes, SWP_PROCESSES);
BPF_TABLE("lru_hash", u32, struct swp_stranger, strangers, SWP_STRANGERS);
BPF_TABLE("lru_hash", u64, struct swp_request, requests, 8192);
BPF_TABLE("array", u32, struct swp_cursor, blank, 1); /* never written: a cursor is too large for the stack */
BPF_TABLE("array", u32, u64, lost, SWP_LOST_MAX);
BPF_TABLE("array", u32, u64, asleep, 1); /* threads that wait: 0 spares a lookup at every switch */
BPF_RINGBUF_OUTPUT(events, SWP_RING_PAGES);

/* The including program's ways. */
static __always_inline u32 parent_pid(void);
static __always_inline int is_kernel_thread(void);

static __always_inline void count_lost(u32 what)
{
	u64 *n = lost.lookup(&what);

	if (n)
		__sync_fetch_and_add(n, 1);
}

/* The time of the first call in this tick: twenty ns saved on nearly all reads. */
static __always_inline u64 coarse_ns(struct swp_config *g)
{
#ifdef SWP_JIFFIES /* the helper is there: since kernel 5.6 */
	u64 tick = bpf_jiffies64();

	if (g->tick != tick) {
		g->tick_ns = bpf_ktime_get_ns();
		g->tick = tick;
	}
	return g->tick_ns;
#else
	return bpf_ktime_get_ns();
#endif
}

static __always_inline u32 self_pid(void)
{
	return bpf_get_current_pid_tgid() >> 32;
}

/* Is this file one that we serve? Asked of each read on the machine, so cheapest first. *epoch: of its books, if they
 * are still this file's. */
static __always_inline struct swp_config *ours(u32 dev, u64 ino, u32 pid, u32 *epoch)
{
	u32 zero = 0, word = (ino & (SWP_FILTER_BITS - 1)) / 64;
	struct swp_config *g = config.lookup(&zero);
	struct swp_filter *f;

	if (!g || !g->mount_dev)
		return NULL;
	if (dev != g->mount_dev && dev != g->cache_dev && dev != g->source_dev)
		return NULL;
	f = filter.lookup(&word);
	if (!f || (dev != g->mount_dev && !(f->bits >> (ino & 63) & 1)))
		return NULL;
	*epoch = f->epoch;
	return pid == g->self ? NULL : g;
}

static __always_inline void tell(struct swp_key *k, struct swp_cursor *c, int kind, u32 flags)
{
	struct swp_event *e = events.ringbuf_reserve(sizeof *e);

	if (!e) {
		count_lost(SWP_LOST_EVENTS);
		return;
	}
	swp_event_of(e, k, c, kind, flags);
	events.ringbuf_submit(e, 0);
}

static __always_inline void tell_process(u32 pid, u64 other, int kind)
{
	struct swp_event *e = events.ringbuf_reserve(sizeof *e);

	if (!e) {
		count_lost(SWP_LOST_EVENTS);
		return;
	}
	__builtin_memset(e, 0, sizeof *e);
	e->ns = bpf_ktime_get_ns();
	e->ino = other;
	e->pid = pid;
	e->kind = kind;
	events.ringbuf_submit(e, 0);
}

/* This process reads or writes the mount: from now on it has books. */
static __always_inline void meet(u32 pid, u64 now)
{
	struct swp_process p = {};
	struct swp_stranger *s;

	if (processes.lookup(&pid))
		return;
	s = strangers.lookup(&pid);
	if (s) { /* it has asked for names, and opened, before */
		p.meta_ns = s->meta_ns;
		p.metas = s->metas;
		strangers.delete(&pid);
	}
	p.seen_ns = now;
	p.cgroup = bpf_get_current_cgroup_id();
	p.parent = parent_pid();
	bpf_get_current_comm(p.comm, sizeof p.comm);
	if (processes.update(&pid, &p))
		count_lost(SWP_LOST_PROCESSES);
}

static __always_inline struct swp_watch *watch_of(struct swp_config *g, struct swp_key *k)
{
	struct swp_file file = {.ino = k->ino, .dev = k->dev == g->mount_dev ? 0 : k->dev};

	return watched.lookup(&file);
}

/* A cursor for a stream that has none: NULL where the file is not ours after all. */
static __always_inline struct swp_cursor *open_cursor(struct swp_config *g, struct swp_key *k, u32 epoch, u64 now)
{
	struct swp_watch *w = watch_of(g, k);
	struct swp_cursor *c;
	u32 zero = 0;
	int made;

	if (!w && k->dev != g->mount_dev)
		return NULL;
	c = blank.lookup(&zero);
	if (!c)
		return NULL;
	made = !cursors.insert(k, c);
	c = cursors.lookup(k);
	if (!c) {
		count_lost(SWP_LOST_CURSORS);
		return NULL;
	}
	if (made) {
		c->epoch = epoch;
		swp_begin(c, w ? w->node : 0, now);
	}
	meet(k->pid, now);
	return c;
}

/* Something else is watched under one of 64 inode numbers than when these books were last looked into. If it is this one,
 * its file was removed and the number is another's now, as happens with cache files that are evicted: the books are put
 * aside as they are until they have been read. Of two threads that come here at once one does so. */
static __always_inline int is_still(struct swp_config *g, struct swp_key *k, struct swp_cursor *c, u32 epoch)
{
	struct swp_key ended = {.ino = k->ino, .dev = SWP_ENDED | c->epoch, .pid = k->pid};
	struct swp_watch *w = watch_of(g, k);
	u64 node = k->dev == g->mount_dev && !c->node ? k->ino : c->node;
	u64 now = w ? w->node : k->dev == g->mount_dev ? k->ino : 0;

	if (!c->first_ns || node == now) { /* 0: another thread is about to begin them */
		c->epoch = epoch;
		return 1;
	}
	c->node = node;
	if (!cursors.insert(&ended, c))
		cursors.delete(k);
	return 0;
}

/* NULL: it has no books, or they were another file's. */
static __always_inline struct swp_cursor *known_cursor(struct swp_config *g, struct swp_key *k, u32 epoch)
{
	struct swp_cursor *c = cursors.lookup(k);

	return c && c->epoch != epoch && !is_still(g, k, c, epoch) ? NULL : c;
}

static __always_inline struct swp_cursor *cursor_of(struct swp_config *g, struct swp_key *k, u32 epoch, u64 now)
{
	struct swp_cursor *c = known_cursor(g, k, epoch);

	return c ? c : open_cursor(g, k, epoch, now);
}
