/* slowfs: a directory served through FUSE as slowly, and as badly, as a test asks for.
 *
 *   slowfs SOURCE MOUNTPOINT [--delay-read-ms N] [--delay-meta-ms N] [--rate MB/s] [--control SOCKET]
 *          [--cache-seconds S] [--direct-io] [--hard] [--serialize-lookups]
 *
 * Stands in for a network file system, whose kernel client test machines often lack. Each request waits its own
 * delay, many at a time (MAX_THREADS), and all data shares one rate, as over one link. A Unix datagram socket takes
 * commands while it runs and answers each with one line:
 *
 *   ok | hang | hang-read | eio | short      what happens to requests from now on (short: half of each read)
 *   delay-read MS, delay-meta MS, rate MB/s  change the figures
 *   stats                                    JSON: requests, bytes, in flight, most in flight at once
 *
 * A hung request ends with EINTR when its caller is killed, as NFS does; --hard lets it hang on.
 * Lookups in one directory run in parallel, as an NFS client's do, unless --serialize-lookups.
 * Owner and mode are those of the caller (it must run as root), inode numbers are those of SOURCE. */
#define _GNU_SOURCE
#define FUSE_USE_VERSION 314
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse3/fuse.h>
#include <fuse3/fuse_lowlevel.h>
#include <getopt.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define MAX_THREADS 128 /* requests in flight; a fetcher keeps some tens */
#define BURST_NS 5000000 /* the link may send this much ahead of an even pace */
#define MAX_IO (1u << 20)

enum mode { OK, HANG, HANG_READ, BROKEN, SHORT };
enum kind { META, DATA };

static int root = -1;
static _Atomic int mode = OK;
static _Atomic long delay_us[2];
static _Atomic long rate_mb; /* 0: no limit */
static int hard, direct_io, stop_control;
static int serialize;
static double cache_seconds;
static _Atomic long requests[2], bytes_read, bytes_written, opens, in_flight, most_in_flight;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed;
static long long link_free_at;

static long long now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void sleep_until(long long when)
{
	struct timespec t = { when / 1000000000LL, when % 1000000000LL };
	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
		;
}

/* When the link has carried n bytes more. */
static long long link_slot(size_t n)
{
	long rate = rate_mb;
	long long now = now_ns(), at;

	if (!rate || !n)
		return now;
	pthread_mutex_lock(&lock);
	if (link_free_at < now - BURST_NS)
		link_free_at = now - BURST_NS;
	link_free_at += (long long)n * 1000 / rate;
	at = link_free_at;
	pthread_mutex_unlock(&lock);
	return at;
}

static int hung(enum kind kind)
{
	return mode == HANG || (mode == HANG_READ && kind == DATA);
}

static int wait_while_hung(enum kind kind)
{
	int err = 0;

	pthread_mutex_lock(&lock);
	while (hung(kind) && !err) {
		struct timespec t;
		clock_gettime(CLOCK_MONOTONIC, &t);
		t.tv_nsec += 20000000; /* an INTERRUPT has no way to signal the condition */
		t.tv_sec += t.tv_nsec / 1000000000;
		t.tv_nsec %= 1000000000;
		pthread_cond_timedwait(&changed, &lock, &t);
		if (!hard && fuse_interrupted())
			err = -EINTR;
	}
	pthread_mutex_unlock(&lock);
	return err;
}

/* What every request passes first: 0, or the error it ends with. */
static int enter(enum kind kind, size_t n)
{
	long long start = now_ns(), slot;
	long flying = ++in_flight, most = most_in_flight;
	int err;

	while (flying > most && !atomic_compare_exchange_weak(&most_in_flight, &most, flying))
		;
	requests[kind]++;
	err = wait_while_hung(kind);
	if (!err) {
		slot = link_slot(n);
		if (slot < start + delay_us[kind] * 1000LL)
			slot = start + delay_us[kind] * 1000LL;
		sleep_until(slot);
		err = wait_while_hung(kind); /* a request under way when the link breaks hangs too */
	}
	if (!err && mode == BROKEN && kind == DATA)
		err = -EIO;
	in_flight--;
	return err;
}

#define ENTER(kind, n)                        \
	do {                                  \
		int err_ = enter((kind), (n)); \
		if (err_)                     \
			return err_;          \
	} while (0)
#define RESULT(call) return (call) < 0 ? -errno : 0

static const char *rel(const char *path)
{
	return path[1] ? path + 1 : ".";
}

/* What was made as root becomes the caller's. */
static int give_to_caller(const char *path)
{
	struct fuse_context *c = fuse_get_context();
	RESULT(fchownat(root, rel(path), c->uid, c->gid, AT_SYMLINK_NOFOLLOW));
}

