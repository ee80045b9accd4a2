/* buffers.c: aligned memory for O_DIRECT and io_uring. */
#include "swml.h"

#include <sys/mman.h>

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
