/* park.c and cfile.c: READs of partly cached files, answered now, later, by Python, or let go. */
#include "test_kit.h"

#include <sys/prctl.h>
#include <sys/wait.h>

#define CHUNK 4096
#define CHUNKS 20
#define SIZE (CHUNK * (CHUNKS - 1) + 100)

static struct kit *k;
static sw_session *s;
static struct sw_entry e;
static int64_t fh;
static char bytes[SIZE];
static int cache_fd;

/* A file of CHUNKS chunks, the last one short, open partly cached; chunks 0, 1 and the last are there. */
static void begin(void)
{
	unsigned char bits[3] = {3, 0, 1 << ((CHUNKS - 1) & 7)};

	kit_config.passthrough = 0;
	k = kit_new();
	s = k->s;
	kit_start(k);
	kit_init(k);
	for (size_t i = 0; i < SIZE; i++)
		bytes[i] = (char)(i * 7 + i / CHUNK);
	kit_file(k->root, "file", "");
	CHECK(!ftruncate(cache_fd = openat(k->root, "file", O_RDWR | O_CLOEXEC), SIZE));
	close(cache_fd);
	EQUAL(sw_lookup(s, SW_ROOT, "file", 1, &e), 0);
	kit_data_file(k, 1, bytes, SIZE);
	cache_fd = openat(k->data, "01/1", O_RDWR | O_CLOEXEC);
	fh = sw_open_file(s, e.nodeid, SW_WANT_PARTIAL, -1, 0, 0);
	CHECK(fh > 0);
	EQUAL(sw_set_cfile(s, e.nodeid, cache_fd, SIZE, CHUNK, bits), 0);
}

static void end(void)
{
	if (fh) {
		EQUAL(sw_mode(s, e.nodeid), SW_CACHED);
		sw_open_undo(s, (uint64_t)fh);
	}
	close(cache_fd);
	kit_free(k);
	kit_defaults();
}

static uint64_t ask(uint64_t offset, uint32_t size)
{
	return k_read(k, e.nodeid, (uint64_t)fh, offset, size);
}

static void gets(uint64_t unique, uint64_t offset, size_t size)
{
	void *body;
	size_t n;

	EQUAL(k_answer(k, unique, &body, &n), 0);
	EQUAL(n, size);
	CHECK(!memcmp(body, bytes + offset, n));
}

static void missed(uint64_t first, uint64_t stop)
{
	struct sw_event ev;

	do
		CHECK(kit_event(k, &ev) == SW_EV_MISS || ev.kind == SW_EV_TOUCH);
	while (ev.kind != SW_EV_MISS);
	CHECK(ev.nodeid == e.nodeid && ev.arg / (2 * CHUNK) <= first);
	EQUAL(ev.chunk, first);
	EQUAL(ev.stop, stop);
}

static struct sw_counters counters(void)
{
	struct sw_counters c;

	sw_counters_read(s, &c);
	return c;
}

/* ---- what is there ---- */

