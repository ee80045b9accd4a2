/* sampler.c: the program that sees reads, attached for slices of the time. Where reads come so often that each look
 * costs too much, Python (observe/sampler.py) says how long a slice is and how many reads one that is seen stands for;
 * here is what must not wait for Python: a slice from its begin to its end. Not thread-safe: one call at a time. */
#include "internal.h"

#include <errno.h>
#include <linux/bpf.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct sw_sampler {
	struct swp_config *config;     /* the kernel's own, as the programs read it */
	int calls_fd, program_fd;      /* the caller's */
	uint32_t cpus;
	uint64_t *last, *calls;        /* of each CPU: at the last look, and now */
};

static void wait_until(uint64_t ns)
{
	struct timespec t = {.tv_sec = (time_t)(ns / 1000000000ull), .tv_nsec = (long)(ns % 1000000000ull)};

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
		;
}

void sw_sampler_close(struct sw_sampler *s)
{
	if (!s)
		return;
	if (s->config)
		munmap(s->config, sizeof *s->config);
	free(s->last);
	free(s->calls);
	free(s);
}

struct sw_sampler *sw_sampler_open(int config_fd, int calls_fd, int program_fd, uint32_t cpus, int *err)
{
	struct sw_sampler *s = calloc(1, sizeof *s);
	void *p;

	*err = -ENOMEM;
	if (!s)
		return NULL;
	s->calls_fd = calls_fd;
	s->program_fd = program_fd;
	s->cpus = cpus;
	s->last = calloc(cpus, sizeof *s->last);
	s->calls = calloc(cpus, sizeof *s->calls);
	if (!s->last || !s->calls)
		goto fail;
	p = mmap(NULL, sizeof *s->config, PROT_READ | PROT_WRITE, MAP_SHARED, config_fd, 0);
	if (p == MAP_FAILED) {
		*err = -errno;
		goto fail;
	}
	s->config = p;
	*err = 0;
	return s;
fail:
	sw_sampler_close(s);
	return NULL;
}

/* Calls of the program since the last look, of the CPU that made most of them: what one reader pays does not depend on how
 * many other CPUs there are. */
int sw_sampler_calls(struct sw_sampler *s, uint64_t *most)
{
	uint32_t zero = 0;
	int r = sw_map_lookup(s->calls_fd, &zero, s->calls);

	*most = 0;
	if (r < 0)
		return r;
	for (uint32_t i = 0; i < s->cpus; i++) {
		if (s->calls[i] - s->last[i] > *most)
			*most = s->calls[i] - s->last[i];
		s->last[i] = s->calls[i];
	}
	return 0;
}

/* What each read that is seen from now on stands for. Only while no program is attached that sees them: a read takes
 * both numbers. Before the program is attached, which the kernel does with barriers. */
static void weigh(struct sw_sampler *s, uint32_t weight)
{
	__atomic_store_n(&s->config->weight, weight, __ATOMIC_RELAXED);
	__atomic_fetch_add(&s->config->slice, 1, __ATOMIC_RELEASE);
}

/* Attaches the program: a descriptor that is the caller's, and detaches it when closed. */
int sw_sampler_attach(struct sw_sampler *s, uint32_t weight)
{
	union bpf_attr a;
	int fd;

	weigh(s, weight);
	memset(&a, 0, sizeof a);
	a.raw_tracepoint.prog_fd = (uint32_t)s->program_fd;
	fd = (int)syscall(SYS_bpf, BPF_RAW_TRACEPOINT_OPEN, &a, sizeof a);
	return fd < 0 ? -errno : fd;
}

/* Attaches it for ns; blocks. */
int sw_sampler_slice(struct sw_sampler *s, uint32_t weight, uint64_t ns, struct sw_slice *out)
{
	uint64_t before;
	int r = sw_sampler_calls(s, &before), link;

	if (r < 0)
		return r;
	link = sw_sampler_attach(s, weight);
	if (link < 0)
		return link;
	out->began_ns = now_ns(CLOCK_MONOTONIC);
	wait_until(out->began_ns + ns);
	out->ended_ns = now_ns(CLOCK_MONOTONIC);
	close(link);
	return sw_sampler_calls(s, &out->calls);
}
