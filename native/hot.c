/* hot.c: the operations that C answers by itself, and the rules for opening.
 *
 * The kernel holds an inode either in cached mode or in passthrough mode with one backing file (fs/fuse/iomode.c):
 * an open in the other mode fails there. So a node remembers the mode that is live and every open gets that mode:
 *   NONE         nobody has it open: the next open chooses
 *   PASS_CACHE   reads go to the complete cache file; a writer gets FOPEN_DIRECT_IO on top (its reads and writes
 *                come to Python, which writes the source and mirrors into the cache file that the readers see)
 *   PASS_SOURCE  somebody writes: everybody goes to the source's own file
 *   CACHED       the kernel's page cache, filled by READ: partly cached files, files with compressed chunks (the
 *                kernel could not read them), and all files without passthrough.
 *                Who opens a file to read while it is written gets FOPEN_DIRECT_IO: where a READ ends early the
 *                kernel fills its page with zeros and believes the end only if no newer attributes came meanwhile
 *                (fs/fuse/file.c, fuse_short_read). With two programs that rewrite a file of one byte over and
 *                over, 1.5 % of all reads through the page cache were a zero that nobody wrote. A reader that has
 *                the file open from before keeps that risk, and all have it on kernels before 6.6, where a file
 *                that is read so cannot be mapped. */
#include "internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/xattr.h>
#include <unistd.h>

#define REPLACED_NS 1000000000u /* from an ESTALE to the kernel's second try: a LOOKUP, and what waits before it */

int backing_open(sw_session *s, int fd)
{
	struct fuse_backing_map m = {.fd = fd};
	int r;

	/* The kernel writes the backing file with the credentials of this call: without CAP_FSETID the source's file
	 * system clears setuid bits on write, as for any unprivileged writer. */
	sw_fsetid(0);
	r = ioctl(s->dev, FUSE_DEV_IOC_BACKING_OPEN, &m);
	r = r < 0 ? -errno : r;
	sw_fsetid(1);
	if (r > 0) {
		COUNT(s, backing_open);
		COUNT(s, backings);
	} else
		COUNT(s, backing_errors);
	return r;
}

static void later_run(int dev, struct later *what, uint32_t *n)
{
	for (; *n; --*n, what++) {
		uint32_t id = (uint32_t)what->backing;

		if (what->fd >= 0)
			close(what->fd);
		else
			ioctl(dev, FUSE_DEV_IOC_BACKING_CLOSE, &id);
	}
}

void close_later(sw_session *s, int fd)
{
	s->later[s->nlater++] = (struct later){fd, 0};
	if (s->nlater == SW_LATER)
		later_run(s->dev, s->later, &s->nlater);
}

void unlock_and_close(sw_session *s)
{
	struct later what[SW_LATER];
	uint32_t n = s->nlater;

	memcpy(what, s->later, n * sizeof *what);
	s->nlater = 0;
	pthread_mutex_unlock(&s->lock);
	later_run(s->dev, what, &n);
}

void backing_close(sw_session *s, int32_t id)
{
	s->later[s->nlater++] = (struct later){-1, id};
	if (s->nlater == SW_LATER)
		later_run(s->dev, s->later, &s->nlater);
	COUNT_N(s, backings, (uint64_t)-1);
}

/* Under lock: what the node's opens are passed through to. `source`: the source's own file, else a cache file. */
static void backing_set(sw_session *s, struct node *n, int32_t id, int fd, int source)
{
	struct stat st;
	struct used *u = n->used;      /* its own: the caller has seen to that */

	u->backing = id;
	if (fstat(fd, &st))
		return;
	u->watch_ino = st.st_ino;
	u->watch_source = source != 0;
	watch_add(s, n);
}

void backing_drop(sw_session *s, struct node *n)
{
	watch_remove(s, n);
	backing_close(s, n->used->backing);
	n->used->backing = 0;
}

static void put_time(int64_t ns, uint64_t *sec, uint32_t *nsec)
{
	int64_t f = ns % 1000000000;

	if (f < 0)
		f += 1000000000;
	*sec = (uint64_t)((ns - f) / 1000000000);
	*nsec = (uint32_t)f;
}

void fill_attr(struct node *n, struct fuse_attr *a)
{
	n->told_old = 0;
	memset(a, 0, sizeof *a);
	a->ino = n->ino;
	a->size = n->size;
	a->blocks = n->blocks;
	put_time(n->atime_ns, &a->atime, &a->atimensec);
	put_time(n->mtime_ns, &a->mtime, &a->mtimensec);
	put_time(n->ctime_ns, &a->ctime, &a->ctimensec);
	a->mode = n->perm;
	a->nlink = n->nlink;
	a->uid = n->uid;
	a->gid = n->gid;
	a->rdev = n->rdev;
	a->blksize = n->blksize;
}

