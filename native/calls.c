/* calls.c: kernel calls that Python lacks, on descriptors that the caller owns. All may block.
 *
 * New files get their owner from the thread's fsuid and fsgid, so that the source's own rules (setgid directories,
 * quotas, default ACLs) act on the caller and no other user ever sees the file as root's. Permission was checked by
 * the kernel before the request came (default_permissions), so the capabilities are taken back: supplementary groups
 * need not be known here. */
#include "swml.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int sw_syncfs(int fd)
{
	return syncfs(fd) < 0 ? -errno : 0;
}

/* The calling thread's CAP_FSETID: without it the source's own file system clears setuid and setgid bits on write
 * and truncate, as it does for every unprivileged writer (include/linux/fs.h: setattr_should_drop_suidgid). Raw
 * capset(2) acts on one thread; libc's wrappers would be told to all. */
int sw_fsetid(int on)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct caps[2];

	if (syscall(SYS_capget, &head, caps) < 0)
		return -errno;
	if (on)
		caps[0].effective |= caps[0].permitted & (1u << CAP_FSETID);
	else
		caps[0].effective &= ~(1u << CAP_FSETID);
	return syscall(SYS_capset, &head, caps) < 0 ? -errno : 0;
}

void sw_data_files(const char *const *paths, const uint64_t *sizes, uint32_t n, int *fds)
{
	for (uint32_t i = 0; i < n; i++) {
		int err, fd = open(paths[i], O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

		if (fd >= 0 && ftruncate(fd, (off_t)sizes[i]) < 0) {
			err = errno;
			close(fd);
			unlink(paths[i]);
			errno = err;
			fd = -1;
		}
		fds[i] = fd < 0 ? -errno : fd;
	}
}

int64_t sw_pwrite(int fd, const void *p, size_t n, int64_t off, int keep_setid)
{
	size_t done = 0;
	int err = 0;

	if (!keep_setid)
		sw_fsetid(0);
	while (done < n) {
		ssize_t k = pwrite(fd, (const char *)p + done, n - done, off + (int64_t)done);

		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0) {
			err = k < 0 ? -errno : -EIO;
			break;
		}
		done += (size_t)k;
	}
	if (!keep_setid)
		sw_fsetid(1);
	return done ? (int64_t)done : err;
}

int sw_ftruncate(int fd, int64_t size, int keep_setid)
{
	int r;

	if (!keep_setid)
		sw_fsetid(0);
	r = ftruncate(fd, size) < 0 ? -errno : 0;
	if (!keep_setid)
		sw_fsetid(1);
	return r;
}

int sw_fallocate(int fd, int mode, int64_t off, int64_t len, int keep_setid)
{
	int r;

	if (!keep_setid)
		sw_fsetid(0);
	r = fallocate(fd, mode, off, len) < 0 ? -errno : 0;
	if (!keep_setid)
		sw_fsetid(1);
	return r;
}

int sw_renameat2(int olddir, const char *oldname, int newdir, const char *newname, unsigned flags)
{
	return syscall(SYS_renameat2, olddir, oldname, newdir, newname, flags) < 0 ? -errno : 0;
}

static int capabilities_back(void)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct caps[2];

	if (syscall(SYS_capget, &head, caps) < 0)
		return -errno;
	caps[0].effective = caps[0].permitted;
	caps[1].effective = caps[1].permitted;
	return syscall(SYS_capset, &head, caps) < 0 ? -errno : 0;
}

static void act_as(unsigned uid, unsigned gid)
{
	syscall(SYS_setfsgid, gid);
	syscall(SYS_setfsuid, uid); /* drops the file system capabilities of this thread unless uid is 0 */
	capabilities_back();
}

static int act_as_self(int r)
{
	int err = r < 0 ? -errno : r;

	syscall(SYS_setfsuid, 0);
	syscall(SYS_setfsgid, 0);
	capabilities_back();
	return err;
}

int sw_create(int dir, const char *name, int flags, unsigned mode, unsigned uid, unsigned gid)
{
	int fd, err;

	act_as(uid, gid);
	if (flags & O_TRUNC) /* an existing file that is truncated loses its setuid bits */
		sw_fsetid(0);
	fd = openat(dir, name, flags | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY, mode);
	err = act_as_self(fd);
	return err;
}

int sw_mknod(int dir, const char *name, unsigned mode, unsigned rdev, unsigned uid, unsigned gid)
{
	act_as(uid, gid);
	return act_as_self(mknodat(dir, name, mode, rdev));
}

int sw_mkdir(int dir, const char *name, unsigned mode, unsigned uid, unsigned gid)
{
	act_as(uid, gid);
	return act_as_self(mkdirat(dir, name, mode));
}

int sw_symlink(const char *to, int dir, const char *name, unsigned uid, unsigned gid)
{
	act_as(uid, gid);
	return act_as_self(symlinkat(to, dir, name));
}

/* The next four act on the very inode of an O_PATH descriptor, symlinks included. */
int sw_link(int fd, int dir, const char *name)
{
	return linkat(fd, "", dir, name, AT_EMPTY_PATH) < 0 ? -errno : 0;
}

int sw_chown(int fd, unsigned uid, unsigned gid)
{
	return fchownat(fd, "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

int sw_chmod(int fd, unsigned mode)
{
	char path[32];

	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	return chmod(path, mode) < 0 ? -errno : 0;
}

/* Times in ns; INT64_MIN leaves one as it is. */
int sw_utimens(int fd, int64_t atime_ns, int64_t mtime_ns)
{
	int64_t ns[2] = {atime_ns, mtime_ns};
	struct timespec t[2];

	for (int i = 0; i < 2; i++) {
		int64_t f = ns[i] % 1000000000;

		if (f < 0)
			f += 1000000000;
		t[i].tv_sec = ns[i] / 1000000000 - (ns[i] < 0 && f); /* rounded down, without leaving int64_t */
		t[i].tv_nsec = ns[i] == INT64_MIN ? UTIME_OMIT : f;
	}
	return utimensat(fd, "", t, AT_EMPTY_PATH) < 0 ? -errno : 0;
}
