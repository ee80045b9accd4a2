/* hammer.c: reads one file as fast as it can, until SIGTERM.
 *
 *   hammer rand|seq FILE BLOCK    pread(2) at random aligned offsets; or from begin to end, again and again
 * Prints, when it is ended, how many reads it has made; exits 1 with a message on any error. */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static volatile sig_atomic_t ended;

static void end(int number)
{
	(void)number;
	ended = 1;
}

int main(int argc, char **argv)
{
	uint64_t x = 88172645463325252ull, blocks, made = 0;
	struct stat st;
	size_t block;
	char *buf;
	int fd, random;

	if (argc != 4)
		errx(1, "usage: hammer rand|seq FILE BLOCK");
	random = !strcmp(argv[1], "rand");
	block = (size_t)atol(argv[3]);
	fd = open(argv[2], O_RDONLY);
	buf = malloc(block);
	if (fd < 0 || fstat(fd, &st) < 0 || !buf)
		err(1, "%s", argv[2]);
	blocks = (uint64_t)st.st_size / block;
	signal(SIGTERM, end);
	for (; !ended; made++) {
		uint64_t at = made % blocks;

		if (random) {
			x ^= x << 13; /* xorshift64 (Marsaglia 2003) */
			x ^= x >> 7;
			x ^= x << 17;
			at = x % blocks;
		}
		if (pread(fd, buf, block, (off_t)(at * block)) != (ssize_t)block)
			err(1, "pread");
	}
	printf("%llu\n", (unsigned long long)made);
	return 0;
}
