/* table.c: the node table: which file a nodeid is, by which names it is known, and what holds it.
 *
 * A nodeid is the source's inode number where that fits (root's device, below 2^48, not 1), so it is the same after a
 * restart without being stored. Where the number is taken by an older file (an inode number used again, or a file
 * replaced while its cached bytes are open), or was lately, the upper bits tell them apart: who keeps books of nodeids
 * need not be told that a file is gone. The rest get numbers from a counter.
 * Everything here is under session.lock and makes no system call. */
#include "internal.h"

#include <fnmatch.h>
#include <stdlib.h>
#include <unistd.h>

#define ID_COUNTER (1ull << 61)
#define INO_LIMIT (1ull << 48)

static uint32_t hash_name(uint64_t parent, const char *name, size_t len)
{
	return sw_crc32c((uint32_t)(parent ^ (parent >> 32)), name, len);
}

static uint64_t hash_id(uint64_t id)
{
	return (id * 0x9e3779b97f4a7c15ull) >> 20; /* Fibonacci hashing */
}

static uint64_t hash_key(uint64_t dev, uint64_t ino)
{
	return hash_id(ino ^ (dev << 32) ^ dev);
}

int table_init(sw_session *s)
{
	s->nbuckets = 1024;
	s->by_id = calloc(s->nbuckets, sizeof *s->by_id);
	s->by_key = calloc(s->nbuckets, sizeof *s->by_key);
	s->by_name = calloc(s->nbuckets, sizeof *s->by_name);
	s->lru.lru_next = s->lru.lru_prev = &s->lru;
	s->brow.brow_next = s->brow.brow_prev = &s->brow;
	s->epoch = 1;
	return s->by_id && s->by_key && s->by_name ? 0 : -ENOMEM;
}

/* Doubles the three tables when nodes or links outnumber the buckets. Without memory they stay as they are: slower. */
static void grow(sw_session *s)
{
	uint64_t n = s->nbuckets * 2, i;
	struct node **id = calloc(n, sizeof *id), **key = calloc(n, sizeof *key);
	struct link **name = calloc(n, sizeof *name);

	if (!id || !key || !name) {
		free(id);
		free(key);
		free(name);
		return;
	}
	for (i = 0; i < s->nbuckets; i++) {
		struct node *p, *q;
		struct link *l, *m;

		for (p = s->by_id[i]; p; p = q) {
			q = p->hid;
			p->hid = id[hash_id(p->id) & (n - 1)];
			id[hash_id(p->id) & (n - 1)] = p;
		}
		for (p = s->by_key[i]; p; p = q) {
			q = p->hkey;
			p->hkey = key[hash_key(p->dev, p->ino) & (n - 1)];
			key[hash_key(p->dev, p->ino) & (n - 1)] = p;
		}
		for (l = s->by_name[i]; l; l = m) {
			m = l->hnext;
			l->hnext = name[l->hash & (n - 1)];
			name[l->hash & (n - 1)] = l;
		}
	}
	free(s->by_id);
	free(s->by_key);
	free(s->by_name);
	s->by_id = id;
	s->by_key = key;
	s->by_name = name;
	s->nbuckets = n;
}

struct node *node_get(sw_session *s, uint64_t id)
{
	struct node *n = s->by_id[hash_id(id) & (s->nbuckets - 1)];

	while (n && n->id != id)
		n = n->hid;
	return n;
}

struct node *node_by_key(sw_session *s, uint64_t dev, uint64_t ino)
{
	struct node *n = s->by_key[hash_key(dev, ino) & (s->nbuckets - 1)];

	while (n && (n->dev != dev || n->ino != ino))
		n = n->hkey;
	return n;
}

static void key_remove(sw_session *s, struct node *n)
{
	struct node **p = &s->by_key[hash_key(n->dev, n->ino) & (s->nbuckets - 1)];

	if (!n->in_key)
		return;
	while (*p != n)
		p = &(*p)->hkey;
	*p = n->hkey;
	n->in_key = 0;
	watch_number(s, n, 1);
}

static void key_add(sw_session *s, struct node *n)
{
	uint64_t h = hash_key(n->dev, n->ino) & (s->nbuckets - 1);

	n->hkey = s->by_key[h];
	s->by_key[h] = n;
	n->in_key = 1;
	watch_number(s, n, 0);
}

static uint64_t retired_slot(uint64_t ino)
{
	return hash_id(ino) & (SW_RETIRED - 1);
}

