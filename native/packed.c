/* packed.c: cache files with compressed chunks.
 *
 *     0       struct front: what file this is
 *     64      one entry a chunk: its crc32c, then how many bytes each of its frames has here; zeros: never written
 *     front   the chunks, each at its place of the file without compression: its frames, one after another, then a hole
 *
 * A frame is FRAME bytes of the chunk (the last one fewer), compressed by zstd with a checksum of its content, and stored
 * as it is where that does not make it shorter: then it has as many bytes as it stands for. So a read decodes the frames
 * that it covers, 4 KiB cost one frame, and a chunk that cannot be compressed costs its entry. Numbers are in the order
 * of the host's bytes: a cache does not move between hosts. */
#include "internal.h"

#include <stdlib.h>
#include <unistd.h>
#include <zstd.h>

#define FRAME (128u << 10)
#define PAGE 4096u
#define ENTRIES_AT 64u
#define CHUNK_MIN 4096u
#define CHUNK_MAX (64u << 20)
#define FRAMES_MAX (CHUNK_MAX / FRAME)
#define SAMPLES 4              /* frames that are tried first, of a chunk of twice as many or more */
#define BUDGET_NS 1000000000u  /* of one chunk at the level asked for; the rest of it at level 1 */

struct front {
	char magic[8];
	uint64_t size;
	uint32_t chunk_size, level, frame, crc; /* crc: of all before it */
};
static const char MAGIC[8] = "swmlpk1";

struct entry {
	uint32_t crc;
	uint32_t length[FRAMES_MAX];
};

/* What one thread decodes with. */
struct unpacker {
	struct unpacker *next;
	ZSTD_DCtx *d;
	unsigned char *out;    /* a whole frame, taken by the cache when it is decoded */
	unsigned char in[FRAME];
};

/* ---- where things are ---- */

static uint32_t frames_of(uint32_t chunk_size)
{
	return (chunk_size + FRAME - 1) / FRAME;
}

uint32_t sw_packed_entry(uint32_t chunk_size)
{
	return 4 + 4 * frames_of(chunk_size);
}

uint64_t sw_packed_front(uint64_t size, uint32_t chunk_size)
{
	uint64_t chunks = size / chunk_size + (size % chunk_size != 0);

	return (ENTRIES_AT + chunks * sw_packed_entry(chunk_size) + PAGE - 1) / PAGE * PAGE;
}

int packed_set(struct packed *p, uint64_t file_id, uint64_t size, uint32_t chunk_size)
{
	if (chunk_size < CHUNK_MIN || chunk_size > CHUNK_MAX)
		return -EINVAL;
	*p = (struct packed){file_id, size, sw_packed_front(size, chunk_size), chunk_size};
	return 0;
}

/* All `n` bytes at `at`: 0, -EBADMSG where the file ends before, or -errno. */
static int read_all(int fd, void *to, size_t n, uint64_t at)
{
	for (size_t done = 0; done < n;) {
		ssize_t k = pread(fd, (char *)to + done, n - done, (off_t)(at + done));

		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0)
			return k < 0 ? -errno : -EBADMSG;
		done += (size_t)k;
	}
	return 0;
}

static int front_read(int fd, struct front *f)
{
	int r = read_all(fd, f, sizeof *f, 0);

	if (r < 0)
		return r;
	return memcmp(f->magic, MAGIC, sizeof MAGIC) || f->crc != sw_crc32c(0, f, offsetof(struct front, crc)) ||
			       f->frame != FRAME || f->chunk_size < CHUNK_MIN || f->chunk_size > CHUNK_MAX ?
		       -EBADMSG : 0;
}

int packed_open(struct packed *p, uint64_t file_id, int fd)
{
	struct front f;
	int r = front_read(fd, &f);

	return r < 0 ? r : packed_set(p, file_id, f.size, f.chunk_size);
}

int sw_packed_begin(int fd, uint64_t size, uint32_t chunk_size, int level)
{
	struct front f = {.size = size, .chunk_size = chunk_size, .level = (uint32_t)level, .frame = FRAME};
	ssize_t k;

	if (chunk_size < CHUNK_MIN || chunk_size > CHUNK_MAX)
		return -EINVAL;
	memcpy(f.magic, MAGIC, sizeof MAGIC);
	f.crc = sw_crc32c(0, &f, offsetof(struct front, crc));
	k = pwrite(fd, &f, sizeof f, 0);
	return k < 0 ? -errno : k == sizeof f ? 0 : -ENOSPC;
}

int sw_packed_level(int fd, uint64_t size, uint32_t chunk_size)
{
	struct front f;
	int r = front_read(fd, &f);

	if (r < 0)
		return r;
	return f.size != size || f.chunk_size != chunk_size || !f.level || f.level > 19 ? -EBADMSG : (int)f.level;
}

/* ---- compressing ---- */

