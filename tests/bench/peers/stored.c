/* stored.c: raw.c's GETs, each body written to a file on the disk and read from there by another process.
 *
 *   stored LIST DIR CONNECTIONS READERS bytes|requests    -> bytes or requests, seconds
 * What every mount with a cache has to do, and nothing else: no names, no rights, no index, no FUSE. So it bounds
 * what one can reach on a machine. LIST as in get.h, the lines of a file together and in order. Source file N
 * becomes DIR/ab/ID, ID = N + 1, ab = ID % 256 in hex, as in swmld's cache: made by the first request of it, as
 * long as the whole file, filled by pwrite(2). Reader R takes files R, R + READERS, ...: open, read(2) of 1 MiB
 * each until the end, close; it waits for those bytes alone that its next read needs. The folders are there before
 * the clock starts; it stops when all is read. Nothing is synced or removed.
 * Prints "COUNT SECONDS"; exits 1 with a message on any error. */
#include "get.h"
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define BLOCK (1L << 20) /* of a read */
#define PIECE (256 << 10) /* of a write: still in the CPU's cache when it is copied */
#define FOLDERS 256

/* A request as writer and reader see it, in shared memory. */
struct progress {
	atomic_uint bytes; /* stored, from its start; also what the reader sleeps on */
	atomic_uint need; /* bytes that a sleeping reader waits for; 0: none does */
};

struct file {
	pthread_mutex_t lock; /* of fd until it is open */
	int fd;
	atomic_long left; /* requests that are not stored */
	long size, first; /* bytes; its first line */
};

static struct target *targets;
static struct progress *progress;
static struct file *files;
static long count, file_count;
static const char *dir;
static atomic_long next, bytes;

static void path_of(char *path, size_t cap, long file)
{
	snprintf(path, cap, "%s/%02lx/%ld", dir, (file + 1) % FOLDERS, file + 1);
}

static void group_lines(void)
{
	for (long i = 0; i < count; i++) {
		const struct target *t = &targets[i];

		if (t->file == file_count) {
			files = realloc(files, (size_t)++file_count * sizeof *files);
			files[t->file] = (struct file){ .lock = PTHREAD_MUTEX_INITIALIZER, .fd = -1, .first = i };
		}
		if (t->file != file_count - 1 || t->offset != files[t->file].size || t->length < 1)
			errx(1, "line %ld does not follow on the one before", i + 1);
		files[t->file].size += t->length;
		files[t->file].left++;
	}
}

static void make_folders(void)
{
	char path[4096];

	for (int i = 0; i < FOLDERS; i++) {
		snprintf(path, sizeof path, "%s/%02x", dir, i);
		if (mkdir(path, 0700) < 0)
			err(1, "%s", path);
	}
}

/* --- writers: threads of this process --- */

static void open_once(struct file *f, long number)
{
	char path[4096];

	pthread_mutex_lock(&f->lock);
	if (f->fd < 0) {
		path_of(path, sizeof path, number);
		f->fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		if (f->fd < 0 || ftruncate(f->fd, f->size) < 0)
			err(1, "%s", path);
	}
	pthread_mutex_unlock(&f->lock);
}

static void store(const struct target *t, const char *body, size_t n, long at)
{
	struct progress *p = &progress[t - targets];
	unsigned need, stored = (unsigned)(at + (long)n);

	for (size_t done = 0; done < n;) {
		ssize_t wrote = pwrite(files[t->file].fd, body + done, n - done, t->offset + at + (long)done);

		if (wrote <= 0)
			err(1, "pwrite");
		done += (size_t)wrote;
	}
	/* A reader that sets `need` after this looks at `bytes` once more, in the kernel, before it sleeps. */
	atomic_store(&p->bytes, stored);
	need = atomic_load(&p->need);
	if (need && stored >= need) {
		atomic_store(&p->need, 0);
		syscall(SYS_futex, &p->bytes, FUTEX_WAKE, 1, NULL, NULL, 0);
	}
	atomic_fetch_add(&bytes, (long)n);
}

static void *work(void *unused)
{
	char *buf = malloc(PIECE);
	int fd = -1, port = 0;
	long i;

	(void)unused;
	while ((i = atomic_fetch_add(&next, 1)) < count) {
		struct file *f = &files[targets[i].file];

		if (port != targets[i].port) {
			if (fd >= 0)
				close(fd);
			fd = connect_to(port = targets[i].port);
		}
		open_once(f, targets[i].file);
		get(fd, &targets[i], buf, PIECE, MSG_WAITALL, store);
		if (atomic_fetch_sub(&f->left, 1) == 1)
			close(f->fd);
	}
	free(buf);
	return NULL;
}

/* --- readers: processes --- */

static void wait_for(struct progress *p, unsigned need)
{
	unsigned have;

	while ((have = atomic_load(&p->bytes)) < need) {
		atomic_store(&p->need, need);
		syscall(SYS_futex, &p->bytes, FUTEX_WAIT, have, NULL, NULL, 0);
	}
}

static void follow(long number, char *buf)
{
	const struct file *f = &files[number];
	long line = f->first, at = 0;
	char path[4096];
	int fd = -1;
	ssize_t n;

	path_of(path, sizeof path, number);
	for (; at < f->size; at += n) {
		long end = at + BLOCK < f->size ? at + BLOCK : f->size;

		for (; targets[line].offset + targets[line].length < end; line++)
			wait_for(&progress[line], (unsigned)targets[line].length);
		wait_for(&progress[line], (unsigned)(end - targets[line].offset));
		if (fd < 0 && (fd = open(path, O_RDONLY)) < 0)
			err(1, "%s", path);
		n = read(fd, buf, (size_t)BLOCK);
		if (n != end - at)
			err(1, "%s: read", path);
	}
	if (read(fd, buf, (size_t)BLOCK) != 0)
		errx(1, "%s is too long", path);
	close(fd);
}

static void start_reader(long first, long step)
{
	pid_t parent = getpid(), pid = fork();
	char *buf;

	if (pid < 0)
		err(1, "fork");
	if (pid)
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL); /* or it would wait for bytes that never come */
	if (getppid() != parent)
		_exit(1);
	buf = malloc((size_t)BLOCK);
	for (long i = first; i < file_count; i += step)
		follow(i, buf);
	_exit(0);
}

int main(int argc, char **argv)
{
	pthread_t threads[256];
	int connections, readers;
	double start;

	if (argc != 6 || (connections = atoi(argv[3])) < 1 || connections > 256 || (readers = atoi(argv[4])) < 1)
		errx(1, "usage: see the top of stored.c");
	dir = argv[2];
	targets = read_list(argv[1], &count);
	group_lines();
	make_folders();
	progress = mmap(NULL, (size_t)(count + 1) * sizeof *progress, PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (progress == MAP_FAILED)
		err(1, "mmap");
	start = now();
	for (int i = 0; i < readers; i++)
		start_reader(i, readers);
	for (int i = 0; i < connections; i++)
		if (pthread_create(&threads[i], NULL, work, NULL))
			errx(1, "pthread_create");
	for (int i = 0; i < connections; i++)
		pthread_join(threads[i], NULL);
	for (int i = 0; i < readers; i++) {
		int status;

		if (wait(&status) < 0 || status)
			errx(1, "a reader failed");
	}
	printf("%ld %.6f\n", strcmp(argv[5], "bytes") ? count : atomic_load(&bytes), now() - start);
	return 0;
}
