/* bpf.c on real maps and a real ring, where this host allows them: what the kernel answers is not imitated. */
#include "test_kit.h"
#include "../bpf/stream.h"

#include <linux/bpf.h>
#include <sys/syscall.h>

#define ELEMENTS 1500
#define RING 4096 /* bytes: 51 events and their headers, so that 60 wrap around */

static int bpf(int cmd, union bpf_attr *a)
{
	return (int)syscall(SYS_bpf, cmd, a, sizeof *a);
}

static int map_with(uint32_t type, uint32_t key, uint32_t value, uint32_t max, uint32_t flags)
{
	union bpf_attr a;

	memset(&a, 0, sizeof a);
	a.map_type = type;
	a.key_size = key;
	a.value_size = value;
	a.max_entries = max;
	a.map_flags = flags;
	return bpf(BPF_MAP_CREATE, &a);
}

static int map(uint32_t type, uint32_t key, uint32_t value, uint32_t max)
{
	return map_with(type, key, value, max, 0);
}

static void elements(void)
{
	int fd = map(BPF_MAP_TYPE_HASH, 4, 8, 4);
	uint32_t key = 5;
	uint64_t value = 77, got = 0;

	EQUAL(sw_map_lookup(fd, &key, &got), -ENOENT);
	EQUAL(sw_map_update(fd, &key, &value), 0);
	EQUAL(sw_map_lookup(fd, &key, &got), 0);
	EQUAL(got, 77);
	EQUAL(sw_map_delete(fd, &key), 0);
	EQUAL(sw_map_delete(fd, &key), -ENOENT);
	EQUAL(sw_map_lookup(-1, &key, &got), -EBADF);
	close(fd);
}

/* Each element once, in batches of any size that holds a bucket. */
static void batches(int max)
{
	static uint32_t keys[ELEMENTS];
	static uint64_t values[ELEMENTS];
	static unsigned char seen[ELEMENTS];
	int fd = map(BPF_MAP_TYPE_HASH, 4, 8, 4 * ELEMENTS), done = 0, first = 1, n = 0;
	uint64_t token = 0;

	memset(seen, 0, sizeof seen);
	for (uint32_t i = 0; i < ELEMENTS; i++)
		EQUAL(sw_map_update(fd, &i, &(uint64_t){i * 3}), 0);
	while (!done) {
		int got = sw_map_batch(fd, &token, first, keys, values, max, &done);

		CHECK(got >= 0 && got <= max);
		for (int i = 0; i < got; i++) {
			CHECK(keys[i] < ELEMENTS && !seen[keys[i]]++);
			EQUAL(values[i], keys[i] * 3ull);
		}
		n += got;
		first = 0;
	}
	EQUAL(n, ELEMENTS);
	close(fd);
	EQUAL(sw_map_batch(-1, &token, 1, keys, values, max, &done), -EBADF);
}

#define BOOKS 4096

static void put(int fd, uint32_t place, const struct swp_row *row)
{
	EQUAL(sw_map_update(fd, &place, row), 0);
}

/* All that is told since, in pieces; by `node`, how often. */
static int told(sw_books *b, uint64_t since, int *times, int most)
{
	static struct swp_row rows[100];
	uint32_t place = 0;
	int n = 0;

	memset(times, 0, (size_t)most * sizeof *times);
	while (place < BOOKS) {
		int got = sw_books_read(b, since, &place, rows, 100);

		CHECK(got >= 0 && got <= 100);
		for (int i = 0; i < got; i++) {
			CHECK(rows[i].cursor.node < (uint64_t)most);
			times[rows[i].cursor.node]++;
			EQUAL(rows[i].cursor.reads, swp_reads(&rows[i].cursor));
			EQUAL(rows[i].key.pid, 2);
		}
		n += got;
	}
	EQUAL(place, BOOKS);
	return n;
}

/* Of all streams: those read or written since, but for what one event has told in full. */
static void books(void)
{
	static int times[3000];
	int fd = map_with(BPF_MAP_TYPE_ARRAY, 4, sizeof(struct swp_row), BOOKS, BPF_F_MMAPABLE), other, err;
	sw_books *b = sw_books_open(fd, BOOKS, &err);

	CHECK(b && !err);
	EQUAL(told(b, 0, times, 3000), 0);
	for (uint32_t i = 1; i < 2000; i++)
		put(fd, 2 * i, &(struct swp_row){.key = {.ino = i, .dev = 1, .pid = 2},
						 .cursor = {.next = 4, .size = 4, .last_ns = i < 500 ? 10 : 20,
							    .sequential = i & 1, .node = i}});
	EQUAL(told(b, 15, times, 3000), 750);
	for (uint32_t i = 0; i < 3000; i++) /* 501, 503 ... 1999: each once */
		EQUAL(times[i], i >= 500 && i < 2000 && i & 1);
	EQUAL(told(b, 0, times, 3000), 1000);
	for (uint32_t i = 0; i < 8; i++) /* never read; of these the later half was written since */
		put(fd, 2 * i + 1, &(struct swp_row){.key = {.ino = i + 1, .dev = 2, .pid = 2},
						     .cursor = {.written = 4096, .written_ns = i < 4 ? 10 : 20, .node = 2000 + i}});
	EQUAL(told(b, 15, times, 3000), 754);
	for (uint32_t i = 0; i < 8; i++)
		EQUAL(times[2000 + i], i >= 4);
	put(fd, 2001, &(struct swp_row){.key = {.dev = 1, .pid = 2}, .cursor = {.last_ns = 50, .sequential = 5}});
	EQUAL(told(b, 30, times, 3000), 0); /* given back */
	for (int turn = 0; turn < 2; turn++) { /* ended: told once, however long ago they were read, and so their successors */
		struct swp_row row = {.key = {.ino = 1, .dev = SWP_ENDED | 5, .pid = 2},
				      .cursor = {.next = 4, .size = 4, .last_ns = 1, .first_ns = 1 + (uint64_t)turn,
						 .sequential = 1, .node = 99}};

		put(fd, 77, &row);
		EQUAL(told(b, 30, times, 3000), 1);
		EQUAL(times[99], 1);
		EQUAL(told(b, 30, times, 3000), 0);
		EQUAL(told(b, 1, times, 3000), 1008);
	}
	sw_books_close(b);
	sw_books_close(NULL);
	other = map(BPF_MAP_TYPE_ARRAY, 4, sizeof(struct swp_row), 4);
	CHECK(!sw_books_open(other, 4, &err) && err < 0);
	CHECK(!sw_books_open(-1, 4, &err));
	EQUAL(err, -EBADF);
	close(other);
	close(fd);
}

