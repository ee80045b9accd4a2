/* session.c, dirs.c and the hot operations of hot.c, with the test as the kernel and as libfuse. */
#include "test_kit.h"

#include <dirent.h>
#include <sched.h>
#include <sys/xattr.h>

static struct kit *k;

static void begin(void)
{
	k = kit_new();
	kit_start(k);
}

static void end(void)
{
	kit_free(k);
	kit_defaults();
}

static uint64_t nlookup(uint64_t id)
{
	struct node *n;
	uint64_t r;

	lock(k->s);
	n = node_get(k->s, id);
	r = n ? n->nlookup : 0;
	unlock(k->s);
	return r;
}

static struct sw_counters counters(void)
{
	struct sw_counters c;

	sw_counters_read(k->s, &c);
	return c;
}

static struct stat of(const char *name)
{
	struct stat st;

	CHECK(!fstatat(k->root, name, &st, AT_SYMLINK_NOFOLLOW));
	return st;
}

/* ---- INIT ---- */

static void init_is_amended(int passthrough, int acl, int hot)
{
	/* passthrough also stands for "a newer kernel" */
	struct fuse_init_in in = {.major = 7, .minor = 40, .flags = FUSE_INIT_EXT,
				  .flags2 = passthrough ? (uint32_t)(SW_DIRECT_IO_ALLOW_MMAP >> 32) : 0};
	struct fuse_init_out out = {.major = 7, .minor = 38, .max_write = 131072, .max_readahead = 1,
				    .flags = FUSE_HANDLE_KILLPRIV | FUSE_ASYNC_READ | (acl ? 0 : FUSE_POSIX_ACL)}, *o;
	uint32_t flags2, stack;
	uint64_t u;
	void *body;
	size_t n;

	kit_config.passthrough = passthrough;
	kit_config.acl = acl;
	kit_config.hot = hot;
	begin();
	EQUAL(sw_passthrough_works(k->s), 0);
	u = k_send(k, FUSE_INIT, 0, &in, sizeof in, NULL, 0);
	CHECK(p_recv(k)->opcode == FUSE_INIT);
	p_reply(k, u, 0, &out, sizeof out);
	EQUAL(k_answer(k, u, &body, &n), 0);
	EQUAL(n, sizeof out);
	o = body;
	memcpy(&flags2, (char *)body + 32, 4);
	memcpy(&stack, (char *)body + 36, 4);
	CHECK(o->flags & FUSE_INIT_EXT && o->flags & FUSE_ASYNC_READ && o->flags & FUSE_DONT_MASK);
	CHECK(!(o->flags & FUSE_HANDLE_KILLPRIV) && o->flags & FUSE_HANDLE_KILLPRIV_V2);
	EQUAL(!!(o->flags & FUSE_POSIX_ACL), acl);
	EQUAL(!!(flags2 & (uint32_t)(FUSE_PASSTHROUGH >> 32)), passthrough && hot);
	EQUAL(stack, passthrough && hot);
	CHECK(flags2 & (uint32_t)(SW_DIRECT_IO_ALLOW_MMAP >> 32));
	EQUAL(k->s->direct_mmap, passthrough);
	EQUAL(o->max_readahead, 1 << 20);
	EQUAL(o->max_write, 131072);
	end();
}

/* ---- names and attributes ---- */

