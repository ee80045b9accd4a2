/* maps.h: the maps, and what all programs ask of them: is this file ours, which books has this stream, who is this
 * process. Meaning of all fields: swmld.h. */
#include <linux/types.h>
#include "stream.h"

#define SWP_TRIES 24 /* with half of all places in use, one new stream in a million finds none */
#define SWP_IN_TURN 4
#define SWP_IDLE_NS 2000000000ull /* books that nobody enters anything into may be taken: they were read out meanwhile */
#define SWP_FRESH_NS 100000000ull /* so may those that had been told by then, unless somebody has just begun them */

BPF_F_TABLE("array", u32, struct swp_config, config, 1, 1 << 10 /* BPF_F_MMAPABLE */);
BPF_F_TABLE("array", u32, struct swp_filter, filter, SWP_FILTER_BITS / 64, 1 << 10 /* BPF_F_MMAPABLE */);
BPF_F_TABLE("hash", struct swp_file, struct swp_watch, watched, SWP_WATCHED, 1 /* BPF_F_NO_PREALLOC */);
BPF_F_TABLE("array", u32, struct swp_row, cursors, SWP_CURSORS, 1 << 10 /* BPF_F_MMAPABLE */);
BPF_TABLE("hash", struct swp_key, u32, places, SWP_CURSORS + 1024); /* where the books of a stream are */
BPF_TABLE("array", u32, u32, hints, 1 << SWP_HINT_BITS); /* the same, quicker and perhaps wrong: see find */
BPF_TABLE("array", u32, u32, turns, 1); /* where the next books are sought */
BPF_TABLE("hash", u32, u32, claims, 256); /* places that somebody is about to take */
BPF_TABLE("lru_hash", u32, struct swp_thread, threads, SWP_THREADS);
BPF_TABLE("lru_hash", u32, struct swp_process, processes, SWP_PROCESSES);
BPF_TABLE("lru_hash", u32, struct swp_stranger, strangers, SWP_STRANGERS);
BPF_TABLE("lru_hash", u64, struct swp_request, requests, 8192);
BPF_TABLE("array", u32, u64, lost, SWP_LOST_MAX);
BPF_TABLE("percpu_array", u32, u64, calls, 1); /* of the program that sees reads, of whatever file */
BPF_TABLE("array", u32, u64, asleep, 1); /* threads that wait: 0 spares a lookup at every switch */
BPF_RINGBUF_OUTPUT(events, SWP_RING_PAGES);

/* The including program's ways. */
static __always_inline u32 parent_pid(void);
static __always_inline u32 session_id(void);
static __always_inline int is_kernel_thread(void);

/* A process's books. Those of one that has ended stay until they have been read out, or the pid is another's. */
static __always_inline struct swp_process *process_of(u32 pid)
{
	struct swp_process *p = processes.lookup(&pid);

	return p && !p->ended ? p : NULL;
}

/* After its end was told a process may still make pages dirty that it had mapped: it is no other one for that. */
static __always_inline int is_exiting(void)
{
	u32 flags = 0;

#ifdef OFF_TASK_FLAGS
	bpf_probe_read_kernel(&flags, sizeof flags, (void *)(bpf_get_current_task() + OFF_TASK_FLAGS));
#endif
	return flags & 4 /* PF_EXITING, include/linux/sched.h */;
}

/* What started the parent, and so on: it often outlives the parent, which is gone before anybody looks into /proc. */
static __always_inline void note_above(struct swp_process *p)
{
#ifdef OFF_TASK_REAL_PARENT
	u64 task = bpf_get_current_task();

	bpf_probe_read_kernel(&task, sizeof task, (void *)(task + OFF_TASK_REAL_PARENT));
#pragma unroll
	for (int i = 0; i < SWP_ABOVE; i++) {
		bpf_probe_read_kernel(&task, sizeof task, (void *)(task + OFF_TASK_REAL_PARENT));
		bpf_probe_read_kernel(&p->above[i], sizeof p->above[i], (void *)(task + OFF_TASK_TGID));
	}
#endif
}

#define ordered() asm volatile("" ::: "memory") /* for the compiler: what is written before is written first */

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

/* Is this file one that we serve, and the reader another than we? Asked of each read on the machine, so cheapest first.
 * *epoch: of its books, if they are still this file's; *id: the reader's pid (upper half) and tid. */
static __always_inline struct swp_config *ours(u32 dev, u64 ino, u64 *id, u32 *epoch)
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
	*id = bpf_get_current_pid_tgid();
	return *id >> 32 == g->self ? NULL : g;
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
	struct swp_process p = {}, *known = processes.lookup(&pid);
	struct swp_stranger *s;

	if (known && (!known->ended || is_exiting()))
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
	p.session = session_id();
	note_above(&p);
	bpf_get_current_comm(p.comm, sizeof p.comm);
	if (processes.update(&pid, &p))
		count_lost(SWP_LOST_PROCESSES);
}

static __always_inline struct swp_watch *watch_of(struct swp_config *g, struct swp_key *k)
{
	struct swp_file file = {.ino = k->ino, .dev = k->dev == g->mount_dev ? 0 : k->dev};

	return watched.lookup(&file);
}

static __always_inline int is_of_key(struct swp_row *row, struct swp_key *k)
{
	return row->key.ino == k->ino && row->key.dev == k->dev && row->key.pid == k->pid;
}

/* The books of a stream, or NULL. The look into a hash costs 50 ns, more than all else in a read. It is spared by a hint,
 * which any stream may have overwritten: what counts is whose books there are. */
