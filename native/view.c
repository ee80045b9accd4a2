/* view.c: the reads that FUSE sees, in the same books as the probes keep (bpf/stream.h). With the probes at work these
 * are the reads that tracepoints of the page cache miss, O_DIRECT; without them, all that is left to see. In both cases
 * FUSE alone knows whether a READ was answered from the cache or had to wait for the source. */
#include "internal.h"
#include "../bpf/stream.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define STREAMS 8192           /* beyond it the one that was quiet for longest is forgotten */
#define BUCKETS 4096
#define RING 8192

struct stream {
	struct stream *hash, *prev, *next; /* prev, next: by recency */
	struct stream *changed;    /* list of those not yet returned */
	int in_changed;
	struct sw_view_row row;
};

struct view {
	pthread_mutex_t lock;      /* a leaf */
	_Atomic int level;
	struct stream *by_key[BUCKETS], recent, *changed, **changed_tail;
	int nstreams;
	struct swp_event ring[RING];
	uint32_t head, tail;
	uint64_t lost;
	int wake_fd;               /* eventfd: there are events */
};

int view_init(sw_session *s)
{
	struct view *v = calloc(1, sizeof *v);

	if (!v)
		return -ENOMEM;
	v->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (v->wake_fd < 0) {
		free(v);
		return -errno;
	}
	pthread_mutex_init(&v->lock, NULL);
	v->recent.prev = v->recent.next = &v->recent;
	v->changed_tail = &v->changed;
	s->view = v;
	return 0;
}

void view_free(sw_session *s)
{
	struct view *v = s->view;

	if (!v)
		return;
	for (struct stream *x = v->recent.next, *next; x != &v->recent; x = next) {
		next = x->next;
		free(x);
	}
	pthread_mutex_destroy(&v->lock);
	close(v->wake_fd);
	free(v);
}

static uint32_t bucket_of(const struct swp_key *k)
{
	return (uint32_t)((k->ino * 0x9e3779b97f4a7c15ull ^ k->pid * 0xff51afd7ed558ccdull) >> 40) % BUCKETS;
}

static void unlink_stream(struct view *v, struct stream *x)
{
	struct stream **p = &v->by_key[bucket_of(&x->row.key)];

	while (*p != x)
		p = &(*p)->hash;
	*p = x->hash;
	x->prev->next = x->next;
	x->next->prev = x->prev;
}

/* The quietest stream that has been returned, or the quietest at all: its books are lost. */
static struct stream *recycle(struct view *v)
{
	struct stream *x = v->recent.prev;

	for (int i = 0; i < 64 && x->in_changed && x->prev != &v->recent; i++)
		x = x->prev;
	if (x->in_changed) {
		struct stream **p = &v->changed;

		x = v->recent.prev;
		while (*p != x)
			p = &(*p)->changed;
		*p = x->changed;
		if (!*p)
			v->changed_tail = p;
		v->lost++;
	}
	unlink_stream(v, x);
	return x;
}

static struct stream *stream_of(struct view *v, const struct swp_key *k, uint64_t now)
{
	struct stream *x = v->by_key[bucket_of(k)];

	while (x && (x->row.key.ino != k->ino || x->row.key.pid != k->pid))
		x = x->hash;
	if (x) {
		x->prev->next = x->next;
		x->next->prev = x->prev;
	} else {
		x = v->nstreams < STREAMS ? malloc(sizeof *x) : recycle(v);
		if (!x)
			return NULL;
		v->nstreams += v->nstreams < STREAMS;
		memset(x, 0, sizeof *x);
		x->row.key = *k;
		swp_begin(&x->row.cursor, k->ino, now);
		x->hash = v->by_key[bucket_of(k)];
		v->by_key[bucket_of(k)] = x;
	}
	x->next = v->recent.next;
	x->prev = &v->recent;
	x->next->prev = x->prev->next = x;
	return x;
}

/* Under the view's lock. */
static void tell(struct view *v, const struct swp_event *e)
{
	if (v->head - v->tail == RING) {
		v->lost++;
		return;
	}
	if (v->head == v->tail)
		eventfd_write(v->wake_fd, 1);
	v->ring[v->head++ % RING] = *e;
}

static void enter(struct view *v, struct stream *x, uint64_t first, uint64_t last, uint64_t pages, uint64_t now, int flags)
{
	struct swp_event e;
	int kind;

	x->row.cursor.direct += flags == SWP_DIRECT;
	x->row.cursor.faults += flags == SWP_FAULT;
	kind = swp_enter(&x->row.cursor, first, last, pages, now, x->row.key.pid);
	if (!kind)
		return;
	swp_event_of(&e, &x->row.key, &x->row.cursor, kind, flags);
	tell(v, &e);
}

/* Its row is new to who asks. */
static void changed(struct view *v, struct stream *x)
{
	if (x->in_changed)
		return;
	x->in_changed = 1;
	x->changed = NULL;
	*v->changed_tail = x;
	v->changed_tail = &x->changed;
}

static uint64_t pages_of(sw_session *s, uint64_t nodeid)
{
	uint64_t pages;
	struct node *n;

	lock(s);
	n = node_get(s, nodeid);
	pages = n ? (n->size + 4095) >> 12 : 0;
	unlock(s);
	return pages;
}