static void present(void)
{
	struct sw_event ev;

	begin();
	gets(ask(0, CHUNK), 0, CHUNK);
	CHECK(kit_event(k, &ev) == SW_EV_TOUCH && ev.chunk == 0 && ev.stop == 1);
	gets(ask(10, CHUNK - 10), 10, CHUNK - 10);
	EQUAL(sw_events(s, &ev, 1), 0); /* the same chunk: nothing new */
	gets(ask(20, 2 * CHUNK - 20), 20, 2 * CHUNK - 20);
	CHECK(kit_event(k, &ev) == SW_EV_TOUCH && ev.chunk == 0 && ev.stop == 2 && ev.arg == 20);
	gets(ask(CHUNK + 7, 1), CHUNK + 7, 1);
	EQUAL(sw_events(s, &ev, 1), 0); /* told with the read before */
	gets(ask(7, 1), 7, 1);
	CHECK(kit_event(k, &ev) == SW_EV_TOUCH && ev.chunk == 0 && ev.stop == 1 && ev.arg == 7);
	gets(ask((CHUNKS - 1) * CHUNK, CHUNK), (CHUNKS - 1) * CHUNK, 100); /* short at the end of the file */
	gets(ask(SIZE - 1, 1 << 20), SIZE - 1, 1);
	gets(ask(SIZE, CHUNK), SIZE, 0);
	gets(ask(SIZE + 5000, CHUNK), SIZE, 0);
	gets(ask(INT64_MAX - 10, 1 << 20), SIZE, 0);
	gets(ask(INT64_MAX, UINT32_MAX), SIZE, 0);
	gets(ask(UINT64_MAX - UINT32_MAX, UINT32_MAX), SIZE, 0);
	gets(ask(0, 0), 0, 0);
	EQUAL(counters().parked, 0);
	EQUAL(counters().hot_read_bytes, 4 * CHUNK - 30 + 2 + 100 + 1);
	CHECK(p_silent(k));
	end();
}

/* The cache file is shorter than its map says: damage, and an error, never wrong bytes. */
static void damaged(void)
{
	begin();
	CHECK(!ftruncate(cache_fd, CHUNK + 10));
	EQUAL(k_answer(k, ask(CHUNK, CHUNK), NULL, NULL), -EIO);
	gets(ask(0, CHUNK), 0, CHUNK);
	end();
}

/* ---- what is missing ---- */

static void landed(void)
{
	uint64_t a, b, c;

	begin();
	a = ask(2 * CHUNK, CHUNK);
	missed(2, 3);
	b = ask(CHUNK, 4 * CHUNK); /* 1 is there */
	missed(2, 5);
	c = ask(2 * CHUNK + 5, 10);
	missed(2, 3);
	EQUAL(counters().parked, 3);
	CHECK(k_silent(k) && p_silent(k));
	sw_landed(s, e.nodeid, 3);
	sw_landed(s, 999, 2);
	sw_landed(s, e.nodeid, 1000); /* beyond the file */
	CHECK(k_silent(k));
	sw_landed(s, e.nodeid, 2);
	gets(a, 2 * CHUNK, CHUNK);
	gets(c, 2 * CHUNK + 5, 10);
	CHECK(k_silent(k)); /* b waits for 4 */
	sw_landed(s, e.nodeid, 4);
	gets(b, CHUNK, 4 * CHUNK);
	for (uint64_t i = 0; i < CHUNKS; i++) {
		sw_landed(s, e.nodeid, i);
		sw_landed(s, e.nodeid, i);
	}
	gets(ask(0, SIZE), 0, SIZE);
	EQUAL(counters().unparked, 3);
	end();
}

static void failed(void)
{
	uint64_t a, b, c;

	begin();
	a = ask(2 * CHUNK, CHUNK);
	b = ask(3 * CHUNK, CHUNK);
	c = ask(2 * CHUNK, 4 * CHUNK);
	for (int i = 0; i < 3; i++) {
		struct sw_event ev;

		EQUAL(kit_event(k, &ev), SW_EV_MISS);
	}
	sw_failed(s, e.nodeid, 2, ETIMEDOUT);
	EQUAL(k_answer(k, a, NULL, NULL), -ETIMEDOUT);
	EQUAL(k_answer(k, c, NULL, NULL), -ETIMEDOUT);
	CHECK(k_silent(k));
	sw_failed(s, e.nodeid, 4, EIO);
	sw_failed(s, 999, 3, EIO);
	CHECK(k_silent(k));
	sw_landed(s, e.nodeid, 3);
	gets(b, 3 * CHUNK, CHUNK);
	a = ask(2 * CHUNK, 1); /* asked for again: the next try may do better */
	missed(2, 3);
	sw_landed(s, e.nodeid, 2);
	gets(a, 2 * CHUNK, 1);
	end();
}

