/* ring.c: requests over io_uring (FUSE_OVER_IO_URING, Linux 6.14 and later) instead of read(2) on the device.
 *
 * The kernel has a queue of ring entries for each CPU. A request made on a CPU goes to an entry of that CPU's queue,
 * and the queue's thread, bound to the CPU, answers it there: the two take turns on one CPU, no other has to be woken.
 * FORGET, INTERRUPT, INIT and notifications stay with the device.
 *
 * An entry is held from its request to its answer. What can take long must not hold up its thread, since only the
 * task that submitted an entry can receive in it: long READs and listings go to workers at once, all else while the
 * source or the cache disk is slow. An answer from another thread is handed to the queue's thread, which commits it. */

#include "ring.h"

#include <pthread.h>
#include <sched.h>
#include <sys/eventfd.h>

#define INLINE_READ 32768              /* a longer READ is copied by a worker, beside its reader */
#define SLOW_NS 1000000                /* an operation took this long: */
#define SLOW_FOR_NS 20000000           /* this long the workers do them */

static __thread struct queue *own;     /* of this thread */

/* ---- submitting: by the queue's own thread alone ---- */

static void submit(struct queue *q, struct entry *e, uint32_t cmd)
{
	struct io_uring_sqe *s = uring_sqe(&q->u);
	struct ring_cmd c = {.qid = (uint16_t)q->id, .commit_id = e->unique};

	s->opcode = IORING_OP_URING_CMD;
	s->flags = IOSQE_FIXED_FILE; /* number 0: the device */
	s->cmd_op = cmd;
	s->user_data = (uint64_t)(uintptr_t)e;
	if (cmd == CMD_REGISTER) {
		s->addr = (uint64_t)(uintptr_t)e->iov;
		s->len = 2;
	}
	memcpy(s->cmd, &c, sizeof c);
	uring_push(&q->u);
}

static void submit_wake(struct queue *q)
{
	struct io_uring_sqe *s = uring_sqe(&q->u);

	s->opcode = IORING_OP_READ;
	s->fd = q->wakefd;
	s->addr = (uint64_t)(uintptr_t)&q->woken;
	s->len = sizeof q->woken;
	uring_push(&q->u);
}

/* ---- answers ---- */

static struct entry **held_at(struct ring *r, uint64_t unique)
{
	struct entry **at = &r->held[(unique >> 1) % HELD];

	while (*at && (*at)->unique != unique)
		at = &(*at)->held;
	return at;
}

void *ring_buffer(sw_session *s, uint64_t unique, void *other)
{
	struct entry *e;

	if (!s->ring)
		return other;
	pthread_mutex_lock(&s->ring->held_lock);
	e = *held_at(s->ring, unique);
	pthread_mutex_unlock(&s->ring->held_lock);
	return e ? e->payload : other;
}

int ring_answer(sw_session *s, uint64_t unique, int err, const void *data, size_t n)
{
	struct ring *r = s->ring;
	struct fuse_out_header h = {.len = (uint32_t)(sizeof h + n), .error = err, .unique = unique};
	struct entry *e, **at;
	int first;

	pthread_mutex_lock(&r->held_lock);
	at = held_at(r, unique);
	e = *at;
	if (e)
		*at = e->held;
	pthread_mutex_unlock(&r->held_lock);
	if (!e)
		return -ENOENT;
	if (n > PAYLOAD) {
		h.error = -EIO;
		n = 0;
	}
	memcpy(e->header->in_out, &h, sizeof h);
	if (n && data != e->payload)
		memcpy(e->payload, data, n);
	e->header->ent.payload_sz = (uint32_t)n;
	if (e->q == own) {
		submit(own, e, CMD_COMMIT_AND_FETCH);
		return 0;
	}
	pthread_mutex_lock(&e->q->lock);
	first = !e->q->done;
	e->next = e->q->done;
	e->q->done = e;
	pthread_mutex_unlock(&e->q->lock);
	if (first)
		eventfd_write(e->q->wakefd, 1);
	return 0;
}

static void take_done(struct queue *q)
{
	struct entry *e, *next;

	pthread_mutex_lock(&q->lock);
	e = q->done;
	q->done = NULL;
	pthread_mutex_unlock(&q->lock);
	for (; e; e = next) {
		next = e->next;
		submit(q, e, CMD_COMMIT_AND_FETCH);
	}
	submit_wake(q);
}

/* ---- requests ---- */

static void serve(sw_session *s, struct fuse_in_header *h, char *out)
{
	size_t n = h->len; /* once it is answered, the entry may have the next request */

	if (!hot_request(s, (char *)h, n, out))
		pass_on(s, h, n);
}

void *worker_thread(void *arg)
{
	struct ring *r = arg;
	char msg[HEAD] __attribute__((aligned(8)));

	thread_signals();
	pthread_mutex_lock(&r->work_lock);
	for (;;) {
		struct entry *e = r->work;
		struct fuse_in_header *h;

		if (!e && r->stopping)
			break;
		if (!e) {
			pthread_cond_wait(&r->more, &r->work_lock);
			continue;
		}
		r->work = e->next;
		if (!r->work)
			r->work_tail = &r->work;
		pthread_mutex_unlock(&r->work_lock);
		h = (struct fuse_in_header *)e->msg;
		memcpy(msg, h, h->len);
		serve(r->s, (struct fuse_in_header *)msg, e->payload);
		pthread_mutex_lock(&r->work_lock);
	}
	pthread_mutex_unlock(&r->work_lock);
	return NULL;
}