static char *through_fd(char *buf, size_t size, const char *path)
{
	snprintf(buf, size, "/proc/self/fd/%d/%s", root, rel(path));
	return buf;
}

static int fs_getattr(const char *path, struct stat *st, struct fuse_file_info *fi)
{
	ENTER(META, 0);
	if (fi)
		RESULT(fstat(fi->fh, st));
	RESULT(fstatat(root, rel(path), st, AT_SYMLINK_NOFOLLOW));
}

static int fs_access(const char *path, int mask)
{
	ENTER(META, 0);
	RESULT(faccessat(root, rel(path), mask, 0));
}

static int fs_readlink(const char *path, char *buf, size_t size)
{
	ssize_t n;
	ENTER(META, 0);
	n = readlinkat(root, rel(path), buf, size - 1);
	if (n < 0)
		return -errno;
	buf[n] = 0;
	return 0;
}

static int fs_readdir(const char *path, void *buf, fuse_fill_dir_t fill, off_t off, struct fuse_file_info *fi,
		      enum fuse_readdir_flags flags)
{
	int fd;
	DIR *d;
	struct dirent *e;
	(void)off, (void)fi, (void)flags;
	ENTER(META, 0);
	fd = openat(root, rel(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	d = fdopendir(fd);
	while ((e = readdir(d))) {
		struct stat st = { .st_ino = e->d_ino, .st_mode = e->d_type << 12 };
		if (fill(buf, e->d_name, &st, 0, 0))
			break;
	}
	closedir(d);
	return 0;
}

static int fs_open(const char *path, struct fuse_file_info *fi)
{
	int fd;
	ENTER(META, 0);
	opens++;
	fd = openat(root, rel(path), (fi->flags & ~(O_CREAT | O_EXCL | O_DIRECT | O_APPEND)) | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	fi->fh = fd;
	fi->direct_io = direct_io;
	return 0;
}

static int fs_create(const char *path, mode_t m, struct fuse_file_info *fi)
{
	int fd;
	ENTER(META, 0);
	fd = openat(root, rel(path), (fi->flags & ~(O_DIRECT | O_APPEND)) | O_CREAT | O_CLOEXEC, m);
	if (fd < 0)
		return -errno;
	fi->fh = fd;
	fi->direct_io = direct_io;
	return give_to_caller(path);
}

static int fs_read(const char *path, char *buf, size_t size, off_t off, struct fuse_file_info *fi)
{
	ssize_t n;
	(void)path;
	ENTER(DATA, size);
	if (mode == SHORT)
		size = size > 1 ? size / 2 : size;
	n = pread(fi->fh, buf, size, off);
	if (n > 0)
		bytes_read += n;
	return n < 0 ? -errno : n;
}

static int fs_write(const char *path, const char *buf, size_t size, off_t off, struct fuse_file_info *fi)
{
	ssize_t n;
	(void)path;
	ENTER(DATA, size);
	n = pwrite(fi->fh, buf, size, off);
	if (n > 0)
		bytes_written += n;
	return n < 0 ? -errno : n;
}

static int fs_release(const char *path, struct fuse_file_info *fi)
{
	(void)path;
	close(fi->fh);
	return 0;
}

static int fs_fsync(const char *path, int data_only, struct fuse_file_info *fi)
{
	(void)path;
	ENTER(META, 0);
	RESULT(data_only ? fdatasync(fi->fh) : fsync(fi->fh));
}

static int fs_mknod(const char *path, mode_t m, dev_t dev)
{
	ENTER(META, 0);
	if (mknodat(root, rel(path), m, dev) < 0)
		return -errno;
	return give_to_caller(path);
}

static int fs_mkdir(const char *path, mode_t m)
{
	ENTER(META, 0);
	if (mkdirat(root, rel(path), m) < 0)
		return -errno;
	return give_to_caller(path);
}

static int fs_symlink(const char *target, const char *path)
{
	ENTER(META, 0);
	if (symlinkat(target, root, rel(path)) < 0)
		return -errno;
	return give_to_caller(path);
}

static int fs_unlink(const char *path)
{
	ENTER(META, 0);
	RESULT(unlinkat(root, rel(path), 0));
}

static int fs_rmdir(const char *path)
{
	ENTER(META, 0);
	RESULT(unlinkat(root, rel(path), AT_REMOVEDIR));
}

static int fs_rename(const char *from, const char *to, unsigned flags)
{
	ENTER(META, 0);
	RESULT(renameat2(root, rel(from), root, rel(to), flags));
}

static int fs_link(const char *from, const char *to)
{
	ENTER(META, 0);
	RESULT(linkat(root, rel(from), root, rel(to), 0));
}

static int fs_chmod(const char *path, mode_t m, struct fuse_file_info *fi)
{
	ENTER(META, 0);
	(void)fi;
	RESULT(fchmodat(root, rel(path), m, 0));
}

static int fs_chown(const char *path, uid_t u, gid_t g, struct fuse_file_info *fi)
{
	ENTER(META, 0);
	(void)fi;
	RESULT(fchownat(root, rel(path), u, g, AT_SYMLINK_NOFOLLOW));
}

static int fs_truncate(const char *path, off_t size, struct fuse_file_info *fi)
{
	int fd, err;
	ENTER(META, 0);
	if (fi)
		RESULT(ftruncate(fi->fh, size));
	fd = openat(root, rel(path), O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	err = ftruncate(fd, size) < 0 ? -errno : 0;
	close(fd);
	return err;
}

static int fs_utimens(const char *path, const struct timespec t[2], struct fuse_file_info *fi)
{
	ENTER(META, 0);
	(void)fi;
	RESULT(utimensat(root, rel(path), t, AT_SYMLINK_NOFOLLOW));
}

static int fs_statfs(const char *path, struct statvfs *st)
{
	ENTER(META, 0);
	(void)path;
	RESULT(fstatvfs(root, st));
}

static int fs_fallocate(const char *path, int m, off_t off, off_t n, struct fuse_file_info *fi)
{
	ENTER(META, 0);
	(void)path;
	RESULT(fallocate(fi->fh, m, off, n));
}

static int fs_setxattr(const char *path, const char *name, const char *value, size_t n, int flags)
{
	char buf[8192];
	ENTER(META, 0);
	RESULT(lsetxattr(through_fd(buf, sizeof buf, path), name, value, n, flags));
}

static int fs_getxattr(const char *path, const char *name, char *value, size_t n)
{
	char buf[8192];
	ssize_t got;
	ENTER(META, 0);
	got = lgetxattr(through_fd(buf, sizeof buf, path), name, value, n);
	return got < 0 ? -errno : got;
}

static int fs_listxattr(const char *path, char *list, size_t n)
{
	char buf[8192];
	ssize_t got;
	ENTER(META, 0);
	got = llistxattr(through_fd(buf, sizeof buf, path), list, n);
	return got < 0 ? -errno : got;
}

static int fs_removexattr(const char *path, const char *name)
{
	char buf[8192];
	ENTER(META, 0);
	RESULT(lremovexattr(through_fd(buf, sizeof buf, path), name));
}

static void *fs_init(struct fuse_conn_info *conn, struct fuse_config *cfg)
{
	cfg->use_ino = 1;
	cfg->nullpath_ok = 0;
	cfg->hard_remove = 1;
	cfg->entry_timeout = cfg->attr_timeout = cache_seconds;
	cfg->negative_timeout = 0;
	conn->max_background = 2 * MAX_THREADS; /* the kernel's 12 would cap readahead at 12 requests in flight */
	conn->congestion_threshold = 2 * MAX_THREADS;
	conn->max_write = MAX_IO;
	conn->max_read = MAX_IO; /* libfuse wants the mount option repeated here */
	conn->want &= ~FUSE_CAP_HANDLE_KILLPRIV;
	puts("slowfs: ready");
	fflush(stdout);
	return NULL;
}

static const struct fuse_operations operations = {
	.init = fs_init, .getattr = fs_getattr, .access = fs_access, .readlink = fs_readlink,
	.readdir = fs_readdir, .open = fs_open, .create = fs_create, .read = fs_read, .write = fs_write,
	.release = fs_release, .fsync = fs_fsync, .mknod = fs_mknod, .mkdir = fs_mkdir, .symlink = fs_symlink,
	.unlink = fs_unlink, .rmdir = fs_rmdir, .rename = fs_rename, .link = fs_link, .chmod = fs_chmod,
	.chown = fs_chown, .truncate = fs_truncate, .utimens = fs_utimens, .statfs = fs_statfs,
	.fallocate = fs_fallocate, .setxattr = fs_setxattr, .getxattr = fs_getxattr,
	.listxattr = fs_listxattr, .removexattr = fs_removexattr,
};

static const char *set_mode(int m)
{
	pthread_mutex_lock(&lock);
	mode = m;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
	return "ok";
}

static const char *command(char *line, char *out, size_t size)
{
	static const char *names[] = { "ok", "hang", "hang-read", "eio", "short" };
	char word[32];
	double value = 0;
	int given = sscanf(line, "%31s %lf", word, &value);

	for (int i = 0; i < 5; i++)
		if (given > 0 && !strcmp(word, names[i]))
			return set_mode(i);
	if (given > 0 && !strcmp(word, "stats")) {
		snprintf(out, size,
			 "{\"reads\": %ld, \"meta\": %ld, \"opens\": %ld, \"bytes_read\": %ld, \"bytes_written\": %ld, "
			 "\"in_flight\": %ld, \"most_in_flight\": %ld}",
			 requests[DATA], requests[META], opens, bytes_read, bytes_written, in_flight, most_in_flight);
		return out;
	}
	if (given < 2)
		return "what?";
	if (!strcmp(word, "delay-read"))
		delay_us[DATA] = value * 1000;
	else if (!strcmp(word, "delay-meta"))
		delay_us[META] = value * 1000;
	else if (!strcmp(word, "rate"))
		rate_mb = value;
	else
		return "what?";
	return "ok";
}

static void *serve_control(void *arg)
{
	int fd = *(int *)arg;
	char line[128], out[512];
	struct sockaddr_un from;

	while (!stop_control) {
		socklen_t len = sizeof from;
		ssize_t n = recvfrom(fd, line, sizeof line - 1, 0, (struct sockaddr *)&from, &len);
		if (n < 0)
			break;
		line[n] = 0;
		const char *answer = command(line, out, sizeof out);
		sendto(fd, answer, strlen(answer), 0, (struct sockaddr *)&from, len);
	}
	return NULL;
}

static int open_control(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
	unlink(path);
	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) < 0) {
		perror("slowfs: control socket");
		exit(1);
	}
	return fd;
}

/* libfuse 3.14 forgets to ask for FUSE_PARALLEL_DIROPS (1 << 18 of the INIT reply's flags), without which lookups in
 * one directory wait for each other; an NFS client's do not. The first answer that goes out is the INIT reply. */
static ssize_t amended_writev(int fd, struct iovec *iov, int count, void *userdata)
{
	static atomic_int seen;
	(void)userdata;

	if (!serialize && count > 1 && !atomic_exchange(&seen, 1))
		((uint32_t *)iov[1].iov_base)[3] |= 1u << 18;
	return writev(fd, iov, count);
}

static ssize_t plain_read(int fd, void *buf, size_t len, void *userdata)
{
	(void)userdata;
	return read(fd, buf, len);
}

static int serve(const char *mountpoint)
{
	static const struct fuse_custom_io io = { .writev = amended_writev, .read = plain_read };
	char max_read[40];
	snprintf(max_read, sizeof max_read, "max_read=%u", MAX_IO);
	char *argv[] = { "slowfs", "-o", "allow_other,default_permissions,fsname=slowfs", "-o", max_read, NULL };
	struct fuse_args args = FUSE_ARGS_INIT(5, argv);
	struct fuse *fuse = fuse_new(&args, &operations, sizeof operations, NULL);
	struct fuse_loop_config *cfg = fuse_loop_cfg_create();

	if (!fuse || fuse_mount(fuse, mountpoint) < 0)
		return 1;
	if (fuse_session_custom_io(fuse_get_session(fuse), &io, fuse_session_fd(fuse_get_session(fuse))))
		return 1;
	fuse_set_signal_handlers(fuse_get_session(fuse));
	fuse_loop_cfg_set_max_threads(cfg, MAX_THREADS);
	fuse_loop_cfg_set_idle_threads(cfg, MAX_THREADS);
	fuse_loop_mt(fuse, cfg);
	set_mode(OK);
	fuse_unmount(fuse);
	return 0;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "delay-read-ms", 1, 0, 'r' }, { "delay-meta-ms", 1, 0, 'm' }, { "rate", 1, 0, 'b' },
		{ "control", 1, 0, 'c' },	{ "cache-seconds", 1, 0, 's' }, { "direct-io", 0, 0, 'd' },
		{ "hard", 0, 0, 'h' },		{ "serialize-lookups", 0, 0, 'l' },
		{ 0 },
	};
	pthread_condattr_t attr;
	pthread_t thread;
	int o, control = -1;

	while ((o = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (o) {
		case 'r': delay_us[DATA] = atof(optarg) * 1000; break;
		case 'm': delay_us[META] = atof(optarg) * 1000; break;
		case 'b': rate_mb = atol(optarg); break;
		case 'c': control = open_control(optarg); break;
		case 's': cache_seconds = atof(optarg); break;
		case 'd': direct_io = 1; break;
		case 'h': hard = 1; break;
		case 'l': serialize = 1; break;
		default: return 2;
		}
	}
	if (argc - optind != 2) {
		fputs("usage: slowfs SOURCE MOUNTPOINT [options]\n", stderr);
		return 2;
	}
	root = open(argv[optind], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (root < 0) {
		perror(argv[optind]);
		return 1;
	}
	umask(0);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&changed, &attr);
	if (control >= 0)
		pthread_create(&thread, NULL, serve_control, &control);
	return serve(argv[optind + 1]);
}