static size_t compress(ZSTD_CCtx *c, void *to, const unsigned char *from, size_t n)
{
	/* Less than an eighth saved is not worth the decoding: then there is no room for it, an error. */
	size_t k = ZSTD_compress2(c, to, n - n / 8, from, n);

	return ZSTD_isError(k) ? 0 : k;
}

static size_t frame_length(uint64_t length, uint32_t frame)
{
	uint64_t left = length - (uint64_t)frame * FRAME;

	return left < FRAME ? (size_t)left : FRAME;
}

/* Does it look as if it could be compressed? Some frames, quickly. */
static int worth(ZSTD_CCtx *c, void *scratch, const unsigned char *data, uint64_t length, uint32_t frames)
{
	if (frames < 2 * SAMPLES)
		return 1;
	for (uint32_t i = 0; i < SAMPLES; i++) {
		uint32_t frame = i * (frames / SAMPLES);

		if (compress(c, scratch, data + (uint64_t)frame * FRAME, frame_length(length, frame)))
			return 1;
	}
	return 0;
}

/* Frames only get shorter, so each fits before the next one's bytes. */
static uint64_t pack(ZSTD_CCtx *c, unsigned char *scratch, unsigned char *data, uint64_t length, int level,
		     uint32_t frames, struct entry *e)
{
	uint64_t to = 0, begun = now_ns(CLOCK_MONOTONIC);
	int any;

	ZSTD_CCtx_setParameter(c, ZSTD_c_compressionLevel, 1);
	any = worth(c, scratch, data, length, frames);
	ZSTD_CCtx_setParameter(c, ZSTD_c_compressionLevel, level);
	for (uint32_t i = 0; i < frames; i++) {
		unsigned char *from = data + (uint64_t)i * FRAME;
		size_t n = frame_length(length, i), k = any ? compress(c, scratch, from, n) : 0;

		if (k)
			memcpy(data + to, scratch, k);
		else if (data + to != from)
			memmove(data + to, from, n);
		e->length[i] = (uint32_t)(k ? k : n);
		to += e->length[i];
		if (level > 1 && now_ns(CLOCK_MONOTONIC) - begun > BUDGET_NS)
			ZSTD_CCtx_setParameter(c, ZSTD_c_compressionLevel, level = 1);
	}
	return to;
}

int64_t sw_pack(void *data, uint64_t length, uint32_t chunk_size, int level, void *entry)
{
	uint32_t n = sw_packed_entry(chunk_size), frames = (uint32_t)((length + FRAME - 1) / FRAME);
	struct entry e = {0};
	unsigned char *scratch;
	uint64_t stored;
	ZSTD_CCtx *c;

	if (chunk_size < CHUNK_MIN || chunk_size > CHUNK_MAX || !length || length > chunk_size)
		return -EINVAL;
	c = ZSTD_createCCtx();
	scratch = malloc(FRAME);
	if (!c || !scratch) {
		ZSTD_freeCCtx(c);
		free(scratch);
		return -ENOMEM;
	}
	ZSTD_CCtx_setParameter(c, ZSTD_c_checksumFlag, 1);
	stored = pack(c, scratch, data, length, level, frames, &e);
	e.crc = sw_crc32c(0, e.length, n - 4);
	memcpy(entry, &e, n);
	ZSTD_freeCCtx(c);
	free(scratch);
	return (int64_t)stored;
}

/* ---- decoding ---- */

static void unpacker_free(struct unpacker *u)
{
	if (!u)
		return;
	ZSTD_freeDCtx(u->d);
	free(u->out);
	free(u);
}

static struct unpacker *unpacker_get(struct frames *all)
{
	struct unpacker *u = NULL;

	if (all) {
		pthread_mutex_lock(&all->lock);
		u = all->idle;
		if (u)
			all->idle = u->next;
		pthread_mutex_unlock(&all->lock);
	}
	if (u)
		return u;
	u = malloc(sizeof *u);
	if (u) {
		u->out = NULL;
		u->d = ZSTD_createDCtx();
	}
	if (u && !u->d) {
		free(u);
		u = NULL;
	}
	return u;
}

static void unpacker_put(struct frames *all, struct unpacker *u)
{
	if (!all) {
		unpacker_free(u);
		return;
	}
	pthread_mutex_lock(&all->lock);
	u->next = all->idle;
	all->idle = u;
	pthread_mutex_unlock(&all->lock);
}

void frames_free(struct frames *all)
{
	for (int i = 0; i < SW_FRAMES; i++)
		free(all->kept[i].data);
	while (all->idle) {
		struct unpacker *u = all->idle;

		all->idle = u->next;
		unpacker_free(u);
	}
	pthread_mutex_destroy(&all->lock);
}

