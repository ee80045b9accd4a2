/* remote.c: a source that Python asks. What the kernel asks for is answered from what was entered, and no longer. */
#include "test_kit.h"

#define FILE_MODE (S_IFREG | 0644)
#define BIG (1ull << 60)       /* inode numbers are hashes: above what nodeids are made of */

static struct kit *k;
static sw_session *s;

static void begin(void)
{
	k = kit_remote(3600ull * 1000000000ull);
	s = k->s;
}

static void end(void)
{
	kit_free(k);
	kit_defaults();
}

static struct sw_attrs attrs(uint64_t ino, uint64_t size)
{
	return (struct sw_attrs){.ino = ino, .size = size, .mtime_ns = -1500000000, .ctime_ns = 1999999999,
				 .btime_ns = 77, .mode = FILE_MODE, .nlink = 1, .uid = 3, .gid = 4, .blksize = 4096};
}

static uint64_t enter(const char *name, uint64_t ino, uint64_t size, int ref)
{
	struct sw_attrs a = attrs(ino, size);
	struct sw_entry e;

	EQUAL(sw_enter(s, SW_ROOT, name, &a, sw_now(), ref, &e), 0);
	CHECK(e.ino == ino && e.size == size && e.dev == 0);
	CHECK(e.mtime_ns == -1500000000 && e.ctime_ns == 1999999999);
	CHECK(e.blocks == (size + 511) / 512 && e.uid == 3 && e.gid == 4 && e.mode == FILE_MODE);
	return e.nodeid;
}

/* Passed on to Python, which says that it is not there. */
static void python_is_asked(uint64_t unique)
{
	struct fuse_in_header *h = p_recv(k);

	EQUAL(h->unique, unique);
	p_reply(k, unique, -ENOENT, NULL, 0);
	EQUAL(k_answer(k, unique, NULL, NULL), -ENOENT);
}

static void a_node_that_we_changed_is_the_same(void)
{
	struct sw_attrs was = attrs(BIG + 1, 10), now = attrs(BIG + 2, 20);
	struct sw_entry e;
	uint64_t id, other;

	begin();
	id = enter("f", BIG + 1, 10, 1);
	now.btime_ns = 78;
	EQUAL(sw_renew(s, id, &now, &was), -ESTALE); /* it is not that */
	EQUAL(sw_renew(s, SW_ROOT, &was, &now), -ESTALE);
	EQUAL(sw_renew(s, id + 99, &was, &now), -ESTALE);
	EQUAL(sw_renew(s, id, &was, &now), 0);
	EQUAL(sw_enter(s, SW_ROOT, "f", &now, sw_now(), 0, &e), 0);
	CHECK(e.nodeid == id && e.ino == BIG + 2 && e.size == 20);
	EQUAL(sw_refresh(s, id, &now, sw_now(), &e), 0);
	EQUAL(sw_refresh(s, id, &was, sw_now(), &e), -ESTALE);
	other = enter("g", BIG + 1, 10, 1); /* the number that it had is another file's */
	CHECK(other != id);
	was.btime_ns = 79;
	EQUAL(sw_renew(s, id, &now, &was), 0); /* and now its own again: who had it meanwhile loses it */
	EQUAL(sw_enter(s, SW_ROOT, "f", &was, sw_now(), 0, &e), 0);
	EQUAL(e.nodeid, id);
	EQUAL(sw_refresh(s, other, &was, sw_now(), &e), -ESTALE);
	end();
}

static void answered_from_the_table(void)
{
	struct fuse_entry_out e;
	struct fuse_attr_out a;
	uint64_t id;

	begin();
	id = enter("f", BIG, 1000, 0);
	EQUAL(k_lookup(k, SW_ROOT, "f", &e), 0);
	CHECK(e.nodeid == id && e.attr.size == 1000 && e.attr.ino == BIG && e.attr.mtime == (uint64_t)-2);
	EQUAL(e.attr.mtimensec, 500000000);
	EQUAL(k_getattr(k, id, &a), 0);
	EQUAL(a.attr.size, 1000);
	CHECK(p_silent(k));
	EQUAL(sw_child(s, SW_ROOT, "f"), id);
	EQUAL(sw_child(s, SW_ROOT, "g"), 0);
	EQUAL(sw_child(s, 12345, "f"), 0);
	python_is_asked(k_send(k, FUSE_LOOKUP, SW_ROOT, "g", 2, NULL, 0));
	end();
}