static void python_reads(uint64_t u, uint64_t offset, uint32_t size)
{
	struct fuse_in_header *h = p_recv(k);
	struct fuse_read_in *r = (struct fuse_read_in *)(h + 1);

	CHECK(h->unique == u && h->opcode == FUSE_READ && h->nodeid == e.nodeid && h->pid == k->pid);
	CHECK(r->offset == offset && r->size == size && r->fh == (uint64_t)fh);
	p_reply(k, u, 0, bytes + offset, size);
	gets(u, offset, size);
}

/* err 0: the cache cannot take the chunk; Python's read answers, and later misses go there at once. */
static void redirected(void)
{
	uint64_t u;

	begin();
	u = ask(2 * CHUNK, 10);
	missed(2, 3);
	sw_failed(s, e.nodeid, 2, 0);
	python_reads(u, 2 * CHUNK, 10);
	u = ask(5 * CHUNK, 10);
	python_reads(u, 5 * CHUNK, 10);
	gets(ask(0, CHUNK), 0, CHUNK); /* what is there still comes from C */
	EQUAL(counters().parked, 1);
	end();
}

/* A writer came: the bytes are the source's from now on, parked READs included. */
static void bypassed(void)
{
	uint64_t u, v;

	begin();
	u = ask(2 * CHUNK, 10);
	missed(2, 3);
	sw_bypass(s, e.nodeid, 1);
	python_reads(u, 2 * CHUNK, 10);
	v = ask(0, 10);
	python_reads(v, 0, 10);
	sw_bypass(s, e.nodeid, 0);
	gets(ask(0, 10), 0, 10);
	end();
}

/* The file changed while somebody waited for a chunk: another cache file, perhaps of other chunks, whose chunks are
 * asked for, or are there. */
static void cache_file_replaced(void)
{
	unsigned char bits[3] = {0};
	uint64_t a, b;

	begin();
	a = ask(2 * CHUNK, 10);
	missed(2, 3);
	b = ask(9 * CHUNK, 10);
	missed(9, 10);
	bits[0] = 1 << 4;
	EQUAL(sw_set_cfile(s, e.nodeid, cache_fd, SIZE, CHUNK * 2, bits), 0); /* 9 is in the fifth of these */
	gets(b, 9 * CHUNK, 10);
	missed(1, 2);
	CHECK(k_silent(k));
	sw_landed(s, e.nodeid, 1);
	gets(a, 2 * CHUNK, 10);
	EQUAL(sw_set_cfile(s, 999, cache_fd, SIZE, CHUNK, bits), -ESTALE);
	EQUAL(sw_set_cfile(s, e.nodeid, -1, SIZE, CHUNK, bits), -EBADF);
	EQUAL(sw_set_cfile(s, e.nodeid, cache_fd, SIZE, 0, bits), -EINVAL);
	a = ask(0, 10);
	missed(0, 1);
	EQUAL(sw_set_cfile(s, e.nodeid, cache_fd, 0, CHUNK, NULL), 0); /* truncated */
	gets(a, 0, 0);
	end();
}

/* Told while the ring is full: nobody would fetch it, so Python reads it. */
static void ring_full(void)
{
	uint64_t u;

	begin();
	for (int i = 0; i < SW_EVENTS; i++)
		event(s, SW_EV_IDLE, 1, 0, 0, 0);
	u = ask(2 * CHUNK, 10);
	python_reads(u, 2 * CHUNK, 10);
	EQUAL(counters().events_lost, 1);
	end();
}

/* ---- signals ---- */

/* A process that lives until it is told to die; then it is held where its SIGKILL is pending: ptrace would do, a zombie
 * does as well, for it cannot be seen to wait. */
static pid_t process(void)
{
	pid_t pid = fork();

	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	CHECK(pid > 0);
	return pid;
}

static void end_process(pid_t pid)
{
	CHECK(!kill(pid, SIGKILL));
	EQUAL(waitpid(pid, NULL, 0), pid);
}