/* Bytes of a frame that was decoded before: 1, or 0 when it is not kept. */
static int kept_copy(struct frames *all, uint64_t file_id, uint64_t number, size_t skip, size_t n, char *to)
{
	int found = 0;

	pthread_mutex_lock(&all->lock);
	for (int i = 0; i < SW_FRAMES && !found; i++) {
		struct kept *k = &all->kept[i];

		if (k->file_id == file_id && k->number == number) {
			memcpy(to, k->data + skip, n);
			k->used = ++all->clock;
			found = 1;
		}
	}
	pthread_mutex_unlock(&all->lock);
	return found;
}

/* The frame in u->out takes the place of the one that was used longest ago, whose memory is the next frame's. */
static void kept_take(struct frames *all, uint64_t file_id, uint64_t number, struct unpacker *u)
{
	struct kept *oldest = all->kept;
	unsigned char *data;

	pthread_mutex_lock(&all->lock);
	for (int i = 1; i < SW_FRAMES; i++)
		if (all->kept[i].used < oldest->used)
			oldest = &all->kept[i];
	data = oldest->data;
	*oldest = (struct kept){file_id, number, ++all->clock, u->out};
	u->out = data;
	pthread_mutex_unlock(&all->lock);
}

struct where {
	uint64_t at, number;   /* of the frame: its place in the cache file, its number in the file */
	size_t stored, length, skip, n;
};

static int frame_read(struct frames *all, const struct packed *p, int fd, struct unpacker *u, const struct where *w,
		      char *to)
{
	int whole = w->n == w->length, r;
	size_t k;

	if (w->stored == w->length)
		return read_all(fd, to, w->n, w->at + w->skip);
	if (all && kept_copy(all, p->file_id, w->number, w->skip, w->n, to))
		return 0;
	r = read_all(fd, u->in, w->stored, w->at);
	if (r < 0)
		return r;
	if (!whole && !u->out && !(u->out = malloc(FRAME)))
		return -ENOMEM;
	k = ZSTD_decompressDCtx(u->d, whole ? (void *)to : u->out, w->length, u->in, w->stored);
	if (ZSTD_isError(k) || k != w->length)
		return -EBADMSG;
	if (!whole) {
		memcpy(to, u->out + w->skip, w->n);
		if (all)
			kept_take(all, p->file_id, w->number, u);
	}
	return 0;
}

/* The bytes [from, stop) of one chunk. */
static int chunk_read(struct frames *all, const struct packed *p, int fd, struct unpacker *u, uint64_t chunk, uint64_t from,
		      uint64_t stop, char *to)
{
	uint64_t base = chunk * p->chunk_size, left = p->size - base;
	uint64_t length = left < p->chunk_size ? left : p->chunk_size;
	uint32_t n = sw_packed_entry(p->chunk_size), frames = (uint32_t)((length + FRAME - 1) / FRAME);
	struct where w = {.at = p->front + base};
	struct entry e;
	int r = read_all(fd, &e, n, ENTRIES_AT + chunk * n);

	if (r < 0)
		return r;
	if (e.crc != sw_crc32c(0, e.length, n - 4))
		return -EBADMSG;
	for (uint32_t i = 0; i < frames && (uint64_t)i * FRAME < stop; i++, w.at += w.stored) {
		uint64_t start = (uint64_t)i * FRAME;

		w.length = frame_length(length, i);
		w.stored = e.length[i];
		if (!w.stored || w.stored > w.length)
			return -EBADMSG;
		if (start + w.length <= from)
			continue;
		w.skip = from > start ? (size_t)(from - start) : 0;
		w.n = (size_t)((stop < start + w.length ? stop : start + w.length) - start) - w.skip;
		w.number = chunk * frames_of(p->chunk_size) + i;
		r = frame_read(all, p, fd, u, &w, to);
		if (r < 0)
			return r;
		to += w.n;
	}
	return 0;
}

int packed_read(struct frames *all, const struct packed *p, int fd, uint64_t offset, uint32_t size, char *to)
{
	struct unpacker *u = unpacker_get(all);
	uint64_t end = offset + size;
	int r = u ? 0 : -ENOMEM;

	while (!r && offset < end) {
		uint64_t chunk = offset / p->chunk_size, base = chunk * p->chunk_size;
		uint64_t stop = end - base < p->chunk_size ? end - base : p->chunk_size;

		r = chunk_read(all, p, fd, u, chunk, offset - base, stop, to);
		to += base + stop - offset;
		offset = base + stop;
	}
	if (u)
		unpacker_put(all, u);
	return r;
}

int64_t sw_packed_read(int fd, uint64_t size, uint32_t chunk_size, uint64_t offset, uint32_t n, void *to)
{
	struct packed p;
	int r = packed_set(&p, 0, size, chunk_size);

	if (r < 0 || offset >= size)
		return r;
	n = size - offset < n ? (uint32_t)(size - offset) : n;
	r = packed_read(NULL, &p, fd, offset, n, to);
	return r < 0 ? r : (int64_t)n;
}
