/* table.c by itself: nodes made of invented attributes, so that every shape of tree can be had at once. */
#include "test_kit.h"

#define DIR_MODE (S_IFDIR | 0755)
#define FILE_MODE (S_IFREG | 0644)

static struct kit *k;
static sw_session *s;

static struct statx attr(uint64_t ino, unsigned mode)
{
	struct statx st = {.stx_mask = STATX_BASIC_STATS | STATX_BTIME, .stx_ino = ino, .stx_mode = (uint16_t)mode,
			   .stx_nlink = 1, .stx_size = ino, .stx_dev_major = (uint32_t)(s->root_dev >> 32),
			   .stx_dev_minor = (uint32_t)s->root_dev};

	st.stx_btime.tv_sec = 1000;
	st.stx_mtime.tv_sec = (int64_t)ino;
	return st;
}

/* What LOOKUP does once statx has answered: the nodeid, with one reference of the kernel's when `held`. */
static uint64_t enter_as(struct statx st, uint64_t parent, const char *name, int held)
{
	struct node *n, *p;
	uint64_t id;

	lock(s);
	p = node_get(s, parent);
	CHECK(p);
	n = node_intern(s, &st, now_ns(CLOCK_MONOTONIC_COARSE), p, name, strlen(name));
	CHECK(n);
	id = n->id;
	if (held)
		node_hold(s, n);
	else
		node_settle(s, n);
	unlock(s);
	return id;
}

static uint64_t enter(uint64_t ino, unsigned mode, uint64_t parent, const char *name, int held)
{
	return enter_as(attr(ino, mode), parent, name, held);
}

static const char *path(uint64_t id)
{
	static char buf[65536];
	int r = sw_path(s, id, buf, sizeof buf);

	if (r < 0)
		return r == -ESTALE ? "(none)" : "(too long)";
	EQUAL(r, strlen(buf));
	return buf;
}

static int is(uint64_t id, const char *want)
{
	if (strcmp(path(id), want))
		fprintf(stderr, "path of %llx is %s\n", (unsigned long long)id, path(id));
	return !strcmp(path(id), want);
}

static uint64_t known(uint64_t ino)
{
	return sw_node_of(s, 0, ino);
}

/* Every count, list and chain says the same. */
static void consistent(void)
{
	uint64_t nodes = 0, links = 0, lru = 0, brow = 0, named = 0;

	lock(s);
	for (uint64_t i = 0; i < s->nbuckets; i++) {
		for (struct node *n = s->by_id[i]; n; n = n->hid) {
			uint32_t refs = 0;

			nodes++;
			CHECK(node_get(s, n->id) == n);
			CHECK(!n->in_key || node_by_key(s, n->dev, n->ino) == n);
			for (struct link *l = n->links; l; l = l->nnext) {
				named++;
				CHECK(l->node == n && link_find(s, l->parent, l->name, l->len) == l);
				CHECK(node_get(s, l->parent->id) == l->parent);
			}
			for (uint64_t j = 0; s->nbuckets < 4096 && j < s->nbuckets; j++)
				for (struct link *l = s->by_name[j]; l; l = l->hnext)
					refs += l->parent == n;
			CHECK(refs <= n->refs || s->nbuckets >= 4096);
			CHECK(!n->in_lru || (!n->nlookup && !n->refs && !n->opens));
			CHECK(n == s->root || n->in_lru || n->nlookup || n->refs || n->opens);
		}
		for (struct link *l = s->by_name[i]; l; l = l->hnext)
			links++;
	}
	for (struct node *n = s->lru.lru_next; n != &s->lru; n = n->lru_next)
		lru++;
	for (struct used *u = s->brow.brow_next; u != &s->brow; u = u->brow_next) {
		CHECK(u->node->used == u && u->node->in_brow);
		brow++;
	}
	EQUAL(nodes, s->nnodes);
	EQUAL(links, s->nlinks);
	EQUAL(named, links);
	EQUAL(lru, s->nlru);
	EQUAL(brow, s->nbrow);
	CHECK(lru <= s->config.idle_nodes);
	unlock(s);
}

static void begin(void)
{
	k = kit_new();
	s = k->s;
}

static void end(void)
{
	consistent();
	kit_free(k);
	kit_defaults();
}

