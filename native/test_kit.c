/* test_kit.c: see test_kit.h. */
#include "test_kit.h"

#include <dirent.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <sys/uio.h>

#define WAIT_MS 10000 /* for what another thread does at once: only a hang takes so long */

_Atomic unsigned long kit_checks;
_Atomic long kit_alloc_left = -1;
_Atomic int kit_backing_errno;
struct sw_config kit_config;
int kit_on_device;
static _Atomic int device = -1;
static pthread_mutex_t fault_lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t gone[64];
static int ngone;
static struct { int fd; } backing[65536]; /* fd + 1; 0 is closed */
static int nbacking, live_backings;

void __sanitizer_print_stack_trace(void);

void kit_fail(const char *file, int line, const char *what, int values, long long a, long long b)
{
	kit_alloc_left = -1;
	fprintf(stderr, "%s:%d: not so: %s", file, line, what);
	if (values)
		fprintf(stderr, " (%lld, %lld)", a, b);
	fputc('\n', stderr);
	__sanitizer_print_stack_trace();
	_exit(1);
}

int kit_done(void)
{
	printf("%s: %lu checks passed\n", program_invocation_short_name, (unsigned long)kit_checks);
	return 0;
}

/* ---- faults: the linker puts these in front of libc's ---- */

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t m);
void *__real_realloc(void *p, size_t n);
ssize_t __real_read(int fd, void *p, size_t n);
ssize_t __real_write(int fd, const void *p, size_t n);
ssize_t __real_writev(int fd, const struct iovec *v, int n);
int __real_ioctl(int fd, unsigned long request, void *arg);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t m);
void *__wrap_realloc(void *p, size_t n);
ssize_t __wrap_read(int fd, void *p, size_t n);
ssize_t __wrap_write(int fd, const void *p, size_t n);
ssize_t __wrap_writev(int fd, const struct iovec *v, int n);
int __wrap_ioctl(int fd, unsigned long request, ...);

static int no_memory(void)
{
	if (kit_alloc_left < 0)
		return 0;
	if (kit_alloc_left > 0) {
		kit_alloc_left--;
		return 0;
	}
	return 1;
}

void *__wrap_malloc(size_t n)
{
	return no_memory() ? NULL : __real_malloc(n);
}

void *__wrap_calloc(size_t n, size_t m)
{
	return no_memory() ? NULL : __real_calloc(n, m);
}

void *__wrap_realloc(void *p, size_t n)
{
	return no_memory() ? NULL : __real_realloc(p, n);
}

ssize_t __wrap_read(int fd, void *p, size_t n)
{
	ssize_t r = __real_read(fd, p, n);

	if (r == 0 && fd == device) {
		errno = ENODEV; /* unmounted */
		return -1;
	}
	return r;
}

void kit_gone(uint64_t unique)
{
	pthread_mutex_lock(&fault_lock);
	gone[ngone++ % 64] = unique;
	pthread_mutex_unlock(&fault_lock);
}

static int is_gone(uint64_t unique)
{
	int found = 0;

	pthread_mutex_lock(&fault_lock);
	for (int i = 0; i < 64; i++)
		found |= unique && gone[i] == unique;
	pthread_mutex_unlock(&fault_lock);
	return found;
}

ssize_t __wrap_write(int fd, const void *p, size_t n)
{
	if (fd == device && is_gone(((const struct fuse_out_header *)p)->unique)) {
		errno = ENOENT;
		return -1;
	}
	return __real_write(fd, p, n);
}

ssize_t __wrap_writev(int fd, const struct iovec *v, int n)
{
	if (fd == device && is_gone(((const struct fuse_out_header *)v[0].iov_base)->unique)) {
		errno = ENOENT;
		return -1;
	}
	return __real_writev(fd, v, n);
}

static int backing_ioctl(unsigned long request, void *arg)
{
	int r = -1, at;

	pthread_mutex_lock(&fault_lock);
	if (request == FUSE_DEV_IOC_BACKING_OPEN) {
		errno = kit_backing_errno;
		at = ++nbacking;
		if (!kit_backing_errno) {
			CHECK(at < 65536);
			backing[at].fd = fcntl(((struct fuse_backing_map *)arg)->fd, F_DUPFD_CLOEXEC, 1000) + 1;
			CHECK(backing[at].fd > 0);
			live_backings++;
			r = at;
		}
	} else {
		at = (int)*(uint32_t *)arg;
		CHECK(at > 0 && at <= nbacking && backing[at].fd); /* closed once, and only if it was given out */
		close(backing[at].fd - 1);
		backing[at].fd = 0;
		live_backings--;
		r = 0;
	}
	pthread_mutex_unlock(&fault_lock);
	return r;
}

