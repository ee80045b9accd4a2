/* view.c: reads as FUSE sees them: events, counters by stream and tier, and what is forgotten when there are too many. */
#include "test_kit.h"

#include "../bpf/stream.h"

#include <poll.h>

#define STREAMS 8192 /* as in view.c */
#define RING 8192

static struct kit *k;
static sw_session *s;
static struct swp_event ev[2 * RING];
static struct sw_view_row rows[2 * STREAMS];
static uint64_t lost;

static void begin(int level)
{
	k = kit_new();
	s = k->s;
	sw_view(s, level);
}

static void end(void)
{
	kit_free(k);
	kit_defaults();
}

static void reads(uint64_t node, uint32_t pid, uint64_t page, uint32_t pages, uint32_t flags, int cached)
{
	struct fuse_in_header h = {.opcode = FUSE_READ, .nodeid = node, .pid = pid};
	struct fuse_read_in in = {.offset = page << 12, .size = pages << 12, .flags = flags};

	view_read(s, &h, &in, cached);
}

static int told(void)
{
	struct pollfd p = {.fd = sw_view_fd(s), .events = POLLIN};

	return poll(&p, 1, 0);
}

static int events(int max)
{
	return sw_view_events(s, ev, max, &lost);
}

/* A file of the source, so that its size is known. */
static uint64_t file(const char *name, off_t size)
{
	struct sw_entry e;
	int fd;

	kit_file(k->root, name, "");
	fd = openat(k->root, name, O_RDWR | O_CLOEXEC);
	CHECK(!ftruncate(fd, size));
	close(fd);
	EQUAL(sw_lookup(s, SW_ROOT, name, 1, &e), 0);
	return e.nodeid;
}

/* ---- what is told ---- */

static void switched_off(void)
{
	begin(0);
	reads(7, 100, 0, 1, 0, 1);
	EQUAL(events(10), 0);
	EQUAL(sw_view_rows(s, rows, 10), 0);
	EQUAL(told(), 0);
	end();
}

static void first_and_whole(void)
{
	uint64_t node;

	begin(2);
	node = file("small", 10000);
	reads(node, 100, 0, 8, 0, 1);
	EQUAL(told(), 1);
	EQUAL(events(10), 1);
	EQUAL(told(), 0);
	EQUAL(ev[0].kind, SWP_EV_FIRST);
	EQUAL(ev[0].node, node);
	EQUAL(ev[0].ino, node);
	EQUAL(ev[0].pid, 100);
	EQUAL(ev[0].first, 0);
	EQUAL(ev[0].last, 2); /* cut at the end of the file */
	EQUAL(ev[0].size, 3);
	EQUAL(ev[0].flags, SWP_WHOLE);
	reads(node, 100, 0, 8, 0, 1);
	EQUAL(events(10), 1);
	EQUAL(ev[0].kind, SWP_EV_PASS);
	EQUAL(lost, 0);
	end();
}

static void in_order(void)
{
	begin(2);
	for (int i = 0; i < 5; i++)
		reads(9, 100, (uint64_t)i, 1, 0, i & 1);
	reads(9, 101, 50, 1, 0, 1); /* another process: a stream of its own */
	EQUAL(events(10), 3);
	EQUAL(ev[0].kind, SWP_EV_FIRST);
	EQUAL(ev[1].kind, SWP_EV_KIND);
	EQUAL(ev[1].shape, SWP_SEQUENTIAL);
	CHECK(ev[2].kind == SWP_EV_FIRST && ev[2].pid == 101);
	EQUAL(sw_view_rows(s, rows, 10), 2);
	EQUAL(rows[0].key.pid, 100);
	EQUAL(swp_reads(&rows[0].cursor), 5);
	EQUAL(rows[0].cursor.pages, 5);
	EQUAL(rows[0].cursor.sequential, 4);
	EQUAL(rows[0].cursor.direct, 0);
	EQUAL(rows[0].disk_reads, 2);
	EQUAL(rows[0].disk_bytes, 2 * 4096);
	EQUAL(rows[0].source_reads, 3);
	EQUAL(rows[0].source_bytes, 3 * 4096);
	end();
}