int number_retired(const sw_session *s, uint64_t ino)
{
	return s->retired[retired_slot(ino)].ino == ino;
}

/* Nobody can ask for the file again: what comes with its number is another one. */
static void number_retire(sw_session *s, const struct node *n)
{
	uint64_t epoch = (n->id >> 48) + 1, slot = retired_slot(n->ino);

	if (n->dev || n->id >= ID_COUNTER || (number_retired(s, n->ino) && s->retired[slot].epoch > epoch))
		return;
	s->retired[slot].ino = n->ino;
	s->retired[slot].epoch = epoch;
}

static uint64_t new_id(sw_session *s, uint64_t dev, uint64_t ino)
{
	uint64_t id, epoch = number_retired(s, ino) ? s->retired[retired_slot(ino)].epoch : 0;

	if (dev == 0 && ino > SW_ROOT && ino < INO_LIMIT)
		for (; epoch < 0x1000; epoch++) {
			id = ino | epoch << 48;
			if (!node_get(s, id))
				return id;
		}
	do
		id = ID_COUNTER | ++s->next_id;
	while (node_get(s, id));
	return id;
}

static struct node *node_new(sw_session *s, uint64_t id, uint64_t dev, uint64_t ino)
{
	struct node *n = calloc(1, sizeof *n);
	uint64_t h;

	if (!n)
		return NULL;
	if (s->nnodes >= s->nbuckets || s->nlinks >= s->nbuckets)
		grow(s);
	n->id = id;
	n->dev = dev;
	n->ino = ino;
	n->used = (struct used *)&nobody;
	n->rule = -1;
	h = hash_id(id) & (s->nbuckets - 1);
	n->hid = s->by_id[h];
	s->by_id[h] = n;
	s->nnodes++;
	key_add(s, n);
	return n;
}

const struct used nobody = {.orphan_fd = -1, .keep_fd = -1, .held_fd = -1};

/* NULL: there is no memory. */
struct used *used_of(struct node *n)
{
	struct used *u = n->used;

	if (u == &nobody && (u = malloc(sizeof *u))) {
		*u = nobody;
		u->node = n;
		n->used = u;
	}
	return u;
}

static void used_free(struct node *n)
{
	if (n->used != &nobody)
		free(n->used);
}

void brow_remove(sw_session *s, struct node *n)
{
	if (!n->in_brow)
		return;
	n->used->brow_prev->brow_next = n->used->brow_next;
	n->used->brow_next->brow_prev = n->used->brow_prev;
	n->in_brow = 0;
	s->nbrow--;
}

int brow_touch(sw_session *s, struct node *n)
{
	struct used *u = used_of(n);

	if (!u)
		return -ENOMEM;
	brow_remove(s, n);
	u->brow_next = s->brow.brow_next;
	u->brow_prev = &s->brow;
	u->brow_next->brow_prev = u;
	s->brow.brow_next = u;
	n->in_brow = 1;
	s->nbrow++;
	return 0;
}

static void lru_remove(sw_session *s, struct node *n)
{
	if (!n->in_lru)
		return;
	n->lru_prev->lru_next = n->lru_next;
	n->lru_next->lru_prev = n->lru_prev;
	n->in_lru = 0;
	s->nlru--;
}

static void link_free(sw_session *s, struct link *l)
{
	struct link **p = &s->by_name[l->hash & (s->nbuckets - 1)];

	while (*p != l)
		p = &(*p)->hnext;
	*p = l->hnext;
	for (p = &l->node->links; *p != l; p = &(*p)->nnext)
		;
	*p = l->nnext;
	s->nlinks--;
	node_unref(s, l->parent);
	free(l);
}

/* Deleted or replaced: nobody can ask for it again. */
static int dead(const struct node *n)
{
	return !n->links || !n->in_key;
}

static void node_free(sw_session *s, struct node *n)
{
	struct node **p = &s->by_id[hash_id(n->id) & (s->nbuckets - 1)];

	if (dead(n))
		number_retire(s, n);
	lru_remove(s, n);
	brow_remove(s, n);
	if (n->used->backing)
		backing_drop(s, n);
	while (*p != n)
		p = &(*p)->hid;
	*p = n->hid;
	key_remove(s, n);
	dirfds_drop(s, n);
	if (n->used->orphan_fd >= 0)
		close_later(s, n->used->orphan_fd);
	if (n->used->keep_fd >= 0)
		close_later(s, n->used->keep_fd);
	held_drop(s, n);
	cfile_put(s, n->used->cf);
	s->nnodes--;
	while (n->links) /* may free parents: last, with the node already out of the tables */
		link_free(s, n->links);
	used_free(n);
	free(n);
}

