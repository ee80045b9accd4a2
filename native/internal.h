/* internal.h: what the rooms of native/ share. Lock order: session.lock, then nothing else but leaf locks
 * (events, pending). No system call that can touch the source is made under session.lock. */
#ifndef SWML_INTERNAL_H
#define SWML_INTERNAL_H
#include "swml.h"

#include <errno.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>

/* What Debian 12's <linux/fuse.h> (7.38) does not have yet; values from the kernel's include/uapi/linux/fuse.h. */
#ifndef FUSE_PASSTHROUGH
#define FUSE_PASSTHROUGH (1ULL << 37)
#define FOPEN_PASSTHROUGH (1 << 7)
struct fuse_backing_map {
	int32_t fd;
	uint32_t flags;
	uint64_t padding;
};
#define FUSE_DEV_IOC_BACKING_OPEN _IOW(229, 1, struct fuse_backing_map)
#define FUSE_DEV_IOC_BACKING_CLOSE _IOW(229, 2, uint32_t)
#endif
#define SW_DIRECT_IO_ALLOW_MMAP (1ULL << 36)
#define SW_OVER_IO_URING (1ULL << 41)
#ifndef FOPEN_NOFLUSH
#define FOPEN_NOFLUSH (1 << 5)
#endif

#define SW_ROOT 1
#define SW_HOT_FH (1ULL << 63)    /* fh made in C; the rest is the nodeid, or a struct dirh */
#define SW_DIR_FH (1ULL << 62)
#define SW_KILL_FH 1ULL           /* told to Python in the fh of a WRITE: its writer may not keep set-id bits */
#define SW_OWN_UNIQUE (1ULL << 63) /* requests that C makes up for pyfuse3: their replies go nowhere */
#define SW_MSG_MAX ((1 << 20) + 8192)
#define SW_NAME_MAX 1024          /* bytes of a name that FUSE carries; CIFS and NTFS have more than NAME_MAX */

struct node;

/* A name in a directory. */
struct link {
	struct link *hnext;    /* hash by (parent, name) */
	struct link *nnext;    /* the node's other names */
	struct node *node, *parent;
	uint32_t hash;
	uint16_t len;
	char name[];
};

struct node {
	uint64_t id, ino, dev, btime_ns;
	struct node *hid, *hkey;       /* hash by id; by (dev, ino) */
	struct link *links;
	uint64_t nlookup;              /* references that the kernel holds */
	uint32_t refs;                 /* children's links, handles, Python's state */
	uint32_t opens;                /* live opens of all kinds */
	uint32_t perm, nlink, uid, gid, rdev, blksize;
	uint64_t size, blocks;
	int64_t atime_ns, mtime_ns, ctime_ns;
	uint64_t attr_at;              /* when the source was asked for the attributes (monotonic), 0: not to be relied on */
	uint64_t written_at;           /* when the last writer closed it */
	uint64_t kernel_until;         /* until when the kernel holds name and attributes */
	struct used *used;             /* `nobody`: it was not opened yet; used_of() before something is set there */
	struct node *lru_prev, *lru_next;
	int16_t rule;                  /* of s->rules, -1 none; node_rule() when rule_epoch is not s->epoch */
	uint16_t rule_epoch;
	uint8_t in_key, in_lru, in_brow, bypass, attached, tell_open, pages, told_old;
	uint8_t wrote : 1;             /* opened to write since Python's state of it began */
	uint8_t bare : 1;              /* it has no extended attributes, as of attr_at; while it is written, as of the open */
	uint8_t last_known : 1;        /* its name was found to mean another file, and the attributes are right as of then */
	uint8_t mode;                  /* SW_NONE.. : what the kernel's inode is in */
	uint16_t asked;                /* what s->asking was when file_id was set */
};

/* What a file has besides once it is opened, or fetched: of the names of a listing a third less is held. */
struct used {
	struct node *node;
	uint64_t file_id;              /* complete cache file of this generation, 0 none */
	struct sw_cfile *cf;
	uint32_t writers;
	int32_t backing;               /* registered backing file, 0 none */
	int orphan_fd;                 /* O_PATH of a file or directory without a name, -1 */
	int keep_fd;                   /* backing file that was dropped from the cache while open, -1 */
	uint64_t gen_size;             /* of the generation of file_id */
	int64_t gen_mtime_ns, gen_ctime_ns;
	uint64_t last_open;            /* CLOCK_REALTIME */
	uint64_t next;                 /* nodeid of what its reader opened next, the last time; 0: not known */
	uint64_t watch_ino;            /* inode of the backing file, 0 none */
	int held_fd;                   /* held.c: O_PATH of the source file while it is open, -1 */
	struct used *brow_prev, *brow_next;
	uint8_t watch_source;          /* the backing file is the source's own */
};

