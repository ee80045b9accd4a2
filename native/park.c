/* park.c: READs that wait for a chunk. They are answered by one thread of their own, so that neither the event loop
 * nor a device thread pays for the copy; a killed reader's READ is answered at once (EINTR). */
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#define MAPPED_READ 65536 /* below, a mapping costs more than the copy that it saves */

/* Under lock: takes the parked READ at *p out of the list and hands it to the answering thread. err: >0 errno,
 * 0 answer from the cache file, -1 pass it on to Python. */
static void make_ready(sw_session *s, struct parked **p, int err)
{
	struct parked *k = *p;

	*p = k->next;
	k->next = NULL;
	k->to_python = err < 0;
	k->err = err > 0 ? err : 0;
	*s->ready_tail = k;
	s->ready_tail = &k->next;
	pthread_cond_signal(&s->wake);
}

/* Under lock. */
void park_recheck(sw_session *s, struct node *n)
{
	struct parked **p = &s->parked;
	uint64_t a, b;

	while (*p)
		if ((*p)->nodeid == n->id &&
		    (n->bypass || !n->used->cf || cfile_has(n->used->cf, (*p)->offset, (*p)->offset + (*p)->size, &a, &b)))
			make_ready(s, p, n->bypass || !n->used->cf ? -1 : 0);
		else
			p = &(*p)->next;
}

void park_ask(sw_session *s, struct node *n)
{
	struct parked **p = &s->parked;
	uint64_t first, stop;

	while (*p)
		if ((*p)->nodeid == n->id && !cfile_has(n->used->cf, (*p)->offset, (*p)->offset + (*p)->size, &first, &stop) &&
		    event(s, SW_EV_MISS, n->id, (*p)->offset, first, stop))
			make_ready(s, p, -1);
		else
			p = &(*p)->next;
}

/* Under lock: the chunk cannot be had (all: no chunk of this node can). err 0: Python's read decides. */
void park_fail(sw_session *s, struct node *n, uint64_t chunk, int err, int all)
{
	struct parked **p = &s->parked;
	uint64_t from = 0, to = UINT64_MAX;

	if (n->used->cf && !all) {
		from = chunk * n->used->cf->chunk_size;
		to = from + n->used->cf->chunk_size;
	}
	while (*p)
		if ((*p)->nodeid == n->id && (*p)->offset < to && (*p)->offset + (*p)->size > from)
			make_ready(s, p, err ? err : -1);
		else
			p = &(*p)->next;
}

/* Not under lock. The cache file is looked at again under the lock: the chunk may have landed meanwhile. */
void park(sw_session *s, struct fuse_in_header *h, struct fuse_read_in *r, size_t len, uint64_t first, uint64_t stop)
{
	struct parked *k = calloc(1, sizeof *k);
	struct node *n;

	if (!k || len > sizeof k->msg) {
		free(k);
		reply(s, h->unique, -ENOMEM, NULL, 0);
		return;
	}
	k->unique = h->unique;
	k->nodeid = h->nodeid;
	k->offset = r->offset;
	k->size = r->size;
	k->pid = h->pid;
	k->msg_len = (uint32_t)len;
	memcpy(k->msg, h, len);
	COUNT(s, parked);
	lock(s);
	k->next = s->parked;
	s->parked = k;
	pthread_mutex_lock(&s->pend_lock);
	if (early_take(s, k->unique)) {
		k->interrupted = 1;
		s->ninterrupted++;
		pthread_cond_signal(&s->wake);
	}
	pthread_mutex_unlock(&s->pend_lock);
	/* Told before it can be answered. The ring is full: nobody would hear of it, so Python gets the READ itself. */
	if (event(s, SW_EV_MISS, k->nodeid, r->offset, first, stop))
		make_ready(s, &s->parked, -1);
	n = node_get(s, h->nodeid);
	if (n)
		park_recheck(s, n);
	unlock(s);
}

void park_interrupt(sw_session *s, uint64_t unique)
{
	struct parked **p;

	lock(s);
	for (p = &s->parked; *p; p = &(*p)->next)
		if ((*p)->unique == unique)
			break;
	if (*p ? !(*p)->interrupted : interrupt_early(s, unique)) {
		if (*p) {
			(*p)->interrupted = 1;
			pthread_mutex_lock(&s->pend_lock);
			s->ninterrupted++;
			pthread_mutex_unlock(&s->pend_lock);
		}
		pthread_cond_signal(&s->wake);
	}
	unlock(s);
}

/* A long READ is answered from a mapping of the cache file where all of its pages are in memory: the kernel copies from
 * the file's own pages, once instead of through a buffer of ours. Nothing here touches the mapping, so a page that is
 * gone meanwhile is read by writev(2), and one that cannot be had is its error and no SIGBUS. From the disk read(2)
 * comes faster, with the file's readahead; and with a ring the kernel copies from the entry's own buffer. An offset
 * within a page cannot be mapped. Measured, a partly cached file read in order by one reader: 2.05 GB/s through a
 * buffer, 2.5 GB/s mapped. */
