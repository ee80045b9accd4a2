/* swml.h: the public face of native/. Everything between the CDEF marks is what Python sees through cffi.
 *
 * Conventions: a function returns 0 or a count, or -errno; it never prints and never calls back. `s` is a session.
 * Times are nanoseconds. "May block" marks calls that touch the source: Python makes them in worker threads. */
#ifndef SWML_H
#define SWML_H
#include <stddef.h>
#include <stdint.h>

#include "../bpf/swmld.h"

/* CDEF begin */
/* ---- buffers.c, crc32c.c: bytes ---- */
uint32_t sw_crc32c(uint32_t crc, const void *data, size_t n);
uint32_t sw_crc32c_soft(uint32_t crc, const void *data, size_t n);
void *sw_buffer_alloc(size_t n); /* page-aligned, zeroed; NULL when out of memory */
void sw_buffer_free(void *p, size_t n);
int sw_no_core(void); /* the process has credentials in its memory and environment: it leaves no core dump */
void sw_heap_lean(void); /* once, before threads start: two arenas of malloc for all of them */
void sw_heap_trim(void); /* what malloc holds free goes back to the kernel, if that is much and not as the last time */
int sw_syncfs(int fd);
int sw_fsetid(int on);
/* Without CAP_FSETID unless keep_setid: the source clears setuid bits, as it does for the caller. */
int64_t sw_pwrite(int fd, const void *p, size_t n, int64_t off, int keep_setid);
int sw_ftruncate(int fd, int64_t size, int keep_setid);
int sw_fallocate(int fd, int mode, int64_t off, int64_t len, int keep_setid);
/* Makes n sparse files; of each its descriptor, or -errno. */
void sw_data_files(const char *const *paths, const uint64_t *sizes, uint32_t n, int *fds);
int sw_renameat2(int olddir, const char *oldname, int newdir, const char *newname, unsigned flags);
int sw_create(int dir, const char *name, int flags, unsigned mode, unsigned uid, unsigned gid); /* fd */
int sw_mknod(int dir, const char *name, unsigned mode, unsigned rdev, unsigned uid, unsigned gid);
int sw_mkdir(int dir, const char *name, unsigned mode, unsigned uid, unsigned gid);
int sw_symlink(const char *to, int dir, const char *name, unsigned uid, unsigned gid);
int sw_link(int fd, int dir, const char *name);
int sw_chown(int fd, unsigned uid, unsigned gid);
int sw_chmod(int fd, unsigned mode);
int sw_utimens(int fd, int64_t atime_ns, int64_t mtime_ns);
/* ---- packed.c: cache files with compressed chunks; such a file's number has the bit SW_PACKED ---- */
#define SW_PACKED 4503599627370496
uint64_t sw_packed_front(uint64_t size, uint32_t chunk_size); /* bytes before the first chunk */
uint32_t sw_packed_entry(uint32_t chunk_size);                /* bytes of a chunk's entry; the first is at 64 */
int sw_packed_begin(int fd, uint64_t size, uint32_t chunk_size, int level); /* writes what a new file begins with */
/* The level of an existing file; -EBADMSG: it is damaged, or not of these sizes. */
int sw_packed_level(int fd, uint64_t size, uint32_t chunk_size);
/* Compresses a chunk in place; the bytes to be stored, and its entry. */
int64_t sw_pack(void *data, uint64_t length, uint32_t chunk_size, int level, void *entry);
/* Bytes of the file that it stands for, short at its end; -EBADMSG: damaged, or not there. */
int64_t sw_packed_read(int fd, uint64_t size, uint32_t chunk_size, uint64_t offset, uint32_t n, void *to);
/* ---- httpget.c: many small files by plain HTTP GETs; what is not plain is not done, and nothing of it written ---- */
typedef struct sw_getter sw_getter;
typedef struct sw_gets sw_gets;
enum { SW_GETS = 64, SW_GET_WAITS = 1 };
struct sw_get {
	const char *request;   /* all of it, to the empty line */
	void *buffer;          /* room for length bytes, which must not be 0 */
	uint64_t offset;       /* where they are written in fd */
	uint64_t first;        /* partial: of the first byte in the object */
	uint64_t took_ns;      /* out: since the batch began */
	uint32_t request_len, length;
	uint32_t address;      /* of sw_getter_address */
	int fd;                /* -1: nowhere */
	int partial;           /* the request asks for a range */
	const char *tag;       /* the ETag that the answer must have, without its quotes; NULL: any, or none */
	uint32_t tag_len;
	int summed;            /* an ETag of eight hexadecimal digits is the CRC-32C of the bytes, as SeaweedFS's is */
	int result;            /* out: SW_GET_WAITS; 0: the bytes are there, and written; -errno: not done */
	int status;            /* out: of the answer, 0: there was none */
	uint32_t crc;          /* out: CRC-32C of the bytes */
	int second;            /* out: 1: a second request was sent; 2: it has brought the bytes */
};
sw_getter *sw_getter_new(int *err);
void sw_getter_close(sw_getter *g); /* batches under way end, and those that begin later */
void sw_getter_free(sw_getter *g);  /* its owner's last call; it goes with the last batch */
int sw_getter_address(sw_getter *g, const char *ip, uint16_t port); /* its number; -ENOSPC: too many */
/* Sends n <= SW_GETS requests, each over a connection of its own; the structs stay the batch's until its end. */
sw_gets *sw_gets_new(sw_getter *g, struct sw_get *gets, uint32_t n, uint64_t limit_ns, int *err);
/* May block: until all have ended, or some have and linger_ns have passed, or wait_ns have (0: no such limit); how many
 * have since the last call. */
