/* test_kit_ring.c: io_uring as far as FUSE needs it, played by the test: syscall(2) is wrapped, a ring is a memfd. The
 * kernel's side of a ring runs in io_uring_enter, as its task work does. */
#include "test_kit.h"
#include "uring.h"

#include <poll.h>
#include <stdarg.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#define RINGS 8
#define ENTRIES 1024
enum { CQ_HEAD = 16, CQ_TAIL = 20, CQ_MASK = 24, ARRAY = 4096 };

struct fuse_ent { /* an entry as the kernel knows it */
	uint64_t user_data, unique;
	char *header, *payload;
};
struct want { /* a request that no entry has taken yet */
	struct want *next;
	size_t n;
	char msg[];
};
static struct fake {
	int fd, poke, qid, wakefd;
	char *map, *sqes;
	uint32_t entries, cqes_at, sq_head;
	uint64_t wake_data, *wake_at;
	struct fuse_ent avail[ENTRIES], sent[ENTRIES];
	int navail, nsent;
	struct want *wanted;
} fakes[RINGS];
static int nfakes, turn, live;
static int answers_to = -1;
static pthread_mutex_t ring_lock = PTHREAD_MUTEX_INITIALIZER;
_Atomic int kit_ring_errno, kit_ring_refuse;
char kit_ring_param[16]; /* what was written to the module's parameter */
static int param_fd = -1;

void *__real_malloc(size_t n);
long __real_syscall(long number, ...);
long __wrap_syscall(long number, ...);
int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __real_access(const char *path, int mode);
int __wrap_access(const char *path, int mode);
ssize_t __wrap_pwrite(int fd, const void *p, size_t n, off_t at);
ssize_t __real_pwrite(int fd, const void *p, size_t n, off_t at);

static uint32_t *word(struct fake *f, size_t at)
{
	return (uint32_t *)(f->map + at);
}

static void complete(struct fake *f, uint64_t user_data, int res)
{
	uint32_t tail = *word(f, CQ_TAIL);
	struct io_uring_cqe *c = (struct io_uring_cqe *)(f->map + f->cqes_at) + (tail & *word(f, CQ_MASK));

	c->user_data = user_data;
	c->res = res;
	__atomic_store_n(word(f, CQ_TAIL), tail + 1, __ATOMIC_RELEASE);
}

/* Offsets of the kernel's include/uapi/linux/fuse.h: 128 bytes of header, 128 of the operation, then the entry's. */
static void commit(struct fake *f, uint64_t unique)
{
	struct fuse_out_header h;
	struct fuse_ent e;
	uint32_t size;
	int i;

	for (i = 0; i < f->nsent && f->sent[i].unique != unique; i++)
		;
	CHECK(i < f->nsent); /* committed once, in its own queue */
	e = f->sent[i];
	f->sent[i] = f->sent[--f->nsent];
	memcpy(&h, e.header, sizeof h);
	memcpy(&size, e.header + 256 + 16, sizeof size);
	EQUAL(h.unique, unique);
	EQUAL(h.len, sizeof h + size);
	struct iovec v[2] = {{&h, sizeof h}, {e.payload, size}};
	EQUAL(writev(answers_to, v, 2), h.len);
	f->avail[f->navail++] = e;
}

static size_t own_struct(const struct fuse_in_header *h)
{
	switch (h->opcode) {
	case FUSE_LOOKUP:
	case FUSE_UNLINK:
		return 0;
	case FUSE_SETXATTR:
		return 8;
	case FUSE_WRITE:
		return sizeof(struct fuse_write_in);
	case FUSE_GETXATTR:
	case FUSE_LISTXATTR:
		return sizeof(struct fuse_getxattr_in);
	default:
		return h->len - sizeof *h < 128 ? h->len - sizeof *h : 128;
	}
}

