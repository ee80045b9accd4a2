/* books.h: what is entered for each read, miss and fault that the kernel tells. The programs (btf, tracepoint, function)
 * only fetch the arguments, each in its own way, and call these. Meaning of all fields: swmld.h. */
#include "maps.h"

#define BATCH 8 /* pages; a read of more may come in pieces: a folio batch holds 15 (31 since kernel 6.10) */
#define ACTIVE_NS 1000000000ull /* a thread that read the mount within a second is reading it */
#define MISSED 1 /* swp_thread.missed: pages are not in the page cache */
#define TORN 2   /* it waited for a page: what was there before comes as a piece of its own */
#define AHEAD 4  /* it met the page where readahead goes on, which is the last one of its piece */
#define MAPPED 1 /* swp_thread.visit: see on_map */
#define FAULTED 2
#define AMONG 3   /* faulted in a window that was told as mapped */
#define WAITED 2 /* swp_thread.fault: it slept, and nothing was read ahead */
#define READS_AHEAD 4 /* swp_cursor.missed: faults were seen to */
#define KEPT (READS_AHEAD | SWP_ESTIMATED) /* of the stream, not of one read */
#define AROUND 16     /* pages of a fault's window: fault_around_bytes, mm/memory.c */
#define UNINTERRUPTIBLE 2 /* TASK_UNINTERRUPTIBLE, include/linux/sched.h */

/* What was noted of a read before reads were looked away from is void: its end was not seen. */
static __always_inline void renew(struct swp_thread *t, struct swp_config *g)
{
	if (t->slice != g->slice) {
		t->slice = g->slice;
		t->missed = 0;
	}
}

static __always_inline struct swp_thread *thread_of(u32 tid, struct swp_config *g)
{
	struct swp_thread *t = threads.lookup(&tid), fresh = {.slice = g->slice};

	if (t) {
		renew(t, g);
		return t;
	}
	threads.insert(&tid, &fresh);
	return threads.lookup(&tid);
}

static __always_inline int is_of(struct swp_thread *t, struct swp_key *k)
{
	return t->stream.ino == k->ino && t->stream.dev == k->dev;
}

/* What came before the read under way is told of, in thread and cursor: MISSED or TORN. */
static __always_inline void note(struct swp_thread *t, struct swp_key *k, struct swp_cursor *c, u32 what)
{
	struct swp_cursor *old;

	if (!is_of(t, k)) {
		old = t->missed ? find(&t->stream) : NULL;
		if (old && old->pending)
			__sync_fetch_and_add(&old->pending, -1);
		t->stream = *k;
		t->asked = 0;
		t->missed = 0;
		t->narrow = 0;
	}
	if (c && !t->missed)
		__sync_fetch_and_add(&c->pending, 1);
	t->missed |= what;
}

/* A piece of a read that was counted before: it goes up to the same page. So may a new read that begins in the page
 * where the one before ended; pieces of a short read are therefore known by what tears it. */
static __always_inline int goes_on(struct swp_thread *t, struct swp_key *k, struct swp_cursor *c, u64 first, u64 asked,
				   u32 tid, u32 noted)
{
	int known = is_of(t, k) && t->asked == asked && first > t->start;

	if (c->tid == tid) { /* the last read of the stream is its own */
		if (c->asked != asked || first <= c->start)
			return 0;
		if (noted & (MISSED | TORN)) /* not so if its first page was the last one of the read before */
			return 1;
		known = known && t->start == c->start;
	}
	return known && (asked - t->start >= BATCH || (t->torn | noted) & (MISSED | TORN) || (t->torn && first > t->ahead));
}

/* Pages first..asked were read, all of them there by now. size: of the file in bytes, 0 where that is not known.
 *
 * Where reads come so often that looking at each costs too much, they are looked at for slices of the time (faults always):
 * swp_config.slice is another number in each, and a read counts for `weight`. The first one in a slice is not compared with
 * the one before it. If it is large it may be a later piece of one that was begun before, so it counts as nothing; the last
 * one in the slice counts in full instead, however much of it is seen. */