void view_read(sw_session *s, const struct fuse_in_header *h, const struct fuse_read_in *r, int cached)
{
	struct swp_key k = {.ino = h->nodeid, .pid = h->pid};
	struct view *v = s->view;
	int level = v->level;
	uint64_t now, pages;
	struct stream *x;

	if (!level || !h->pid) /* the kernel itself */
		return;
	now = now_ns(CLOCK_MONOTONIC_COARSE);
	pages = pages_of(s, h->nodeid);
	pthread_mutex_lock(&v->lock);
	x = stream_of(v, &k, now);
	if (x) {
		if (cached) {
			x->row.disk_reads++;
			x->row.disk_bytes += r->size;
		} else {
			x->row.source_reads++;
			x->row.source_bytes += r->size;
		}
		if (level > 1 || r->flags & O_DIRECT)
			enter(v, x, r->offset >> 12, (r->offset + (r->size ? r->size - 1 : 0)) >> 12, pages, now,
			      r->flags & O_DIRECT ? SWP_DIRECT : 0);
		changed(v, x);
	}
	pthread_mutex_unlock(&v->lock);
}

void sw_view_mapped(sw_session *s, uint64_t nodeid, uint32_t pid, uint64_t first, uint64_t folios)
{
	struct swp_key k = {.ino = nodeid, .pid = pid};
	uint64_t now = now_ns(CLOCK_MONOTONIC_COARSE), pages = pages_of(s, nodeid);
	struct view *v = s->view;
	struct stream *x;

	if (!v->level)
		return;
	pthread_mutex_lock(&v->lock);
	x = stream_of(v, &k, now);
	for (uint64_t i = 0; x && i < folios; i++)
		enter(v, x, first + i * SWP_FOLIO, first + (i + 1) * SWP_FOLIO - 1, pages, now, SWP_FAULT);
	if (x)
		changed(v, x);
	pthread_mutex_unlock(&v->lock);
}

/* Passed through it may be mapped by entries of 2 MiB: see mapped.c. */
void view_open(sw_session *s, const struct fuse_in_header *h)
{
	struct view *v = s->view;
	struct swp_event e = {.ino = h->nodeid, .node = h->nodeid, .pid = h->pid, .kind = SWP_EV_OPEN};

	if (v->level != 1 || !s->config.passthrough)
		return;
	e.size = pages_of(s, h->nodeid);
	if (e.size < SWP_FOLIO)
		return;
	e.ns = now_ns(CLOCK_MONOTONIC_COARSE);
	pthread_mutex_lock(&v->lock);
	tell(v, &e);
	pthread_mutex_unlock(&v->lock);
}

/* Nobody has it open any more. Small files are told by their first read already. */
void view_close(sw_session *s, const struct node *n)
{
	struct view *v = s->view;
	struct swp_event e = {.ns = 0, .ino = n->id, .node = n->id, .size = (n->size + 4095) >> 12, .kind = SWP_EV_CLOSE};

	if (!v->level || e.size < SWP_WINDOW)
		return;
	e.ns = now_ns(CLOCK_MONOTONIC_COARSE);
	pthread_mutex_lock(&v->lock);
	tell(v, &e);
	pthread_mutex_unlock(&v->lock);
}

void sw_view(sw_session *s, int level)
{
	s->view->level = level;
}

int sw_view_fd(sw_session *s)
{
	return s->view->wake_fd;
}

int sw_view_events(sw_session *s, struct swp_event *out, int max, uint64_t *lost)
{
	struct view *v = s->view;
	eventfd_t told;
	int n = 0;

	pthread_mutex_lock(&v->lock);
	while (n < max && v->tail != v->head)
		out[n++] = v->ring[v->tail++ % RING];
	if (v->tail == v->head)
		eventfd_read(v->wake_fd, &told);
	*lost = v->lost;
	pthread_mutex_unlock(&v->lock);
	return n;
}

int sw_view_rows(sw_session *s, struct sw_view_row *out, int max)
{
	struct view *v = s->view;
	int n = 0;

	pthread_mutex_lock(&v->lock);
	while (n < max && v->changed) {
		struct stream *x = v->changed;

		v->changed = x->changed;
		if (!v->changed)
			v->changed_tail = &v->changed;
		x->in_changed = 0;
		out[n] = x->row;
		out[n++].cursor.reads = swp_reads(&x->row.cursor);
	}
	pthread_mutex_unlock(&v->lock);
	return n;
}

int sw_stream_sample(struct swp_cursor *c, uint64_t first, uint64_t asked, uint64_t size, uint64_t now_ns, uint32_t weight,
		     int paused)
{
	int kind;

	if (!c->next)
		swp_begin(c, 0, now_ns);
	kind = swp_enter_sample(c, first, asked, size, now_ns, 1, weight, paused);
	c->reads = swp_reads(c);
	return kind;
}

int sw_stream_enter(struct swp_cursor *c, uint64_t first, uint64_t asked, uint64_t size, uint64_t now_ns)
{
	return sw_stream_sample(c, first, asked, size, now_ns, 1, 0);
}
