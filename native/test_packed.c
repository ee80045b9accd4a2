/* packed.c: chunks that are compressed and read back, whole and in parts; damage and hostile bytes are errors, never
 * wrong bytes or worse; a session serves such files itself and never passes them through. */
#include "test_kit.h"

#include <sys/mman.h>

#define FRAME (128u << 10)
#define CHUNK (2 * FRAME + 4096) /* the last frame of a chunk is short */
#define LEVEL 3

static unsigned seed = 1;

static unsigned roll(unsigned n)
{
	seed ^= seed << 13;
	seed ^= seed >> 17;
	seed ^= seed << 5;
	return seed % n;
}

/* `noise` percent of the blocks of 4 KiB cannot be compressed. */
static unsigned char *make(size_t size, unsigned noise)
{
	unsigned char *data = malloc(size + 1);

	for (size_t i = 0; i < size; i += 4096) {
		int hard = roll(100) < noise;

		for (size_t j = i; j < size && j < i + 4096; j++)
			data[j] = (unsigned char)(hard ? roll(256) : "the same words again "[j % 21] + (j >> 14));
	}
	return data;
}

static uint64_t bytes_stored; /* by the last store() */

static int store(const unsigned char *data, uint64_t size, uint32_t chunk_size)
{
	uint32_t n = sw_packed_entry(chunk_size);
	uint64_t front = sw_packed_front(size, chunk_size);
	unsigned char entry[8192], *chunk = malloc(chunk_size);
	int fd = memfd_create("packed", MFD_CLOEXEC);

	CHECK(fd >= 0 && n <= sizeof entry && front % 4096 == 0);
	EQUAL(ftruncate(fd, (off_t)(front + size)), 0);
	EQUAL(sw_packed_begin(fd, size, chunk_size, LEVEL), 0);
	bytes_stored = 0;
	for (uint64_t i = 0; i * chunk_size < size; i++) {
		uint64_t at = i * chunk_size, length = size - at < chunk_size ? size - at : chunk_size;
		int64_t k;

		memcpy(chunk, data + at, length);
		k = sw_pack(chunk, length, chunk_size, LEVEL, entry);
		CHECK(k > 0 && (uint64_t)k <= length);
		bytes_stored += (uint64_t)k;
		EQUAL(pwrite(fd, entry, n, (off_t)(64 + i * n)), n);
		EQUAL(pwrite(fd, chunk, (size_t)k, (off_t)(front + at)), k);
	}
	free(chunk);
	return fd;
}

static struct frames *frames_new(void)
{
	struct frames *all = calloc(1, sizeof *all);

	pthread_mutex_init(&all->lock, NULL);
	return all;
}

/* Any part, with frames that are kept and without. */
static void read_parts(const unsigned char *data, uint64_t size, uint32_t chunk_size, int fd, int times)
{
	struct frames *all = frames_new();
	char *to = malloc(size + 1);
	struct packed p;

	EQUAL(packed_open(&p, SW_PACKED | 1, fd), 0);
	CHECK(p.size == size && p.chunk_size == chunk_size);
	EQUAL(packed_read(all, &p, fd, 0, (uint32_t)size, to), 0);
	CHECK(!memcmp(to, data, size));
	for (int i = 0; i < times; i++) {
		uint64_t at = roll((unsigned)size), n = 1 + roll(roll(2) ? 5000 : (unsigned)(size - at));
		uint64_t there = size - at < n ? size - at : n;

		EQUAL(sw_packed_read(fd, size, chunk_size, at, (uint32_t)n, to), there);
		CHECK(!memcmp(to, data + at, there));
		memset(to, 0, there);
		EQUAL(packed_read(all, &p, fd, at, (uint32_t)there, to), 0);
		CHECK(!memcmp(to, data + at, there));
	}
	EQUAL(sw_packed_read(fd, size, chunk_size, size, 10, to), 0);
	frames_free(all);
	free(all);
	free(to);
}