static void several_at_once(void)
{
	const char *names[] = {"a", "b", "c"};
	struct sw_attrs all[] = {attrs(BIG + 1, 10), attrs(BIG + 2, 20), attrs(BIG + 3, 30)};
	uint64_t asked[] = {sw_now(), sw_now(), sw_now()};
	struct fuse_entry_out e;
	struct sw_entry out[3];
	int results[3] = {1, 1, 1};

	begin();
	sw_enter_several(s, SW_ROOT, names, all, asked, 3, out, results);
	for (int i = 0; i < 3; i++) {
		EQUAL(results[i], 0);
		CHECK(out[i].ino == BIG + 1 + (uint64_t)i && out[i].size == 10 + 10 * (uint64_t)i);
		EQUAL(sw_child(s, SW_ROOT, names[i]), out[i].nodeid);
		EQUAL(k_lookup(k, SW_ROOT, names[i], &e), 0);
		EQUAL(e.nodeid, out[i].nodeid);
	}
	sw_enter_several(s, 12345, names, all, asked, 3, out, results);
	EQUAL(results[2], -ESTALE);
	end();
}

static void made_at_once(void)
{
	const char *paths[] = {"one", "two/three", "one", "four"};
	uint64_t sizes[] = {123456, 1, 1, 0};
	struct stat st;
	int fds[4], back;

	begin();
	back = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	EQUAL(fchdir(k->data), 0);
	sw_data_files(paths, sizes, 4, fds);
	CHECK(fds[0] >= 0 && fds[3] >= 0);
	EQUAL(fds[1], -ENOENT);
	EQUAL(fds[2], -EEXIST);
	EQUAL(fstat(fds[0], &st), 0);
	CHECK(st.st_size == 123456 && st.st_blocks == 0 && (st.st_mode & 07777) == 0600);
	close(fds[0]);
	close(fds[3]);
	sizes[0] = UINT64_MAX; /* no file is as long: none is left */
	paths[0] = "five";
	sw_data_files(paths, sizes, 1, fds);
	CHECK(fds[0] < 0);
	EQUAL(access("five", F_OK), -1);
	EQUAL(fchdir(back), 0);
	close(back);
	end();
}

static void expired(void)
{
	struct sw_attrs a = attrs(BIG, 2000);
	struct fuse_getattr_in in = {0};
	struct fuse_attr_out o;
	struct sw_entry e;
	uint64_t before, id;

	begin();
	id = enter("f", BIG, 1000, 1);
	before = sw_now();
	sw_expire(s, id);
	python_is_asked(k_send(k, FUSE_GETATTR, id, &in, sizeof in, NULL, 0));
	EQUAL(sw_refresh(s, id, &a, before, &e), 0); /* asked before it expired: shown, not kept */
	EQUAL(e.size, 2000);
	python_is_asked(k_send(k, FUSE_GETATTR, id, &in, sizeof in, NULL, 0));
	for (before = sw_now(); sw_now() == before;)
		; /* the clock's next tick */
	EQUAL(sw_refresh(s, id, &a, sw_now(), &e), 0);
	EQUAL(k_getattr(k, id, &o), 0);
	node_get(s, id)->pages = 1;
	sw_relist(s, id);
	CHECK(!node_get(s, id)->pages);
	EQUAL(k_getattr(k, id, &o), 0); /* what it is itself holds on */
	sw_relist(s, 999); /* nobody */
	sw_expire(s, 0);
	python_is_asked(k_send(k, FUSE_GETATTR, id, &in, sizeof in, NULL, 0));
	sw_expire(s, 999); /* nobody */
	end();
}