static __always_inline int on_read(u32 dev, u64 ino, u64 first, u64 asked, u64 size, u32 flags)
{
	u32 tid, noted = 0, missed, epoch, weight;
	u64 id, now;
	struct swp_config *g = ours(dev, ino, &id, &epoch);
	struct swp_key k = {.ino = ino, .dev = dev};
	struct swp_thread *t;
	struct swp_cursor *c;
	int event, paused;

	if (!g)
		return 0;
	k.pid = id >> 32;
	tid = (u32)id;
	now = coarse_ns(g);
	c = cursor_of(g, &k, epoch, now);
	if (!c)
		return 0;
	paused = !(flags & SWP_FAULT) && c->slice != (u16)g->slice;
	weight = flags & SWP_FAULT ? 1 : g->weight;
#ifdef SWP_ENTRY /* seen when it begins: in one piece, and what it misses comes after it */
	t = flags & SWP_FAULT ? NULL : thread_of(tid, g);
	if (t) {
		t->stream = k;
		t->fault = 1;
	}
#else
	if (paused)
		c->pending = 0; /* void, too */
	if (asked - first >= BATCH || c->pending || c->shared || !c->next || paused ||
	    (asked == c->asked && first > c->start)) {
		t = threads.lookup(&tid);
		if (t && t->slice != g->slice) {
			if (first && asked - first >= BATCH && weight > 1)
				weight = 0;
			renew(t, g);
		}
		if (t && t->missed && is_of(t, &k)) {
			noted = t->missed;
			t->missed = 0;
			/* The kernel does not tell of a piece that ends before a page which is on its way. */
			if (noted & (MISSED | AHEAD) && t->from < first && !(flags & SWP_FAULT))
				first = t->from;
			if (c->pending)
				__sync_fetch_and_add(&c->pending, -1);
		}
		if (t && !(flags & SWP_FAULT) && goes_on(t, &k, c, first, asked, tid, noted)) {
			if (noted & MISSED && !(c->missed & ~KEPT))
				__sync_fetch_and_add(&c->partial, weight);
			c->missed |= (noted & MISSED) << 1;
			t->torn |= noted;
			c->last_ns = now;
			return 0;
		}
		if (!t && (asked - first >= BATCH || c->shared))
			t = thread_of(tid, g);
		if (t) {
			note(t, &k, NULL, 0); /* what was told of another stream's read tears none of this one */
			t->start = first;
			t->asked = flags & SWP_FAULT ? 0 : asked;
			t->torn = noted;
			t->fault = 0;
		}
	}
#endif
	missed = noted & MISSED;
	c->missed = (c->missed & KEPT) | missed | (weight != 1 ? SWP_ESTIMATED : 0);
	if (missed)
		__sync_fetch_and_add(&c->cold, weight);
	if (flags & SWP_FAULT)
		__sync_fetch_and_add(&c->faults, 1);
	event = swp_enter_sample(c, first, asked, (size + 4095) >> 12, now, tid, weight, paused);
	if (paused)
		c->slice = g->slice;
	if (event)
		tell(&k, c, event, flags | (missed ? SWP_COLD : 0));
	return 0;
}

/* The page cache lacks pages from here on: the read, or the fault, waits for the disk or for us. */
static __always_inline int on_miss(u32 dev, u64 ino, u64 first, int fault_only)
{
	struct swp_key k = {.ino = ino, .dev = dev};
	u32 tid, epoch;
	u64 id;
	struct swp_config *g = ours(dev, ino, &id, &epoch);
	struct swp_thread *t;
	struct swp_cursor *c;

	if (!g)
		return 0;
	k.pid = id >> 32;
	tid = (u32)id;
	t = threads.lookup(&tid);
	if (t)
		renew(t, g);
	if (fault_only && !(t && t->fault)) /* readahead that a read asked for, seen as page_cache_sync_ra */
		return 0;
	c = known_cursor(g, &k, epoch);
	if (!c) /* now, so that this wait has books to go into */
		c = open_cursor(g, &k, epoch, coarse_ns(g));
	t = t ? t : thread_of(tid, g);
	if (!c || !t)
		return 0;
	if (t->fault) { /* entered when the fault began */
		if (t->fault != WAITED)
			__sync_fetch_and_add(&c->cold, 1);
		c->missed |= READS_AHEAD;
		t->fault = 0;
		return 0;
	}
	if (!is_of(t, &k) || !(t->missed & (MISSED | AHEAD)))
		t->from = first;
	note(t, &k, c, MISSED);
	return 0;
}

