/* stream.h: the books of one stream. One read is compared with the one before it, entered, and the event that it is
 * worth is returned. Pure, and the same code everywhere: the BPF programs run it in the kernel, native/view.c for reads
 * that only FUSE sees, the tests through cffi. */
#ifndef SWMLD_STREAM_H
#define SWMLD_STREAM_H
#include "swmld.h"

#define SWP_INLINE static inline __attribute__((always_inline))

/* A file is begun anew: at page 0, after its end was read. Of a file of one page, and of one whose size is not known,
 * small reads of one pass look alike: those count again only when the coarse clock has ticked in between. */
SWP_INLINE int swp_passes(const struct swp_cursor *c, unsigned long long first, unsigned long long now)
{
	if (first || c->next <= c->high)
		return 0;
	if (c->size > 1)
		return c->next >= c->size;
	return now != c->last_ns;
}

SWP_INLINE unsigned short swp_relation(const struct swp_cursor *c, unsigned long long first, unsigned long long asked,
				       unsigned long long last)
{
	if (first == c->start && asked == c->asked)
		return SWP_NEW; /* the same pages: says nothing */
	/* A read that begins inside the last page begins there where the one before ended, for all we see. */
	if (first == c->next || (first + 1 == c->next && asked >= c->asked))
		return SWP_SEQUENTIAL;
	if (last + 1 == c->start || (last == c->start && first < c->start))
		return SWP_REVERSE;
	if ((long long)(first - c->start) == c->stride && c->stride)
		return SWP_STRIDED;
	return SWP_RANDOM;
}

/* Relations in a row that make a kind. A stride needs two equal distances, which is one relation and three reads; what
 * has been random must fit longer, since among random reads of a small file neighbours meet by chance. Two jumps do not
 * make a stream random that had a kind: the third may show them to be a stride. */
SWP_INLINE unsigned int swp_needed(unsigned short kind, unsigned short guess)
{
	if (kind == SWP_RANDOM && guess != SWP_RANDOM)
		return 4;
	if (guess == SWP_RANDOM && kind != SWP_NEW)
		return 3;
	return guess == SWP_STRIDED ? 1 : 2;
}

SWP_INLINE int swp_judge(struct swp_cursor *c, unsigned short relation)
{
	int again = relation == c->guess;

	c->run = again ? c->run + 1 : 1;
	c->guess = relation;
	if (relation == c->kind) /* strided: from now on with another stride */
		return relation == SWP_STRIDED && !again ? SWP_EV_KIND : 0;
	if (c->run >= swp_needed(c->kind, relation)) {
		c->kind = relation;
		return SWP_EV_KIND;
	}
	return relation == SWP_RANDOM && c->kind && c->run == 1 ? SWP_EV_BREAK : 0;
}

SWP_INLINE void swp_begin(struct swp_cursor *c, unsigned long long node, unsigned long long now)
{
	c->node = node;
	c->first_ns = now;
	c->low = ~0ull;
	for (int i = 0; i < SWP_EARLY; i++)
		c->early[i] = ~0u;
}

/* Threads that read one file at once write one cursor. An atomic addition costs 10 ns and there are two a read, so they
 * are made only once a second thread was seen; in that very moment a count may be lost. */
#define SWP_ADD(c, field, n) do { if ((c)->shared) __sync_fetch_and_add(&(c)->field, n); else (c)->field += (n); } while (0)

/* A read after a pause in which reads were not looked at: how it lies to the one before says nothing, so it counts as what
 * the stream is. */
SWP_INLINE void swp_resume(struct swp_cursor *c, unsigned int weight)
{
	if (c->kind == SWP_SEQUENTIAL)
		SWP_ADD(c, sequential, weight);
	else if (c->kind == SWP_REVERSE)
		SWP_ADD(c, reverse, weight);
	else if (c->kind == SWP_STRIDED)
		SWP_ADD(c, strided, weight);
	else if (c->kind == SWP_RANDOM)
		SWP_ADD(c, random, weight);
	else
		SWP_ADD(c, same, weight);
}

/* Enters the read of pages first..asked of a file of `size` pages (0: not known; then asked counts in full). The first
 * read of a cursor is entered after swp_begin. `weight`: reads that it stands for; 0 where it was counted before. A first
 * read and a pass stand for themselves: there may be no others like them. `paused`: reads before it were not looked at.
 * Returns an event kind or 0. */
