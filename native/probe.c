/* probe.c: does this host do FUSE passthrough onto the file system of `dirfd`? Found out by doing it: a throw-away
 * mount, its INIT answered by hand, one backing file registered. */
#include "internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <unistd.h>

static int try_backing(int dev, int dirfd)
{
	char buf[FUSE_MIN_READ_BUFFER];
	struct fuse_in_header *in = (struct fuse_in_header *)buf;
	struct {
		struct fuse_out_header h;
		struct fuse_init_out o;
	} out = {0};
	struct fuse_backing_map m = {0};
	int fd, r;

	if (read(dev, buf, sizeof buf) < (ssize_t)(sizeof *in + sizeof(struct fuse_init_in)) || in->opcode != FUSE_INIT)
		return -EPROTO;
	out.h = (struct fuse_out_header){.len = sizeof out, .unique = in->unique};
	out.o.major = FUSE_KERNEL_VERSION;
	out.o.minor = FUSE_KERNEL_MINOR_VERSION;
	out.o.max_write = 4096;
	out.o.flags = FUSE_INIT_EXT;
	*(uint32_t *)((char *)&out.o + 32) = (uint32_t)(FUSE_PASSTHROUGH >> 32); /* flags2 */
	*(uint32_t *)((char *)&out.o + 36) = 1;                                 /* max_stack_depth */
	if (write(dev, &out, sizeof out) < 0)
		return -errno;
	fd = openat(dirfd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0)
		fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC); /* no O_TMPFILE here: at least ask the kernel */
	m.fd = fd;
	r = ioctl(dev, FUSE_DEV_IOC_BACKING_OPEN, &m);
	r = r > 0 ? 0 : r < 0 ? -errno : -EIO;
	close(fd);
	return r;
}

int sw_probe_passthrough(int dirfd)
{
	char dir[] = "/tmp/swmld-probe-XXXXXX", options[80];
	int dev, r;

	dev = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (dev < 0)
		return -errno;
	if (!mkdtemp(dir)) {
		close(dev);
		return -EIO;
	}
	snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0", dev);
	r = mount("swmld-probe", dir, "fuse.swmld", MS_NOSUID | MS_NODEV, options) < 0 ? -errno : 0;
	if (!r) {
		r = try_backing(dev, dirfd);
		umount2(dir, MNT_DETACH);
	}
	close(dev);
	rmdir(dir);
	return r;
}
