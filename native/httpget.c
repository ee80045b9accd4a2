/* httpget.c: many small files by HTTP at once: each one plain GET over a kept-alive connection, its body received into
 * a buffer, summed, and written to a file, in one call.
 *
 * This is the short way and nothing else. What is not an answer with exactly the bytes that were asked for, as they are
 * (a redirect, an error, another encoding or length, a server that does not answer), is given back as not done, with no
 * byte written, and whoever asked goes the long way, where it is decided what that means.
 *
 * A batch belongs to one thread at a time; batches of several threads share the idle connections. */
#include "internal.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define HEAD 4096                          /* bytes of an answer's headers at most; 0.4 KiB are usual */
#define ADDRESSES 256                      /* servers of one source; more go the long way */
#define KEPT 64                            /* idle connections to one server */
#define IDLE_NS (20 * 1000000000ull)       /* Go's servers and nginx close theirs after 30 to 75 s */

struct kept_conn {
	struct kept_conn *next;
	uint64_t since;
	int fd;
};

struct address {
	struct sockaddr_storage at;
	socklen_t size;
	struct kept_conn *idle;
	uint32_t nidle;
};

struct sw_getter {
	pthread_mutex_t lock;
	uint32_t refs;                     /* its owner, and each batch */
	int closing;
	int stop;                          /* eventfd: readable once it is closed */
	uint32_t naddresses;
	struct address addresses[ADDRESSES];
};

enum state { CONNECTING, SENDING, HEADERS, BODY, ENDED };

struct job {
	struct sw_get *get;
	enum state state;
	int fd;
	int reused;                        /* the connection was idle: the server may have hung up meanwhile */
	int kept;                          /* the connection can be used again */
	int summed;                        /* the answer says the sum of its bytes: */
	uint32_t sum;
	uint32_t sent, have;               /* bytes of the request, of the headers or the body */
	struct job *other;                 /* the first and the second request for the same bytes; NULL: there is one */
	char head[HEAD];
};

struct second {
	struct job job;
	struct sw_get get;                 /* a buffer of its own; written to the file of the first */
};

struct sw_gets {
	sw_getter *getter;
	uint64_t began, until;
	uint32_t n, ended, told;
	struct second *seconds[SW_GETS];
	struct job jobs[];
};

/* ---- connections ---- */

sw_getter *sw_getter_new(int *err)
{
	sw_getter *g = calloc(1, sizeof *g);

	*err = -ENOMEM;
	if (!g)
		return NULL;
	g->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (g->stop < 0) {
		*err = -errno;
		free(g);
		return NULL;
	}
	pthread_mutex_init(&g->lock, NULL);
	g->refs = 1;
	*err = 0;
	return g;
}

static void drop_idle(struct address *a)
{
	struct kept_conn *c;

	while ((c = a->idle)) {
		a->idle = c->next;
		close(c->fd);
		free(c);
	}
	a->nidle = 0;
}

static void getter_put(sw_getter *g)
{
	uint32_t left;

	pthread_mutex_lock(&g->lock);
	left = --g->refs;
	pthread_mutex_unlock(&g->lock);
	if (left)
		return;
	for (uint32_t i = 0; i < g->naddresses; i++)
		drop_idle(&g->addresses[i]);
	close(g->stop);
	pthread_mutex_destroy(&g->lock);
	free(g);
}

void sw_getter_close(sw_getter *g)
{
	uint64_t one = 1;
	ssize_t n;

	pthread_mutex_lock(&g->lock);
	g->closing = 1;
	for (uint32_t i = 0; i < g->naddresses; i++)
		drop_idle(&g->addresses[i]);
	pthread_mutex_unlock(&g->lock);
	do
		n = write(g->stop, &one, sizeof one);
	while (n < 0 && errno == EINTR);
}

void sw_getter_free(sw_getter *g) { getter_put(g); }

