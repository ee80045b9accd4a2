/* held.c: files that are open while their names come to mean others, beside the mount. */
#include "test_kit.h"

static struct kit *k;
static sw_session *s;

static void begin(void)
{
	k = kit_new();
	s = k->s;
	kit_start(k);
	kit_init(k);
}

static void end(void)
{
	kit_free(k);
	kit_defaults();
}

static struct sw_entry entry(const char *name)
{
	struct sw_entry e;

	EQUAL(sw_lookup(s, SW_ROOT, name, 1, &e), 0);
	return e;
}

static void release(uint64_t id, int64_t fh)
{
	struct fuse_release_in in = {.fh = (uint64_t)fh};
	uint64_t u = k_send(k, FUSE_RELEASE, id, &in, sizeof in, NULL, 0);
	int writer = ((struct handle *)(uintptr_t)fh)->writer;

	CHECK(p_recv(k)->unique == u);
	if (writer)
		sw_end_write(s, id);
	sw_handle_free(s, (uint64_t)fh);
	p_reply(k, u, 0, NULL, 0);
	EQUAL(k_answer(k, u, NULL, NULL), 0);
}

static int64_t open_write(uint64_t id, int fd)
{
	int64_t fh;

	CHECK(sw_begin_write(s, id) >= 0);
	fh = sw_open_file(s, id, SW_WANT_SOURCE, fd, 1, 1);
	CHECK(fh > 0);
	return fh;
}

static int same_inode(int fd, int other)
{
	struct stat a, b;

	CHECK(!fstat(fd, &a) && !fstat(other, &b));
	return a.st_ino == b.st_ino;
}

/* A writer's file is asked as it is, whatever became of its name; by its name it is not found any more. */
static void writer(int replaced)
{
	struct sw_entry e, f;
	int64_t fh, second;
	int fd, held;

	kit_config.meta_ns = 0;
	begin();
	kit_file(k->root, "file", "12345");
	e = entry("file");
	fd = openat(k->root, "file", O_RDWR | O_CLOEXEC);
	fh = open_write(e.nodeid, fd);
	second = sw_open_file(s, e.nodeid, SW_WANT_SOURCE, fd, 0, 1);
	CHECK(second > 0);
	CHECK(!unlinkat(k->root, "file", 0));
	if (replaced)
		kit_file(k->root, "file", "another");
	EQUAL(sw_getattr(s, e.nodeid, &f), -ESTALE);
	EQUAL(sw_getattr_held(s, e.nodeid, &f), 0);
	CHECK(f.size == 5 && f.nlink == 0 && f.ino == e.ino && f.nodeid == e.nodeid && f.valid_ns == 0);
	EQUAL(pwrite(fd, "more", 4, 5), 4);
	EQUAL(sw_getattr_held(s, e.nodeid, &f), 0);
	EQUAL(f.size, 9);
	EQUAL(sw_open_source(s, e.nodeid, O_RDONLY, 1), -ESTALE);
	held = sw_open_held(s, e.nodeid, O_RDONLY, 0);
	CHECK(held >= 0 && same_inode(held, fd));
	close(held);
	if (replaced) { /* the name's own file is not touched by it */
		CHECK(entry("file").nodeid != e.nodeid);
		EQUAL(entry("file").size, 7);
		EQUAL(sw_getattr_held(s, e.nodeid, &f), 0);
		EQUAL(f.size, 9);
	}
	release(e.nodeid, fh); /* who reads what was written still holds it */
	EQUAL(sw_getattr_held(s, e.nodeid, &f), 0);
	EQUAL(f.size, 9);
	release(e.nodeid, second);
	EQUAL(sw_getattr_held(s, e.nodeid, &f), -ESTALE);
	EQUAL(sw_open_held(s, e.nodeid, O_RDONLY, 1), -ESTALE);
	close(fd);
	end();
}