static void lookup_local(void)
{
	struct fuse_entry_out e, f;
	struct fuse_attr_out a;
	struct stat st;

	begin();
	kit_file(k->root, "file", "twelve bytes");
	CHECK(!mkdirat(k->root, "dir", 0750));
	st = of("file");
	EQUAL(k_lookup(k, SW_ROOT, "file", &e), 0);
	CHECK(e.nodeid == st.st_ino && e.attr.ino == st.st_ino && e.attr.size == 12 && e.attr.mode == st.st_mode);
	CHECK(e.attr.mtime == (uint64_t)st.st_mtim.tv_sec && e.attr.mtimensec == (uint32_t)st.st_mtim.tv_nsec);
	CHECK(e.entry_valid > 3590 && e.entry_valid <= 3600 && e.attr_valid == e.entry_valid);
	EQUAL(k_lookup(k, SW_ROOT, "file", &f), 0);
	CHECK(f.nodeid == e.nodeid && nlookup(e.nodeid) == 2);
	EQUAL(k_lookup(k, SW_ROOT, "nothing", &f), -ENOENT);
	EQUAL(k_lookup(k, SW_ROOT, "dir", &f), 0);
	EQUAL(k_lookup(k, f.nodeid, "x", &e), -ENOENT);
	kit_file(k->root, "file", "longer than it was before");
	EQUAL(k_getattr(k, st.st_ino, &a), 0);
	EQUAL(a.attr.size, 25);
	EQUAL(k_getattr(k, SW_ROOT, &a), 0);
	CHECK(S_ISDIR(a.attr.mode));
	CHECK(!unlinkat(k->root, "file", 0)); /* on the source itself */
	EQUAL(k_lookup(k, SW_ROOT, "file", &e), -ENOENT);
	EQUAL(sw_path(k->s, st.st_ino, (char[10]){0}, 10), -ESTALE);
	CHECK(p_silent(k)); /* pyfuse3 saw none of it */
	EQUAL(counters().hot_lookup, 6);
	EQUAL(counters().hot_getattr, 2);
	end();
}

/* A getattr of what is not there any more is for Python to answer; a lookup in a directory that is gone as well. */
static void handed_on_when_lost(void)
{
	struct fuse_getattr_in in = {0};
	struct fuse_entry_out e;
	uint64_t u;

	begin();
	kit_file(k->root, "file", "x");
	EQUAL(k_lookup(k, SW_ROOT, "file", &e), 0);
	CHECK(!unlinkat(k->root, "file", 0));
	u = k_send(k, FUSE_GETATTR, e.nodeid, &in, sizeof in, NULL, 0);
	CHECK(p_recv(k)->unique == u);
	p_reply(k, u, -ESTALE, NULL, 0);
	EQUAL(k_answer(k, u, NULL, NULL), -ESTALE);
	u = k_send(k, FUSE_LOOKUP, 424242, "x", 2, NULL, 0);
	CHECK(p_recv(k)->unique == u);
	p_reply(k, u, -ESTALE, NULL, 0);
	EQUAL(k_answer(k, u, NULL, NULL), -ESTALE);
	end();
}

/* A source that may hang is never asked by a device thread; what the table knows is answered while it is young. */
static void lookup_remote(void)
{
	struct fuse_getattr_in in = {0};
	struct fuse_entry_out e;
	struct fuse_attr_out a;
	struct sw_entry s;
	uint64_t u;

	kit_config.local = 0;
	begin();
	kit_file(k->root, "file", "twelve bytes");
	u = k_send(k, FUSE_LOOKUP, SW_ROOT, "file", 5, NULL, 0);
	CHECK(p_recv(k)->opcode == FUSE_LOOKUP);
	EQUAL(sw_lookup(k->s, SW_ROOT, "file", 1, &s), 0); /* what Python does */
	memset(&e, 0, sizeof e);
	e.nodeid = e.attr.ino = s.nodeid;
	p_reply(k, u, 0, &e, sizeof e);
	void *body;
	EQUAL(k_answer(k, u, &body, NULL), 0);
	EQUAL(((struct fuse_entry_out *)body)->attr.ino, s.ino);
	CHECK(!unlinkat(k->root, "file", 0)); /* nobody looks there */
	EQUAL(k_lookup(k, SW_ROOT, "file", &e), 0);
	EQUAL(k_getattr(k, s.nodeid, &a), 0);
	EQUAL(nlookup(s.nodeid), 2);
	EQUAL(sw_begin_write(k->s, s.nodeid), SW_NONE); /* a writer: the table does not know any more */
	u = k_send(k, FUSE_LOOKUP, SW_ROOT, "file", 5, NULL, 0);
	CHECK(p_recv(k)->unique == u);
	u = k_send(k, FUSE_GETATTR, s.nodeid, &in, sizeof in, NULL, 0);
	CHECK(p_recv(k)->unique == u);
	sw_end_write(k->s, s.nodeid);
	u = k_send(k, FUSE_GETATTR, s.nodeid, &in, sizeof in, NULL, 0);
	CHECK(p_recv(k)->unique == u);
	end();
}