int sw_gets_step(sw_gets *b, uint64_t linger_ns, uint64_t wait_ns);
/* Sends another request for the bytes of gets[i], which waits: the first of both that brings them ends it, and it fails
 * with the last. The request stays the batch's until its end. 0, or -errno: the first one goes on alone. */
int sw_gets_second(sw_gets *b, uint32_t i, const char *request, uint32_t request_len, uint32_t address);
void sw_gets_free(sw_gets *b);

/* ---- session.c: the mount ---- */
typedef struct sw_session sw_session;
typedef struct sw_cfile sw_cfile;

struct sw_config {
	int root_fd;           /* directory fd of the source's root; stays the caller's */
	int data_fd;           /* directory fd of the cache's data/; -1 without a cache */
	int local;             /* metadata calls on the source do not block: C makes them itself */
	int hot;               /* answer hot operations in C; 0: all of them go to pyfuse3 (--no-native) */
	int passthrough;       /* ask the kernel for FUSE passthrough */
	int uring;             /* take requests from the kernel over io_uring, if it does that */
	int follow;            /* bring small files into the page cache ahead of readers in a known order */
	int acl;               /* the source stores POSIX ACLs: let the kernel enforce them */
	int threads;           /* threads that read the device */
	uint32_t idle_nodes;   /* nodes kept that the kernel has forgotten */
	uint32_t max_backing;  /* backing files kept registered for files that nobody has open */
	int check;             /* 0 strict, 1 relaxed, 2 immutable: for paths that no rule names */
	uint64_t check_ns;     /* relaxed: how long a check of the source holds */
	uint64_t meta_ns;      /* how long the kernel may keep names and attributes */
};

sw_session *sw_new(const struct sw_config *config, int *err);
int sw_rule(sw_session *s, const char *glob, int check, uint64_t check_ns); /* first match wins; before sw_mount */
int sw_mount(sw_session *s, const char *mountpoint, const char *fsname, unsigned long mount_flags);
int sw_start(sw_session *s);      /* starts the threads; returns the socket for libfuse ("/dev/fd/N") */
int sw_stop(sw_session *s);       /* ends the connection (if it lives) and joins the threads */
void sw_free(sw_session *s);
int sw_event_fd(sw_session *s);   /* eventfd: readable while sw_events has something */
int sw_passthrough_works(sw_session *s); /* after INIT: 1, or 0 with the kernel's refusal */
int sw_uring_works(sw_session *s);       /* after INIT: 1, 0 when not asked for, or -errno: the device is read */
int sw_probe_passthrough(int dirfd); /* tries the whole way with a throw-away mount; 0 or -errno */