static void another_file(void)
{
	struct sw_attrs a = attrs(BIG + 1, 5);
	struct sw_entry e;
	uint64_t id, other;

	begin();
	id = enter("f", BIG, 1000, 1);
	EQUAL(sw_refresh(s, id, &a, sw_now(), &e), -ESTALE);
	a.ino = BIG;
	a.btime_ns = 78; /* the same number, born at another time: a replaced object */
	EQUAL(sw_refresh(s, id, &a, sw_now(), &e), -ESTALE);
	EQUAL(sw_enter(s, SW_ROOT, "f", &a, sw_now(), 1, &e), 0);
	other = e.nodeid;
	CHECK(other != id);
	EQUAL(sw_child(s, SW_ROOT, "f"), other);
	EQUAL(sw_cached_entry(s, id, &e), 0); /* who has it open keeps it */
	EQUAL(e.size, 1000);
	EQUAL(sw_refresh(s, 4242, &a, sw_now(), &e), -ESTALE);
	EQUAL(sw_enter(s, 4242, "f", &a, sw_now(), 0, &e), -ESTALE);
	k_forget(k, id, 1);
	k_forget(k, other, 1);
	end();
}

static void checked_as_said(void)
{
	struct fuse_getattr_in in = {0};
	struct fuse_attr_out o;
	uint64_t id;

	begin();
	id = enter("f", BIG, 1000, 1);
	EQUAL(k_getattr(k, id, &o), 0);
	sw_told(s, 0, 0);
	python_is_asked(k_send(k, FUSE_GETATTR, id, &in, sizeof in, NULL, 0));
	sw_told(s, 1, 3600ull * 1000000000ull);
	EQUAL(k_getattr(k, id, &o), 0);
	end();
}

/* FOPEN_* that the kernel gets for a directory which Python opens. */
static unsigned opendir_flags(void)
{
	struct fuse_open_in in = {0};
	struct fuse_open_out out = {.fh = 5}, *o;
	uint64_t unique = k_send(k, FUSE_OPENDIR, SW_ROOT, &in, sizeof in, NULL, 0);
	void *body;
	size_t n;

	EQUAL(p_recv(k)->opcode, FUSE_OPENDIR);
	p_reply(k, unique, 0, &out, sizeof out);
	EQUAL(k_answer(k, unique, &body, &n), 0);
	o = body;
	EQUAL(o->fh, 5);
	return o->open_flags;
}

static void listings_are_kept_while_changes_are_told(void)
{
	begin();
	EQUAL(opendir_flags(), 0);
	sw_told(s, 1, 1);
	EQUAL(opendir_flags(), FOPEN_CACHE_DIR);
	EQUAL(opendir_flags(), FOPEN_CACHE_DIR | FOPEN_KEEP_CACHE);
	sw_expire(s, SW_ROOT);
	EQUAL(opendir_flags(), FOPEN_CACHE_DIR);
	EQUAL(opendir_flags(), FOPEN_CACHE_DIR | FOPEN_KEEP_CACHE);
	sw_told(s, 0, 1);
	EQUAL(opendir_flags(), 0);
	sw_expire(s, 0); /* what changed meanwhile was not told */
	sw_told(s, 1, 1);
	EQUAL(opendir_flags(), FOPEN_CACHE_DIR);
	end();
}

/* Opened by C alone while it is fresh; expired it is Python's to open, however long a check holds: the clock
 * begins with the machine, and may have run for less than that. */
static void an_expired_file_is_not_opened(void)
{
	struct fuse_open_in in = {.flags = O_RDONLY};
	struct fuse_open_out o;
	struct sw_attrs a = attrs(BIG, 4);
	uint64_t id, file;

	begin();
	sw_told(s, 1, 1ull << 62);
	id = enter("f", BIG, 4, 1);
	file = kit_data_file(k, 9, "data", 4);
	sw_set_complete(s, id, file, 4, a.mtime_ns, a.ctime_ns, 0);
	EQUAL(k_open(k, id, O_RDONLY, &o), 0);
	EQUAL(k_release(k, id, o.fh), 0);
	sw_expire(s, id);
	python_is_asked(k_send(k, FUSE_OPEN, id, &in, sizeof in, NULL, 0));
	end();
}

static uint64_t ask_xattr(uint32_t opcode, uint64_t id, const char *name, uint32_t size)
{
	struct {
		struct fuse_getxattr_in in;
		char name[24];
	} m = {.in.size = size};

	snprintf(m.name, sizeof m.name, "%s", name);
	return k_send(k, opcode, id, &m, opcode == FUSE_GETXATTR ? sizeof m : sizeof m.in, NULL, 0);
}