/* One more reference that the kernel holds. */
void node_hold(sw_session *s, struct node *n)
{
	n->nlookup++;
	lru_remove(s, n);
}

static int held(const struct node *n)
{
	return n->nlookup || n->refs || n->opens;
}

/* The kernel's references, children, handles: whoever drops the last one calls this. n may be gone afterwards.
 * A node that goes may leave its parent unheld, which comes here again: those only join the list (the dead at the end
 * where the next are taken), and the loop of the outermost call frees them, however long the chain is. */
void node_settle(sw_session *s, struct node *n)
{
	struct node *before;

	if (n == s->root || held(n) || (n->in_lru && !dead(n)))
		return;
	lru_remove(s, n);
	before = dead(n) ? s->lru.lru_prev : &s->lru;
	n->lru_prev = before;
	n->lru_next = before->lru_next;
	n->lru_next->lru_prev = n;
	before->lru_next = n;
	n->in_lru = 1;
	s->nlru++;
	if (s->settling)
		return;
	s->settling = 1;
	while ((n = s->lru.lru_prev) != &s->lru && (dead(n) || s->nlru > s->config.idle_nodes)) {
		lru_remove(s, n);
		if (!held(n))
			node_free(s, n);
	}
	s->settling = 0;
}

void node_unref(sw_session *s, struct node *n)
{
	n->refs--;
	node_settle(s, n);
}

struct link *link_find(sw_session *s, struct node *parent, const char *name, size_t len)
{
	uint32_t h = hash_name(parent->id, name, len);
	struct link *l = s->by_name[h & (s->nbuckets - 1)];

	while (l && (l->hash != h || l->parent != parent || l->len != len || memcmp(l->name, name, len)))
		l = l->hnext;
	return l;
}

void link_drop(sw_session *s, struct node *parent, const char *name, size_t len)
{
	struct link *l = link_find(s, parent, name, len);

	if (l) {
		struct node *n = l->node;

		n->refs++; /* it outlives the removal of its name */
		link_free(s, l);
		n->kernel_until = 0;
		n->rule_epoch = 0;
		node_unref(s, n);
	}
}

/* A name that was seen just now comes first: the other ones may be gone from the source. */
static void link_first(struct link *l)
{
	struct link **p = &l->node->links;

	if (*p == l)
		return;
	while (*p != l)
		p = &(*p)->nnext;
	*p = l->nnext;
	l->nnext = l->node->links;
	l->node->links = l;
	l->node->rule_epoch = 0;
}

/* The source itself may rename directories behind our back, and the news come in any order: before n, a directory, is
 * put into `parent`, the table must not say that `parent` lies below n. Who walks up would not come to an end. */
static int no_circle(sw_session *s, struct node *n, struct node *parent)
{
	struct node *up;

	for (up = parent; up != n && up != s->root && up->links; up = up->links->parent)
		;
	if (up != n)
		return 0;
	if (parent == n)
		return -ELOOP;
	while (parent->links) /* no longer true: the next lookup says where it is */
		link_free(s, parent->links);
	return 0;
}

/* The caller holds n and parent. */
static int link_add(sw_session *s, struct node *n, struct node *parent, const char *name, size_t len)
{
	struct link *l = link_find(s, parent, name, len), **p;
	int directory = S_ISDIR(n->perm), peopled = directory && n->refs > 1; /* it may have children in the table */

	if (l && l->node == n) {
		link_first(l);
		return 0;
	}
	if (len > SW_NAME_MAX)
		return -ENAMETOOLONG;
	if (peopled && no_circle(s, n, parent) < 0)
		return -ELOOP;
	if (l)
		link_drop(s, parent, name, len);
	l = malloc(sizeof *l + len + 1);
	if (!l)
		return -ENOMEM;
	l->hash = hash_name(parent->id, name, len);
	l->len = (uint16_t)len;
	memcpy(l->name, name, len);
	l->name[len] = 0;
	l->node = n;
	l->parent = parent;
	parent->refs++;
	lru_remove(s, parent);
	p = &s->by_name[l->hash & (s->nbuckets - 1)];
	l->hnext = *p;
	*p = l;
	s->nlinks++;
	if (directory) /* a directory has one name: older ones are stale */
		while (n->links)
			link_free(s, n->links);
	l->nnext = n->links;
	n->links = l;
	n->rule_epoch = 0;
	if (peopled && ++s->epoch == 0) /* what lies in it may have another rule now */
		s->epoch = 1;
	return 0;
}