/* A program that puts one event of `pid` into the ring; -1: not here. */
static int writer(int ring, uint32_t pid)
{
	const int size = sizeof(struct swp_event), at = -size;
	struct bpf_insn code[32];
	union bpf_attr a;
	int n = 0;

	for (int i = 0; i < size; i += 8)
		code[n++] = (struct bpf_insn){.code = BPF_ST | BPF_MEM | BPF_DW, .dst_reg = 10, .off = (short)(at + i)};
	code[n++] = (struct bpf_insn){.code = BPF_ST | BPF_MEM | BPF_W, .dst_reg = 10,
				      .off = (short)(at + (int)offsetof(struct swp_event, pid)), .imm = (int)pid};
	code[n++] = (struct bpf_insn){.code = BPF_LD | BPF_DW | BPF_IMM, .dst_reg = 1, .src_reg = BPF_PSEUDO_MAP_FD, .imm = ring};
	code[n++] = (struct bpf_insn){0};
	code[n++] = (struct bpf_insn){.code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = 2, .src_reg = 10};
	code[n++] = (struct bpf_insn){.code = BPF_ALU64 | BPF_ADD | BPF_K, .dst_reg = 2, .imm = at};
	code[n++] = (struct bpf_insn){.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 3, .imm = size};
	code[n++] = (struct bpf_insn){.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 4};
	code[n++] = (struct bpf_insn){.code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_ringbuf_output};
	code[n++] = (struct bpf_insn){.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0};
	code[n++] = (struct bpf_insn){.code = BPF_JMP | BPF_EXIT};
	memset(&a, 0, sizeof a);
	a.prog_type = BPF_PROG_TYPE_SOCKET_FILTER;
	a.insns = (uint64_t)(uintptr_t)code;
	a.insn_cnt = (uint32_t)n;
	a.license = (uint64_t)(uintptr_t)"GPL";
	return bpf(BPF_PROG_LOAD, &a);
}

static void run(int program, int times)
{
	char packet[64] = {0};

	for (int i = 0; i < times; i++) {
		union bpf_attr a;

		memset(&a, 0, sizeof a);
		a.test.prog_fd = (uint32_t)program;
		a.test.data_in = (uint64_t)(uintptr_t)packet;
		a.test.data_size_in = sizeof packet;
		CHECK(!bpf(BPF_PROG_TEST_RUN, &a));
	}
}

static void ring(void)
{
	static struct swp_event out[100];
	int fd = map(BPF_MAP_TYPE_RINGBUF, 0, 0, RING), other, first, second, err;
	int fits = RING / ((int)sizeof(struct swp_event) + BPF_RINGBUF_HDR_SZ);
	sw_ring *r = sw_ring_open(fd, RING, &err);

	CHECK(r && !err);
	EQUAL(sw_ring_read(r, out, 100), 0);
	first = writer(fd, 111);
	second = writer(fd, 222);
	CHECK(first >= 0 && second >= 0);
	for (int turn = 0; turn < 5; turn++) { /* across the end of the ring, at another place each time */
		run(first, 20);
		run(second, 17);
		EQUAL(sw_ring_read(r, out, 30), 30);
		EQUAL(out[19].pid, 111);
		EQUAL(out[20].pid, 222);
		EQUAL(sw_ring_read(r, out, 100), 7);
		EQUAL(out[6].pid, 222);
		EQUAL(sw_ring_read(r, out, 100), 0);
	}
	run(first, fits + 10); /* what does not fit is the writer's to count */
	EQUAL(sw_ring_read(r, out, 100), fits);
	run(second, 1);
	EQUAL(sw_ring_read(r, out, 100), 1);
	EQUAL(out[0].pid, 222);
	sw_ring_close(r);
	sw_ring_close(NULL);
	other = map(BPF_MAP_TYPE_HASH, 4, 8, 4);
	CHECK(!sw_ring_open(other, RING, &err) && err < 0);
	close(other);
	close(first);
	close(second);
	close(fd);
}

int main(void)
{
	int fd = map(BPF_MAP_TYPE_HASH, 4, 8, 4);

	if (fd < 0) {
		printf("test_bpf: left out, this host allows no maps: %s\n", strerror(errno));
		return 0;
	}
	close(fd);
	elements();
	batches(ELEMENTS);
	batches(64);
	books();
	ring();
	return kit_done();
}