/* --no-native: the books are kept, everything else goes to pyfuse3 unchanged. */
static void cold_mode(void)
{
	static const uint32_t ops[] = {FUSE_LOOKUP, FUSE_GETATTR, FUSE_OPEN, FUSE_READ, FUSE_OPENDIR, FUSE_READDIR,
				       FUSE_READDIRPLUS, FUSE_RELEASEDIR, FUSE_GETXATTR, FUSE_WRITE, FUSE_STATFS};
	char arg[64] = {0};

	kit_config.hot = 0;
	begin();
	for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
		uint64_t u = k_send(k, ops[i], SW_ROOT, arg, sizeof arg, NULL, 0);
		struct fuse_in_header *h = p_recv(k);

		CHECK(h->unique == u && h->opcode == ops[i] && h->len == sizeof *h + sizeof arg);
		p_reply(k, u, -EIO, NULL, 0);
		EQUAL(k_answer(k, u, NULL, NULL), -EIO);
	}
	end();
}

static void forgets(void)
{
	struct {
		struct fuse_batch_forget_in in;
		struct fuse_forget_one one[3];
	} batch = {.in.count = 3};
	struct fuse_entry_out e[3], none;

	kit_config.threads = 1;
	kit_on_device = 1;
	begin();
	for (int i = 0; i < 3; i++) {
		char name[] = {(char)('a' + i), 0};

		kit_file(k->root, name, "x");
		for (int j = 0; j <= i; j++)
			EQUAL(k_lookup(k, SW_ROOT, name, &e[i]), 0);
		batch.one[i] = (struct fuse_forget_one){e[i].nodeid, (uint64_t)i};
	}
	k_send(k, FUSE_BATCH_FORGET, 0, &batch, sizeof batch, NULL, 0);
	k_forget(k, e[2].nodeid, 1);
	EQUAL(k_lookup(k, SW_ROOT, "nothing", &none), -ENOENT); /* behind them */
	EQUAL(nlookup(batch.one[0].nodeid), 1);
	EQUAL(nlookup(batch.one[1].nodeid), 1);
	EQUAL(nlookup(batch.one[2].nodeid), 0);
	EQUAL(counters().forgets, 4);
	CHECK(k_silent(k)); /* a forget has no answer */
	end();
}

static void xattrs(void)
{
	struct {
		struct fuse_getxattr_in in;
		char name[16];
	} m = {.in.size = 100, .name = "user.x"};
	struct fuse_entry_out e;
	void *body;
	size_t n;

	begin();
	kit_file(k->root, "file", "x");
	EQUAL(k_lookup(k, SW_ROOT, "file", &e), 0);
	int fd = openat(k->root, "file", O_RDONLY | O_CLOEXEC);
	if (!fsetxattr(fd, "user.x", "value", 5, 0)) {
		EQUAL(k_answer(k, k_send(k, FUSE_GETXATTR, e.nodeid, &m, sizeof m, NULL, 0), &body, &n), 0);
		CHECK(n == 5 && !memcmp(body, "value", 5));
		m.in.size = 0;
		EQUAL(k_answer(k, k_send(k, FUSE_GETXATTR, e.nodeid, &m, sizeof m, NULL, 0), &body, &n), 0);
		CHECK(n == sizeof(struct fuse_getxattr_out) && ((struct fuse_getxattr_out *)body)->size == 5);
		m.in.size = 3;
		EQUAL(k_answer(k, k_send(k, FUSE_GETXATTR, e.nodeid, &m, sizeof m, NULL, 0), &body, &n), -ERANGE);
		m.in.size = 100;
		m.name[5] = 'y';
		EQUAL(k_answer(k, k_send(k, FUSE_GETXATTR, e.nodeid, &m, sizeof m, NULL, 0), &body, &n), -ENODATA);
	}
	close(fd);
	end();
}