/* Nanoseconds reach from 1677 to 2262; some file systems reach further. */
static int64_t ts_ns(const struct statx_timestamp *t)
{
	int64_t most = INT64_MAX / 1000000000 - 1, s = t->tv_sec;

	return (s > most ? most : s < -most ? -most : s) * 1000000000ll + t->tv_nsec;
}

/* Answers of the source may come in another order than they were asked for: an older one changes nothing, and one that
 * was asked for before the last writer closed the file is shown to who asked, but not kept for others. */
void node_attr(sw_session *s, struct node *n, const struct statx *st, uint64_t asked)
{
	if (n->attr_at > asked)
		return;
	if (n->size != st->stx_size || n->mtime_ns != ts_ns(&st->stx_mtime) || n->ctime_ns != ts_ns(&st->stx_ctime)) {
		n->pages = 0; /* what the kernel keeps in its page cache may be older */
		n->told_old = 1;
	}
	n->perm = st->stx_mode;
	n->nlink = st->stx_nlink;
	n->uid = st->stx_uid;
	n->gid = st->stx_gid;
	n->rdev = (uint32_t)((st->stx_rdev_minor & 0xff) | (st->stx_rdev_major << 8) |
			     ((st->stx_rdev_minor & ~0xffu) << 12)); /* the kernel's new_encode_dev() */
	n->blksize = st->stx_blksize;
	n->size = st->stx_size;
	n->blocks = st->stx_blocks;
	n->atime_ns = ts_ns(&st->stx_atime);
	n->mtime_ns = ts_ns(&st->stx_mtime);
	n->ctime_ns = ts_ns(&st->stx_ctime);
	n->attr_at = asked <= n->written_at ? 0 : asked;
	n->bare = n->attr_at && st->stx_attributes & SW_STATX_BARE;
}

static uint64_t key_dev(const sw_session *s, const struct statx *st)
{
	uint64_t dev = (uint64_t)st->stx_dev_major << 32 | st->stx_dev_minor;

	return dev == s->root_dev ? 0 : dev;
}

static uint64_t btime_of(const struct statx *st)
{
	return st->stx_mask & STATX_BTIME ? (uint64_t)ts_ns(&st->stx_btime) : 0;
}

/* Some sources know a file's birth time at one call and not at the next. */
int node_same(const struct node *n, const struct statx *st)
{
	uint64_t btime = btime_of(st);

	return !((n->perm ^ st->stx_mode) & S_IFMT) && (!btime || !n->btime_ns || n->btime_ns == btime);
}

/* Who has it open reads an older generation out of the kernel's page cache, all of it from one cache file. The inode has
 * one size and one set of pages, so what is newer must get another node, or they would read of both. */
int node_left_behind(const struct node *n, const struct statx *st)
{
	const struct used *u = n->used;

	if (!n->opens || n->mode != SW_CACHED || !n->used->cf || !n->used->cf->file_id || n->used->writers || n->bypass)
		return 0;
	return (n->used->file_id && n->used->file_id != n->used->cf->file_id) || u->gen_size != st->stx_size ||
	       u->gen_mtime_ns != ts_ns(&st->stx_mtime);
}

/* The node that `st` is, known by `name` in `parent` (NULL: no name). Made if it is new; attributes are taken over. */
struct node *node_intern(sw_session *s, const struct statx *st, uint64_t asked, struct node *parent, const char *name,
			 size_t len)
{
	uint64_t dev;
	struct node *n;
	int fresh = 0;

	if (!parent) { /* the root itself */
		s->root_dev = (uint64_t)st->stx_dev_major << 32 | st->stx_dev_minor;
		n = node_new(s, SW_ROOT, 0, st->stx_ino);
		if (n)
			node_attr(s, n, st, asked);
		return n;
	}
	parent->refs++; /* nor is the parent to go with the last of its names */
	dev = key_dev(s, st);
	n = node_by_key(s, dev, st->stx_ino);
	if (n && n != s->root && (!node_same(n, st) || node_left_behind(n, st))) {
		node_supersede(s, n);
		n = NULL;
	}
	if (!n) {
		n = node_new(s, new_id(s, dev, st->stx_ino), dev, st->stx_ino);
		if (!n) {
			node_unref(s, parent);
			return NULL;
		}
		fresh = 1;
	}
	if (btime_of(st))
		n->btime_ns = btime_of(st);
	n->refs++; /* not to be settled while its links change */
	node_attr(s, n, st, asked);
	if (n != s->root && link_add(s, n, parent, name, len) < 0 && fresh) {
		node_free(s, n);
		n = NULL;
	}
	node_unref(s, parent);
	if (n)
		n->refs--; /* last: n may be idle, and the caller has not taken it yet */
	return n;
}

