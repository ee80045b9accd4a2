/* source.c: the source by descriptor: what is renamed, replaced, deleted or very deep, and the cache of descriptors. */
#include "test_kit.h"

#include <sys/resource.h>

static struct kit *k;
static sw_session *s;

static void begin(void)
{
	k = kit_new();
	s = k->s;
}

static void end(void)
{
	kit_free(k);
	kit_defaults();
}

static uint64_t find(uint64_t parent, const char *name)
{
	struct sw_entry e;

	EQUAL(sw_lookup(s, parent, name, 1, &e), 0);
	return e.nodeid;
}

static uint64_t dirfds(void)
{
	struct sw_counters c;

	sw_counters_read(s, &c);
	return c.dirfds;
}

static void found(void)
{
	struct sw_entry e;
	struct stat st;
	uint64_t d;

	begin();
	CHECK(!mkdirat(k->root, "d", 0755));
	kit_file(k->root, "d/file", "12345");
	d = find(SW_ROOT, "d");
	EQUAL(sw_lookup(s, d, "file", 0, &e), 0);
	CHECK(!fstatat(k->root, "d/file", &st, 0));
	CHECK(e.ino == st.st_ino && e.size == 5 && e.mode == st.st_mode && e.nlink == 1 && e.dev == 0);
	EQUAL(e.mtime_ns, st.st_mtim.tv_sec * 1000000000ll + st.st_mtim.tv_nsec);
	EQUAL(sw_lookup(s, d, "nothing", 1, &e), -ENOENT);
	EQUAL(sw_lookup(s, 999, "file", 1, &e), -ESTALE);
	EQUAL(sw_getattr(s, SW_ROOT, &e), 0);
	EQUAL(sw_getattr(s, 999, &e), -ESTALE);
	EQUAL(sw_dir_fd(s, 999), -ESTALE);
	EQUAL(sw_dir_fd(s, st.st_ino), -ESTALE); /* not a directory */
	int fd = sw_open_source(s, SW_ROOT, O_RDONLY | O_DIRECTORY, 1);
	CHECK(fd >= 0);
	close(fd);
	fd = sw_open_child(s, d, "file", &e);
	CHECK(fd >= 0 && fcntl(fd, F_GETFD) & FD_CLOEXEC && !(fcntl(fd, F_GETFL) & O_NONBLOCK));
	close(fd);
	EQUAL(sw_open_child(s, d, "nothing", &e), -ENOENT);
	CHECK(!symlinkat("file", k->root, "d/link"));
	EQUAL(sw_open_child(s, d, "link", &e), -ELOOP);
	end();
}

/* Names that mean other files by now are never taken for the old ones. */
static void replaced(void)
{
	struct sw_entry e;
	uint64_t f, d, g;
	int fd;

	begin();
	kit_file(k->root, "file", "old");
	kit_file(k->root, "new", "new");
	f = find(SW_ROOT, "file");
	fd = sw_open_source(s, f, O_RDONLY, 1);
	CHECK(fd >= 0);
	CHECK(!renameat(k->root, "new", k->root, "file"));
	EQUAL(sw_getattr(s, f, &e), -ESTALE);
	EQUAL(sw_open_source(s, f, O_RDONLY, 1), -ESTALE);
	close(fd);
	CHECK(!unlinkat(k->root, "file", 0) && !symlinkat("/etc/passwd", k->root, "file"));
	EQUAL(sw_open_source(s, f, O_RDONLY, 1), -ESTALE); /* never through it */
	CHECK(!unlinkat(k->root, "file", 0) && !mkfifoat(k->root, "file", 0600));
	EQUAL(sw_open_source(s, f, O_RDONLY, 1), -ESTALE); /* and no waiting for a writer */
	CHECK(!unlinkat(k->root, "file", 0));
	EQUAL(sw_open_source(s, f, O_RDONLY, 1), -ESTALE);
	EQUAL(sw_getattr(s, f, &e), -ESTALE);
	/* A directory moved on the source: what is known of it is reached all the same. */
	CHECK(!mkdirat(k->root, "d", 0755) && !mkdirat(k->root, "d/e", 0755));
	kit_file(k->root, "d/e/file", "x");
	d = find(find(SW_ROOT, "d"), "e");
	g = find(d, "file");
	CHECK(!renameat(k->root, "d", k->root, "moved"));
	EQUAL(sw_getattr(s, g, &e), 0);
	CHECK(!symlinkat("moved", k->root, "d"));
	s->clock += 100;
	EQUAL(sw_getattr(s, g, &e), 0);
	end();
	begin(); /* the same without descriptors from before: looked up again, by name, never through the symlink */
	CHECK(!mkdirat(k->root, "d", 0755) && !mkdirat(k->root, "d/e", 0755));
	uint64_t top = find(SW_ROOT, "d");
	lock(s);
	struct statx st;
	EQUAL(source_stat_at(k->root, "d/e", &st), 0);
	d = node_intern(s, &st, now_ns(CLOCK_MONOTONIC_COARSE), node_get(s, top), "e", 1)->id;
	node_hold(s, node_get(s, d));
	unlock(s);
	CHECK(!renameat(k->root, "d", k->root, "moved") && !symlinkat("moved", k->root, "d"));
	EQUAL(sw_dir_fd(s, d), -ESTALE);
	EQUAL(find(SW_ROOT, "moved"), top);
	fd = sw_dir_fd(s, d);
	CHECK(fd >= 0);
	close(fd);
	end();
}

