/* listing.c, pages.c: a page of the filer's names, and what the kernel is answered from it. */
#include "test_kit.h"

#include <dirent.h>
#include <poll.h>

#define HANDLE 7
#define PLUS(name) (sizeof(struct fuse_entry_out) + FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + strlen(name)))

static struct kit *k;
static sw_session *s;

static void begin(void)
{
	k = kit_remote(3600ull * 1000000000ull);
	s = k->s;
	sw_told(s, 1, 3600ull * 1000000000ull);
}

static void end(void)
{
	kit_free(k);
	kit_defaults();
}

/* Names of one letter, each with its place as its size and one chunk. */
static char *document(const char *names, const char *more)
{
	static char text[16384];
	char *p = text;

	p += sprintf(p, "{\"Path\": \"/d\", \"Entries\": [");
	for (const char *name = names; *name; name++)
		p += sprintf(p,
			     "%s{\"FullPath\":\"/d/%c\",\"Mtime\":\"2026-11-23T07:53:08Z\",\"Crtime\":\"2026-11-23T07:53:08Z\","
			     "\"Ctime\":\"0001-01-01T00:00:00Z\",\"Mode\":420,\"Uid\":1,\"Gid\":2,\"FileSize\":%d,"
			     "\"chunks\":[{\"size\":1,\"fid\":{\"volume_id\":3,\"file_key\":%d,\"cookie\":4}}],"
			     "\"Extended\":{\"x\":[1,{\"y\":null}]}}",
			     name == names ? "" : ",", *name, *name, *name);
	sprintf(p, "]%s", *more ? more : "}");
	return text;
}

static sw_listing *listing(const char *names)
{
	char *text = document(names, "");
	int err;
	sw_listing *l = sw_listing_parse(text, strlen(text), "/d/", 100, &err);

	EQUAL(err, 0);
	EQUAL(sw_listing_count(l), strlen(names));
	return l;
}

static void give(const char *names, uint64_t start, int more, uint64_t changes)
{
	sw_listing *l = listing(names);

	EQUAL(sw_dir_give(s, HANDLE, SW_ROOT, start, l, more, sw_now(), changes), 0);
	sw_listing_free(l);
}

static uint64_t ask(uint32_t opcode, uint64_t fh, uint64_t offset, uint32_t size)
{
	struct fuse_read_in in = {.fh = fh, .offset = offset, .size = size};

	return k_send(k, opcode, SW_ROOT, &in, sizeof in, NULL, 0);
}

/* The names that C answers with, one letter each; "?": Python was asked. */
static const char *answered(uint32_t opcode, uint64_t offset, uint32_t size)
{
	static char names[64];
	uint64_t unique = ask(opcode, HANDLE, offset, size);
	size_t n, head = opcode == FUSE_READDIRPLUS ? sizeof(struct fuse_entry_out) : 0, count = 0;
	struct pollfd both[] = {{k->kernel, POLLIN, 0}, {k->peer, POLLIN, 0}};
	void *body;

	do { /* a change that was told just after the last answer may have been told to the kernel, too */
		struct fuse_out_header note;

		CHECK(poll(both, 2, 5000) > 0);
		if (!both[0].revents || recv(k->kernel, &note, sizeof note, MSG_PEEK) < 0 || note.unique)
			break;
		recv(k->kernel, &note, sizeof note, 0);
	} while (1);
	if (both[1].revents) {
		EQUAL(p_recv(k)->opcode, opcode);
		p_reply(k, unique, -EIO, NULL, 0);
		EQUAL(k_answer(k, unique, &body, &n), -EIO);
		return "?";
	}
	EQUAL(k_answer(k, unique, &body, &n), 0);
	for (size_t at = 0; at < n;) {
		struct fuse_dirent *d = (struct fuse_dirent *)((char *)body + at + head);

		CHECK(d->namelen == 1 && d->type == DT_REG && d->off == offset + count + 1);
		names[count++] = d->name[0];
		if (head) {
			struct fuse_entry_out *e = (struct fuse_entry_out *)((char *)body + at);

			if (e->nodeid) {
				CHECK(e->attr.size == (uint64_t)d->name[0] && e->attr.ino == d->ino && e->attr.uid == 1);
				EQUAL(e->nodeid, sw_child(s, SW_ROOT, (char[]){d->name[0], 0}));
			}
		}
		at += head + FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + 1);
	}
	names[count] = 0;
	return names;
}

