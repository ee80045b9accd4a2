/* session.c: the owner of /dev/fuse. Threads read requests from the kernel; what hot.c does not answer goes unchanged
 * over a SOCK_SEQPACKET pair to libfuse (pyfuse3), and the answers come back through the pump, which amends them
 * (inode numbers, open modes, INIT) and undoes those whose request is gone. */
#include "internal.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define SOCKET_BYTES (16 << 20) /* sixteen of the largest writes */
#define WAKE_SIGNAL (SIGRTMIN + 7)

/* ---- messages ---- */

/* Writes an answer to the kernel. -ENOENT: nobody waits for it any more. */
int reply(sw_session *s, uint64_t unique, int err, const void *data, size_t n)
{
	struct fuse_out_header h = {.len = (uint32_t)(sizeof h + (err ? 0 : n)), .error = err, .unique = unique};
	struct iovec v[2] = {{&h, sizeof h}, {(void *)(uintptr_t)data, n}};

	COUNT(s, replies);
	if (s->ring && !ring_answer(s, unique, err, data, err ? 0 : n))
		return 0;
	if (writev(s->dev, v, n && !err ? 2 : 1) < 0) {
		COUNT(s, reply_gone);
		return -errno;
	}
	return 0;
}

/* 1: the ring is full, nobody will hear of it. */
int event(sw_session *s, uint32_t kind, uint64_t nodeid, uint64_t arg, uint64_t chunk, uint64_t stop)
{
	uint64_t one = 1;
	int was_empty, lost;

	pthread_mutex_lock(&s->ev_lock);
	was_empty = s->ev_head == s->ev_tail;
	/* Parked reads and idle files must not be missed: the last eighth of the ring is theirs. */
	lost = s->ev_head - s->ev_tail >= (kind == SW_EV_TOUCH || kind == SW_EV_OPENED ? SW_EVENTS * 7 / 8 : SW_EVENTS);
	if (lost) {
		s->ev_lost++;
		COUNT(s, events_lost);
	} else {
		s->events[s->ev_head % SW_EVENTS] = (struct sw_event){kind, s->ev_lost, nodeid, arg, chunk, stop};
		s->ev_lost = 0;
		s->ev_head++;
	}
	pthread_mutex_unlock(&s->ev_lock);
	if (was_empty && !lost && write(s->evfd, &one, sizeof one) < 0)
		return 0; /* its counter is full: it is readable */
	return lost;
}

int sw_events(sw_session *s, struct sw_event *events, int max)
{
	uint64_t count, one = 1;
	int n = 0;

	if (read(s->evfd, &count, sizeof count) < 0 && errno != EAGAIN)
		return -errno;
	pthread_mutex_lock(&s->ev_lock);
	while (n < max && s->ev_tail != s->ev_head)
		events[n++] = s->events[s->ev_tail++ % SW_EVENTS];
	if (s->ev_tail != s->ev_head && write(s->evfd, &one, sizeof one) < 0)
		n = -errno;
	pthread_mutex_unlock(&s->ev_lock);
	return n;
}

static struct pending **pending_at(sw_session *s, uint64_t unique)
{
	return &s->pend[(unique >> 1) % SW_PENDING];
}

/* Only what leaves nothing behind may be let go early. */
static int may_be_let_go(uint32_t opcode)
{
	switch (opcode) {
	case FUSE_LOOKUP:
	case FUSE_GETATTR:
	case FUSE_READLINK:
	case FUSE_OPEN:
	case FUSE_READ:
	case FUSE_STATFS:
	case FUSE_GETXATTR:
	case FUSE_LISTXATTR:
	case FUSE_OPENDIR:
	case FUSE_READDIR:
	case FUSE_READDIRPLUS:
		return 1;
	default:
		return 0;
	}
}

int early_take(sw_session *s, uint64_t unique)
{
	for (int i = 0; i < SW_EARLY; i++)
		if (s->early[i] == unique) {
			s->early[i] = 0;
			return 1;
		}
	return 0;
}