static void interrupted(void)
{
	pid_t live = process(), dies = process();
	struct fuse_open_in in = {0};
	uint64_t a, b, c, d, f;

	begin();
	k->pid = (uint32_t)live;
	a = ask(2 * CHUNK, 10);
	missed(2, 3);
	c = k_send(k, FUSE_STATFS, SW_ROOT, NULL, 0, NULL, 0);
	CHECK(p_recv(k)->unique == c);
	k->pid = (uint32_t)dies;
	b = ask(3 * CHUNK, 10);
	missed(3, 4);
	d = k_send(k, FUSE_OPEN, e.nodeid, &in, sizeof in, NULL, 0);
	CHECK(p_recv(k)->unique == d);
	f = k_send(k, FUSE_MKDIR, SW_ROOT, &(struct fuse_mkdir_in){0}, sizeof(struct fuse_mkdir_in), "x", 2);
	CHECK(p_recv(k)->unique == f);
	k_interrupt(k, a);
	k_interrupt(k, a);
	k_interrupt(k, b);
	k_interrupt(k, c);
	k_interrupt(k, d);
	k_interrupt(k, f);
	k_interrupt(k, 424242); /* answered long ago */
	end_process(dies);
	EQUAL(k_answer(k, b, NULL, NULL), -EINTR);
	EQUAL(k_answer(k, d, NULL, NULL), -EINTR);
	EQUAL(counters().killed, 2);
	EQUAL(counters().interrupts, 7);
	/* A signal that does not kill interrupts nothing: reads of files go on. Nor is a mkdir let go half made. */
	sw_landed(s, e.nodeid, 2);
	sw_landed(s, e.nodeid, 3);
	gets(a, 2 * CHUNK, 10);
	p_reply(k, c, 0, NULL, 0);
	EQUAL(k_answer(k, c, NULL, NULL), 0);
	p_reply(k, f, -EEXIST, NULL, 0);
	EQUAL(k_answer(k, f, NULL, NULL), -EEXIST);
	/* The answer of the open that was let go: the kernel does not know it, and it is closed again. */
	int64_t late = sw_open_file(s, e.nodeid, SW_WANT_PARTIAL, -1, 0, 0);
	struct fuse_open_out o = {.fh = (uint64_t)late};
	kit_gone(d);
	p_reply(k, d, 0, &o, sizeof o);
	struct fuse_in_header *h = p_recv(k);
	CHECK(h->opcode == FUSE_RELEASE && ((struct fuse_release_in *)(h + 1))->fh == (uint64_t)late);
	sw_handle_free(s, (uint64_t)late);
	CHECK(k_silent(k));
	end_process(live);
	end();
}

/* Two device threads: the INTERRUPT may be handled before the request that it is for. */
static void interrupted_early(void)
{
	uint64_t u;

	begin();
	k->pid = 1 << 30; /* no such process: it is gone */
	k_interrupt(k, k->unique + 2);
	while (counters().interrupts < 1)
		sched_yield();
	CHECK(k_silent(k));
	u = ask(2 * CHUNK, 10);
	EQUAL(k_answer(k, u, NULL, NULL), -EINTR);
	k_interrupt(k, k->unique + 2);
	while (counters().interrupts < 2)
		sched_yield();
	u = k_send(k, FUSE_STATFS, SW_ROOT, NULL, 0, NULL, 0);
	EQUAL(k_answer(k, u, NULL, NULL), -EINTR);
	CHECK(p_recv(k)->unique == u);
	for (int i = 0; i < 100; i++) /* those that never find their request are forgotten */
		k_interrupt(k, 1000000 + 2 * (uint64_t)i);
	k->pid = (uint32_t)getpid();
	gets(ask(0, 10), 0, 10);
	end();
}