int __wrap_ioctl(int fd, unsigned long request, ...)
{
	va_list ap;
	void *arg;

	va_start(ap, request);
	arg = va_arg(ap, void *);
	va_end(ap);
	if (request == FUSE_DEV_IOC_BACKING_OPEN || request == FUSE_DEV_IOC_BACKING_CLOSE)
		return backing_ioctl(request, arg);
	return __real_ioctl(fd, request, arg);
}

int kit_backings(void)
{
	int n;

	pthread_mutex_lock(&fault_lock);
	n = live_backings;
	pthread_mutex_unlock(&fault_lock);
	return n;
}

int kit_backing_is(int32_t id, int fd)
{
	struct stat a, b;
	int r;

	pthread_mutex_lock(&fault_lock);
	r = id > 0 && id <= nbacking && backing[id].fd && !fstat(backing[id].fd - 1, &a) && !fstat(fd, &b) &&
	    a.st_ino == b.st_ino && a.st_dev == b.st_dev;
	pthread_mutex_unlock(&fault_lock);
	return r;
}

ssize_t kit_backing_read(int32_t id, void *buf, size_t n, off_t at)
{
	ssize_t r = -1;

	pthread_mutex_lock(&fault_lock);
	errno = EBADF;
	if (id > 0 && id <= nbacking && backing[id].fd)
		r = pread(backing[id].fd - 1, buf, n, at);
	pthread_mutex_unlock(&fault_lock);
	return r;
}

static void backings_forget(void) /* the device is closed: the kernel drops what is registered */
{
	pthread_mutex_lock(&fault_lock);
	for (int i = 1; i <= nbacking; i++)
		if (backing[i].fd) {
			close(backing[i].fd - 1);
			backing[i].fd = 0;
		}
	nbacking = live_backings = 0;
	pthread_mutex_unlock(&fault_lock);
}

/* ---- places ---- */

