/* hot.c's rules for opening, checked as the kernel checks them (fs/fuse/iomode.c): an inode is in cached mode or passed
 * through to one backing file, and an open that says otherwise fails there. */
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

static int same_backings(struct kit *unused)
{
	struct sw_counters c;

	sw_counters_read(s, &c);
	return c.backings == (uint64_t)kit_backings();
}

static void end(void)
{
	CHECK(kit_wait(same_backings, k)); /* a FORGET may still be under way */
	kit_free(k);
	kit_defaults();
}

static struct sw_entry entry(const char *name)
{
	struct sw_entry e;

	EQUAL(sw_lookup(s, SW_ROOT, name, 1, &e), 0);
	return e;
}

/* The cache has a whole file of the present generation. */
static void complete(struct sw_entry *e, uint64_t file_id, const char *data)
{
	kit_data_file(k, file_id, data, strlen(data));
	sw_set_complete(s, e->nodeid, file_id, e->size, e->mtime_ns, e->ctime_ns, 0);
}

static int data_fd(uint64_t file_id)
{
	char path[64];

	snprintf(path, sizeof path, "%02x/%llu", (unsigned)(file_id & 0xff), (unsigned long long)file_id);
	return openat(k->data, path, O_RDWR | O_CLOEXEC);
}

static int source_fd(const char *name)
{
	return openat(k->root, name, O_RDWR | O_CLOEXEC);
}

static int asks_python(uint64_t id, uint32_t flags)
{
	struct fuse_open_in in = {.flags = flags};
	uint64_t u = k_send(k, FUSE_OPEN, id, &in, sizeof in, NULL, 0);
	int yes = p_recv(k)->unique == u;

	p_reply(k, u, -EIO, NULL, 0);
	EQUAL(k_answer(k, u, NULL, NULL), -EIO);
	return yes;
}

static uint64_t hot_open(uint64_t id, unsigned flags, int32_t *backing)
{
	struct fuse_open_out o;

	EQUAL(k_open(k, id, O_RDONLY, &o), 0);
	EQUAL(o.fh, SW_HOT_FH | id);
	EQUAL(o.open_flags, flags);
	if (backing)
		*backing = (int32_t)o.padding;
	return o.fh;
}

static int64_t py_open(uint64_t id, int want, int fd, int writer)
{
	int64_t fh = sw_open_file(s, id, want, fd, writer, 1);

	CHECK(fh > 0 || fh == -ESTALE);
	return fh;
}

/* What Python's release does, after the kernel's RELEASE has gone through C. */
static void py_release(uint64_t id, int64_t fh)
{
	struct fuse_release_in in = {.fh = (uint64_t)fh};
	uint64_t u = k_send(k, FUSE_RELEASE, id, &in, sizeof in, NULL, 0);

	CHECK(p_recv(k)->unique == u);
	if (((struct handle *)(uintptr_t)fh)->writer)
		sw_end_write(s, id);
	sw_handle_free(s, (uint64_t)fh);
	p_reply(k, u, 0, NULL, 0);
	EQUAL(k_answer(k, u, NULL, NULL), 0);
}

static int idle(uint64_t id)
{
	struct sw_event e;

	return kit_event(k, &e) == SW_EV_IDLE && e.nodeid == id;
}

/* ---- without a writer ---- */

static void passed_through(void)
{
	struct sw_entry e;
	uint64_t a, b;
	int32_t id, again;
	int fd;

	begin();
	kit_file(k->root, "file", "data");
	e = entry("file");
	CHECK(asks_python(e.nodeid, O_RDONLY)); /* nothing is cached yet */
	complete(&e, 700, "data");
	CHECK(asks_python(e.nodeid, O_WRONLY) && asks_python(e.nodeid, O_RDONLY | O_TRUNC));
	a = hot_open(e.nodeid, FOPEN_PASSTHROUGH | FOPEN_NOFLUSH, &id);
	fd = data_fd(700);
	CHECK(kit_backing_is(id, fd));
	close(fd);
	b = hot_open(e.nodeid, FOPEN_PASSTHROUGH | FOPEN_NOFLUSH, &again);
	EQUAL(id, again);
	EQUAL(sw_mode(s, e.nodeid), SW_PASS_CACHE);
	EQUAL(k_release(k, e.nodeid, a), 0);
	EQUAL(k_release(k, e.nodeid, b), 0);
	EQUAL(sw_mode(s, e.nodeid), SW_NONE);
	EQUAL(kit_backings(), 1); /* kept for the next open */
	hot_open(e.nodeid, FOPEN_PASSTHROUGH | FOPEN_NOFLUSH, &again);
	EQUAL(id, again);
	EQUAL(k_release(k, e.nodeid, a), 0);
	CHECK(p_silent(k));
	end();
}

