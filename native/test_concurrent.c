/* Everything at once, for ThreadSanitizer and AddressSanitizer: processes that look up, open, read and close; the
 * kernel's rules for what an open may be; Python opening, fetching and letting go; renames, evictions and forgets
 * between them. All bytes that anybody reads are those of the file that he opened.
 *
 * usage: test_concurrent [ROUNDS [SEED]] */
#include "test_kit.h"

#include <sys/uio.h>

#include <poll.h>
#include <sched.h>

#define FILES 16
#define CHUNK 4096
#define SIZE (3 * CHUNK + 100)
#define PROCESSES 4
#define INODES 4096

static struct kit *k;
static sw_session *s;
static int rounds = 1500;
static _Atomic int running = PROCESSES;
static uint64_t ino_of[FILES]; /* of the source file that holds the bytes of this number */

static unsigned roll(unsigned *seed, unsigned n)
{
	*seed = *seed * 1664525 + 1013904223;
	return (*seed >> 8) % n;
}

static char byte_of(int file, size_t at)
{
	return (char)(file * 31 + (int)at * 7 + (int)(at >> 12));
}

static int file_of(uint64_t ino)
{
	for (int i = 0; i < FILES; i++)
		if (ino_of[i] == ino)
			return i;
	return -1;
}

/* ---- the kernel ---- */

/* An inode of the kernel: references, and the mode it is in (fs/fuse/iomode.c). */
struct inode {
	uint64_t id, nlookup;
	int users;             /* processes between lookup and forget */
	int cached;            /* opens that use the page cache */
	int passed, backing;   /* opens passed through, and where to */
};

struct call {
	uint64_t unique;
	int err;
	size_t n;
	char *body;
	struct call *next;
};

static pthread_mutex_t kernel_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t answered = PTHREAD_COND_INITIALIZER;
static struct inode inodes[INODES];
static struct call *calls;
static uint64_t last_unique = 1000;
static _Atomic uint64_t ends; /* seen by the thread that hears the answers */

static void *hears(void *arg)
{
	char *msg = malloc(SW_MSG_MAX);
	struct fuse_out_header *h = (struct fuse_out_header *)msg;

	for (;;) {
		ssize_t n = recv(k->kernel, msg, SW_MSG_MAX, 0);
		struct call *c;

		if (n <= 0)
			break;
		CHECK(n >= (ssize_t)sizeof *h && h->len == n);
		pthread_mutex_lock(&kernel_lock);
		for (c = calls; c && c->unique != h->unique; c = c->next)
			;
		CHECK(c && !c->body); /* answered once, and only what was asked */
		c->err = h->error;
		c->n = (size_t)n - sizeof *h;
		c->body = malloc(c->n + 1);
		memcpy(c->body, msg + sizeof *h, c->n);
		pthread_cond_broadcast(&answered);
		pthread_mutex_unlock(&kernel_lock);
	}
	free(msg);
	return NULL;
}

static void post(struct call *c, uint32_t op, uint64_t nodeid, const void *arg, size_t n)
{
	struct fuse_in_header h = {.len = (uint32_t)(sizeof h + n), .opcode = op, .nodeid = nodeid, .pid = (uint32_t)getpid()};

	pthread_mutex_lock(&kernel_lock);
	h.unique = last_unique += 2;
	if (c) {
		*c = (struct call){.unique = h.unique, .next = calls};
		calls = c;
	}
	pthread_mutex_unlock(&kernel_lock);
	k_raw(k, (struct iovec[2]){{&h, sizeof h}, {(void *)(uintptr_t)arg, n}}, 2);
}

static int finish(struct call *c)
{
	struct call **p = &calls;
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	t.tv_sec += 60;
	pthread_mutex_lock(&kernel_lock);
	while (!c->body)
		CHECK(!pthread_cond_timedwait(&answered, &kernel_lock, &t));
	while (*p != c)
		p = &(*p)->next;
	*p = c->next;
	pthread_mutex_unlock(&kernel_lock);
	return c->err;
}

static int ask(struct call *c, uint32_t op, uint64_t nodeid, const void *arg, size_t n)
{
	post(c, op, nodeid, arg, n);
	return finish(c);
}