/* Under lock: a reply entry, with one more reference and what is left of the attributes' time. */
void fill_entry(sw_session *s, struct node *n, struct fuse_entry_out *e)
{
	uint64_t now = now_ns(CLOCK_MONOTONIC_COARSE), valid = node_valid_ns(s, n), age = now - n->attr_at;

	valid = age < valid ? valid - age : 0;
	memset(e, 0, sizeof *e);
	e->nodeid = n->id;
	e->entry_valid = e->attr_valid = valid / 1000000000;
	e->entry_valid_nsec = e->attr_valid_nsec = (uint32_t)(valid % 1000000000);
	fill_attr(n, &e->attr);
	node_hold(s, n);
	n->kernel_until = now + valid;
}

static int lookup_hot(sw_session *s, struct fuse_in_header *h, const char *name)
{
	struct fuse_entry_out e;
	size_t len = strlen(name);
	struct node *p, *n = NULL;
	struct link *l;
	struct statx st;
	uint64_t asked = now_ns(CLOCK_MONOTONIC_COARSE);
	int slot, fd, r;

	if (!s->config.local) {
		lock(s);
		p = node_get(s, h->nodeid);
		l = p ? link_find(s, p, name, len) : NULL;
		if (l && l->node->attr_at && !l->node->used->writers &&
		    now_ns(CLOCK_MONOTONIC_COARSE) - l->node->attr_at < node_valid_ns(s, l->node)) {
			n = l->node;
			fill_entry(s, n, &e);
		}
		unlock(s);
		if (!n)
			return 0;
	} else {
		fd = dirfd_pin(s, h->nodeid, &slot);
		if (fd < 0)
			return 0;
		r = source_stat_at(fd, name, &st);
		dirfd_unpin(s, slot);
		lock(s);
		p = node_get(s, h->nodeid);
		if (r == -ENOENT && p)
			link_drop(s, p, name, len);
		if (!r && p && (n = node_intern(s, &st, asked, p, name, len)))
			fill_entry(s, n, &e);
		unlock(s);
		if (r < 0) {
			COUNT(s, hot_lookup);
			reply(s, h->unique, r, NULL, 0);
			return 1;
		}
		if (!n)
			return 0;
	}
	COUNT(s, hot_lookup);
	if (reply(s, h->unique, 0, &e, sizeof e) == -ENOENT)
		sw_forget(s, e.nodeid, 1);
	return 1;
}

/* Under lock: the attributes need not be asked for again. */
static int attr_holds(sw_session *s, struct node *n)
{
	uint64_t now = now_ns(CLOCK_MONOTONIC_COARSE);

	return n->attr_at && now - n->attr_at < node_check_ns(s, n) && node_check(s, n);
}

static int getattr_hot(sw_session *s, struct fuse_in_header *h)
{
	struct fuse_attr_out a = {0};
	struct node *n;
	struct statx st;
	uint64_t valid, now = now_ns(CLOCK_MONOTONIC_COARSE);

	if (s->config.local && source_stat(s, h->nodeid, &st) < 0)
		return 0;
	lock(s);
	n = node_get(s, h->nodeid);
	if (n && s->config.local && node_left_behind(n, &st))
		n = NULL;
	else if (n && s->config.local)
		node_attr(s, n, &st, now);
	else if (n && (n->used->writers || !attr_holds(s, n)))
		n = NULL;
	if (n) {
		valid = node_valid_ns(s, n);
		fill_attr(n, &a.attr);
		a.attr_valid = valid / 1000000000;
		a.attr_valid_nsec = (uint32_t)(valid % 1000000000);
		n->kernel_until = now + valid;
	}
	unlock(s);
	if (!n)
		return 0;
	COUNT(s, hot_getattr);
	reply(s, h->unique, 0, &a, sizeof a);
	return 1;
}

/* ---- opens ---- */

/* Under lock: one more open, in this mode. */
static void mode_enter(sw_session *s, struct node *n, uint32_t mode)
{
	brow_remove(s, n);
	n->mode = mode;
	n->opens++;
}

static void mode_leave(sw_session *s, struct node *n)
{
	uint32_t was = n->mode;

	n->mode = SW_NONE;
	held_drop(s, n);
	if (n->used->keep_fd >= 0) {
		close_later(s, n->used->keep_fd);
		n->used->keep_fd = -1;
	}
	if (!n->used->backing)
		return;
	if (was != SW_PASS_CACHE || !n->used->file_id || brow_touch(s, n) < 0) {
		backing_drop(s, n);
		return;
	}
	while (s->nbrow > s->config.max_backing) {
		struct node *v = s->brow.brow_prev->node;

		brow_remove(s, v);
		backing_drop(s, v);
	}
}

