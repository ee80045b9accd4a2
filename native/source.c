/* source.c: the calls on the source that C makes itself: directories by O_PATH descriptor, statx, opens.
 *
 * A directory descriptor names the directory itself, whatever it is called by now, and children are reached with one
 * component each (O_NOFOLLOW), so no path is ever walked that another user could bend with a symlink, and depth does
 * not matter. The descriptors are kept in a small cache; a pinned one is in use and is not closed. */
#include "internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static struct node doomed; /* marks a descriptor whose node went while it was pinned */

#define STATX_WANT (STATX_BASIC_STATS | STATX_BTIME)

int source_stat_at(int dirfd, const char *name, struct statx *st)
{
	int flags = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | (*name ? 0 : AT_EMPTY_PATH);

	return statx(dirfd, name, flags, STATX_WANT, st) < 0 ? -errno : 0;
}

#define PLACES 9 /* a directory's descriptor is in one of this many places, from its nodeid on */

static int dirfd_slot(sw_session *s, const struct node *n)
{
	for (uint64_t i = 0; i < PLACES; i++)
		if (s->dirfds[(n->id + i) % SW_DIRFDS].node == n)
			return (int)((n->id + i) % SW_DIRFDS);
	return -1;
}

/* Under lock: one of the places of this node, the least recently used that nobody has pinned; -1 if all are. */
static int dirfd_place(sw_session *s, const struct node *n)
{
	int best = -1;

	for (uint64_t i = 0; i < PLACES; i++) {
		int k = (int)((n->id + i) % SW_DIRFDS);

		if (!s->dirfds[k].node)
			return k;
		if (!s->dirfds[k].pins && (best < 0 || s->dirfds[k].used < s->dirfds[best].used))
			best = k;
	}
	return best;
}

void dirfds_drop(sw_session *s, struct node *n)
{
	int k = dirfd_slot(s, n);

	if (k >= 0 && s->dirfds[k].pins)
		s->dirfds[k].node = &doomed;
	else if (k >= 0) {
		close_later(s, s->dirfds[k].fd);
		memset(&s->dirfds[k], 0, sizeof s->dirfds[k]);
	}
}

int source_same(const sw_session *s, const struct node *n, const struct statx *st)
{
	uint64_t dev = (uint64_t)st->stx_dev_major << 32 | st->stx_dev_minor;

	return n->ino == st->stx_ino && n->dev == (dev == s->root_dev ? 0 : dev) && node_same(n, st);
}

/* The name means another file, or none: what the table holds of the node is not to answer the kernel's LOOKUP, which
 * follows an ESTALE. Returns `r`. */
static int told_stale(sw_session *s, uint64_t nodeid, int r)
{
	struct node *n;

	if (r != -ESTALE)
		return r;
	lock(s);
	n = node_get(s, nodeid);
	if (n) {
		n->last_known |= n->attr_at != 0;
		n->attr_at = 0;
		if (!n->opens) /* held.c asks whether the kernel still has the name */
			n->kernel_until = 0;
	}
	unlock(s);
	return r;
}

/* ---- names that change while they are looked at ----
 *
 * A rename or removal through this mount changes the source first and the table second. In between a node's name means
 * another file. The kernel answers one ESTALE with a LOOKUP (which waits for the rename: both lock the directory) and
 * a second try; the second ESTALE is the program's, and a file that is replaced over and over gives it both. So
 * whoever finds a node stale asks again once the change is in the table: the node then has its new name, or is an
 * orphan that is still open. */

enum { STALE_TRIES = 8 };

struct retry {
	uint64_t seen;
	int tries;
};

static struct retry retry_begin(sw_session *s) { return (struct retry){s->names_ended, STALE_TRIES}; }

/* Whether to ask again after `r`: a change of names ended since the last try, which may be waited for. */
static int stale_again(sw_session *s, struct retry *t, int r)
{
	uint64_t seen = t->seen;

	if (r != -ESTALE || !t->tries--)
		return 0;
	lock(s);
	while (s->names_changing && s->names_ended == seen)
		pthread_cond_wait(&s->names_wake, &s->lock);
	t->seen = s->names_ended;
	unlock(s);
	return t->seen != seen;
}

void sw_names_begin(sw_session *s)
{
	lock(s);
	s->names_changing++;
	unlock(s);
}