static void intern(void)
{
	struct sw_entry e;
	uint64_t d, f;
	char name[256];
	uint64_t up;

	begin();
	d = enter(100, DIR_MODE, SW_ROOT, "d", 1);
	f = enter(101, FILE_MODE, d, "f", 1);
	EQUAL(d, 100); /* the source's own number: the same after a restart */
	EQUAL(f, 101);
	EQUAL(enter(101, FILE_MODE, d, "f", 1), f);
	CHECK(is(f, "d/f") && is(SW_ROOT, "."));
	EQUAL(sw_parent(s, f, &up, name, sizeof name), 1);
	CHECK(up == d && !strcmp(name, "f"));
	EQUAL(sw_cached_entry(s, f, &e), 0);
	CHECK(e.size == 101 && e.mtime_ns == 101 * 1000000000ll && e.mode == FILE_MODE && e.ino == 101 && !e.dev);
	EQUAL(sw_cached_entry(s, 555, &e), -ENOENT);
	EQUAL(sw_path(s, 555, name, sizeof name), -ESTALE);
	EQUAL(sw_parent(s, SW_ROOT, &up, name, sizeof name), -ESTALE);
	sw_forget(s, f, 1);
	CHECK(s->nlru == 0);
	sw_forget(s, f, 1);
	CHECK(s->nlru == 1 && known(101) == f); /* idle, still known */
	sw_ref(s, f);
	CHECK(s->nlru == 0);
	sw_forget(s, f, 1000); /* more than there were */
	CHECK(s->nlru == 1);
	sw_forget(s, 12345, 1);
	sw_forget(s, SW_ROOT, 5);
	sw_ref(s, 12345);
	consistent();
	end();
}

static void numbers(void)
{
	struct statx st;
	uint64_t a, b, c;

	begin();
	a = enter(1, FILE_MODE, SW_ROOT, "one", 1); /* the root's number */
	CHECK(a != 1);
	b = enter(1ull << 50, FILE_MODE, SW_ROOT, "large", 1);
	CHECK(b != 1ull << 50 && b != a);
	st = attr(100, FILE_MODE);
	st.stx_dev_minor ^= 1;
	c = enter_as(st, SW_ROOT, "other device", 1);
	CHECK(c != 100 && known(100) == 0);
	EQUAL(sw_node_of(s, (uint64_t)st.stx_dev_major << 32 | st.stx_dev_minor, 100), c);
	EQUAL(enter(100, FILE_MODE, SW_ROOT, "same number here", 1), 100);
	CHECK(!((a | b | c) >> 62)); /* leaves the marks of handles free */
	end();
}

static void number_used_again(void)
{
	struct statx st;
	uint64_t a, b, c;

	begin();
	st = attr(100, FILE_MODE);
	a = enter_as(st, SW_ROOT, "a", 1);
	st.stx_btime.tv_sec++;
	b = enter_as(st, SW_ROOT, "b", 1);
	CHECK(b != a && is(a, "(none)") && is(b, "b") && known(100) == b);
	c = enter(100, DIR_MODE, SW_ROOT, "c", 1); /* another type */
	CHECK(c != a && c != b && known(100) == c && is(b, "(none)"));
	sw_forget(s, a, 1); /* nobody can ask for it any more: gone at once */
	sw_forget(s, b, 1);
	EQUAL(s->nnodes, 2);
	sw_unlinked(s, SW_ROOT, "c");
	sw_forget(s, c, 1);
	EQUAL(s->nnodes, 1);
	st = attr(100, FILE_MODE); /* all are gone: books that somebody keeps of them are not this one's */
	st.stx_btime.tv_sec += 2;
	b = enter_as(st, SW_ROOT, "d", 1);
	CHECK(b != 100 && b != c && known(100) == b);
	sw_forget(s, b, 1); /* forgotten, but there: it comes back as what it was */
	EQUAL(enter_as(st, SW_ROOT, "d", 1), b);
	EQUAL(enter(101, FILE_MODE, SW_ROOT, "e", 1), 101);
	/* A source that says a birth time only sometimes has not made a new file. */
	st = attr(300, FILE_MODE);
	a = enter_as(st, SW_ROOT, "x", 1);
	st.stx_mask &= ~STATX_BTIME;
	EQUAL(enter_as(st, SW_ROOT, "x", 1), a);
	EQUAL(enter(300, FILE_MODE, SW_ROOT, "x", 1), a);
	end();
}