/* ---- directories ---- */

static int opendir_(uint64_t id, uint64_t *fh)
{
	struct fuse_open_in in = {0};
	void *body;
	int r = k_answer(k, k_send(k, FUSE_OPENDIR, id, &in, sizeof in, NULL, 0), &body, NULL);

	if (!r)
		*fh = ((struct fuse_open_out *)body)->fh;
	return r;
}

/* Lists the whole directory in replies of `size`; calls back with each entry (NULL attributes without plus). */
static int list(uint64_t id, uint64_t fh, uint32_t size, int plus,
		void (*entry)(const char *name, const struct fuse_entry_out *e))
{
	struct fuse_read_in in = {.fh = fh, .size = size};
	int count = 0;

	for (;;) {
		char *body;
		size_t n, at = 0;

		EQUAL(k_answer(k, k_send(k, plus ? FUSE_READDIRPLUS : FUSE_READDIR, id, &in, sizeof in, NULL, 0),
			       (void **)&body, &n),
		      0);
		CHECK(n <= size);
		if (!n)
			return count;
		while (at < n) {
			struct fuse_entry_out *e = plus ? (struct fuse_entry_out *)(body + at) : NULL;
			struct fuse_dirent *d = (struct fuse_dirent *)(body + at + (plus ? sizeof *e : 0));
			char name[300];

			CHECK(d->namelen && d->namelen < sizeof name);
			memcpy(name, d->name, d->namelen);
			name[d->namelen] = 0;
			if (entry)
				entry(name, e);
			in.offset = d->off;
			at += (plus ? sizeof *e : 0) + FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + d->namelen);
			count++;
		}
		EQUAL(at, n);
	}
}

static int seen[200], without;

static void note(const char *name, const struct fuse_entry_out *e)
{
	if (name[0] == '.') {
		CHECK(!e || !e->nodeid); /* the kernel takes no reference for these two */
		return;
	}
	CHECK(name[0] == 'f');
	seen[atoi(name + 1)]++;
	if (e && e->nodeid) {
		CHECK(e->attr.ino == of(name).st_ino && e->attr.size == 1 && e->entry_valid);
		EQUAL(nlookup(e->nodeid), 1);
	} else
		without++;
}

static void listings(void)
{
	struct fuse_release_in rel = {0};
	char name[16];
	uint64_t fh;

	begin();
	for (int i = 0; i < 200; i++) {
		snprintf(name, sizeof name, "f%d", i);
		kit_file(k->root, name, "x");
	}
	EQUAL(opendir_(SW_ROOT, &fh), 0);
	CHECK(fh & SW_HOT_FH && fh & SW_DIR_FH);
	EQUAL(list(SW_ROOT, fh, 4096, 0, note), 202);
	EQUAL(list(SW_ROOT, fh, 1 << 20, 1, note), 202); /* offset 0 again: from the start, with attributes now */
	for (int i = 0; i < 200; i++)
		EQUAL(seen[i], 2);
	EQUAL(without, 200);
	/* The kernel has them and keeps them: not asked for again. */
	without = 0;
	EQUAL(list(SW_ROOT, fh, 4096, 1, note), 202);
	EQUAL(without, 200);
	/* A name that comes and one that goes in the middle; offsets are the source's own. */
	kit_file(k->root, "f0", "");
	CHECK(!unlinkat(k->root, "f1", 0));
	EQUAL(list(SW_ROOT, fh, 4096, 0, NULL), 201);
	EQUAL(k_answer(k, k_send(k, FUSE_FSYNCDIR, SW_ROOT, &(struct fuse_fsync_in){.fh = fh}, sizeof(struct fuse_fsync_in),
				 NULL, 0), NULL, NULL), 0);
	rel.fh = fh;
	EQUAL(k_answer(k, k_send(k, FUSE_RELEASEDIR, SW_ROOT, &rel, sizeof rel, NULL, 0), NULL, NULL), 0);
	CHECK(p_silent(k));
	end();
}