static void parts(void)
{
	static const uint64_t sizes[] = {1, 4096, FRAME - 1, FRAME, FRAME + 1, CHUNK, CHUNK + 1, 5 * CHUNK - 77};

	for (unsigned noise = 0; noise <= 100; noise += 50)
		for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
			unsigned char *data = make(sizes[i], noise);
			int fd = store(data, sizes[i], CHUNK);

			read_parts(data, sizes[i], CHUNK, fd, 40);
			if (noise == 100)
				EQUAL(bytes_stored, sizes[i]); /* nothing is lost by trying */
			else if (!noise && sizes[i] >= FRAME - 1)
				CHECK(bytes_stored < sizes[i] / 4);
			close(fd);
			free(data);
		}
}

/* A chunk of many frames is looked at in some places first: those that can be compressed are found. */
static void sampled(void)
{
	unsigned char *data = make(32 * FRAME, 100), *soft = make(8 * FRAME, 0);
	int fd = store(data, 32 * FRAME, 32 * FRAME);

	EQUAL(bytes_stored, 32 * FRAME);
	close(fd);
	memcpy(data + 16 * FRAME, soft, 8 * FRAME);
	fd = store(data, 32 * FRAME, 32 * FRAME);
	CHECK(bytes_stored < 25 * FRAME);
	read_parts(data, 32 * FRAME, 32 * FRAME, fd, 20);
	close(fd);
	free(data);
	free(soft);
}

static void refused(void)
{
	unsigned char *data = make(CHUNK, 0), entry[64];
	int fd = store(data, CHUNK, CHUNK);
	char to[16];

	EQUAL(sw_packed_level(fd, CHUNK, CHUNK), LEVEL);
	EQUAL(sw_packed_level(fd, CHUNK + 1, CHUNK), -EBADMSG);
	EQUAL(sw_packed_level(fd, CHUNK, 2 * CHUNK), -EBADMSG);
	EQUAL(sw_packed_level(-1, CHUNK, CHUNK), -EBADF);
	EQUAL(sw_packed_begin(-1, CHUNK, CHUNK, LEVEL), -EBADF);
	EQUAL(sw_packed_begin(fd, CHUNK, 512, LEVEL), -EINVAL);
	EQUAL(sw_packed_begin(fd, CHUNK, 128u << 20, LEVEL), -EINVAL);
	EQUAL(sw_packed_read(fd, CHUNK, 512, 0, 10, to), -EINVAL);
	EQUAL(sw_packed_read(-1, CHUNK, CHUNK, 0, 10, to), -EBADF);
	EQUAL(sw_pack(data, CHUNK + 1, CHUNK, LEVEL, entry), -EINVAL);
	EQUAL(sw_pack(data, 0, CHUNK, LEVEL, entry), -EINVAL);
	EQUAL(ftruncate(fd, 20), 0);
	EQUAL(sw_packed_level(fd, CHUNK, CHUNK), -EBADMSG);
	EQUAL(ftruncate(fd, 4096), 0); /* a chunk that was never written */
	EQUAL(sw_packed_begin(fd, CHUNK, CHUNK, LEVEL), 0);
	EQUAL(sw_packed_read(fd, CHUNK, CHUNK, 0, 10, to), -EBADMSG);
	close(fd);
	free(data);
}

struct reader {
	pthread_t thread;
	struct frames *all;
	const struct packed *p;
	const unsigned char *data;
	int fd, wrong;
	unsigned seed;
};

static void *reads(void *arg)
{
	struct reader *r = arg;
	char to[5000];

	for (int i = 0; i < 300; i++) {
		uint64_t at = (unsigned)rand_r(&r->seed) % (r->p->size - sizeof to);

		r->wrong |= packed_read(r->all, r->p, r->fd, at, sizeof to, to) || memcmp(to, r->data + at, sizeof to);
	}
	return NULL;
}