/* 0, or -ENOMEM. *interrupted: it was interrupted before it got here. */
static int pending_add(sw_session *s, const struct fuse_in_header *h, int *interrupted)
{
	struct pending *p, **at = pending_at(s, h->unique);

	*interrupted = 0;
	pthread_mutex_lock(&s->pend_lock);
	p = s->pend_free;
	if (p)
		s->pend_free = p->next;
	else
		p = malloc(sizeof *p);
	if (p) {
		*p = (struct pending){*at, h->unique, h->nodeid, h->opcode, h->pid, 0};
		*at = p;
		*interrupted = early_take(s, h->unique) && may_be_let_go(h->opcode);
		p->interrupted = (uint8_t)*interrupted;
		s->ninterrupted += (uint32_t)*interrupted;
	}
	pthread_mutex_unlock(&s->pend_lock);
	return p ? 0 : -ENOMEM;
}

int pending_take(sw_session *s, uint64_t unique, struct pending *out)
{
	struct pending *p, **at = pending_at(s, unique);

	pthread_mutex_lock(&s->pend_lock);
	while ((p = *at) && p->unique != unique)
		at = &p->next;
	if (p) {
		*out = *p;
		*at = p->next;
		p->next = s->pend_free;
		s->pend_free = p;
	}
	pthread_mutex_unlock(&s->pend_lock);
	return p != NULL;
}

/* A forwarded request is interrupted. One that another thread has read but not entered yet (it is being answered, or
 * about to be forwarded or parked) is remembered: it is asked for when it is entered. Returns 1 when the waker has
 * something to do. */
int interrupt_early(sw_session *s, uint64_t unique)
{
	struct pending *p;
	int wake = 0;

	pthread_mutex_lock(&s->pend_lock);
	for (p = *pending_at(s, unique); p && p->unique != unique; p = p->next)
		;
	if (!p)
		s->early[s->nearly++ % SW_EARLY] = unique;
	else if (!p->interrupted && may_be_let_go(p->opcode)) {
		p->interrupted = 1;
		s->ninterrupted++;
		wake = 1;
	}
	pthread_mutex_unlock(&s->pend_lock);
	return wake;
}

/* What the kernel offers, before pyfuse3 answers. */
static void offered(sw_session *s, const struct fuse_in_header *h, size_t len)
{
	const struct fuse_init_in *in = (const struct fuse_init_in *)(h + 1);

	if (len >= sizeof *h + sizeof *in && in->flags & FUSE_INIT_EXT)
		s->direct_mmap = !!(in->flags2 & (uint32_t)(SW_DIRECT_IO_ALLOW_MMAP >> 32));
}

int pass_on(sw_session *s, const void *msg, size_t len)
{
	const struct fuse_in_header *h = msg;
	int interrupted;

	if (h->opcode == FUSE_INIT)
		offered(s, h, len);
	if (pending_add(s, h, &interrupted) < 0) {
		reply(s, h->unique, -ENOMEM, NULL, 0);
		return -ENOMEM;
	}
	if (interrupted) { /* the waker looks after it */
		lock(s);
		pthread_cond_signal(&s->wake);
		unlock(s);
	}
	COUNT(s, forwarded);
	while (send(s->sock, msg, len, MSG_NOSIGNAL) < 0) {
		struct pending gone;
		int err = errno;

		if (err == EINTR)
			continue;
		if (pending_take(s, h->unique, &gone))
			reply(s, h->unique, -EIO, NULL, 0);
		return -err;
	}
	return 0;
}

/* Is the thread being killed? (SIGKILL pending in /proc/TID/status: every fatal signal is turned into it.) A thread
 * that is not to be seen from here counts as dying. */