/* The reader of a listing is gone: the references that its entries would have taken are given back. */
static void listing_gone(void)
{
	struct fuse_read_in in = {.size = 4096};
	struct fuse_release_in rel = {0};
	struct fuse_entry_out e;
	uint64_t fh;

	kit_config.threads = 1; /* one request after the other */
	kit_on_device = 1;
	begin();
	kit_file(k->root, "file", "x");
	EQUAL(opendir_(SW_ROOT, &fh), 0);
	in.fh = rel.fh = fh;
	kit_gone(k->unique + 2);
	k_send(k, FUSE_READDIRPLUS, SW_ROOT, &in, sizeof in, NULL, 0);
	EQUAL(k_answer(k, k_send(k, FUSE_RELEASEDIR, SW_ROOT, &rel, sizeof rel, NULL, 0), NULL, NULL), 0);
	EQUAL(nlookup(of("file").st_ino), 0);
	kit_gone(k->unique + 2);
	k_send(k, FUSE_LOOKUP, SW_ROOT, "file", 5, NULL, 0);
	EQUAL(k_lookup(k, SW_ROOT, "nothing", &e), -ENOENT);
	EQUAL(nlookup(of("file").st_ino), 0);
	kit_gone(k->unique + 2); /* OPENDIR: no descriptor stays (kit_free counts) */
	k_send(k, FUSE_OPENDIR, SW_ROOT, &(struct fuse_open_in){0}, sizeof(struct fuse_open_in), NULL, 0);
	EQUAL(k_lookup(k, SW_ROOT, "nothing", &e), -ENOENT);
	EQUAL(counters().reply_gone, 3);
	end();
}

/* ---- what goes through Python ---- */