static void cfile_drop(sw_session *s, struct node *n)
{
	if (n->used->cf) {
		cfile_put(s, n->used->cf);
		n->used->cf = NULL;
	}
}

/* Under lock: one open of n is over. h NULL: an open that C made. */
void open_dropped(sw_session *s, struct node *n, struct handle *h)
{
	if (h && h->released)
		return;
	if (h)
		h->released = 1;
	if (--n->opens == 0) {
		mode_leave(s, n);
		view_close(s, n);
		if (n->attached)
			event(s, SW_EV_IDLE, n->id, 0, 0, 0);
		else {
			cfile_drop(s, n);
		}
	}
	node_settle(s, n);
}

/* Under lock: an open of n cannot be had beside those that live; the kernel looks the name up and tries once more. */
static void replace(sw_session *s, struct node *n)
{
	struct replaced *r = &s->replaced[s->nreplaced++ % SW_REPLACED];

	s->replaced_until = now_ns(CLOCK_MONOTONIC_COARSE) + REPLACED_NS;
	*r = (struct replaced){n->dev, n->ino, s->replaced_until};
	node_supersede(s, n);
}

/* Under lock: was a node of this file replaced just now? The second try is the last one that the kernel makes, so the new
 * node must not be passed through by the time it comes: cached mode takes every open. */
static int just_replaced(sw_session *s, const struct node *n)
{
	uint64_t now = s->replaced_until ? now_ns(CLOCK_MONOTONIC_COARSE) : 0;

	if (s->replaced_until <= now)
		return 0;
	for (int i = 0; i < SW_REPLACED; i++)
		if (s->replaced[i].ino == n->ino && s->replaced[i].dev == n->dev && s->replaced[i].until > now)
			return 1;
	return 0;
}

int data_open(sw_session *s, uint64_t file_id)
{
	char path[40];
	int fd;

	/* layout.py: another name, so that an swmld which does not know compressed chunks finds no file. */
	snprintf(path, sizeof path, "%02x/%llu%s", (unsigned)(file_id & 0xff),
		 (unsigned long long)(file_id & ~(uint64_t)SW_PACKED), file_id & SW_PACKED ? ".z" : "");
	fd = openat(s->config.data_fd, path, O_RDWR | O_CLOEXEC | O_NOATIME);
	return fd < 0 ? -errno : fd;
}

static int same_generation(const struct node *n)
{
	const struct used *u = n->used;

	return n->used->file_id && u->gen_size == n->size && u->gen_mtime_ns == n->mtime_ns &&
	       u->gen_ctime_ns == n->ctime_ns;
}

/* Under lock: is its whole cache file passed through? */
static int passes(sw_session *s, const struct node *n)
{
	return s->passthrough_on && !(n->used->file_id & SW_PACKED);
}

/* Under lock: may this node be opened for reading without asking Python? */
static int openable(sw_session *s, const struct node *n)
{
	return n && n->used->file_id && n->asked == s->asking && !n->used->writers && !n->bypass && S_ISREG(n->perm) &&
	       (n->mode == SW_NONE || (n->mode == (passes(s, n) ? SW_PASS_CACHE : SW_CACHED) && !n->attached));
}

/* What serves it is there. A cache file that is left from opens before (Python has not let go of it yet) does not count:
 * it may be of an older generation. So may one that others read just now: a newer one was fetched ahead. */
static int served(sw_session *s, const struct node *n)
{
	return passes(s, n) ? n->used->backing : n->used->cf && n->mode != SW_NONE && n->used->cf->file_id == n->used->file_id;
}

/* Under lock, which is left and taken again: gives the node what serves it, a backing id or an open cache file. */
static struct node *serve(sw_session *s, uint64_t nodeid)
{
	struct node *n = node_get(s, nodeid);
	uint64_t file_id = n->used->file_id;
	int fd, id = 0, passthrough = passes(s, n);
	struct packed packed = {0};
	struct sw_cfile *f;

	if (served(s, n))
		return n;
	unlock(s);
	fd = data_open(s, file_id);
	if (fd >= 0 && passthrough)
		id = backing_open(s, fd);
	else if (fd >= 0 && file_id & SW_PACKED)
		id = packed_open(&packed, file_id, fd);
	lock(s);
	n = node_get(s, nodeid);
	if (fd < 0 || id < 0 || !n || n->used->file_id != file_id || !openable(s, n) || served(s, n) ||
	    (packed.file_id && packed.size != n->used->gen_size)) {
		if (id > 0)
			backing_close(s, id);
		if (fd >= 0)
			close_later(s, fd);
		return n && openable(s, n) && served(s, n) ? n : NULL;
	}
	if (passthrough) {
		backing_set(s, n, id, fd, 0);
		close_later(s, fd);
		return n;
	}
	f = calloc(1, sizeof *f);
	if (!f) {
		close_later(s, fd);
		return NULL;
	}
	f->fd = fd;
	f->refs = 1;
	f->file_id = file_id;
	f->size = n->used->gen_size;
	f->chunk_size = 1u << 22; /* all chunks are there: any size does */
	f->packed = packed;
	cfile_put(s, n->used->cf);
	n->used->cf = f;
	return n;
}