static void few_backing_files_are_kept(void)
{
	struct sw_entry e[5];
	char name[16];

	kit_config.max_backing = 2;
	begin();
	for (int i = 0; i < 5; i++) {
		snprintf(name, sizeof name, "f%d", i);
		kit_file(k->root, name, "data");
		e[i] = entry(name);
		complete(&e[i], (uint64_t)i + 1, "data");
		k_release(k, e[i].nodeid, hot_open(e[i].nodeid, FOPEN_PASSTHROUGH | FOPEN_NOFLUSH, NULL));
		EQUAL(kit_backings(), i < 2 ? i + 1 : 2);
	}
	hot_open(e[3].nodeid, FOPEN_PASSTHROUGH | FOPEN_NOFLUSH, NULL); /* an open one is not among them */
	hot_open(e[0].nodeid, FOPEN_PASSTHROUGH | FOPEN_NOFLUSH, NULL);
	EQUAL(kit_backings(), 3);
	for (int i = 0; i < 5; i++)
		k_forget(k, e[i].nodeid, 1);
	k_release(k, e[3].nodeid, SW_HOT_FH | e[3].nodeid);
	k_release(k, e[0].nodeid, SW_HOT_FH | e[0].nodeid);
	EQUAL(kit_backings(), 2);
	end();
}

/* The cache directory lies on a file system that cannot be passed through to: the page cache serves it. */
static void refused(void)
{
	struct sw_entry e;
	int64_t fh;
	int fd;

	begin();
	kit_file(k->root, "file", "data");
	e = entry("file");
	complete(&e, 700, "data");
	kit_backing_errno = ELOOP;
	CHECK(asks_python(e.nodeid, O_RDONLY));
	fd = data_fd(700);
	fh = py_open(e.nodeid, SW_WANT_COMPLETE, fd, 0);
	close(fd);
	EQUAL(sw_open_flags((uint64_t)fh), FOPEN_NOFLUSH);
	EQUAL(sw_mode(s, e.nodeid), SW_CACHED);
	py_release(e.nodeid, fh);
	CHECK(idle(e.nodeid) && sw_detach(s, e.nodeid));
	kit_backing_errno = 0;
	end();
}

static void changed_file(void)
{
	struct sw_entry e;
	int64_t fh;
	int fd;

	kit_config.check = 0; /* each open looks */
	begin();
	kit_file(k->root, "file", "data");
	e = entry("file");
	complete(&e, 700, "data");
	hot_open(e.nodeid, FOPEN_PASSTHROUGH | FOPEN_NOFLUSH, NULL);
	kit_file(k->root, "file", "other data");
	CHECK(asks_python(e.nodeid, O_RDONLY));
	/* Readers hold the old bytes: the new generation gets a new node. */
	kit_data_file(k, 701, "other data", 10);
	CHECK(!sw_getattr(s, e.nodeid, &e));
	sw_set_complete(s, e.nodeid, 701, e.size, e.mtime_ns, e.ctime_ns, 0);
	fd = data_fd(701);
	EQUAL(py_open(e.nodeid, SW_WANT_COMPLETE, fd, 0), -ESTALE);
	s->replaced_until = s->replaced[0].until = UINT64_MAX; /* however long this machine takes for the rest */
	uint64_t old = e.nodeid;
	e = entry("file");
	CHECK(e.nodeid != old);
	sw_set_complete(s, e.nodeid, 701, e.size, e.mtime_ns, e.ctime_ns, 0);
	/* Not passed through at once, by nobody: the next generation would be ESTALE again, and that one a program gets. */
	CHECK(asks_python(e.nodeid, O_RDONLY));
	fh = py_open(e.nodeid, SW_WANT_COMPLETE, fd, 0);
	EQUAL(sw_open_flags((uint64_t)fh), FOPEN_NOFLUSH);
	EQUAL(sw_mode(s, e.nodeid), SW_CACHED);
	py_release(e.nodeid, fh);
	CHECK(idle(e.nodeid));
	EQUAL(sw_detach(s, e.nodeid), 1);
	s->replaced_until = 1; /* a second later */
	fh = py_open(e.nodeid, SW_WANT_COMPLETE, fd, 0);
	EQUAL(sw_open_flags((uint64_t)fh), FOPEN_PASSTHROUGH | FOPEN_NOFLUSH);
	EQUAL(kit_backings(), 2);
	py_release(e.nodeid, fh);
	k_release(k, old, SW_HOT_FH | old);
	k_forget(k, old, 1);
	close(fd);
	CHECK(idle(e.nodeid));
	EQUAL(sw_detach(s, e.nodeid), 1);
	end();
}

