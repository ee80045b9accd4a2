/* follow.c: who is followed, and what is brought into the page cache ahead of it. */
#include "test_kit.h"

#include <string.h>

#define FILES 48
#define SIZE 5000

static struct kit *k;
static sw_session *s;
static struct sw_entry files[FILES];
static uint64_t looked_for;            /* by looked() */

static struct sw_counters counters(void)
{
	struct sw_counters c;

	sw_counters_read(s, &c);
	return c;
}

static int looked(struct kit *unused)
{
	return counters().followed_brought + counters().followed_there >= looked_for;
}

static int done(struct kit *unused)
{
	int yes;

	lock(s);
	yes = s->follow.head == s->follow.tail;
	unlock(s);
	return yes;
}

/* How many files the follower has looked at since the start, once it has nothing to do. */
static uint64_t total(void)
{
	CHECK(kit_wait(done, k));
	return counters().followed_brought + counters().followed_there;
}

static void path_of(uint64_t file_id, char *path, size_t n)
{
	snprintf(path, n, "%02x/%llu", (unsigned)(file_id & 0xff), (unsigned long long)file_id);
}

static int cache_file(int i)
{
	char path[64];
	int fd;

	path_of((uint64_t)i + 1, path, sizeof path);
	fd = openat(k->data, path, O_RDWR | O_CLOEXEC);
	CHECK(fd >= 0);
	return fd;
}

/* How many pages of it are in the page cache; the descriptor is closed. */
static uint64_t resident(int fd)
{
	struct { uint64_t from, length; } all = {0, SIZE};
	uint64_t there[5] = {0};

	CHECK(!syscall(451, fd, &all, there, 0)); /* cachestat */
	close(fd);
	return there[0];
}

/* 1: the cache file's pages are gone now; 0: this file system keeps them (tmpfs). */
static int drop(int i)
{
	int fd = cache_file(i);

	CHECK(!fdatasync(fd) && !posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED));
	return !resident(fd);
}

static int in_page_cache(int i)
{
	return resident(cache_file(i)) == 2;
}

static void begin(void)
{
	char name[16], data[SIZE + 1];

	kit_config.follow = 1;
	k = kit_new();
	s = k->s;
	kit_start(k);
	kit_init(k);
	memset(data, 'd', SIZE);
	data[SIZE] = 0;
	for (int i = 0; i < FILES; i++) {
		snprintf(name, sizeof name, "f%d", i);
		kit_file(k->root, name, data);
		EQUAL(sw_lookup(s, SW_ROOT, name, 1, &files[i]), 0);
		kit_data_file(k, (uint64_t)i + 1, data, SIZE);
		sw_set_complete(s, files[i].nodeid, (uint64_t)i + 1, files[i].size, files[i].mtime_ns, files[i].ctime_ns, 0);
	}
}

static void end(void)
{
	kit_free(k);
	kit_defaults();
}

static void open_one(int i)
{
	struct fuse_open_out o;

	EQUAL(k_open(k, files[i].nodeid, O_RDONLY, &o), 0);
	EQUAL(k_release(k, files[i].nodeid, o.fh), 0);
}

static void open_all(uint32_t pid, int from, int to)
{
	k->pid = pid;
	for (int i = from; i < to; i++)
		open_one(i);
}

static void a_known_order_is_followed(void)
{
	int dropped = 1;

	begin();
	open_all(1, 0, FILES);
	EQUAL(total(), 0); /* nothing was known */
	for (int i = 0; i < FILES; i++)
		dropped &= drop(i);
	open_all(2, 0, 9); /* the first says nothing, eight are foreseen: the next 16 are asked for */
	looked_for = 16;
	CHECK(kit_wait(looked, k));
	if (dropped) {
		EQUAL(counters().followed_brought, 16);
		CHECK(in_page_cache(9) && in_page_cache(24) && !in_page_cache(25));
	}
	open_all(2, 9, 16);
	EQUAL(total(), 16); /* more than half of them are still ahead */
	if (dropped) {
		for (int i = 16; i < FILES; i++) {
			open_all(2, i, i + 1);
			looked_for = (uint64_t)(i < 17 ? 16 : i < FILES - 16 ? i - 8 : 0);
			CHECK(kit_wait(looked, k)); /* never fewer than eight ahead */
		}
		looked_for = FILES - 9;
		CHECK(kit_wait(looked, k));
		EQUAL(total(), FILES - 9); /* each once */
		EQUAL(counters().followed_there, 0);
	}
	end();
}

