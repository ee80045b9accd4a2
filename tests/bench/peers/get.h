/* get.h: a list of GETs to servers on loopback, done over kept-alive connections; shared by raw.c and stored.c.
 *
 * The list has "PORT FILE OFFSET LENGTH PATH" in each line: ask PORT for PATH, which is LENGTH bytes of the
 * source file of number FILE (from 0) at OFFSET. Any error ends the process with a message. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct target {
	int port;
	long file, offset, length;
	char *path;
};

/* Takes `n` bytes of the body of `t`; they start `at` bytes into it. */
typedef void take_fn(const struct target *t, const char *bytes, size_t n, long at);

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static struct target *read_list(const char *list, long *count)
{
	struct target *all = NULL, t;
	char *line = NULL;
	size_t cap = 0;
	int path;
	FILE *f = fopen(list, "r");

	if (!f)
		err(1, "%s", list);
	for (*count = 0; getline(&line, &cap, f) > 0; all[(*count)++] = t) {
		line[strcspn(line, "\n")] = 0;
		path = 0;
		if (sscanf(line, "%d %ld %ld %ld %n", &t.port, &t.file, &t.offset, &t.length, &path) != 4 || !path)
			errx(1, "%s: %s", list, line);
		t.path = strdup(line + path);
		all = realloc(all, (size_t)(*count + 1) * sizeof *all);
	}
	fclose(f);
	free(line);
	return all;
}

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

/* One request and its answer, which must be 200 and as long as listed; `take` gets the body in pieces of up to
 * `cap` bytes, as they come, or full ones with MSG_WAITALL. */
static void get(int fd, const struct target *t, char *buf, size_t cap, int flags, take_fn *take)
{
	size_t have = 0;
	char *end = NULL, *said;
	long at;
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
	if (strncmp(buf + 8, " 200", 4) || !said || said > end || atol(said + 15) != t->length)
		errx(1, "%s: %.40s", t->path, buf);
	end += 4;
	at = (long)(have - (size_t)(end - buf));
	if (at > t->length)
		errx(1, "%s: more than was asked for", t->path);
	if (at)
		take(t, end, (size_t)at, 0);
	for (; at < t->length; at += n) {
		n = recv(fd, buf, (size_t)(t->length - at) < cap ? (size_t)(t->length - at) : cap, flags);
		if (n <= 0)
			err(1, "%s ends early", t->path);
		take(t, buf, (size_t)n, at);
	}
}
