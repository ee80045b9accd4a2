/* httpget.c: bytes and checksums of plain answers, kept connections, servers that hang up, and every kind of answer
 * that is not plain: none of those is taken for a file, and of none a byte is written. */
#include "test_kit.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/mman.h>

#define LENGTH 110000u

static char with_sum[160], with_old_sum[160], with_other_sum[160]; /* by sums() */

/* What the server does with a request for "/N": sends `head` (the length of its body is LENGTH unless `send` says
 * otherwise), in pieces if so, then hangs up or not. */
static const struct answer {
	const char *head;
	int want;            /* result; 1: any error */
	uint32_t send;
	unsigned pieces : 1; /* of 1000 bytes, headers included */
	unsigned end : 1;    /* close after it */
	unsigned silent : 1; /* no answer ever */
	unsigned hang_up : 1; /* close without an answer */
	unsigned partial : 1;
	unsigned summed : 1;
	unsigned tagged : 1; /* the ETag is to be "x-1" */
} answers[] = {
	{"HTTP/1.1 200 OK\r\nContent-Length: 110000\r\n\r\n", 0},
	{"HTTP/1.1 200 OK\r\ncontent-length:110000  \r\nETag: \"x\"\r\nContent-Encoding: identity\r\n\r\n", 0},
	{"HTTP/1.1 200 OK\r\nContent-Length: 110000\r\n\r\n", 0, .pieces = 1},
	{"HTTP/1.1 200 OK\r\nContent-Length: 110000\r\nConnection: close\r\n\r\n", 0, .end = 1},
	{"HTTP/1.0 200 OK\r\nContent-Length: 110000\r\n\r\n", 0, .end = 1},
	{"HTTP/1.1 200\r\nContent-Length: 110000\r\nConnection: Keep-Alive\r\n\r\n", 0},
	{"HTTP/1.1 206 Partial Content\r\nContent-Length: 110000\r\nContent-Range: bytes 500-110499/200000\r\n\r\n", 0, .partial = 1},
	{"HTTP/1.1 206 Partial Content\r\nContent-Length: 110000\r\nContent-Range: bytes 500-110499/*\r\n\r\n", 0, .partial = 1},
#define GOOD 8
	{"HTTP/1.1 200 OK\r\nContent-Length: 110000\r\n\r\n", -EBADMSG, .partial = 1},
	{"HTTP/1.1 206 Partial Content\r\nContent-Length: 110000\r\n\r\n", -EBADMSG, .partial = 1},
	{"HTTP/1.1 206 Partial Content\r\nContent-Length: 110000\r\nContent-Range: bytes 501-110500/200000\r\n\r\n", -EBADMSG, .partial = 1},
	{"HTTP/1.1 206 Partial Content\r\nContent-Length: 110000\r\nContent-Range: bytes 500-110498/200000\r\n\r\n", -EBADMSG, .partial = 1},
	{"HTTP/1.1 206 Partial Content\r\nContent-Length: 110000\r\nContent-Range: bytes 500-110499/110499\r\n\r\n", -EBADMSG, .partial = 1},
	{"HTTP/1.1 206 Partial Content\r\nContent-Length: 110000\r\nContent-Range: bytes 500-110499/200000x\r\n\r\n", -EBADMSG, .partial = 1},
	{"HTTP/1.1 206 Partial Content\r\nContent-Length: 110000\r\nContent-Range: bytes 500-\r\n\r\n", -EBADMSG, .partial = 1},
	{"HTTP/1.1 206 Partial Content\r\nContent-Length: 110000\r\nContent-Range: bytes\r\n\r\n", -EBADMSG, .partial = 1},
	{"HTTP/1.1 206 Partial Content\r\nContent-Length: 110000\r\nContent-Range: bytes 500-110499/200000\r\n\r\n", -EBADMSG},
	{"HTTP/1.1 206 Partial Content\r\nContent-Length: 110000\r\nContent-Range: bytes 500-110499/*\r\nContent-Range: bytes 500-110499/*\r\n\r\n", -EBADMSG, .partial = 1},
	{"HTTP/1.1 200 OK\r\nContent-Length: 110000\r\nContent-Range: bytes 0-109999/110000\r\n\r\n", -EBADMSG},
	{"HTTP/1.1 200 OK\r\nContent-Length: 110001\r\n\r\n", -EBADMSG, .send = LENGTH + 1},
	{"HTTP/1.1 200 OK\r\nContent-Length: 109999\r\n\r\n", -EBADMSG, .send = LENGTH - 1},
	{"HTTP/1.1 200 OK\r\nContent-Length: 110000\r\nContent-Length: 110000\r\n\r\n", -EBADMSG},
	{"HTTP/1.1 200 OK\r\nContent-Length: 110000x\r\n\r\n", -EBADMSG},
	{"HTTP/1.1 200 OK\r\nContent-Length: -110000\r\n\r\n", -EBADMSG},
	{"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709661616\r\n\r\n", -EBADMSG},
	{"HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n", -EBADMSG},
	{"HTTP/1.1 200 OK\r\n\r\n", -EBADMSG, .end = 1},
	{"HTTP/1.1 200 OK\r\nContent-Length: 110000\r\nTransfer-Encoding: chunked\r\n\r\n", -EBADMSG},
	{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", -EBADMSG},
	{"HTTP/1.1 200 OK\r\nContent-Length: 110000\r\nContent-Encoding: gzip\r\n\r\n", -EBADMSG},
	{"HTTP/1.1 200 OK\r\nX: y\r\n Content-Length: 110000\r\nContent-Length: 110000\r\n\r\n", -EPROTO},
	{"HTTP/1.1 301 Moved\r\nLocation: /0\r\nContent-Length: 110000\r\n\r\n", -EBADMSG},
	{"HTTP/1.1 401 Unauthorized\r\nContent-Length: 110000\r\n\r\n", -EBADMSG},
	{"HTTP/1.1 403 Forbidden\r\nContent-Length: 110000\r\n\r\n", -EBADMSG},
	{"HTTP/1.1 404 Not Found\r\nContent-Length: 110000\r\n\r\n", -EBADMSG},
	{"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 110000\r\n\r\n", -EBADMSG},
	{"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 110000\r\n\r\n", -EBADMSG},
	{"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 110000\r\n\r\n", -EBADMSG},
	{"HTTP/2 200 OK\r\nContent-Length: 110000\r\n\r\n", -EPROTO},
	{"HTTP/1.1 2000 OK\r\nContent-Length: 110000\r\n\r\n", -EPROTO},
	{"HTTP/1.1 2x0 OK\r\nContent-Length: 110000\r\n\r\n", -EPROTO},
	{"SSH-2.0-OpenSSH_9.2\r\n\r\n", -EPROTO},
	{"\r\n\r\n", 1},
	{"HTTP/1.1 200 OK\r\nContent-Length: 110000\r\n\r\n", -EPIPE, .send = LENGTH - 7, .end = 1},
	{"HTTP/1.1 200 OK\r\nContent-Len", -EPIPE, .send = 1, .end = 1},
	{"", -EPIPE, .hang_up = 1},
	{"", -ETIMEDOUT, .silent = 1},
	{"HTTP/1.1 200 OK\r\nContent-Length: 110000\r\n\r\n", -ETIMEDOUT, .send = LENGTH - 7},
	{"HTTP/1.1 200 OK\r\nContent-Length: 110000\r\nHost", -ETIMEDOUT, .send = 1},
	{with_sum, 0, .summed = 1},
	{with_old_sum, 0, .summed = 1},
	{with_other_sum, -EILSEQ, .summed = 1},
	{with_other_sum, 0},             /* it may mean anything there */
	{"HTTP/1.1 200 OK\r\nContent-Length: 110000\r\nETag: \"0123456789\"\r\n\r\n", 0, .summed = 1},
	{"HTTP/1.1 200 OK\r\nContent-Length: 110000\r\nETag: \"0123456g\"\r\n\r\n", 0, .summed = 1},
	{"HTTP/1.1 200 OK\r\nContent-Length: 110000\r\nETag: 01234567\r\n\r\n", 0, .summed = 1},
	{"HTTP/1.1 200 OK\r\nContent-Length: 110000\r\nETag: \"x-1\"\r\n\r\n", 0, .tagged = 1},
	{"HTTP/1.1 200 OK\r\netag:x-1\r\nContent-Length: 110000\r\n\r\n", 0, .tagged = 1},
	{"HTTP/1.1 200 OK\r\nContent-Length: 110000\r\nETag: W/\"x-1\"\r\n\r\n", -ESTALE, .tagged = 1},
	{"HTTP/1.1 200 OK\r\nContent-Length: 110000\r\nETag: \"x-2\"\r\n\r\n", -ESTALE, .tagged = 1},
	{"HTTP/1.1 200 OK\r\nContent-Length: 110000\r\nETag: \"x-10\"\r\n\r\n", -ESTALE, .tagged = 1},
	{"HTTP/1.1 200 OK\r\nContent-Length: 110000\r\nETag: \"x-1\r\n\r\n", -ESTALE, .tagged = 1},
	{"HTTP/1.1 200 OK\r\nContent-Length: 110000\r\nETag: \"\r\n\r\n", -ESTALE, .tagged = 1},
	{"HTTP/1.1 200 OK\r\nContent-Length: 110000\r\nETag:\r\n\r\n", -ESTALE, .tagged = 1},
	{"HTTP/1.1 200 OK\r\nContent-Length: 110000\r\nETag: \"x-1\"\r\nETag: \"x-1\"\r\n\r\n", -ESTALE, .tagged = 1},
	{"HTTP/1.1 200 OK\r\nContent-Length: 110000\r\n\r\n", -ESTALE, .tagged = 1},
};
#define ANSWERS ((int)(sizeof answers / sizeof *answers))
#define LONG_HEAD ANSWERS        /* headers of 5000 bytes */
#define TOO_MUCH (ANSWERS + 1)   /* a small body, and more bytes with it */
#define STRAY (ANSWERS + 2)      /* a good answer, and later, unasked, another one */
#define ONCE (ANSWERS + 3)       /* a good answer, and then the server hangs up without having said so */

static unsigned char body[LENGTH + 1];
static char too_many[5200];
static int listener, strayed[2]; /* a byte for each stray answer, once it was sent */
static uint16_t port;
static _Atomic int accepted, stopping;

static void put(int fd, const void *data, size_t n, size_t piece)
{
	const char *p = data;

	while (n) {
		size_t k = n < piece ? n : piece;
		ssize_t done = send(fd, p, k, MSG_NOSIGNAL);

		if (done < 0)
			return; /* the client has hung up: it has seen enough */
		p += done;
		n -= (size_t)done;
	}
}

static int wait_for_end(int fd)
{
	char byte;

	return recv(fd, &byte, 1, 0) <= 0;
}

static void *serve(void *arg)
{
	int fd = (int)(intptr_t)arg;
	char request[8192];
	size_t have = 0;

	for (;;) {
		const struct answer *a;
		ssize_t n = recv(fd, request + have, sizeof request - 1 - have, 0);
		char *end;
		int number;

		if (n <= 0)
			break;
		have += (size_t)n;
		request[have] = 0;
		end = strstr(request, "\r\n\r\n");
		if (!end)
			continue;
		CHECK(end + 4 == request + have); /* one at a time */
		have = 0;
		EQUAL(sscanf(request, "GET /%d HTTP/1.1\r\nHost: x\r\n\r\n", &number), 1);
		if (number == LONG_HEAD) {
			put(fd, too_many, sizeof too_many - 1, sizeof too_many);
			wait_for_end(fd);
			break;
		}
		if (number == TOO_MUCH) {
			static const char text[] = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcdefgh";

			put(fd, text, sizeof text - 1, sizeof text);
			wait_for_end(fd);
			break;
		}
		a = &answers[number >= STRAY ? 0 : number];
		if (a->hang_up)
			break;
		if (a->silent) {
			wait_for_end(fd);
			break;
		}
		put(fd, a->head, strlen(a->head), a->pieces ? 11 : 8192);
		put(fd, body, a->send ? a->send : LENGTH, a->pieces ? 1000 : 1 << 20);
		if (number == STRAY) {
			put(fd, a->head, strlen(a->head), 8192);
			put(fd, body + 1, LENGTH, 1 << 20);
			EQUAL(write(strayed[1], "", 1), 1);
		}
		if (a->end || number == ONCE)
			break;
	}
	close(fd);
	return NULL;
}

static void *accept_all(void *unused)
{
	pthread_t threads[512];
	int n = 0, fd;

	while ((fd = accept(listener, NULL, NULL)) >= 0 && !stopping) {
		accepted++;
		CHECK(n < 512);
		EQUAL(pthread_create(&threads[n++], NULL, serve, (void *)(intptr_t)fd), 0);
	}
	if (fd >= 0)
		close(fd);
	while (n)
		pthread_join(threads[--n], NULL);
	return NULL;
}

/* ---- the client's side ---- */

struct set {
	struct sw_get gets[SW_GETS];
	char requests[SW_GETS][64];
	uint32_t n;
};

static struct set *set_new(void) { return calloc(1, sizeof(struct set)); }

static struct sw_get *add(struct set *s, uint32_t address, int number)
{
	struct sw_get *get = &s->gets[s->n];
	char *request = s->requests[s->n++];
	int partial = number < ANSWERS && answers[number].partial;

	*get = (struct sw_get){.request = request, .address = address, .length = LENGTH, .offset = 4096, .first = 500};
	get->partial = partial;
	get->summed = number < ANSWERS && answers[number].summed;
	if (number < ANSWERS && answers[number].tagged) {
		get->tag = "x-1";
		get->tag_len = 3;
	}
	get->request_len = (uint32_t)snprintf(request, 64, "GET /%d HTTP/1.1\r\nHost: x\r\n\r\n", number);
	get->buffer = malloc(LENGTH);
	get->fd = memfd_create("body", MFD_CLOEXEC);
	CHECK(get->buffer && get->fd >= 0);
	return get;
}

static void set_free(struct set *s)
{
	for (uint32_t i = 0; i < s->n; i++) {
		free(s->gets[i].buffer);
		close(s->gets[i].fd);
	}
	free(s);
}

static off_t size_of(int fd) { return lseek(fd, 0, SEEK_END); }

static void right(const struct sw_get *get)
{
	static unsigned char read_back[LENGTH];

	EQUAL(get->result, 0);
	EQUAL(get->status, get->partial ? 206 : 200);
	EQUAL(get->crc, sw_crc32c(0, body, LENGTH));
	CHECK(!memcmp(get->buffer, body, LENGTH));
	EQUAL(size_of(get->fd), 4096 + LENGTH);
	EQUAL(pread(get->fd, read_back, LENGTH, 4096), LENGTH);
	CHECK(!memcmp(read_back, body, LENGTH));
	CHECK(get->took_ns > 0);
}

/* All of a set, whatever comes of it; how many ended well. */
static int run(sw_getter *g, struct set *s, uint64_t limit_ns)
{
	int err = 1, good = 0;
	uint32_t ended = 0;
	sw_gets *b = sw_gets_new(g, s->gets, s->n, limit_ns, &err);

	CHECK(b != NULL);
	EQUAL(err, 0);
	while (ended < s->n) {
		int more = sw_gets_step(b, 1000000, 0);
		uint32_t done = 0;

		CHECK(more > 0);
		ended += (uint32_t)more;
		for (uint32_t i = 0; i < s->n; i++)
			done += s->gets[i].result != SW_GET_WAITS;
		EQUAL(done, ended);
	}
	EQUAL(sw_gets_step(b, 1000000, 0), 0);
	sw_gets_free(b);
	for (uint32_t i = 0; i < s->n; i++)
		good += !s->gets[i].result;
	return good;
}

static const uint64_t patience = 60 * 1000000000ull;

static int one(sw_getter *g, uint32_t at, int number, uint64_t limit_ns)
{
	struct set *s = set_new();
	struct sw_get *get = add(s, at, number);
	int result;

	run(g, s, limit_ns);
	result = get->result;
	if (!result)
		right(get);
	else
		EQUAL(size_of(get->fd), 0);
	set_free(s);
	return result;
}

/* The ETags of SeaweedFS: of today, and of volumes that an early version has written. */
static void sums(void)
{
	uint32_t crc = sw_crc32c(0, body, LENGTH), old = (crc >> 15 | crc << 17) + 0xa282ead8u;
	const char *head = "HTTP/1.1 200 OK\r\nContent-Length: 110000\r\nETag: \"%08x\"\r\n\r\n";

	snprintf(with_sum, sizeof with_sum, head, crc);
	snprintf(with_old_sum, sizeof with_old_sum, head, old);
	snprintf(with_other_sum, sizeof with_other_sum, head, crc ^ 1);
}

static void test_answers(sw_getter *g, uint32_t at)
{
	for (int i = 0; i < ANSWERS; i++) {
		int slow = answers[i].want == -ETIMEDOUT;
		int result = one(g, at, i, slow ? 50000000 : patience);

		if (result != answers[i].want && !(answers[i].want == 1 && result < 0))
			fprintf(stderr, "answer %d: %s\n", i, answers[i].head);
		CHECK(answers[i].want == 1 ? result < 0 : result == answers[i].want);
	}
	EQUAL(one(g, at, LONG_HEAD, patience), -EMSGSIZE);
}

static void test_too_much(sw_getter *g, uint32_t at)
{
	struct set *s = set_new();
	struct sw_get *get = add(s, at, TOO_MUCH);

	get->length = 5;
	EQUAL(run(g, s, patience), 0);
	EQUAL(get->result, -EPROTO);
	EQUAL(size_of(get->fd), 0);
	set_free(s);
}

/* Connections are used again, but not those that ended, or on which something came unasked. */
static void test_kept(sw_getter *g, uint32_t at)
{
	int before = accepted;

	for (int i = 0; i < 5; i++)
		EQUAL(one(g, at, 0, patience), 0);
	EQUAL(accepted - before, 1);
	for (int i = 0; i < 5; i++)
		EQUAL(one(g, at, ONCE, patience), 0); /* each meets the end of the one before */
	CHECK(accepted - before >= 5);
	for (int i = 0; i < 5; i++) {
		char byte;

		EQUAL(one(g, at, STRAY, patience), 0);
		EQUAL(read(strayed[0], &byte, 1), 1);
	}
	EQUAL(one(g, at, 0, patience), 0);
}

static void test_many(sw_getter *g, uint32_t at)
{
	int before = accepted;

	for (int round = 0; round < 3; round++) {
		struct set *s = set_new();

		for (int i = 0; i < SW_GETS; i++)
			add(s, at, i % GOOD == 3 || i % GOOD == 4 ? 0 : i % GOOD);
		EQUAL(run(g, s, patience), SW_GETS);
		for (uint32_t i = 0; i < s->n; i++)
			right(&s->gets[i]);
		set_free(s);
	}
	CHECK(accepted - before <= SW_GETS);
}

/* One that hangs holds up nobody: the others are told of when they have lingered. */
static void test_step(sw_getter *g, uint32_t at)
{
	struct set *s = set_new();
	sw_gets *b;
	int err, n = 0;

	for (int i = 0; i < ANSWERS; i++)
		if (answers[i].silent)
			add(s, at, i);
	add(s, at, 0);
	add(s, at, 2);
	b = sw_gets_new(g, s->gets, s->n, patience, &err);
	CHECK(b != NULL);
	while (n < 2)
		n += sw_gets_step(b, 1, 0);
	EQUAL(s->gets[0].result, SW_GET_WAITS);
	right(&s->gets[1]);
	right(&s->gets[2]);
	sw_gets_free(b);
	EQUAL(s->gets[0].result, -ECANCELED);
	set_free(s);
}

/* The place of an answer that never comes. */
static int silent(void)
{
	for (int i = 0; i < ANSWERS; i++)
		if (answers[i].silent)
			return i;
	return -1;
}

static void text_of(char *request, size_t size, int number)
{
	snprintf(request, size, "GET /%d HTTP/1.1\r\nHost: x\r\n\r\n", number);
}

static int also(sw_gets *b, uint32_t i, const char *request, uint32_t at)
{
	return sw_gets_second(b, i, request, (uint32_t)strlen(request), at);
}

/* A second request: the first success of both ends it, and the last failure. */
static void test_second(sw_getter *g, uint32_t at)
{
	char good[64], bad[64], never[64];
	struct set *s = set_new();
	sw_gets *b;
	int err, n = 0, refused = sw_getter_address(g, "127.0.0.1", 1);

	text_of(good, sizeof good, 0);
	text_of(bad, sizeof bad, LONG_HEAD);
	text_of(never, sizeof never, silent());
	for (int i = 0; i < 5; i++)
		add(s, at, silent());
	add(s, at, LONG_HEAD);
	b = sw_gets_new(g, s->gets, s->n, patience, &err);
	CHECK(b != NULL);
	while (!n)
		n = sw_gets_step(b, 1, 0);
	EQUAL(n, 1);
	EQUAL(sw_gets_step(b, 1, 1000000), 0);
	EQUAL(s->gets[5].result, -EMSGSIZE);
	EQUAL(also(b, 5, good, at), -EINVAL);
	EQUAL(also(b, 6, good, at), -EINVAL);
	EQUAL(also(b, 0, good, at + 100), -EINVAL);
	EQUAL(also(b, 0, good, at), 0);
	EQUAL(also(b, 0, good, at), -EINVAL);
	EQUAL(also(b, 1, bad, at), 0);             /* the first one goes on */
	EQUAL(also(b, 2, never, at), 0);
	EQUAL(also(b, 3, good, (uint32_t)refused), 0);
	EQUAL(sw_gets_step(b, 1, 0), 1);
	right(&s->gets[0]);
	EQUAL(s->gets[0].second, 2);
	EQUAL(sw_gets_step(b, 1, 50000000), 0);
	for (int i = 1; i < 5; i++) {
		EQUAL(s->gets[i].result, SW_GET_WAITS);
		EQUAL(s->gets[i].second, i < 4);
		EQUAL(size_of(s->gets[i].fd), 0);
	}
	sw_gets_free(b);
	for (int i = 1; i < 5; i++)
		EQUAL(s->gets[i].result, -ECANCELED);
	set_free(s);

	/* The first one fails, and the second brings it; and the other way round: it is quicker. */
	s = set_new();
	add(s, at, silent());
	add(s, at, 2);
	b = sw_gets_new(g, s->gets, s->n, 200000000, &err);
	CHECK(b != NULL);
	EQUAL(also(b, 0, never, at), 0);
	EQUAL(also(b, 1, never, at), 0);
	for (n = 0; n < 2;)
		n += sw_gets_step(b, 1, 0);
	EQUAL(s->gets[0].result, -ETIMEDOUT);
	EQUAL(s->gets[0].second, 1);
	right(&s->gets[1]);
	EQUAL(s->gets[1].second, 1);
	sw_gets_free(b);
	set_free(s);
}

struct closer {
	sw_getter *g;
	sw_gets *b;
};

static void *step(void *arg)
{
	struct closer *c = arg;

	while (sw_gets_step(c->b, 1, 0) == 0)
		;
	sw_gets_free(c->b);
	return NULL;
}

static void test_close(void)
{
	struct set *s = set_new();
	struct closer c;
	pthread_t thread;
	int err, at, silent = 0;

	while (!answers[silent].silent)
		silent++;
	c.g = sw_getter_new(&err);
	at = sw_getter_address(c.g, "127.0.0.1", port);
	EQUAL(at, 0);
	add(s, 0, silent);
	c.b = sw_gets_new(c.g, s->gets, s->n, patience, &err);
	EQUAL(pthread_create(&thread, NULL, step, &c), 0);
	sw_getter_close(c.g);
	pthread_join(thread, NULL);
	EQUAL(s->gets[0].result, -ESHUTDOWN);
	c.b = sw_gets_new(c.g, s->gets, s->n, patience, &err);
	sw_getter_free(c.g);
	step(&c);
	EQUAL(s->gets[0].result, -ESHUTDOWN);
	set_free(s);
}

static void test_refused(sw_getter *g)
{
	struct sockaddr_in a = {.sin_family = AF_INET};
	socklen_t size = sizeof a;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), at;

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	EQUAL(bind(fd, (struct sockaddr *)&a, sizeof a), 0); /* a port that nobody listens on */
	EQUAL(getsockname(fd, (struct sockaddr *)&a, &size), 0);
	at = sw_getter_address(g, "127.0.0.1", ntohs(a.sin_port));
	CHECK(at > 0);
	EQUAL(one(g, (uint32_t)at, 0, patience), -ECONNREFUSED);
	close(fd);
	at = sw_getter_address(g, "::1", ntohs(a.sin_port));
	CHECK(at > 0);
	CHECK(one(g, (uint32_t)at, 0, patience) < 0);
}