static void another_order_is_not(void)
{
	begin();
	open_all(1, 0, FILES);
	k->pid = 2;
	for (int i = 0; i < FILES; i++)
		open_one(i * 29 % FILES);
	for (int round = 0; round < 20; round++) /* one file again and again */
		open_one(7);
	EQUAL(total(), 0);
	end();
}

/* A reader that leaves its order is let go at once, and needs eight opens of the new one. */
static void who_leaves_the_order_is_let_go(void)
{
	begin();
	open_all(1, 0, FILES);
	for (int i = 0; i < FILES; i++)
		drop(i);
	open_all(2, 0, 9);
	looked_for = 16;
	CHECK(kit_wait(looked, k));
	open_one(40);
	open_all(2, 41, 48);
	EQUAL(total(), 16);
	end();
}

static void what_is_in_memory_is_looked_at_seldom(void)
{
	begin();
	open_all(1, 0, FILES);
	open_all(2, 0, 9);
	looked_for = 16;
	CHECK(kit_wait(looked, k));
	EQUAL(counters().followed_there, 16);
	open_all(2, 9, FILES); /* 39 opens: it rests for 64 */
	EQUAL(total(), 16);
	open_all(2, 0, 31); /* the ring of files closes: the successor of the last one is learned, and right starts anew */
	EQUAL(total(), 32);
	end();
}

static void files_that_do_not_count(void)
{
	begin();
	open_all(1, 0, FILES);
	for (int i = 9; i < FILES; i++)
		if (i % 3 == 0)
			sw_evict(s, files[i].nodeid, (uint64_t)i + 1);
		else
			drop(i);
	open_all(2, 0, 9);
	looked_for = 10; /* of the next sixteen opens, those of a cached file */
	CHECK(kit_wait(looked, k));
	EQUAL(total(), 10);
	end();
	begin();
	open_all(1, 0, FILES);
	for (int i = 9; i < FILES; i += 2) { /* served compressed: its pages are not the reader's */
		char path[64], packed[72];

		sw_set_complete(s, files[i].nodeid, (uint64_t)(i + 1) | SW_PACKED, files[i].size, files[i].mtime_ns,
				files[i].ctime_ns, 0);
		path_of((uint64_t)i + 1, path, sizeof path);
		snprintf(packed, sizeof packed, "%s.z", path);
		EQUAL(renameat(k->data, path, k->data, packed), 0);
	}
	open_all(2, 0, 9);
	EQUAL(total(), 8);
	end();
}

static void a_small_ring(void)
{
	begin();
	k->pid = 1;
	for (int i = 0; i < 15; i++) /* six once, then the wrap, then eight that are foreseen */
		open_one(i % 6);
	EQUAL(total(), 5);
	end();
}

/* What follows may be gone: from the disk, or from the table. */
static void what_is_gone(void)
{
	char path[64];

	begin();
	open_all(1, 0, FILES);
	for (int i = 9; i < FILES; i++) {
		path_of((uint64_t)i + 1, path, sizeof path);
		EQUAL(unlinkat(k->data, path, 0), 0);
	}
	open_all(2, 0, 9);
	EQUAL(total(), 0);
	end();
	kit_config.idle_nodes = 4;
	begin();
	open_all(1, 0, FILES);
	for (int i = 12; i < FILES; i++)
		k_forget(k, files[i].nodeid, 1);
	for (int i = 0; i < 12; i++)
		drop(i);
	open_all(2, 0, 9);
	looked_for = 3;
	CHECK(kit_wait(looked, k));
	CHECK(total() < 8);
	end();
}

static void switched_off(void)
{
	begin();
	end();
	kit_config.follow = 0;
	kit_config.data_fd = -1;
	k = kit_new();
	s = k->s;
	kit_start(k);
	CHECK(!s->follow.on);
	end();
}

int main(void)
{
	kit_defaults();
	a_known_order_is_followed();
	another_order_is_not();
	who_leaves_the_order_is_let_go();
	what_is_in_memory_is_looked_at_seldom();
	files_that_do_not_count();
	a_small_ring();
	what_is_gone();
	switched_off();
	return kit_done();
}