extern const struct used nobody;   /* table.c: of all nodes that have none of their own; cannot be written */

struct packed {                    /* packed.c: a cache file with compressed chunks */
	uint64_t file_id, size;        /* file_id 0: it is none */
	uint64_t front;                /* where its chunks begin */
	uint32_t chunk_size;
};

#define SW_FRAMES 64               /* decoded frames that are kept for readers of parts of them: 8 MiB */
struct frames {
	pthread_mutex_t lock;
	uint64_t clock;
	struct unpacker *idle;
	struct kept {
		uint64_t file_id, number, used;
		unsigned char *data;
	} kept[SW_FRAMES];
};

struct sw_cfile {
	int fd;
	uint32_t refs;
	uint64_t file_id;              /* that C opened by this number; 0: given by Python */
	uint64_t size;
	uint32_t chunk_size;
	uint64_t nchunks, present;
	uint64_t last_chunk;           /* last chunk touched: crossings are told to Python */
	uint8_t redirect;              /* misses go to Python's read */
	struct packed packed;
	unsigned char *bits;
};

struct generation {
	uint64_t size;
	int64_t mtime_ns, ctime_ns;
	uint8_t known;
};

struct handle {
	struct node *node;
	struct generation gen;         /* seek.c: whose bytes its reader reads; set before the open is answered */
	uint32_t flags;                /* FOPEN_* */
	int32_t backing;
	int fd;                        /* a writer's descriptor of the source (Python's own), else -1 */
	uint8_t writer, released;
};

struct rule {
	char *glob;
	int check;
	uint64_t check_ns;
};

struct pending {
	struct pending *next;
	uint64_t unique, nodeid;
	uint32_t opcode, pid;
	uint8_t interrupted;
};

struct parked {
	struct parked *next;
	uint64_t unique, nodeid, offset;
	uint32_t size, pid, msg_len;
	int err;                       /* once ready: 0, or what the reader gets */
	uint8_t interrupted, to_python;
	char msg[128] __attribute__((aligned(8))); /* the request, to be passed on when Python must read */
};

struct dirfd {
	struct node *node;
	int fd;
	uint32_t pins;
	uint64_t used;
};
#define SW_DIRFDS 1024
#define SW_EVENTS 65536
#define SW_PENDING 1024
#define SW_LATER 32
#define SW_REPLACED 64
#define SW_EARLY 64

/* follow.c: who reads in an order that it kept to before. Under session.lock. */
#define SW_READERS 256                 /* by thread; two with one place forget each other */
#define SW_FOLLOW 8                    /* batches that wait for the follower; beyond that they are dropped */
#define SW_BATCH 16
struct follow {
	int on;
	pthread_t thread;
	pthread_cond_t wake;
	struct follow_reader {
		uint32_t pid, right;   /* opens in a row that were foreseen, at most as many as are needed */
		uint64_t last, front;  /* nodeids: opened last, and the furthest that was asked for */
		uint32_t ahead;        /* opens from `last` to `front` */
		uint32_t rest, resting; /* opens that are not followed: left, and of how many */
	} readers[SW_READERS];
	struct follow_work {
		uint32_t pid, n;
		struct follow_file { uint64_t file_id, size; } files[SW_BATCH];
	} work[SW_FOLLOW];
	uint32_t head, tail;
};

struct listed {                        /* listing.c: what is kept of an entry; what many have alike is there once */
	uint64_t ino, size;
	int64_t mtime_ns, ctime_ns, btime_ns, birth_ns; /* birth_ns: btime_ns of sw_attrs */
	uint32_t generation;           /* nanoseconds of sw_attrs.ctime_ns, SW_UNNAMED: it has those of ctime_ns */
	uint32_t name;                 /* where in the text its name begins, a zero after it and then its tag, perhaps short */
	uint16_t owner, name_len, tag_len;
	uint8_t bare;
};
#define SW_UNNAMED UINT32_MAX