/* More frames than are kept, by several threads at once. */
static void together(void)
{
	const uint64_t size = (SW_FRAMES + 20) * FRAME;
	unsigned char *data = make(size, 0);
	int fd = store(data, size, 8 * FRAME);
	struct frames *all = frames_new();
	struct reader readers[4];
	struct packed p;

	EQUAL(packed_open(&p, SW_PACKED | 1, fd), 0);
	for (unsigned i = 0; i < 4; i++) {
		readers[i] = (struct reader){.all = all, .p = &p, .data = data, .fd = fd, .seed = i + 1};
		EQUAL(pthread_create(&readers[i].thread, NULL, reads, &readers[i]), 0);
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(readers[i].thread, NULL);
		CHECK(!readers[i].wrong);
	}
	close(fd);
	frames_free(all);
	free(all);
	free(data);
}

/* Flipped bits anywhere, with lengths whose checksum was made to hold, in a file cut off anywhere: what is read is
 * right or refused where all frames are compressed. */
static void hostile(void)
{
	const uint64_t size = 3 * CHUNK - 1000, front = sw_packed_front(size, CHUNK), end = front + size;
	unsigned char *data = make(size, 0), *file = malloc(end), *bad = malloc(end);
	uint32_t n = sw_packed_entry(CHUNK);
	struct frames *all = frames_new();
	char *to = malloc(size);
	int fd = store(data, size, CHUNK), refusals = 0;

	EQUAL(pread(fd, file, end, 0), end);
	for (int i = 0; i < 600; i++) {
		uint64_t at = roll(3) ? 64 + roll(3 * n) : roll(2) ? roll(64) : front + roll(3) * CHUNK + roll(100);
		uint64_t from = roll((unsigned)size), count = 1 + roll((unsigned)(size - from));
		int forged = roll(2), r;
		struct packed p;

		memcpy(bad, file, end);
		bad[at] ^= (unsigned char)(1u << roll(8));
		if (forged) {
			uint32_t *entry = (uint32_t *)(void *)(bad + 64 + roll(3) * n);

			entry[1 + roll(3)] = roll(2) ? roll(FRAME + 10) : seed;
			entry[0] = sw_crc32c(0, entry + 1, n - 4);
		}
		EQUAL(pwrite(fd, bad, end, 0), end);
		EQUAL(ftruncate(fd, (off_t)(roll(4) ? end : roll((unsigned)end))), 0);
		sw_packed_level(fd, size, CHUNK);
		r = packed_open(&p, SW_PACKED | (unsigned)(i + 2), fd);
		if (r == 0 && p.size == size && p.chunk_size == CHUNK)
			r = packed_read(all, &p, fd, from, (uint32_t)count, to);
		CHECK(r == 0 || r == -EBADMSG);
		refusals += r < 0;
		if (r == 0 && !forged)
			CHECK(!memcmp(to, data + from, count));
	}
	CHECK(refusals > 100 && refusals < 600);
	close(fd);
	frames_free(all);
	free(all);
	free(data);
	free(file);
	free(bad);
	free(to);
}

/* ---- in a session ---- */

static struct kit *k;
static sw_session *s;

static const uint64_t ID = SW_PACKED | 700;

