/* bpf.c: the maps and the ring of the probes, by the bpf(2) system call alone: bcc and its compiler live in a child
 * process that has ended by now. Formats: include/uapi/linux/bpf.h and Documentation/bpf/ringbuf.rst. */
#include "internal.h"
#include "../bpf/stream.h"

#include <linux/bpf.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FILTER_BYTES (SWP_FILTER_BITS / 64 * sizeof(struct swp_filter))

static int bpf(int cmd, union bpf_attr *attr)
{
	return syscall(SYS_bpf, cmd, attr, sizeof *attr) < 0 ? -errno : 0;
}

static int element(int cmd, int map_fd, const void *key, const void *value)
{
	union bpf_attr a;

	memset(&a, 0, sizeof a);
	a.map_fd = (uint32_t)map_fd;
	a.key = (uint64_t)(uintptr_t)key;
	a.value = (uint64_t)(uintptr_t)value;
	return bpf(cmd, &a);
}

int sw_map_update(int map_fd, const void *key, const void *value)
{
	return element(BPF_MAP_UPDATE_ELEM, map_fd, key, value);
}

int sw_map_lookup(int map_fd, const void *key, void *value)
{
	return element(BPF_MAP_LOOKUP_ELEM, map_fd, key, value);
}

int sw_map_delete(int map_fd, const void *key)
{
	return element(BPF_MAP_DELETE_ELEM, map_fd, key, NULL);
}

/* Up to max elements from where `token` points (8 bytes, zero at first); *done once the map is through. Elements that
 * come or go meanwhile may be seen or not. */
int sw_map_batch(int map_fd, uint64_t *token, int first, void *keys, void *values, int max, int *done)
{
	union bpf_attr a;
	uint64_t next = 0;
	int r;

	memset(&a, 0, sizeof a);
	a.batch.map_fd = (uint32_t)map_fd;
	a.batch.in_batch = first ? 0 : (uint64_t)(uintptr_t)token;
	a.batch.out_batch = (uint64_t)(uintptr_t)&next;
	a.batch.keys = (uint64_t)(uintptr_t)keys;
	a.batch.values = (uint64_t)(uintptr_t)values;
	a.batch.count = (uint32_t)max;
	r = bpf(BPF_MAP_LOOKUP_BATCH, &a);
	*done = r == -ENOENT;
	if (r < 0 && r != -ENOENT)
		return r;
	*token = next;
	return (int)a.batch.count;
}

/* The nodeid of an inode of the mount itself, which carries the source's inode number, where the probes were told no other
 * (watch_number): it is that number. 0 if there is no such file of the source's own file system, and was none lately. */
void sw_nodes_of(sw_session *s, const uint64_t *inos, uint64_t *nodes, int n)
{
	lock(s);
	for (int i = 0; i < n; i++) {
		const struct node *x = node_get(s, inos[i]);

		nodes[i] = (x && !x->dev && x->ino == inos[i]) || number_retired(s, inos[i]) ? inos[i] : 0;
	}
	unlock(s);
}

/* Where a file lies: name (NUL-terminated), directory and size from the table, however old. */
int sw_place(sw_session *s, uint64_t nodeid, uint64_t *parent, uint64_t *size, char *name, size_t namesize)
{
	const struct node *n;
	int r = -ENOENT;

	lock(s);
	n = node_get(s, nodeid);
	if (n && n->links && n->links->len < namesize) {
		memcpy(name, n->links->name, n->links->len);
		name[n->links->len] = 0;
		*parent = n->links->parent->id;
		*size = n->size;
		r = n->links->len;
	}
	unlock(s);
	return r;
}

/* ---- the books of all streams ---- */

struct sw_books {
	const struct swp_row *rows;    /* the kernel's own: they change while they are read */
	uint32_t count;
	uint64_t *ended;               /* by row: first_ns of the last books that were told there as ended */
};

void sw_books_close(struct sw_books *b)
{
	if (!b)
		return;
	if (b->rows)
		munmap((void *)b->rows, b->count * sizeof *b->rows);
	free(b->ended);
	free(b);
}