void sw_names_end(sw_session *s)
{
	lock(s);
	s->names_changing--;
	s->names_ended++;
	pthread_cond_broadcast(&s->names_wake);
	unlock(s);
}

/* Opens one directory from its parent's descriptor and sees that it still is `nodeid`. */
static int open_child(sw_session *s, int up, uint64_t parent, uint64_t nodeid)
{
	char name[SW_NAME_MAX + 1];
	struct statx st;
	struct node *n;
	int fd, same;

	lock(s);
	n = node_get(s, nodeid);
	if (n && n->links && n->links->parent->id == parent)
		memcpy(name, n->links->name, n->links->len + 1u);
	else
		n = NULL;
	unlock(s);
	if (!n)
		return -ESTALE;
	fd = openat(up, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT || errno == ENOTDIR || errno == ELOOP ? -ESTALE : -errno;
	if (source_stat_at(fd, "", &st) < 0) {
		close(fd);
		return -EIO;
	}
	lock(s);
	n = node_get(s, nodeid);
	same = n && source_same(s, n, &st);
	unlock(s);
	if (!same)
		close(fd);
	return same ? fd : -ESTALE;
}

/* Puts a new descriptor of `nodeid` into the cache, pinned, where there is room; the slot for dirfd_unpin. */
static int dirfd_keep(sw_session *s, uint64_t nodeid, int fd)
{
	struct node *n;
	int k;

	lock(s);
	n = node_get(s, nodeid);
	k = n && dirfd_slot(s, n) < 0 ? dirfd_place(s, n) : -1;
	if (k >= 0) {
		if (s->dirfds[k].node)
			close_later(s, s->dirfds[k].fd);
		s->dirfds[k] = (struct dirfd){.node = n, .fd = fd, .pins = 1, .used = ++s->clock};
	}
	unlock(s);
	return k >= 0 ? k : -1 - fd;
}

/* Returns the directory's descriptor, pinned in *slot; with *slot < 0 it is the caller's own to close (the cache's
 * places were all in use): dirfd_unpin does the right thing when given -1 - fd. Goes up to the nearest directory whose
 * descriptor is there (or that has lost its name and is kept as an orphan), then down again, without recursion: a
 * tree may be deeper than a stack. */
int dirfd_pin(sw_session *s, uint64_t nodeid, int *slot)
{
	uint64_t some[32], *chain = some, top;
	struct node *n, *up;
	size_t depth = 0, i;
	int fd;

	lock(s);
	n = node_get(s, nodeid);
	for (up = n; up && up != s->root && up->links && dirfd_slot(s, up) < 0; up = up->links->parent)
		depth++;
	if (depth > sizeof some / sizeof *some)
		chain = malloc(depth * sizeof *chain);
	if (!n || !chain) {
		unlock(s);
		return n ? -ENOMEM : -ESTALE;
	}
	for (i = 0, up = n; i < depth; up = up->links->parent)
		chain[i++] = up->id;
	top = up->id;
	*slot = dirfd_slot(s, up);
	if (*slot >= 0) {
		s->dirfds[*slot].pins++;
		s->dirfds[*slot].used = ++s->clock;
		fd = s->dirfds[*slot].fd;
	} else if (up->used->orphan_fd >= 0 || up == s->root) {
		fd = fcntl(up == s->root ? s->config.root_fd : up->used->orphan_fd, F_DUPFD_CLOEXEC, 3);
		fd = fd < 0 ? -errno : fd;
	} else
		fd = -ESTALE;
	unlock(s);
	if (fd >= 0 && *slot < 0)
		*slot = dirfd_keep(s, top, fd);
	while (depth-- && fd >= 0) {
		int from = *slot;

		fd = told_stale(s, chain[depth], open_child(s, fd, top, chain[depth]));
		top = chain[depth];
		if (fd >= 0)
			*slot = dirfd_keep(s, top, fd);
		dirfd_unpin(s, from);
	}
	if (chain != some)
		free(chain);
	return fd;
}

void dirfd_unpin(sw_session *s, int slot)
{
	if (slot < 0) {
		close(-1 - slot);
		return;
	}
	lock(s);
	if (--s->dirfds[slot].pins == 0 && s->dirfds[slot].node == &doomed) {
		close_later(s, s->dirfds[slot].fd);
		memset(&s->dirfds[slot], 0, sizeof s->dirfds[slot]);
	}
	unlock(s);
}

/* dirfd_pin for those who may wait. */
static int dirfd_pin_settled(sw_session *s, uint64_t nodeid, int *slot)
{
	struct retry t = retry_begin(s);
	int fd;

	do
		fd = dirfd_pin(s, nodeid, slot);
	while (stale_again(s, &t, fd));
	return fd;
}

int sw_dir_fd(sw_session *s, uint64_t nodeid)
{
	int slot, fd = dirfd_pin_settled(s, nodeid, &slot), copy;

	if (fd < 0)
		return fd;
	copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (copy < 0)
		copy = -errno;
	dirfd_unpin(s, slot);
	return copy;
}

/* statx of a node by its name, checked to be the same file still (else -ESTALE: look it up again). */
int source_stat(sw_session *s, uint64_t nodeid, struct statx *st)
{
	char name[SW_NAME_MAX + 1];
	uint64_t parent = 0;
	struct node *n;
	int fd, slot, r = 0, orphan = -1;

	if (nodeid == SW_ROOT)
		return source_stat_at(s->config.root_fd, "", st);
	lock(s);
	n = node_get(s, nodeid);
	if (n && n->links) {
		parent = n->links->parent->id;
		memcpy(name, n->links->name, n->links->len + 1u);
	} else if (n && n->used->orphan_fd >= 0) {
		orphan = fcntl(n->used->orphan_fd, F_DUPFD_CLOEXEC, 3);
		r = orphan < 0 ? -errno : 0;
	} else
		r = -ESTALE;
	unlock(s);
	if (r < 0)
		return r;
	if (orphan >= 0) {
		r = source_stat_at(orphan, "", st);
		close(orphan);
		return r;
	}
	fd = dirfd_pin(s, parent, &slot);
	if (fd < 0)
		return fd;
	r = source_stat_at(fd, name, st);
	dirfd_unpin(s, slot);
	if (r < 0)
		return told_stale(s, nodeid, r == -ENOENT || r == -ENOTDIR ? -ESTALE : r);
	lock(s);
	n = node_get(s, nodeid);
	if (!n || !source_same(s, n, st))
		r = -ESTALE;
	unlock(s);
	return told_stale(s, nodeid, r);
}

int sw_getattr(sw_session *s, uint64_t nodeid, struct sw_entry *out)
{
	struct statx st;
	struct node *n;
	uint64_t asked;
	struct retry t = retry_begin(s);
	int r;

	do {
		asked = now_ns(CLOCK_MONOTONIC_COARSE);
		r = source_stat(s, nodeid, &st);
	} while (stale_again(s, &t, r));
	if (r < 0)
		return r;
	lock(s);
	n = node_get(s, nodeid);
	if (n && node_left_behind(n, &st)) {
		node_supersede(s, n);
		r = -ESTALE;
	} else if (n) {
		node_attr(s, n, &st, asked);
		node_entry(s, n, out);
		n->kernel_until = n->attr_at + out->valid_ns;
	} else
		r = -ESTALE;
	unlock(s);
	return r;
}

int sw_lookup(sw_session *s, uint64_t parent, const char *name, int ref, struct sw_entry *out)
{
	struct statx st;
	struct node *p;
	uint64_t asked = now_ns(CLOCK_MONOTONIC_COARSE);
	int slot, r, fd = dirfd_pin_settled(s, parent, &slot);

	if (fd < 0)
		return fd;
	r = source_stat_at(fd, name, &st);
	dirfd_unpin(s, slot);
	lock(s);
	if (!r)
		r = node_enter(s, &st, asked, parent, name, ref, out);
	else if (r == -ENOENT && (p = node_get(s, parent)))
		link_drop(s, p, name, strlen(name));
	unlock(s);
	return r;
}

static int open_source(sw_session *s, uint64_t nodeid, int flags, int verify)
{
	char name[SW_NAME_MAX + 1], proc[64];
	uint64_t parent;
	struct statx st;
	struct node *n;
	int fd, dir, slot, r = 0, orphan = -1;

	flags |= O_CLOEXEC | O_NOCTTY;
	lock(s);
	n = node_get(s, nodeid);
	if (n && !n->links && n->used->orphan_fd >= 0) {
		orphan = fcntl(n->used->orphan_fd, F_DUPFD_CLOEXEC, 3);
		r = orphan < 0 ? -errno : 0;
	}
	unlock(s);
	if (r < 0)
		return r;
	if (orphan >= 0) {
		snprintf(proc, sizeof proc, "/proc/self/fd/%d", orphan);
		fd = open(proc, flags);
		r = fd < 0 ? -errno : fd;
		close(orphan);
		return r;
	}
	if (nodeid == SW_ROOT)
		return (fd = openat(s->config.root_fd, ".", flags)) < 0 ? -errno : fd;
	if (sw_parent(s, nodeid, &parent, name, sizeof name) < 0)
		return -ESTALE;
	dir = dirfd_pin(s, parent, &slot);
	if (dir < 0)
		return dir;
	fd = openat(dir, name, flags | O_NOFOLLOW | O_NONBLOCK); /* a file swapped for a FIFO must not hang us */
	r = fd < 0 ? -errno : fd;
	if (fd >= 0) /* io_uring answers EAGAIN on non-blocking descriptors */
		fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
	dirfd_unpin(s, slot);
	if (fd < 0)
		return told_stale(s, nodeid, r == -ENOENT || r == -ELOOP ? -ESTALE : r);
	if (!verify)
		return r;
	if (source_stat_at(fd, "", &st) < 0) {
		close(fd);
		return -EIO;
	}
	lock(s);
	n = node_get(s, nodeid);
	if (!n || !source_same(s, n, &st))
		r = -ESTALE;
	unlock(s);
	if (r < 0)
		close(fd);
	return told_stale(s, nodeid, r);
}

int sw_open_source(sw_session *s, uint64_t nodeid, int flags, int verify)
{
	struct retry t = retry_begin(s);
	int fd;

	do
		fd = open_source(s, nodeid, flags, verify);
	while (stale_again(s, &t, fd));
	return fd;
}

int sw_open_child(sw_session *s, uint64_t parent, const char *name, struct sw_entry *out)
{
	struct statx st;
	uint64_t asked = now_ns(CLOCK_MONOTONIC_COARSE);
	int slot, r, fd, dir = dirfd_pin_settled(s, parent, &slot);

	if (dir < 0)
		return dir;
	fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	r = fd < 0 ? -errno : 0;
	dirfd_unpin(s, slot);
	if (!r)
		r = source_stat_at(fd, "", &st);
	if (!r) {
		fcntl(fd, F_SETFL, 0);
		lock(s);
		r = node_enter(s, &st, asked, parent, name, 0, out);
		unlock(s);
	}
	if (r < 0 && fd >= 0)
		close(fd);
	return r < 0 ? r : fd;
}

/* Before the last name of a file goes: a descriptor that keeps the inode for whoever has it open or stands in it. */
int sw_before_unlink(sw_session *s, uint64_t parent, const char *name)
{
	struct statx st;
	struct node *p, *n = NULL;
	struct link *l;
	uint64_t id = 0;
	int dir, slot, fd;

	lock(s);
	p = node_get(s, parent);
	l = p ? link_find(s, p, name, strlen(name)) : NULL;
	if (l && l->node->used->orphan_fd < 0 && (l->node->nlookup || l->node->opens))
		id = l->node->id;
	unlock(s);
	if (!id)
		return 0;
	dir = dirfd_pin(s, parent, &slot);
	if (dir < 0)
		return dir;
	fd = openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	dirfd_unpin(s, slot);
	if (fd < 0)
		return -errno;
	if (source_stat_at(fd, "", &st) < 0) {
		close(fd);
		return -EIO;
	}
	lock(s);
	n = node_get(s, id);
	if (n && n->used->orphan_fd < 0 && source_same(s, n, &st) && used_of(n)) {
		n->used->orphan_fd = fd;
		fd = -1;
	}
	unlock(s);
	if (fd >= 0)
		close(fd);
	return 0;
}

void sw_not_unlinked(sw_session *s, uint64_t parent, const char *name)
{
	struct node *p;
	struct link *l;
	int fd = -1;

	lock(s);
	p = node_get(s, parent);
	l = p ? link_find(s, p, name, strlen(name)) : NULL;
	if (l && l->node->used->orphan_fd >= 0) {
		fd = l->node->used->orphan_fd;
		l->node->used->orphan_fd = -1;
	}
	unlock(s);
	if (fd >= 0)
		close(fd);
}