/* As long as the kernel may go by the name, what may have been asked by it is not done to the file that had it. */
static void by_name(void)
{
	struct sw_entry e, f;
	int64_t fh;
	int fd, held;

	kit_config.meta_ns = 60000000000ull;
	kit_config.check = 1;
	begin();
	kit_file(k->root, "file", "12345");
	e = entry("file");
	fd = openat(k->root, "file", O_RDWR | O_CLOEXEC);
	fh = open_write(e.nodeid, fd);
	CHECK(!sw_getattr(s, e.nodeid, &f));
	CHECK(!unlinkat(k->root, "file", 0));
	kit_file(k->root, "file", "another");
	EQUAL(sw_getattr_held(s, e.nodeid, &f), 0);
	EQUAL(sw_open_held(s, e.nodeid, O_PATH, 0), -ESTALE);
	held = sw_open_held(s, e.nodeid, O_RDONLY, 1);
	CHECK(held >= 0 && same_inode(held, fd));
	close(held);
	entry("file"); /* the kernel has another node for the name now */
	held = sw_open_held(s, e.nodeid, O_PATH, 0);
	CHECK(held >= 0 && same_inode(held, fd));
	close(held);
	release(e.nodeid, fh);
	close(fd);
	end();
}

/* Read from a cache file alone: as it was last seen, until it is closed; the next open does not rely on that. */
static void last_seen(void)
{
	struct sw_entry e, f;
	int64_t fh;

	kit_config.check = 1;
	kit_config.check_ns = 60000000000ull;
	begin();
	kit_file(k->root, "file", "12345");
	e = entry("file");
	fh = sw_open_file(s, e.nodeid, SW_WANT_PARTIAL, -1, 0, 1);
	CHECK(fh > 0);
	CHECK(!unlinkat(k->root, "file", 0));
	for (int i = 0; i < 2; i++) {
		EQUAL(sw_getattr_held(s, e.nodeid, &f), 0);
		CHECK(f.size == 5 && f.ino == e.ino && f.valid_ns == 0);
		EQUAL(node_get(s, e.nodeid)->attr_at, 0);
	}
	EQUAL(sw_open_held(s, e.nodeid, O_RDONLY, 1), -ESTALE);
	release(e.nodeid, fh);
	EQUAL(sw_getattr_held(s, e.nodeid, &f), -ESTALE);
	end();
}

/* What is held is the node's own file, and nothing where there is no memory or no descriptor for it. */
static void another_file(void)
{
	struct sw_entry e, f;
	int64_t fh;
	int fd, fds;

	begin();
	kit_file(k->root, "file", "12345");
	kit_file(k->root, "other", "other");
	e = entry("file");
	fd = openat(k->root, "other", O_RDONLY | O_CLOEXEC);
	fds = kit_count_fds();
	fh = sw_open_file(s, e.nodeid, SW_WANT_PARTIAL, fd, 0, 1);
	CHECK(fh > 0);
	EQUAL(kit_count_fds(), fds);
	CHECK(!unlinkat(k->root, "file", 0));
	EQUAL(sw_open_held(s, e.nodeid, O_RDONLY, 1), -ESTALE);
	EQUAL(sw_getattr_held(s, e.nodeid, &f), 0);
	release(e.nodeid, fh);
	EQUAL(sw_getattr_held(s, 999, &f), -ESTALE);
	EQUAL(sw_open_held(s, 999, O_RDONLY, 1), -ESTALE);
	close(fd);
	end();
}

/* Readers keep the old node of a file whose writer got another one: what they ask is asked of the file all the same. */
static void superseded(void)
{
	struct sw_entry e, f;
	struct stat st;
	int64_t fh;
	int held;

	begin();
	kit_file(k->root, "file", "12345");
	e = entry("file");
	fh = sw_open_file(s, e.nodeid, SW_WANT_PARTIAL, -1, 0, 1);
	CHECK(fh > 0);
	sw_supersede(s, e.nodeid);
	EQUAL(sw_getattr_held(s, e.nodeid, &f), 0); /* as last seen: nobody knows the file by now */
	CHECK(f.size == 5 && (f.mode & 07777) != 0600);
	f = entry("file");
	CHECK(f.nodeid != e.nodeid && f.ino == e.ino);
	CHECK(!fchmodat(k->root, "file", 0600, 0));
	kit_file(k->root, "file", "12345678");
	held = sw_open_held(s, e.nodeid, O_RDONLY, 0);
	CHECK(held >= 0 && !fstat(held, &st) && st.st_ino == e.ino);
	close(held);
	EQUAL(sw_getattr_held(s, e.nodeid, &f), 0);
	CHECK(f.nodeid == e.nodeid && (f.mode & 07777) == 0600 && f.size == 5);
	release(e.nodeid, fh);
	EQUAL(sw_getattr_held(s, e.nodeid, &f), -ESTALE);
	end();
}

int main(void)
{
	kit_defaults();
	superseded();
	writer(0);
	writer(1);
	by_name();
	last_seen();
	another_file();
	return kit_done();
}
