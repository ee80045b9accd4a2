/* seek.c: where the data of a sparse file is, for SEEK_DATA and SEEK_HOLE: the kernel asks for it with LSEEK, also for
 * files that it passes through, and pyfuse3 does not carry that. Unanswered, it takes each file for one piece of data:
 * a copy of 1 TiB with a few bytes in it would read, and often write, all of it.
 *
 * The source knows. It may be believed where the bytes that the program reads are those that the source has now:
 *   - in PASS_SOURCE mode all who have the file open read and write that very file, mappings included;
 *   - in the other modes while nobody writes (pages that were written through a mapping are not at the source yet), and
 *     if the source's file is of the generation that was opened.
 * Else all is data up to the end: a hole may be called data, but never data a hole. */
#include "internal.h"

#include <fcntl.h>
#include <unistd.h>

static int64_t timespec_ns(const struct timespec *t)
{
	return (int64_t)t->tv_sec * 1000000000 + t->tv_nsec;
}

static struct generation generation_of(const struct stat *st)
{
	return (struct generation){(uint64_t)st->st_size, timespec_ns(&st->st_mtim), timespec_ns(&st->st_ctim), 1};
}

static int same(const struct generation *a, const struct generation *b)
{
	return a->known && b->known && a->size == b->size && a->mtime_ns == b->mtime_ns && a->ctime_ns == b->ctime_ns;
}

/* Of an open to read past the cache: what the descriptor has now. */
void seek_opened(struct handle *k, int fd)
{
	struct stat st;

	if (fd >= 0 && fstat(fd, &st) == 0)
		k->gen = generation_of(&st);
}

void sw_opened_generation(uint64_t fh, uint64_t size, int64_t mtime_ns, int64_t ctime_ns)
{
	((struct handle *)(uintptr_t)fh)->gen = (struct generation){size, mtime_ns, ctime_ns, 1};
}

/* What was opened, if the source may be believed when it still has that. *own: whatever it has. 0: not at all. */
static int believed(sw_session *s, uint64_t nodeid, uint64_t fh, struct generation *opened, int *own)
{
	struct node *n;
	int r;

	memset(opened, 0, sizeof *opened);
	lock(s);
	n = node_get(s, nodeid);
	*own = n && n->mode == SW_PASS_SOURCE;
	r = n && (*own || (!n->used->writers && n->opens));
	if (r && !*own && !(fh & SW_HOT_FH))
		*opened = ((struct handle *)(uintptr_t)fh)->gen;
	else if (r && !*own && n->used->file_id)
		*opened = (struct generation){n->used->gen_size, n->used->gen_mtime_ns, n->used->gen_ctime_ns, 1};
	unlock(s);
	return r;
}

/* The offset that the source says, -ENXIO, or another error where it may not be believed. */
static int64_t at_source(sw_session *s, uint64_t nodeid, const struct fuse_lseek_in *in)
{
	struct generation opened, now;
	struct stat st;
	int64_t at = -ESTALE;
	int fd, own;

	if (!believed(s, nodeid, in->fh, &opened, &own))
		return -ESTALE;
	fd = sw_open_held(s, nodeid, O_RDONLY | O_NOATIME, 1);
	if (fd < 0)
		return -ESTALE;
	if (own || (opened.known && fstat(fd, &st) == 0 && (now = generation_of(&st), same(&opened, &now)))) {
		at = lseek(fd, (off_t)in->offset, (int)in->whence);
		at = at < 0 ? -errno : at;
	}
	close(fd);
	return at;
}

/* One piece of data up to the end. */
static int64_t all_data(sw_session *s, uint64_t nodeid, const struct fuse_lseek_in *in)
{
	struct sw_entry e;
	int r = sw_getattr_held(s, nodeid, &e);

	if (r < 0)
		return r;
	if (in->offset >= e.size)
		return -ENXIO;
	return (int64_t)(in->whence == SEEK_HOLE ? e.size : in->offset);
}

/* 0: not answered. A source that may hang is not asked from here; the kernel sees one piece of data then. */
int seek_hot(sw_session *s, struct fuse_in_header *h, struct fuse_lseek_in *in)
{
	struct fuse_lseek_out out = {0};
	int64_t at;

	if (!s->config.local || (in->whence != SEEK_DATA && in->whence != SEEK_HOLE))
		return 0;
	at = at_source(s, h->nodeid, in);
	if (at < 0 && at != -ENXIO)
		at = all_data(s, h->nodeid, in);
	out.offset = at < 0 ? 0 : (uint64_t)at;
	if (at < 0)
		reply(s, h->unique, (int)at, NULL, 0);
	else
		reply(s, h->unique, 0, &out, sizeof out);
	return 1;
}