static void entries_are_amended(void)
{
	static const uint32_t ops[] = {FUSE_MKNOD, FUSE_MKDIR, FUSE_SYMLINK, FUSE_LINK};
	struct fuse_entry_out e = {0};
	struct fuse_attr_out a = {0};
	struct sw_entry s;
	char arg[64] = {0};
	void *body;

	kit_config.local = 0;
	begin();
	lock(k->s); /* a node whose nodeid is not its inode number */
	struct statx st = {.stx_ino = 1ull << 50, .stx_mode = S_IFREG, .stx_dev_major = (uint32_t)(k->s->root_dev >> 32),
			   .stx_dev_minor = (uint32_t)k->s->root_dev};
	struct node *n = node_intern(k->s, &st, now_ns(CLOCK_MONOTONIC_COARSE), k->s->root, "large", 5);
	node_hold(k->s, n);
	node_entry(k->s, n, &s);
	unlock(k->s);
	CHECK(s.nodeid != s.ino);
	e.nodeid = e.attr.ino = a.attr.ino = s.nodeid;
	for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
		uint64_t u = k_send(k, ops[i], SW_ROOT, arg, sizeof arg, NULL, 0);

		CHECK(p_recv(k)->unique == u);
		p_reply(k, u, 0, &e, sizeof e);
		EQUAL(k_answer(k, u, &body, NULL), 0);
		EQUAL(((struct fuse_entry_out *)body)->attr.ino, s.ino);
		EQUAL(((struct fuse_entry_out *)body)->nodeid, s.nodeid);
	}
	uint64_t u = k_send(k, FUSE_SETATTR, s.nodeid, arg, sizeof arg, NULL, 0);
	p_recv(k);
	p_reply(k, u, 0, &a, sizeof a);
	EQUAL(k_answer(k, u, &body, NULL), 0);
	EQUAL(((struct fuse_attr_out *)body)->attr.ino, s.ino);
	/* A listing of pyfuse3's: each entry, and the number in its name. */
	char dir[400] = {0};
	size_t step = sizeof e + FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + 5);
	for (int i = 0; i < 2; i++) {
		struct fuse_dirent *d = (struct fuse_dirent *)(dir + step * (size_t)i + sizeof e);

		memcpy(dir + step * (size_t)i, &e, sizeof e);
		d->ino = s.nodeid;
		d->namelen = 5;
		memcpy(d->name, "large", 5);
	}
	u = k_send(k, FUSE_READDIRPLUS, SW_ROOT, &(struct fuse_read_in){.fh = 1, .size = 4096}, sizeof(struct fuse_read_in),
		   NULL, 0);
	p_recv(k);
	p_reply(k, u, 0, dir, step * 2);
	EQUAL(k_answer(k, u, &body, NULL), 0);
	for (int i = 0; i < 2; i++) {
		struct fuse_entry_out *o = (struct fuse_entry_out *)((char *)body + step * (size_t)i);

		EQUAL(o->attr.ino, s.ino);
		EQUAL(((struct fuse_dirent *)(o + 1))->ino, s.ino);
	}
	/* Replies that are errors, answers that nobody asked for and notifications pass or go, and do no harm. */
	p_reply(k, 999999, 0, &e, sizeof e);
	p_reply(k, SW_OWN_UNIQUE | 5, 0, NULL, 0);
	p_reply(k, 0, 3 /* FUSE_NOTIFY_INVAL_ENTRY */, arg, 20);
	u = k_send(k, FUSE_STATFS, SW_ROOT, NULL, 0, NULL, 0);
	p_recv(k);
	p_reply(k, u, -ENOSYS, NULL, 0);
	EQUAL(k_answer(k, u, NULL, NULL), -ENOSYS);
	EQUAL(k_answer(k, 0, NULL, NULL), 3);
	CHECK(k_silent(k));
	end();
}