int dying(uint32_t pid)
{
	char path[40], text[4096], *at;
	ssize_t n;
	int fd;

	snprintf(path, sizeof path, "/proc/%u/status", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 1;
	n = read(fd, text, sizeof text - 1);
	close(fd);
	if (n <= 0)
		return 1;
	text[n] = 0;
	at = strstr(text, "SigPnd:");
	return at && strtoull(at + 7, NULL, 16) >> (SIGKILL - 1) & 1;
}

/* ---- answers of pyfuse3 on their way to the kernel ---- */

static void amend_init(sw_session *s, char *body)
{
	struct fuse_init_out *o = (struct fuse_init_out *)body;
	uint32_t *flags2 = (uint32_t *)(body + 32), *stack = (uint32_t *)(body + 36);

	o->flags |= FUSE_INIT_EXT;
	if (s->config.passthrough && s->config.hot) {
		*flags2 |= (uint32_t)(FUSE_PASSTHROUGH >> 32);
		*stack = 1;
	}
	*flags2 |= (uint32_t)(SW_DIRECT_IO_ALLOW_MMAP >> 32);
	if (s->ring)
		*flags2 |= (uint32_t)(SW_OVER_IO_URING >> 32);
	/* V2: the kernel says when setuid bits must go, and need not ask for security.capability at each write. */
	o->flags &= ~(uint32_t)FUSE_HANDLE_KILLPRIV;
	o->flags |= FUSE_HANDLE_KILLPRIV_V2 | FUSE_DONT_MASK | FUSE_PARALLEL_DIROPS;
	if (s->config.acl)
		o->flags |= FUSE_POSIX_ACL;
	else
		o->flags &= ~(uint32_t)FUSE_POSIX_ACL;
	o->max_readahead = 1 << 20;
	o->max_background = 128;
	o->congestion_threshold = 96;
}

static void amend_attr(sw_session *s, struct fuse_attr *a)
{
	struct node *n;

	lock(s);
	n = node_get(s, a->ino); /* pyfuse3 has one field for nodeid and inode number */
	if (n) {
		a->ino = n->ino;
		n->told_old = 0;
	}
	unlock(s);
}

static void amend_open(struct fuse_open_out *o)
{
	struct handle *h = (struct handle *)(uintptr_t)o->fh;

	o->open_flags = h->flags;
	o->padding = (uint32_t)h->backing;
}

/* A request that pyfuse3 must see although the kernel did not make it: the open that nobody waited for is closed. */
static void inject_release(sw_session *s, uint64_t nodeid, uint64_t fh, uint32_t opcode)
{
	struct {
		struct fuse_in_header h;
		struct fuse_release_in r;
	} m = {.h = {.len = sizeof m, .opcode = opcode, .nodeid = nodeid, .unique = SW_OWN_UNIQUE | fh},
	       .r = {.fh = fh}};

	if (opcode == FUSE_RELEASE) {
		struct handle *h = (struct handle *)(uintptr_t)fh;

		lock(s);
		m.h.nodeid = h->node->id;
		open_dropped(s, h->node, h);
		unlock(s);
	}
	send(s->sock, &m, sizeof m, MSG_NOSIGNAL);
}

/* The kernel takes no reference for the directory itself and its parent. */
static void undo_listing(sw_session *s, const char *body, size_t n)
{
	for (size_t at = 0; at + sizeof(struct fuse_entry_out) < n;) {
		const struct fuse_entry_out *e = (const void *)(body + at);
		const struct fuse_dirent *d = (const void *)(e + 1);

		if (!(d->name[0] == '.' && (d->namelen == 1 || (d->namelen == 2 && d->name[1] == '.'))))
			sw_forget(s, e->nodeid, 1);
		at += sizeof *e + FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + d->namelen);
	}
}

static void undo(sw_session *s, const struct pending *p, const char *body, size_t n)
{
	const struct fuse_entry_out *e = (const void *)body;
	const struct fuse_open_out *o = (const void *)body;

	switch (p->opcode) {
	case FUSE_CREATE:
		inject_release(s, e->nodeid, ((const struct fuse_open_out *)(e + 1))->fh, FUSE_RELEASE);
		sw_forget(s, e->nodeid, 1);
		break;
	case FUSE_LOOKUP:
	case FUSE_MKNOD:
	case FUSE_MKDIR:
	case FUSE_SYMLINK:
	case FUSE_LINK:
		sw_forget(s, e->nodeid, 1);
		break;
	case FUSE_OPEN:
		inject_release(s, 0, o->fh, FUSE_RELEASE);
		break;
	case FUSE_OPENDIR:
		inject_release(s, SW_ROOT, o->fh, FUSE_RELEASEDIR);
		break;
	case FUSE_READDIRPLUS:
		undo_listing(s, body, n);
		break;
	}
}