static int takes_long(const struct queue *q, const struct fuse_in_header *h, uint64_t now)
{
	switch (h->opcode) {
	case FUSE_READ:
		return ((const struct fuse_read_in *)(h + 1))->size > INLINE_READ || now < q->slow_until;
	case FUSE_OPENDIR:
	case FUSE_READDIR:
	case FUSE_READDIRPLUS:
		return 1;
	case FUSE_WRITE: /* passed on, as all that may be too long for a worker's buffer */
	case FUSE_SETXATTR:
		return 0;
	default:
		return now < q->slow_until;
	}
}

static void request(struct queue *q, struct entry *e)
{
	struct ring *r = q->ring;
	struct fuse_in_header h;
	size_t payload = e->header->ent.payload_sz, op;
	uint64_t now = now_ns(CLOCK_MONOTONIC), end;
	struct entry **at;

	memcpy(&h, e->header->in_out, sizeof h);
	op = h.len - sizeof h - payload;
	e->unique = h.unique;
	e->msg = e->payload - ((op + sizeof h + 7) & ~7ul);
	pthread_mutex_lock(&r->held_lock);
	at = &r->held[(h.unique >> 1) % HELD];
	e->held = *at;
	*at = e;
	pthread_mutex_unlock(&r->held_lock);
	if (op > sizeof e->header->op_in || payload > PAYLOAD) { /* not of a kernel that we know */
		reply(r->s, h.unique, -EIO, NULL, 0);
		return;
	}
	memcpy(e->msg, &h, sizeof h);
	memcpy(e->msg + sizeof h, e->header->op_in, op);
	if (op % 8) /* no struct of today's: the message must be aligned, so what follows moves up to it */
		memmove(e->msg + sizeof h + op, e->payload, payload);
	if (r->nworkers && h.len <= HEAD && takes_long(q, (struct fuse_in_header *)e->msg, now)) {
		pthread_mutex_lock(&r->work_lock);
		e->next = NULL;
		*r->work_tail = e;
		r->work_tail = &e->next;
		pthread_cond_signal(&r->more);
		pthread_mutex_unlock(&r->work_lock);
		return;
	}
	serve(r->s, (struct fuse_in_header *)e->msg, e->payload);
	end = now_ns(CLOCK_MONOTONIC);
	if (end - now > SLOW_NS)
		q->slow_until = end + SLOW_FOR_NS;
}

/* ---- a queue's life ---- */

static void reap(struct queue *q)
{
	struct io_uring_cqe c;

	while (uring_pop(&q->u, &c)) {
		struct entry *e = (void *)(uintptr_t)c.user_data;

		if (!e)
			take_done(q);
		else if (c.res < 0) { /* refused, or the connection is over: the entry is lost */
			q->err = c.res;
			q->alive--;
		} else
			request(q, e);
	}
}

/* Tells the starter how far this queue is: first set up, then registered. */
static int step(struct queue *q, int *count, const int *wait_for)
{
	struct ring *r = q->ring;
	int go;

	pthread_mutex_lock(&r->lock);
	++*count;
	pthread_cond_broadcast(&r->changed);
	while (wait_for && !*wait_for && !r->stopping)
		pthread_cond_wait(&r->changed, &r->lock);
	go = !r->stopping;
	pthread_mutex_unlock(&r->lock);
	return go;
}

void *queue_thread(void *arg)
{
	struct queue *q = own = arg;
	struct ring *r = q->ring;
	struct sched_param zero = {0};
	cpu_set_t *cpu = CPU_ALLOC(MAX_CPUS);
	int registered = 0;

	thread_signals();
	if (cpu) { /* a CPU that is offline, or not ours to use: anywhere, then */
		CPU_ZERO_S(CPU_ALLOC_SIZE(MAX_CPUS), cpu);
		CPU_SET_S((size_t)q->id, CPU_ALLOC_SIZE(MAX_CPUS), cpu);
		pthread_setaffinity_np(pthread_self(), CPU_ALLOC_SIZE(MAX_CPUS), cpu);
		CPU_FREE(cpu);
	}
	/* RELEASE must not preempt the reader that closes a file: it is answered together with that reader's next OPEN,
	 * once the reader sleeps. Measured: one switch a file instead of two. */
	pthread_setschedparam(pthread_self(), SCHED_BATCH, &zero);
	q->err = queue_open(q);
	if (!step(q, &r->ready, &r->started) || q->err)
		return NULL;
	submit_wake(q);
	for (int i = 0; i < r->depth; i++)
		submit(q, &q->entries[i], CMD_REGISTER);
	q->alive = r->depth;
	while (!r->stopping && q->alive) {
		if (uring_enter(&q->u, (unsigned)registered) < 0)
			break;
		reap(q);
		if (!registered && !q->u.unsubmitted) {
			registered = 1;
			step(q, &r->ready, NULL);
		}
	}
	if (!registered)
		step(q, &r->ready, NULL);
	return NULL;
}