/* The kernel gave up the request before its answer came: what the answer promised is taken back. */
static void undone(void)
{
	struct fuse_entry_out e = {0};
	struct fuse_open_out o = {0};
	struct sw_entry s;
	struct fuse_in_header *h;
	uint64_t u;
	char arg[64] = {0};
	char two[sizeof e + sizeof o];
	int fd;

	kit_config.local = 0;
	kit_on_device = 1;
	begin();
	kit_file(k->root, "file", "x");
	EQUAL(sw_lookup(k->s, SW_ROOT, "file", 0, &s), 0);
	e.nodeid = e.attr.ino = s.nodeid;
	/* LOOKUP: the reference that Python took. */
	u = k_send(k, FUSE_LOOKUP, SW_ROOT, "other", 6, NULL, 0);
	p_recv(k);
	sw_ref(k->s, s.nodeid);
	kit_gone(u);
	p_reply(k, u, 0, &e, sizeof e);
	/* OPEN: a RELEASE that the kernel never sent reaches pyfuse3. */
	fd = openat(k->root, "file", O_RDONLY | O_CLOEXEC);
	u = k_send(k, FUSE_OPEN, s.nodeid, arg, sizeof(struct fuse_open_in), NULL, 0);
	CHECK(p_recv(k)->opcode == FUSE_OPEN);
	o.fh = (uint64_t)sw_open_file(k->s, s.nodeid, SW_WANT_SOURCE, fd, 0, 1);
	EQUAL(sw_mode(k->s, s.nodeid), SW_CACHED); /* before INIT nothing is passed through */
	kit_gone(u);
	p_reply(k, u, 0, &o, sizeof o);
	h = p_recv(k);
	CHECK(h->opcode == FUSE_RELEASE && h->nodeid == s.nodeid && ((struct fuse_release_in *)(h + 1))->fh == o.fh);
	EQUAL(h->len, sizeof *h + sizeof(struct fuse_release_in));
	u = h->unique;
	EQUAL(nlookup(s.nodeid), 0); /* the LOOKUP was before it */
	EQUAL(sw_mode(k->s, s.nodeid), SW_NONE);
	sw_handle_free(k->s, o.fh);
	p_reply(k, u, 0, NULL, 0); /* goes nowhere */
	/* CREATE: both. */
	u = k_send(k, FUSE_CREATE, SW_ROOT, arg, sizeof arg, NULL, 0);
	p_recv(k);
	sw_ref(k->s, s.nodeid);
	EQUAL(sw_begin_write(k->s, s.nodeid), SW_NONE);
	o.fh = (uint64_t)sw_open_file(k->s, s.nodeid, SW_WANT_SOURCE, fd, 1, 1);
	memcpy(two, &e, sizeof e);
	memcpy(two + sizeof e, &o, sizeof o);
	kit_gone(u);
	p_reply(k, u, 0, two, sizeof two);
	h = p_recv(k);
	CHECK(h->opcode == FUSE_RELEASE && ((struct fuse_release_in *)(h + 1))->fh == o.fh);
	sw_end_write(k->s, s.nodeid);
	sw_handle_free(k->s, o.fh);
	/* OPENDIR of pyfuse3's. */
	u = k_send(k, FUSE_OPENDIR, SW_ROOT, arg, sizeof(struct fuse_open_in), NULL, 0);
	p_recv(k);
	o.fh = 77;
	kit_gone(u);
	p_reply(k, u, 0, &o, sizeof o);
	h = p_recv(k);
	CHECK(h->opcode == FUSE_RELEASEDIR && ((struct fuse_release_in *)(h + 1))->fh == 77);
	EQUAL(nlookup(s.nodeid), 0);
	/* READDIRPLUS of pyfuse3's: each entry's, but not those of `.` and `..`, for which none was taken. */
	static const char *const names[] = {".", "..", "file", "file"};
	char dir[1000] = {0};
	size_t at = 0;
	for (int i = 0; i < 4; i++) {
		struct fuse_dirent *d = (struct fuse_dirent *)(dir + at + sizeof e);

		memcpy(dir + at, &e, sizeof e);
		d->namelen = (uint32_t)strlen(names[i]);
		memcpy(d->name, names[i], d->namelen);
		at += sizeof e + FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + d->namelen);
	}
	u = k_send(k, FUSE_READDIRPLUS, SW_ROOT, &(struct fuse_read_in){.fh = 1, .size = 4096}, sizeof(struct fuse_read_in),
		   NULL, 0);
	p_recv(k);
	for (int i = 0; i < 3; i++) /* one is held by another lookup */
		sw_ref(k->s, s.nodeid);
	kit_gone(u);
	p_reply(k, u, 0, dir, at);
	u = k_send(k, FUSE_STATFS, SW_ROOT, NULL, 0, NULL, 0); /* behind it in the pump */
	p_recv(k);
	p_reply(k, u, 0, NULL, 0);
	EQUAL(k_answer(k, u, NULL, NULL), 0);
	EQUAL(nlookup(s.nodeid), 1);
	/* An error promised nothing. */
	u = k_send(k, FUSE_LOOKUP, SW_ROOT, "other", 6, NULL, 0);
	p_recv(k);
	kit_gone(u);
	p_reply(k, u, -ENOENT, NULL, 0);
	while (counters().reply_gone < 6)
		sched_yield();
	EQUAL(counters().reply_gone, 6);
	CHECK(p_silent(k) && k_silent(k));
	close(fd);
	end();
}

/* ---- the event ring ---- */