struct sw_listing {                    /* listing.c */
	_Atomic uint32_t refs;
	uint32_t count;
	uint8_t beyond, load_more;     /* the filer said one more than was asked for; says that there are more */
	struct listed *entries;
	struct owner { uint32_t mode, uid, gid; } *owners;
	uint32_t nowners;
	char *text;
	size_t used, room;
};
void listing_entry(const sw_listing *l, uint32_t i, struct sw_listed *out); /* without its tag */
#define SW_REMOTE_BLOCK 4096           /* blksize of what Python enters */

#define SW_PAGED 64                    /* pages.c: open directories by fh */

#define SW_RETIRED 4096        /* inode numbers of removed files that are remembered, each in a place of its own */

struct sw_session {
	struct sw_config config;
	struct rule *rules;
	int nrules;
	pthread_mutex_t lock;
	/* table.c */
	struct node **by_id, **by_key;
	struct link **by_name;
	uint64_t nbuckets, nnodes, nlinks, next_id;
	struct { uint64_t ino, epoch; } retired[SW_RETIRED]; /* by inode number: the next epoch of one that was freed */
	struct node *root, lru;
	struct used brow;
	uint64_t nlru, nbrow;
	uint64_t root_dev;
	int told;                      /* the source tells of its changes */
	uint64_t changes;              /* how many it has told */
	struct paged *paged[SW_PAGED]; /* pages.c */
	uint16_t epoch;                /* of the rules that nodes have: a directory that moves starts a new one */
	uint16_t asking;               /* complete files of another number are asked for at their next open */
	uint8_t settling;
	/* source.c */
	struct dirfd dirfds[SW_DIRFDS];
	uint64_t clock;
	uint32_t names_changing;       /* renames and removals that are under way through this mount */
	_Atomic uint64_t names_ended;  /* those that ended; changed under lock */
	pthread_cond_t names_wake;
	struct later {
		int fd;
		int32_t backing;
	} later[SW_LATER];             /* to be closed by the next unlock() */
	uint32_t nlater;
	/* hot.c */
	struct replaced {
		uint64_t dev, ino, until;
	} replaced[SW_REPLACED];       /* files whose node was superseded by an open; the oldest is overwritten */
	uint32_t nreplaced;
	uint64_t replaced_until;       /* the latest of all */
	/* session.c */
	int dev, sock, peer, evfd;
	int mounted;
	struct ring *_Atomic ring;     /* ring.c; NULL: requests are read from the device */
	_Atomic int uring;             /* 1: it works; 0: not asked for; -errno */
	_Atomic int passthrough_on;
	_Atomic int direct_mmap;       /* the kernel can map files that are open with FOPEN_DIRECT_IO */
	_Atomic int running;
	pthread_t *threads;
	int nthreads;
	int listening;                 /* threads in read(2) on the device; under listen_lock */
	pthread_mutex_t listen_lock;
	pthread_cond_t spare;          /* threads beyond LISTENERS wait here */
	pthread_t pump, waker;
	int has_pump, has_waker;
	pthread_mutex_t pend_lock;
	struct pending *pend[SW_PENDING], *pend_free;
	uint64_t early[SW_EARLY];      /* requests whose INTERRUPT came before they were entered anywhere */
	uint32_t nearly;
	_Atomic uint32_t ninterrupted; /* changed under pend_lock */
	/* park.c */
	struct parked *parked;         /* under lock */
	struct parked *ready, **ready_tail; /* to be answered by the waker */
	pthread_cond_t wake;
	/* events */
	pthread_mutex_t ev_lock;
	struct sw_event *events;
	uint32_t ev_head, ev_tail, ev_lost;
	/* bpf.c, under lock */
	int watch_fd;                  /* map of the files whose reads the probes see, -1 */
	struct swp_filter *watch_filter;
	uint32_t cache_dev, source_dev;
	struct frames frames;          /* packed.c; has a lock of its own, a leaf */
	struct follow follow;
	/* view.c */
	struct view *view;
	struct sw_counters n;          /* relaxed: counted without the lock */
};

#define COUNT(s, field) __atomic_fetch_add(&(s)->n.field, 1, __ATOMIC_RELAXED)
#define COUNT_N(s, field, k) __atomic_fetch_add(&(s)->n.field, (k), __ATOMIC_RELAXED)

static inline uint64_t now_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static inline void lock(sw_session *s) { pthread_mutex_lock(&s->lock); }

