/* follow.c: small cached files come into the page cache before they are opened, if their reader keeps to an order.
 *
 * A data set that is larger than memory is read from the cache's disk in each epoch, and one file after another waits for
 * it: an open, a read, a close. Each node remembers which file its reader opened next, the last time ("last successor":
 * Kroeger and Long, Predicting File System Actions from Prior Events, USENIX 1996). A reader whose last TRUST opens were
 * all foreseen that way gets the files that follow read by the follower, a thread of its own, while it reads this one.
 * Readers in random order are never followed: nothing of theirs is foreseen.
 *
 * What is in the page cache already costs a look, so of such a reader only every so many opens are followed.
 * Kept under session.lock; the follower holds it only to take its work and to tell what it found. */
#include "internal.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TRUST 8                        /* opens foreseen in a row before a reader is followed */
#define AHEAD 16                       /* files ahead of it; asked for when half of them are opened */
#define AHEAD_BYTES (16u << 20)        /* and no more than this many bytes */
#define FILE_BYTES (4u << 20)          /* a larger one has the kernel's readahead, and time to use it */
#define REST_MIN 64                    /* opens that are not followed after all was in the page cache: so many, then */
#define REST_MAX 4096                  /* twice as many each time */

#ifndef SYS_cachestat
#define SYS_cachestat 451              /* Linux 6.5 */
#endif

struct cache_range { uint64_t from, length; };  /* include/uapi/linux/mman.h */
struct cache_state { uint64_t cached, dirty, writeback, evicted, recently_evicted; };

/* Under lock: the n files after `from` that may be read ahead, by way of what was opened next the last time. */
static uint32_t successors(sw_session *s, uint64_t from, uint64_t reader_at, uint32_t n, struct follow_work *w, uint64_t *last)
{
	uint64_t bytes = 0;
	uint32_t steps = 0;

	for (struct node *x = node_get(s, from); x && x->used->next && steps < n && bytes < AHEAD_BYTES; steps++) {
		x = node_get(s, x->used->next);
		if (!x || x->id == reader_at) /* forgotten, or once around */
			break;
		*last = x->id;
		if (!x->used->file_id || x->used->file_id & SW_PACKED || x->used->gen_size > FILE_BYTES || !x->used->gen_size)
			continue;
		w->files[w->n++] = (struct follow_file){x->used->file_id, x->used->gen_size};
		bytes += x->used->gen_size;
	}
	return steps;
}

void follow_open(sw_session *s, struct node *n, uint32_t pid)
{
	struct follow_reader *r = &s->follow.readers[pid % SW_READERS];
	struct node *before;
	struct follow_work *w;
	uint64_t from;

	if (!s->follow.on || !n || !s->passthrough_on) /* without it the kernel keeps pages of its own, which are not seen here */
		return;
	if (r->pid != pid)
		*r = (struct follow_reader){.pid = pid};
	if (r->last == n->id)
		return;
	before = r->last ? node_get(s, r->last) : NULL;
	r->last = n->id;
	if (!before)
		return;
	if (!used_of(before))
		return;
	if (before->used->next != n->id) {
		before->used->next = n->id;
		r->right = r->ahead = 0;
		return;
	}
	r->right += r->right < TRUST;
	r->ahead -= r->ahead > 0;
	if (r->rest) {
		r->rest--;
		return;
	}
	if (r->right < TRUST || r->ahead > AHEAD / 2 || s->follow.tail - s->follow.head == SW_FOLLOW)
		return;
	w = &s->follow.work[s->follow.tail % SW_FOLLOW];
	*w = (struct follow_work){.pid = pid};
	from = r->ahead ? r->front : n->id;
	r->ahead += successors(s, from, n->id, AHEAD - r->ahead, w, &r->front);
	if (!w->n)
		return;
	s->follow.tail++;
	pthread_cond_signal(&s->follow.wake);
}

/* 1 brought, 0 it was there, or -errno. */
static int bring(sw_session *s, const struct follow_file *f)
{
	struct cache_range all = {0, f->size};
	struct cache_state there;
	int fd = data_open(s, f->file_id), r;

	if (fd < 0)
		return fd;
	r = syscall(SYS_cachestat, fd, &all, &there, 0) < 0 ? -errno : there.cached * 4096 < f->size;
	if (r == 1)
		r = readahead(fd, 0, f->size) < 0 ? -errno : 1;
	close(fd);
	return r;
}

static void *follow_thread(void *arg)
{
	sw_session *s = arg;
	struct follow *f = &s->follow;

	thread_signals();
	lock(s);
	while (s->running) {
		struct follow_reader *r;
		struct follow_work w;
		uint32_t brought = 0, there = 0;

		if (f->head == f->tail) {
			pthread_cond_wait(&f->wake, &s->lock);
			continue;
		}
		w = f->work[f->head % SW_FOLLOW];
		unlock(s);
		for (uint32_t i = 0; i < w.n; i++) {
			int got = bring(s, &w.files[i]);

			brought += got == 1;
			there += got == 0;
		}
		COUNT_N(s, followed_brought, brought);
		COUNT_N(s, followed_there, there);
		lock(s);
		f->head++; /* done: who waits for that sees what was counted */
		r = &f->readers[w.pid % SW_READERS];
		if (r->pid != w.pid)
			continue;
		if (brought)
			r->resting = 0;
		else { /* also when nothing can be had: an old kernel, evicted files */
			r->resting = !r->resting ? REST_MIN : r->resting < REST_MAX ? 2 * r->resting : REST_MAX;
			r->rest = r->resting;
			r->ahead = 0;
		}
	}
	unlock(s);
	return NULL;
}

int follow_start(sw_session *s)
{
	struct follow *f = &s->follow;

	if (!s->config.follow || s->config.data_fd < 0)
		return 0;
	f->on = !pthread_create(&f->thread, NULL, follow_thread, s);
	return f->on ? 0 : -EAGAIN;
}

/* After s->running became 0. */
void follow_stop(sw_session *s)
{
	if (!s->follow.on)
		return;
	lock(s);
	pthread_cond_signal(&s->follow.wake);
	unlock(s);
	pthread_join(s->follow.thread, NULL);
	s->follow.on = 0;
}