static void deleted_directory(void)
{
	struct sw_entry e;
	uint64_t d;
	int fd;

	begin();
	CHECK(!mkdirat(k->root, "d", 0755));
	d = find(SW_ROOT, "d");
	EQUAL(sw_before_unlink(s, SW_ROOT, "d"), 0);
	CHECK(!unlinkat(k->root, "d", AT_REMOVEDIR));
	sw_unlinked(s, SW_ROOT, "d");
	EQUAL(sw_getattr(s, d, &e), 0); /* somebody stands in it */
	EQUAL(sw_lookup(s, d, "x", 1, &e), -ENOENT);
	fd = sw_dir_fd(s, d);
	CHECK(fd >= 0);
	close(fd);
	fd = sw_open_source(s, d, O_RDONLY | O_DIRECTORY, 1);
	CHECK(fd >= 0);
	close(fd);
	CHECK(dirfds() >= 1);
	sw_forget(s, d, 1);
	EQUAL(sw_getattr(s, d, &e), -ESTALE);
	end();
}

/* More directories than places: descriptors come and go, and each name is found. */
static void many_directories(void)
{
	enum { N = SW_DIRFDS + 500 };
	static uint64_t id[N];
	struct sw_entry e;
	char name[32];

	kit_config.idle_nodes = 10;
	begin();
	for (int i = 0; i < N; i++) {
		snprintf(name, sizeof name, "d%d", i);
		CHECK(!mkdirat(k->root, name, 0755));
		id[i] = find(SW_ROOT, name);
		EQUAL(sw_lookup(s, id[i], "nothing", 1, &e), -ENOENT);
	}
	CHECK(dirfds() <= SW_DIRFDS && dirfds() > SW_DIRFDS / 2);
	for (int i = 0; i < N; i++)
		EQUAL(sw_lookup(s, id[i], "nothing", 1, &e), -ENOENT);
	for (int i = 0; i < N; i++)
		sw_forget(s, id[i], 1);
	CHECK(dirfds() <= 11); /* of the idle nodes and the root: the others went with their nodes */
	end();
}