static int open_hot(sw_session *s, struct fuse_in_header *h, struct fuse_open_in *in)
{
	struct fuse_open_out o = {0};
	struct node *n;
	struct statx st;
	int pass, check, tell = 0;
	uint64_t now, file_id;

	if ((in->flags & O_ACCMODE) != O_RDONLY || in->flags & O_TRUNC)
		return 0;
	lock(s);
	n = node_get(s, h->nodeid);
	follow_open(s, n, h->pid);
	if (!openable(s, n))
		goto python;
	check = node_check(s, n);
	now = now_ns(CLOCK_MONOTONIC_COARSE);
	if (check != 2 && !attr_holds(s, n)) { /* 2: immutable, however old they are */
		if (!s->config.local)
			goto python;
		unlock(s);
		if (source_stat(s, h->nodeid, &st) < 0)
			return 0;
		lock(s);
		n = node_get(s, h->nodeid);
		if (!openable(s, n) || node_left_behind(n, &st))
			goto python;
		node_attr(s, n, &st, now);
	}
	if (!same_generation(n) || (passes(s, n) && n->mode == SW_NONE && just_replaced(s, n)))
		goto python;
	n = serve(s, h->nodeid);
	if (!n || !same_generation(n))
		goto python;
	pass = passes(s, n);
	n->used->last_open = now_ns(CLOCK_REALTIME_COARSE);
	mode_enter(s, n, pass ? SW_PASS_CACHE : SW_CACHED);
	o.fh = SW_HOT_FH | n->id;
	o.open_flags = FOPEN_NOFLUSH;
	if (pass) {
		o.open_flags |= FOPEN_PASSTHROUGH;
		o.padding = (uint32_t)n->used->backing; /* `backing_id` since 7.40 */
		COUNT(s, open_passthrough);
	} else {
		o.open_flags |= n->pages ? FOPEN_KEEP_CACHE : 0;
		n->pages = 1;
		COUNT(s, open_cached);
	}
	tell = n->tell_open;
	file_id = n->used->file_id;
	n->tell_open = 0;
	unlock(s);
	COUNT(s, hot_open);
	if (tell)
		event(s, SW_EV_OPENED, h->nodeid, file_id, h->pid, h->uid);
	if (reply(s, h->unique, 0, &o, sizeof o) == -ENOENT) {
		lock(s);
		open_dropped(s, node_get(s, h->nodeid), NULL);
		unlock(s);
	}
	return 1;
python:
	unlock(s);
	return 0;
}

static int read_hot(sw_session *s, struct fuse_in_header *h, struct fuse_read_in *r, size_t len, char *out, int *cached)
{
	uint64_t first, stop = 0, chunk;
	struct sw_cfile *f = NULL;
	struct node *n;
	int there = 0, answered = 0, crossed = 0, redirect = 0;

	lock(s);
	n = node_get(s, h->nodeid);
	/* In passthrough mode a READ is of a handle with FOPEN_DIRECT_IO, whose bytes are Python's to find. */
	if (n && n->used->cf && !n->bypass && n->mode == SW_CACHED) {
		f = cfile_get(n->used->cf);
		there = cfile_has(f, r->offset, r->offset + r->size, &first, &stop);
		redirect = f->redirect;
		chunk = r->offset / f->chunk_size;
		if (stop <= chunk) /* behind the end */
			stop = chunk + 1;
		crossed = f->bits && (chunk != f->last_chunk || stop - 1 != f->last_chunk);
		f->last_chunk = stop - 1;
	}
	unlock(s);
	if (!f)
		return 0;
	*cached = there;
	if (there) {
		COUNT(s, hot_read);
		if (crossed)
			event(s, SW_EV_TOUCH, h->nodeid, r->offset, chunk, stop);
		answered = read_reply(s, h->unique, f, r->offset, r->size, out) == 0;
	} else if (!redirect) {
		park(s, h, r, len, first, stop);
		answered = 1;
	}
	lock(s);
	cfile_put(s, f);
	unlock(s);
	return answered;
}