/* Our own chmod: the bytes are the same, the ctime is not. The cache says so, and C opens by itself again. */
static void times_changed(void)
{
	struct sw_entry e;

	kit_config.check = 0;
	begin();
	kit_file(k->root, "file", "data");
	e = entry("file");
	complete(&e, 700, "data");
	CHECK(!fchmodat(k->root, "file", 0600, 0));
	CHECK(asks_python(e.nodeid, O_RDONLY));
	CHECK(!sw_getattr(s, e.nodeid, &e));
	sw_set_complete(s, e.nodeid, 700, e.size, e.mtime_ns, e.ctime_ns, 0);
	k_release(k, e.nodeid, hot_open(e.nodeid, FOPEN_PASSTHROUGH | FOPEN_NOFLUSH, NULL));
	end();
}

/* Rules that came while the file was known may want something done: the next open is Python's, also while others have
 * it open, and after its answer C opens by itself again. */
static void asked_again(void)
{
	struct sw_entry e, other;
	uint64_t fh;

	begin();
	kit_file(k->root, "file", "data");
	kit_file(k->root, "other", "more");
	e = entry("file");
	other = entry("other");
	complete(&e, 700, "data");
	complete(&other, 701, "more");
	fh = hot_open(e.nodeid, FOPEN_PASSTHROUGH | FOPEN_NOFLUSH, NULL);
	sw_ask_again(s);
	CHECK(asks_python(e.nodeid, O_RDONLY));
	CHECK(asks_python(other.nodeid, O_RDONLY));
	k_release(k, e.nodeid, fh);
	CHECK(asks_python(e.nodeid, O_RDONLY));
	sw_set_complete(s, e.nodeid, 700, e.size, e.mtime_ns, e.ctime_ns, 0);
	k_release(k, e.nodeid, hot_open(e.nodeid, FOPEN_PASSTHROUGH | FOPEN_NOFLUSH, NULL));
	CHECK(asks_python(other.nodeid, O_RDONLY));
	end();
}

/* What has to be closed for another generation is closed by who may block. */
static void nothing_is_closed_in_haste(void)
{
	struct sw_entry e;

	begin();
	kit_file(k->root, "file", "data");
	e = entry("file");
	kit_data_file(k, 700, "data", 4);
	EQUAL(sw_try_complete(s, e.nodeid, 700, e.size, e.mtime_ns, e.ctime_ns, 0), 0);
	k_release(k, e.nodeid, hot_open(e.nodeid, FOPEN_PASSTHROUGH | FOPEN_NOFLUSH, NULL));
	EQUAL(kit_backings(), 1);
	EQUAL(sw_try_complete(s, e.nodeid, 700, e.size, e.mtime_ns, e.ctime_ns, 0), 0);
	EQUAL(sw_try_complete(s, e.nodeid, 701, e.size, e.mtime_ns, e.ctime_ns, 0), -EAGAIN);
	EQUAL(kit_backings(), 1);
	k_release(k, e.nodeid, hot_open(e.nodeid, FOPEN_PASSTHROUGH | FOPEN_NOFLUSH, NULL));
	sw_set_complete(s, e.nodeid, 701, e.size, e.mtime_ns, e.ctime_ns, 0);
	EQUAL(kit_backings(), 0);
	EQUAL(sw_try_complete(s, e.nodeid, 702, e.size, e.mtime_ns, e.ctime_ns, 0), 0);
	end();
}

static void told_of_opens(void)
{
	struct sw_entry e;
	struct sw_event ev;
	uint64_t last;
	uint32_t opens;

	begin();
	kit_file(k->root, "file", "data");
	e = entry("file");
	kit_data_file(k, 700, "data", 4);
	sw_set_complete(s, e.nodeid, 700, e.size, e.mtime_ns, e.ctime_ns, 1);
	hot_open(e.nodeid, FOPEN_PASSTHROUGH | FOPEN_NOFLUSH, NULL);
	hot_open(e.nodeid, FOPEN_PASSTHROUGH | FOPEN_NOFLUSH, NULL);
	CHECK(kit_event(k, &ev) == SW_EV_OPENED && ev.nodeid == e.nodeid && ev.arg == 700);
	CHECK(ev.chunk == (uint64_t)getpid() && ev.stop == getuid());
	EQUAL(sw_events(s, &ev, 1), 0); /* once */
	EQUAL(sw_usage(s, e.nodeid, &last, &opens), 0);
	EQUAL(opens, 2);
	CHECK(now_ns(CLOCK_REALTIME) - last < 60000000000ull);
	EQUAL(sw_usage(s, 999, &last, &opens), -ENOENT);
	k_release(k, e.nodeid, SW_HOT_FH | e.nodeid);
	k_release(k, e.nodeid, SW_HOT_FH | e.nodeid);
	end();
}

/* Attributes that were asked for within the tick of the clock in which a writer closed the file are not kept. */
static int known_and_settled(struct kit *unused)
{
	struct sw_entry e;

	EQUAL(sw_lookup(s, SW_ROOT, "file", 0, &e), 0);
	return sw_child_settled(s, SW_ROOT, "file", 0);
}

