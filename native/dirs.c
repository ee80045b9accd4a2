/* dirs.c: directory listings of a local source (others: pages.c), answered in C: getdents64 and, where the kernel does
 * not hold the entry's attributes any more, statx. Offsets are the source's own (telldir cookies), so a listing goes on
 * correctly while entries come and go. */
#include "internal.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DENTS 65536
#define FRESH_MARGIN_NS 1000000000ull /* an entry must stay valid this long to be listed without its attributes */

struct dents64 {
	uint64_t ino;
	int64_t off;
	uint16_t reclen;
	uint8_t type;
	char name[];
};

struct dirh {
	pthread_mutex_t lock;
	int fd;
	uint64_t nodeid;
	int64_t next;          /* offset of the entry at pos */
	size_t pos, len;
	char buf[DENTS];
};

static struct dirh *dir_of(uint64_t fh)
{
	return (struct dirh *)(uintptr_t)(fh & ~(SW_HOT_FH | SW_DIR_FH));
}

static int opendir_hot(sw_session *s, struct fuse_in_header *h)
{
	struct fuse_open_out o = {0};
	struct dirh *d;
	int slot, at = dirfd_pin(s, h->nodeid, &slot), fd;

	if (at < 0)
		return 0; /* Python finds out why */
	fd = openat(at, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	dirfd_unpin(s, slot);
	if (fd < 0)
		return 0;
	d = malloc(sizeof *d);
	if (!d) {
		close(fd);
		return 0;
	}
	pthread_mutex_init(&d->lock, NULL);
	d->fd = fd;
	d->nodeid = h->nodeid;
	d->next = 0;
	d->pos = d->len = 0;
	o.fh = SW_HOT_FH | SW_DIR_FH | (uint64_t)(uintptr_t)d;
	if (reply(s, h->unique, 0, &o, sizeof o) < 0) {
		close(fd);
		free(d);
	}
	return 1;
}

/* Fills the entry's attributes unless the kernel still holds them; returns 1 when it did. */
static int entry_of(sw_session *s, struct dirh *d, const struct dents64 *e, struct fuse_entry_out *out)
{
	size_t len = strlen(e->name);
	uint64_t now = now_ns(CLOCK_MONOTONIC_COARSE);
	struct node *p, *n;
	struct link *l;
	struct statx st;
	int held;

	memset(out, 0, sizeof *out);
	if (e->name[0] == '.' && (len == 1 || (len == 2 && e->name[1] == '.')))
		return 0;
	lock(s);
	p = node_get(s, d->nodeid);
	l = p ? link_find(s, p, e->name, len) : NULL;
	held = l && l->node->nlookup && l->node->ino == e->ino && l->node->kernel_until > now + FRESH_MARGIN_NS &&
	       !l->node->used->writers;
	unlock(s);
	if (!p || held || source_stat_at(d->fd, e->name, &st) < 0)
		return 0;
	lock(s);
	p = node_get(s, d->nodeid);
	n = p ? node_intern(s, &st, now, p, e->name, len) : NULL;
	if (n)
		fill_entry(s, n, out);
	unlock(s);
	return n != NULL;
}

/* 0, or -errno of the reply. */
int dir_reply(sw_session *s, uint64_t unique, int err, const char *out, size_t used, int plus)
{
	int r = reply(s, unique, err, out, used);

	COUNT(s, hot_readdir);
	if (r == -ENOENT && plus)
		for (size_t at = 0; at < used;) { /* nobody took the references */
			const struct fuse_entry_out *e = (const struct fuse_entry_out *)(out + at);
			const struct fuse_dirent *f = (const struct fuse_dirent *)(e + 1);

			if (e->nodeid)
				sw_forget(s, e->nodeid, 1);
			at += sizeof *e + FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + f->namelen);
		}
	return r;
}

static int readdir_hot(sw_session *s, struct fuse_in_header *h, struct fuse_read_in *r, char *out, int plus)
{
	struct dirh *d = dir_of(r->fh);
	size_t used = 0, head = plus ? sizeof(struct fuse_entry_out) : 0;
	int err = 0;

	pthread_mutex_lock(&d->lock);
	if ((int64_t)r->offset != d->next || !r->offset) {
		if (lseek(d->fd, (off_t)r->offset, SEEK_SET) < 0)
			err = -errno;
		d->pos = d->len = 0;
		d->next = (int64_t)r->offset;
	}
	while (!err) {
		struct dents64 *e;
		struct fuse_dirent *f;
		size_t len, need;

		if (d->pos >= d->len) {
			ssize_t k = syscall(SYS_getdents64, d->fd, d->buf, DENTS);

			if (k <= 0) {
				err = k < 0 ? -errno : 0;
				break;
			}
			d->pos = 0;
			d->len = (size_t)k;
		}
		e = (struct dents64 *)(d->buf + d->pos);
		len = strlen(e->name);
		need = head + FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + len);
		if (used + need > r->size)
			break;
		if (plus)
			entry_of(s, d, e, (struct fuse_entry_out *)(out + used));
		f = (struct fuse_dirent *)(out + used + head);
		f->ino = e->ino;
		f->off = (uint64_t)e->off;
		f->namelen = (uint32_t)len;
		f->type = e->type;
		memcpy(f->name, e->name, len);
		memset(f->name + len, 0, need - head - FUSE_NAME_OFFSET - len);
		used += need;
		d->pos += e->reclen;
		d->next = e->off;
	}
	pthread_mutex_unlock(&d->lock);
	dir_reply(s, h->unique, used ? 0 : err, out, used, plus);
	return 1;
}

int dir_request(sw_session *s, struct fuse_in_header *h, char *out, size_t outsize)
{
	void *arg = h + 1;
	uint64_t fh = *(uint64_t *)arg; /* fh leads in READDIR, RELEASEDIR and FSYNCDIR alike */
	struct dirh *d;

	if (h->opcode == FUSE_OPENDIR)
		return s->config.local ? opendir_hot(s, h) : 0;
	if (!(fh & SW_HOT_FH))
		return h->opcode == FUSE_READDIR || h->opcode == FUSE_READDIRPLUS ?
			       pages_request(s, h, arg, out, outsize) : 0;
	d = dir_of(fh);
	switch (h->opcode) {
	case FUSE_READDIR:
	case FUSE_READDIRPLUS: {
		struct fuse_read_in *r = arg;

		if (r->size > outsize)
			r->size = (uint32_t)outsize;
		return readdir_hot(s, h, r, out, h->opcode == FUSE_READDIRPLUS);
	}
	case FUSE_FSYNCDIR:
		reply(s, h->unique, fsync(d->fd) < 0 ? -errno : 0, NULL, 0);
		return 1;
	default:
		pthread_mutex_lock(&d->lock); /* whoever lists it still (its caller was cut off) finishes first */
		pthread_mutex_unlock(&d->lock);
		close(d->fd);
		pthread_mutex_destroy(&d->lock);
		free(d);
		reply(s, h->unique, 0, NULL, 0);
		return 1;
	}
}