static void replaced_directory_keeps_children(void)
{
	uint64_t d, f;

	begin();
	d = enter(100, DIR_MODE, SW_ROOT, "d", 1);
	f = enter(101, FILE_MODE, d, "f", 1);
	enter(100, FILE_MODE, SW_ROOT, "d", 1);
	CHECK(is(d, "(none)") && is(f, "(none)"));
	sw_forget(s, d, 1); /* still the parent of f */
	CHECK(known(101) == f);
	sw_forget(s, f, 1);
	lock(s);
	node_supersede(s, node_get(s, f));
	unlock(s);
	EQUAL(s->nnodes, 2); /* the root and the file */
	end();
}

static void names(void)
{
	uint64_t d, e, f, g;

	begin();
	d = enter(100, DIR_MODE, SW_ROOT, "d", 1);
	e = enter(101, DIR_MODE, SW_ROOT, "e", 1);
	f = enter(102, FILE_MODE, d, "f", 1);
	g = enter(103, FILE_MODE, e, "g", 1);
	sw_renamed(s, d, "f", e, "h", 0);
	CHECK(is(f, "e/h"));
	sw_renamed(s, e, "h", e, "g", 0); /* onto another */
	CHECK(is(f, "e/g") && is(g, "(none)"));
	sw_renamed(s, SW_ROOT, "d", e, "d", 0); /* a directory */
	f = enter(104, FILE_MODE, d, "f", 1);
	CHECK(is(d, "e/d") && is(f, "e/d/f"));
	g = enter(105, FILE_MODE, SW_ROOT, "g", 1);
	sw_renamed(s, SW_ROOT, "g", e, "d", 1); /* exchanged: file and directory */
	CHECK(is(d, "g") && is(g, "e/d") && is(f, "g/f"));
	sw_renamed(s, SW_ROOT, "unknown", e, "d", 0); /* a name that was never looked up, onto a known one */
	CHECK(is(g, "(none)"));
	sw_renamed(s, e, "g", SW_ROOT, "unknown", 0);
	sw_renamed(s, 9999, "g", SW_ROOT, "unknown", 0);
	sw_unlinked(s, d, "f");
	CHECK(is(f, "(none)"));
	sw_unlinked(s, d, "f");
	sw_unlinked(s, 9999, "f");
	end();
}

static void hard_links(void)
{
	uint64_t d, f;

	begin();
	d = enter(100, DIR_MODE, SW_ROOT, "d", 1);
	f = enter(101, FILE_MODE, SW_ROOT, "a", 1);
	EQUAL(enter(101, FILE_MODE, d, "b", 1), f);
	CHECK(is(f, "d/b"));
	sw_renamed(s, SW_ROOT, "a", d, "b", 0); /* two names of one file: rename(2) does nothing */
	EQUAL(s->nlinks, 3);
	sw_unlinked(s, d, "b");
	CHECK(is(f, "a"));
	enter(101, FILE_MODE, d, "b", 0);
	/* The name that was seen last is the one that is used: the others may be gone from the source since. */
	EQUAL(enter(101, FILE_MODE, SW_ROOT, "a", 1), f);
	CHECK(is(f, "a"));
	sw_unlinked(s, SW_ROOT, "a");
	sw_unlinked(s, d, "b");
	CHECK(is(f, "(none)") && known(101) == f);
	sw_forget(s, f, 10);
	EQUAL(known(101), 0);
	end();
}

static void unlinked_while_idle(void)
{
	begin();
	enter(100, FILE_MODE, SW_ROOT, "f", 0);
	EQUAL(s->nlru, 1);
	sw_unlinked(s, SW_ROOT, "f");
	EQUAL(s->nnodes, 1);
	end();
}

static void idle_nodes_go_oldest_first(void)
{
	char name[16];
	uint64_t d;

	kit_config.idle_nodes = 10;
	begin();
	d = enter(1000, DIR_MODE, SW_ROOT, "d", 0);
	for (uint64_t i = 0; i < 20; i++) {
		snprintf(name, sizeof name, "%llu", (unsigned long long)i);
		enter(2000 + i, FILE_MODE, d, name, 0);
	}
	EQUAL(s->nlru, 10);
	CHECK(known(1000) == d); /* a parent of known nodes is not idle */
	for (uint64_t i = 0; i < 20; i++)
		CHECK(known(2000 + i) == (i < 10 ? 0 : 2000 + i));
	consistent();
	for (uint64_t i = 0; i < 30; i++) { /* others push all of them out, and then their directory */
		snprintf(name, sizeof name, "x%llu", (unsigned long long)i);
		enter(3000 + i, FILE_MODE, SW_ROOT, name, 0);
	}
	CHECK(known(1000) == 0);
	end();
}