static void dispatch(struct fake *f)
{
	while (f->wanted && f->navail) {
		struct want *w = f->wanted;
		struct fuse_in_header *h = (struct fuse_in_header *)w->msg;
		struct fuse_ent e = f->avail[--f->navail];
		size_t op = own_struct(h), more = w->n - sizeof *h - op;
		uint64_t tail[4] = {0, h->unique, more, 0};

		f->wanted = w->next;
		memcpy(e.header, h, sizeof *h);
		memcpy(e.header + 128, h + 1, op);
		memcpy(e.header + 256, tail, sizeof tail);
		memcpy(e.payload, (char *)(h + 1) + op, more);
		e.unique = h->unique;
		f->sent[f->nsent++] = e;
		complete(f, e.user_data, 0);
		free(w);
	}
}

static void consume(struct fake *f, const struct io_uring_sqe *s)
{
	uint64_t commit_id;
	uint16_t qid;

	if (s->opcode == IORING_OP_READ) {
		f->wakefd = s->fd;
		f->wake_data = s->user_data;
		f->wake_at = (uint64_t *)(uintptr_t)s->addr;
		return;
	}
	EQUAL(s->opcode, IORING_OP_URING_CMD);
	memcpy(&commit_id, s->cmd + 8, 8);
	memcpy(&qid, s->cmd + 16, 2);
	f->qid = qid;
	if (s->cmd_op == 1 && kit_ring_refuse)
		complete(f, s->user_data, -kit_ring_refuse);
	else if (s->cmd_op == 1) {
		const struct iovec *v = (const struct iovec *)(uintptr_t)s->addr;

		EQUAL(s->len, 2);
		CHECK(v[0].iov_len >= 288 && v[1].iov_len >= 1 << 20 && f->navail < ENTRIES);
		f->avail[f->navail++] = (struct fuse_ent){s->user_data, 0, v[0].iov_base, v[1].iov_base};
	} else {
		EQUAL(s->cmd_op, 2);
		commit(f, commit_id);
	}
}

static long enter(struct fake *f, uint32_t submit, uint32_t wait_for)
{
	for (;;) {
		struct pollfd p[2] = {{.fd = f->poke, .events = POLLIN}, {.fd = -1, .events = POLLIN}};
		uint64_t count;

		pthread_mutex_lock(&ring_lock);
		for (; f->sq_head != __atomic_load_n(word(f, 4), __ATOMIC_ACQUIRE); f->sq_head++)
			consume(f, (void *)(f->sqes + (size_t)(f->sq_head & *word(f, 8)) * 128));
		dispatch(f);
		p[1].fd = f->wakefd;
		pthread_mutex_unlock(&ring_lock);
		if (!wait_for || *word(f, CQ_TAIL) != __atomic_load_n(word(f, CQ_HEAD), __ATOMIC_ACQUIRE))
			return submit;
		CHECK(poll(p, 2, -1) > 0);
		if (p[0].revents)
			CHECK(read(f->poke, &count, 8) == 8);
		if (p[1].revents) {
			CHECK(read(f->wakefd, f->wake_at, 8) == 8);
			f->wakefd = -1;
			complete(f, f->wake_data, 8);
		}
	}
}

static long setup(uint32_t entries, struct io_uring_params *p)
{
	struct fake *f;

	if (kit_ring_errno) {
		errno = kit_ring_errno;
		return -1;
	}
	pthread_mutex_lock(&ring_lock);
	CHECK(nfakes < RINGS && entries <= ENTRIES && !(entries & (entries - 1)));
	f = &fakes[nfakes++];
	pthread_mutex_unlock(&ring_lock);
	CHECK(p->flags == (IORING_SETUP_SQE128 | IORING_SETUP_CQSIZE | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN));
	memset(f, 0, sizeof *f);
	f->wakefd = -1;
	f->entries = entries;
	f->cqes_at = ARRAY + entries * 4;
	f->poke = eventfd(0, EFD_CLOEXEC);
	f->fd = memfd_create("ring", MFD_CLOEXEC);
	CHECK(f->fd >= 0 && f->poke >= 0 && !ftruncate(f->fd, IORING_OFF_SQES + entries * 128));
	f->map = mmap(NULL, f->cqes_at + entries * 32, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd, 0);
	f->sqes = mmap(NULL, entries * 128, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd, IORING_OFF_SQES);
	CHECK(f->map != MAP_FAILED && f->sqes != MAP_FAILED);
	*word(f, 8) = entries - 1;
	*word(f, CQ_MASK) = p->cq_entries - 1;
	p->sq_entries = entries;
	p->sq_off = (struct io_sqring_offsets){.head = 0, .tail = 4, .ring_mask = 8, .array = ARRAY};
	p->cq_off = (struct io_cqring_offsets){.head = CQ_HEAD, .tail = CQ_TAIL, .ring_mask = CQ_MASK, .cqes = f->cqes_at};
	return f->fd;
}

