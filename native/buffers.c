/* Aligned memory for O_DIRECT and io_uring, and the small kernel calls that Python lacks. */
#include "swml.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

void *sw_buffer_alloc(size_t n)
{
	void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

void sw_buffer_free(void *p, size_t n)
{
	if (p)
		munmap(p, n);
}

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

int64_t sw_pwrite(int fd, const void *p, size_t n, int64_t off)
{
	size_t done = 0;
	int err = 0;

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
	sw_fsetid(1);
	return done ? (int64_t)done : err;
}

int sw_ftruncate(int fd, int64_t size)
{
	int r;

	sw_fsetid(0);
	r = ftruncate(fd, size) < 0 ? -errno : 0;
	sw_fsetid(1);
	return r;
}

int sw_renameat2(int olddir, const char *oldname, int newdir, const char *newname, unsigned flags)
{
	return syscall(SYS_renameat2, olddir, oldname, newdir, newname, flags) < 0 ? -errno : 0;
}