/* Readahead goes on at this page. */
static __always_inline int on_ahead(u32 dev, u64 ino, u64 page)
{
	struct swp_key k = {.ino = ino, .dev = dev};
	struct swp_thread *t;
	u32 epoch;
	u64 id;
	struct swp_config *g = ours(dev, ino, &id, &epoch);

	if (!g)
		return 0;
	k.pid = id >> 32;
	t = thread_of((u32)id, g);
	if (t) {
		struct swp_cursor *c = known_cursor(g, &k, epoch);

		if (c && t->fault) {
			c->missed |= READS_AHEAD;
			t->fault = 0; /* its page is there: what is read now is for later */
		}
		if (!is_of(t, &k) || !(t->missed & (MISSED | AHEAD)))
			t->from = page;
		note(t, &k, c, AHEAD);
		t->ahead = page;
	}
	return 0;
}

/* In a page fault: its miss, where nothing is read ahead that would tell it. */
static __always_inline void fault_waits(struct swp_thread *t, struct swp_cursor *c)
{
	if (c && t->fault == 1) {
		__sync_fetch_and_add(&c->cold, 1);
		t->fault = WAITED;
	}
}

static __always_inline int in_visit(struct swp_thread *t, struct swp_key *k, struct swp_cursor *c, u32 visit, u32 tid)
{
	return t->visit == visit && is_of(t, k) && c->tid == tid && c->start == t->start;
}

/* `first`: as it was entered; `from`: of the pages that were mapped. */
static __always_inline void begin_visit(struct swp_thread *t, struct swp_key *k, u32 visit, u64 from, u64 first, u64 last)
{
	note(t, k, NULL, 0);
	t->visit = visit;
	t->from = from;
	t->start = first;
	t->around = last;
	t->fault = visit != MAPPED;
}

/* The same number, of which the verifier knows nothing: it follows what comes after once, not once for each way that led
 * here. */
static __always_inline u64 unknown(struct swp_thread *t, u64 number)
{
	*(volatile u64 *)&t->room = number;
	return *(volatile u64 *)&t->room;
}

#ifdef SWP_FOLIOS
static __always_inline u64 folio_pages(u64 mapping, u64 page); /* the including program's way */

/* Since kernel 6.18 a fault maps the folios at both ends of its window in full, where they lie in the file, the mapping and
 * one table of pages (filemap_map_pages, finish_fault; the former none that ends with the file). Where the mapping lies is
 * not known here. Those of whole files of 2 MiB and more are aligned so that each folio lies in one table, and so are their
 * windows; others may be, see narrow. */
static __always_inline void widen(u64 mapping, struct swp_thread *t, u64 *first, u64 *last, u64 limit)
{
	u64 n = unknown(t, folio_pages(mapping, *first)), begin = *first & ~(n - 1), end = begin + n - 1;

	if (n < SWP_FOLIO && end < limit && t->narrow != (u32)begin + 1) {
		*first = begin;
		*last = end > *last ? end : *last;
	}
	if (end >= *last)
		return;
	n = unknown(t, folio_pages(mapping, *last));
	begin = *last & ~(n - 1);
	end = begin + n - 1;
	if (n < SWP_FOLIO && end < limit && t->narrow != (u32)begin + 1)
		*last = end;
}

/* A fault at `page` in what the one before is said to have mapped: that was its window alone, t->from to t->around. */
static __always_inline void narrow(u64 mapping, struct swp_thread *t, struct swp_cursor *c, u64 page)
{
	u64 first = t->from > c->start ? t->from : c->start, more = c->next - c->start - (t->around - first + 1);

	t->narrow = (u32)(page & ~(unknown(t, folio_pages(mapping, page)) - 1)) + 1;
	c->pages -= c->pages > more ? more : 0;
	c->low = c->low == c->start ? first : c->low;
	c->high = c->high == c->next - 1 ? t->around : c->high;
	c->start = t->start = first;
	c->asked = t->around;
	c->next = t->around + 1;
}

static __always_inline int was_said(struct swp_thread *t, struct swp_key *k, struct swp_cursor *c, u64 first, u64 last,
				    u32 tid)
{
	return t->visit && in_visit(t, k, c, t->visit, tid) && first >= c->start && last < c->next &&
	       (first < t->from || last > t->around) && t->around < c->next && t->around >= c->start;
}

/* Folios of 2 MiB are mapped by one entry of the table above, and that is told by no event (filemap_map_pmd): who looks into
 * page tables counts them. A stream that goes on behind them has left nothing out. */
static __always_inline void skip_untold(struct swp_cursor *c, u64 first)
{
	if (first > c->next && !((first | c->next) & (SWP_FOLIO - 1)))
		c->next = first;
}
#endif

/* The pages around a fault that are there are mapped. One touch of a page is told as this, if there are any, as on_fault,
 * if its own is not among them, and as this again, when that one has come. `mapping`: the kernel's, 0 where it is not
 * known. */
