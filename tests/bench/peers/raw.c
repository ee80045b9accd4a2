/* raw.c: what parallel GETs over kept-alive connections get of servers on loopback, the bodies dropped.
 *
 *   raw LIST CONNECTIONS bytes|requests    -> bytes or requests, seconds
 * LIST as in get.h; the connections take the lines in order, whoever is free the next one.
 * Prints "COUNT SECONDS"; exits 1 with a message on any error. */
#include "get.h"
#include <pthread.h>
#include <stdatomic.h>

static struct target *targets;
static long count;
static atomic_long next, bytes;

static void drop(const struct target *t, const char *body, size_t n, long at)
{
	(void)t, (void)body, (void)at;
	atomic_fetch_add(&bytes, (long)n);
}

static void *work(void *unused)
{
	size_t cap = 1 << 20;
	char *buf = malloc(cap);
	int fd = -1, port = 0;
	long i;

	(void)unused;
	while ((i = atomic_fetch_add(&next, 1)) < count) {
		if (port != targets[i].port) {
			if (fd >= 0)
				close(fd);
			fd = connect_to(port = targets[i].port);
		}
		get(fd, &targets[i], buf, cap, 0, drop);
	}
	free(buf);
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t threads[256];
	double start;
	int n;

	if (argc != 4 || (n = atoi(argv[2])) < 1 || n > 256)
		errx(1, "usage: see the top of raw.c");
	targets = read_list(argv[1], &count);
	start = now();
	for (int i = 0; i < n; i++)
		if (pthread_create(&threads[i], NULL, work, NULL))
			errx(1, "pthread_create");
	for (int i = 0; i < n; i++)
		pthread_join(threads[i], NULL);
	printf("%ld %.6f\n", strcmp(argv[3], "bytes") ? count : atomic_load(&bytes), now() - start);
	return 0;
}
