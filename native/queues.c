/* queues.c: how the ring of ring.c is made, started and ended. All queues are there, one for each CPU that the host may
 * have, or none: the kernel takes to the ring when the last of them is registered. */
#include "ring.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#define ENABLE "/sys/module/fuse/parameters/enable_uring"

int queue_open(struct queue *q)
{
	size_t depth = (size_t)q->ring->depth;
	int r = uring_open(&q->u, (uint32_t)depth + 1, q->ring->s->dev);

	if (r < 0)
		return r;
	q->wakefd = eventfd(0, EFD_CLOEXEC);
	q->entries = calloc(depth, sizeof *q->entries);
	q->arena = mmap(NULL, depth * EACH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (q->wakefd < 0 || !q->entries || q->arena == MAP_FAILED)
		return -ENOMEM;
	/* The kernel takes the entry that was free last first: few are ever touched. */
	madvise(q->arena, depth * EACH, MADV_NOHUGEPAGE);
	madvise(q->arena, depth * EACH, MADV_DONTFORK);
	for (size_t i = 0; i < depth; i++) {
		struct entry *e = &q->entries[i];

		e->q = q;
		e->header = (struct ring_header *)(q->arena + i * EACH);
		e->payload = q->arena + i * EACH + HEAD;
		e->iov[0] = (struct iovec){e->header, sizeof *e->header};
		e->iov[1] = (struct iovec){e->payload, PAYLOAD};
	}
	return 0;
}

static void queue_close(struct queue *q)
{
	uring_close(&q->u);
	if (q->arena != MAP_FAILED)
		munmap(q->arena, (size_t)q->ring->depth * EACH);
	if (q->wakefd >= 0)
		close(q->wakefd);
	free(q->entries);
	pthread_mutex_destroy(&q->lock);
}

static int possible_cpus(void)
{
	char text[16] = "";
	int fd = open("/sys/devices/system/cpu/possible", O_RDONLY | O_CLOEXEC), n = 0;

	if (fd >= 0) {
		n = (int)read(fd, text, sizeof text - 1);
		close(fd);
	}
	if (n < 2 || text[0] != '0' || strchr(text, ',')) /* numbers with gaps: the kernel has fewer queues than numbers */
		return -EOPNOTSUPP;
	n = text[1] == '-' ? atoi(text + 2) + 1 : 1;
	return n > MAX_CPUS ? -EOPNOTSUPP : n;
}

/* In the pump, which alone starts the ring. All queues are there afterwards, or none. */
int ring_prepare(sw_session *s)
{
	int n = access(ENABLE, F_OK) ? -EOPNOTSUPP : possible_cpus(), err = 0;
	struct ring *r;

	if (n < 0)
		return n;
	r = calloc(1, sizeof *r + (size_t)n * sizeof r->queues[0]);
	if (!r)
		return -ENOMEM;
	r->s = s;
	r->depth = 1024 / n < 32 ? 32 : 1024 / n > 256 ? 256 : 1024 / n;
	r->work_tail = &r->work;
	pthread_mutex_init(&r->lock, NULL);
	pthread_mutex_init(&r->held_lock, NULL);
	pthread_mutex_init(&r->work_lock, NULL);
	pthread_cond_init(&r->changed, NULL);
	pthread_cond_init(&r->more, NULL);
	for (; r->nqueues < n && !err; r->nqueues += !err) {
		struct queue *q = &r->queues[r->nqueues];

		*q = (struct queue){.ring = r, .id = r->nqueues, .u = URING_NONE, .wakefd = -1, .arena = MAP_FAILED};
		pthread_mutex_init(&q->lock, NULL);
		err = -pthread_create(&q->thread, NULL, queue_thread, q);
	}
	while (!err && r->nworkers < WORKERS && !pthread_create(&r->workers[r->nworkers], NULL, worker_thread, r))
		r->nworkers++;
	pthread_mutex_lock(&r->lock);
	while (r->ready < r->nqueues)
		pthread_cond_wait(&r->changed, &r->lock);
	pthread_mutex_unlock(&r->lock);
	for (int i = 0; i < r->nqueues && !err; i++)
		err = r->queues[i].err;
	s->ring = r;
	if (err)
		ring_stop(s);
	return err;
}

/* The kernel looks at its parameter when INIT is answered: it is Y for this one answer, and then what it was. (Killed in
 * between, we leave it at Y: other FUSE servers may then use rings if they ask for them.) */
int ring_answer_init(sw_session *s, const void *msg, size_t n)
{
	struct timespec tick = {.tv_nsec = 1000000};
	int fd = open(ENABLE, O_RDWR | O_CLOEXEC), tries = 0;
	char was = 0;
	int r;

	while (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0 && tries++ < 100) /* against another mount that starts */
		nanosleep(&tick, NULL);
	if (fd >= 0 && (pread(fd, &was, 1, 0) != 1 || (was == 'N' && pwrite(fd, "Y", 1, 0) != 1)))
		was = 0; /* the kernel will refuse the entries: ring_start sees it */
	r = write(s->dev, msg, n) < 0 ? -errno : 0;
	if (was == 'N' && pwrite(fd, "N", 1, 0) != 1)
		was = 0; /* nothing to be done about it */
	if (fd >= 0)
		close(fd);
	return r;
}

/* 1, or why the kernel refused: then it sends its requests to the device after all. */
int ring_start(sw_session *s)
{
	struct ring *r = s->ring;
	int works = 1;

	pthread_mutex_lock(&r->lock);
	r->started = 1;
	r->ready = 0;
	pthread_cond_broadcast(&r->changed);
	while (r->ready < r->nqueues)
		pthread_cond_wait(&r->changed, &r->lock);
	pthread_mutex_unlock(&r->lock);
	for (int i = 0; i < r->nqueues; i++)
		if (r->queues[i].err)
			works = r->queues[i].err;
	return works;
}

/* When nobody else answers any more, and before the device is closed. */
void ring_stop(sw_session *s)
{
	struct ring *r = s->ring;

	if (!r)
		return;
	pthread_mutex_lock(&r->lock);
	r->stopping = 1;
	pthread_cond_broadcast(&r->changed);
	pthread_mutex_unlock(&r->lock);
	for (int i = 0; i < r->nqueues; i++) {
		if (r->queues[i].wakefd >= 0)
			eventfd_write(r->queues[i].wakefd, 1);
		pthread_join(r->queues[i].thread, NULL);
	}
	pthread_mutex_lock(&r->work_lock); /* a worker that has just looked is waiting now */
	pthread_cond_broadcast(&r->more);
	pthread_mutex_unlock(&r->work_lock);
	for (int i = 0; i < r->nworkers; i++)
		pthread_join(r->workers[i], NULL);
	for (int i = 0; i < r->nqueues; i++)
		queue_close(&r->queues[i]);
	s->ring = NULL;
	free(r);
}