/* The kernel keeps a listing as long as the source tells of its changes: one that was read before something changed in
 * the directory (remote.c, expire) goes at the next open of it. */
static void amend_opendir(sw_session *s, uint64_t nodeid, struct fuse_open_out *o)
{
	struct node *n;

	lock(s);
	n = node_get(s, nodeid);
	if (n && s->told) {
		o->open_flags |= FOPEN_CACHE_DIR | (n->pages ? FOPEN_KEEP_CACHE : 0);
		n->pages = 1;
	}
	unlock(s);
}

static void amend(sw_session *s, const struct pending *p, char *body, size_t n)
{
	struct fuse_entry_out *e = (struct fuse_entry_out *)body;

	switch (p->opcode) {
	case FUSE_INIT:
		amend_init(s, body);
		break;
	case FUSE_CREATE:
		amend_open((struct fuse_open_out *)(e + 1));
		amend_attr(s, &e->attr);
		break;
	case FUSE_LOOKUP:
	case FUSE_MKNOD:
	case FUSE_MKDIR:
	case FUSE_SYMLINK:
	case FUSE_LINK:
		amend_attr(s, &e->attr);
		break;
	case FUSE_GETATTR:
	case FUSE_SETATTR:
		amend_attr(s, &((struct fuse_attr_out *)body)->attr);
		break;
	case FUSE_OPEN:
		amend_open((struct fuse_open_out *)body);
		break;
	case FUSE_OPENDIR:
		amend_opendir(s, p->nodeid, (struct fuse_open_out *)body);
		break;
	case FUSE_READDIRPLUS:
		for (size_t at = 0; at + sizeof *e < n;) {
			struct fuse_dirent *d;

			e = (struct fuse_entry_out *)(body + at);
			d = (struct fuse_dirent *)(e + 1);
			amend_attr(s, &e->attr);
			d->ino = e->attr.ino;
			at += sizeof *e + FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + d->namelen);
		}
		break;
	}
}

/* No signal but the one that wakes a reader of the device. */
void thread_signals(void)
{
	sigset_t all;

	sigfillset(&all);
	sigdelset(&all, WAKE_SIGNAL);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
}

/* A thread's own buffer. Without memory the mount cannot be served: the owner hears of it as of an unmount. */
void *thread_buffer(sw_session *s)
{
	void *p = sw_buffer_alloc(SW_MSG_MAX);

	thread_signals();
	if (!p)
		event(s, SW_EV_DOWN, 0, 0, 0, 0);
	return p;
}

/* An answer of pyfuse3, amended: 0 or -errno. */
static int answer(sw_session *s, const struct pending *p, char *msg, size_t n)
{
	struct fuse_out_header *h = (struct fuse_out_header *)msg;

	COUNT(s, replies);
	if (s->ring && p->opcode == FUSE_INIT)
		return ring_answer_init(s, msg, n);
	if (s->ring && h->unique && !ring_answer(s, h->unique, h->error, msg + sizeof *h, n - sizeof *h))
		return 0;
	return write(s->dev, msg, n) < 0 ? -errno : 0;
}