enum { SW_EV_MISS = 1, SW_EV_TOUCH = 2, SW_EV_IDLE = 3, SW_EV_OPENED = 4, SW_EV_DOWN = 5 };
struct sw_event {
	uint32_t kind;
	uint32_t lost;         /* events dropped before this one because the ring was full */
	uint64_t nodeid;
	uint64_t arg;          /* OPENED: the cache file's number; MISS, TOUCH: the first byte that is read */
	uint64_t chunk;        /* TOUCH: first chunk of the read, MISS: first that is not there; OPENED: the thread that opens */
	uint64_t stop;         /* one past the last; OPENED: its user */
};
int sw_events(sw_session *s, struct sw_event *events, int max);

struct sw_counters {
	uint64_t hot_lookup, hot_getattr, hot_open, hot_release, hot_read, hot_readdir, hot_xattr;
	uint64_t hot_read_bytes, parked, unparked, forwarded, replies, forgets, interrupts, killed, reply_gone;
	uint64_t open_passthrough, open_cached, open_direct, backing_open, backing_errors;
	uint64_t followed_brought, followed_there;
	uint64_t nodes, links, dirfds, backings, events_lost, watch_errors;
};
void sw_counters_read(sw_session *s, struct sw_counters *out);

/* ---- table.c, source.c: nodes ---- */
struct sw_entry {
	uint64_t nodeid, ino, size, blocks;
	int64_t atime_ns, mtime_ns, ctime_ns;
	uint32_t mode, nlink, uid, gid, rdev, blksize;
	uint64_t dev;          /* 0 on the root's own device, else the raw st_dev */
	uint64_t valid_ns;     /* how long the kernel may keep it */
	int32_t check;         /* the rule's check, and its interval */
	uint32_t pad;
	uint64_t check_ns;
};
int sw_lookup(sw_session *s, uint64_t parent, const char *name, int ref, struct sw_entry *out); /* may block */
int sw_getattr(sw_session *s, uint64_t nodeid, struct sw_entry *out);                  /* may block */
int sw_cached_entry(sw_session *s, uint64_t nodeid, struct sw_entry *out);             /* from the table, however old */
void sw_ref(sw_session *s, uint64_t nodeid);
void sw_forget(sw_session *s, uint64_t nodeid, uint64_t n);
int sw_dir_fd(sw_session *s, uint64_t nodeid);                  /* may block; a new O_PATH fd, the caller's */
/* May block; a new fd of the node's source file. verify 0: whatever its name means now, for callers that compare
 * the open file's generation themselves (a round trip less at a slow source). */
int sw_open_source(sw_session *s, uint64_t nodeid, int flags, int verify);
/* The same for those who have it open, if its name means another file by now: as the file is that they hold (held.c).
 * by_handle 0: it may have been asked by the name, if the kernel still has that; -ESTALE then. */
int sw_getattr_held(sw_session *s, uint64_t nodeid, struct sw_entry *out);        /* may block */
int sw_open_held(sw_session *s, uint64_t nodeid, int flags, int by_handle);       /* may block */
/* May block; a child that is known to be a regular file, opened first and looked at then: one walk of the name. */
int sw_open_child(sw_session *s, uint64_t parent, const char *name, struct sw_entry *out); /* fd */
int sw_path(sw_session *s, uint64_t nodeid, char *buf, size_t size); /* relative to the root; length or -errno */
int sw_parent(sw_session *s, uint64_t nodeid, uint64_t *parent, char *name, size_t size);
/* Around each change of names, from before the source is asked until the table knows: who meets a node meanwhile waits. */
void sw_names_begin(sw_session *s);
void sw_names_end(sw_session *s);
int sw_before_unlink(sw_session *s, uint64_t parent, const char *name);   /* may block */
void sw_not_unlinked(sw_session *s, uint64_t parent, const char *name); /* it was refused: gives back before_unlink's fd */
void sw_unlinked(sw_session *s, uint64_t parent, const char *name);
void sw_renamed(sw_session *s, uint64_t p1, const char *n1, uint64_t p2, const char *n2, int exchange);
uint64_t sw_node_of(sw_session *s, uint64_t dev, uint64_t ino); /* 0 when not known */
int sw_notify_inode(sw_session *s, uint64_t nodeid, int64_t off, int64_t len); /* may block; off -1: attributes only */
int sw_notify_entry(sw_session *s, uint64_t parent, const char *name);    /* may block */