static int release_hot(sw_session *s, struct fuse_in_header *h, uint64_t fh)
{
	struct node *n;

	if (!(fh & SW_HOT_FH)) { /* Python's: the books are ours, the rest is its own */
		struct handle *k = (struct handle *)(uintptr_t)fh;

		lock(s);
		open_dropped(s, k->node, k);
		unlock(s);
		return 0;
	}
	lock(s);
	n = node_get(s, h->nodeid);
	if (n)
		open_dropped(s, n, NULL);
	unlock(s);
	COUNT(s, hot_release);
	reply(s, h->unique, 0, NULL, 0);
	return 1;
}

static int getxattr_hot(sw_session *s, struct fuse_in_header *h, struct fuse_getxattr_in *in, char *out, size_t outsize)
{
	const char *name = (const char *)(in + 1);
	struct fuse_getxattr_out size = {0};
	char path[320], base[256];
	uint64_t parent;
	struct statx st;
	struct node *n;
	ssize_t k;
	int slot, dir, held;

	lock(s);
	n = node_get(s, h->nodeid);
	held = n && n->opens;
	unlock(s);
	if (held && source_stat(s, h->nodeid, &st) < 0) /* its name may mean another file */
		return 0;
	if (h->nodeid == SW_ROOT || sw_parent(s, h->nodeid, &parent, base, sizeof base) < 0 || in->size > outsize)
		return 0;
	dir = dirfd_pin(s, parent, &slot);
	if (dir < 0)
		return 0;
	snprintf(path, sizeof path, "/proc/self/fd/%d/%s", dir, base);
	k = lgetxattr(path, name, in->size ? out : NULL, in->size);
	k = k < 0 ? -errno : k;
	dirfd_unpin(s, slot);
	COUNT(s, hot_xattr);
	size.size = (uint32_t)(k < 0 ? 0 : k);
	if (k < 0)
		reply(s, h->unique, (int)k, NULL, 0);
	else if (in->size)
		reply(s, h->unique, 0, out, (size_t)k);
	else
		reply(s, h->unique, 0, &size, sizeof size);
	return 1;
}

/* Of a source that C cannot ask: ls(1), cp(1), tar(1) and the kernel before a file's first write ask for attributes of
 * every file, and hardly any has one. */
static int xattr_bare(sw_session *s, struct fuse_in_header *h, struct fuse_getxattr_in *in)
{
	struct fuse_getxattr_out none = {0};
	struct node *n;
	int bare;

	lock(s);
	n = node_get(s, h->nodeid);
	bare = n && n->bare && (n->used->writers || attr_holds(s, n));
	unlock(s);
	if (!bare)
		return 0;
	COUNT(s, hot_xattr);
	if (h->opcode == FUSE_GETXATTR)
		reply(s, h->unique, strncmp((const char *)(in + 1), "system.", 7) ? -ENODATA : -EOPNOTSUPP, NULL, 0);
	else
		reply(s, h->unique, 0, in->size ? NULL : &none, in->size ? 0 : sizeof none);
	return 1;
}

/* It has some from now on, or may have. */
static int xattr_changes(sw_session *s, struct fuse_in_header *h)
{
	struct node *n;

	lock(s);
	n = node_get(s, h->nodeid);
	if (n)
		n->bare = 0;
	unlock(s);
	return 0;
}

/* Not on a source that may hang, and not while a mirror would have to follow. */
static int fallocate_hot(sw_session *s, struct fuse_in_header *h, struct fuse_fallocate_in *in)
{
	struct handle *k = (struct handle *)(uintptr_t)in->fh;
	int fd = in->fh & SW_HOT_FH ? -1 : k->fd;

	if (fd < 0 || !s->config.local || k->flags & FOPEN_DIRECT_IO)
		reply(s, h->unique, fd < 0 ? -EBADF : -EOPNOTSUPP, NULL, 0);
	else
		reply(s, h->unique,
		      sw_fallocate(fd, (int)in->mode, (int64_t)in->offset, (int64_t)in->length, !h->uid), NULL, 0);
	return 1;
}

