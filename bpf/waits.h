/* waits.h: how long those wait who read and write the mount, and which processes there are. Rare beside reads: nothing here is paid
 * by a read that the page cache answers. */

/* The one that was waited for: by stream, by process, and in the process's histogram. */
static __always_inline void enter_wait(struct swp_thread *t, u64 ns, u64 now)
{
	struct swp_cursor *c = find(&t->stream);
	struct swp_process *p;
	u32 pid = t->stream.pid, b;

	/* It slept for something else, long after its last read of ours. */
	if (c && c->last_ns + ACTIVE_NS < now - ns && !(t->missed & MISSED) && !t->fault)
		return;
	if (c) {
		__sync_fetch_and_add(&c->wait_ns, ns);
		note(t, &t->stream, c, TORN);
		fault_waits(t, c);
	}
	p = process_of(pid);
	if (!p)
		return;
	__sync_fetch_and_add(&p->wait_ns, ns);
	__sync_fetch_and_add(&p->waits, 1);
	b = swp_bucket(ns);
	if (b < SWP_BUCKETS)
		__sync_fetch_and_add(&p->histogram[b], 1);
}

/* Page waits are uninterruptible (folio_wait_bit_common); waits for FUSE's answers are not, and are seen as requests. */
static __always_inline int on_switch(u32 from, u64 state, u32 to)
{
	u32 zero = 0;
	u64 *n = asleep.lookup(&zero), now;
	struct swp_thread *t;

	if (!n)
		return 0;
	if (state & UNINTERRUPTIBLE) {
		t = threads.lookup(&from);
		if (t && !t->asleep_ns) {
			t->asleep_ns = bpf_ktime_get_ns();
			__sync_fetch_and_add(n, 1);
		}
	}
	if (!*n)
		return 0;
	t = threads.lookup(&to);
	if (!t || !t->asleep_ns)
		return 0;
	now = bpf_ktime_get_ns();
	if (now > t->asleep_ns)
		enter_wait(t, now - t->asleep_ns, now);
	t->asleep_ns = 0;
	if (*n)
		__sync_fetch_and_add(n, -1);
	return 0;
}

#define FUSE_READ 15 /* include/uapi/linux/fuse.h */
#define FUSE_WRITE 16
#define FUSE_WRITE_HEADERS 80 /* struct fuse_in_header and struct fuse_write_in */

/* Nobody waits for these. */
static __always_inline int is_background(u32 opcode)
{
	return opcode == 2 /* FORGET */ || opcode == 18 /* RELEASE */ || opcode == 29 /* RELEASEDIR */ ||
	       opcode == 36 /* INTERRUPT */ || opcode == 42 /* BATCH_FORGET */;
}

/* `length` of the whole request in bytes. `nodeid`: 0 where it is not known; `sender`: 0 for what the kernel asks of its
 * own accord, write-back of dirty pages, whoever's context it is in. */
static __always_inline int on_request(u64 request, u32 connection, u32 opcode, u32 length, u64 nodeid, u32 sender)
{
	u32 zero = 0;
	struct swp_config *g = config.lookup(&zero);
	struct swp_request r = {.pid = self_pid(), .opcode = opcode};

	if (!g || connection != g->mount_dev || r.pid == g->self || is_background(opcode))
		return 0;
	r.ns = bpf_ktime_get_ns();
	requests.update(&request, &r);
	if (opcode == FUSE_READ) {
		u32 tid = (u32)bpf_get_current_pid_tgid();
		struct swp_thread *t = threads.lookup(&tid);

		if (t && t->fault)
			fault_waits(t, find(&t->stream));
	}
	if (opcode == FUSE_READ)
		meet(r.pid, r.ns);
	if (opcode == FUSE_WRITE && sender) {
		meet_writer(r.pid, r.ns);
		if (nodeid && length > FUSE_WRITE_HEADERS)
			on_write(connection, nodeid, nodeid, length - FUSE_WRITE_HEADERS);
	}
	return 0;
}

/* In the daemon's context. Metadata of one that may never read or write is kept aside: it is no reader for it. */
static __always_inline void answered(u32 pid, u64 ns)
{
	struct swp_stranger *s = strangers.lookup(&pid), fresh = {.meta_ns = ns, .metas = 1};

	if (!s) {
		strangers.update(&pid, &fresh);
		return;
	}
	__sync_fetch_and_add(&s->meta_ns, ns);
	__sync_fetch_and_add(&s->metas, 1);
}

static __always_inline int on_reply(u64 request)
{
	struct swp_request *r = requests.lookup(&request);
	struct swp_process *p;
	u64 ns;

	if (!r)
		return 0;
	ns = bpf_ktime_get_ns() - r->ns;
	p = processes.lookup(&r->pid);
	if (r->opcode == FUSE_READ) {
		if (p) {
			__sync_fetch_and_add(&p->fuse_read_ns, ns);
			__sync_fetch_and_add(&p->fuse_reads, 1);
		}
	} else if (r->opcode == FUSE_WRITE) {
		if (p) {
			__sync_fetch_and_add(&p->fuse_write_ns, ns);
			__sync_fetch_and_add(&p->fuse_writes, 1);
		}
	} else if (p) {
		__sync_fetch_and_add(&p->meta_ns, ns);
		__sync_fetch_and_add(&p->metas, 1);
	} else {
		answered(r->pid, ns);
	}
	requests.delete(&request);
	return 0;
}

/* ---- processes: only those that have read or written the mount are told, and what they start ---- */

static __always_inline int on_fork(u32 parent, u32 child)
{
	struct swp_stranger fresh = {};

	if (!process_of(parent))
		return 0;
	strangers.update(&child, &fresh); /* whose exec is told, also if it never reads: others may be its children */
	tell_process(parent, child, SWP_EV_FORK);
	return 0;
}

static __always_inline int on_exec(void)
{
	u32 pid = self_pid();
	struct swp_process *p = process_of(pid);

	if (!p && !strangers.lookup(&pid))
		return 0;
	if (p)
		bpf_get_current_comm(p->comm, sizeof p->comm);
	tell_process(pid, 0, SWP_EV_EXEC);
	return 0;
}

static __always_inline int on_exit(void)
{
	u64 id = bpf_get_current_pid_tgid();
	u32 pid = id >> 32, tid = (u32)id;
	struct swp_process *p;

	threads.delete(&tid);
	if (pid != tid)
		return 0;
	strangers.delete(&pid);
	p = process_of(pid);
	if (!p)
		return 0;
	p->ended = 1;
	tell_process(pid, 0, SWP_EV_EXIT);
	return 0;
}