/* Under kernel_lock. */
static struct inode *inode_of(uint64_t id)
{
	struct inode *i;

	for (uint64_t at = id;; at++) {
		i = &inodes[at % INODES];
		if (i->id == id)
			return i;
		if (!i->id) {
			i->id = id;
			return i;
		}
	}
}

static int look_up(uint64_t parent, const char *name, struct fuse_entry_out *e)
{
	struct call c;
	int err = ask(&c, FUSE_LOOKUP, parent, name, strlen(name) + 1);

	if (!err) {
		memcpy(e, c.body, sizeof *e);
		pthread_mutex_lock(&kernel_lock);
		inode_of(e->nodeid)->nlookup++;
		inode_of(e->nodeid)->users++;
		pthread_mutex_unlock(&kernel_lock);
	}
	free(c.body);
	return err;
}

static void put(uint64_t id, int forget)
{
	struct fuse_forget_in f = {0};
	struct inode *i;

	pthread_mutex_lock(&kernel_lock);
	i = inode_of(id);
	if (--i->users == 0 && forget) {
		f.nlookup = i->nlookup;
		i->nlookup = 0;
	}
	pthread_mutex_unlock(&kernel_lock);
	if (f.nlookup)
		post(NULL, FUSE_FORGET, id, &f, sizeof f);
}

static void mode_enter_(uint64_t id, const struct fuse_open_out *o)
{
	struct inode *i;

	pthread_mutex_lock(&kernel_lock);
	i = inode_of(id);
	if (o->open_flags & FOPEN_PASSTHROUGH) {
		EQUAL(i->cached, 0);                                       /* else ETXTBSY */
		CHECK(!i->passed || i->backing == (int)o->padding);        /* else EBUSY */
		CHECK(kit_backing_read((int32_t)o->padding, (char[1]){0}, 1, 0) == 1); /* else EINVAL */
		i->passed++;
		i->backing = (int)o->padding;
	} else if (!(o->open_flags & FOPEN_DIRECT_IO)) {
		EQUAL(i->passed, 0); /* else EINVAL */
		i->cached++;
	}
	pthread_mutex_unlock(&kernel_lock);
}

static void mode_leave_(uint64_t id, const struct fuse_open_out *o)
{
	struct inode *i;

	pthread_mutex_lock(&kernel_lock);
	i = inode_of(id);
	if (o->open_flags & FOPEN_PASSTHROUGH)
		i->passed--;
	else if (!(o->open_flags & FOPEN_DIRECT_IO))
		i->cached--;
	pthread_mutex_unlock(&kernel_lock);
}

static void read_some(uint64_t id, const struct fuse_open_out *o, int file, unsigned *seed)
{
	struct fuse_read_in in = {.fh = o->fh, .offset = roll(seed, SIZE), .size = 1 + roll(seed, SIZE)};
	char own[SIZE], *bytes = own;
	struct call c = {0};
	size_t n;

	if (o->open_flags & FOPEN_PASSTHROUGH && !(o->open_flags & FOPEN_DIRECT_IO)) {
		ssize_t r = kit_backing_read((int32_t)o->padding, own, in.size, (off_t)in.offset);

		CHECK(r >= 0);
		n = (size_t)r;
	} else {
		post(&c, FUSE_READ, id, &in, sizeof in);
		if (roll(seed, 4) == 0) { /* a signal that does not kill */
			struct fuse_interrupt_in i = {.unique = c.unique};

			post(NULL, FUSE_INTERRUPT, 0, &i, sizeof i);
		}
		EQUAL(finish(&c), 0);
		bytes = c.body;
		n = c.n;
	}
	EQUAL(n, in.offset + in.size > SIZE ? SIZE - in.offset : in.size);
	for (size_t i = 0; i < n; i++)
		if (bytes[i] != byte_of(file, in.offset + i))
			EQUAL(i, SIZE); /* another file's bytes */
	free(c.body);
}

