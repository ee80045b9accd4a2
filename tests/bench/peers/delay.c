/* delay.c: the servers of this host as seen over a line of some length and width, for any protocol over TCP.
 *
 *   delay MILLISECONDS RATE PORT...
 * Makes a network namespace in which 127.0.0.1:PORT leads to 127.0.0.1:PORT of the caller's namespace. What a
 * client sends arrives MILLISECONDS later, in order and as dense as it was sent, so a request costs that much
 * more and many under way at once do not add up. What is sent back shares RATE bytes a second (0: no limit), all
 * connections together. Prints the pid whose namespace it is ("nsenter --net=/proc/PID/ns/net ..." for the
 * clients) when it listens. Ends with its standard input. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PIECE (64 << 10)

struct piece {
	struct piece *next;
	int64_t due;
	size_t length;
	char bytes[];
};

struct pair {
	int client, server, left;
	pthread_mutex_t lock;
};

struct listener {
	int fd;
	uint16_t port;
};

static int64_t delay_ns, free_at;
static double ns_per_byte;
static pthread_mutex_t line_lock = PTHREAD_MUTEX_INITIALIZER;

static int64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static void sleep_until(int64_t at)
{
	struct timespec t = { at / 1000000000, at % 1000000000 };

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL))
		;
}

static int send_all(int fd, const char *bytes, size_t length)
{
	while (length) {
		ssize_t n = send(fd, bytes, length, MSG_NOSIGNAL);

		if (n <= 0)
			return -1;
		bytes += n;
		length -= (size_t)n;
	}
	return 0;
}

/* The second of its two threads closes both sockets. */
static void leave(struct pair *pair)
{
	int left;

	pthread_mutex_lock(&pair->lock);
	left = --pair->left;
	pthread_mutex_unlock(&pair->lock);
	if (left)
		return;
	close(pair->client);
	close(pair->server);
	free(pair);
}

static void *up(void *given)
{
	struct pair *pair = given;
	struct piece *first = NULL, **last = &first;
	int ended = 0;

	while (!ended || first) {
		struct pollfd p = { pair->client, POLLIN, 0 };
		int64_t wait = first ? first->due - now() : 0;
		struct timespec t = { wait > 0 ? wait / 1000000000 : 0, wait > 0 ? wait % 1000000000 : 0 };

		if (ended) {
			sleep_until(first->due);
		} else if (ppoll(&p, 1, first ? &t : NULL, NULL) > 0) {
			struct piece *piece = malloc(sizeof *piece + PIECE);
			ssize_t n = recv(pair->client, piece->bytes, PIECE, 0);

			if (n <= 0) {
				ended = 1;
				free(piece);
				continue;
			}
			piece = realloc(piece, sizeof *piece + (size_t)n);
			*piece = (struct piece){ NULL, now() + delay_ns, (size_t)n };
			*last = piece;
			last = &piece->next;
		}
		while (first && first->due <= now()) {
			struct piece *piece = first;

			if (send_all(pair->server, piece->bytes, piece->length) < 0)
				ended = 1;
			first = piece->next;
			if (!first)
				last = &first;
			free(piece);
		}
	}
	shutdown(pair->server, SHUT_WR);
	leave(pair);
	return NULL;
}

static void *down(void *given)
{
	struct pair *pair = given;
	char *buf = malloc(PIECE);
	ssize_t n;

	while ((n = recv(pair->server, buf, PIECE, 0)) > 0) {
		if (ns_per_byte > 0) {
			int64_t at;

			pthread_mutex_lock(&line_lock);
			if (free_at < now())
				free_at = now();
			free_at += (int64_t)((double)n * ns_per_byte);
			at = free_at;
			pthread_mutex_unlock(&line_lock);
			sleep_until(at);
		}
		if (send_all(pair->client, buf, (size_t)n) < 0)
			break;
	}
	free(buf);
	shutdown(pair->client, SHUT_RDWR);
	leave(pair);
	return NULL;
}

static struct sockaddr_in local(uint16_t port)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(port) };

	at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	return at;
}

static void *accept_all(void *given)
{
	struct listener *listener = given;
	struct sockaddr_in at = local(listener->port);
	int one = 1;

	for (;;) {
		struct pair *pair = malloc(sizeof *pair);
		pthread_t thread;

		*pair = (struct pair){ .left = 2, .lock = PTHREAD_MUTEX_INITIALIZER };
		pair->client = accept(listener->fd, NULL, NULL);
		if (pair->client < 0)
			err(1, "accept");
		pair->server = socket(AF_INET, SOCK_STREAM, 0);
		if (pair->server < 0)
			err(1, "socket");
		if (connect(pair->server, (struct sockaddr *)&at, sizeof at) < 0) {
			close(pair->client);
			close(pair->server);
			free(pair);
			continue;
		}
		setsockopt(pair->client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
		setsockopt(pair->server, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
		if (pthread_create(&thread, NULL, up, pair) || pthread_detach(thread) ||
		    pthread_create(&thread, NULL, down, pair) || pthread_detach(thread))
			errx(1, "pthread_create");
	}
	return NULL;
}

/* A process that does nothing holds the namespace, so that clients can enter it by a pid. */
static pid_t holder(void)
{
	pid_t pid = fork();

	if (pid < 0)
		err(1, "fork");
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() == 1)
			_exit(0);
		for (;;)
			pause();
	}
	return pid;
}

int main(int argc, char **argv)
{
	int outside = open("/proc/self/ns/net", O_RDONLY), fd, one = 1;
	struct ifreq lo = { .ifr_name = "lo" };
	struct listener *listeners;
	pthread_t thread;
	char byte;
	pid_t pid;

	if (argc < 4)
		errx(1, "usage: see the top of delay.c");
	delay_ns = (int64_t)(atof(argv[1]) * 1e6);
	ns_per_byte = atof(argv[2]) > 0 ? 1e9 / atof(argv[2]) : 0;
	if (outside < 0 || unshare(CLONE_NEWNET) < 0)
		err(1, "network namespace");
	fd = socket(AF_INET, SOCK_DGRAM, 0);
	if (ioctl(fd, SIOCGIFFLAGS, &lo) < 0)
		err(1, "lo");
	lo.ifr_flags |= IFF_UP;
	if (ioctl(fd, SIOCSIFFLAGS, &lo) < 0)
		err(1, "lo");
	close(fd);
	listeners = calloc((size_t)argc, sizeof *listeners);
	for (int i = 3; i < argc; i++) {
		struct sockaddr_in at = local((uint16_t)atoi(argv[i]));

		listeners[i] = (struct listener){ socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), (uint16_t)atoi(argv[i]) };
		setsockopt(listeners[i].fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
		if (bind(listeners[i].fd, (struct sockaddr *)&at, sizeof at) < 0 || listen(listeners[i].fd, 1024) < 0)
			err(1, "listen on %s", argv[i]);
	}
	pid = holder();
	if (setns(outside, CLONE_NEWNET) < 0)
		err(1, "setns");
	for (int i = 3; i < argc; i++)
		if (pthread_create(&thread, NULL, accept_all, &listeners[i]))
			errx(1, "pthread_create");
	printf("%d\n", pid);
	fflush(stdout);
	while (read(0, &byte, 1) > 0)
		;
	kill(pid, SIGKILL);
	return 0;
}
