/* held.c: files that are open through the mount and whose name the source has given to another file, or to none, beside
 * it. What is asked by a name then gets ESTALE, after which the kernel looks the name up and asks once more; a program
 * that asks by its open file has no name to look up, and on a local file system nothing has changed for it.
 *
 * So a node that is open to write, or served from the source, holds an O_PATH descriptor of its file: it is not open in
 * the sense of ETXTBSY or of leases. A file that is read from a complete cache file alone holds none (its open makes no
 * call on the source): of that the attributes are those that were seen last. */
#include "internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#define LATE_NS 1000000000ull /* the kernel counts from when the answer reaches it */

static int reopen(int fd, int flags)
{
	char path[40];
	int r;

	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	r = open(path, flags | O_CLOEXEC | O_NOCTTY);
	return r < 0 ? -errno : r;
}

/* A descriptor to be held of the file that `fd` is open on, which *st is of; negative: none is needed, or to be had. Not
 * of a source that may hang: whoever opens must not wait for it here. */
int held_make(sw_session *s, uint64_t nodeid, int fd, struct statx *st)
{
	struct node *n;
	int needed;

	if (fd < 0 || !s->config.local)
		return -1;
	lock(s);
	n = node_get(s, nodeid);
	needed = n && n->used->held_fd < 0;
	unlock(s);
	return needed && source_stat_at(fd, "", st) == 0 ? reopen(fd, O_PATH) : -1;
}

/* Under lock: takes over what held_make returned, if it is of this node. */
void held_keep(sw_session *s, struct node *n, int fd, const struct statx *st)
{
	if (fd < 0)
		return;
	if (n->opens && n->used != &nobody && n->used->held_fd < 0 && source_same(s, n, st))
		n->used->held_fd = fd;
	else
		close_later(s, fd);
}

/* Under lock: nobody has it open any more. */
void held_drop(sw_session *s, struct node *n)
{
	if (n->used->held_fd < 0)
		return;
	close_later(s, n->used->held_fd);
	n->used->held_fd = -1;
}

/* Under lock: may the kernel still come to this node by a name, without looking it up? */
static int named(sw_session *s, struct node *n)
{
	return node_kept_ns(s, n) && n->kernel_until + LATE_NS > now_ns(CLOCK_MONOTONIC_COARSE);
}

/* A new descriptor of what the node holds; -ESTALE: nothing, or it may be asked by its name. */
static int held_fd(sw_session *s, uint64_t nodeid, int by_handle)
{
	struct node *n;
	int r = -ESTALE;

	lock(s);
	n = node_get(s, nodeid);
	if (n && n->opens && n->used->held_fd >= 0 && (by_handle || !named(s, n))) {
		r = fcntl(n->used->held_fd, F_DUPFD_CLOEXEC, 3);
		r = r < 0 ? -errno : r;
	}
	unlock(s);
	return r;
}

/* A node that another one has taken the place of (hot.c, replace) has no names, but its file has: those of the other.
 * 0: it is not such a node. */
static uint64_t successor(sw_session *s, uint64_t nodeid)
{
	struct node *n, *m = NULL;
	uint64_t id = 0;

	lock(s);
	n = node_get(s, nodeid);
	if (n && n->opens && !n->in_key && !n->links)
		m = node_by_key(s, n->dev, n->ino);
	if (m && m->btime_ns == n->btime_ns)
		id = m->id;
	unlock(s);
	return id;
}

int sw_getattr_held(sw_session *s, uint64_t nodeid, struct sw_entry *out)
{
	int fd, r = sw_getattr(s, nodeid, out);
	uint64_t asked = now_ns(CLOCK_MONOTONIC_COARSE);
	uint64_t other;
	struct statx st;
	struct node *n;

	if (r != -ESTALE)
		return r;
	fd = held_fd(s, nodeid, 1);
	other = fd < 0 ? successor(s, nodeid) : 0;
	r = other ? source_stat(s, other, &st) : fd < 0 ? fd : source_stat_at(fd, "", &st);
	if (fd >= 0)
		close(fd);
	lock(s);
	n = node_get(s, nodeid);
	if (n && !r) {
		if (other) { /* its bytes may be older: they end where they ended */
			st.stx_size = n->size;
			st.stx_blocks = n->blocks;
		}
		n->attr_at = 0;
		node_attr(s, n, &st, asked);
		n->attr_at = 0; /* the next open asks what the name means */
		n->last_known = 1;
	} else if (n && r == -ESTALE && n->opens && !n->used->writers && (n->last_known || n->attr_at))
		r = 0; /* as it was last seen */
	if (n && !r) {
		node_entry(s, n, out);
		out->valid_ns = 0;
	}
	unlock(s);
	return n ? r : -ESTALE;
}

int sw_open_held(sw_session *s, uint64_t nodeid, int flags, int by_handle)
{
	int fd, r = sw_open_source(s, nodeid, flags, 1);
	uint64_t other;

	if (r != -ESTALE)
		return r;
	fd = held_fd(s, nodeid, by_handle);
	other = fd < 0 ? successor(s, nodeid) : 0;
	if (other) { /* the same file, by whichever name it was asked */
		r = sw_open_source(s, other, flags, 1);
		fd = r == -ESTALE ? held_fd(s, other, 1) : -ESTALE;
		if (r != -ESTALE)
			return r;
	}
	if (fd < 0)
		return fd;
	r = reopen(fd, flags);
	close(fd);
	return r;
}