/* What is dropped under the lock is closed after it: the last close of a deleted file frees its blocks, which takes a
 * second for a TiB, and at a remote source it may be a round trip. */
void close_later(sw_session *s, int fd);
void unlock_and_close(sw_session *s);
static inline void unlock(sw_session *s)
{
	if (s->nlater)
		unlock_and_close(s);
	else
		pthread_mutex_unlock(&s->lock);
}

/* follow.c */
void follow_open(sw_session *s, struct node *n, uint32_t pid); /* under lock: a thread opens it to read; n may be NULL */
int follow_start(sw_session *s);
void follow_stop(sw_session *s);

/* table.c (all under s->lock unless said) */
int table_init(sw_session *s);
void table_free(sw_session *s);
struct node *node_get(sw_session *s, uint64_t id);
struct node *node_by_key(sw_session *s, uint64_t dev, uint64_t ino);
/* asked: CLOCK_MONOTONIC_COARSE before the attributes were asked for */
struct node *node_intern(sw_session *s, const struct statx *st, uint64_t asked, struct node *parent, const char *name,
			 size_t len);
int node_enter(sw_session *s, const struct statx *st, uint64_t asked, uint64_t parent, const char *name, int ref,
	       struct sw_entry *out);
struct link *link_find(sw_session *s, struct node *parent, const char *name, size_t len);
void link_drop(sw_session *s, struct node *parent, const char *name, size_t len);
int node_same(const struct node *n, const struct statx *st); /* its number may be in use for another file */
int node_left_behind(const struct node *n, const struct statx *st); /* its readers have bytes from before `st` */
void node_supersede(sw_session *s, struct node *n);
void node_renew(sw_session *s, struct node *n, const struct statx *st);
void node_hold(sw_session *s, struct node *n);
void node_unref(sw_session *s, struct node *n);
void node_settle(sw_session *s, struct node *n); /* to the idle list, or freed, when nothing holds it */
void node_attr(sw_session *s, struct node *n, const struct statx *st, uint64_t asked);
struct used *used_of(struct node *n);            /* NULL: no memory */
int brow_touch(sw_session *s, struct node *n);   /* recency of registered backing files; -ENOMEM */
void brow_remove(sw_session *s, struct node *n);
int number_retired(const sw_session *s, uint64_t ino); /* it was a nodeid lately, of a file that is gone */
uint64_t node_valid_ns(sw_session *s, struct node *n);
uint64_t node_kept_ns(sw_session *s, struct node *n); /* the same, of attributes that were asked for just now */
void node_entry(sw_session *s, struct node *n, struct sw_entry *out);
void node_rule(sw_session *s, struct node *n);
int node_path(sw_session *s, const struct node *n, char *buf, size_t size);
static inline int node_check(sw_session *s, struct node *n)
{
	if (s->nrules && n->rule_epoch != s->epoch)
		node_rule(s, n);
	return n->rule < 0 ? s->config.check : s->rules[n->rule].check;
}
static inline uint64_t node_check_ns(sw_session *s, struct node *n)
{
	if (s->nrules && n->rule_epoch != s->epoch)
		node_rule(s, n);
	return n->rule < 0 ? s->config.check_ns : s->rules[n->rule].check_ns;
}

/* source.c (take the lock themselves) */
int dirfd_pin(sw_session *s, uint64_t nodeid, int *slot); /* fd or -errno */
void dirfd_unpin(sw_session *s, int slot);
void dirfds_drop(sw_session *s, struct node *n); /* under lock: the node goes */
int source_stat(sw_session *s, uint64_t nodeid, struct statx *st);
int source_stat_at(int dirfd, const char *name, struct statx *st);
int source_same(const sw_session *s, const struct node *n, const struct statx *st); /* under lock: st is of its file */

/* held.c */
int held_make(sw_session *s, uint64_t nodeid, int fd, struct statx *st); /* not under lock */
void held_keep(sw_session *s, struct node *n, int fd, const struct statx *st);
void held_drop(sw_session *s, struct node *n);

/* cfile.c (under lock) */
struct sw_cfile *cfile_get(struct sw_cfile *f);
void cfile_put(sw_session *s, struct sw_cfile *f);
int cfile_has(const struct sw_cfile *f, uint64_t offset, uint64_t end, uint64_t *first_missing, uint64_t *stop);