static void *pump_thread(void *arg)
{
	sw_session *s = arg;
	char *buf = thread_buffer(s);

	while (buf) {
		struct fuse_out_header *h = (struct fuse_out_header *)buf;
		struct pending p = {0};
		ssize_t n = recv(s->sock, buf, SW_MSG_MAX, 0);
		size_t body;

		if (n < 0 && errno == EINTR)
			continue;
		if (n < (ssize_t)sizeof *h)
			break;
		body = (size_t)n - sizeof *h;
		if (h->unique) { /* 0: a notification */
			if (h->unique & SW_OWN_UNIQUE || !pending_take(s, h->unique, &p))
				continue;
			if (p.opcode == FUSE_INIT && !h->error && s->config.hot && s->config.uring && !s->ring)
				s->uring = ring_prepare(s);
			if (!h->error && body)
				amend(s, &p, buf + sizeof *h, body);
			if (p.opcode == FUSE_INIT) /* before the answer: whoever meets the mount then asks how it works */
				s->passthrough_on = s->config.passthrough && s->config.hot;
		}
		if (answer(s, &p, buf, (size_t)n) == -ENOENT && h->unique) {
			COUNT(s, reply_gone);
			if (!h->error && body)
				undo(s, &p, buf + sizeof *h, body);
		} else if (p.opcode == FUSE_INIT && s->ring && !s->uring)
			s->uring = ring_start(s);
	}
	sw_buffer_free(buf, SW_MSG_MAX);
	return NULL;
}

/* ---- requests of the kernel ---- */

static void forgets(sw_session *s, char *msg)
{
	struct fuse_in_header *h = (struct fuse_in_header *)msg;
	struct fuse_batch_forget_in *b = (struct fuse_batch_forget_in *)(h + 1);
	struct fuse_forget_one *one = (struct fuse_forget_one *)(b + 1);

	if (h->opcode == FUSE_FORGET) {
		COUNT(s, forgets);
		sw_forget(s, h->nodeid, ((struct fuse_forget_in *)(h + 1))->nlookup);
		return;
	}
	COUNT_N(s, forgets, b->count);
	for (uint32_t i = 0; i < b->count; i++)
		sw_forget(s, one[i].nodeid, one[i].nlookup);
}

static void interrupt(sw_session *s, char *msg)
{
	struct fuse_in_header *h = (struct fuse_in_header *)msg;

	COUNT(s, interrupts);
	park_interrupt(s, ((struct fuse_interrupt_in *)(h + 1))->unique);
}

/* Two threads listen at a time, the rest is spare and steps in when both are busy (a READ that waits for the cache
 * disk). The kernel wakes the thread that has slept longest, so with ten in a row each request met cold caches and a
 * sleeping core: measured, 110 KiB files opened and read, warm: 20,000/s with ten listeners, 27,000/s with two. */
#define LISTENERS 2

static void listen_begin(sw_session *s)
{
	pthread_mutex_lock(&s->listen_lock);
	while (s->listening >= LISTENERS && s->running)
		pthread_cond_wait(&s->spare, &s->listen_lock);
	s->listening++;
	pthread_mutex_unlock(&s->listen_lock);
}

static void listen_end(sw_session *s)
{
	pthread_mutex_lock(&s->listen_lock);
	if (--s->listening == 0)
		pthread_cond_signal(&s->spare);
	pthread_mutex_unlock(&s->listen_lock);
}

static void *device_thread(void *arg)
{
	sw_session *s = arg;
	char *msg = thread_buffer(s), *out = thread_buffer(s);

	while (s->running && msg && out) {
		struct fuse_in_header *h = (struct fuse_in_header *)msg;
		ssize_t n;
		int err;

		listen_begin(s);
		n = read(s->dev, msg, SW_MSG_MAX);
		err = errno;
		listen_end(s);
		if (n < 0) {
			if (err == EINTR || err == EAGAIN || err == ENOENT)
				continue;
			break; /* ENODEV: unmounted; ECONNABORTED: aborted */
		}
		if (n < (ssize_t)sizeof *h)
			continue;
		if (h->opcode == FUSE_FORGET || h->opcode == FUSE_BATCH_FORGET)
			forgets(s, msg);
		else if (h->opcode == FUSE_INTERRUPT)
			interrupt(s, msg);
		else if (!hot_request(s, msg, (size_t)n, out))
			pass_on(s, msg, (size_t)n);
	}
	sw_buffer_free(msg, SW_MSG_MAX);
	sw_buffer_free(out, SW_MSG_MAX);
	if (s->running && msg && out) /* the connection is over; libfuse would take an end of file on its socket for an error */
		event(s, SW_EV_DOWN, 0, 0, 0, 0);
	return NULL;
}

/* ---- life ---- */

static void wake_handler(int sig) { (void)sig; }