static void open_one(uint64_t id, int file, unsigned *seed)
{
	struct fuse_open_in in = {.flags = roll(seed, 12) ? O_RDONLY : O_RDWR};
	struct fuse_release_in rel = {0};
	struct fuse_open_out o;
	struct call c;
	int err = ask(&c, FUSE_OPEN, id, &in, sizeof in);

	if (!err)
		memcpy(&o, c.body, sizeof o);
	free(c.body);
	if (err) {
		CHECK(err == -ESTALE); /* the kernel looks the name up again */
		return;
	}
	mode_enter_(id, &o);
	for (unsigned i = roll(seed, 4); i; i--)
		read_some(id, &o, file, seed);
	rel.fh = o.fh;
	mode_leave_(id, &o);
	EQUAL(ask(&c, FUSE_RELEASE, id, &rel, sizeof rel), 0);
	free(c.body);
}

static void list_one(unsigned *seed)
{
	struct fuse_read_in in = {.size = 4096};
	struct fuse_open_in open = {0};
	struct call c;

	EQUAL(ask(&c, FUSE_OPENDIR, SW_ROOT, &open, sizeof open), 0);
	in.fh = ((struct fuse_open_out *)c.body)->fh;
	free(c.body);
	EQUAL(ask(&c, FUSE_READDIRPLUS, SW_ROOT, &in, sizeof in), 0);
	for (size_t at = 0; at < c.n;) {
		struct fuse_entry_out *e = (struct fuse_entry_out *)(c.body + at);
		struct fuse_dirent *d = (struct fuse_dirent *)(e + 1);

		if (e->nodeid) {
			pthread_mutex_lock(&kernel_lock);
			inode_of(e->nodeid)->nlookup++;
			inode_of(e->nodeid)->users++;
			pthread_mutex_unlock(&kernel_lock);
			put(e->nodeid, roll(seed, 2) != 0);
		}
		at += sizeof *e + FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + d->namelen);
	}
	free(c.body);
	EQUAL(ask(&c, FUSE_RELEASEDIR, SW_ROOT, &(struct fuse_release_in){.fh = in.fh}, sizeof(struct fuse_release_in)), 0);
	free(c.body);
}

static void *process(void *arg)
{
	unsigned seed = (unsigned)(uintptr_t)arg;

	for (int i = 0; i < rounds; i++) {
		struct fuse_getattr_in in = {0};
		struct fuse_entry_out e;
		struct call c;
		char name[16];
		int file;

		if (roll(&seed, 20) == 0)
			list_one(&seed);
		snprintf(name, sizeof name, "f%u%s", roll(&seed, FILES), roll(&seed, 2) ? "" : "-moved");
		if (look_up(SW_ROOT, name, &e))
			continue;
		file = file_of(e.attr.ino);
		CHECK(file >= 0 && e.attr.size == SIZE);
		if (roll(&seed, 4) == 0) {
			int err = ask(&c, FUSE_GETATTR, e.nodeid, &in, sizeof in);

			CHECK(err == 0 || err == -ESTALE);
			CHECK(err || ((struct fuse_attr_out *)c.body)->attr.ino == e.attr.ino);
			free(c.body);
		}
		for (unsigned j = roll(&seed, 3); j; j--)
			open_one(e.nodeid, file, &seed);
		put(e.nodeid, roll(&seed, 3) == 0);
	}
	running--;
	return NULL;
}

/* ---- Python: one loop ---- */

/* Of each open file that Python answered. */
struct open_file {
	uint64_t id, file_id;
	int from_source;
};

static pthread_mutex_t cache_lock = PTHREAD_MUTEX_INITIALIZER; /* the cache's files: Python and the evictor */
static uint64_t cached_id[FILES], last_file_id = 100;
static struct open_file open_files[1024];
static int nopen_files;

static struct open_file *state_of(uint64_t id)
{
	for (int i = 0; i < nopen_files; i++)
		if (open_files[i].id == id)
			return &open_files[i];
	CHECK(nopen_files < 1024);
	open_files[nopen_files] = (struct open_file){.id = id};
	return &open_files[nopen_files++];
}

static void state_drop(uint64_t id)
{
	struct open_file *f = state_of(id);

	if (sw_detach(s, id))
		*f = open_files[--nopen_files];
}