/* What C answers alone by what the table knows. */
static void settled(void)
{
	struct sw_entry e;
	struct sw_event ev;

	kit_config.check = 1;
	kit_config.check_ns = 60000000000ull;
	begin();
	kit_file(k->root, "file", "data");
	EQUAL(sw_child_settled(s, SW_ROOT, "file", 0), 0);
	e = entry("file");
	EQUAL(sw_child_settled(s, SW_ROOT, "file", 0), 0);
	complete(&e, 700, "data");
	EQUAL(sw_child_settled(s, SW_ROOT, "file", 0), 1);
	EQUAL(sw_child_settled(s, SW_ROOT, "other", 0), 0);
	EQUAL(sw_child_settled(s, 999, "file", 0), 0);
	hot_open(e.nodeid, FOPEN_PASSTHROUGH | FOPEN_NOFLUSH, NULL);
	EQUAL(sw_events(s, &ev, 1), 0);
	EQUAL(sw_child_settled(s, SW_ROOT, "file", 1), 1);
	hot_open(e.nodeid, FOPEN_PASSTHROUGH | FOPEN_NOFLUSH, NULL);
	CHECK(kit_event(k, &ev) == SW_EV_OPENED && ev.nodeid == e.nodeid && ev.arg == 700);
	k_release(k, e.nodeid, SW_HOT_FH | e.nodeid);
	k_release(k, e.nodeid, SW_HOT_FH | e.nodeid);
	EQUAL(sw_begin_write(s, e.nodeid), SW_NONE);
	EQUAL(sw_child_settled(s, SW_ROOT, "file", 0), 0);
	sw_end_write(s, e.nodeid);
	EQUAL(sw_child_settled(s, SW_ROOT, "file", 0), 0); /* its attributes are not known any more */
	CHECK(kit_wait(known_and_settled, k));
	sw_ask_again(s);
	EQUAL(sw_child_settled(s, SW_ROOT, "file", 1), 0);
	sw_set_complete(s, e.nodeid, 700, e.size, e.mtime_ns, e.ctime_ns, 0);
	EQUAL(sw_child_settled(s, SW_ROOT, "file", 0), 1);
	kit_file(k->root, "file", "more data");
	EQUAL(sw_getattr(s, e.nodeid, &e), 0);
	EQUAL(sw_child_settled(s, SW_ROOT, "file", 0), 0); /* another generation */
	sw_evict(s, e.nodeid, 700);
	EQUAL(sw_child_settled(s, SW_ROOT, "file", 0), 0);
	end();
}

/* The kernel gave up an open that C had answered. */
static void hot_open_gone(void)
{
	struct sw_entry e;
	struct fuse_open_in in = {0};
	struct fuse_entry_out none;

	kit_config.threads = 1; /* one request after the other */
	kit_on_device = 1;
	begin();
	kit_file(k->root, "file", "data");
	e = entry("file");
	complete(&e, 700, "data");
	kit_gone(k->unique + 2);
	k_send(k, FUSE_OPEN, e.nodeid, &in, sizeof in, NULL, 0);
	EQUAL(k_lookup(k, SW_ROOT, "nothing", &none), -ENOENT);
	EQUAL(sw_mode(s, e.nodeid), SW_NONE);
	EQUAL(kit_backings(), 1); /* idle */
	hot_open(e.nodeid, FOPEN_PASSTHROUGH | FOPEN_NOFLUSH, NULL);
	k_release(k, e.nodeid, SW_HOT_FH | e.nodeid);
	EQUAL(sw_mode(s, e.nodeid), SW_NONE);
	end();
}

/* ---- eviction ---- */

static void evicted(void)
{
	struct sw_entry e;
	int fd, mirror;
	char path[64];

	begin();
	kit_file(k->root, "file", "data");
	e = entry("file");
	complete(&e, 700, "data");
	k_release(k, e.nodeid, hot_open(e.nodeid, FOPEN_PASSTHROUGH | FOPEN_NOFLUSH, NULL));
	sw_evict(s, e.nodeid, 699); /* another generation */
	EQUAL(kit_backings(), 1);
	sw_evict(s, e.nodeid, 700); /* idle: nothing of it stays */
	EQUAL(kit_backings(), 0);
	CHECK(asks_python(e.nodeid, O_RDONLY));
	EQUAL(sw_mirror_fd(s, e.nodeid), -ESTALE);
	/* Open: the readers keep it, and a writer can still reach it. */
	sw_set_complete(s, e.nodeid, 700, e.size, e.mtime_ns, e.ctime_ns, 0);
	hot_open(e.nodeid, FOPEN_PASSTHROUGH | FOPEN_NOFLUSH, NULL);
	mirror = sw_mirror_fd(s, e.nodeid);
	fd = data_fd(700);
	CHECK(mirror >= 0);
	close(mirror);
	sw_evict(s, e.nodeid, 700);
	snprintf(path, sizeof path, "%02x/700", 700 & 0xff);
	CHECK(!unlinkat(k->data, path, 0));
	mirror = sw_mirror_fd(s, e.nodeid);
	CHECK(mirror >= 0);
	struct stat a, b;
	CHECK(!fstat(fd, &a) && !fstat(mirror, &b) && a.st_ino == b.st_ino);
	close(mirror);
	close(fd);
	sw_evict(s, e.nodeid, 700);
	sw_evict(s, 0, 700);
	k_release(k, e.nodeid, SW_HOT_FH | e.nodeid);
	EQUAL(kit_backings(), 0);
	EQUAL(sw_mirror_fd(s, e.nodeid), -ESTALE);
	/* Evicted under the node that replaced this one: gone, and this node was not told. */
	kit_file(k->root, "replaced", "data");
	e = entry("replaced");
	complete(&e, 701, "data");
	hot_open(e.nodeid, FOPEN_PASSTHROUGH | FOPEN_NOFLUSH, NULL);
	snprintf(path, sizeof path, "%02x/701", 701 & 0xff);
	CHECK(!unlinkat(k->data, path, 0));
	EQUAL(sw_mirror_fd(s, e.nodeid), -ESTALE);
	k_release(k, e.nodeid, SW_HOT_FH | e.nodeid);
	end();
}