/* Many, from threads of the session and this one at once: none is lost. */
static void interrupted_often(void)
{
	enum { N = 400 };
	static uint64_t u[N];

	kit_config.threads = 4;
	begin();
	k->pid = 1 << 30;
	for (int round = 0; round < 5; round++) {
		for (int i = 0; i < N; i++) {
			u[i] = i & 1 ? ask(2 * CHUNK, 10) : k_send(k, FUSE_STATFS, SW_ROOT, NULL, 0, NULL, 0);
			k_interrupt(k, u[i]);
			if (i % 32 == 31)
				for (int j = i - 31; j <= i; j++)
					EQUAL(k_answer(k, u[j], NULL, NULL), -EINTR);
		}
		for (int i = N & ~31; i < N; i++)
			EQUAL(k_answer(k, u[i], NULL, NULL), -EINTR);
	}
	EQUAL(counters().killed, 5 * N);
	end();
}

/* ---- the end ---- */

static void stopped_while_parked(void)
{
	begin();
	for (int i = 0; i < 50; i++)
		ask(2 * CHUNK, 10);
	for (int i = 0; i < 50; i++)
		missed(2, 3);
	for (int i = 0; i < 50; i++)
		k_send(k, FUSE_STATFS, SW_ROOT, NULL, 0, NULL, 0);
	for (int i = 0; i < 50; i++)
		p_recv(k);
	sw_stop(s);
	sw_landed(s, e.nodeid, 2); /* Python may not have heard of it yet */
	sw_open_undo(s, (uint64_t)fh);
	fh = 0;
	sw_notify_inode(s, e.nodeid, 0, 0);
	end();
}

/* The last handle goes while Python keeps its state, and while it does not. */
static void closed(void)
{
	struct fuse_release_in in = {.fh = 0};
	struct sw_event ev;
	uint64_t u;

	begin();
	in.fh = (uint64_t)fh;
	u = k_send(k, FUSE_RELEASE, e.nodeid, &in, sizeof in, NULL, 0);
	CHECK(p_recv(k)->unique == u);
	sw_handle_free(s, (uint64_t)fh);
	fh = 0;
	CHECK(kit_event(k, &ev) == SW_EV_IDLE && ev.nodeid == e.nodeid);
	EQUAL(sw_mode(s, e.nodeid), SW_NONE);
	u = ask(0, 10); /* nobody has it open: no kernel sends this; it is not answered from here */
	CHECK(p_recv(k)->unique == u);
	EQUAL(sw_detach(s, e.nodeid), 1);
	end();
}

/* From the file's own pages where they are in memory and the offset is a page's, from a buffer elsewhere. */
static void long_reads(void)
{
	begin();
	for (uint64_t i = 2; i < CHUNKS; i++)
		sw_landed(s, e.nodeid, i);
	for (int dropped = 0; dropped < 2; dropped++) {
		gets(ask(0, 1 << 20), 0, SIZE);
		gets(ask(0, 65536), 0, 65536);
		gets(ask(CHUNK, 69632), CHUNK, 69632);
		gets(ask(100, 70000), 100, 70000);
		gets(ask(2 * CHUNK, SIZE), 2 * CHUNK, SIZE - 2 * CHUNK);
		CHECK(!fsync(cache_fd) && !posix_fadvise(cache_fd, 0, 0, POSIX_FADV_DONTNEED));
	}
	gets(ask(0, SIZE), 0, SIZE); /* in memory again */
	EQUAL(counters().parked, 0);
	CHECK(!ftruncate(cache_fd, 70000)); /* damage */
	EQUAL(k_answer(k, ask(0, SIZE), NULL, NULL), -EIO);
	EQUAL(k_answer(k, ask(0, 1 << 20), NULL, NULL), -EIO);
	gets(ask(0, 65536), 0, 65536);
	end();
}

int main(void)
{
	kit_defaults();
	present();
	long_reads();
	damaged();
	landed();
	failed();
	redirected();
	bypassed();
	cache_file_replaced();
	ring_full();
	interrupted();
	interrupted_early();
	interrupted_often();
	stopped_while_parked();
	closed();
	return kit_done();
}
