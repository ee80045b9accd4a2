/* sampler.c on real maps, where this host allows them. That a program is attached and detached, and what it counts, is seen
 * in tests/t4_bpf/test_bpf_sampling.py: here is no compiler for one. */
#include "test_kit.h"

#include <linux/bpf.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#define MOST 4096 /* CPUs */

static int map(uint32_t type, uint32_t value, uint32_t flags)
{
	union bpf_attr a;

	memset(&a, 0, sizeof a);
	a.map_type = type;
	a.key_size = 4;
	a.value_size = value;
	a.max_entries = 1;
	a.map_flags = flags;
	return (int)syscall(SYS_bpf, BPF_MAP_CREATE, &a, sizeof a);
}

static uint32_t possible(void)
{
	char text[256] = "", *last;
	FILE *f = fopen("/sys/devices/system/cpu/possible", "r");

	CHECK(f && fgets(text, sizeof text, f));
	fclose(f);
	last = strrchr(text, '-');
	last = last ? last + 1 : text;
	return (uint32_t)atoi(last) + 1;
}

static void sampler(void)
{
	static uint64_t values[MOST];
	struct swp_config written = {.weight = 1}, got;
	int config = map(BPF_MAP_TYPE_ARRAY, sizeof written, BPF_F_MMAPABLE), err = 0;
	int calls = map(BPF_MAP_TYPE_PERCPU_ARRAY, 8, 0);
	uint32_t cpus = possible(), zero = 0;
	struct sw_slice slice;
	sw_sampler *s = sw_sampler_open(config, calls, -1, cpus, &err);
	uint64_t most = 77;

	CHECK(s && !err);
	EQUAL(sw_map_update(config, &zero, &written), 0);
	/* Of the busiest CPU, since the last time. */
	EQUAL(sw_sampler_calls(s, &most), 0);
	EQUAL(most, 0);
	for (uint32_t i = 0; i < cpus; i++)
		values[i] = 10 + i;
	EQUAL(sw_map_update(calls, &zero, values), 0);
	EQUAL(sw_sampler_calls(s, &most), 0);
	EQUAL(most, 10 + cpus - 1);
	values[0] += 1000;
	EQUAL(sw_map_update(calls, &zero, values), 0);
	EQUAL(sw_sampler_calls(s, &most), 0);
	EQUAL(most, 1000);
	EQUAL(sw_sampler_calls(s, &most), 0);
	EQUAL(most, 0);
	/* What cannot be attached is said; the programs are told before. */
	EQUAL(sw_sampler_attach(s, 12), -EBADF);
	EQUAL(sw_map_lookup(config, &zero, &got), 0);
	EQUAL(got.weight, 12);
	EQUAL(got.slice, 1);
	EQUAL(sw_sampler_slice(s, 3, 1000, &slice), -EBADF);
	EQUAL(sw_map_lookup(config, &zero, &got), 0);
	EQUAL(got.weight, 3);
	EQUAL(got.slice, 2);
	sw_sampler_close(s);
	sw_sampler_close(NULL);
	for (long n = 0; n < 3; n++) {
		kit_alloc_left = n;
		s = sw_sampler_open(config, calls, -1, cpus, &err);
		kit_alloc_left = -1;
		CHECK(!s);
		EQUAL(err, -ENOMEM);
	}
	close(config);
	config = map(BPF_MAP_TYPE_ARRAY, sizeof written, 0);
	CHECK(!sw_sampler_open(config, calls, -1, cpus, &err) && err < 0); /* no map to be mapped */
	close(config);
	close(calls);
}

int main(void)
{
	int fd = map(BPF_MAP_TYPE_ARRAY, 8, 0);

	if (fd < 0) {
		printf("test_sampler: left out, this host allows no maps: %s\n", strerror(errno));
		return 0;
	}
	close(fd);
	sampler();
	return kit_done();
}