static int data_open_(uint64_t file_id)
{
	char path[64];

	snprintf(path, sizeof path, "%02x/%llu", (unsigned)(file_id & 0xff), (unsigned long long)file_id);
	return openat(k->data, path, O_RDWR | O_CLOEXEC);
}

static void drop(int file)
{
	uint64_t id;
	char path[64];

	pthread_mutex_lock(&cache_lock);
	id = cached_id[file];
	cached_id[file] = 0;
	pthread_mutex_unlock(&cache_lock);
	if (!id)
		return;
	sw_evict(s, sw_node_of(s, 0, ino_of[file]), id);
	snprintf(path, sizeof path, "%02x/%llu", (unsigned)(id & 0xff), (unsigned long long)id);
	CHECK(!unlinkat(k->data, path, 0));
}

/* A descriptor of the file's whole cache file, made if it is not there; its number in *id. */
static int acquire(int file, uint64_t *id)
{
	char bytes[SIZE];
	int fd = -1;

	pthread_mutex_lock(&cache_lock);
	if (!cached_id[file]) {
		for (size_t i = 0; i < SIZE; i++)
			bytes[i] = byte_of(file, i);
		kit_data_file(k, ++last_file_id, bytes, SIZE);
		cached_id[file] = last_file_id;
	}
	*id = cached_id[file];
	fd = data_open_(*id);
	pthread_mutex_unlock(&cache_lock);
	CHECK(fd >= 0);
	return fd;
}

static int64_t open_source_(struct open_file *f, int writer)
{
	int fd = sw_open_source(s, f->id, O_RDWR, 1), mode;
	int64_t fh;
	struct sw_entry e;

	if (fd < 0)
		return fd;
	if (writer) {
		mode = sw_begin_write(s, f->id);
		if (mode < 0) {
			close(fd);
			return mode;
		}
		if (mode == SW_PASS_CACHE) {
			int mirror = sw_mirror_fd(s, f->id);

			CHECK(mirror >= 0 || mirror == -ESTALE); /* the readers may have gone */
			if (mirror >= 0)
				close(mirror);
		}
		if (mode == SW_CACHED)
			sw_bypass(s, f->id, 1);
		if (!sw_cached_entry(s, f->id, &e))
			drop(file_of(e.ino));
	}
	f->from_source = 1;
	fh = sw_open_file(s, f->id, SW_WANT_SOURCE, fd, writer, 1);
	if (fh > 0 && !(sw_open_flags((uint64_t)fh) & FOPEN_PASSTHROUGH))
		sw_bypass(s, f->id, 1);
	if (fh <= 0 && writer)
		sw_end_write(s, f->id);
	if (fh <= 0 || !writer)
		close(fd);
	return fh;
}

static int64_t open_cached(struct open_file *f, int file, int partial, unsigned *seed)
{
	unsigned char bits = (unsigned char)roll(seed, 16);
	struct sw_entry e;
	uint64_t id;
	int64_t fh;
	int fd = acquire(file, &id);

	if (sw_getattr(s, f->id, &e)) {
		close(fd);
		return -ESTALE;
	}
	if (!partial)
		sw_set_complete(s, f->id, id, e.size, e.mtime_ns, e.ctime_ns, (int)roll(seed, 2));
	fh = sw_open_file(s, f->id, partial ? SW_WANT_PARTIAL : SW_WANT_COMPLETE, fd, 0, 1);
	if (fh > 0 && !(sw_open_flags((uint64_t)fh) & FOPEN_PASSTHROUGH) && f->file_id != id) {
		EQUAL(sw_set_cfile(s, f->id, fd, SIZE, CHUNK, partial ? &bits : (const unsigned char *)"\17"), 0);
		f->file_id = id;
	}
	close(fd);
	return fh;
}

