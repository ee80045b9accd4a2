/* raw.c: what parallel GETs over kept-alive connections get of servers on loopback, the bodies dropped.
 *
 *   raw LIST CONNECTIONS bytes|requests    -> bytes or requests, seconds
 * LIST has "PORT PATH" in each line; the connections take the lines in order, whoever is free the next one.
 * Every answer must be 200 with a Content-Length. Prints "COUNT SECONDS"; exits 1 with a message on any error. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct target {
	int port;
	char *path;
};

static struct target *targets;
static long count;
static atomic_long next, bytes;

static int connect_to(int port)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
	int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;

	at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (fd < 0 || connect(fd, (struct sockaddr *)&at, sizeof at) < 0)
		err(1, "connect to %d", port);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	return fd;
}

/* One request and its answer; the number of bytes in the body. */
static long get(int fd, const struct target *t, char *buf, size_t cap)
{
	size_t have = 0;
	char *end = NULL, *said;
	long length, left;
	ssize_t n;
	int sent = snprintf(buf, cap, "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n", t->path, t->port);

	if (send(fd, buf, (size_t)sent, 0) != sent)
		err(1, "send");
	while (!end) {
		n = recv(fd, buf + have, cap - 1 - have, 0);
		if (n <= 0)
			err(1, "no answer to %s", t->path);
		have += (size_t)n;
		buf[have] = 0;
		end = strstr(buf, "\r\n\r\n");
	}
	said = strcasestr(buf, "content-length:");
	if (strncmp(buf + 8, " 200", 4) || !said || said > end)
		errx(1, "%s: %.40s", t->path, buf);
	length = atol(said + 15);
	left = length - (long)(have - (size_t)(end + 4 - buf));
	while (left > 0) {
		n = recv(fd, buf, (size_t)left < cap ? (size_t)left : cap, 0);
		if (n <= 0)
			err(1, "%s ends early", t->path);
		left -= n;
	}
	return length;
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
		atomic_fetch_add(&bytes, get(fd, &targets[i], buf, cap));
	}
	free(buf);
	return NULL;
}

int main(int argc, char **argv)
{
	struct timespec a, b;
	pthread_t threads[256];
	char *line = NULL, *path;
	size_t cap = 0;
	FILE *f;
	int n;

	if (argc != 4 || (n = atoi(argv[2])) < 1 || n > 256)
		errx(1, "usage: see the top of raw.c");
	f = fopen(argv[1], "r");
	if (!f)
		err(1, "%s", argv[1]);
	while (getline(&line, &cap, f) > 0) {
		line[strcspn(line, "\n")] = 0;
		path = strchr(line, ' ');
		if (!path)
			errx(1, "%s", line);
		targets = realloc(targets, (size_t)(count + 1) * sizeof *targets);
		targets[count++] = (struct target){ atoi(line), strdup(path + 1) };
	}
	clock_gettime(CLOCK_MONOTONIC, &a);
	for (int i = 0; i < n; i++)
		if (pthread_create(&threads[i], NULL, work, NULL))
			errx(1, "pthread_create");
	for (int i = 0; i < n; i++)
		pthread_join(threads[i], NULL);
	clock_gettime(CLOCK_MONOTONIC, &b);
	printf("%ld %.6f\n", strcmp(argv[3], "bytes") ? count : atomic_load(&bytes),
	       (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9);
	return 0;
}