struct sw_books *sw_books_open(int map_fd, uint32_t count, int *err)
{
	struct sw_books *b = calloc(1, sizeof *b);
	void *p;

	*err = -ENOMEM;
	if (!b)
		return NULL;
	b->count = count;
	b->ended = calloc(count, sizeof *b->ended);
	if (!b->ended)
		goto fail;
	p = mmap(NULL, count * sizeof *b->rows, PROT_READ, MAP_SHARED, map_fd, 0);
	if (p == MAP_FAILED) {
		*err = -errno;
		goto fail;
	}
	b->rows = p;
	*err = 0;
	return b;
fail:
	sw_books_close(b);
	return NULL;
}

/* Streams read or written since `since_ns`, by the coarse clock of the events, and those that were ended, once; a
 * stream of one read that its event told in full is left out. Up to max of them, from *place on, which is
 * the number of all places once they are through. */
int sw_books_read(struct sw_books *b, uint64_t since_ns, uint32_t *place, struct swp_row *rows, int max)
{
	int n = 0;

	for (; *place < b->count && n < max; (*place)++) {
		const struct swp_row *row = &b->rows[*place];
		uint64_t ino = __atomic_load_n(&row->key.ino, __ATOMIC_ACQUIRE);
		uint32_t dev = __atomic_load_n(&row->key.dev, __ATOMIC_RELAXED);

		if (!ino)
			continue;
		if (dev & SWP_ENDED ? b->ended[*place] == row->cursor.first_ns
				    : row->cursor.last_ns < since_ns && row->cursor.written_ns < since_ns)
			continue;
		memcpy(&rows[n], row, sizeof *row);
		/* It was taken for another stream meanwhile, which can only be when nothing was left to tell. */
		if (__atomic_load_n(&row->key.ino, __ATOMIC_ACQUIRE) != ino || rows[n].key.ino != ino)
			continue;
		if (dev & SWP_ENDED)
			b->ended[*place] = rows[n].cursor.first_ns;
		if (swp_is_told(&rows[n].cursor))
			continue;
		rows[n].cursor.reads = swp_reads(&rows[n].cursor);
		n++;
	}
	return n;
}

/* ---- the ring of events ---- */

struct sw_ring {
	int fd;
	size_t size, page;
	uint64_t *consumer;            /* ours to write */
	uint64_t *producer;            /* followed by the data, mapped twice in a row, so that no record is torn */
	char *data;
};

void sw_ring_close(struct sw_ring *r)
{
	if (!r)
		return;
	if (r->consumer)
		munmap(r->consumer, r->page);
	if (r->producer)
		munmap(r->producer, r->page + 2 * r->size);
	free(r);
}

struct sw_ring *sw_ring_open(int map_fd, uint32_t bytes, int *err)
{
	struct sw_ring *r = calloc(1, sizeof *r);
	void *p;

	*err = -ENOMEM;
	if (!r)
		return NULL;
	r->fd = map_fd;
	r->size = bytes;
	r->page = (size_t)sysconf(_SC_PAGESIZE);
	p = mmap(NULL, r->page, PROT_READ | PROT_WRITE, MAP_SHARED, map_fd, 0);
	if (p == MAP_FAILED)
		goto fail;
	r->consumer = p;
	p = mmap(NULL, r->page + 2 * r->size, PROT_READ, MAP_SHARED, map_fd, (off_t)r->page);
	if (p == MAP_FAILED)
		goto fail;
	r->producer = p;
	r->data = (char *)p + r->page;
	*err = 0;
	return r;
fail:
	*err = -errno;
	sw_ring_close(r);
	return NULL;
}

