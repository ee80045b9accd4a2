/* mapped.c: what this process has mapped by entries of 2 MiB, against what /proc/self/smaps says. */
#include "test_kit.h"

#include <sys/mman.h>
#include <sys/sysmacros.h>

#define FOLIO (2u << 20)
#define FOLIOS 4

static uint32_t dev_of(int fd)
{
	struct stat st;

	CHECK(!fstat(fd, &st));
	return (uint32_t)(major(st.st_dev) << 20 | minor(st.st_dev));
}

/* Bytes of the mapping that begins here. */
static uint64_t by_smaps(const char *at)
{
	FILE *f = fopen("/proc/self/smaps", "re");
	char line[4096], begin[32];
	unsigned long kib = 0;
	int here = 0;

	CHECK(f);
	snprintf(begin, sizeof begin, "%lx-", (unsigned long)at);
	while (fgets(line, sizeof line, f)) {
		if (strchr(line, '-') && !strncmp(line, begin, strlen(begin)))
			here = 1;
		else if (here && sscanf(line, "FilePmdMapped: %lu kB", &kib) == 1)
			break;
	}
	fclose(f);
	return (uint64_t)kib << 10;
}

static uint64_t by_scan(int fd, uint64_t ino, uint64_t *first)
{
	struct sw_mapped out[64];
	uint64_t bytes = 0;
	int mappings, n = sw_mapped((uint32_t)getpid(), dev_of(fd), out, 64, &mappings);

	CHECK(n >= 0 && mappings >= 1);
	*first = ~0ull;
	for (int i = 0; i < n; i++) {
		if (out[i].ino != ino)
			continue;
		bytes += out[i].pages << 12;
		*first = out[i].first < *first ? out[i].first : *first;
	}
	return bytes;
}

int main(void)
{
	char path[] = "/var/tmp/swmld-test-XXXXXX", *at, *data = malloc(FOLIOS * FOLIO);
	struct sw_mapped one;
	struct stat st;
	uint64_t first;
	int fd = mkstemp(path), mappings, r;

	CHECK(fd >= 0 && data && !unlink(path));
	memset(data, 7, FOLIOS * FOLIO);
	EQUAL(write(fd, data, FOLIOS * FOLIO), FOLIOS * FOLIO); /* at once: in the largest folios that there are */
	CHECK(!fstat(fd, &st));
	r = sw_mapped((uint32_t)getpid(), dev_of(fd), &one, 1, &mappings);
	if (r == -ENOTTY || r == -EINVAL) {
		puts("mapped: this kernel cannot tell, left out");
		return 0;
	}
	at = mmap(NULL, FOLIOS * FOLIO, PROT_READ, MAP_SHARED, fd, 0);
	CHECK(at != MAP_FAILED);
	EQUAL(by_scan(fd, st.st_ino, &first), 0);
	CHECK(at[FOLIO + 5] == 7);
	EQUAL(by_scan(fd, st.st_ino, &first), by_smaps(at));
	if (by_smaps(at))
		EQUAL(first, FOLIO >> 12);
	CHECK(at[2 * FOLIO + 5] == 7);
	EQUAL(by_scan(fd, st.st_ino, &first), by_smaps(at));
	munmap(at, FOLIOS * FOLIO);
	at = mmap(NULL, 2 * FOLIO, PROT_READ, MAP_SHARED, fd, FOLIO); /* pages are the file's, not the mapping's */
	CHECK(at != MAP_FAILED && at[5] == 7);
	EQUAL(by_scan(fd, st.st_ino, &first), by_smaps(at));
	if (by_smaps(at))
		EQUAL(first, FOLIO >> 12);
	EQUAL(sw_mapped((uint32_t)getpid(), 0xfffff, &one, 1, &mappings), 0); /* no such device */
	EQUAL(mappings, 0);
	EQUAL(sw_mapped(0x7ffffff0, dev_of(fd), &one, 1, &mappings), -ENOENT);
	munmap(at, 2 * FOLIO);
	close(fd);
	free(data);
	return kit_done();
}
