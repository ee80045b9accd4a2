/* buffers.c: aligned memory for O_DIRECT and io_uring, and what malloc keeps. */
#include "swml.h"

#include <errno.h>
#include <malloc.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#define HEAP_KEPT (8u << 20)
#define HEAP_LARGE (256 << 10)

void *sw_buffer_alloc(size_t n)
{
	void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

void sw_buffer_free(void *p, size_t n)
{
	if (p)
		munmap(p, n);
}

/* glibc gives each of the first 8 threads a core an arena of its own, which keeps what it ever held. The threads here
 * that use malloc hold Python's lock nearly always, and do not wait for each other's arenas. Without the thresholds the
 * first large buffer that is freed moves both up, to 32 MiB, and such buffers into the heap, whose end then stays. */
void sw_heap_lean(void)
{
	mallopt(M_ARENA_MAX, 2);
	mallopt(M_MMAP_THRESHOLD, HEAP_LARGE);
	mallopt(M_TRIM_THRESHOLD, HEAP_LARGE);
}

int sw_no_core(void)
{
	return prctl(PR_SET_DUMPABLE, 0) < 0 ? -errno : 0;
}

void sw_heap_trim(void)
{
	static size_t last; /* what was given back counts as free, too */
	size_t now = mallinfo2().fordblks;

	if (now < HEAP_KEPT || now == last)
		return;
	malloc_trim(0);
	last = mallinfo2().fordblks;
}