/* The disk refuses: not done, and the next one goes on. */
static void test_disk(sw_getter *g, uint32_t at)
{
	struct set *s = set_new();
	struct sw_get *get = add(s, at, 0);

	add(s, at, 0);
	close(get->fd);
	get->fd = open("/dev/full", O_WRONLY | O_CLOEXEC);
	CHECK(get->fd >= 0);
	EQUAL(run(g, s, patience), 1);
	CHECK(get->result < 0);
	right(&s->gets[1]);
	set_free(s);
	s = set_new();
	get = add(s, at, 0);
	close(get->fd);
	get->fd = -1;
	EQUAL(run(g, s, patience), 1);
	EQUAL(get->crc, sw_crc32c(0, body, LENGTH));
	get->fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	set_free(s);
}

static void test_wrong_use(sw_getter *g, uint32_t at)
{
	struct set *s = set_new();
	int err = 0;

	EQUAL(sw_getter_address(g, "localhost", port), -EINVAL); /* names are resolved before */
	EQUAL(sw_getter_address(g, "127.0.0.1", port), at);
	CHECK(!sw_gets_new(g, s->gets, 0, patience, &err) && err == -EINVAL);
	CHECK(!sw_gets_new(g, s->gets, SW_GETS + 1, patience, &err) && err == -EINVAL);
	add(s, 200, 0);
	CHECK(!sw_gets_new(g, s->gets, 1, patience, &err) && err == -EINVAL);
	s->gets[0].address = at;
	s->gets[0].length = 0;
	CHECK(!sw_gets_new(g, s->gets, 1, patience, &err) && err == -EINVAL);
	set_free(s);
	for (int i = 0; i < 300; i++) {
		char ip[32];
		int r;

		snprintf(ip, sizeof ip, "127.1.0.%d", i % 250 + 1);
		r = sw_getter_address(g, ip, (uint16_t)(1 + i / 250));
		CHECK(r >= 0 || r == -ENOSPC);
		if (i == 299)
			EQUAL(r, -ENOSPC);
	}
}

