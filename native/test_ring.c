/* ring.c and uring.c: requests over io_uring, with test_kit_ring.c as the kernel. */
#include "test_kit.h"

#include <errno.h>
#include <sched.h>
#include <sys/uio.h>

static struct kit *k;

static void end(void)
{
	kit_free(k);
	kit_defaults();
	kit_ring_errno = kit_ring_refuse = 0;
}

/* INIT as the kernel and libfuse do it; returns flags2 of the answer. */
static uint32_t init(int uring, int hot)
{
	struct fuse_init_in in = {.major = 7, .minor = 45};
	struct fuse_init_out out = {.major = 7, .minor = 38, .max_write = 1 << 20};
	uint32_t flags2;
	void *body;
	uint64_t u;

	kit_on_device = 1; /* the ring is to be made by INIT */
	kit_config.uring = uring;
	kit_config.hot = hot;
	k = kit_new();
	kit_start(k);
	u = k_send(k, FUSE_INIT, 0, &in, sizeof in, NULL, 0);
	p_recv(k);
	p_reply(k, u, 0, &out, sizeof out);
	EQUAL(k_answer(k, u, &body, NULL), 0);
	memcpy(&flags2, (char *)body + 32, 4);
	return flags2 & (uint32_t)(SW_OVER_IO_URING >> 32);
}

static int decided(struct kit *kit)
{
	return sw_uring_works(kit->s) != 0;
}

static void asked_for(void)
{
	struct fuse_attr_out a;

	CHECK(init(1, 1));
	CHECK(kit_wait(decided, k));
	EQUAL(sw_uring_works(k->s), 1);
	CHECK(!strcmp(kit_ring_param, "YN")); /* as it was before */
	EQUAL(k_getattr(k, SW_ROOT, &a), 0);
	CHECK(S_ISDIR(a.attr.mode));
	end();
	CHECK(!init(0, 1));
	EQUAL(sw_uring_works(k->s), 0);
	CHECK(!strcmp(kit_ring_param, ""));
	end();
	CHECK(!init(1, 0)); /* Python answers all: nothing to win */
	end();
}

/* Without a ring, requests come over the device. */
static void refused(void)
{
	struct fuse_attr_out a;

	kit_ring_errno = EPERM;
	CHECK(!init(1, 1));
	EQUAL(sw_uring_works(k->s), -EPERM);
	EQUAL(k_getattr(k, SW_ROOT, &a), 0);
	end();
	kit_ring_refuse = EOPNOTSUPP; /* the parameter could not be set */
	CHECK(init(1, 1));
	CHECK(kit_wait(decided, k));
	EQUAL(sw_uring_works(k->s), -EOPNOTSUPP);
	EQUAL(k_getattr(k, SW_ROOT, &a), 0);
	end();
}

static void begin(void)
{
	CHECK(init(1, 1));
	CHECK(kit_wait(decided, k));
	EQUAL(sw_uring_works(k->s), 1);
}

/* What comes in three parts reaches pyfuse3 as one message. */
static void joined(void)
{
	static char data[1 << 20];
	struct fuse_write_in w = {.fh = 7, .offset = 4096, .size = sizeof data};
	struct fuse_in_header *h;
	uint64_t u;

	begin();
	for (size_t i = 0; i < sizeof data; i++)
		data[i] = (char)(i * 31 >> 3);
	u = k_send(k, FUSE_WRITE, SW_ROOT, &w, sizeof w, data, sizeof data);
	h = p_recv(k);
	EQUAL(h->len, sizeof *h + sizeof w + sizeof data);
	CHECK(h->unique == u && h->opcode == FUSE_WRITE && !memcmp(h + 1, &w, sizeof w));
	CHECK(!memcmp((char *)(h + 1) + sizeof w, data, sizeof data));
	p_reply(k, u, -ENOSPC, NULL, 0);
	EQUAL(k_answer(k, u, NULL, NULL), -ENOSPC);
	for (size_t n = 1; n < 300; n += 7) { /* names of every length, also where the own struct is of an odd one */
		char name[300];

		memset(name, 'n', n);
		name[n] = 0;
		for (int i = 0; i < 2; i++) {
			u = k_send(k, i ? FUSE_UNLINK : FUSE_SYMLINK, SW_ROOT, name, n + 1, "to", 3);
			h = p_recv(k);
			EQUAL(h->len, sizeof *h + n + 4);
			CHECK(!memcmp(h + 1, name, n + 1) && !memcmp((char *)(h + 1) + n + 1, "to", 3));
			p_reply(k, u, 0, NULL, 0);
			EQUAL(k_answer(k, u, NULL, NULL), 0);
		}
	}
	end();
}