/* Each file that goes leaves a directory idle, which pushes the next file out: no deeper on the stack for it. */
static void one_file_a_directory(void)
{
	enum { N = 60000 };
	char name[16];
	uint64_t d;

	kit_config.idle_nodes = N;
	begin();
	for (uint64_t i = 0; i < N; i++) {
		snprintf(name, sizeof name, "%llu", (unsigned long long)i);
		d = enter(10 * N + i, DIR_MODE, SW_ROOT, name, 0);
		enter(100 * N + i, FILE_MODE, d, "data", 0);
	}
	EQUAL(s->nlru, N);
	enter(5, FILE_MODE, SW_ROOT, "one more", 0);
	consistent();
	end();
}

static void deep_tree(void)
{
	enum { DEPTH = 20000 };
	char buf[8192];
	uint64_t id = SW_ROOT, ids[3] = {0};

	kit_config.idle_nodes = DEPTH * 2;
	begin();
	for (uint64_t i = 0; i < DEPTH; i++) {
		id = enter(1000 + i, DIR_MODE, id, "d", 0);
		if (i == 1000 || i == 4000)
			ids[i / 4000] = id;
	}
	CHECK(strlen(path(ids[0])) == 2001 && strlen(path(ids[1])) == 8001);
	EQUAL(strlen(path(id)), DEPTH * 2 - 1);
	EQUAL(sw_path(s, ids[1], buf, 4096), -ENAMETOOLONG);
	EQUAL(sw_path(s, ids[1], buf, 8001), -ENAMETOOLONG);
	EQUAL(sw_path(s, ids[1], buf, 8003), 8001); /* one byte more than it needs: the slash that is cut off */
	EQUAL(sw_path(s, ids[1], buf, 0), -ENAMETOOLONG);
	EQUAL(sw_path(s, SW_ROOT, buf, 1), -ENAMETOOLONG);
	EQUAL(sw_path(s, SW_ROOT, buf, 2), 1);
	/* Each is the only child of its parent: when the lowest goes, all may. */
	s->config.idle_nodes = 0;
	sw_ref(s, id);
	sw_forget(s, id, 1);
	EQUAL(s->nnodes, 1);
	end();
}

/* Renames on the source itself, seen in an order that would make a directory its own ancestor. */
static void no_circles(void)
{
	uint64_t a, b, c;
	char buf[4096];

	begin();
	a = enter(100, DIR_MODE, SW_ROOT, "a", 1);
	b = enter(101, DIR_MODE, a, "b", 1);
	c = enter(102, DIR_MODE, b, "c", 1);
	EQUAL(enter(100, DIR_MODE, c, "a", 1), a); /* mv a/b b; mv a b/c/a */
	CHECK(sw_path(s, a, buf, sizeof buf) != -ENAMETOOLONG);
	CHECK(sw_path(s, c, buf, sizeof buf) != -ENAMETOOLONG);
	EQUAL(enter(101, DIR_MODE, SW_ROOT, "b", 1), b);
	CHECK(is(b, "b"));
	EQUAL(enter(102, DIR_MODE, b, "c", 1), c);
	CHECK(is(a, "b/c/a"));
	EQUAL(enter(101, DIR_MODE, b, "itself", 1), b); /* nonsense of a broken source */
	CHECK(sw_path(s, b, buf, sizeof buf) != -ENAMETOOLONG);
	sw_forget(s, a, 10);
	sw_forget(s, b, 10);
	sw_forget(s, c, 10);
	s->config.idle_nodes = 0;
	enter(103, FILE_MODE, SW_ROOT, "x", 0);
	EQUAL(s->nnodes, 1); /* nothing holds another for ever */
	end();
}