/* ---- remote.c: a source that Python asks. `asked`: sw_now() from before it was asked; dev is the root's ---- */
struct sw_attrs {
	uint64_t ino, size;
	int64_t mtime_ns, ctime_ns, btime_ns; /* btime_ns 0: not known */
	uint32_t mode, nlink, uid, gid, rdev, blksize;
	uint32_t bare; /* it is known to have no extended attributes */
};
uint64_t sw_now(void);
int sw_enter(sw_session *s, uint64_t parent, const char *name, const struct sw_attrs *attrs, uint64_t asked, int ref,
	     struct sw_entry *out);
/* As sw_enter of n children of one directory, without references; results are as its. */
void sw_enter_several(sw_session *s, uint64_t parent, const char *const *names, const struct sw_attrs *attrs,
		      const uint64_t *asked, uint32_t n, struct sw_entry *out, int *results);
/* -ESTALE: another file has the name */
int sw_refresh(sw_session *s, uint64_t nodeid, const struct sw_attrs *attrs, uint64_t asked, struct sw_entry *out);
/* We have made the node's file another generation at the source, or moved it: `was` until now, it is the same node as
 * `attrs`. -ESTALE when it was not, and is not. */
int sw_renew(sw_session *s, uint64_t nodeid, const struct sw_attrs *was, const struct sw_attrs *attrs);
void sw_relist(sw_session *s, uint64_t nodeid); /* a directory has other entries now: the kernel's own listing of it is old */
void sw_expire(sw_session *s, uint64_t nodeid); /* it changed at the source: ask before it is relied on; 0: all may have */
uint64_t sw_child(sw_session *s, uint64_t parent, const char *name); /* nodeid as the table has it, 0: unknown */
/* From now on the source tells of its changes, or not; how long a check holds for relaxed paths without a rule. */
void sw_told(sw_session *s, int told, uint64_t check_ns);

/* ---- listing.c, blake2b.c: a page of a directory of SeaweedFS, read from the filer's JSON ---- */
#define SW_TAG_MAX 329
struct sw_listed {
	struct sw_attrs a;             /* as they are entered: ctime_ns and btime_ns tell generations */
	int64_t ctime_ns, btime_ns;    /* as the filer has them */
	uint32_t name;                 /* where in the text the name begins, with a zero after it */
	uint16_t name_len, tag_len;
	char tag[SW_TAG_MAX];
};
typedef struct sw_listing sw_listing;
/* At most `limit` entries; `directory`: in the filer, with a slash at its end. NULL and *err -EOPNOTSUPP: Python reads
 * it. It never changes, and is freed with the last of its users. */
sw_listing *sw_listing_parse(const char *json, size_t n, const char *directory, uint32_t limit, int *err);
void sw_listing_free(sw_listing *l);
uint32_t sw_listing_count(const sw_listing *l);
int sw_listing_more(const sw_listing *l);      /* there are others after the last of it */
void sw_listing_entry(const sw_listing *l, uint32_t i, struct sw_listed *out);
const char *sw_listing_text(const sw_listing *l);
int64_t sw_listing_find(const sw_listing *l, const char *name, size_t n); /* its place, -1: it is not there */
uint64_t sw_blake2b8(const void *data, size_t n, const char *person);

/* ---- pages.c: open directories of a source that Python asks, answered from pages ---- */
/* The entries from place `start` on of the directory that Python has open as fh, asked for at `asked`, when `changes`
 * changes had been told. Kept until sw_dir_drop, beside the one that was given before. */
int sw_dir_give(sw_session *s, uint64_t fh, uint64_t nodeid, uint64_t start, sw_listing *l, int more, uint64_t asked,
		uint64_t changes);
void sw_dir_drop(sw_session *s, uint64_t fh);
/* So many have been told by now: pages from before are not answered from. */
void sw_dir_changed(sw_session *s, uint64_t changes);