/* A descriptor in use stays open when its node goes, and its place is not given away. */
static void pinned(void)
{
	int slot[12], fd[12];
	uint64_t id[12];
	struct stat st;
	char name[32];

	kit_config.idle_nodes = 0;
	begin();
	for (int i = 0; i < 12; i++) {
		snprintf(name, sizeof name, "d%d", i);
		CHECK(!mkdirat(k->root, name, 0755));
		CHECK(!fstatat(k->root, name, &st, 0));
		lock(s); /* nodeids that want the same places */
		struct statx sx;
		EQUAL(source_stat_at(k->root, name, &sx), 0);
		struct node *n = node_intern(s, &sx, now_ns(CLOCK_MONOTONIC_COARSE), s->root, name, strlen(name));
		struct node **p = &s->by_id[0];
		for (uint64_t b = 0; b < s->nbuckets; b++)
			for (p = &s->by_id[b]; *p; p = &(*p)->hid)
				if (*p == n) {
					*p = n->hid;
					b = s->nbuckets;
					break;
				}
		n->id = (uint64_t)(i + 1) * SW_DIRFDS;
		uint64_t h = (n->id * 0x9e3779b97f4a7c15ull) >> 20 & (s->nbuckets - 1);
		n->hid = s->by_id[h];
		s->by_id[h] = n;
		node_hold(s, n);
		id[i] = n->id;
		unlock(s);
		fd[i] = dirfd_pin(s, id[i], &slot[i]);
		CHECK(fd[i] >= 0);
	}
	for (int i = 0; i < 12; i++)
		EQUAL(slot[i] >= 0, i < 8); /* nine places, one is the root's; the rest have descriptors of their own */
	int again, twice = dirfd_pin(s, id[3], &again);
	EQUAL(twice, fd[3]);
	sw_forget(s, id[3], 1); /* the node goes */
	EQUAL(sw_dir_fd(s, id[3]), -ESTALE);
	CHECK(!fstat(fd[3], &st));
	dirfd_unpin(s, again);
	CHECK(!fstat(fd[3], &st));
	dirfd_unpin(s, slot[3]);
	CHECK(fstat(fd[3], &st) < 0 && errno == EBADF);
	for (int i = 0; i < 12; i++)
		if (i != 3)
			dirfd_unpin(s, slot[i]);
	fd[0] = dirfd_pin(s, id[11], &slot[0]); /* there is room again */
	CHECK(slot[0] >= 0);
	dirfd_unpin(s, slot[0]);
	end();
}

/* Deeper than PATH_MAX, than the cache of descriptors, and than recursion could go on a thread's stack. */
static void *bottom(void *arg)
{
	uint64_t *id = arg;
	struct sw_entry e;
	int fd;

	EQUAL(sw_getattr(s, *id, &e), 0);
	EQUAL(sw_lookup(s, *id, "file", 0, &e), 0);
	EQUAL(e.size, 5);
	fd = sw_open_source(s, e.nodeid, O_RDONLY, 1);
	CHECK(fd >= 0);
	close(fd);
	return NULL;
}

static void deep(void)
{
	enum { DEPTH = 6000 };
	uint64_t id = SW_ROOT;
	pthread_attr_t attr;
	pthread_t thread;
	struct sw_entry e;
	int fd;

	begin();
	fd = dup(k->root);
	for (int i = 0; i < DEPTH; i++) {
		CHECK(!mkdirat(fd, "d", 0755));
		int next = openat(fd, "d", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		close(fd);
		fd = next;
	}
	kit_file(fd, "file", "12345");
	close(fd);
	for (int i = 0; i < DEPTH; i++)
		id = find(id, "d");
	lock(s); /* none of the descriptors is there any more */
	for (int i = 0; i < SW_DIRFDS; i++)
		if (s->dirfds[i].node)
			dirfds_drop(s, s->dirfds[i].node);
	unlock(s);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 1 << 20);
	CHECK(!pthread_create(&thread, &attr, bottom, &id));
	pthread_join(thread, NULL);
	pthread_attr_destroy(&attr);
	EQUAL(sw_lookup(s, id, "nothing", 0, &e), -ENOENT);
	end();
}

static void no_descriptors_left(void)
{
	struct rlimit old, few;
	int full[64], nfull = 0;
	struct sw_entry e;
	uint64_t d, f;

	begin();
	CHECK(!mkdirat(k->root, "d", 0755));
	kit_file(k->root, "file", "x");
	d = find(SW_ROOT, "d");
	f = find(SW_ROOT, "file");
	EQUAL(sw_before_unlink(s, SW_ROOT, "file"), 0);
	CHECK(!unlinkat(k->root, "file", 0));
	sw_unlinked(s, SW_ROOT, "file");
	CHECK(!getrlimit(RLIMIT_NOFILE, &old));
	few = (struct rlimit){64, old.rlim_max};
	CHECK(!setrlimit(RLIMIT_NOFILE, &few));
	while ((full[nfull] = dup(k->root)) >= 0)
		nfull++;
	EQUAL(sw_dir_fd(s, d), -EMFILE);
	EQUAL(sw_lookup(s, d, "x", 1, &e), -EMFILE);
	EQUAL(sw_getattr(s, f, &e), -EMFILE); /* not ESTALE: the file is there */
	EQUAL(sw_open_source(s, f, O_RDONLY, 1), -EMFILE);
	CHECK(!setrlimit(RLIMIT_NOFILE, &old));
	while (nfull)
		close(full[--nfull]);
	EQUAL(sw_getattr(s, f, &e), 0);
	EQUAL(sw_lookup(s, d, "x", 1, &e), -ENOENT);
	end();
}