static __always_inline int on_map(u32 dev, u64 ino, u64 first, u64 last, u64 size, u64 mapping)
{
	struct swp_key k = {.ino = ino, .dev = dev};
	u32 tid, read_ahead, epoch;
	u64 pages = (size + 4095) >> 12, from = first, to = last, id;
	struct swp_config *g = ours(dev, ino, &id, &epoch);
	struct swp_thread *t;
	struct swp_cursor *c;

	if (!g)
		return 0;
	k.pid = id >> 32;
	tid = (u32)id;
	t = thread_of(tid, g);
	if (!t)
		return 0;
	c = known_cursor(g, &k, epoch);
#ifdef SWP_FOLIOS
	if (c && was_said(t, &k, c, first, last, tid))
		narrow(mapping, t, c, first);
	if (pages && (pages < SWP_FOLIO || !(first & (AROUND - 1))))
		widen(mapping, t, &first, &last, pages - 1);
	if (c)
		skip_untold(c, first);
#endif
	if (!c || t->visit < FAULTED || !in_visit(t, &k, c, t->visit, tid) || from > t->from || to < t->from) {
		/* A mapping's first fault maps pages from its beginning on, the next ones what lies around them in the table of
		 * pages: that may begin among the first one's, or end there. */
		if (c && c->start <= first && first < c->next && c->next <= last)
			first = c->next;
		else if (c && first < c->start && c->start <= last && last < c->next)
			last = c->start - 1;
		first = unknown(t, first);
		last = unknown(t, last);
		on_read(dev, ino, first, last, size, SWP_FAULT);
		begin_visit(t, &k, MAPPED, from, first, to);
		return 0;
	}
	/* With MADV_RANDOM nothing is read ahead: one page came, if ever so fast. */
	read_ahead = c->missed & READS_AHEAD;
	if (!read_ahead)
		fault_waits(t, c);
	if (t->visit == AMONG) /* what lies before it was counted then */
		first = t->from;
	t->visit = t->fault = 0;
	c->last_ns = coarse_ns(g); /* it has waited since */
	last = pages && last >= pages ? pages - 1 : last;
	if (!read_ahead || last < first)
		return 0;
	first = c->start < first ? c->start : first;
	last = c->next > last + 1 ? c->next - 1 : last;
	SWP_ADD(c, pages, last + 1 - first - (c->next - c->start)); /* some have been entered */
	c->low = first < c->low ? first : c->low;
	c->high = last > c->high ? last : c->high;
	c->asked = last;
	c->next = last + 1;
	return 0;
}

/* A page fault that the page cache's neighbours could not answer; a miss may follow. */
static __always_inline int on_fault(u32 dev, u64 ino, u64 page, u64 size, u64 mapping)
{
	struct swp_key k = {.ino = ino, .dev = dev};
	u32 tid, epoch;
	u64 id, first = page, last = page;
	struct swp_config *g = ours(dev, ino, &id, &epoch);
	struct swp_thread *t;
	struct swp_cursor *c;

	if (!g)
		return 0;
	k.pid = id >> 32;
	tid = (u32)id;
	t = thread_of(tid, g);
	if (!t)
		return 0;
	c = known_cursor(g, &k, epoch);
	/* It is asked for again once its page has come: so it is told where a page is about to be written. */
	if (c && t->fault != 1 && t->visit >= FAULTED && in_visit(t, &k, c, t->visit, tid) && t->from == page) {
		t->visit = t->fault = 0;
		c->last_ns = coarse_ns(g);
		return 0;
	}
	if (c && in_visit(t, &k, c, MAPPED, tid) && t->from <= page && page <= t->around) {
		begin_visit(t, &k, AMONG, page, page, page);
		c->start = page; /* its neighbours had been read before */
		c->pages -= c->pages >= c->next - page ? c->next - 1 - page : 0;
		c->asked = page;
		c->next = page + 1;
		return 0;
	}
#ifdef SWP_FOLIOS
	if (c && was_said(t, &k, c, page, page, tid))
		narrow(mapping, t, c, page);
	widen(mapping, t, &first, &last, (size + 4095) >> 12);
	if (c)
		skip_untold(c, first);
#endif
	first = unknown(t, first);
	last = unknown(t, last);
	on_read(dev, ino, first, last, size, SWP_FAULT);
	begin_visit(t, &k, FAULTED, page, first, page);
	return 0;
}