SWP_INLINE int swp_enter_sample(struct swp_cursor *c, unsigned long long first, unsigned long long asked,
				unsigned long long size, unsigned long long now, unsigned int tid, unsigned int weight,
				int paused)
{
	unsigned long long last = size && asked >= size ? size - 1 : asked, from = first;
	int event = 0;

	if (last < first)
		last = first; /* cut off in the meantime */
	c->size = size;
	if (!c->run && !c->next)
		event = SWP_EV_FIRST;
	else if (swp_passes(c, first, now)) {
		SWP_ADD(c, passes, 1);
		if (weight > 1)
			SWP_ADD(c, same, weight - 1);
		event = SWP_EV_PASS;
	} else if (paused) {
		swp_resume(c, weight);
	} else {
		unsigned short relation = swp_relation(c, first, asked, last);

		if (relation == SWP_SEQUENTIAL) {
			SWP_ADD(c, sequential, weight);
			from = c->next <= last ? c->next : last + 1;
		} else if (relation == SWP_REVERSE)
			SWP_ADD(c, reverse, weight);
		else if (relation == SWP_STRIDED)
			SWP_ADD(c, strided, weight);
		else if (relation == SWP_RANDOM)
			SWP_ADD(c, random, weight);
		else {
			SWP_ADD(c, same, weight);
			from = last + 1;
		}
		if (relation)
			event = swp_judge(c, relation);
		if (event == SWP_EV_BREAK && now == c->event_ns)
			event = 0; /* one a tick is enough */
	}
	if (c->early_reads < SWP_EARLY) {
		c->early[c->early_reads & (SWP_EARLY - 1)] = first > 0xfffffffeull ? ~0u : (unsigned int)first;
		c->early_reads++;
	}
	if (event != SWP_EV_FIRST && event != SWP_EV_PASS && first != c->start && !paused)
		c->stride = (long long)(first - c->start);
	c->start = first;
	c->asked = asked;
	c->next = last + 1;
	c->low = first < c->low ? first : c->low;
	c->high = last > c->high ? last : c->high;
	if (from <= last)
		SWP_ADD(c, pages, (last + 1 - from) * (event == SWP_EV_FIRST ? 1 : weight));
	c->last_ns = now;
	if (c->tid != tid) {
		c->shared |= c->tid != 0;
		c->tid = tid;
	}
	if (!event && c->pages - c->event_pages >= SWP_WINDOW && now != c->event_ns)
		event = SWP_EV_WINDOW;
	if (event) {
		c->event_ns = now;
		c->event_pages = c->pages;
	}
	return event;
}

SWP_INLINE int swp_enter(struct swp_cursor *c, unsigned long long first, unsigned long long asked,
			 unsigned long long size, unsigned long long now, unsigned int tid)
{
	return swp_enter_sample(c, first, asked, size, now, tid, 1, 0);
}

/* Read calls and faults. */
SWP_INLINE unsigned long long swp_reads(const struct swp_cursor *c)
{
	return !!c->next + c->passes + c->sequential + c->reverse + c->strided + c->random + c->same;
}

/* A stream of one read, which its event told in full: there is no more to know of it. It went up to the end: `next` is at least
 * `size`, which is known. Added up instead of asked one by one: BPF's verifier follows each branch. */
SWP_INLINE int swp_is_told(const struct swp_cursor *c)
{
	unsigned long long more = c->passes | c->sequential | c->strided | c->reverse | c->random | c->same;

	return !(more | c->written | c->wait_ns | c->cold | (c->size - 1) >> 63 | (c->next - c->size) >> 63);
}

SWP_INLINE void swp_event_of(struct swp_event *e, const struct swp_key *k, const struct swp_cursor *c, int kind,
			     unsigned int flags)
{
	e->ns = c->last_ns;
	e->ino = k->ino;
	e->node = c->node;
	e->first = c->start;
	e->last = c->next - 1;
	e->size = c->size;
	e->stride = c->stride;
	e->dev = k->dev;
	e->pid = k->pid;
	e->kind = (unsigned short)kind;
	e->flags = (unsigned short)(flags | (c->size && !c->start && c->next >= c->size ? SWP_WHOLE : 0));
	e->shape = c->kind;
}

/* Does a write at this time begin a burst? Writes are entered in no order of reads: `written_ns` is theirs alone. */
SWP_INLINE int swp_begins_burst(const struct swp_cursor *c, unsigned long long now)
{
	return !c->written_ns || now >= c->written_ns + SWP_PAUSE_NS;
}

/* Atomic: a write costs so much that 10 ns do not count, and bytes must not be lost between two threads. */
SWP_INLINE void swp_wrote(struct swp_cursor *c, unsigned long long bytes, unsigned long long now)
{
	if (swp_begins_burst(c, now))
		__sync_fetch_and_add(&c->bursts, 1);
	__sync_fetch_and_add(&c->written, bytes);
	c->written_ns = now;
}

SWP_INLINE unsigned int swp_bucket(unsigned long long ns)
{
	unsigned long long us = ns / 1000;
	unsigned int b = 0;

	/* Halving by steps: BPF has no count of leading zeros, and no loop that its verifier must unroll. */
	if (us >> 16) { b += 16; us >>= 16; }
	if (us >> 8) { b += 8; us >>= 8; }
	if (us >> 4) { b += 4; us >>= 4; }
	if (us >> 2) { b += 2; us >>= 2; }
	b += us >> 1 ? 1 : 0;
	return b < SWP_BUCKETS ? b : SWP_BUCKETS - 1;
}

#endif