int sw_getter_address(sw_getter *g, const char *ip, uint16_t port)
{
	struct address a = {0};
	struct sockaddr_in *v4 = (struct sockaddr_in *)&a.at;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&a.at;
	int r = -ENOSPC;

	if (inet_pton(AF_INET, ip, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons(port);
		a.size = sizeof *v4;
	} else if (inet_pton(AF_INET6, ip, &v6->sin6_addr) == 1) {
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons(port);
		a.size = sizeof *v6;
	} else {
		return -EINVAL;
	}
	pthread_mutex_lock(&g->lock);
	for (uint32_t i = 0; r < 0 && i < g->naddresses; i++)
		if (g->addresses[i].size == a.size && !memcmp(&g->addresses[i].at, &a.at, a.size))
			r = (int)i;
	if (r < 0 && g->naddresses < ADDRESSES) {
		r = (int)g->naddresses++;
		g->addresses[r] = a;
	}
	pthread_mutex_unlock(&g->lock);
	return r;
}

/* An idle connection on which nothing has come meanwhile, -1: there is none. */
static int take_idle(sw_getter *g, uint32_t address)
{
	struct address *a = &g->addresses[address];
	uint64_t now = now_ns(CLOCK_MONOTONIC);
	int fd = -1;

	pthread_mutex_lock(&g->lock);
	while (fd < 0 && a->idle) {
		struct kept_conn *c = a->idle;
		char byte;

		a->idle = c->next;
		a->nidle--;
		if (now - c->since < IDLE_NS && recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN)
			fd = c->fd;
		else
			close(c->fd);
		free(c);
	}
	pthread_mutex_unlock(&g->lock);
	return fd;
}

static void give_back(sw_getter *g, uint32_t address, int fd)
{
	struct address *a = &g->addresses[address];
	struct kept_conn *c = malloc(sizeof *c);

	pthread_mutex_lock(&g->lock);
	if (c && !g->closing && a->nidle < KEPT) {
		*c = (struct kept_conn){.next = a->idle, .since = now_ns(CLOCK_MONOTONIC), .fd = fd};
		a->idle = c;
		a->nidle++;
		c = NULL;
		fd = -1;
	}
	pthread_mutex_unlock(&g->lock);
	free(c);
	if (fd >= 0)
		close(fd);
}

/* The others to that server are as dead as the one that was met. */
static void drop_address(sw_getter *g, uint32_t address)
{
	pthread_mutex_lock(&g->lock);
	drop_idle(&g->addresses[address]);
	pthread_mutex_unlock(&g->lock);
}

static int connect_to(sw_getter *g, uint32_t address, int *connected)
{
	const struct address *a = &g->addresses[address];
	int one = 1, err, fd = socket(a->at.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	*connected = connect(fd, (const struct sockaddr *)&a->at, a->size) == 0;
	if (!*connected && errno != EINPROGRESS) {
		err = errno;
		close(fd);
		return -err;
	}
	return fd;
}

/* ---- answers ---- */

static int is_name(const char *line, size_t n, const char *name)
{
	size_t k = strlen(name);

	return n > k && line[k] == ':' && !strncasecmp(line, name, k);
}

/* The value of a header, without the blanks around it. */
static const char *value_of(const char *line, size_t n, size_t *size)
{
	const char *p = memchr(line, ':', n), *end = line + n;

	p++;
	while (p < end && (*p == ' ' || *p == '\t'))
		p++;
	while (end > p && (end[-1] == ' ' || end[-1] == '\t'))
		end--;
	*size = (size_t)(end - p);
	return p;
}

static int is_value(const char *value, size_t n, const char *text)
{
	return n == strlen(text) && !strncasecmp(value, text, n);
}

/* Digits alone; the rest of `text` after them. -1: there are none, or too many. */
static int64_t digits(const char **text, const char *end)
{
	const char *p = *text;
	int64_t number = 0;

	while (p < end && *p >= '0' && *p <= '9' && p - *text < 18)
		number = number * 10 + (*p++ - '0');
	if (p == *text || (p < end && *p >= '0' && *p <= '9'))
		return -1;
	*text = p;
	return number;
}

static int is_number(const char *value, size_t n, uint64_t number)
{
	const char *end = value + n;
	int64_t found = digits(&value, end);

	return found >= 0 && value == end && (uint64_t)found == number;
}

/* "bytes FIRST-LAST/ALL" */
static int is_range(const char *value, size_t n, uint64_t first, uint64_t length)
{
	const char *end = value + n;
	int64_t from, to;

	if (n < 6 || strncasecmp(value, "bytes ", 6))
		return 0;
	value += 6;
	from = digits(&value, end);
	if (from < 0 || value == end || *value++ != '-')
		return 0;
	to = digits(&value, end);
	if (to < from || value == end || *value++ != '/')
		return 0;
	if (!is_value(value, (size_t)(end - value), "*") && (digits(&value, end) <= to || value != end))
		return 0;
	return (uint64_t)from == first && (uint64_t)(to - from) + 1 == length;
}

/* "XXXXXXXX" with the quotes: eight hexadecimal digits. */
static int is_sum(const char *value, size_t n, uint32_t *sum)
{
	uint32_t found = 0;

	if (n != 10 || value[0] != '"' || value[9] != '"')
		return 0;
	for (int i = 1; i < 9; i++) {
		char c = value[i];
		int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;

		if (digit < 0)
			return 0;
		found = found << 4 | (uint32_t)digit;
	}
	*sum = found;
	return 1;
}

/* Whether a value is this ETag, in quotes or, as some stores have it, without. A weak one is none. */
static int is_tag(const char *value, size_t n, const char *tag, size_t size)
{
	if (n >= 2 && value[0] == '"' && value[n - 1] == '"') {
		value++;
		n -= 2;
	}
	return n == size && !memcmp(value, tag, size);
}

/* Volumes written by early versions of SeaweedFS have the sum in another form (weed/storage/needle/crc.go). */
static int same_sum(uint32_t said, uint32_t crc)
{
	return said == crc || said == (crc >> 15 | crc << 17) + 0xa282ead8u;
}

/* 0, or why it is not what was asked for. `head` ends with the line before the empty one. */
static int understood(struct job *j, const char *head, size_t size)
{
	struct sw_get *get = j->get;
	const char *line = head, *end = head + size;
	int lengths = 0, ranges = 0, tags = 0, first = 1;

	while (line < end) {
		const char *stop = memmem(line, (size_t)(end - line), "\r\n", 2), *value;
		size_t n, k;

		stop = stop ? stop : end;
		n = (size_t)(stop - line);
		if (first) {
			/* HTTP/1.x, and nothing else: "HTTP/1.1 200 OK". */
			if (n < 12 || memcmp(line, "HTTP/1.", 7) || line[8] != ' ' || (n > 12 && line[12] != ' '))
				return -EPROTO;
			for (int i = 9; i < 12; i++)
				if (line[i] < '0' || line[i] > '9')
					return -EPROTO;
			get->status = (line[9] - '0') * 100 + (line[10] - '0') * 10 + (line[11] - '0');
			j->kept = line[7] == '1';
			if (get->status != (get->partial ? 206 : 200))
				return -EBADMSG;
			first = 0;
		} else if (is_name(line, n, "content-length")) {
			value = value_of(line, n, &k);
			if (lengths++ || !is_number(value, k, get->length))
				return -EBADMSG;
		} else if (is_name(line, n, "content-range")) {
			value = value_of(line, n, &k);
			if (ranges++ || !get->partial || !is_range(value, k, get->first, get->length))
				return -EBADMSG;
		} else if (is_name(line, n, "etag")) {
			value = value_of(line, n, &k);
			j->summed = get->summed && is_sum(value, k, &j->sum);
			if (get->tag && (tags++ || !is_tag(value, k, get->tag, get->tag_len)))
				return -ESTALE;
		} else if (is_name(line, n, "transfer-encoding")) {
			return -EBADMSG;
		} else if (is_name(line, n, "content-encoding")) {
			value = value_of(line, n, &k);
			if (k && !is_value(value, k, "identity"))
				return -EBADMSG;
		} else if (is_name(line, n, "connection")) {
			value = value_of(line, n, &k);
			if (!is_value(value, k, "keep-alive"))
				j->kept = 0;
		} else if (!n || *line == ' ' || *line == '\t') {
			return -EPROTO;            /* a folded line, which may hide anything */
		}
		line = stop + 2;
	}
	if (get->tag && !tags)
		return -ESTALE;
	return !first && lengths && ranges == !!get->partial ? 0 : -EBADMSG;
}

/* ---- one GET ---- */

static void drop(struct job *j)
{
	if (j->fd >= 0)
		close(j->fd);
	j->fd = -1;
	j->state = ENDED;
}

static int is_second(const struct sw_gets *b, const struct job *j) { return j < b->jobs || j >= b->jobs + b->n; }

/* Of two requests for the same bytes, the first success or the last failure is what comes of them. */
static void end(struct sw_gets *b, struct job *j, int result)
{
	struct sw_get *get = j->get;

	if (j->fd >= 0 && !result && j->kept) {
		give_back(b->getter, get->address, j->fd);
		j->fd = -1;
	}
	drop(j);
	if (j->other && j->other->state != ENDED) {
		if (result)
			return;
		drop(j->other);
	}
	if (is_second(b, j)) {
		struct sw_get *first = j->other->get;

		first->status = get->status;
		first->crc = get->crc;
		first->second = result ? 1 : 2;
		if (!result)
			memcpy(first->buffer, get->buffer, get->length);
		get = first;
	}
	get->took_ns = now_ns(CLOCK_MONOTONIC) - b->began;
	get->result = result;
	b->ended++;
}

static void begin(struct sw_gets *b, struct job *j, int fresh)
{
	int connected = 1;

	j->sent = j->have = 0;
	j->kept = j->summed = 0;
	j->fd = fresh ? -1 : take_idle(b->getter, j->get->address);
	j->reused = j->fd >= 0;
	if (j->fd < 0) {
		int fd = connect_to(b->getter, j->get->address, &connected);

		if (fd < 0) {
			end(b, j, fd);
			return;
		}
		j->fd = fd;
	}
	j->state = connected ? SENDING : CONNECTING;
}

/* The connection ended. A kept one that was met dead, before the first byte of an answer, is no failure. */
static void hung_up(struct sw_gets *b, struct job *j, int err)
{
	if (!j->reused || j->state == BODY || (j->state == HEADERS && j->have)) {
		end(b, j, -err);
		return;
	}
	drop_address(b->getter, j->get->address);
	close(j->fd);
	j->fd = -1;
	begin(b, j, 1);
}

static void whole(struct sw_gets *b, struct job *j)
{
	struct sw_get *get = j->get;
	uint64_t done = 0;

	get->crc = sw_crc32c(0, get->buffer, get->length);
	if (j->summed && !same_sum(j->sum, get->crc)) {
		end(b, j, -EILSEQ);
		return;
	}
	while (get->fd >= 0 && done < get->length) {
		ssize_t n = pwrite(get->fd, (char *)get->buffer + done, get->length - done, (off_t)(get->offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			end(b, j, n < 0 ? -errno : -ENOSPC);
			return;
		}
		done += (uint64_t)n;
	}
	end(b, j, 0);
}

static void send_more(struct sw_gets *b, struct job *j)
{
	const struct sw_get *get = j->get;

	while (j->sent < get->request_len) {
		ssize_t n = send(j->fd, get->request + j->sent, get->request_len - j->sent, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n < 0) {
			hung_up(b, j, errno);
			return;
		}
		j->sent += (uint32_t)n;
	}
	j->state = HEADERS;
}

static void headers(struct sw_gets *b, struct job *j, size_t size)
{
	const char *body = j->head + size + 4;
	size_t rest = (size_t)(j->head + j->have - body);
	int r = understood(j, j->head, size);

	if (!r && rest > j->get->length)
		r = -EPROTO;               /* more than it said: nothing after it is of use */
	if (r) {
		end(b, j, r);
		return;
	}
	memcpy(j->get->buffer, body, rest);
	j->state = BODY;
	j->have = (uint32_t)rest;
	if (j->have == j->get->length)
		whole(b, j);
}

static void receive(struct sw_gets *b, struct job *j)
{
	int in_body = j->state == BODY;
	char *to = in_body ? (char *)j->get->buffer + j->have : j->head + j->have;
	size_t room = in_body ? j->get->length - j->have : HEAD - j->have;
	ssize_t n = recv(j->fd, to, room, MSG_DONTWAIT);
	char *found;

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n <= 0) {
		hung_up(b, j, n < 0 ? errno : EPIPE);
		return;
	}
	j->have += (uint32_t)n;
	if (in_body) {
		if (j->have == j->get->length)
			whole(b, j);
		return;
	}
	found = memmem(j->head, j->have, "\r\n\r\n", 4);
	if (found)
		headers(b, j, (size_t)(found - j->head));
	else if (j->have == HEAD)
		end(b, j, -EMSGSIZE);
}

static void go_on(struct sw_gets *b, struct job *j)
{
	if (j->state == CONNECTING) {
		int err = 0;
		socklen_t size = sizeof err;

		getsockopt(j->fd, SOL_SOCKET, SO_ERROR, &err, &size);
		if (err) {
			end(b, j, -err);
			return;
		}
		j->state = SENDING;
	}
	if (j->state == SENDING)
		send_more(b, j);
	else if (j->state != ENDED)
		receive(b, j);
}

/* ---- a batch ---- */

sw_gets *sw_gets_new(sw_getter *g, struct sw_get *gets, uint32_t n, uint64_t limit_ns, int *err)
{
	struct sw_gets *b;
	uint32_t known;

	*err = -EINVAL;
	if (!n || n > SW_GETS)
		return NULL;
	pthread_mutex_lock(&g->lock);
	known = g->naddresses;
	pthread_mutex_unlock(&g->lock);
	for (uint32_t i = 0; i < n; i++)
		if (gets[i].address >= known || !gets[i].length || !gets[i].request_len)
			return NULL;
	*err = -ENOMEM;
	b = malloc(sizeof *b + n * sizeof *b->jobs);
	if (!b)
		return NULL;
	pthread_mutex_lock(&g->lock);
	g->refs++;
	pthread_mutex_unlock(&g->lock);
	*b = (struct sw_gets){.getter = g, .n = n, .began = now_ns(CLOCK_MONOTONIC)};
	b->until = b->began + limit_ns;
	for (uint32_t i = 0; i < n; i++) {
		struct job *j = &b->jobs[i];

		gets[i].result = SW_GET_WAITS;
		gets[i].status = 0;
		gets[i].second = 0;
		j->get = &gets[i];
		j->fd = -1;
		j->other = NULL;
		begin(b, j, 0);
		if (j->state == SENDING)
			send_more(b, j);
	}
	*err = 0;
	return b;
}

static void end_all(struct sw_gets *b, int result)
{
	for (uint32_t i = 0; i < b->n; i++) {
		if (b->jobs[i].state != ENDED)
			end(b, &b->jobs[i], result);
		if (b->seconds[i] && b->seconds[i]->job.state != ENDED)
			end(b, &b->seconds[i]->job, result);
	}
}

int sw_gets_second(sw_gets *b, uint32_t i, const char *request, uint32_t request_len, uint32_t address)
{
	struct second *second;
	struct job *first, *j;
	uint32_t known;

	pthread_mutex_lock(&b->getter->lock);
	known = b->getter->naddresses;
	pthread_mutex_unlock(&b->getter->lock);
	if (i >= b->n || b->seconds[i] || b->jobs[i].state == ENDED || address >= known || !request_len)
		return -EINVAL;
	first = &b->jobs[i];
	second = calloc(1, sizeof *second);
	if (!second)
		return -ENOMEM;
	second->get = *first->get;
	second->get.request = request;
	second->get.request_len = request_len;
	second->get.address = address;
	second->get.buffer = malloc(second->get.length);
	if (!second->get.buffer) {
		free(second);
		return -ENOMEM;
	}
	b->seconds[i] = second;
	first->get->second = 1;
	j = &second->job;
	j->get = &second->get;
	j->fd = -1;
	j->other = first;
	first->other = j;
	begin(b, j, 0);
	if (j->state == SENDING)
		send_more(b, j);
	return 0;
}

/* Nanoseconds to wait for: 0 when it is time to come back. */
static uint64_t left(const struct sw_gets *b, uint64_t began, uint64_t linger_ns, uint64_t wait_ns)
{
	uint64_t now = now_ns(CLOCK_MONOTONIC), until = b->until;

	if (b->ended > b->told && began + linger_ns < until)
		until = began + linger_ns;
	if (wait_ns && began + wait_ns < until)
		until = began + wait_ns;
	return until > now ? until - now : 0;
}

static nfds_t watch(struct job *j, struct pollfd *fds, struct job **jobs, nfds_t n)
{
	if (j->state == ENDED)
		return n;
	jobs[n] = j;
	fds[n] = (struct pollfd){.fd = j->fd, .events = j->state <= SENDING ? POLLOUT : POLLIN};
	return n + 1;
}

int sw_gets_step(sw_gets *b, uint64_t linger_ns, uint64_t wait_ns)
{
	uint64_t began = now_ns(CLOCK_MONOTONIC), wait;
	struct pollfd fds[2 * SW_GETS + 1];
	struct job *jobs[2 * SW_GETS];
	int count;

	while (b->ended < b->n && (wait = left(b, began, linger_ns, wait_ns))) {
		struct timespec t = {.tv_sec = (time_t)(wait / 1000000000), .tv_nsec = (long)(wait % 1000000000)};
		nfds_t n = 0;

		for (uint32_t i = 0; i < b->n; i++) {
			n = watch(&b->jobs[i], fds, jobs, n);
			if (b->seconds[i])
				n = watch(&b->seconds[i]->job, fds, jobs, n);
		}
		fds[n] = (struct pollfd){.fd = b->getter->stop, .events = POLLIN};
		if (ppoll(fds, n + 1, &t, NULL) < 0 && errno != EINTR) {
			end_all(b, -errno);
			break;
		}
		if (fds[n].revents)
			end_all(b, -ESHUTDOWN);
		for (nfds_t i = 0; i < n; i++)
			if (fds[i].revents && jobs[i]->state != ENDED)
				go_on(b, jobs[i]);
	}
	if (b->ended < b->n && now_ns(CLOCK_MONOTONIC) >= b->until)
		end_all(b, -ETIMEDOUT);
	count = (int)(b->ended - b->told);
	b->told = b->ended;
	return count;
}

void sw_gets_free(sw_gets *b)
{
	end_all(b, -ECANCELED);
	for (uint32_t i = 0; i < b->n; i++) {
		if (b->seconds[i])
			free(b->seconds[i]->get.buffer);
		free(b->seconds[i]);
	}
	getter_put(b->getter);
	free(b);
}