long __wrap_syscall(long number, ...)
{
	long a[6];
	va_list ap;

	va_start(ap, number);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(ap, long);
	va_end(ap);
	if (number == SYS_io_uring_setup)
		return setup((uint32_t)a[0], (void *)a[1]);
	if (number == SYS_io_uring_register)
		return 0;
	if (number == SYS_io_uring_enter)
		for (int i = 0; i < RINGS; i++)
			if (fakes[i].map && fakes[i].fd == (int)a[0])
				return enter(&fakes[i], (uint32_t)a[1], (uint32_t)a[2]);
	return __real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

/* The module's parameter: the host's is left alone. */
int __wrap_access(const char *path, int mode)
{
	return strstr(path, "enable_uring") ? 0 : __real_access(path, mode);
}

int __wrap_open(const char *path, int flags, ...)
{
	va_list ap;
	int mode;

	va_start(ap, flags);
	mode = flags & O_CREAT ? va_arg(ap, int) : 0;
	va_end(ap);
	if (!strstr(path, "enable_uring"))
		return __real_open(path, flags, mode);
	param_fd = memfd_create("parameter", MFD_CLOEXEC);
	CHECK(__real_pwrite(param_fd, "N\n", 2, 0) == 2);
	return param_fd;
}

ssize_t __wrap_pwrite(int fd, const void *p, size_t n, off_t at)
{
	if (fd == param_fd && fd >= 0 && n == 1)
		strncat(kit_ring_param, p, 1);
	return __real_pwrite(fd, p, n, at);
}

/* ---- for the kit ---- */

void kit_ring_begin(int device)
{
	answers_to = device;
	nfakes = turn = 0;
	kit_ring_param[0] = 0;
	live = 1;
}

int kit_ring_takes(const struct iovec *v, int n)
{
	const struct fuse_in_header *h = v[0].iov_base;
	uint64_t one = 1;
	struct fake *f;
	struct want *w, **at;
	size_t size = 0;

	for (int i = 0; i < n; i++)
		size += v[i].iov_len;
	if (h->opcode == FUSE_FORGET || h->opcode == FUSE_BATCH_FORGET || h->opcode == FUSE_INTERRUPT || h->opcode == FUSE_INIT)
		return 0;
	pthread_mutex_lock(&ring_lock);
	f = nfakes && live ? &fakes[turn++ % nfakes] : NULL;
	if (f && (f->navail || f->nsent)) { /* it has entries: the ring is ready */
		w = __real_malloc(sizeof *w + size);
		w->next = NULL;
		w->n = 0;
		for (int i = 0; i < n; w->n += v[i++].iov_len)
			if (v[i].iov_len)
				memcpy(w->msg + w->n, v[i].iov_base, v[i].iov_len);
		for (at = &f->wanted; *at; at = &(*at)->next)
			;
		*at = w;
		CHECK(__real_syscall(SYS_write, f->poke, &one, 8) == 8);
	} else
		f = NULL;
	pthread_mutex_unlock(&ring_lock);
	return f != NULL;
}

void kit_ring_end(void)
{
	pthread_mutex_lock(&ring_lock);
	for (int i = 0; i < nfakes; i++) {
		struct fake *f = &fakes[i];

		for (struct want *w = f->wanted, *next; w; w = next) {
			next = w->next;
			free(w);
		}
		munmap(f->map, f->cqes_at + f->entries * 32);
		munmap(f->sqes, f->entries * 128);
		close(f->poke);
		f->map = NULL;
	}
	nfakes = live = 0;
	pthread_mutex_unlock(&ring_lock);
}