/* What LOOKUP comes to: the child's node, held by the kernel where it asked (`ref`), and its entry. 0 or -errno. */
int node_enter(sw_session *s, const struct statx *st, uint64_t asked, uint64_t parent, const char *name, int ref,
	       struct sw_entry *out)
{
	struct node *p = node_get(s, parent), *n = p ? node_intern(s, st, asked, p, name, strlen(name)) : NULL;

	if (!n)
		return p ? -ENOMEM : -ESTALE;
	node_entry(s, n, out);
	if (ref) {
		node_hold(s, n);
		n->kernel_until = n->attr_at + out->valid_ns;
	} else
		node_settle(s, n);
	return 0;
}

/* From now on lookups of this file make another node: the old one serves its open handles and dies with them. */
void node_supersede(sw_session *s, struct node *n)
{
	n->refs++;
	key_remove(s, n);
	while (n->links)
		link_free(s, n->links);
	node_unref(s, n);
}

void node_renew(sw_session *s, struct node *n, const struct statx *st)
{
	struct node *other = node_by_key(s, n->dev, st->stx_ino);

	n->refs++;
	if (other && other != n)
		node_supersede(s, other);
	if (n->ino != st->stx_ino) {
		key_remove(s, n);
		n->ino = st->stx_ino;
		key_add(s, n);
	}
	n->btime_ns = btime_of(st);
	node_unref(s, n);
}

int node_path(sw_session *s, const struct node *n, char *buf, size_t size)
{
	char *p = buf + size;

	if (n == s->root) {
		if (size < 2)
			return -ENAMETOOLONG;
		memcpy(buf, ".", 2);
		return 1;
	}
	if (!size)
		return -ENAMETOOLONG;
	*--p = 0;
	for (; n != s->root; n = n->links->parent) {
		const struct link *l = n->links;

		if (!l)
			return -ESTALE;
		if ((size_t)(p - buf) < l->len + 1u)
			return -ENAMETOOLONG;
		p -= l->len;
		memcpy(p, l->name, l->len);
		*--p = '/';
	}
	p++; /* no leading slash */
	memmove(buf, p, (size_t)(buf + size - p));
	return (int)(buf + size - p) - 1;
}

/* Globs are matched against the path below the mount; `*` also matches `/`, as in .gitignore's `**`. A path of 4096
 * bytes or more has no rule. */
void node_rule(sw_session *s, struct node *n)
{
	char path[4096];
	int r = node_path(s, n, path, sizeof path);

	n->rule_epoch = s->epoch;
	if (r == -ESTALE)
		return; /* nameless: the rule it had */
	n->rule = -1;
	for (int i = 0; i < s->nrules && r >= 0; i++)
		if (!fnmatch(s->rules[i].glob, path, 0)) {
			n->rule = (int16_t)i;
			return;
		}
}

uint64_t node_kept_ns(sw_session *s, struct node *n)
{
	switch (node_check(s, n)) {
	case 0:
		return 0;
	case 2:
		return 86400ull * 1000000000ull;
	default:
		return s->config.meta_ns;
	}
}

/* How long the kernel may answer for this node by itself: not at all with attributes that are not to be relied on. */
uint64_t node_valid_ns(sw_session *s, struct node *n)
{
	return n->attr_at ? node_kept_ns(s, n) : 0;
}

void node_entry(sw_session *s, struct node *n, struct sw_entry *out)
{
	memset(out, 0, sizeof *out);
	out->nodeid = n->id;
	out->ino = n->ino;
	out->dev = n->dev;
	out->size = n->size;
	out->blocks = n->blocks;
	out->atime_ns = n->atime_ns;
	out->mtime_ns = n->mtime_ns;
	out->ctime_ns = n->ctime_ns;
	out->mode = n->perm;
	out->nlink = n->nlink;
	out->uid = n->uid;
	out->gid = n->gid;
	out->rdev = n->rdev;
	out->blksize = n->blksize;
	out->valid_ns = node_valid_ns(s, n);
	out->check = node_check(s, n);
	out->check_ns = node_check_ns(s, n);
}

