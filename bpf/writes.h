/* writes.h: who writes how much to files of the mount. Three ways of writing are told, each byte by one of them:
 *
 *   FUSE WRITE             by the daemon's own mount, in bytes; the kernel's own write-back of dirty pages left out
 *   writeback_dirty_folio  passed through, or mapped: a folio of the file was clean and is dirty now, in whole pages. It
 *                          comes in the writer's own context, before the bytes. A dirty page that is written again is no
 *                          event: what is counted is what must go to the disk, not what was handed to write(2)
 *   iomap_dio_rw_begin     passed through with O_DIRECT, in bytes, on file systems that use iomap for it
 *
 * A file that is written goes past the cache: what is passed through lands on the source's own inode. */

static __always_inline void meet_writer(u32 pid, u64 now)
{
	if (processes.lookup(&pid))
		return;
	meet(pid, now);
	tell_process(pid, 0, SWP_EV_MET);
}

/* `node`: 0 where it is not known from the request. */
static __always_inline int on_write(u32 dev, u64 ino, u64 node, u64 bytes)
{
	struct swp_key k = {.ino = ino, .dev = dev};
	u64 id, now;
	u32 epoch;
	struct swp_config *g = ours(dev, ino, &id, &epoch);
	struct swp_cursor *c;

	if (!g)
		return 0;
	k.pid = id >> 32;
	now = coarse_ns(g);
	c = known_cursor(g, &k, epoch);
	if (!c) {
		u32 known = processes.lookup(&k.pid) != NULL;

		if (!known && is_kernel_thread()) /* write-back put a page off: it is dirty again */
			return 0;
		c = open_cursor(g, &k, epoch, now);
		if (!c)
			return 0;
		if (!known)
			tell_process(k.pid, 0, SWP_EV_MET);
	}
	if (node)
		c->node = node;
	swp_wrote(c, bytes, now);
	return 0;
}
