/* calls.c: what is made belongs to the caller, set-id bits go as they would for the caller, times before 1970, and the
 * thread has its rights back after each call. */
#include "test_kit.h"

#include <linux/capability.h>
#include <sys/syscall.h>
#include <sys/vfs.h>

#define UID 12345
#define GID 23456

static int dir;

static struct stat of(const char *name)
{
	struct stat st;

	CHECK(!fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW));
	return st;
}

static uint32_t effective(void)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct caps[2];

	CHECK(!syscall(SYS_capget, &head, caps));
	return caps[0].effective;
}

static void owners(void)
{
	uint32_t before = effective();
	struct stat st;
	int fd = sw_create(dir, "file", O_RDWR | O_EXCL, 0640, UID, GID);

	CHECK(fd >= 0);
	CHECK(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	close(fd);
	st = of("file");
	CHECK(S_ISREG(st.st_mode) && st.st_uid == UID && st.st_gid == GID && (st.st_mode & 07777) == 0640);
	EQUAL(sw_create(dir, "file", O_RDWR | O_EXCL, 0640, UID, GID), -EEXIST);
	EQUAL(sw_mkdir(dir, "directory", 0750, UID, GID), 0);
	st = of("directory");
	CHECK(S_ISDIR(st.st_mode) && st.st_uid == UID && st.st_gid == GID && (st.st_mode & 07777) == 0750);
	EQUAL(sw_mknod(dir, "fifo", S_IFIFO | 0600, 0, UID, GID), 0);
	CHECK(S_ISFIFO(of("fifo").st_mode) && of("fifo").st_uid == UID);
	EQUAL(sw_symlink("to nowhere", dir, "link", UID, GID), 0);
	CHECK(S_ISLNK(of("link").st_mode) && of("link").st_uid == UID && of("link").st_gid == GID);
	EQUAL(sw_create(dir, "link", O_RDWR, 0600, UID, GID), -ELOOP); /* never through a symlink */
	EQUAL(sw_create(dir, "no/where", O_RDWR, 0600, UID, GID), -ENOENT);
	EQUAL(effective(), before);
	/* The rights are back: a file of root's in a directory of root's. */
	EQUAL(sw_mkdir(dir, "private", 0700, 0, 0), 0);
	CHECK(of("private").st_uid == 0);
}

/* A caller whose group the server does not know of: permission was checked by the kernel before. */
static void not_checked_again(void)
{
	int fd, d = openat(dir, "private", O_RDONLY | O_DIRECTORY);

	fd = sw_create(d, "file", O_RDWR, 0600, UID, GID);
	CHECK(fd >= 0);
	close(fd);
	close(d);
}

static void setgid_directory(void)
{
	int fd;
	struct stat st;

	EQUAL(sw_mkdir(dir, "shared", 0770, 0, 777), 0);
	CHECK(!fchownat(dir, "shared", 0, 777, 0) && !fchmodat(dir, "shared", 02770, 0));
	fd = sw_create(dir, "shared/file", O_RDWR, 0640, UID, GID);
	CHECK(fd >= 0);
	close(fd);
	st = of("shared/file");
	CHECK(st.st_gid == 777 && st.st_uid == UID);
	EQUAL(sw_mkdir(dir, "shared/directory", 0750, UID, GID), 0);
	st = of("shared/directory");
	CHECK(st.st_gid == 777 && (st.st_mode & 07777) == 02750);
	EQUAL(sw_symlink("x", dir, "shared/link", UID, GID), 0);
	EQUAL(of("shared/link").st_gid, 777);
}

static unsigned bits_after(int how, int keep)
{
	int fd = openat(dir, "program", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0755);
	uint32_t before = effective();

	CHECK(fd >= 0);
	CHECK(!ftruncate(fd, 100) && !fchown(fd, UID, GID) && !fchmod(fd, 06755));
	if (how == 0)
		EQUAL(sw_pwrite(fd, "bytes", 5, 50, keep), 5);
	else if (how == 1)
		EQUAL(sw_ftruncate(fd, 7, keep), 0);
	else if (how == 2)
		EQUAL(sw_fallocate(fd, 0, 0, 4096, keep), 0);
	else {
		int again = sw_create(dir, "program", O_RDWR | O_TRUNC, 0755, UID, GID);

		CHECK(again >= 0);
		close(again);
	}
	close(fd);
	EQUAL(effective(), before);
	return of("program").st_mode & 07777;
}

static void set_ids(void)
{
	for (int how = 0; how < 3; how++) {
		EQUAL(bits_after(how, 0), 0755);
		EQUAL(bits_after(how, 1), 06755);
	}
	EQUAL(bits_after(3, 0), 0755);
}

static void bytes(void)
{
	char back[16] = {0};
	int fd = openat(dir, "bytes", O_RDWR | O_CREAT | O_CLOEXEC, 0600), full;

	EQUAL(sw_pwrite(fd, "0123456789", 10, 5, 1), 10);
	EQUAL(sw_pwrite(fd, "", 0, 0, 0), 0);
	EQUAL(pread(fd, back, 15, 0), 15);
	CHECK(!memcmp(back, "\0\0\0\0\0" "0123456789", 15));
	close(fd);
	EQUAL(sw_pwrite(fd, "x", 1, 0, 1), -EBADF);
	EQUAL(sw_ftruncate(fd, 1, 0), -EBADF);
	EQUAL(sw_syncfs(fd), -EBADF);
	full = open("/dev/full", O_WRONLY | O_CLOEXEC);
	EQUAL(sw_pwrite(full, "x", 1, 0, 1), -ENOSPC);
	close(full);
	fd = openat(dir, "bytes", O_RDONLY | O_CLOEXEC);
	EQUAL(sw_syncfs(fd), 0);
	close(fd);
}

static void times(void)
{
	static const int64_t s = 1000000000;
	/* Seconds that ext4, XFS, btrfs and tmpfs hold; the last is what Python says for "leave it". */
	static const struct { int64_t ns; int64_t sec, nsec; } t[] = {
		{0, 0, 0}, {1, 0, 1}, {-1, -1, 999999999}, {-1000000000, -1, 0}, {-1500000000, -2, 500000000},
		{-2147483648 * s, -2147483648, 0}, {2147483647 * s + 999999999, 2147483647, 999999999},
	};
	int fd = openat(dir, "file", O_PATH | O_CLOEXEC);
	struct stat st;

	for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
		EQUAL(sw_utimens(fd, t[i].ns, 77 * s), 0);
		st = of("file");
		EQUAL(st.st_atim.tv_sec, t[i].sec);
		EQUAL(st.st_atim.tv_nsec, t[i].nsec);
		EQUAL(st.st_mtim.tv_sec, 77);
	}
	EQUAL(sw_utimens(fd, INT64_MIN, -1), 0);
	st = of("file");
	EQUAL(st.st_atim.tv_sec, 2147483647);
	EQUAL(st.st_mtim.tv_sec, -1);
	EQUAL(sw_utimens(fd, 5 * s, INT64_MIN), 0);
	EQUAL(of("file").st_mtim.tv_sec, -1);
	EQUAL(of("file").st_atim.tv_sec, 5);
	close(fd);
	fd = openat(dir, "link", O_PATH | O_NOFOLLOW | O_CLOEXEC); /* the symlink itself */
	EQUAL(sw_utimens(fd, 9 * s, 9 * s), 0);
	EQUAL(of("link").st_mtim.tv_sec, 9);
	EQUAL(sw_chown(fd, 1, 2), 0);
	CHECK(of("link").st_uid == 1 && of("link").st_gid == 2);
	EQUAL(sw_chown(fd, ~0u, 3), 0);
	CHECK(of("link").st_uid == 1 && of("link").st_gid == 3);
	EQUAL(sw_chmod(fd, 0600), -EOPNOTSUPP);
	close(fd);
}

