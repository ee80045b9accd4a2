/* remote.c: a source that C cannot ask (a filer, an object store): Python says what it has, the table keeps it.
 *
 * With `local` 0 no hot operation touches the source: LOOKUP, GETATTR and OPEN are answered from the table as long as
 * its attributes are fresh, and passed on when they are not. So it is enough to enter attributes here instead of
 * asking statx; what they are good for (identity, generation, rules) is the table's as ever. */
#include "internal.h"

#include <stdlib.h>

static struct statx_timestamp timestamp(int64_t ns)
{
	int64_t f = ns % 1000000000;

	if (f < 0)
		f += 1000000000;
	return (struct statx_timestamp){.tv_sec = (ns - f) / 1000000000, .tv_nsec = (uint32_t)f};
}

struct statx attrs_statx(const sw_session *s, const struct sw_attrs *a)
{
	return (struct statx){
		.stx_mask = STATX_BASIC_STATS | (a->btime_ns ? STATX_BTIME : 0),
		.stx_mode = (uint16_t)a->mode,
		.stx_nlink = a->nlink,
		.stx_uid = a->uid,
		.stx_gid = a->gid,
		.stx_ino = a->ino,
		.stx_size = a->size,
		.stx_blocks = a->size / 512 + (a->size % 512 != 0),
		.stx_blksize = a->blksize,
		.stx_attributes = a->bare ? SW_STATX_BARE : 0,
		.stx_rdev_major = a->rdev >> 8,
		.stx_rdev_minor = a->rdev & 0xff,
		.stx_dev_major = (uint32_t)(s->root_dev >> 32),
		.stx_dev_minor = (uint32_t)s->root_dev,
		.stx_atime = timestamp(a->mtime_ns),
		.stx_mtime = timestamp(a->mtime_ns),
		.stx_ctime = timestamp(a->ctime_ns),
		.stx_btime = timestamp(a->btime_ns),
	};
}

uint64_t sw_now(void) { return now_ns(CLOCK_MONOTONIC_COARSE); }

int sw_enter(sw_session *s, uint64_t parent, const char *name, const struct sw_attrs *attrs, uint64_t asked, int ref,
	     struct sw_entry *out)
{
	struct statx st = attrs_statx(s, attrs);
	int r;

	lock(s);
	r = node_enter(s, &st, asked, parent, name, ref, out);
	unlock(s);
	return r;
}

void sw_enter_several(sw_session *s, uint64_t parent, const char *const *names, const struct sw_attrs *attrs,
		      const uint64_t *asked, uint32_t n, struct sw_entry *out, int *results)
{
	lock(s);
	for (uint32_t i = 0; i < n; i++) {
		struct statx st = attrs_statx(s, &attrs[i]);

		results[i] = node_enter(s, &st, asked[i], parent, names[i], 0, &out[i]);
	}
	unlock(s);
}

int sw_refresh(sw_session *s, uint64_t nodeid, const struct sw_attrs *attrs, uint64_t asked, struct sw_entry *out)
{
	struct statx st = attrs_statx(s, attrs);
	struct node *n;
	int r = -ESTALE;

	lock(s);
	n = node_get(s, nodeid);
	if (n && (n == s->root || (n->ino == st.stx_ino && node_same(n, &st)))) {
		node_attr(s, n, &st, asked);
		node_entry(s, n, out);
		n->kernel_until = n->attr_at + out->valid_ns;
		r = 0;
	} else if (n)
		n->attr_at = n->kernel_until = 0;
	unlock(s);
	return r;
}

/* As after a write: what was asked for before now is not kept for others. */
static void expire(struct node *n)
{
	n->attr_at = n->kernel_until = 0;
	n->pages = n->bare = 0;
	n->written_at = now_ns(CLOCK_MONOTONIC_COARSE);
}

int sw_renew(sw_session *s, uint64_t nodeid, const struct sw_attrs *was, const struct sw_attrs *attrs)
{
	struct statx old = attrs_statx(s, was), st = attrs_statx(s, attrs);
	struct node *n;
	int r = -ESTALE;

	lock(s);
	n = node_get(s, nodeid);
	if (n && n != s->root && n->in_key && n->ino == old.stx_ino && node_same(n, &old)) {
		node_renew(s, n, &st);
		expire(n);
		r = 0;
	}
	unlock(s);
	return r;
}

void sw_relist(sw_session *s, uint64_t nodeid)
{
	struct node *n;

	lock(s);
	if ((n = node_get(s, nodeid)))
		n->pages = 0;
	unlock(s);
}

void sw_expire(sw_session *s, uint64_t nodeid)
{
	struct node *n;

	lock(s);
	if (nodeid && (n = node_get(s, nodeid)))
		expire(n);
	for (uint64_t i = 0; !nodeid && i < s->nbuckets; i++)
		for (n = s->by_id[i]; n; n = n->hid)
			expire(n);
	unlock(s);
}

uint64_t sw_child(sw_session *s, uint64_t parent, const char *name)
{
	struct node *p;
	struct link *l;
	uint64_t id;

	lock(s);
	p = node_get(s, parent);
	l = p ? link_find(s, p, name, strlen(name)) : NULL;
	id = l ? l->node->id : 0;
	unlock(s);
	return id;
}

void sw_told(sw_session *s, int told, uint64_t check_ns)
{
	lock(s);
	s->told = told;
	s->config.check_ns = check_ns;
	unlock(s);
}