static void opens(struct fuse_in_header *h, unsigned *seed)
{
	struct fuse_open_in *in = (struct fuse_open_in *)(h + 1);
	struct open_file *f = state_of(h->nodeid);
	struct fuse_open_out o = {0};
	struct sw_entry e;
	int64_t fh;

	if (sw_cached_entry(s, h->nodeid, &e))
		fh = -ESTALE;
	else if ((in->flags & O_ACCMODE) != O_RDONLY)
		fh = open_source_(f, 1);
	else if (f->from_source)
		fh = open_source_(f, 0);
	else
		fh = open_cached(f, file_of(e.ino), roll(seed, 3) == 0, seed);
	o.fh = (uint64_t)fh;
	if (fh > 0 && roll(seed, 30) == 0) { /* the open fails after all */
		struct handle *x = (struct handle *)(uintptr_t)fh;
		int fd = x->fd, writer = x->writer;

		sw_open_undo(s, o.fh);
		if (writer) {
			sw_end_write(s, h->nodeid);
			close(fd);
		}
		fh = -ESTALE;
	}
	p_reply(k, h->unique, fh < 0 ? (int)fh : 0, &o, fh < 0 ? 0 : sizeof o);
	state_drop(h->nodeid);
}

static void releases(struct fuse_in_header *h)
{
	uint64_t fh = ((struct fuse_release_in *)(h + 1))->fh;
	struct handle *x = (struct handle *)(uintptr_t)fh;

	if (x->writer) {
		sw_end_write(s, h->nodeid);
		close(x->fd);
	}
	sw_handle_free(s, fh);
	p_reply(k, h->unique, 0, NULL, 0);
}

static void reads(struct fuse_in_header *h)
{
	struct fuse_read_in *in = (struct fuse_read_in *)(h + 1);
	char bytes[SIZE];
	struct sw_entry e;
	size_t n = 0;

	EQUAL(sw_cached_entry(s, h->nodeid, &e), 0);
	for (; in->offset + n < SIZE && n < in->size; n++)
		bytes[n] = byte_of(file_of(e.ino), in->offset + n);
	p_reply(k, h->unique, 0, bytes, n);
}

static void told(const struct sw_event *e)
{
	switch (e->kind) {
	case SW_EV_MISS:
		for (uint64_t c = e->chunk; c < e->stop; c++)
			if (c & 1)
				sw_landed(s, e->nodeid, c);
			else
				sw_failed(s, e->nodeid, c, 0);
		break;
	case SW_EV_IDLE:
		state_drop(e->nodeid);
		break;
	case SW_EV_DOWN:
		CHECK(0);
	}
}

static void *python(void *arg)
{
	unsigned seed = 77;
	struct pollfd p[2] = {{.fd = k->peer, .events = POLLIN}, {.fd = sw_event_fd(s), .events = POLLIN}};

	while (!ends || poll(p, 2, 0) > 0) {
		struct sw_event e[64];

		if (poll(p, 2, 10) <= 0)
			continue;
		if (p[1].revents)
			for (int i = 0, n = sw_events(s, e, 64); i < n; i++)
				told(&e[i]);
		if (!p[0].revents)
			continue;
		struct fuse_in_header *h = p_recv(k);
		switch (h->opcode) {
		case FUSE_OPEN:
			opens(h, &seed);
			break;
		case FUSE_RELEASE:
			releases(h);
			break;
		case FUSE_READ:
			reads(h);
			break;
		default:
			p_reply(k, h->unique, -ESTALE, NULL, 0);
		}
	}
	return NULL;
}

/* ---- everybody else ---- */

static pthread_mutex_t rename_lock = PTHREAD_MUTEX_INITIALIZER;