/* hot.c */
int seek_hot(sw_session *s, struct fuse_in_header *h, struct fuse_lseek_in *in); /* seek.c; 0: not answered */
void seek_opened(struct handle *k, int fd); /* a reader of the source's own file */
int hot_request(sw_session *s, char *msg, size_t len, char *out); /* 1 answered, 0 pass it on */
void open_dropped(sw_session *s, struct node *n, struct handle *h); /* under lock: one open fewer */
void fill_attr(struct node *n, struct fuse_attr *a);
void fill_entry(sw_session *s, struct node *n, struct fuse_entry_out *e);
int backing_open(sw_session *s, int fd);
int data_open(sw_session *s, uint64_t file_id); /* a cache file's descriptor, or -errno */
void backing_close(sw_session *s, int32_t id); /* under lock; done by unlock() */

void backing_drop(sw_session *s, struct node *n); /* under lock */

/* bpf.c (under lock) */
void watch_add(sw_session *s, struct node *n);
void watch_remove(sw_session *s, struct node *n);
void watch_number(sw_session *s, struct node *n, int gone);

/* view.c */
int view_init(sw_session *s);
void view_free(sw_session *s);
void view_read(sw_session *s, const struct fuse_in_header *h, const struct fuse_read_in *r, int cached);
void view_open(sw_session *s, const struct fuse_in_header *h);
void view_close(sw_session *s, const struct node *n); /* under lock */

/* dirs.c */
int dir_request(sw_session *s, struct fuse_in_header *h, char *out, size_t outsize);
int dir_reply(sw_session *s, uint64_t unique, int err, const char *out, size_t used, int plus);
int pages_request(sw_session *s, struct fuse_in_header *h, struct fuse_read_in *r, char *out, size_t outsize);
void pages_free(sw_session *s);
#define SW_STATX_BARE (1ull << 63) /* of stx_attributes, no file system's: see sw_attrs.bare */
struct statx attrs_statx(const sw_session *s, const struct sw_attrs *a);

/* park.c */
void park(sw_session *s, struct fuse_in_header *h, struct fuse_read_in *r, size_t len, uint64_t first, uint64_t stop);
void park_interrupt(sw_session *s, uint64_t unique);
void park_recheck(sw_session *s, struct node *n); /* under lock */
void park_ask(sw_session *s, struct node *n); /* under lock: MISS again for each READ that waits */
void park_fail(sw_session *s, struct node *n, uint64_t chunk, int err, int all); /* under lock */
void *park_thread(void *arg);
/* -EBADMSG and the like, of compressed chunks: it is not answered, and for Python to read and to mend. */
int read_reply(sw_session *s, uint64_t unique, struct sw_cfile *f, uint64_t offset, uint32_t size, char *buf);

/* packed.c; not under lock */
int packed_set(struct packed *p, uint64_t file_id, uint64_t size, uint32_t chunk_size);
int packed_open(struct packed *p, uint64_t file_id, int fd); /* as the file itself says */
int packed_read(struct frames *all, const struct packed *p, int fd, uint64_t offset, uint32_t size, char *to);
void frames_free(struct frames *all);

/* ring.c */
int ring_prepare(sw_session *s);
int ring_answer_init(sw_session *s, const void *msg, size_t n);
int ring_start(sw_session *s);
void ring_stop(sw_session *s);
/* -ENOENT: no request of the ring, or not any more. May be the ring's own buffer (ring_buffer): then nothing is copied. */
int ring_answer(sw_session *s, uint64_t unique, int err, const void *data, size_t n);
void *ring_buffer(sw_session *s, uint64_t unique, void *other); /* where the answer's bytes go, or `other` */

/* session.c */
int reply(sw_session *s, uint64_t unique, int err, const void *data, size_t n);
int pass_on(sw_session *s, const void *msg, size_t len);
int event(sw_session *s, uint32_t kind, uint64_t nodeid, uint64_t arg, uint64_t chunk, uint64_t stop);
int dying(uint32_t pid);
void thread_signals(void);
void *thread_buffer(sw_session *s);
int pending_take(sw_session *s, uint64_t unique, struct pending *out);
int interrupt_early(sw_session *s, uint64_t unique); /* under lock: neither parked nor forwarded yet */
int early_take(sw_session *s, uint64_t unique);      /* under pend_lock: was it interrupted before it came? */

#endif
