/* pages.c: READDIR and READDIRPLUS of directories of a source that Python asks. Python opens them, asks for a page of
 * entries and gives it here; what the kernel asks for is answered from it, place after place, and Python is asked again
 * where it ends. The place of an entry is its number in the directory as its reader finds it.
 *
 * What a page says holds as long as the source has told of no change since it was asked for (sw_dir_changed). Who tells
 * of one counts it first and then looks into the table, while here the count is looked at and the entries are entered
 * under one lock: so either nothing is answered from the page, or the node that changed is found. */
#include "internal.h"

#include <stdlib.h>

#define FRESH_MARGIN_NS 1000000000ull /* as in dirs.c */

struct page {
	sw_listing *listing;
	uint64_t start, asked, changes;
	int more;
};

struct paged {
	struct paged *next;
	uint64_t fh, nodeid;
	struct page pages[2];          /* the newer one first: a reader's buffer may end before the entries of an answer */
};

/* Under lock. */
static struct paged **paged_at(sw_session *s, uint64_t fh)
{
	struct paged **p = &s->paged[fh % SW_PAGED];

	while (*p && (*p)->fh != fh)
		p = &(*p)->next;
	return p;
}

static void paged_free(struct paged *d)
{
	for (int i = 0; i < 2; i++)
		sw_listing_free(d->pages[i].listing);
	free(d);
}

int sw_dir_give(sw_session *s, uint64_t fh, uint64_t nodeid, uint64_t start, sw_listing *l, int more, uint64_t asked,
		uint64_t changes)
{
	struct paged *d, **at;
	sw_listing *old = NULL;
	int r = 0;

	lock(s);
	at = paged_at(s, fh);
	d = *at;
	if (!d && (d = calloc(1, sizeof *d))) {
		d->fh = fh;
		d->nodeid = nodeid;
		*at = d;
	}
	if (d) {
		atomic_fetch_add(&l->refs, 1);
		if (d->pages[0].listing && d->pages[0].start == start)
			old = d->pages[0].listing; /* again, as of now */
		else {
			old = d->pages[1].listing;
			d->pages[1] = d->pages[0];
		}
		d->pages[0] = (struct page){l, start, asked, changes, more};
	} else
		r = -ENOMEM;
	unlock(s);
	sw_listing_free(old);
	return r;
}

void sw_dir_drop(sw_session *s, uint64_t fh)
{
	struct paged *d, **at;

	lock(s);
	at = paged_at(s, fh);
	d = *at;
	if (d)
		*at = d->next;
	unlock(s);
	if (d)
		paged_free(d);
}

void sw_dir_changed(sw_session *s, uint64_t changes)
{
	lock(s);
	if (s->changes < changes)
		s->changes = changes;
	unlock(s);
}

void pages_free(sw_session *s)
{
	for (int i = 0; i < SW_PAGED; i++)
		while (s->paged[i]) {
			struct paged *d = s->paged[i];

			s->paged[i] = d->next;
			paged_free(d);
		}
}

/* Under lock. The entry's attributes and a reference, unless the kernel holds them still, or the file has others by
 * now, or who writes it has: zeros. 0, or -errno. */
static int entry_of(sw_session *s, struct node *parent, const struct page *p, const struct sw_listed *e, uint64_t now,
		    struct fuse_entry_out *out)
{
	const char *name = p->listing->text + e->name;
	struct link *l = link_find(s, parent, name, e->name_len);
	struct statx st;
	struct node *n;

	memset(out, 0, sizeof *out);
	if (l && (l->node->used->writers || l->node->written_at >= p->asked ||
		  (l->node->nlookup && l->node->ino == e->a.ino && l->node->kernel_until > now + FRESH_MARGIN_NS)))
		return 0;
	st = attrs_statx(s, &e->a);
	n = node_intern(s, &st, p->asked, parent, name, e->name_len);
	if (!n)
		return -ENOMEM;
	fill_entry(s, n, out);
	return 0;
}

/* Fills `out` from the page that has the place `offset`: bytes, 0 at the end of the directory, or -ENODATA: Python is
 * to be asked. */
static ssize_t answer(sw_session *s, struct fuse_in_header *h, const struct fuse_read_in *r, size_t size, char *out, int plus)
{
	size_t used = 0, head = plus ? sizeof(struct fuse_entry_out) : 0;
	uint64_t now = now_ns(CLOCK_MONOTONIC_COARSE), at = r->offset;
	const struct page *p = NULL;
	struct paged *d = *paged_at(s, r->fh);
	struct node *parent;

	for (int i = 0; d && i < 2; i++)
		if (d->pages[i].listing && at >= d->pages[i].start && at - d->pages[i].start < d->pages[i].listing->count)
			p = &d->pages[i];
	if (d && !p && d->pages[0].listing && !d->pages[0].more && d->pages[0].changes == s->changes &&
	    at == d->pages[0].start + d->pages[0].listing->count)
		return 0;
	if (!p || p->changes != s->changes || d->nodeid != h->nodeid)
		return -ENODATA;
	parent = node_get(s, h->nodeid);
	if (!parent)
		return -ENODATA;
	parent->refs++; /* not to go with the last of its names */
	for (; at - p->start < p->listing->count; at++) {
		struct sw_listed e;
		size_t need;
		struct fuse_dirent *f = (struct fuse_dirent *)(out + used + head);

		listing_entry(p->listing, (uint32_t)(at - p->start), &e);
		need = head + FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + e.name_len);
		if (used + need > size)
			break;
		if (plus && entry_of(s, parent, p, &e, now, (struct fuse_entry_out *)(out + used)) < 0)
			break;
		f->ino = e.a.ino;
		f->off = at + 1;
		f->namelen = e.name_len;
		f->type = (e.a.mode & S_IFMT) >> 12;
		memcpy(f->name, p->listing->text + e.name, e.name_len);
		memset(f->name + e.name_len, 0, need - head - FUSE_NAME_OFFSET - e.name_len);
		used += need;
	}
	node_unref(s, parent);
	return used ? (ssize_t)used : -ENODATA;
}

/* What changed between the look at the count and the answer may have been told to the kernel before that had it. */
static void look_again(sw_session *s, const char *out, size_t used, uint64_t changes)
{
	int changed;

	lock(s);
	changed = s->changes != changes;
	unlock(s);
	for (size_t at = 0; changed && at < used;) {
		const struct fuse_entry_out *e = (const struct fuse_entry_out *)(out + at);
		const struct fuse_dirent *f = (const struct fuse_dirent *)(e + 1);

		if (e->nodeid)
			sw_notify_inode(s, e->nodeid, -1, 0);
		at += sizeof *e + FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + f->namelen);
	}
}

int pages_request(sw_session *s, struct fuse_in_header *h, struct fuse_read_in *r, char *out, size_t outsize)
{
	int plus = h->opcode == FUSE_READDIRPLUS;
	uint64_t changes;
	ssize_t n;

	lock(s);
	changes = s->changes;
	n = answer(s, h, r, r->size < outsize ? r->size : outsize, out, plus);
	unlock(s);
	if (n < 0)
		return 0;
	if (!dir_reply(s, h->unique, 0, out, (size_t)n, plus) && plus)
		look_again(s, out, (size_t)n, changes);
	return 1;
}