static void event_ring(void)
{
	struct sw_event e, many[256];
	struct sw_counters c;
	uint32_t n = 0, kept;

	begin();
	EQUAL(sw_events(k->s, &e, 1), 0);
	event(k->s, SW_EV_TOUCH, 1, 2, 3, 4);
	EQUAL(kit_event(k, &e), SW_EV_TOUCH);
	CHECK(e.nodeid == 1 && e.arg == 2 && e.chunk == 3 && e.stop == 4 && e.lost == 0);
	for (uint64_t i = 0; i < SW_EVENTS; i++)
		event(k->s, SW_EV_TOUCH, i, 0, 0, 0);
	for (uint64_t i = 0; i < SW_EVENTS / 4; i++)
		event(k->s, SW_EV_MISS, i, 0, 0, 0);
	c = counters();
	kept = SW_EVENTS * 7 / 8; /* of the touches: the rest is for misses and idle files */
	EQUAL(c.events_lost, SW_EVENTS - kept + SW_EVENTS / 4 - (SW_EVENTS - kept));
	for (uint32_t i = 0; i < SW_EVENTS; i += 256) {
		EQUAL(sw_events(k->s, many, 256), 256);
		for (int j = 0; j < 256; j++, n++) {
			EQUAL(many[j].kind, n < kept ? SW_EV_TOUCH : SW_EV_MISS);
			EQUAL(many[j].nodeid, n < kept ? n : n - kept);
			EQUAL(many[j].lost, n == kept ? SW_EVENTS - kept : 0);
		}
	}
	EQUAL(sw_events(k->s, &e, 1), 0);
	event(k->s, SW_EV_MISS, 5, 0, 0, 0); /* the next tells of those before it */
	EQUAL(kit_event(k, &e), SW_EV_MISS);
	EQUAL(e.lost, SW_EVENTS / 4 - SW_EVENTS / 8);
	for (uint64_t i = 0; i < 3ull * SW_EVENTS; i++) { /* round and round */
		event(k->s, SW_EV_TOUCH, i, 0, 0, 0);
		EQUAL(sw_events(k->s, &e, 1), 1);
		EQUAL(e.nodeid, i);
	}
	end();
}

/* ---- the end ---- */

static void unmounted(void)
{
	struct sw_event e;

	kit_on_device = 1;
	begin();
	close(k->kernel);
	k->kernel = -1;
	EQUAL(kit_event(k, &e), SW_EV_DOWN);
	end();
}

static void python_gone(void)
{
	uint64_t u;

	begin();
	close(k->peer);
	k->peer = -1;
	u = k_send(k, FUSE_STATFS, SW_ROOT, NULL, 0, NULL, 0);
	EQUAL(k_answer(k, u, NULL, NULL), -EIO);
	end();
}

/* Stopped with requests under way. */
static void stopped_busy(void)
{
	begin();
	for (int i = 0; i < 100; i++)
		k_send(k, i & 1 ? FUSE_STATFS : FUSE_LOOKUP, SW_ROOT, "x", 2, NULL, 0);
	sw_stop(k->s);
	sw_stop(k->s);
	end();
}

static void never_started(void)
{
	struct sw_config c = kit_config;
	int err = 0;

	k = kit_new();
	sw_stop(k->s);
	end();
	c.root_fd = -1;
	CHECK(!sw_new(&c, &err));
	EQUAL(err, -EBADF);
}

int main(void)
{
	kit_defaults();
	for (int i = 0; i < 8; i++)
		init_is_amended(i & 1, i >> 1 & 1, i >> 2 & 1);
	lookup_local();
	handed_on_when_lost();
	lookup_remote();
	cold_mode();
	forgets();
	xattrs();
	listings();
	listing_gone();
	entries_are_amended();
	undone();
	event_ring();
	unmounted();
	python_gone();
	stopped_busy();
	never_started();
	return kit_done();
}