int hot_request(sw_session *s, char *msg, size_t len, char *out)
{
	struct fuse_in_header *h = (struct fuse_in_header *)msg;
	void *arg = h + 1;
	int r, cached = 0;

	if (h->opcode == FUSE_RELEASE) /* the books of opens are kept in every mode */
		return release_hot(s, h, *(uint64_t *)arg);
	if (h->opcode == FUSE_FALLOCATE) /* pyfuse3 does not carry it */
		return fallocate_hot(s, h, arg);
	if (h->opcode == FUSE_LSEEK) /* nor that */
		return seek_hot(s, h, arg);
	if (h->opcode == FUSE_WRITE) { /* nor does it say who writes: its handles are even */
		struct fuse_write_in *w = arg;

		w->fh |= w->write_flags & FUSE_WRITE_KILL_SUIDGID ? SW_KILL_FH : 0;
		return 0;
	}
	if (h->opcode == FUSE_READ) {
		struct fuse_read_in in = *(struct fuse_read_in *)arg;

		r = s->config.hot ? read_hot(s, h, arg, len, out, &cached) : 0;
		view_read(s, h, &in, cached);
		return r;
	}
	if (h->opcode == FUSE_OPEN)
		view_open(s, h);
	if (!s->config.hot)
		return 0;
	switch (h->opcode) {
	case FUSE_LOOKUP:
		return lookup_hot(s, h, arg);
	case FUSE_GETATTR:
		return getattr_hot(s, h);
	case FUSE_OPEN:
		return open_hot(s, h, arg);
	case FUSE_OPENDIR:
	case FUSE_READDIR:
	case FUSE_READDIRPLUS:
	case FUSE_RELEASEDIR:
	case FUSE_FSYNCDIR:
		return dir_request(s, h, out, SW_MSG_MAX - 4096);
	case FUSE_GETXATTR:
		return s->config.local ? getxattr_hot(s, h, arg, out, SW_MSG_MAX - 4096) : xattr_bare(s, h, arg);
	case FUSE_LISTXATTR:
		return s->config.local ? 0 : xattr_bare(s, h, arg);
	case FUSE_SETXATTR:
	case FUSE_REMOVEXATTR:
		return xattr_changes(s, h);
	default:
		return 0;
	}
}

/* ---- what Python says about opens ---- */

int sw_mode(sw_session *s, uint64_t nodeid)
{
	struct node *n;
	int r;

	lock(s);
	n = node_get(s, nodeid);
	r = n ? (int)n->mode : -ESTALE;
	unlock(s);
	return r;
}

int sw_begin_write(sw_session *s, uint64_t nodeid)
{
	struct node *n;
	int r = -ESTALE;

	lock(s);
	n = node_get(s, nodeid);
	if (n && !used_of(n))
		r = -ENOMEM;
	else if (n) {
		n->bare = n->bare && (n->used->writers || attr_holds(s, n));
		n->used->writers++;
		n->wrote = 1;
		n->refs++;
		n->attr_at = n->last_known = 0;
		r = (int)n->mode;
	}
	unlock(s);
	return r;
}

void sw_made(sw_session *s, uint64_t nodeid)
{
	struct node *n;

	lock(s);
	n = node_get(s, nodeid);
	if (n)
		n->bare = n->used->writers && !s->config.local;
	unlock(s);
}

void sw_end_write(sw_session *s, uint64_t nodeid)
{
	struct node *n;

	lock(s);
	n = node_get(s, nodeid);
	if (n && n->used->writers) {
		n->used->writers--;
		n->attr_at = n->last_known = 0;
		n->written_at = now_ns(CLOCK_MONOTONIC_COARSE);
		node_unref(s, n);
	}
	unlock(s);
}

int sw_mirror_fd(sw_session *s, uint64_t nodeid)
{
	struct node *n;
	int fd = -ENOENT;

	for (int tries = 0; tries < 2 && fd == -ENOENT; tries++) { /* evicted in between: then the descriptor is kept */
		uint64_t file_id = 0;

		fd = -ESTALE;
		lock(s);
		n = node_get(s, nodeid);
		if (n && n->used->keep_fd >= 0) {
			fd = fcntl(n->used->keep_fd, F_DUPFD_CLOEXEC, 3);
			fd = fd < 0 ? -errno : fd;
		} else if (n)
			file_id = n->used->file_id;
		unlock(s);
		if (file_id)
			fd = data_open(s, file_id);
	}
	/* Still not there: evicted under the node that replaced this one. The kernel is to look the name up again. */
	return fd == -ENOENT ? -ESTALE : fd;
}

void sw_supersede(sw_session *s, uint64_t nodeid)
{
	struct node *n;

	lock(s);
	n = node_get(s, nodeid);
	if (n)
		replace(s, n);
	unlock(s);
}

void sw_bypass(sw_session *s, uint64_t nodeid, int on)
{
	struct node *n;

	lock(s);
	n = node_get(s, nodeid);
	if (n) {
		n->bypass = on != 0;
		n->pages = 0;
		if (on)
			park_recheck(s, n);
	}
	unlock(s);
}