/* With the probes at work: O_DIRECT alone is entered, the tiers are of all. */
static void beside_the_probes(void)
{
	begin(1);
	reads(9, 100, 0, 4, 0, 0);
	EQUAL(events(10), 0);
	EQUAL(sw_view_rows(s, rows, 10), 1);
	EQUAL(swp_reads(&rows[0].cursor), 0);
	EQUAL(rows[0].source_bytes, 4 * 4096);
	reads(9, 100, 8, 4, O_DIRECT, 1);
	EQUAL(events(10), 1);
	CHECK(ev[0].kind == SWP_EV_FIRST && ev[0].flags == SWP_DIRECT && ev[0].first == 8 && ev[0].last == 11);
	EQUAL(sw_view_rows(s, rows, 10), 1);
	EQUAL(swp_reads(&rows[0].cursor), 1);
	EQUAL(rows[0].cursor.direct, 1);
	EQUAL(rows[0].disk_bytes, 4 * 4096);
	end();
}

/* Told by who looked into the page tables: faults of 2 MiB each, beside the probes. */
static void mapped_at_once(void)
{
	uint64_t large;

	begin(1);
	large = file("large", 5 * SWP_FOLIO * 4096);
	sw_view_mapped(s, large, 100, SWP_FOLIO, 3);
	EQUAL(events(10), 2);
	CHECK(ev[0].kind == SWP_EV_FIRST && ev[0].flags == SWP_FAULT && ev[0].pid == 100);
	CHECK(ev[0].first == SWP_FOLIO && ev[0].last == 2 * SWP_FOLIO - 1 && ev[0].size == 5 * SWP_FOLIO);
	EQUAL(sw_view_rows(s, rows, 10), 1);
	CHECK(rows[0].cursor.faults == 3 && rows[0].cursor.reads == 3 && rows[0].cursor.sequential == 2);
	EQUAL(rows[0].cursor.pages, 3 * SWP_FOLIO);
	sw_view_mapped(s, large, 100, 0, 0);
	EQUAL(sw_view_rows(s, rows, 10), 1);
	EQUAL(rows[0].cursor.reads, 3);
	sw_view(s, 0);
	sw_view_mapped(s, large, 100, 0, 5);
	EQUAL(sw_view_rows(s, rows, 10), 0);
	end();
}

static void opened(void)
{
	struct fuse_in_header h = {.opcode = FUSE_OPEN, .pid = 100};
	uint64_t small, large;

	begin(1);
	small = file("small", SWP_FOLIO * 4096 - 4096);
	large = file("large", SWP_FOLIO * 4096);
	k->s->config.passthrough = 1;
	for (int level = 0; level < 3; level++) {
		sw_view(s, level);
		h.nodeid = small;
		view_open(s, &h);
		h.nodeid = large;
		view_open(s, &h);
		EQUAL(events(10), level == 1); /* with the probes at work */
		if (level == 1)
			CHECK(ev[0].kind == SWP_EV_OPEN && ev[0].node == large && ev[0].pid == 100);
	}
	sw_view(s, 1);
	k->s->config.passthrough = 0; /* nothing is mapped but by FUSE */
	view_open(s, &h);
	EQUAL(events(10), 0);
	end();
}

static void the_kernel_itself(void)
{
	begin(2);
	reads(9, 0, 0, 4, 0, 1);
	EQUAL(events(10), 0);
	EQUAL(sw_view_rows(s, rows, 10), 0);
	end();
}

static void closed(void)
{
	uint64_t small, large;

	begin(2);
	small = file("small", SWP_WINDOW * 4096 - 4096);
	large = file("large", SWP_WINDOW * 4096);
	lock(s);
	view_close(s, node_get(s, small));
	view_close(s, node_get(s, large));
	unlock(s);
	EQUAL(events(10), 1);
	CHECK(ev[0].kind == SWP_EV_CLOSE && ev[0].node == large && !ev[0].pid && ev[0].size == SWP_WINDOW);
	sw_view(s, 0);
	lock(s);
	view_close(s, node_get(s, large));
	unlock(s);
	EQUAL(events(10), 0);
	end();
}

/* ---- in parts, and too much ---- */

