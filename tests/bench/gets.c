/* The least that a client can do: keep-alive GETs of objects of one size, targets from standard input.
 *
 *     gets HOST PORT SECONDS THREADS BYTES < targets      prints requests a second
 *
 * Each thread has one connection and one buffer. Any answer but 200 with a whole body ends the program.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 100000, HEAD = 4096, LINE = 512, THREADS = 256 };

static char *targets[MOST];
static unsigned target_count;
static struct sockaddr_in server = {.sin_family = AF_INET};
static double seconds;
static long size, requests[THREADS];

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void fail(const char *why)
{
	fprintf(stderr, "gets: %s\n", why);
	exit(1);
}

static void get(int fd, const char *target, char *buffer)
{
	char request[LINE + 64];
	int length = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", target);
	if (write(fd, request, (size_t)length) != length)
		fail("cannot send");
	ssize_t got = read(fd, buffer, HEAD);
	char *end = got > 0 ? memmem(buffer, (size_t)got, "\r\n\r\n", 4) : NULL;
	if (!end || strncmp(buffer, "HTTP/1.1 200", 12))
		fail("not a whole head, or not 200");
	long left = size - (got - (end + 4 - buffer));
	while (left > 0) {
		ssize_t more = recv(fd, buffer, (size_t)left, MSG_WAITALL);
		if (more <= 0)
			fail("a body ends too early");
		left -= more;
	}
}

static void *run(void *count)
{
	unsigned chance = (unsigned)((long *)count - requests);
	int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
	if (fd < 0 || connect(fd, (struct sockaddr *)&server, sizeof server))
		fail("cannot connect");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	char *buffer = malloc((size_t)size + HEAD);
	for (double end = now() + seconds; now() < end; ++*(long *)count)
		get(fd, targets[(unsigned)rand_r(&chance) % target_count], buffer);
	free(buffer);
	close(fd);
	return NULL;
}

int main(int count, char **words)
{
	if (count != 6 || !inet_aton(words[1], &server.sin_addr))
		fail("HOST PORT SECONDS THREADS BYTES");
	server.sin_port = htons((unsigned short)atoi(words[2]));
	seconds = atof(words[3]);
	int threads = atoi(words[4]);
	size = atol(words[5]);
	char line[LINE];
	while (target_count < MOST && fgets(line, sizeof line, stdin)) {
		line[strcspn(line, "\n")] = 0;
		targets[target_count++] = strdup(line);
	}
	if (!target_count || threads < 1 || threads > THREADS)
		fail("no targets, or too many threads");
	pthread_t running[THREADS];
	long all = 0;
	double start = now();
	for (int i = 0; i < threads; i++)
		pthread_create(&running[i], NULL, run, &requests[i]);
	for (int i = 0; i < threads; i++) {
		pthread_join(running[i], NULL);
		all += requests[i];
	}
	printf("%.1f\n", (double)all / (now() - start));
	return 0;
}