/* ---- hot.c, cfile.c: opens and cached bytes ---- */
enum { SW_NONE = 0, SW_CACHED = 1, SW_PASS_CACHE = 2, SW_PASS_SOURCE = 3 };
enum { SW_WANT_SOURCE = 1, SW_WANT_COMPLETE = 2, SW_WANT_PARTIAL = 3 };
int sw_mode(sw_session *s, uint64_t nodeid);
void sw_made(sw_session *s, uint64_t nodeid); /* just now, and is open to be written: it has no extended attributes */
int sw_begin_write(sw_session *s, uint64_t nodeid);   /* from now every open comes to Python; returns the live mode */
void sw_end_write(sw_session *s, uint64_t nodeid);
int sw_mirror_fd(sw_session *s, uint64_t nodeid);     /* PASS_CACHE lives: a new O_RDWR fd of its backing file */
void sw_supersede(sw_session *s, uint64_t nodeid); /* lookups make another node from now on */
void sw_bypass(sw_session *s, uint64_t nodeid, int on); /* reads of this node must come from the source */
/* fh, or -errno; -ESTALE: look up again. fd is a cache file's for SW_WANT_COMPLETE, else the source's or -1; it stays the
 * caller's, open until RELEASE for a writer. pass 0: not even where passthrough would work. */
int64_t sw_open_file(sw_session *s, uint64_t nodeid, int want, int fd, int writer, int pass);
/* Which generation its reader reads: where its source file has holes may be told while that has it (seek.c). */
void sw_opened_generation(uint64_t fh, uint64_t size, int64_t mtime_ns, int64_t ctime_ns);
unsigned sw_open_flags(uint64_t fh);                  /* FOPEN_* that go with it */
void sw_open_undo(sw_session *s, uint64_t fh);        /* the open was never answered */
void sw_handle_free(sw_session *s, uint64_t fh);                   /* after RELEASE */
int sw_detach(sw_session *s, uint64_t nodeid);        /* after IDLE: 1 when nobody has it open: state may go */
void sw_attach(sw_session *s, uint64_t nodeid);       /* Python keeps state of this node: tell it when idle */
void sw_set_complete(sw_session *s, uint64_t nodeid, uint64_t file_id, uint64_t size, int64_t mtime_ns,
		     int64_t ctime_ns, int tell_open);
/* The same where nothing has to be closed for it, which may block; else -EAGAIN, and nothing was done. */
int sw_try_complete(sw_session *s, uint64_t nodeid, uint64_t file_id, uint64_t size, int64_t mtime_ns,
		    int64_t ctime_ns, int tell_open);
void sw_ask_again(sw_session *s);                      /* of each complete file that is known now, at its next open */
int sw_child_complete(sw_session *s, uint64_t parent, const char *name); /* the table knows a whole cache file of it */
/* As far as the table knows, C alone answers the next open of the child, from a whole cache file of its present
 * generation. `tell`: of that open it then tells (OPENED). */
int sw_child_settled(sw_session *s, uint64_t parent, const char *name, int tell);
void sw_evict(sw_session *s, uint64_t nodeid, uint64_t file_id);
int sw_told_old(sw_session *s, uint64_t nodeid);       /* the kernel holds older attributes; reported once */
int sw_usage(sw_session *s, uint64_t nodeid, uint64_t *last_open_ns, uint32_t *opens);
int sw_set_cfile(sw_session *s, uint64_t nodeid, int fd, uint64_t size, uint32_t chunk_size,
		 const unsigned char *bitmap);        /* the fd is duplicated */
/* As sw_set_cfile, of a cache file with compressed chunks and this number. */
int sw_set_packed(sw_session *s, uint64_t nodeid, int fd, uint64_t file_id, uint64_t size, uint32_t chunk_size,
		  const unsigned char *bitmap);
void sw_landed(sw_session *s, uint64_t nodeid, uint64_t chunk);
void sw_failed(sw_session *s, uint64_t nodeid, uint64_t chunk, int err); /* err 0: ask Python's read instead */