/* Takes up to max events, oldest first. */
int sw_ring_read(struct sw_ring *r, struct swp_event *out, int max)
{
	uint64_t at = __atomic_load_n(r->consumer, __ATOMIC_ACQUIRE);
	uint64_t end = __atomic_load_n(r->producer, __ATOMIC_ACQUIRE);
	int n = 0;

	while (n < max && at < end) {
		const uint32_t *head = (const uint32_t *)(r->data + (at & (r->size - 1)));
		uint32_t len = __atomic_load_n(head, __ATOMIC_ACQUIRE);

		if (len & BPF_RINGBUF_BUSY_BIT)
			break; /* being written */
		if (!(len & BPF_RINGBUF_DISCARD_BIT) && len == sizeof *out)
			memcpy(&out[n++], (const char *)head + BPF_RINGBUF_HDR_SZ, sizeof *out);
		len &= ~(BPF_RINGBUF_BUSY_BIT | BPF_RINGBUF_DISCARD_BIT);
		at += (len + BPF_RINGBUF_HDR_SZ + 7) / 8 * 8;
		__atomic_store_n(r->consumer, at, __ATOMIC_RELEASE);
	}
	return n;
}

/* ---- which files the kernel's probes look at (under s->lock) ---- */

static struct swp_filter *filter_of(sw_session *s, uint64_t ino)
{
	return &s->watch_filter[(ino & (SWP_FILTER_BITS - 1)) / 64];
}

/* Last, when the map says so: books that were kept for what had the number before are ended by the next read. */
static void watch_changed(sw_session *s, uint64_t ino)
{
	__atomic_fetch_add(&filter_of(s, ino)->epoch, 1, __ATOMIC_RELEASE);
}

static struct swp_file backing_key(sw_session *s, const struct used *u)
{
	return (struct swp_file){.ino = u->watch_ino, .dev = u->watch_source ? s->source_dev : s->cache_dev};
}

void watch_add(sw_session *s, struct node *n)
{
	struct swp_watch value = {.node = n->id};
	struct swp_file key;

	if (s->watch_fd < 0 || !n->used->watch_ino)
		return;
	key = backing_key(s, n->used);
	filter_of(s, key.ino)->bits |= 1ull << (key.ino & 63);
	if (sw_map_update(s->watch_fd, &key, &value) < 0)
		COUNT(s, watch_errors);
	watch_changed(s, key.ino);
}

void watch_remove(sw_session *s, struct node *n)
{
	struct swp_file key;

	if (!n->used->watch_ino)
		return;
	/* The filter's bit stays: others may share it, and a bit too many costs a lookup, not an error. */
	if (s->watch_fd >= 0) {
		key = backing_key(s, n->used);
		sw_map_delete(s->watch_fd, &key);
		watch_changed(s, key.ino);
	}
	n->used->watch_ino = 0;
}

/* The mount's own inodes are watched all, and their numbers are nodeids, but for those of files whose number was another's
 * before: these are told apart under device 0. Called when the number becomes the node's, and when it is `gone`. */
void watch_number(sw_session *s, struct node *n, int gone)
{
	struct swp_file key = {.ino = n->ino};
	struct swp_watch value = {.node = n->id};

	if (s->watch_fd < 0 || n->dev || n->id == n->ino || n->id == SW_ROOT)
		return;
	if (gone)
		sw_map_delete(s->watch_fd, &key);
	else if (sw_map_update(s->watch_fd, &key, &value) < 0)
		COUNT(s, watch_errors);
	watch_changed(s, n->ino);
}

int sw_watch_start(sw_session *s, int watched_fd, int filter_fd, uint32_t cache_dev, uint32_t source_dev)
{
	void *p = mmap(NULL, FILTER_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, filter_fd, 0);

	if (p == MAP_FAILED)
		return -errno;
	lock(s);
	s->watch_filter = p;
	s->watch_fd = watched_fd;
	s->cache_dev = cache_dev;
	s->source_dev = source_dev;
	for (uint64_t i = 0; i < s->nbuckets; i++)
		for (struct node *n = s->by_id[i]; n; n = n->hid) {
			watch_add(s, n);
			if (n->in_key)
				watch_number(s, n, 0);
		}
	unlock(s);
	return 0;
}

void sw_watch_stop(sw_session *s)
{
	void *p;

	lock(s);
	s->watch_fd = -1;
	p = s->watch_filter;
	s->watch_filter = NULL;
	unlock(s);
	if (p)
		munmap(p, FILTER_BYTES);
}