static void a_hundred_thousand(void)
{
	enum { N = 100000 };
	char name[32];
	struct sw_entry e;

	kit_config.idle_nodes = N;
	begin();
	for (uint64_t i = 0; i < N; i++) {
		snprintf(name, sizeof name, "file-%06llu.jpg", (unsigned long long)i);
		enter(1000 + i, FILE_MODE, SW_ROOT, name, (int)(i & 1));
	}
	EQUAL(s->nnodes, N + 1);
	CHECK(s->nbuckets >= N);
	consistent();
	for (uint64_t i = 0; i < N; i++) {
		EQUAL(sw_cached_entry(s, 1000 + i, &e), 0);
		EQUAL(e.size, 1000 + i);
		snprintf(name, sizeof name, "file-%06llu.jpg", (unsigned long long)i);
		CHECK(is(1000 + i, name));
		sw_unlinked(s, SW_ROOT, name);
		sw_forget(s, 1000 + i, 1);
	}
	EQUAL(s->nnodes, 1);
	EQUAL(s->nlinks, 0);
	end();
}

static int check_of(uint64_t id, uint64_t *ns)
{
	struct sw_entry e;

	CHECK(!sw_cached_entry(s, id, &e));
	if (ns)
		*ns = e.check_ns;
	return e.check;
}

static void rules(void)
{
	uint64_t d, e, f, ns;
	char glob[32];

	begin();
	EQUAL(sw_rule(s, "models/*", 2, 0), 0);
	EQUAL(sw_rule(s, "*.tmp", 0, 5), 0);
	EQUAL(sw_rule(s, "raw/[0-9]*.tmp", 1, 77), 0); /* never reached: the second is first */
	EQUAL(sw_rule(s, "raw/?.bin", 1, 77), 0);
	d = enter(100, DIR_MODE, SW_ROOT, "models", 1);
	EQUAL(check_of(d, NULL), 1); /* the default */
	e = enter(101, DIR_MODE, d, "deep", 1);
	EQUAL(check_of(e, NULL), 2);
	f = enter(102, FILE_MODE, e, "x.tmp", 1);
	EQUAL(check_of(f, NULL), 2); /* `*` reaches below; the first match wins */
	EQUAL(check_of(enter(103, FILE_MODE, SW_ROOT, "x.tmp", 1), &ns), 0);
	EQUAL(ns, 5);
	d = enter(104, DIR_MODE, SW_ROOT, "raw", 1);
	EQUAL(check_of(enter(105, FILE_MODE, d, "1.tmp", 1), NULL), 0);
	EQUAL(check_of(enter(106, FILE_MODE, d, "1.bin", 1), &ns), 1);
	EQUAL(ns, 77);
	/* A file that moves gets the rule of its new place, and so does what lies in a directory that moves. */
	sw_renamed(s, d, "1.bin", SW_ROOT, "1.bin", 0);
	check_of(106, &ns);
	EQUAL(ns, kit_config.check_ns);
	sw_renamed(s, SW_ROOT, "models", SW_ROOT, "old", 0);
	EQUAL(check_of(e, NULL), 1);
	EQUAL(check_of(f, NULL), 0);
	sw_renamed(s, SW_ROOT, "old", SW_ROOT, "models", 0);
	EQUAL(check_of(f, NULL), 2);
	for (int i = 0; i < 200; i++) { /* the array grows */
		snprintf(glob, sizeof glob, "many-%d", i);
		EQUAL(sw_rule(s, glob, 0, (uint64_t)i), 0);
	}
	EQUAL(check_of(enter(200, FILE_MODE, SW_ROOT, "many-199", 1), &ns), 0);
	EQUAL(ns, 199);
	end();
}

static void long_names(void)
{
	char name[2000];
	uint64_t f, up;
	struct statx st;

	begin();
	memset(name, 'n', sizeof name);
	name[1024] = 0; /* the longest that FUSE carries; NTFS and CIFS have names of up to 765 bytes */
	f = enter(100, FILE_MODE, SW_ROOT, name, 1);
	CHECK(is(f, name));
	EQUAL(source_stat(s, f, &st), -ENAMETOOLONG); /* as the source says, and no byte written past a buffer */
	EQUAL(sw_open_source(s, f, O_RDONLY, 1), -ENAMETOOLONG);
	f = enter(101, DIR_MODE, SW_ROOT, name, 1);
	EQUAL(sw_dir_fd(s, f), -ENAMETOOLONG);
	CHECK(sw_parent(s, f, &up, name, 256) < 0);
	end();
}