/* More requests than there are entries: the rest waits in the kernel, and goes on with each answer. */
static void exhausted(void)
{
	enum { N = 3000 };
	static uint64_t u[N];
	int seen = 0;

	begin();
	for (int i = 0; i < N; i++)
		u[i] = k_send(k, FUSE_STATFS, SW_ROOT, NULL, 0, NULL, 0);
	for (; seen < N; seen++) {
		uint64_t unique = p_recv(k)->unique;

		p_reply(k, unique, -(int)(unique % 100) - 1, NULL, 0);
		if (seen % 16 == 15) /* what was sent is not kept back */
			EQUAL(k_answer(k, unique, NULL, NULL), -(int)(unique % 100) - 1);
		else
			EQUAL(k_answer(k, unique, NULL, NULL), -(int)(unique % 100) - 1);
	}
	CHECK(k_silent(k) && p_silent(k) && u[N - 1]);
	end();
}

/* Long READs are answered by workers, short ones and names by the queue: all at once, and all of them right. */
static void mixed(void)
{
	enum { SIZE = 1 << 18 };
	static char data[SIZE];
	struct sw_entry e;
	struct fuse_open_out o;
	uint64_t u[64];
	void *body;
	size_t n;

	kit_config.passthrough = 0;
	begin();
	for (size_t i = 0; i < SIZE; i++)
		data[i] = (char)(i * 131 >> 7);
	data[SIZE - 1] = 0;
	kit_file(k->root, "file", "x");
	EQUAL(truncate((snprintf(data, sizeof k->dir + 20, "%s/source/file", k->dir), data), SIZE), 0);
	EQUAL(sw_lookup(k->s, SW_ROOT, "file", 1, &e), 0);
	kit_data_file(k, 5, data, SIZE);
	sw_set_complete(k->s, e.nodeid, 5, e.size, e.mtime_ns, e.ctime_ns, 0);
	EQUAL(k_open(k, e.nodeid, 0, &o), 0);
	for (int round = 0; round < 20; round++) {
		for (uint32_t i = 0; i < 64; i++)
			u[i] = i % 8 ? k_read(k, e.nodeid, o.fh, i * 4096, i % 2 ? SIZE : 100)
				     : k_send(k, FUSE_STATFS, SW_ROOT, NULL, 0, NULL, 0);
		for (uint32_t i = 0; i < 64; i += 8) {
			uint64_t unique = p_recv(k)->unique;

			p_reply(k, unique, 0, data, 80);
		}
		for (uint32_t i = 0; i < 64; i++) {
			EQUAL(k_answer(k, u[i], &body, &n), 0);
			EQUAL(n, i % 8 == 0 ? 80 : i % 2 ? SIZE - i * 4096 : 100);
			CHECK(!memcmp(body, i % 8 ? data + i * 4096 : data, n));
		}
	}
	EQUAL(k_release(k, e.nodeid, o.fh), 0);
	end();
}

/* The end comes while requests are held by Python, wait for an entry, or are on their way. */
static void stopped(void)
{
	for (int round = 0; round < 10; round++) {
		begin();
		for (int i = 0; i < 1000; i++)
			k_send(k, i % 3 ? FUSE_STATFS : FUSE_GETATTR, SW_ROOT, "................", 16, NULL, 0);
		end();
	}
	CHECK(init(1, 1)); /* or while the ring starts */
	end();
}

int main(void)
{
	kit_defaults();
	asked_for();
	refused();
	joined();
	exhausted();
	mixed();
	stopped();
	return kit_done();
}