/* ---- writers ---- */

static void writer_first(void)
{
	struct sw_entry e;
	int64_t w, r;
	int fd, wfd;

	begin();
	kit_file(k->root, "file", "data");
	e = entry("file");
	complete(&e, 700, "data");
	EQUAL(sw_begin_write(s, e.nodeid), SW_NONE);
	CHECK(asks_python(e.nodeid, O_RDONLY)); /* from now on */
	wfd = source_fd("file");
	w = py_open(e.nodeid, SW_WANT_SOURCE, wfd, 1);
	EQUAL(sw_open_flags((uint64_t)w), FOPEN_PASSTHROUGH); /* and FLUSH comes */
	EQUAL(sw_mode(s, e.nodeid), SW_PASS_SOURCE);
	CHECK(kit_backing_is(((struct handle *)(uintptr_t)w)->backing, wfd));
	fd = data_fd(700);
	r = py_open(e.nodeid, SW_WANT_COMPLETE, fd, 0); /* whoever comes gets the source */
	close(fd);
	EQUAL(sw_open_flags((uint64_t)r), FOPEN_PASSTHROUGH | FOPEN_NOFLUSH);
	EQUAL(((struct handle *)(uintptr_t)r)->backing, ((struct handle *)(uintptr_t)w)->backing);
	py_release(e.nodeid, w);
	EQUAL(sw_mode(s, e.nodeid), SW_PASS_SOURCE);
	py_release(e.nodeid, r);
	EQUAL(sw_mode(s, e.nodeid), SW_NONE);
	EQUAL(kit_backings(), 0);
	CHECK(idle(e.nodeid));
	close(wfd);
	end();
}

/* Without passthrough: who reads what is being written reads the source, past the kernel's pages. */
static void written_without_passthrough(void)
{
	struct sw_entry e;
	int64_t w, r;
	int fd;

	kit_config.passthrough = 0;
	begin();
	k->s->direct_mmap = 1;
	kit_file(k->root, "file", "data");
	e = entry("file");
	EQUAL(sw_begin_write(s, e.nodeid), SW_NONE);
	w = py_open(e.nodeid, SW_WANT_SOURCE, source_fd("file"), 1);
	EQUAL(sw_open_flags((uint64_t)w), 0); /* what it reads are its own bytes */
	r = py_open(e.nodeid, SW_WANT_SOURCE, -1, 0);
	EQUAL(sw_open_flags((uint64_t)r), FOPEN_DIRECT_IO | FOPEN_NOFLUSH);
	py_release(e.nodeid, r);
	fd = ((struct handle *)(uintptr_t)w)->fd;
	py_release(e.nodeid, w);
	close(fd);
	CHECK(idle(e.nodeid));
	EQUAL(sw_detach(s, e.nodeid), 1);
	r = py_open(e.nodeid, SW_WANT_SOURCE, -1, 0); /* nobody writes it any more: it cannot be cached for another reason */
	EQUAL(sw_open_flags((uint64_t)r), FOPEN_NOFLUSH);
	py_release(e.nodeid, r);
	CHECK(idle(e.nodeid));
	k->s->direct_mmap = 0; /* such a file could not be mapped */
	EQUAL(sw_begin_write(s, e.nodeid), SW_NONE);
	r = py_open(e.nodeid, SW_WANT_SOURCE, -1, 0);
	EQUAL(sw_open_flags((uint64_t)r), FOPEN_NOFLUSH);
	sw_end_write(s, e.nodeid);
	py_release(e.nodeid, r);
	end();
}