void table_free(sw_session *s)
{
	for (uint64_t i = 0; s->by_id && i < s->nbuckets; i++)
		while (s->by_id[i]) {
			struct node *n = s->by_id[i];

			s->by_id[i] = n->hid;
			if (n->used->orphan_fd >= 0)
				close(n->used->orphan_fd);
			if (n->used->keep_fd >= 0)
				close(n->used->keep_fd);
			if (n->used->held_fd >= 0)
				close(n->used->held_fd);
			cfile_put(s, n->used->cf);
			while (n->links) {
				struct link *l = n->links;

				n->links = l->nnext;
				free(l);
			}
			used_free(n);
			free(n);
		}
	free(s->by_id);
	free(s->by_key);
	free(s->by_name);
}

/* ---- the public calls that only touch the table ---- */

void sw_ref(sw_session *s, uint64_t nodeid)
{
	struct node *n;

	lock(s);
	n = node_get(s, nodeid);
	if (n) {
		node_hold(s, n);
		n->kernel_until = now_ns(CLOCK_MONOTONIC_COARSE) + node_valid_ns(s, n);
	}
	unlock(s);
}

void sw_forget(sw_session *s, uint64_t nodeid, uint64_t count)
{
	struct node *n;

	lock(s);
	n = node_get(s, nodeid);
	if (n && n != s->root) {
		n->nlookup -= count < n->nlookup ? count : n->nlookup;
		if (!n->nlookup)
			n->kernel_until = 0;
		node_settle(s, n);
	}
	unlock(s);
}

int sw_cached_entry(sw_session *s, uint64_t nodeid, struct sw_entry *out)
{
	struct node *n;
	int r = -ENOENT;

	lock(s);
	n = node_get(s, nodeid);
	if (n) {
		node_entry(s, n, out);
		r = 0;
	}
	unlock(s);
	return r;
}

int sw_path(sw_session *s, uint64_t nodeid, char *buf, size_t size)
{
	struct node *n;
	int r;

	lock(s);
	n = node_get(s, nodeid);
	r = n ? node_path(s, n, buf, size) : -ESTALE;
	unlock(s);
	return r;
}

int sw_parent(sw_session *s, uint64_t nodeid, uint64_t *parent, char *name, size_t size)
{
	struct node *n;
	int r = -ESTALE;

	lock(s);
	n = node_get(s, nodeid);
	if (n && n->links && n->links->len < size) {
		*parent = n->links->parent->id;
		memcpy(name, n->links->name, n->links->len + 1u);
		r = n->links->len;
	}
	unlock(s);
	return r;
}

uint64_t sw_node_of(sw_session *s, uint64_t dev, uint64_t ino)
{
	struct node *n;
	uint64_t id;

	lock(s);
	n = node_by_key(s, dev, ino);
	id = n ? n->id : 0;
	unlock(s);
	return id;
}

void sw_unlinked(sw_session *s, uint64_t parent, const char *name)
{
	struct node *p;

	lock(s);
	p = node_get(s, parent);
	if (p)
		link_drop(s, p, name, strlen(name));
	unlock(s);
}

void sw_renamed(sw_session *s, uint64_t p1, const char *n1, uint64_t p2, const char *n2, int exchange)
{
	struct node *from, *to, *a = NULL, *b = NULL;
	struct link *l;

	lock(s);
	from = node_get(s, p1);
	to = node_get(s, p2);
	if (from && to) {
		from->refs++;
		to->refs++;
		if ((l = link_find(s, from, n1, strlen(n1))))
			a = l->node;
		if ((l = link_find(s, to, n2, strlen(n2))))
			b = l->node;
		if (a)
			a->refs++;
		if (b)
			b->refs++;
		if (a != b || !a) { /* two names of one file: rename(2) does nothing */
			link_drop(s, from, n1, strlen(n1));
			link_drop(s, to, n2, strlen(n2));
			if (a)
				link_add(s, a, to, n2, strlen(n2));
			if (b && exchange)
				link_add(s, b, from, n1, strlen(n1));
			if (b && exchange && b->used->orphan_fd >= 0) { /* it lost no name after all */
				close_later(s, b->used->orphan_fd);
				b->used->orphan_fd = -1;
			}
		}
		if (a)
			node_unref(s, a);
		if (b)
			node_unref(s, b);
		node_unref(s, from);
		node_unref(s, to);
	}
	unlock(s);
}