sw_session *sw_new(const struct sw_config *config, int *err)
{
	sw_session *s = calloc(1, sizeof *s);
	struct sigaction act = {.sa_handler = wake_handler}; /* no SA_RESTART: read(2) comes back with EINTR */
	struct statx st;

	*err = -ENOMEM;
	if (!s)
		return NULL;
	s->config = *config;
	s->dev = s->sock = s->peer = s->evfd = s->watch_fd = -1;
	pthread_mutex_init(&s->lock, NULL);
	pthread_mutex_init(&s->pend_lock, NULL);
	pthread_mutex_init(&s->frames.lock, NULL);
	pthread_mutex_init(&s->ev_lock, NULL);
	pthread_mutex_init(&s->listen_lock, NULL);
	pthread_cond_init(&s->wake, NULL);
	pthread_cond_init(&s->spare, NULL);
	pthread_cond_init(&s->names_wake, NULL);
	pthread_cond_init(&s->follow.wake, NULL);
	s->ready_tail = &s->ready;
	s->events = calloc(SW_EVENTS, sizeof *s->events);
	s->evfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!s->events || s->evfd < 0 || view_init(s) < 0 || table_init(s) < 0) {
		sw_free(s);
		return NULL;
	}
	*err = source_stat_at(config->root_fd, "", &st);
	if (!*err) {
		s->root = node_intern(s, &st, now_ns(CLOCK_MONOTONIC_COARSE), NULL, "", 0);
		*err = s->root ? 0 : -ENOMEM;
	}
	if (*err) {
		sw_free(s);
		return NULL;
	}
	sigaction(WAKE_SIGNAL, &act, NULL);
	return s;
}

int sw_rule(sw_session *s, const char *glob, int check, uint64_t check_ns)
{
	struct rule *r = realloc(s->rules, (size_t)(s->nrules + 1) * sizeof *r);
	size_t n = strlen(glob) + 1;
	char *copy = malloc(n);

	if (r)
		s->rules = r;
	if (!r || !copy || s->nrules == INT16_MAX) {
		free(copy);
		return r && copy ? -E2BIG : -ENOMEM;
	}
	memcpy(copy, glob, n);
	s->rules[s->nrules++] = (struct rule){copy, check, check_ns};
	return 0;
}

int sw_mount(sw_session *s, const char *mountpoint, const char *fsname, unsigned long mount_flags)
{
	char options[160];

	s->dev = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (s->dev < 0)
		return -errno;
	snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions,max_read=1048576",
		 s->dev);
	if (mount(fsname, mountpoint, "fuse.swmld", mount_flags, options) < 0)
		return -errno;
	s->mounted = 1;
	return 0;
}