static void readers_first(void)
{
	struct sw_entry e;
	int64_t w, r;
	int wfd;

	begin();
	kit_file(k->root, "file", "data");
	e = entry("file");
	complete(&e, 700, "data");
	hot_open(e.nodeid, FOPEN_PASSTHROUGH | FOPEN_NOFLUSH, NULL);
	EQUAL(sw_begin_write(s, e.nodeid), SW_PASS_CACHE);
	sw_evict(s, e.nodeid, 700); /* what dropping the generation does */
	wfd = source_fd("file");
	w = py_open(e.nodeid, SW_WANT_SOURCE, wfd, 1);
	EQUAL(sw_open_flags((uint64_t)w), FOPEN_PASSTHROUGH | FOPEN_DIRECT_IO);
	r = py_open(e.nodeid, SW_WANT_SOURCE, wfd, 0);
	EQUAL(sw_open_flags((uint64_t)r), FOPEN_PASSTHROUGH | FOPEN_DIRECT_IO | FOPEN_NOFLUSH);
	EQUAL(((struct handle *)(uintptr_t)r)->backing, ((struct handle *)(uintptr_t)w)->backing);
	EQUAL(kit_backings(), 1);
	/* Reads and writes of such a handle are Python's, whatever C holds of the file. */
	int fd = data_fd(700);
	EQUAL(sw_set_cfile(s, e.nodeid, fd, 4, 4096, (const unsigned char *)"\1"), 0);
	close(fd);
	uint64_t u = k_read(k, e.nodeid, (uint64_t)w, 0, 4);
	CHECK(p_recv(k)->unique == u);
	k_release(k, e.nodeid, SW_HOT_FH | e.nodeid);
	py_release(e.nodeid, w);
	py_release(e.nodeid, r);
	EQUAL(kit_backings(), 0);
	CHECK(idle(e.nodeid) && sw_detach(s, e.nodeid));
	close(wfd);
	end();
}

static int64_t seek(uint64_t id, uint64_t fh, uint64_t offset, uint32_t whence)
{
	struct fuse_lseek_in in = {.fh = fh, .offset = offset, .whence = whence};
	struct fuse_lseek_out *out;
	size_t n;
	int r = k_answer(k, k_send(k, FUSE_LSEEK, id, &in, sizeof in, NULL, 0), (void **)&out, &n);

	return r ? r : (int64_t)out->offset;
}

/* Data at 64 KiB of a file of 1 MiB: told where the source may be believed, else all of it is data. */
static void sought(void)
{
	struct sw_entry e;
	int64_t h;
	int fd;

	begin();
	kit_file(k->root, "file", "");
	fd = source_fd("file");
	CHECK(ftruncate(fd, 1 << 20) == 0 && pwrite(fd, "data", 4, 65536) == 4);
	e = entry("file");
	h = py_open(e.nodeid, SW_WANT_PARTIAL, -1, 0);
	EQUAL(sw_mode(s, e.nodeid), SW_CACHED);
	/* Nobody has said which generation it reads. */
	EQUAL(seek(e.nodeid, (uint64_t)h, 5, SEEK_DATA), 5);
	EQUAL(seek(e.nodeid, (uint64_t)h, 5, SEEK_HOLE), 1 << 20);
	EQUAL(seek(e.nodeid, (uint64_t)h, 1 << 20, SEEK_DATA), -ENXIO);
	sw_opened_generation((uint64_t)h, e.size, e.mtime_ns, e.ctime_ns);
	EQUAL(seek(e.nodeid, (uint64_t)h, 5, SEEK_DATA), 65536);
	EQUAL(seek(e.nodeid, (uint64_t)h, 70000, SEEK_DATA), -ENXIO);
	sw_begin_write(s, e.nodeid); /* what it writes through a mapping is not there yet */
	EQUAL(seek(e.nodeid, (uint64_t)h, 70000, SEEK_DATA), 70000);
	sw_end_write(s, e.nodeid);
	EQUAL(seek(e.nodeid, (uint64_t)h, 70000, SEEK_DATA), -ENXIO);
	sw_opened_generation((uint64_t)h, e.size, e.mtime_ns, e.ctime_ns - 1);
	EQUAL(seek(e.nodeid, (uint64_t)h, 5, SEEK_DATA), 5);
	py_release(e.nodeid, h);
	CHECK(idle(e.nodeid) && sw_detach(s, e.nodeid));
	sw_begin_write(s, e.nodeid); /* passed through to the source: it is that file which is read and written */
	h = py_open(e.nodeid, SW_WANT_SOURCE, fd, 1);
	CHECK(pwrite(fd, "more", 4, 262144) == 4);
	EQUAL(sw_mode(s, e.nodeid), SW_PASS_SOURCE);
	EQUAL(seek(e.nodeid, (uint64_t)h, 131072, SEEK_DATA), 262144);
	py_release(e.nodeid, h);
	close(fd);
	end();
}