static int reply_mapped(sw_session *s, uint64_t unique, struct sw_cfile *f, uint64_t offset, uint32_t size)
{
	unsigned char in_memory[SW_MSG_MAX / 4096];
	size_t pages = (size + 4095) / 4096; /* at least as many as there are */
	void *map;
	int r = -EAGAIN;

	map = mmap(NULL, size, PROT_READ, MAP_SHARED, f->fd, (off_t)offset);
	if (map == MAP_FAILED)
		return -errno;
	memset(in_memory, 1, pages);
	if (!mincore(map, size, in_memory) && !memchr(in_memory, 0, pages)) {
		reply(s, unique, 0, map, size);
		COUNT_N(s, hot_read_bytes, size);
		r = 0;
	}
	munmap(map, size);
	return r;
}

int read_reply(sw_session *s, uint64_t unique, struct sw_cfile *f, uint64_t offset, uint32_t size, char *buf)
{
	uint64_t end = offset + size > f->size ? f->size : offset + size;
	uint32_t want = offset < end ? (uint32_t)(end - offset) : 0, done = 0;

	if (!f->packed.file_id && want >= MAPPED_READ && want <= SW_MSG_MAX && !s->ring &&
	    !reply_mapped(s, unique, f, offset, want))
		return 0;
	buf = ring_buffer(s, unique, buf);
	if (f->packed.file_id && want) {
		int r = packed_read(&s->frames, &f->packed, f->fd, offset, want, buf);

		if (r < 0)
			return r;
		done = want;
	}
	while (done < want) {
		ssize_t k = pread(f->fd, buf + done, want - done, (off_t)(offset + done));

		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0) { /* the cache file is whole by construction: a short one is damage */
			reply(s, unique, k < 0 ? -errno : -EIO, NULL, 0);
			return 0;
		}
		done += (uint32_t)k;
	}
	COUNT_N(s, hot_read_bytes, done);
	reply(s, unique, 0, buf, done);
	return 0;
}

/* Under lock: READs and forwarded requests whose caller got a signal: those that are being killed are let go. */
static void reap_killed(sw_session *s)
{
	struct parked **p = &s->parked;
	int left = 0;

	while (*p)
		if ((*p)->interrupted == 1 && dying((*p)->pid)) {
			make_ready(s, p, EINTR);
			COUNT(s, killed);
		}
		else {
			left += (*p)->interrupted == 1;
			p = &(*p)->next;
		}
	pthread_mutex_lock(&s->pend_lock);
	for (int i = 0; i < SW_PENDING; i++)
		for (struct pending *q = s->pend[i]; q; q = q->next) {
			if (q->interrupted != 1)
				continue;
			if (dying(q->pid)) {
				q->interrupted = 2; /* its real reply finds the request gone, and is undone */
				COUNT(s, killed);
				reply(s, q->unique, -EINTR, NULL, 0);
			} else
				left++;
		}
	s->ninterrupted = (uint32_t)left; /* still under pend_lock: one that comes now is counted after this */
	pthread_mutex_unlock(&s->pend_lock);
}

void *park_thread(void *arg)
{
	sw_session *s = arg;
	char *buf = thread_buffer(s);

	lock(s);
	while (s->running && buf) {
		struct parked *k = s->ready;
		struct sw_cfile *f = NULL;
		struct node *n;
		uint64_t a, b;

		if (!k) {
			if (s->ninterrupted) {
				struct timespec t;

				clock_gettime(CLOCK_MONOTONIC, &t);
				t.tv_nsec += 50000000; /* how soon a killed process is let go: 50 ms */
				if (t.tv_nsec >= 1000000000)
					t.tv_sec++, t.tv_nsec -= 1000000000;
				pthread_cond_clockwait(&s->wake, &s->lock, CLOCK_MONOTONIC, &t);
				reap_killed(s);
			} else
				pthread_cond_wait(&s->wake, &s->lock);
			continue;
		}
		s->ready = k->next;
		if (!s->ready)
			s->ready_tail = &s->ready;
		n = node_get(s, k->nodeid);
		if (n && n->used->cf && !n->bypass && cfile_has(n->used->cf, k->offset, k->offset + k->size, &a, &b))
			f = cfile_get(n->used->cf);
		unlock(s);
		COUNT(s, unparked);
		if (k->err)
			reply(s, k->unique, -k->err, NULL, 0);
		else if (!f || k->to_python || read_reply(s, k->unique, f, k->offset, k->size, buf) < 0)
			pass_on(s, k->msg, k->msg_len);
		free(k);
		lock(s);
		if (f) {
			cfile_put(s, f);
			unlock(s); /* waiting would not close it */
			lock(s);
		}
	}
	unlock(s);
	sw_buffer_free(buf, SW_MSG_MAX);
	return NULL;
}