static void *others(void *arg)
{
	unsigned seed = (unsigned)(uintptr_t)arg;

	while (running) {
		int file = (int)roll(&seed, FILES);
		char a[32], b[32], path[256];
		struct sw_counters c;
		struct sw_entry e;
		uint64_t last;
		uint32_t n;

		snprintf(a, sizeof a, "f%d", file);
		snprintf(b, sizeof b, "f%d-moved", file);
		switch (roll(&seed, 8)) {
		case 0: /* there and back; the kernel lets one rename at a time into a directory */
			pthread_mutex_lock(&rename_lock);
			for (int i = 0; i < 2; i++) {
				const char *from = i ? b : a, *to = i ? a : b;

				sw_before_unlink(s, SW_ROOT, to);
				CHECK(!renameat(k->root, from, k->root, to));
				sw_renamed(s, SW_ROOT, from, SW_ROOT, to, 0);
			}
			pthread_mutex_unlock(&rename_lock);
			break;
		case 1:
		case 2:
			drop(file);
			break;
		case 3:
			if (!sw_lookup(s, SW_ROOT, a, 0, &e))
				sw_path(s, e.nodeid, path, sizeof path);
			break;
		case 4:
			sw_counters_read(s, &c);
			sw_usage(s, sw_node_of(s, 0, ino_of[file]), &last, &n);
			break;
		case 5:
			if (!sw_lookup(s, SW_ROOT, a, 1, &e)) {
				int fd = sw_open_source(s, e.nodeid, O_RDONLY, 1);

				if (fd >= 0)
					close(fd);
				sw_forget(s, e.nodeid, 1);
			}
			break;
		default:
			sw_told_old(s, sw_node_of(s, 0, ino_of[file]));
			close(sw_dir_fd(s, SW_ROOT));
		}
		sched_yield();
	}
	return NULL;
}

static int at_rest(struct kit *unused)
{
	struct sw_counters c;
	uint32_t open = 0;

	lock(s);
	for (uint64_t i = 0; i < s->nbuckets; i++)
		for (struct node *n = s->by_id[i]; n; n = n->hid)
			open += n->opens + n->used->writers + n->attached;
	unlock(s);
	sw_counters_read(s, &c);
	return !open && c.backings == (uint64_t)kit_backings() && c.backings <= s->config.max_backing &&
	       c.parked == c.unparked;
}

static void run(int passthrough, unsigned seed)
{
	pthread_t t[PROCESSES + 4];
	char bytes[SIZE], name[16];
	struct stat st;

	kit_config.passthrough = passthrough;
	kit_config.threads = 4;
	kit_config.idle_nodes = 6;
	kit_config.max_backing = 4;
	kit_config.follow = 1;
	k = kit_new();
	s = k->s;
	memset(inodes, 0, sizeof inodes);
	memset(cached_id, 0, sizeof cached_id);
	nopen_files = 0;
	running = PROCESSES;
	ends = 0;
	for (int f = 0; f < FILES; f++) {
		snprintf(name, sizeof name, "f%d", f);
		for (size_t i = 0; i < SIZE; i++)
			bytes[i] = byte_of(f, i);
		int fd = openat(k->root, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
		EQUAL(write(fd, bytes, SIZE), SIZE);
		CHECK(!fstat(fd, &st));
		ino_of[f] = st.st_ino;
		close(fd);
	}
	kit_start(k);
	kit_init(k);
	CHECK(!pthread_create(&t[PROCESSES], NULL, hears, NULL));
	CHECK(!pthread_create(&t[PROCESSES + 1], NULL, python, NULL));
	for (int i = 0; i < PROCESSES; i++)
		CHECK(!pthread_create(&t[i], NULL, process, (void *)(uintptr_t)(seed * 100 + (unsigned)i)));
	for (int i = 0; i < 2; i++)
		CHECK(!pthread_create(&t[PROCESSES + 2 + i], NULL, others, (void *)(uintptr_t)(seed * 100 + 50 + (unsigned)i)));
	for (int i = 0; i < PROCESSES; i++)
		pthread_join(t[i], NULL);
	pthread_join(t[PROCESSES + 2], NULL);
	pthread_join(t[PROCESSES + 3], NULL);
	CHECK(kit_wait(at_rest, k));
	ends = 1;
	pthread_join(t[PROCESSES + 1], NULL);
	shutdown(k->kernel, SHUT_RD); /* only the listener ends */
	pthread_join(t[PROCESSES], NULL);
	kit_free(k);
	kit_defaults();
}

int main(int argc, char **argv)
{
	unsigned seed = argc > 2 ? (unsigned)atoi(argv[2]) : 1;

	if (argc > 1)
		rounds = atoi(argv[1]);
	kit_defaults();
	run(1, seed);
	run(0, seed + 1);
	return kit_done();
}
