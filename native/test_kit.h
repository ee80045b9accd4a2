/* test_kit.h: a session without a kernel. The test holds both ends: it sends what the kernel would send and reads the
 * answers on one SOCK_SEQPACKET pair (`dev`), and it plays libfuse on the session's own pair (`peer`).
 *
 * The programs are linked with --wrap for the few calls whose failure matters, so the code under test is compiled
 * unchanged: replies to requests that are gone fail with ENOENT, BACKING_OPEN and BACKING_CLOSE act on a table of ids,
 * memory runs out at the n-th allocation, and the device reads ENODEV once its far end is closed. */
#ifndef TEST_KIT_H
#define TEST_KIT_H
#include "internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define CHECK(cond)                                                                                                    \
	do {                                                                                                           \
		kit_checks++;                                                                                          \
		if (!(cond))                                                                                           \
			kit_fail(__FILE__, __LINE__, #cond, 0, 0, 0);                                                  \
	} while (0)
/* Both sides as signed numbers, shown when they differ. */
#define EQUAL(a, b)                                                                                                    \
	do {                                                                                                           \
		long long kit_a = (long long)(a), kit_b = (long long)(b);                                              \
		kit_checks++;                                                                                          \
		if (kit_a != kit_b)                                                                                    \
			kit_fail(__FILE__, __LINE__, #a " == " #b, 1, kit_a, kit_b);                                   \
	} while (0)

extern _Atomic unsigned long kit_checks;
void kit_fail(const char *file, int line, const char *what, int values, long long a, long long b) __attribute__((noreturn));
int kit_done(void); /* prints the program's one line; main returns it */

/* ---- places ---- */
struct kit {
	sw_session *s;
	char dir[64];          /* temporary; holds source/ and data/ */
	int root, data;        /* descriptors of the two */
	int kernel;            /* the kernel's end of the device */
	int peer;              /* libfuse's end */
	int fds;               /* descriptors open before the kit was made */
	uint64_t unique;
	uint32_t pid;          /* of the requests' callers */
	uint32_t nstash;
	struct { uint64_t unique; ssize_t n; char *msg; } stash[64]; /* answers that came before they were asked for */
};

extern struct sw_config kit_config; /* what kit_new makes a session of; kit_defaults sets it back */
void kit_defaults(void);
struct kit *kit_new(void);      /* source/ and data/ in a new directory; a session, not started */
struct kit *kit_remote(uint64_t check_ns); /* one of a source that Python asks, its attributes good for so long; started */
void kit_start(struct kit *k);  /* sw_start on a fake device */
void kit_init(struct kit *k);   /* INIT, answered by libfuse: passthrough_on as configured */
void kit_free(struct kit *k);   /* sw_stop, sw_free, no descriptor left, directory removed */
int kit_count_fds(void);
void kit_file(int dir, const char *name, const char *data); /* writes a file */
uint64_t kit_data_file(struct kit *k, uint64_t file_id, const void *data, size_t n); /* a cache file; returns the id */

/* ---- the kernel's part ---- */
uint64_t k_send(struct kit *k, uint32_t opcode, uint64_t nodeid, const void *arg, size_t n, const void *more, size_t m);
/* The answer to `unique`: its error (0, or -errno), the body in *body (static, until the next call) and its length. */
int k_answer(struct kit *k, uint64_t unique, void **body, size_t *n);
int k_silent(struct kit *k);    /* no answer is waiting */
int k_lookup(struct kit *k, uint64_t parent, const char *name, struct fuse_entry_out *e);
int k_getattr(struct kit *k, uint64_t nodeid, struct fuse_attr_out *a);
int k_open(struct kit *k, uint64_t nodeid, uint32_t flags, struct fuse_open_out *o);
uint64_t k_read(struct kit *k, uint64_t nodeid, uint64_t fh, uint64_t offset, uint32_t size);
int k_release(struct kit *k, uint64_t nodeid, uint64_t fh);
void k_forget(struct kit *k, uint64_t nodeid, uint64_t count);
void k_interrupt(struct kit *k, uint64_t unique);

/* ---- libfuse's part ---- */
struct fuse_in_header *p_recv(struct kit *k);          /* the next request passed on (static, until the next call) */
int p_silent(struct kit *k);
void p_reply(struct kit *k, uint64_t unique, int err, const void *data, size_t n);
int kit_event(struct kit *k, struct sw_event *e);      /* waits for one event of the ring; its kind */

/* ---- faults ---- */
void kit_gone(uint64_t unique);        /* the answer to it fails with ENOENT */
extern _Atomic long kit_alloc_left;    /* the allocation after this many fails, and all after it; -1: none */
int kit_backings(void);                /* ids registered now */
int kit_backing_is(int32_t id, int fd); /* does the id stand for the file of fd? */
ssize_t kit_backing_read(int32_t id, void *buf, size_t n, off_t at); /* -1, EBADF: not registered */
extern _Atomic int kit_backing_errno;  /* BACKING_OPEN fails with it */
int kit_wait(int (*done)(struct kit *), struct kit *k); /* until it holds (5 s): what another thread does */

/* ---- the ring (test_kit_ring.c) ----
 * With KIT_RING=1 in the environment every session's requests come over a ring, but for tests that need the device. */
extern int kit_on_device;              /* this test does: set before kit_start, until kit_defaults */
extern _Atomic int kit_ring_errno;     /* io_uring_setup fails with it */
extern _Atomic int kit_ring_refuse;    /* REGISTER fails with it */
extern char kit_ring_param[16];        /* what was written to the module's parameter */
struct iovec;
void kit_ring_begin(int device);       /* where its answers go, to be read as those of the device */
int kit_ring_takes(const struct iovec *v, int n); /* 1: the request went that way */
void kit_ring_end(void);
void k_raw(struct kit *k, const struct iovec *v, int n); /* a request as it is, by the way that it would come */

#endif