#define IS(expected, opcode, offset, size) EQUAL(strcmp(answered(opcode, offset, size), expected), 0)
#define ALL 4096

static void page_after_page(void)
{
	begin();
	IS("?", FUSE_READDIRPLUS, 2, ALL); /* nothing was given yet */
	give("abc", 2, 1, 0);
	IS("?", FUSE_READDIRPLUS, 0, ALL);
	IS("abc", FUSE_READDIRPLUS, 2, ALL);
	IS("bc", FUSE_READDIRPLUS, 3, ALL);
	IS("abc", FUSE_READDIR, 2, ALL);
	IS("ab", FUSE_READDIRPLUS, 2, 2 * (uint32_t)PLUS("a"));
	IS("ab", FUSE_READDIRPLUS, 2, 3 * (uint32_t)PLUS("a") - 1);
	IS("?", FUSE_READDIRPLUS, 5, ALL); /* there are more */
	give("de", 5, 1, 0);
	IS("c", FUSE_READDIRPLUS, 4, ALL); /* the one before is there still */
	IS("de", FUSE_READDIRPLUS, 5, ALL);
	give("f", 7, 0, 0);
	IS("?", FUSE_READDIRPLUS, 4, ALL);
	IS("e", FUSE_READDIRPLUS, 6, ALL);
	IS("f", FUSE_READDIRPLUS, 7, ALL);
	IS("", FUSE_READDIRPLUS, 8, ALL); /* the end */
	IS("", FUSE_READDIR, 8, ALL);
	IS("?", FUSE_READDIRPLUS, 9, ALL);
	IS("?", FUSE_READDIRPLUS, UINT64_MAX, ALL);
	IS("?", FUSE_READDIRPLUS, 7, 8); /* no room for one */
	sw_dir_drop(s, HANDLE);
	IS("?", FUSE_READDIRPLUS, 7, ALL);
	sw_dir_drop(s, HANDLE);
	give("a", 2, 0, 0); /* left to the end of the session */
	end();
}

static void not_after_a_change(void)
{
	begin();
	give("abc", 2, 0, 0);
	IS("abc", FUSE_READDIRPLUS, 2, ALL);
	sw_dir_changed(s, 2);
	IS("?", FUSE_READDIRPLUS, 2, ALL);
	IS("?", FUSE_READDIRPLUS, 5, ALL);
	give("abc", 2, 0, 1); /* before the second */
	IS("?", FUSE_READDIRPLUS, 2, ALL);
	sw_dir_changed(s, 1); /* told late */
	IS("?", FUSE_READDIRPLUS, 2, ALL);
	give("abc", 2, 0, 2);
	IS("abc", FUSE_READDIRPLUS, 2, ALL);
	end();
}

static struct fuse_entry_out first_entry(void)
{
	uint64_t unique = ask(FUSE_READDIRPLUS, HANDLE, 2, ALL);
	struct fuse_entry_out e;
	void *body;
	size_t n;

	EQUAL(k_answer(k, unique, &body, &n), 0);
	memcpy(&e, body, sizeof e);
	return e;
}

static void attributes_go_with_the_names(void)
{
	struct fuse_entry_out e, again, looked;
	struct sw_attrs now;
	struct sw_entry out;

	begin();
	give("a", 2, 0, 0);
	e = first_entry();
	CHECK(e.nodeid && e.attr_valid && e.entry_valid && e.attr.size == 'a');
	again = first_entry(); /* the kernel has them still */
	EQUAL(again.nodeid, 0);
	EQUAL(k_lookup(k, SW_ROOT, "a", &looked), 0);
	EQUAL(looked.nodeid, e.nodeid);
	CHECK(p_silent(k));
	k_forget(k, e.nodeid, 2); /* one by the listing, one by the lookup: no more and no fewer */
	again = first_entry();
	EQUAL(again.nodeid, e.nodeid);

	sw_expire(s, e.nodeid); /* it has changed since the page was asked for */
	again = first_entry();
	EQUAL(again.nodeid, 0);

	now = (struct sw_attrs){.ino = 99ull << 50, .size = 5, .mode = S_IFREG | 0644, .nlink = 1, .btime_ns = 9};
	EQUAL(sw_enter(s, SW_ROOT, "a", &now, sw_now(), 0, &out), 0);
	EQUAL(sw_begin_write(s, out.nodeid), SW_NONE);
	again = first_entry(); /* who writes it has others */
	EQUAL(again.nodeid, 0);
	sw_end_write(s, out.nodeid);
	end();
}

