/* Memory runs out, at every allocation in turn: an error, nothing lost, nothing broken, and all is well afterwards. */
#include "test_kit.h"

static struct kit *k;
static sw_session *s;

/* How many allocations `what` makes: it is run with ever more memory until it succeeds. */
static void at_every_allocation(int (*what)(void), int most)
{
	int n = 0, r;

	do {
		CHECK(n <= most);
		kit_alloc_left = n++;
		r = what();
		kit_alloc_left = -1;
		CHECK(r == 0 || r == -ENOMEM);
	} while (r);
}

static int new_session(void)
{
	int err;
	sw_session *n = sw_new(&kit_config, &err);

	if (!n)
		return err;
	sw_free(n);
	return 0;
}

static int rule(void)
{
	return sw_rule(s, "*.bin", 2, 0);
}

static int look_up(void)
{
	struct sw_entry e;
	int r = sw_lookup(s, SW_ROOT, "file", 1, &e);

	if (!r)
		sw_forget(s, e.nodeid, 1);
	return r;
}

static int set_cfile(void)
{
	struct sw_entry e;
	int r = sw_lookup(s, SW_ROOT, "file", 1, &e);

	if (!r)
		r = sw_set_cfile(s, e.nodeid, k->root, 100000, 4096, (const unsigned char *)"\1\2\3\4");
	return r;
}

static int open_file(void)
{
	struct sw_entry e;
	int r = sw_lookup(s, SW_ROOT, "file", 1, &e);
	int64_t fh = r ? r : sw_open_file(s, e.nodeid, SW_WANT_PARTIAL, -1, 0, 1);

	if (fh < 0)
		return (int)fh;
	sw_open_undo(s, (uint64_t)fh);
	return 0;
}

static int rename_(void)
{
	struct sw_entry e;
	char path[64];
	long left = kit_alloc_left;

	kit_alloc_left = -1;
	CHECK(!sw_lookup(s, SW_ROOT, "file", 1, &e));
	kit_alloc_left = left;
	sw_renamed(s, SW_ROOT, "file", SW_ROOT, "moved", 0);
	if (sw_path(s, e.nodeid, path, sizeof path) < 0) { /* without its name it is looked up again */
		sw_forget(s, e.nodeid, 100);
		return -ENOMEM;
	}
	CHECK(!strcmp(path, "moved"));
	return 0;
}

/* The tables do not grow: slower, not wrong. */
static void many_names_few_buckets(void)
{
	struct statx st = {.stx_mode = S_IFREG, .stx_dev_major = (uint32_t)(s->root_dev >> 32),
			   .stx_dev_minor = (uint32_t)s->root_dev};
	char name[16];

	for (uint64_t i = 0; i < 3000; i++) {
		st.stx_ino = 1000000 + i;
		snprintf(name, sizeof name, "n%u", (unsigned)i);
		lock(s);
		kit_alloc_left = 2; /* the node, its name; a growth comes between and fails */
		struct node *n = node_intern(s, &st, now_ns(CLOCK_MONOTONIC_COARSE), s->root, name, strlen(name));
		kit_alloc_left = -1;
		if (n)
			node_settle(s, n);
		unlock(s);
	}
	for (uint64_t i = 0; i < 3000; i++) {
		st.stx_ino = 1000000 + i;
		snprintf(name, sizeof name, "n%u", (unsigned)i);
		lock(s);
		struct node *n = node_intern(s, &st, now_ns(CLOCK_MONOTONIC_COARSE), s->root, name, strlen(name));
		CHECK(n && n->ino == st.stx_ino && n->links);
		node_settle(s, n);
		unlock(s);
	}
}

/* ---- with threads: the caller is told, nobody waits for ever ---- */

static void requests(void)
{
	struct fuse_read_in r = {.size = 10};
	struct fuse_open_in o = {0};
	struct fuse_open_out *out;
	struct sw_entry e;
	struct sw_event ev;
	int64_t fh;
	uint64_t u;
	void *body;

	k = kit_new();
	s = k->s;
	kit_start(k);
	kit_file(k->root, "file", "0123456789");
	CHECK(!sw_lookup(s, SW_ROOT, "file", 1, &e));
	fh = sw_open_file(s, e.nodeid, SW_WANT_PARTIAL, -1, 0, 1);
	CHECK(fh > 0);
	EQUAL(sw_set_cfile(s, e.nodeid, k->root, 10, 4096, NULL), 0);
	kit_alloc_left = 0;
	u = k_send(k, FUSE_STATFS, SW_ROOT, NULL, 0, NULL, 0);
	EQUAL(k_answer(k, u, NULL, NULL), -ENOMEM);
	CHECK(p_silent(k));
	u = k_send(k, FUSE_READ, e.nodeid, &r, sizeof r, NULL, 0);
	EQUAL(k_answer(k, u, NULL, NULL), -ENOMEM);
	EQUAL(sw_events(s, &ev, 1), 0);
	u = k_send(k, FUSE_OPENDIR, SW_ROOT, &o, sizeof o, NULL, 0);
	EQUAL(k_answer(k, u, NULL, NULL), -ENOMEM);
	kit_alloc_left = -1;
	u = k_send(k, FUSE_OPENDIR, SW_ROOT, &o, sizeof o, NULL, 0);
	EQUAL(k_answer(k, u, &body, NULL), 0);
	out = body;
	struct fuse_release_in rel = {.fh = out->fh};
	u = k_send(k, FUSE_RELEASEDIR, SW_ROOT, &rel, sizeof rel, NULL, 0);
	EQUAL(k_answer(k, u, NULL, NULL), 0);
	u = k_send(k, FUSE_READ, e.nodeid, &r, sizeof r, NULL, 0);
	EQUAL(kit_event(k, &ev), SW_EV_MISS);
	sw_failed(s, e.nodeid, 0, EIO);
	EQUAL(k_answer(k, u, NULL, NULL), -EIO);
	sw_open_undo(s, (uint64_t)fh);
	kit_free(k);
}

int main(void)
{
	kit_defaults();
	k = kit_new();
	s = k->s;
	kit_file(k->root, "file", "x");
	kit_config.root_fd = k->root;
	at_every_allocation(new_session, 20);
	at_every_allocation(rule, 5);
	at_every_allocation(look_up, 5);
	at_every_allocation(set_cfile, 5);
	at_every_allocation(open_file, 5);
	at_every_allocation(rename_, 5);
	many_names_few_buckets();
	kit_free(k);
	kit_defaults();
	requests();
	return kit_done();
}
