/* mapped.c: what a process has mapped of the mount's files by entries of 2 MiB. The kernel maps a folio of that size at once,
 * in filemap_map_pmd, and tells it by no event: who wants to know looks into page tables. Two system calls of their own
 * do: PROCMAP_QUERY (Linux 6.11) finds the mappings of files, PAGEMAP_SCAN (6.7) what is mapped so. */
#include "internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* include/uapi/linux/fs.h; Debian 12 has older headers */
struct query {
	uint64_t size, flags, address;
	uint64_t start, end, vma_flags, page_size, offset, inode;
	uint32_t major, minor, name_size, id_size;
	uint64_t name, id;
};
struct scan {
	uint64_t size, flags, start, end, walk_end, regions, nregions, most_pages;
	uint64_t inverted, all, any, returned;
};
struct region {
	uint64_t start, end, categories;
};
#define QUERY _IOWR('f', 17, struct query)
#define QUERY_NEXT 0x10
#define QUERY_FILE 0x20
#define SCAN _IOWR('f', 16, struct scan)
#define IS_PRESENT (1 << 3)
#define IS_HUGE (1 << 6)
#define REGIONS 256

static int files_of(uint32_t pid, const char *name)
{
	char path[64];
	int fd;

	snprintf(path, sizeof path, "/proc/%u/%s", pid, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* One mapping. Returns how many regions were written, or -errno. */
static int regions_of(int table, const struct query *q, struct sw_mapped *out, int max)
{
	struct region found[REGIONS];
	struct scan c = {.size = sizeof c, .start = q->start, .end = q->end, .regions = (uintptr_t)found,
			 .nregions = REGIONS, .all = IS_PRESENT | IS_HUGE, .returned = IS_HUGE};
	int n = 0;

	while (c.start < c.end && n < max) {
		int r = ioctl(table, SCAN, &c);

		if (r < 0)
			return -errno;
		for (int i = 0; i < r && n < max; i++)
			out[n++] = (struct sw_mapped){
				.ino = q->inode,
				.first = (found[i].start - q->start + q->offset) >> 12,
				.pages = (found[i].end - found[i].start) >> 12,
			};
		if (c.walk_end <= c.start)
			break;
		c.start = c.walk_end;
	}
	return n;
}

int sw_mapped(uint32_t pid, uint32_t dev, struct sw_mapped *out, int max, int *mappings)
{
	int maps = files_of(pid, "maps"), table = files_of(pid, "pagemap"), n = 0, r = 0;
	struct query q = {.size = sizeof q, .flags = QUERY_NEXT | QUERY_FILE};

	*mappings = 0;
	if (maps < 0 || table < 0) {
		r = maps < 0 ? maps : table;
		goto out;
	}
	while (n < max) {
		if (ioctl(maps, QUERY, &q) < 0) {
			r = errno == ENOENT ? 0 : -errno; /* no mapping after this one */
			break;
		}
		if ((q.major << 20 | q.minor) == dev) {
			r = regions_of(table, &q, out + n, max - n);
			if (r < 0)
				break;
			n += r;
			++*mappings;
		}
		q.address = q.end;
	}
out:
	if (maps >= 0)
		close(maps);
	if (table >= 0)
		close(table);
	return r < 0 ? r : n;
}