static void fallocated(void)
{
	struct fuse_fallocate_in in = {.length = 100000};
	struct sw_entry e;
	int64_t w;
	int wfd;

	begin();
	kit_file(k->root, "file", "data");
	e = entry("file");
	sw_begin_write(s, e.nodeid);
	wfd = source_fd("file");
	w = py_open(e.nodeid, SW_WANT_SOURCE, wfd, 1);
	in.fh = (uint64_t)w;
	EQUAL(k_answer(k, k_send(k, FUSE_FALLOCATE, e.nodeid, &in, sizeof in, NULL, 0), NULL, NULL), 0);
	struct stat st;
	CHECK(!fstat(wfd, &st) && st.st_size == 100000);
	in.fh = SW_HOT_FH | e.nodeid;
	EQUAL(k_answer(k, k_send(k, FUSE_FALLOCATE, e.nodeid, &in, sizeof in, NULL, 0), NULL, NULL), -EBADF);
	py_release(e.nodeid, w);
	close(wfd);
	end();
}

/* ---- the page cache ---- */

static void cached(void)
{
	struct sw_entry e;
	int64_t a, b;

	begin();
	kit_file(k->root, "file", "data");
	e = entry("file");
	a = py_open(e.nodeid, SW_WANT_PARTIAL, -1, 0);
	EQUAL(sw_open_flags((uint64_t)a), FOPEN_NOFLUSH); /* what the kernel may hold is of an unknown generation */
	b = py_open(e.nodeid, SW_WANT_PARTIAL, -1, 0);
	EQUAL(sw_open_flags((uint64_t)b), FOPEN_NOFLUSH | FOPEN_KEEP_CACHE);
	complete(&e, 700, "data");
	CHECK(asks_python(e.nodeid, O_RDONLY)); /* not passed through while others have it open cached */
	py_release(e.nodeid, b);
	kit_file(k->root, "file", "longer data");
	CHECK(!sw_getattr(s, e.nodeid, &e));
	b = py_open(e.nodeid, SW_WANT_PARTIAL, -1, 0);
	EQUAL(sw_open_flags((uint64_t)b), FOPEN_NOFLUSH); /* the file changed: its pages go */
	CHECK(sw_told_old(s, e.nodeid) && !sw_told_old(s, e.nodeid));
	py_release(e.nodeid, b);
	b = py_open(e.nodeid, SW_WANT_SOURCE, -1, 0);
	py_release(e.nodeid, b);
	py_release(e.nodeid, a);
	end();
}

/* Without passthrough C opens whole files in cached mode and reads them by itself. */
static void hot_without_passthrough(void)
{
	struct sw_entry e;
	uint64_t u;
	void *body;
	size_t n;
	int fd;
	int64_t a;

	kit_config.passthrough = 0;
	kit_config.check = 0;
	begin();
	kit_file(k->root, "file", "data");
	e = entry("file");
	complete(&e, 700, "data");
	hot_open(e.nodeid, FOPEN_NOFLUSH, NULL);
	hot_open(e.nodeid, FOPEN_NOFLUSH | FOPEN_KEEP_CACHE, NULL);
	u = k_read(k, e.nodeid, SW_HOT_FH | e.nodeid, 1, 100);
	EQUAL(k_answer(k, u, &body, &n), 0);
	CHECK(n == 3 && !memcmp(body, "ata", 3));
	k_release(k, e.nodeid, SW_HOT_FH | e.nodeid);
	k_release(k, e.nodeid, SW_HOT_FH | e.nodeid);
	/* Python served an older generation and has not let go of it yet: not its bytes. */
	a = py_open(e.nodeid, SW_WANT_PARTIAL, -1, 0);
	fd = data_fd(700);
	EQUAL(sw_set_cfile(s, e.nodeid, fd, 4, 4096, (const unsigned char *)"\1"), 0);
	close(fd);
	py_release(e.nodeid, a);
	CHECK(idle(e.nodeid)); /* seen, not acted on */
	kit_file(k->root, "file", "newer");
	CHECK(!sw_getattr(s, e.nodeid, &e));
	complete(&e, 701, "newer");
	hot_open(e.nodeid, FOPEN_NOFLUSH, NULL);
	u = k_read(k, e.nodeid, SW_HOT_FH | e.nodeid, 0, 100);
	EQUAL(k_answer(k, u, &body, &n), 0);
	CHECK(n == 5 && !memcmp(body, "newer", 5));
	EQUAL(sw_detach(s, e.nodeid), 0); /* too late: it is open again */
	k_release(k, e.nodeid, SW_HOT_FH | e.nodeid);
	CHECK(idle(e.nodeid));
	EQUAL(sw_detach(s, e.nodeid), 1);
	end();
}

/* A changed file while the old generation is read: who opens it now gets the new one, by a node of its own, since the
 * kernel has one size and one set of pages for each. */