static void nobody_waits(void)
{
	uint64_t unique;

	begin();
	give("ab", 2, 0, 0);
	unique = k->unique + 2;
	kit_gone(unique);
	EQUAL(ask(FUSE_READDIRPLUS, HANDLE, 2, ALL), unique);
	IS("ab", FUSE_READDIR, 2, ALL);
	IS("ab", FUSE_READDIRPLUS, 2, ALL);
	CHECK(first_entry().nodeid == 0);
	k_forget(k, sw_child(s, SW_ROOT, "a"), 1); /* the references of the answer that was lost are given back */
	CHECK(first_entry().nodeid != 0);
	end();
}

static void another_directory(void)
{
	struct fuse_read_in in = {.fh = HANDLE, .offset = 2, .size = ALL};
	uint64_t unique;

	begin();
	give("a", 2, 0, 0);
	unique = k_send(k, FUSE_READDIRPLUS, 12345, &in, sizeof in, NULL, 0); /* the handle is not of it */
	EQUAL(p_recv(k)->unique, unique);
	p_reply(k, unique, -EIO, NULL, 0);
	EQUAL(k_answer(k, unique, NULL, NULL), -EIO);
	unique = ask(FUSE_READDIRPLUS, HANDLE + 64, 2, ALL); /* the same place in the table */
	EQUAL(p_recv(k)->unique, unique);
	p_reply(k, unique, -EIO, NULL, 0);
	EQUAL(k_answer(k, unique, NULL, NULL), -EIO);
	end();
}

static void out_of_memory(void)
{
	char *text = document("abc", "");
	sw_listing *l;
	int err, tries = 0;

	do {
		kit_alloc_left = tries++;
		l = sw_listing_parse(text, strlen(text), "/d/", 100, &err);
		kit_alloc_left = -1;
		if (!l)
			EQUAL(err, -ENOMEM);
	} while (!l);
	CHECK(tries > 3);
	EQUAL(sw_listing_count(l), 3);
	begin();
	kit_alloc_left = 0;
	EQUAL(sw_dir_give(s, HANDLE, SW_ROOT, 2, l, 0, sw_now(), 0), -ENOMEM);
	kit_alloc_left = -1;
	EQUAL(sw_dir_give(s, HANDLE, SW_ROOT, 2, l, 0, sw_now(), 0), 0);
	sw_listing_free(l);
	kit_alloc_left = 1; /* one entry, and no memory for the next: what there is is the answer */
	IS("?", FUSE_READDIRPLUS, 2, ALL);
	kit_alloc_left = -1;
	IS("abc", FUSE_READDIRPLUS, 2, ALL);
	end();
}

/* Whatever is damaged is refused, and nothing is read beyond the end (it is at the end of its memory). */
static void damaged(void)
{
	const char *text = document("abc", ",\"ShouldDisplayLoadMore\":true}");
	size_t n = strlen(text);
	unsigned seed = 1;
	int err;

	for (size_t length = 0; length <= n; length++) {
		char *copy = malloc(length + !length);
		sw_listing *l;

		memcpy(copy, text, length);
		l = sw_listing_parse(copy, length, "/d/", 100, &err);
		EQUAL(!!l, length == n);
		CHECK(l ? sw_listing_more(l) : err == -EOPNOTSUPP);
		sw_listing_free(l);
		free(copy);
	}
	for (int i = 0; i < 20000; i++) {
		char *copy = malloc(n);
		sw_listing *l;

		memcpy(copy, text, n);
		for (int j = 0; j < 3; j++)
			copy[(unsigned)rand_r(&seed) % n] = (char)rand_r(&seed);
		l = sw_listing_parse(copy, n, "/d/", 100, &err);
		for (uint32_t e = 0; l && e < sw_listing_count(l); e++) {
			struct sw_listed listed;
			const char *name;

			sw_listing_entry(l, e, &listed);
			name = sw_listing_text(l) + listed.name;
			EQUAL(strlen(name), listed.name_len);
			EQUAL(sw_listing_find(l, name, listed.name_len), e);
		}
		sw_listing_free(l);
		free(copy);
	}
}

int main(void)
{
	kit_defaults();
	page_after_page();
	not_after_a_change();
	attributes_go_with_the_names();
	nobody_waits();
	another_directory();
	out_of_memory();
	damaged();
	return kit_done();
}