static __always_inline struct swp_cursor *find(struct swp_key *k)
{
	u32 at = (k->ino ^ (u64)k->pid << 32) * 0x9e3779b97f4a7c15ull >> (64 - SWP_HINT_BITS); /* Fibonacci: Knuth 6.4 */
	u32 *hint = hints.lookup(&at), *place, n;
	struct swp_row *row;

	if (!hint)
		return NULL;
	n = *hint;
	row = cursors.lookup(&n);
	if (row && is_of_key(row, k))
		return &row->cursor;
	place = places.lookup(k);
	if (!place)
		return NULL;
	n = *place;
	row = cursors.lookup(&n);
	if (!row || !is_of_key(row, k))
		return NULL;
	*hint = n;
	return &row->cursor;
}

/* Times differ by less than 2^63: the difference's highest bit tells which is earlier. Without branches: the verifier follows
 * each one in each of the tries below, which was nine tenths of what a start of the probes took. */
static __always_inline u64 all_before(struct swp_cursor *c, u64 then)
{
	return (c->last_ns - then & c->first_ns - then & c->written_ns - then) >> 63;
}

static __always_inline int is_fresh(struct swp_cursor *c, u64 now)
{
	return !all_before(c, now - SWP_FRESH_NS);
}

static __always_inline int is_idle(struct swp_cursor *c, u64 now)
{
	return all_before(c, now - SWP_IDLE_NS) || (!is_fresh(c, now) && swp_is_told(c));
}

/* A place for new books, whose claim is the caller's to give back: one after another around the array, so that the oldest
 * go first. Streams that began together lie together, and may all be in use: then anywhere. Of two that look at one place
 * at once the second finds it claimed or, later, begun. */
static __always_inline struct swp_row *claim(u32 *place, u64 now)
{
	u32 zero = 0, one = 1, *turn = turns.lookup(&zero);
	struct swp_row *row;

	if (!turn)
		return NULL;
#pragma clang loop unroll(disable)
	for (int i = 0; i < SWP_TRIES; i++) {
		if (i < SWP_IN_TURN) {
			*place = *turn & (SWP_CURSORS - 1);
			__sync_fetch_and_add(turn, 1);
		} else {
			*place = bpf_get_prandom_u32() & (SWP_CURSORS - 1);
		}
		row = cursors.lookup(place);
		if (row && !is_fresh(&row->cursor, now) && !claims.insert(place, &one)) {
			if (is_idle(&row->cursor, now))
				return row;
			claims.delete(place);
		}
	}
	return NULL;
}

/* The books that were there before are forgotten. */
static __always_inline void begin(struct swp_row *row, struct swp_key *k, u32 place, u32 epoch, u32 slice, u64 node,
				  u64 now)
{
	struct swp_key old = row->key;
	u32 *known;

	old.dev &= ~SWP_ENDED;
	known = places.lookup(&old);
	if (known && *known == place)
		places.delete(&old);
	row->key.ino = 0; /* nobody's until all is set */
	ordered();
	__builtin_memset(&row->cursor, 0, sizeof row->cursor);
	row->cursor.epoch = epoch;
	row->cursor.slice = slice;
	swp_begin(&row->cursor, node, now);
	row->key.dev = k->dev;
	row->key.pid = k->pid;
	ordered();
	row->key.ino = k->ino;
}

/* A cursor for a stream that has none: NULL where the file is not ours after all. */
static __always_inline struct swp_cursor *open_cursor(struct swp_config *g, struct swp_key *k, u32 epoch, u64 now)
{
	struct swp_watch *w = watch_of(g, k);
	u64 node = w ? w->node : 0;
	struct swp_cursor *c;
	struct swp_row *row;
	u32 place = 0;

	if (!w && k->dev != g->mount_dev)
		return NULL;
	row = claim(&place, now);
	if (!row) {
		count_lost(SWP_LOST_CURSORS);
		return NULL;
	}
	begin(row, k, place, epoch, g->slice, node, now);
	claims.delete(&place);
	if (places.insert(k, &place)) {
		c = find(k); /* another thread was quicker */
		if (!c && places.update(k, &place))
			count_lost(SWP_LOST_CURSORS);
		else if (!c)
			c = &row->cursor;
		if (c != &row->cursor) {
			row->key.ino = 0;
			row->cursor.first_ns = 0;
		}
	} else {
		c = &row->cursor;
	}
	meet(k->pid, now);
	return c;
}

/* Something else is watched under one of 64 inode numbers than when these books were last looked into. If it is this one,
 * its file was removed and the number is another's now, as happens with cache files that are evicted: the books are ended,
 * and stay as they are until they have been read out. */
static __always_inline int is_still(struct swp_config *g, struct swp_key *k, struct swp_cursor *c, u32 epoch)
{
	struct swp_row *row = (struct swp_row *)((char *)c - __builtin_offsetof(struct swp_row, cursor));
	struct swp_watch *w = watch_of(g, k);
	u64 node = k->dev == g->mount_dev && !c->node ? k->ino : c->node;
	u64 now = w ? w->node : k->dev == g->mount_dev ? k->ino : 0;

	if (node == now) {
		c->epoch = epoch;
		return 1;
	}
	c->node = node;
	row->key.dev = k->dev | SWP_ENDED;
	return 0;
}

/* NULL: it has no books, or they were another file's. */
static __always_inline struct swp_cursor *known_cursor(struct swp_config *g, struct swp_key *k, u32 epoch)
{
	struct swp_cursor *c = find(k);

	return c && c->epoch != epoch && !is_still(g, k, c, epoch) ? NULL : c;
}

static __always_inline struct swp_cursor *cursor_of(struct swp_config *g, struct swp_key *k, u32 epoch, u64 now)
{
	struct swp_cursor *c = known_cursor(g, k, epoch);

	return c ? c : open_cursor(g, k, epoch, now);
}