static void put_file(int from, uint64_t n)
{
	char *all = malloc(n);
	int fd;

	EQUAL(pread(from, all, n, 0), n);
	CHECK(!mkdirat(k->data, "bc", 0755) || errno == EEXIST);
	fd = openat(k->data, "bc/700.z", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	EQUAL(write(fd, all, n), n);
	close(fd);
	free(all);
}

static void gets(uint64_t node, uint64_t fh, uint64_t at, uint32_t n, const unsigned char *data)
{
	void *body;
	size_t got;

	EQUAL(k_answer(k, k_read(k, node, fh, at, n), &body, &got), 0);
	EQUAL(got, n);
	CHECK(!memcmp(body, data + at, n));
}

static void goes_to_python(uint64_t node, uint64_t fh)
{
	uint64_t unique = k_read(k, node, fh, 0, 4096);

	EQUAL(p_recv(k)->unique, unique);
	p_reply(k, unique, 0, "", 0);
	EQUAL(k_answer(k, unique, NULL, NULL), 0);
}

static void served(void)
{
	const uint64_t size = CHUNK + 999, front = sw_packed_front(size, CHUNK);
	unsigned char *data = make(size, 0), bits = 1;
	struct fuse_open_out o;
	struct sw_entry e;
	int64_t fh;
	int fd;

	k = kit_new();
	s = k->s;
	kit_start(k);
	kit_init(k);
	kit_file(k->root, "file", "");
	fd = openat(k->root, "file", O_RDWR | O_CLOEXEC);
	EQUAL(ftruncate(fd, (off_t)size), 0);
	close(fd);
	EQUAL(sw_lookup(s, SW_ROOT, "file", 1, &e), 0);
	fd = store(data, size, CHUNK);
	put_file(fd, front + size);
	/* C opens it alone: in cached mode, though the kernel would pass files through. */
	sw_set_complete(s, e.nodeid, ID, e.size, e.mtime_ns, e.ctime_ns, 0);
	CHECK(s->passthrough_on);
	EQUAL(k_open(k, e.nodeid, O_RDONLY, &o), 0);
	EQUAL(o.open_flags, FOPEN_NOFLUSH);
	EQUAL(sw_mode(s, e.nodeid), SW_CACHED);
	EQUAL(kit_backings(), 0);
	gets(e.nodeid, o.fh, 0, 4096, data);
	gets(e.nodeid, o.fh, 5000, (uint32_t)size - 5000, data);
	gets(e.nodeid, o.fh, size - 1, 1, data);
	k_release(k, e.nodeid, o.fh);
	/* Partly there. What cannot be decoded is Python's to read, at once or after it was waited for. */
	fh = sw_open_file(s, e.nodeid, SW_WANT_PARTIAL, -1, 0, 1);
	CHECK(fh > 0 && !(sw_open_flags((uint64_t)fh) & FOPEN_PASSTHROUGH));
	EQUAL(sw_set_packed(s, e.nodeid, fd, ID, size, 512, &bits), -EINVAL);
	EQUAL(sw_set_packed(s, e.nodeid, fd, ID, size, CHUNK, &bits), 0);
	gets(e.nodeid, (uint64_t)fh, 100, 4096, data);
	uint64_t waits = k_read(k, e.nodeid, (uint64_t)fh, CHUNK, 100);
	struct sw_event ev;

	while (kit_event(k, &ev) != SW_EV_MISS)
		;
	sw_landed(s, e.nodeid, 1);
	void *body;
	size_t got;

	EQUAL(k_answer(k, waits, &body, &got), 0);
	CHECK(got == 100 && !memcmp(body, data + CHUNK, 100));
	EQUAL(ftruncate(fd, 100), 0);
	EQUAL(sw_set_packed(s, e.nodeid, fd, ID | 1, size, CHUNK, &bits), 0);
	goes_to_python(e.nodeid, (uint64_t)fh);
	sw_open_undo(s, (uint64_t)fh);
	while (!sw_detach(s, e.nodeid))
		;
	/* What a file begins with is damaged: Python is asked to open it. */
	close(fd);
	fd = openat(k->data, "bc/700.z", O_WRONLY | O_CLOEXEC);
	EQUAL(pwrite(fd, "x", 1, 8), 1);
	uint64_t asks = k_send(k, FUSE_OPEN, e.nodeid, &(struct fuse_open_in){.flags = O_RDONLY}, sizeof(struct fuse_open_in),
			       NULL, 0);

	EQUAL(p_recv(k)->unique, asks);
	close(fd);
	free(data);
	kit_free(k);
	kit_defaults();
}

int main(void)
{
	kit_defaults();
	parts();
	sampled();
	refused();
	together();
	hostile();
	served();
	return kit_done();
}