static void rows_once(void)
{
	begin(2);
	for (uint64_t i = 1; i <= 10; i++)
		reads(i, 100, 0, 1, 0, 1);
	EQUAL(sw_view_rows(s, rows, 4), 4); /* longest unreturned first */
	for (int i = 0; i < 4; i++)
		EQUAL(rows[i].key.ino, i + 1);
	reads(2, 100, 1, 1, 0, 1); /* again, to the end of the list */
	EQUAL(sw_view_rows(s, rows, 100), 7);
	EQUAL(rows[0].key.ino, 5);
	CHECK(rows[6].key.ino == 2 && swp_reads(&rows[6].cursor) == 2);
	EQUAL(sw_view_rows(s, rows, 100), 0);
	reads(3, 100, 1, 1, 0, 1);
	EQUAL(sw_view_rows(s, rows, 100), 1);
	EQUAL(events(4), 4);
	EQUAL(told(), 1); /* more are there */
	EQUAL(events(100), 6);
	EQUAL(told(), 0);
	end();
}

static void full_ring(void)
{
	begin(2);
	for (uint64_t i = 1; i <= RING + 5; i++) {
		reads(1, (uint32_t)(100 + i), 0, 1, 0, 1);
		EQUAL(sw_view_rows(s, rows, 10), 1); /* so that recycling costs nothing */
	}
	EQUAL(events(2 * RING), RING);
	EQUAL(lost, 5);
	EQUAL(ev[0].pid, 101);
	EQUAL(ev[RING - 1].pid, 100 + RING);
	reads(2, 50, 0, 1, 0, 1);
	EQUAL(told(), 1);
	EQUAL(events(10), 1);
	CHECK(ev[0].pid == 50 && lost == 5);
	end();
}

/* Beyond STREAMS the quietest goes: free of cost when its row was taken, else its books are lost, and that is counted. */
static void recycled(void)
{
	begin(2);
	for (uint64_t i = 1; i <= STREAMS; i++)
		reads(i, 100, 0, 1, 0, 1);
	EQUAL(sw_view_rows(s, rows, 2 * STREAMS), STREAMS);
	EQUAL(events(2 * RING), STREAMS);
	reads(1, 100, 1, 1, 0, 1); /* no longer the quietest */
	EQUAL(sw_view_rows(s, rows, 10), 1);
	for (uint64_t i = 1; i <= 3; i++)
		reads(STREAMS + i, 100, 0, 1, 0, 1);
	EQUAL(events(2 * RING), 3);
	EQUAL(lost, 0);
	EQUAL(sw_view_rows(s, rows, 10), 3);
	reads(2, 100, 1, 1, 0, 1); /* forgotten: begun anew */
	EQUAL(events(10), 1);
	EQUAL(ev[0].kind, SWP_EV_FIRST);
	EQUAL(sw_view_rows(s, rows, 10), 1);
	EQUAL(swp_reads(&rows[0].cursor), 1);
	reads(1, 100, 2, 1, 0, 1); /* remembered */
	EQUAL(sw_view_rows(s, rows, 10), 1);
	EQUAL(swp_reads(&rows[0].cursor), 3);
	end();

	begin(2);
	for (uint64_t i = 1; i <= STREAMS + 7; i++) {
		reads(i, 100, 0, 1, 0, 1);
		EQUAL(events(10), 1);
	}
	EQUAL(lost, 7);
	EQUAL(sw_view_rows(s, rows, 2 * STREAMS), STREAMS);
	EQUAL(rows[0].key.ino, 8);
	EQUAL(rows[STREAMS - 1].key.ino, STREAMS + 7);
	EQUAL(sw_view_rows(s, rows, 10), 0);
	end();
}

static void out_of_memory(void)
{
	begin(2);
	kit_alloc_left = 0;
	reads(1, 100, 0, 1, 0, 1);
	kit_alloc_left = -1;
	EQUAL(events(10), 0);
	reads(1, 100, 0, 1, 0, 1);
	EQUAL(events(10), 1);
	end();
}

int main(void)
{
	kit_defaults();
	switched_off();
	first_and_whole();
	in_order();
	beside_the_probes();
	mapped_at_once();
	opened();
	the_kernel_itself();
	closed();
	rows_once();
	full_ring();
	recycled();
	out_of_memory();
	return kit_done();
}
