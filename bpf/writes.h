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
	if (process_of(pid))
		return;
	meet(pid, now);
	tell_process(pid, 0, SWP_EV_MET);
}

/* NULL: it is not ours, or the kernel's own. */
static __always_inline struct swp_cursor *cursor_of_writer(struct swp_config *g, struct swp_key *k, u32 epoch, u64 now,
							   int writes)
{
	struct swp_cursor *c = known_cursor(g, k, epoch);
	u32 known;

	if (c)
		return c;
	known = !writes || process_of(k->pid);
	if (!known && is_kernel_thread()) /* write-back put a page off: it is dirty again */
		return NULL;
	c = open_cursor(g, k, epoch, now);
	if (c && !known)
		tell_process(k->pid, 0, SWP_EV_MET);
	return c;
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
	c = cursor_of_writer(g, &k, epoch, now, 1);
	if (!c)
		return 0;
	if (node)
		c->node = node;
	swp_wrote(c, bytes, now);
	return 0;
}

/* O_DIRECT of a file that is passed through, read or written: what the mount's own asks for is seen by FUSE. One function
 * for both, as each look for books costs the compiler and the verifier as much as all else here. */
static __always_inline int on_direct(u32 dev, u64 ino, u64 offset, u64 length, u64 size, int writes)
{
	u64 id, now;
	u32 epoch;
	struct swp_config *g = ours(dev, ino, &id, &epoch);
	struct swp_key k = {.ino = ino, .dev = dev};
	struct swp_cursor *c;
	int event;

	if (!g || !length || (!writes && (dev == g->mount_dev || offset >= size)))
		return 0;
	k.pid = id >> 32;
	now = coarse_ns(g);
	c = cursor_of_writer(g, &k, epoch, now, writes);
	if (!c)
		return 0;
	if (writes) {
		swp_wrote(c, length, now);
		return 0;
	}
	__sync_fetch_and_add(&c->direct, 1);
	event = swp_enter(c, offset >> 12, (offset + length - 1) >> 12, (size + 4095) >> 12, now, (u32)id);
	if (event)
		tell(&k, c, event, SWP_DIRECT);
	return 0;
}