/* Times that do not fit into nanoseconds of int64_t (year 2262) end at its limits. */
static void far_times(void)
{
	struct fuse_attr a;
	struct statx st;
	struct sw_entry e;

	begin();
	st = attr(100, FILE_MODE);
	st.stx_mtime.tv_sec = 15032385535; /* ext4's last second, in 2446 */
	st.stx_atime.tv_sec = INT64_MIN;
	st.stx_ctime.tv_sec = -2147483648;
	st.stx_ctime.tv_nsec = 5;
	enter_as(st, SW_ROOT, "f", 1);
	EQUAL(sw_cached_entry(s, 100, &e), 0);
	CHECK(e.mtime_ns > 9200000000ll * 1000000000 && e.atime_ns < -9200000000ll * 1000000000);
	EQUAL(e.ctime_ns, -2147483648 * 1000000000ll + 5);
	lock(s);
	fill_attr(node_get(s, 100), &a);
	unlock(s);
	EQUAL(a.ctime, -2147483648);
	EQUAL(a.ctimensec, 5);
	CHECK((int64_t)a.mtime > 9200000000 && (int64_t)a.atime < -9200000000 && a.atimensec < 1000000000);
	end();
}

/* Answers in another order than they were asked for, and one asked for before the last writer closed the file. */
static void late_answers(void)
{
	struct statx st;
	struct sw_entry e;
	struct node *n;

	begin();
	st = attr(100, FILE_MODE);
	enter_as(st, SW_ROOT, "f", 1);
	lock(s);
	n = node_get(s, 100);
	st.stx_size = 7;
	node_attr(s, n, &st, n->attr_at - 1); /* older than what is known */
	EQUAL(n->size, 100);
	node_attr(s, n, &st, n->attr_at);
	CHECK(n->size == 7 && n->attr_at);
	unlock(s);
	EQUAL(sw_begin_write(s, 100), SW_NONE);
	sw_end_write(s, 100);
	lock(s);
	st.stx_size = 8;
	node_attr(s, n, &st, n->written_at - 1);
	CHECK(n->size == 8 && !n->attr_at); /* shown to who asked, not kept for others */
	struct fuse_entry_out o;
	fill_entry(s, n, &o);
	CHECK(o.attr.size == 8 && !o.attr_valid && !o.attr_valid_nsec && !o.entry_valid);
	node_entry(s, n, &e);
	EQUAL(e.valid_ns, 0);
	node_attr(s, n, &st, n->written_at + 1);
	CHECK(n->attr_at);
	unlock(s);
	EQUAL(sw_cached_entry(s, 100, &e), 0);
	EQUAL(e.size, 8);
	end();
}

/* A thousand random operations on a small name space, checked after each. */
static void random_operations(unsigned seed)
{
	static const char *const names[] = {"a", "b", "c"};
	uint64_t ids[8] = {SW_ROOT};
	char buf[4096];

	kit_config.idle_nodes = 3;
	begin();
	for (int i = 0; i < 1500; i++) {
		unsigned r = seed = seed * 1103515245 + 12345, what = r >> 28;
		uint64_t p = ids[r >> 8 & 7], q = ids[r >> 12 & 7];
		const char *n = names[(r >> 16) % 3], *m = names[(r >> 20) % 3];

		p = sw_path(s, p, buf, sizeof buf) < 0 ? SW_ROOT : p;
		q = sw_path(s, q, buf, sizeof buf) < 0 ? SW_ROOT : q;
		if (what < 7) {
			struct node *up;
			struct statx st = attr(100 + (r >> 4 & 7), r & 16 ? DIR_MODE : FILE_MODE);

			lock(s);
			up = node_get(s, p);
			unlock(s);
			st.stx_btime.tv_sec = r >> 24 & 1;
			if (up && S_ISDIR(up->perm))
				ids[1 + r % 7] = enter_as(st, p, n, (r >> 22) & 1);
		} else if (what < 9)
			sw_unlinked(s, p, n);
		else if (what < 12)
			sw_renamed(s, p, n, q, m, r >> 26 & 1);
		else
			sw_forget(s, ids[1 + r % 7], 1 + (r >> 26 & 3));
		consistent();
	}
	end();
}

int main(void)
{
	kit_defaults();
	intern();
	numbers();
	number_used_again();
	replaced_directory_keeps_children();
	names();
	hard_links();
	unlinked_while_idle();
	idle_nodes_go_oldest_first();
	one_file_a_directory();
	deep_tree();
	no_circles();
	a_hundred_thousand();
	rules();
	long_names();
	far_times();
	late_answers();
	for (unsigned seed = 1; seed <= 20; seed++)
		random_operations(seed);
	return kit_done();
}