int64_t sw_open_file(sw_session *s, uint64_t nodeid, int want, int fd, int writer, int pass)
{
	struct handle *h = calloc(1, sizeof *h);
	struct statx st;
	struct node *n;
	int id = 0, r = 0, held;

	if (!h)
		return -ENOMEM;
	held = want == SW_WANT_COMPLETE ? -1 : held_make(s, nodeid, fd, &st);
	if (want == SW_WANT_SOURCE && s->config.local && !writer)
		seek_opened(h, fd);
	lock(s);
	n = node_get(s, nodeid);
	if (n && !used_of(n)) {
		if (held >= 0)
			close_later(s, held);
		unlock(s);
		free(h);
		return -ENOMEM;
	}
	if (!n)
		r = -ESTALE;
	else if (n->mode == SW_NONE && want != SW_WANT_PARTIAL && pass && s->passthrough_on &&
		 !(want == SW_WANT_COMPLETE && just_replaced(s, n))) {
		/* BACKING_OPEN only takes a reference on an open file: it does not block, and the mode must not change. */
		if (n->used->backing && want == SW_WANT_COMPLETE && same_generation(n))
			id = n->used->backing;
		else {
			id = backing_open(s, fd);
			if (id > 0) {
				if (n->used->backing) {
					brow_remove(s, n);
					backing_drop(s, n);
				}
				backing_set(s, n, id, fd, want == SW_WANT_SOURCE);
			}
		}
		/* Refused (a stacked file system below): the page cache serves it. */
		mode_enter(s, n, id <= 0 ? SW_CACHED : want == SW_WANT_COMPLETE ? SW_PASS_CACHE : SW_PASS_SOURCE);
		h->flags = id > 0 ? FOPEN_PASSTHROUGH : 0;
		h->backing = id > 0 ? id : 0;
	} else if (n->mode == SW_NONE || n->mode == SW_CACHED) {
		mode_enter(s, n, SW_CACHED);
		if (want == SW_WANT_SOURCE)
			h->flags = n->wrote && !writer && s->direct_mmap ? FOPEN_DIRECT_IO : 0;
		else
			h->flags = n->pages ? FOPEN_KEEP_CACHE : 0;
	} else if (n->mode == SW_PASS_SOURCE || want == SW_WANT_COMPLETE) {
		if (n->mode == SW_PASS_CACHE && !same_generation(n) && !n->used->writers && !n->bypass)
			r = -ESTALE; /* open readers hold an older generation: the new one gets a new node */
		else {
			mode_enter(s, n, n->mode);
			h->flags = FOPEN_PASSTHROUGH;
			h->backing = n->used->backing;
		}
	} else if (want == SW_WANT_SOURCE) { /* PASS_CACHE lives: see the top of this file */
		mode_enter(s, n, n->mode);
		h->flags = FOPEN_PASSTHROUGH | FOPEN_DIRECT_IO;
		h->backing = n->used->backing;
	} else
		r = -ESTALE;
	if (r < 0) {
		if (n)
			replace(s, n);
		if (held >= 0)
			close_later(s, held);
		unlock(s);
		free(h);
		return r;
	}
	if (n->mode == SW_CACHED)
		n->pages = want != SW_WANT_SOURCE;
	if (!writer)
		h->flags |= FOPEN_NOFLUSH;
	h->writer = writer != 0;
	h->fd = writer ? fd : -1;
	h->node = n;
	n->refs++; /* until sw_handle_free */
	n->attached = 1;
	n->used->last_open = now_ns(CLOCK_REALTIME_COARSE);
	held_keep(s, n, held, &st);
	if (h->flags & FOPEN_DIRECT_IO)
		COUNT(s, open_direct);
	else if (h->flags & FOPEN_PASSTHROUGH)
		COUNT(s, open_passthrough);
	else
		COUNT(s, open_cached);
	unlock(s);
	return (int64_t)(uintptr_t)h;
}

unsigned sw_open_flags(uint64_t fh)
{
	return ((struct handle *)(uintptr_t)fh)->flags;
}

void sw_open_undo(sw_session *s, uint64_t fh)
{
	struct handle *h = (struct handle *)(uintptr_t)fh;

	lock(s);
	open_dropped(s, h->node, h);
	node_unref(s, h->node);
	unlock(s);
	free(h);
}

void sw_handle_free(sw_session *s, uint64_t fh)
{
	struct handle *h = (struct handle *)(uintptr_t)fh;

	lock(s);
	node_unref(s, h->node);
	unlock(s);
	free(h);
}

void sw_attach(sw_session *s, uint64_t nodeid)
{
	struct node *n;

	lock(s);
	n = node_get(s, nodeid);
	if (n)
		n->attached = 1;
	unlock(s);
}

int sw_detach(sw_session *s, uint64_t nodeid)
{
	struct node *n;
	int idle;

	lock(s);
	n = node_get(s, nodeid);
	idle = !n || !n->opens;
	if (n && idle) {
		n->attached = n->bypass = n->wrote = 0;
		cfile_drop(s, n);
		node_settle(s, n);
	}
	unlock(s);
	return idle;
}