/* Hard links: one name gone behind our back, the other is found by looking it up. */
static void other_name(void)
{
	struct sw_entry e;
	uint64_t f;

	begin();
	kit_file(k->root, "a", "x");
	CHECK(!linkat(k->root, "a", k->root, "b", 0));
	f = find(SW_ROOT, "a");
	EQUAL(find(SW_ROOT, "b"), f);
	CHECK(!unlinkat(k->root, "b", 0));
	EQUAL(sw_getattr(s, f, &e), -ESTALE);
	EQUAL(find(SW_ROOT, "a"), f); /* what the kernel does after ESTALE */
	EQUAL(sw_getattr(s, f, &e), 0);
	EQUAL(e.nlink, 1);
	EQUAL(sw_before_unlink(s, SW_ROOT, "a"), 0);
	end();
}

/* ---- names that change while they are looked at ---- */

static uint64_t looked_for;

static void *opens(void *arg)
{
	int fd = sw_open_source(s, looked_for, O_RDONLY, 1);

	(void)arg;
	return (void *)(intptr_t)fd;
}

static void *asks(void *arg)
{
	return (void *)(intptr_t)sw_getattr(s, looked_for, arg);
}

/* Until the thread has found that the name means another file. */
static void await_stale(void)
{
	int stale = 0;

	while (!stale) {
		sched_yield();
		pthread_mutex_lock(&s->lock);
		stale = !node_get(s, looked_for)->attr_at;
		pthread_mutex_unlock(&s->lock);
	}
}

/* The file that is renamed and the one that it replaces, each opened after the source has changed and before the
 * table has: both are there. */
static void replaced_meanwhile(void)
{
	for (int victim = 0; victim < 2; victim++) {
		struct sw_entry e;
		pthread_t thread;
		void *result;
		char got[4] = "";

		begin();
		kit_file(k->root, "new", "new");
		kit_file(k->root, "old", "old");
		find(SW_ROOT, "new");
		looked_for = find(SW_ROOT, victim ? "old" : "new");
		sw_names_begin(s);
		EQUAL(sw_before_unlink(s, SW_ROOT, "old"), 0);
		CHECK(!renameat(k->root, "new", k->root, "old"));
		CHECK(!pthread_create(&thread, NULL, opens, NULL));
		await_stale();
		sw_renamed(s, SW_ROOT, "new", SW_ROOT, "old", 0);
		sw_names_end(s);
		CHECK(!pthread_join(thread, &result));
		CHECK((intptr_t)result >= 0);
		EQUAL(read((int)(intptr_t)result, got, 3), 3);
		CHECK(!strcmp(got, victim ? "old" : "new"));
		close((int)(intptr_t)result);
		EQUAL(sw_getattr(s, looked_for, &e), 0);
		end();
	}
}

/* What is refused leaves nobody waiting; what changed behind the mount is stale at once. */
static void refused_meanwhile(void)
{
	struct sw_entry e;
	pthread_t thread;
	void *result;

	begin();
	kit_file(k->root, "file", "x");
	kit_file(k->root, "other", "x");
	looked_for = find(SW_ROOT, "file");
	CHECK(!renameat(k->root, "other", k->root, "file"));
	EQUAL(sw_getattr(s, looked_for, &e), -ESTALE);
	find(SW_ROOT, "file");
	looked_for = find(SW_ROOT, "file");
	CHECK(!unlinkat(k->root, "file", 0));
	sw_names_begin(s);
	CHECK(!pthread_create(&thread, NULL, asks, &e));
	await_stale();
	sw_names_end(s);
	CHECK(!pthread_join(thread, &result));
	EQUAL((intptr_t)result, -ESTALE);
	end();
}

int main(void)
{
	kit_defaults();
	found();
	replaced();
	deleted_directory();
	many_directories();
	pinned();
	deep();
	no_descriptors_left();
	other_name();
	replaced_meanwhile();
	refused_meanwhile();
	return kit_done();
}