static void changed_while_read(int ahead)
{
	struct sw_entry e, f;
	uint64_t u;
	void *body;
	size_t n;

	kit_config.passthrough = 0;
	kit_config.check = 0;
	begin();
	kit_file(k->root, "file", "old data");
	e = entry("file");
	complete(&e, 700, "old data");
	hot_open(e.nodeid, FOPEN_NOFLUSH, NULL);
	kit_file(k->root, "file", "newer data");
	if (ahead) {
		f = entry("file");
		CHECK(f.nodeid != e.nodeid);
		complete(&f, 701, "newer data");
	}
	CHECK(ahead || asks_python(e.nodeid, O_RDONLY));
	EQUAL(sw_getattr(s, e.nodeid, &f), -ESTALE);
	EQUAL(sw_getattr_held(s, e.nodeid, &f), 0);
	CHECK(f.nodeid == e.nodeid && f.size == 8);
	f = entry("file");
	CHECK(f.nodeid != e.nodeid && f.ino == e.ino && f.size == 10);
	complete(&f, 701, "newer data");
	hot_open(f.nodeid, FOPEN_NOFLUSH, NULL);
	u = k_read(k, f.nodeid, SW_HOT_FH | f.nodeid, 0, 100);
	EQUAL(k_answer(k, u, &body, &n), 0);
	CHECK(n == 10 && !memcmp(body, "newer data", 10));
	u = k_read(k, e.nodeid, SW_HOT_FH | e.nodeid, 0, 100);
	EQUAL(k_answer(k, u, &body, &n), 0);
	CHECK(n == 8 && !memcmp(body, "old data", 8));
	k_release(k, f.nodeid, SW_HOT_FH | f.nodeid);
	k_release(k, e.nodeid, SW_HOT_FH | e.nodeid);
	end();
}

static void partial_against_passthrough(void)
{
	struct sw_entry e;

	begin();
	kit_file(k->root, "file", "data");
	e = entry("file");
	complete(&e, 700, "data");
	hot_open(e.nodeid, FOPEN_PASSTHROUGH | FOPEN_NOFLUSH, NULL);
	EQUAL(py_open(e.nodeid, SW_WANT_PARTIAL, -1, 0), -ESTALE);
	CHECK(entry("file").nodeid != e.nodeid);
	EQUAL(py_open(999, SW_WANT_PARTIAL, -1, 0), -ESTALE);
	EQUAL(sw_mode(s, 999), -ESTALE);
	EQUAL(sw_begin_write(s, 999), -ESTALE);
	sw_end_write(s, 999);
	sw_bypass(s, 999, 1);
	sw_attach(s, 999);
	EQUAL(sw_detach(s, 999), 1);
	k_release(k, e.nodeid, SW_HOT_FH | e.nodeid);
	end();
}

static void undone_before_the_answer(void)
{
	struct sw_entry e;
	int64_t fh;

	begin();
	kit_file(k->root, "file", "data");
	e = entry("file");
	fh = py_open(e.nodeid, SW_WANT_PARTIAL, -1, 0);
	sw_open_undo(s, (uint64_t)fh);
	EQUAL(sw_mode(s, e.nodeid), SW_NONE);
	CHECK(idle(e.nodeid));
	end();
}

/* A deleted file that is open: served, stat-able, gone with its last handle. */
static void deleted_while_open(void)
{
	struct sw_entry e;
	struct fuse_attr_out a;
	int64_t fh;
	int fd;

	begin();
	kit_file(k->root, "file", "data");
	e = entry("file");
	fh = py_open(e.nodeid, SW_WANT_PARTIAL, -1, 0);
	EQUAL(sw_before_unlink(s, SW_ROOT, "file"), 0);
	CHECK(!unlinkat(k->root, "file", 0));
	sw_unlinked(s, SW_ROOT, "file");
	EQUAL(k_getattr(k, e.nodeid, &a), 0);
	CHECK(a.attr.size == 4 && a.attr.nlink == 0);
	fd = sw_open_source(s, e.nodeid, O_RDONLY, 1);
	CHECK(fd >= 0);
	close(fd);
	k_forget(k, e.nodeid, 1);
	py_release(e.nodeid, fh);
	EQUAL(sw_cached_entry(s, e.nodeid, &e), -ENOENT);
	EQUAL(sw_before_unlink(s, SW_ROOT, "file"), 0);
	EQUAL(sw_before_unlink(s, 999, "file"), 0);
	end();
}

int main(void)
{
	kit_defaults();
	passed_through();
	few_backing_files_are_kept();
	refused();
	changed_file();
	times_changed();
	asked_again();
	nothing_is_closed_in_haste();
	told_of_opens();
	settled();
	hot_open_gone();
	evicted();
	writer_first();
	written_without_passthrough();
	readers_first();
	fallocated();
	sought();
	cached();
	hot_without_passthrough();
	changed_while_read(0);
	changed_while_read(1);
	partial_against_passthrough();
	undone_before_the_answer();
	deleted_while_open();
	return kit_done();
}
