/* reader.c: the load of the benchmarks, in C so that the client's own cost does not hide the file system's.
 *
 *   reader seq FILE BLOCK [BYTES]    sequential read(2), at most BYTES     -> bytes seconds
 *   reader rand FILE BLOCK COUNT     pread(2) at random aligned offsets    -> operations seconds
 *   reader mmap FILE                 one pass over a shared mapping        -> bytes seconds
 *   reader files LIST PROCESSES      open, read, close of each file        -> files seconds
 *   reader stat LIST                 lstat(2) of each file                 -> files seconds
 *   reader list DIR                  readdir(3) with lstat of each entry   -> entries seconds
 *   reader write FILE BYTES SYNC     1 MiB writes, fsync at the end if 1   -> bytes seconds
 *   reader getpid COUNT              the cheapest system call              -> calls seconds
 *   reader make DIR FIRST COUNT SIZE files DIR/fNNNNNNN of random bytes    -> files seconds
 * Prints "COUNT SECONDS"; exits 1 with a message on any error. */
#define _GNU_SOURCE
#include <dirent.h>
#include <err.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int open_file(const char *path)
{
	int fd = open(path, O_RDONLY);

	if (fd < 0)
		err(1, "%s", path);
	return fd;
}

static off_t size_of(int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		err(1, "fstat");
	return st.st_size;
}

static double seq(const char *path, size_t block, double most)
{
	int fd = open_file(path);
	char *buf = malloc(block);
	double total = 0;
	ssize_t n = 0;

	while (total < most && (n = read(fd, buf, block)) > 0)
		total += (double)n;
	if (n < 0)
		err(1, "read");
	free(buf);
	close(fd);
	return total;
}

static double rnd(const char *path, size_t block, long count)
{
	int fd = open_file(path);
	uint64_t blocks = (uint64_t)size_of(fd) / block, x = 88172645463325252ull;
	char *buf = malloc(block);

	for (long i = 0; i < count; i++) {
		x ^= x << 13; /* xorshift64 (Marsaglia 2003) */
		x ^= x >> 7;
		x ^= x << 17;
		if (pread(fd, buf, block, (off_t)(x % blocks * block)) != (ssize_t)block)
			err(1, "pread");
	}
	free(buf);
	close(fd);
	return (double)count;
}

static double map(const char *path)
{
	int fd = open_file(path);
	off_t size = size_of(fd);
	uint64_t sum = 0;
	uint64_t *p = mmap(NULL, (size_t)size, PROT_READ, MAP_SHARED, fd, 0);

	if (p == MAP_FAILED)
		err(1, "mmap");
	for (off_t i = 0; i < size / 8; i++)
		sum += p[i];
	if (sum == 42)
		puts("42");
	munmap(p, (size_t)size);
	close(fd);
	return (double)size;
}

static char **lines(const char *list, long *count)
{
	FILE *f = fopen(list, "r");
	char **all = NULL, *line = NULL;
	size_t cap = 0;
	ssize_t n;

	if (!f)
		err(1, "%s", list);
	*count = 0;
	while ((n = getline(&line, &cap, f)) > 0) {
		line[n - 1] = 0;
		all = realloc(all, (size_t)(*count + 1) * sizeof *all);
		all[(*count)++] = strdup(line);
	}
	fclose(f);
	free(line);
	return all;
}

static void read_files(char **names, long count, long first, long step)
{
	char *buf = malloc(1 << 20);

	for (long i = first; i < count; i += step) {
		int fd = open_file(names[i]);
		ssize_t n;

		while ((n = read(fd, buf, 1 << 20)) > 0)
			;
		if (n < 0)
			err(1, "%s", names[i]);
		close(fd);
	}
	free(buf);
}

static void files(char **names, long count, int processes)
{
	if (processes == 1) {
		read_files(names, count, 0, 1);
		return;
	}
	for (int p = 0; p < processes; p++)
		if (fork() == 0) {
			read_files(names, count, p, processes);
			_exit(0);
		}
	for (int p = 0; p < processes; p++) {
		int status;

		if (wait(&status) < 0 || status)
			errx(1, "a reader failed");
	}
}

static double list(const char *path)
{
	DIR *d = opendir(path);
	struct dirent *e;
	struct stat st;
	double n = 0;

	if (!d)
		err(1, "%s", path);
	while ((e = readdir(d)))
		if (fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0)
			n++;
	closedir(d);
	return n;
}

static double write_file(const char *path, double bytes, int sync)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	char *buf = malloc(1 << 20);

	if (fd < 0)
		err(1, "%s", path);
	memset(buf, 'c', 1 << 20);
	for (double done = 0; done < bytes; done += 1 << 20)
		if (write(fd, buf, 1 << 20) != 1 << 20)
			err(1, "write");
	if (sync && fsync(fd) < 0)
		err(1, "fsync");
	if (close(fd) < 0)
		err(1, "close");
	free(buf);
	return bytes;
}

static double make(const char *dir, long first, long count, size_t size)
{
	uint64_t x = 88172645463325252ull + (uint64_t)first, *buf = malloc(size + 8);
	char name[4096];

	for (long i = first; i < first + count; i++) {
		int fd;

		for (size_t w = 0; w <= size / 8; w++) {
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
			buf[w] = x;
		}
		snprintf(name, sizeof name, "%s/f%07ld", dir, i);
		fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0644);
		if (fd < 0 || write(fd, buf, size) != (ssize_t)size || close(fd) < 0)
			err(1, "%s", name);
	}
	free(buf);
	return (double)count;
}

int main(int argc, char **argv)
{
	const char *what = argc > 2 ? argv[1] : "";
	char **names = NULL;
	double start, n = 0;
	long count = 0;

	if (!strcmp(what, "files") || !strcmp(what, "stat"))
		names = lines(argv[2], &count);
	start = now();
	if (!strcmp(what, "seq"))
		n = seq(argv[2], (size_t)atol(argv[3]), argc > 4 ? atof(argv[4]) : 1e18);
	else if (!strcmp(what, "rand"))
		n = rnd(argv[2], (size_t)atol(argv[3]), atol(argv[4]));
	else if (!strcmp(what, "mmap"))
		n = map(argv[2]);
	else if (!strcmp(what, "files")) {
		files(names, count, atoi(argv[3]));
		n = (double)count;
	} else if (!strcmp(what, "stat")) {
		struct stat st;

		for (long i = 0; i < count; i++, n++)
			if (lstat(names[i], &st) < 0)
				err(1, "%s", names[i]);
	} else if (!strcmp(what, "list"))
		n = list(argv[2]);
	else if (!strcmp(what, "write"))
		n = write_file(argv[2], atof(argv[3]), atoi(argv[4]));
	else if (!strcmp(what, "getpid"))
		for (long i = atol(argv[2]); i > 0; i--, n++)
			syscall(SYS_getpid);
	else if (!strcmp(what, "make"))
		n = make(argv[2], atol(argv[3]), atol(argv[4]), (size_t)atol(argv[5]));
	else
		errx(1, "usage: see the top of reader.c");
	printf("%.0f %.6f\n", n, now() - start);
	return 0;
}