static void names(void)
{
	int fd = openat(dir, "bytes", O_PATH | O_CLOEXEC);

	EQUAL(sw_link(fd, dir, "second"), 0);
	EQUAL(of("second").st_ino, of("bytes").st_ino);
	EQUAL(sw_link(fd, dir, "second"), -EEXIST);
	EQUAL(sw_chmod(fd, 0604), 0);
	EQUAL(of("second").st_mode & 07777, 0604);
	close(fd);
	EQUAL(sw_renameat2(dir, "second", dir, "file", 1 /* RENAME_NOREPLACE */), -EEXIST);
	EQUAL(sw_renameat2(dir, "second", dir, "fifo", 2 /* RENAME_EXCHANGE */), 0);
	CHECK(S_ISFIFO(of("second").st_mode) && S_ISREG(of("fifo").st_mode));
	EQUAL(sw_renameat2(dir, "nothing", dir, "x", 0), -ENOENT);
}

static void buffers(void)
{
	unsigned char *p = sw_buffer_alloc(10000);

	EQUAL((uintptr_t)p & 4095, 0);
	for (int i = 0; i < 10000; i++)
		CHECK(!p[i]);
	memset(p, 1, 10000);
	sw_buffer_free(p, 10000);
	sw_buffer_free(NULL, 10000);
	CHECK(!sw_buffer_alloc((size_t)1 << 60));
}

int main(void)
{
	struct kit *k;

	if (geteuid()) {
		puts("test_calls: left out, only root can act as another user");
		return 0;
	}
	umask(0);
	kit_defaults();
	k = kit_new();
	dir = k->root;
	owners();
	not_checked_again();
	setgid_directory();
	set_ids();
	bytes();
	times();
	names();
	buffers();
	kit_free(k);
	return kit_done();
}