int main(void)
{
	struct sockaddr_in a = {.sin_family = AF_INET};
	socklen_t size = sizeof a;
	int fds, err, at;
	pthread_t server;
	sw_getter *g;

	for (size_t i = 0; i < sizeof body; i++)
		body[i] = (unsigned char)(i * 2654435761u >> 13);
	sums();
	strcpy(too_many, "HTTP/1.1 200 OK\r\nX: ");
	memset(too_many + strlen(too_many), 'x', sizeof too_many - 1 - strlen(too_many));
	EQUAL(pipe(strayed), 0);
	listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	EQUAL(bind(listener, (struct sockaddr *)&a, sizeof a), 0);
	EQUAL(listen(listener, 128), 0);
	EQUAL(getsockname(listener, (struct sockaddr *)&a, &size), 0);
	port = ntohs(a.sin_port);
	EQUAL(pthread_create(&server, NULL, accept_all, NULL), 0);
	fds = kit_count_fds();
	g = sw_getter_new(&err);
	CHECK(g != NULL);
	EQUAL(err, 0);
	at = sw_getter_address(g, "127.0.0.1", port);
	EQUAL(at, 0);
	test_kept(g, 0);
	test_answers(g, 0);
	test_too_much(g, 0);
	test_many(g, 0);
	test_step(g, 0);
	test_second(g, 0);
	test_disk(g, 0);
	test_close();
	test_refused(g);
	test_wrong_use(g, 0);
	sw_getter_close(g);
	sw_getter_free(g);
	stopping = 1;
	shutdown(listener, SHUT_RDWR);
	pthread_join(server, NULL);
	EQUAL(kit_count_fds(), fds);
	close(listener);
	close(strayed[0]);
	close(strayed[1]);
	return kit_done();
}