static int set_complete(sw_session *s, uint64_t nodeid, uint64_t file_id, uint64_t size, int64_t mtime_ns,
			int64_t ctime_ns, int tell_open, int may_block)
{
	struct node *n;

	lock(s);
	n = node_get(s, nodeid);
	if (n && n->used->file_id != file_id && n->used->backing && n->mode == SW_NONE) {
		if (!may_block) {
			unlock(s);
			return -EAGAIN;
		}
		brow_remove(s, n);
		backing_drop(s, n);
	}
	/* The same cache file may have other times now: our own chmod or rename. */
	if (n && (n->used->file_id == file_id || n->mode == SW_NONE || n->mode == SW_CACHED) && used_of(n)) {
		n->used->file_id = file_id;
		n->used->gen_size = size;
		n->used->gen_mtime_ns = mtime_ns;
		n->used->gen_ctime_ns = ctime_ns;
		n->asked = s->asking;
	}
	if (n)
		n->tell_open = tell_open != 0;
	unlock(s);
	return 0;
}

void sw_set_complete(sw_session *s, uint64_t nodeid, uint64_t file_id, uint64_t size, int64_t mtime_ns,
		     int64_t ctime_ns, int tell_open)
{
	set_complete(s, nodeid, file_id, size, mtime_ns, ctime_ns, tell_open, 1);
}

int sw_try_complete(sw_session *s, uint64_t nodeid, uint64_t file_id, uint64_t size, int64_t mtime_ns,
		    int64_t ctime_ns, int tell_open)
{
	return set_complete(s, nodeid, file_id, size, mtime_ns, ctime_ns, tell_open, 0);
}

void sw_ask_again(sw_session *s)
{
	lock(s);
	s->asking++;
	unlock(s);
}

int sw_child_complete(sw_session *s, uint64_t parent, const char *name)
{
	struct node *p;
	struct link *l;
	int r;

	lock(s);
	p = node_get(s, parent);
	l = p ? link_find(s, p, name, strlen(name)) : NULL;
	r = l && l->node->used->file_id;
	unlock(s);
	return r;
}

/* By what the table knows. Attributes are to hold for a while yet where the source, not C, is asked at an open. */
int sw_child_settled(sw_session *s, uint64_t parent, const char *name, int tell)
{
	uint64_t now = now_ns(CLOCK_MONOTONIC_COARSE);
	struct node *p, *n;
	struct link *l;
	int check, r = 0;

	lock(s);
	p = node_get(s, parent);
	l = p ? link_find(s, p, name, strlen(name)) : NULL;
	n = l ? l->node : NULL;
	if (n && s->config.hot && n->asked == s->asking && !n->used->writers && !n->bypass && S_ISREG(n->perm) && same_generation(n)) {
		check = node_check(s, n);
		r = check == 2 || (check && n->attr_at &&
				   now - n->attr_at < node_check_ns(s, n) / (s->config.local ? 1 : 2));
		if (r && tell)
			n->tell_open = 1;
	}
	unlock(s);
	return r;
}

/* The cache file is about to be unlinked. Who has it open through the kernel keeps it; the descriptor taken here lets
 * a writer mirror into it. */
void sw_evict(sw_session *s, uint64_t nodeid, uint64_t file_id)
{
	struct node *n;
	int fd = data_open(s, file_id);

	lock(s);
	n = node_get(s, nodeid);
	if (n && file_id && n->used->file_id == file_id) {
		n->used->file_id = 0;
		n->pages = 0;
		if (n->mode == SW_PASS_CACHE && n->used->keep_fd < 0 && fd >= 0) {
			n->used->keep_fd = fd;
			fd = -1;
		} else if (n->mode == SW_NONE && n->used->backing) {
			brow_remove(s, n);
			backing_drop(s, n);
		}
	}
	unlock(s);
	if (fd >= 0)
		close(fd);
}

/* Has the kernel been told attributes that have changed since? Then they are to be invalidated before an open. */
int sw_told_old(sw_session *s, uint64_t nodeid)
{
	struct node *n;
	int r;

	lock(s);
	n = node_get(s, nodeid);
	r = n && n->told_old;
	if (n)
		n->told_old = 0;
	unlock(s);
	return r;
}

int sw_usage(sw_session *s, uint64_t nodeid, uint64_t *last_open_ns, uint32_t *opens)
{
	struct node *n;

	lock(s);
	n = node_get(s, nodeid);
	if (n) {
		*last_open_ns = n->used->last_open;
		*opens = n->opens;
	}
	unlock(s);
	return n ? 0 : -ENOENT;
}