/* ---- bpf.c: maps and events of the probes; the structs swp_* are in bpf/swmld.h ---- */
int sw_map_update(int map_fd, const void *key, const void *value);
int sw_map_lookup(int map_fd, const void *key, void *value);
int sw_map_delete(int map_fd, const void *key);
int sw_map_batch(int map_fd, uint64_t *token, int first, void *keys, void *values, int max, int *done);
typedef struct sw_books sw_books;
sw_books *sw_books_open(int map_fd, uint32_t count, int *err); /* the descriptor stays the caller's */
void sw_books_close(sw_books *b);
int sw_books_read(sw_books *b, uint64_t since_ns, uint32_t *place, struct swp_row *rows, int max);
void sw_nodes_of(sw_session *s, const uint64_t *inos, uint64_t *nodes, int n);
int sw_place(sw_session *s, uint64_t nodeid, uint64_t *parent, uint64_t *size, char *name, size_t namesize);
typedef struct sw_ring sw_ring;
sw_ring *sw_ring_open(int map_fd, uint32_t bytes, int *err); /* the descriptor stays the caller's */
void sw_ring_close(sw_ring *r);
int sw_ring_read(sw_ring *r, struct swp_event *out, int max);
/* From now on the kernel sees the reads of every file that is passed through. Devices as the kernel numbers them. */
int sw_watch_start(sw_session *s, int watched_fd, int filter_fd, uint32_t cache_dev, uint32_t source_dev);
void sw_watch_stop(sw_session *s);

/* ---- sampler.c: the program that sees reads, attached for slices of the time ---- */
typedef struct sw_sampler sw_sampler;
struct sw_slice {
	uint64_t began_ns, ended_ns; /* CLOCK_MONOTONIC: attached; to be detached */
	uint64_t calls;              /* of the busiest CPU */
};
/* The descriptors stay the caller's. `cpus`: as many as the kernel may ever have. */
sw_sampler *sw_sampler_open(int config_fd, int calls_fd, int program_fd, uint32_t cpus, int *err);
void sw_sampler_close(sw_sampler *s);
int sw_sampler_calls(sw_sampler *s, uint64_t *most); /* since the last time, of the busiest CPU */
int sw_sampler_attach(sw_sampler *s, uint32_t weight); /* a descriptor, the caller's */
int sw_sampler_slice(sw_sampler *s, uint32_t weight, uint64_t ns, struct sw_slice *out);

/* ---- mapped.c: what is mapped by entries of 2 MiB ---- */
struct sw_mapped {
	uint64_t ino, first, pages;    /* a run of a file's pages */
};
/* Of a process, in files of this device (as the kernel numbers it): how many runs, at most `max`; *mappings: of these files.
 * -ENOENT: the process is gone; -ENOTTY: the kernel cannot tell. */
int sw_mapped(uint32_t pid, uint32_t dev, struct sw_mapped *out, int max, int *mappings);

/* ---- view.c: the same books for what FUSE sees; `pid` is that of a thread, `ino` and `node` the nodeid, `dev` 0 ---- */
struct sw_view_row {
	struct swp_key key;
	struct swp_cursor cursor;      /* of all READs if view is 2, of O_DIRECT and of sw_view_mapped alone if it is 1 */
	uint64_t disk_reads, disk_bytes, source_reads, source_bytes; /* of all READs: answered from the cache, or not */
};
void sw_view(sw_session *s, int level); /* 0 off, 1 what the probes cannot see, 2 everything */
int sw_view_fd(sw_session *s); /* eventfd: readable while sw_view_events has something */
int sw_view_events(sw_session *s, struct swp_event *out, int max, uint64_t *lost);
int sw_view_rows(sw_session *s, struct sw_view_row *out, int max); /* streams read since they were last returned */
/* So many folios of 2 MiB from this page on were mapped since it was last looked: faults that no event told. */
void sw_view_mapped(sw_session *s, uint64_t nodeid, uint32_t pid, uint64_t first, uint64_t folios);
/* stream.h, for tests: enters one read; see there. `c` is zeroed before the first. */
int sw_stream_enter(struct swp_cursor *c, uint64_t first, uint64_t asked, uint64_t size, uint64_t now_ns);
int sw_stream_sample(struct swp_cursor *c, uint64_t first, uint64_t asked, uint64_t size, uint64_t now_ns, uint32_t weight,
		     int paused);
/* CDEF end */
#endif