int kit_count_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	int n = 0;

	CHECK(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

void kit_defaults(void)
{
	kit_on_device = 0;
	kit_config = (struct sw_config){
		.local = 1,
		.hot = 1,
		.passthrough = 1,
		.threads = 2,
		.idle_nodes = 1000,
		.max_backing = 1000,
		.check = 1,
		.check_ns = 3600ull * 1000000000ull,
		.meta_ns = 3600ull * 1000000000ull,
	};
}

struct kit *kit_new(void)
{
	struct kit *k = calloc(1, sizeof *k);
	char path[128];
	int err;

	CHECK(k);
	k->fds = kit_count_fds();
	k->kernel = k->peer = -1;
	k->unique = 2;
	k->pid = (uint32_t)getpid();
	strcpy(k->dir, "/tmp/swmld-test-XXXXXX");
	CHECK(mkdtemp(k->dir));
	for (int i = 0; i < 2; i++) {
		snprintf(path, sizeof path, "%s/%s", k->dir, i ? "data" : "source");
		CHECK(!mkdir(path, 0755));
		*(i ? &k->data : &k->root) = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	}
	kit_config.root_fd = k->root;
	kit_config.data_fd = k->data;
	k->s = sw_new(&kit_config, &err);
	EQUAL(err, 0);
	CHECK(k->s);
	return k;
}

void kit_start(struct kit *k)
{
	int pair[2], size = 16 << 20;

	CHECK(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
	for (int i = 0; i < 2; i++) {
		setsockopt(pair[i], SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size);
		setsockopt(pair[i], SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
	}
	memset(gone, 0, sizeof gone);
	k->kernel = pair[0];
	k->s->dev = device = pair[1];
	kit_ring_begin(device);
	k->peer = sw_start(k->s);
	CHECK(k->peer >= 0);
	if (getenv("KIT_RING") && !kit_on_device) {
		EQUAL(ring_prepare(k->s), 0);
		k->s->uring = ring_start(k->s);
		EQUAL(k->s->uring, 1);
	}
}

void kit_init(struct kit *k)
{
	struct fuse_init_in in = {.major = 7, .minor = 40, .max_readahead = 131072};
	struct fuse_init_out out = {.major = 7, .minor = 38, .max_write = 1 << 20};
	uint64_t u = k_send(k, FUSE_INIT, 0, &in, sizeof in, NULL, 0);
	struct fuse_in_header *h = p_recv(k);

	EQUAL(h->opcode, FUSE_INIT);
	p_reply(k, u, 0, &out, sizeof out);
	EQUAL(k_answer(k, u, NULL, NULL), 0);
	while (sw_passthrough_works(k->s) != (k->s->config.passthrough && k->s->config.hot))
		sched_yield();
}

struct kit *kit_remote(uint64_t check_ns)
{
	struct kit *k;

	kit_config.local = 0;
	kit_config.check = 1;
	kit_config.check_ns = check_ns;
	k = kit_new();
	kit_start(k);
	kit_init(k);
	return k;
}

void kit_free(struct kit *k)
{
	char command[128];

	kit_alloc_left = -1;
	sw_stop(k->s);
	kit_ring_end();
	device = -1;
	backings_forget();
	sw_free(k->s);
	for (uint32_t i = 0; i < k->nstash; i++)
		free(k->stash[i].msg);
	if (k->kernel >= 0)
		close(k->kernel);
	if (k->peer >= 0)
		close(k->peer);
	close(k->root);
	close(k->data);
	EQUAL(kit_count_fds(), k->fds);
	snprintf(command, sizeof command, "rm -rf %s", k->dir);
	CHECK(!system(command));
	free(k);
}

void kit_file(int dir, const char *name, const char *data)
{
	int fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	CHECK(fd >= 0);
	EQUAL(write(fd, data, strlen(data)), strlen(data));
	close(fd);
}

uint64_t kit_data_file(struct kit *k, uint64_t file_id, const void *data, size_t n)
{
	char path[64];
	int fd;

	snprintf(path, sizeof path, "%02x", (unsigned)(file_id & 0xff));
	CHECK(!mkdirat(k->data, path, 0755) || errno == EEXIST);
	snprintf(path, sizeof path, "%02x/%llu", (unsigned)(file_id & 0xff), (unsigned long long)file_id);
	fd = openat(k->data, path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	CHECK(fd >= 0);
	EQUAL(write(fd, data, n), n);
	close(fd);
	return file_id;
}

/* ---- the kernel's part ---- */

static int readable(int fd, int ms)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	return poll(&p, 1, ms) == 1;
}

void k_raw(struct kit *k, const struct iovec *v, int n)
{
	if (!kit_ring_takes(v, n))
		CHECK(writev(k->kernel, v, n) > 0);
}

uint64_t k_send(struct kit *k, uint32_t opcode, uint64_t nodeid, const void *arg, size_t n, const void *more, size_t m)
{
	struct fuse_in_header h = {.len = (uint32_t)(sizeof h + n + m), .opcode = opcode, .unique = k->unique += 2,
				   .nodeid = nodeid, .pid = k->pid};
	struct iovec v[3] = {{&h, sizeof h}, {(void *)(uintptr_t)arg, n}, {(void *)(uintptr_t)more, m}};

	k_raw(k, v, 3);
	return h.unique;
}

static ssize_t next_answer(struct kit *k, char *msg)
{
	ssize_t n;

	CHECK(readable(k->kernel, WAIT_MS));
	n = recv(k->kernel, msg, SW_MSG_MAX, 0);
	CHECK(n >= (ssize_t)sizeof(struct fuse_out_header));
	EQUAL(((struct fuse_out_header *)msg)->len, n);
	return n;
}

int k_answer(struct kit *k, uint64_t unique, void **body, size_t *size)
{
	static char msg[SW_MSG_MAX] __attribute__((aligned(16)));
	struct fuse_out_header *h = (struct fuse_out_header *)msg;
	ssize_t n = -1;

	for (uint32_t i = 0; i < k->nstash && n < 0; i++)
		if (k->stash[i].unique == unique) {
			n = k->stash[i].n;
			memcpy(msg, k->stash[i].msg, (size_t)n);
			free(k->stash[i].msg);
			k->stash[i] = k->stash[--k->nstash];
		}
	while (n < 0) {
		n = next_answer(k, msg);
		if (h->unique == unique)
			break;
		CHECK(k->nstash < 64);
		k->stash[k->nstash].unique = h->unique;
		k->stash[k->nstash].n = n;
		k->stash[k->nstash].msg = malloc((size_t)n);
		memcpy(k->stash[k->nstash++].msg, msg, (size_t)n);
		n = -1;
	}
	if (body)
		*body = msg + sizeof *h;
	if (size)
		*size = (size_t)n - sizeof *h;
	return h->error;
}

int k_silent(struct kit *k)
{
	return !k->nstash && !readable(k->kernel, 0);
}

int k_lookup(struct kit *k, uint64_t parent, const char *name, struct fuse_entry_out *e)
{
	void *body;
	int r = k_answer(k, k_send(k, FUSE_LOOKUP, parent, name, strlen(name) + 1, NULL, 0), &body, NULL);

	if (!r)
		memcpy(e, body, sizeof *e);
	return r;
}

int k_getattr(struct kit *k, uint64_t nodeid, struct fuse_attr_out *a)
{
	struct fuse_getattr_in in = {0};
	void *body;
	int r = k_answer(k, k_send(k, FUSE_GETATTR, nodeid, &in, sizeof in, NULL, 0), &body, NULL);

	if (!r)
		memcpy(a, body, sizeof *a);
	return r;
}

int k_open(struct kit *k, uint64_t nodeid, uint32_t flags, struct fuse_open_out *o)
{
	struct fuse_open_in in = {.flags = flags};
	void *body;
	int r = k_answer(k, k_send(k, FUSE_OPEN, nodeid, &in, sizeof in, NULL, 0), &body, NULL);

	if (!r)
		memcpy(o, body, sizeof *o);
	return r;
}

uint64_t k_read(struct kit *k, uint64_t nodeid, uint64_t fh, uint64_t offset, uint32_t size)
{
	struct fuse_read_in in = {.fh = fh, .offset = offset, .size = size};

	return k_send(k, FUSE_READ, nodeid, &in, sizeof in, NULL, 0);
}

int k_release(struct kit *k, uint64_t nodeid, uint64_t fh)
{
	struct fuse_release_in in = {.fh = fh};

	return k_answer(k, k_send(k, FUSE_RELEASE, nodeid, &in, sizeof in, NULL, 0), NULL, NULL);
}

void k_forget(struct kit *k, uint64_t nodeid, uint64_t count)
{
	struct fuse_forget_in in = {.nlookup = count};

	k_send(k, FUSE_FORGET, nodeid, &in, sizeof in, NULL, 0);
}

void k_interrupt(struct kit *k, uint64_t unique)
{
	struct fuse_interrupt_in in = {.unique = unique};
	struct fuse_in_header h = {.len = sizeof h + sizeof in, .opcode = FUSE_INTERRUPT, .unique = unique | 1, .pid = k->pid};
	struct iovec v[2] = {{&h, sizeof h}, {&in, sizeof in}};

	EQUAL(writev(k->kernel, v, 2), h.len);
}

/* ---- libfuse's part ---- */

struct fuse_in_header *p_recv(struct kit *k)
{
	static char msg[SW_MSG_MAX] __attribute__((aligned(16)));

	CHECK(readable(k->peer, WAIT_MS));
	CHECK(recv(k->peer, msg, sizeof msg, 0) >= (ssize_t)sizeof(struct fuse_in_header));
	return (struct fuse_in_header *)msg;
}

int p_silent(struct kit *k)
{
	return !readable(k->peer, 0);
}

void p_reply(struct kit *k, uint64_t unique, int err, const void *data, size_t n)
{
	struct fuse_out_header h = {.len = (uint32_t)(sizeof h + n), .error = err, .unique = unique};
	struct iovec v[2] = {{&h, sizeof h}, {(void *)(uintptr_t)data, n}};

	EQUAL(writev(k->peer, v, 2), h.len);
}

int kit_event(struct kit *k, struct sw_event *e)
{
	int n;

	for (;;) {
		CHECK(readable(sw_event_fd(k->s), WAIT_MS));
		n = sw_events(k->s, e, 1);
		if (n == 1)
			return (int)e->kind;
		EQUAL(n, 0); /* a wake-up whose event an earlier call took */
	}
}

int kit_wait(int (*done)(struct kit *), struct kit *k)
{
	struct timespec tick = {.tv_nsec = 200000};

	for (int i = 0; i < WAIT_MS * 5; i++) {
		if (done(k))
			return 1;
		nanosleep(&tick, NULL);
	}
	return 0;
}
