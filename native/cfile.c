/* cfile.c: a partly cached file as C sees it: its descriptor and which chunks are there (under session.lock). */
#include "internal.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

struct sw_cfile *cfile_get(struct sw_cfile *f)
{
	f->refs++;
	return f;
}

void cfile_put(sw_session *s, struct sw_cfile *f)
{
	if (!f || --f->refs)
		return;
	close_later(s, f->fd);
	free(f->bits);
	free(f);
}

static int has(const struct sw_cfile *f, uint64_t chunk)
{
	return f->present == f->nchunks || f->bits[chunk >> 3] >> (chunk & 7) & 1;
}

/* Are the bytes [offset, end) there? If not, the run of chunks that they need, from the first missing one. */
int cfile_has(const struct sw_cfile *f, uint64_t offset, uint64_t end, uint64_t *first_missing, uint64_t *stop)
{
	uint64_t c;

	if (end > f->size)
		end = f->size;
	if (offset >= end)
		return 1;
	*stop = (end - 1) / f->chunk_size + 1;
	for (c = offset / f->chunk_size; c < *stop; c++)
		if (!has(f, c)) {
			*first_missing = c;
			return 0;
		}
	return 1;
}

int sw_set_packed(sw_session *s, uint64_t nodeid, int fd, uint64_t file_id, uint64_t size, uint32_t chunk_size,
		  const unsigned char *bitmap)
{
	struct sw_cfile *f, *old = NULL;
	uint64_t nbytes;
	struct node *n;
	int r = 0;

	if (!chunk_size)
		return -EINVAL;
	f = calloc(1, sizeof *f);
	if (!f)
		return -ENOMEM;
	f->nchunks = size / chunk_size + (size % chunk_size != 0);
	nbytes = f->nchunks / 8 + 1;
	f->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	f->bits = calloc(1, nbytes);
	f->refs = 1;
	f->size = size;
	f->chunk_size = chunk_size;
	f->last_chunk = UINT64_MAX;
	if (file_id)
		r = packed_set(&f->packed, file_id, size, chunk_size);
	if (f->fd < 0 || !f->bits || r < 0) {
		r = r < 0 ? r : f->fd < 0 ? -errno : -ENOMEM;
		if (f->fd >= 0)
			close(f->fd);
		free(f->bits);
		free(f);
		return r;
	}
	if (bitmap)
		memcpy(f->bits, bitmap, (f->nchunks + 7) / 8);
	for (uint64_t i = 0; i < f->nchunks; i++)
		f->present += f->bits[i >> 3] >> (i & 7) & 1;
	lock(s);
	n = node_get(s, nodeid);
	if (n && used_of(n)) {
		old = n->used->cf;
		n->used->cf = f;
		park_recheck(s, n);
		if (old)
			park_ask(s, n); /* whoever was asked for the old one's chunks may not bring these */
	} else {
		old = f;
		r = n ? -ENOMEM : -ESTALE;
	}
	cfile_put(s, old);
	unlock(s);
	return r;
}

int sw_set_cfile(sw_session *s, uint64_t nodeid, int fd, uint64_t size, uint32_t chunk_size,
		 const unsigned char *bitmap)
{
	return sw_set_packed(s, nodeid, fd, 0, size, chunk_size, bitmap);
}

void sw_landed(sw_session *s, uint64_t nodeid, uint64_t chunk)
{
	struct node *n;

	lock(s);
	n = node_get(s, nodeid);
	if (n && n->used->cf && chunk < n->used->cf->nchunks && !has(n->used->cf, chunk)) {
		n->used->cf->bits[chunk >> 3] |= (unsigned char)(1u << (chunk & 7));
		n->used->cf->present++;
	}
	if (n && n->used->cf)
		park_recheck(s, n);
	unlock(s);
}

void sw_failed(sw_session *s, uint64_t nodeid, uint64_t chunk, int err)
{
	struct node *n;

	lock(s);
	n = node_get(s, nodeid);
	if (n) {
		if (!err && n->used->cf)
			n->used->cf->redirect = 1;
		park_fail(s, n, chunk, err, 0);
	}
	unlock(s);
}