int sw_start(sw_session *s)
{
	int pair[2], size = SOCKET_BYTES;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	for (int i = 0; i < 2; i++) {
		setsockopt(pair[i], SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size);
		setsockopt(pair[i], SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
	}
	s->sock = pair[0];
	s->peer = pair[1];
	s->running = 1;
	s->threads = calloc((size_t)s->config.threads, sizeof *s->threads);
	if (!s->threads) {
		close(s->peer);
		return -ENOMEM;
	}
	s->has_pump = !pthread_create(&s->pump, NULL, pump_thread, s);
	s->has_waker = !pthread_create(&s->waker, NULL, park_thread, s);
	while (s->nthreads < s->config.threads &&
	       !pthread_create(&s->threads[s->nthreads], NULL, device_thread, s))
		s->nthreads++;
	if (s->has_pump && s->has_waker && s->nthreads && !follow_start(s))
		return s->peer;
	close(s->peer);
	return -EAGAIN;
}

/* Closing the device aborts what is left of the connection, so this also ends a mount that is still in use. */
int sw_stop(sw_session *s)
{
	struct timespec wait = {.tv_nsec = 1000000};
	int dev;

	lock(s);
	s->running = 0;
	pthread_cond_signal(&s->wake);
	unlock(s);
	pthread_mutex_lock(&s->listen_lock);
	pthread_cond_broadcast(&s->spare);
	pthread_mutex_unlock(&s->listen_lock);
	if (s->sock >= 0)
		shutdown(s->sock, SHUT_RDWR);
	for (int i = 0; i < s->nthreads; i++)
		while (pthread_tryjoin_np(s->threads[i], NULL) == EBUSY) { /* asleep in read(2), or about to be */
			pthread_kill(s->threads[i], WAKE_SIGNAL);
			nanosleep(&wait, NULL);
		}
	s->nthreads = 0;
	if (s->has_waker)
		pthread_join(s->waker, NULL);
	follow_stop(s);
	if (s->has_pump)
		pthread_join(s->pump, NULL);
	s->has_pump = s->has_waker = 0;
	ring_stop(s);
	lock(s);
	dev = s->dev;
	s->dev = -1; /* before its number can mean another file */
	unlock(s);
	if (dev >= 0)
		close(dev);
	return 0;
}

void sw_free(sw_session *s)
{
	sw_watch_stop(s);
	view_free(s);
	while (s->parked) {
		struct parked *p = s->parked;

		s->parked = p->next;
		free(p);
	}
	while (s->ready) {
		struct parked *p = s->ready;

		s->ready = p->next;
		free(p);
	}
	for (int i = 0; i < SW_PENDING; i++)
		while (s->pend[i]) {
			struct pending *p = s->pend[i];

			s->pend[i] = p->next;
			free(p);
		}
	while (s->pend_free) {
		struct pending *p = s->pend_free;

		s->pend_free = p->next;
		free(p);
	}
	for (int i = 0; i < SW_DIRFDS; i++)
		if (s->dirfds[i].node)
			close(s->dirfds[i].fd);
	frames_free(&s->frames);
	pages_free(s);
	table_free(s);
	lock(s);
	unlock(s); /* closes what table_free left to it */
	for (int i = 0; i < s->nrules; i++)
		free(s->rules[i].glob);
	free(s->rules);
	free(s->threads);
	free(s->events);
	if (s->dev >= 0)
		close(s->dev);
	if (s->sock >= 0)
		close(s->sock);
	if (s->evfd >= 0)
		close(s->evfd);
	free(s);
}

int sw_event_fd(sw_session *s)
{
	return s->evfd;
}

int sw_passthrough_works(sw_session *s)
{
	return s->passthrough_on;
}

int sw_uring_works(sw_session *s)
{
	return s->uring;
}

void sw_counters_read(sw_session *s, struct sw_counters *out)
{
	const uint64_t *from = (const uint64_t *)&s->n;
	uint64_t *to = (uint64_t *)out;

	for (size_t i = 0; i < sizeof *out / sizeof *to; i++)
		to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
	lock(s);
	out->nodes = s->nnodes;
	out->links = s->nlinks;
	out->dirfds = 0;
	for (int i = 0; i < SW_DIRFDS; i++)
		out->dirfds += s->dirfds[i].node != NULL;
	unlock(s);
}

static int notify(sw_session *s, int code, const void *a, size_t na, const void *b, size_t nb)
{
	struct fuse_out_header h = {.len = (uint32_t)(sizeof h + na + nb), .error = code};
	struct iovec v[3] = {{&h, sizeof h}, {(void *)(uintptr_t)a, na}, {(void *)(uintptr_t)b, nb}};

	return writev(s->dev, v, nb ? 3 : 2) < 0 ? -errno : 0;
}

int sw_notify_inode(sw_session *s, uint64_t nodeid, int64_t off, int64_t len)
{
	struct fuse_notify_inval_inode_out o = {.ino = nodeid, .off = off, .len = len};

	return notify(s, FUSE_NOTIFY_INVAL_INODE, &o, sizeof o, NULL, 0);
}

int sw_notify_entry(sw_session *s, uint64_t parent, const char *name)
{
	struct fuse_notify_inval_entry_out o = {.parent = parent, .namelen = (uint32_t)strlen(name)};

	return notify(s, FUSE_NOTIFY_INVAL_ENTRY, &o, sizeof o, name, strlen(name) + 1);
}