static void bare(const char *name, uint64_t ino, struct sw_entry *e)
{
	struct sw_attrs a = attrs(ino, 1);

	a.bare = 1;
	EQUAL(sw_enter(s, SW_ROOT, name, &a, sw_now(), 1, e), 0);
}

static void what_has_no_xattrs(void)
{
	struct {
		struct fuse_setxattr_in in;
		char name[16];
	} set = {.in.size = 1, .name = "user.x\0v"};
	struct sw_attrs with = attrs(BIG, 1);
	struct sw_entry e;
	void *body;
	size_t n;

	begin();
	bare("f", BIG, &e);
	EQUAL(k_answer(k, ask_xattr(FUSE_GETXATTR, e.nodeid, "user.x", 100), NULL, NULL), -ENODATA);
	EQUAL(k_answer(k, ask_xattr(FUSE_GETXATTR, e.nodeid, "user.x", 0), NULL, NULL), -ENODATA);
	EQUAL(k_answer(k, ask_xattr(FUSE_GETXATTR, e.nodeid, "system.x", 0), NULL, NULL), -EOPNOTSUPP);
	EQUAL(k_answer(k, ask_xattr(FUSE_LISTXATTR, e.nodeid, "", 0), &body, &n), 0);
	CHECK(n == sizeof(struct fuse_getxattr_out) && ((struct fuse_getxattr_out *)body)->size == 0);
	EQUAL(k_answer(k, ask_xattr(FUSE_LISTXATTR, e.nodeid, "", 100), &body, &n), 0);
	EQUAL(n, 0);

	/* One is set, or it was tried: it may have some. */
	python_is_asked(k_send(k, FUSE_SETXATTR, e.nodeid, &set, sizeof set, NULL, 0));
	python_is_asked(ask_xattr(FUSE_GETXATTR, e.nodeid, "user.x", 100));
	python_is_asked(ask_xattr(FUSE_LISTXATTR, e.nodeid, "", 0));
	EQUAL(sw_enter(s, SW_ROOT, "f", &with, sw_now(), 0, &e), 0);
	python_is_asked(ask_xattr(FUSE_LISTXATTR, e.nodeid, "", 0));

	/* It is known no more than the other attributes are: not once it has changed, nor for a writer who comes then. */
	bare("g", BIG + 1, &e);
	sw_expire(s, e.nodeid);
	python_is_asked(ask_xattr(FUSE_GETXATTR, e.nodeid, "user.x", 100));
	EQUAL(sw_begin_write(s, e.nodeid), SW_NONE);
	python_is_asked(ask_xattr(FUSE_GETXATTR, e.nodeid, "user.x", 100));

	/* What was just made has none, until it is told that it has. */
	sw_made(s, e.nodeid);
	EQUAL(k_answer(k, ask_xattr(FUSE_GETXATTR, e.nodeid, "user.x", 100), NULL, NULL), -ENODATA);
	sw_expire(s, e.nodeid);
	python_is_asked(ask_xattr(FUSE_GETXATTR, e.nodeid, "user.x", 100));
	sw_made(s, e.nodeid);
	sw_end_write(s, e.nodeid);
	python_is_asked(ask_xattr(FUSE_GETXATTR, e.nodeid, "user.x", 100));
	sw_made(s, e.nodeid); /* it is not open any more */
	python_is_asked(ask_xattr(FUSE_GETXATTR, e.nodeid, "user.x", 100));
	EQUAL(sw_begin_write(s, e.nodeid), SW_NONE);
	python_is_asked(ask_xattr(FUSE_GETXATTR, e.nodeid, "user.x", 100));
	sw_end_write(s, e.nodeid);
	end();
}

int main(void)
{
	kit_defaults();
	answered_from_the_table();
	several_at_once();
	made_at_once();
	expired();
	another_file();
	a_node_that_we_changed_is_the_same();
	checked_as_said();
	listings_are_kept_while_changes_are_told();
	an_expired_file_is_not_opened();
	what_has_no_xattrs();
	return kit_done();
}
