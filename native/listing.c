/* listing.c: a page of a directory as SeaweedFS's filer says it in JSON, read into records without an object of Python
 * for each field. What the records hold is what seaweed_entries.py makes of the same text; a test holds them together.
 *
 * Only what most entries are made of is read here: files of up to eight chunks and directories. A page with anything
 * else in it (a symlink, a hard link, a time to live, bytes within the entry, ...) is refused: -EOPNOTSUPP, and read by
 * Python. So is whatever is not as it should be, that Python may say what is wrong. */
#include "internal.h"

#include <endian.h>
#include <stdio.h>
#include <stdlib.h>

#define CHUNKS 8               /* seaweed_chunks.SHORT */
#define CHUNK_BYTES 41         /* seaweed_chunks._CHUNK: "<IQIqQqB" */
#define SHORT_BYTES 25         /* the same without offset and size: of the only chunk, which is the file */
#define DEPTH 32               /* of what is skipped */
#define SECOND 1000000000ll
#define MODE_DIRECTORY (1u << 31)

_Static_assert(SW_TAG_MAX == 1 + CHUNKS * CHUNK_BYTES, "a tag of the longest list");

struct text {
	const char *p, *end;
};

struct chunk {
	uint64_t key, size;
	int64_t offset, modified;
	uint32_t volume, cookie;
	uint8_t flags;
};

/* ---- JSON ---- */

static void blank(struct text *t)
{
	while (t->p < t->end && (*t->p == ' ' || *t->p == '\n' || *t->p == '\t' || *t->p == '\r'))
		t->p++;
}

static int take(struct text *t, char c)
{
	blank(t);
	if (t->p == t->end || *t->p != c)
		return 0;
	t->p++;
	return 1;
}

static int word(struct text *t, const char *w)
{
	size_t n = strlen(w);

	if ((size_t)(t->end - t->p) < n || memcmp(t->p, w, n))
		return 0;
	t->p += n;
	return 1;
}

/* A string as it is written, without its quotes: 1, and whether it has escapes. */
static int string(struct text *t, struct text *out, int *escaped)
{
	const char *q, *back;

	if (!take(t, '"'))
		return 0;
	for (q = t->p;; q++) {
		q = memchr(q, '"', (size_t)(t->end - q));
		if (!q)
			return 0;
		for (back = q; back > t->p && back[-1] == '\\'; back--)
			;
		if ((q - back) % 2 == 0) /* else the last of them is the quote's */
			break;
	}
	*out = (struct text){t->p, q};
	*escaped = memchr(t->p, '\\', (size_t)(q - t->p)) != NULL;
	t->p = q + 1;
	return 1;
}

/* Up to 2^64 - 1: needles have such keys. */
static int natural(struct text *t, uint64_t *out)
{
	int digits = 0;
	uint64_t v = 0;

	blank(t);
	for (; t->p < t->end && *t->p >= '0' && *t->p <= '9'; t->p++, digits++)
		if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, (uint64_t)(*t->p - '0'), &v))
			return 0;
	*out = v;
	return digits && !(t->p < t->end && (*t->p == '.' || *t->p == 'e' || *t->p == 'E'));
}

/* Whole numbers that int64_t holds. */
static int number(struct text *t, int64_t *out)
{
	uint64_t v;
	int minus;

	blank(t);
	minus = word(t, "-");
	if (!natural(t, &v) || v > INT64_MAX)
		return 0;
	*out = minus ? -(int64_t)v : (int64_t)v;
	return 1;
}

/* Whatever value there is: 1; *is: whether it counts as true, as Python has it. */
static int skip(struct text *t, int *is, int depth)
{
	struct text s;
	int escaped, inner, open;

	blank(t);
	*is = 0;
	if (t->p == t->end || depth > DEPTH)
		return 0;
	if (*t->p == '"') {
		if (!string(t, &s, &escaped))
			return 0;
		*is = s.p != s.end;
		return 1;
	}
	if (word(t, "null") || word(t, "false"))
		return 1;
	if (word(t, "true")) {
		*is = 1;
		return 1;
	}
	if (*t->p == '{' || *t->p == '[') {
		open = *t->p++;
		if (take(t, open == '{' ? '}' : ']'))
			return 1;
		*is = 1;
		do {
			if (open == '{' && (!string(t, &s, &escaped) || !take(t, ':')))
				return 0;
			if (!skip(t, &inner, depth + 1))
				return 0;
		} while (take(t, ','));
		return take(t, open == '{' ? '}' : ']');
	}
	s.p = t->p;
	while (t->p < t->end && (strchr("+-.eE", *t->p) ? *t->p != 0 : *t->p >= '0' && *t->p <= '9')) {
		*is |= *t->p >= '1' && *t->p <= '9';
		t->p++;
	}
	return t->p != s.p;
}

/* One member of an object: 1 with its key, 0 at the end of it, -1. `first` is left 0. */
static int member(struct text *t, int *first, struct text *key)
{
	int escaped;

	if (*first ? take(t, '}') : !take(t, ','))
		return *first ? 0 : take(t, '}') ? 0 : -1;
	*first = 0;
	return string(t, key, &escaped) && !escaped && take(t, ':') ? 1 : -1;
}

/* Of a literal. */
#define is(s, w) ((size_t)((s)->end - (s)->p) == sizeof(w) - 1 && !memcmp((s)->p, w, sizeof(w) - 1))

/* ---- what the filer says ---- */

/* Four digits of \uXXXX as UTF-8; 0: none, or half of a pair. */
static size_t code(const char *p, const char *end, char *out)
{
	unsigned v = 0;

	if (end - p < 4)
		return 0;
	for (int i = 0; i < 4; i++) {
		char c = p[i];
		int d = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;

		if (d < 0)
			return 0;
		v = v << 4 | (unsigned)d;
	}
	if (!v || (v >= 0xd800 && v < 0xe000))
		return 0;
	if (v < 0x80) {
		out[0] = (char)v;
		return 1;
	}
	if (v < 0x800) {
		out[0] = (char)(0xc0 | v >> 6);
		out[1] = (char)(0x80 | (v & 63));
		return 2;
	}
	out[0] = (char)(0xe0 | v >> 12);
	out[1] = (char)(0x80 | (v >> 6 & 63));
	out[2] = (char)(0x80 | (v & 63));
	return 3;
}

/* The last part of a path, at most SW_NAME_MAX bytes, into `out`: its length, 0 for none. */
static size_t last_part(const struct text *path, int escaped, char *out)
{
	const char *p = path->end;
	size_t n = 0;

	while (p > path->p && p[-1] != '/')
		p--;
	while (p < path->end) {
		if (n + 3 > SW_NAME_MAX)
			return 0;
		if ((unsigned char)*p < 0x20)
			return 0;
		if (*p != '\\' || !escaped) {
			out[n++] = *p++;
			continue;
		}
		if (p[1] == 'u') {
			size_t k = code(p + 2, path->end, out + n);

			if (!k)
				return 0;
			n += k;
			p += 6;
		} else if (p[1] == '"' || p[1] == '\\') {
			out[n++] = p[1];
			p += 2;
		} else
			return 0;
	}
	return n == 1 && out[0] == '.' ? 0 : n == 2 && !memcmp(out, "..", 2) ? 0 : n;
}

static int two(const char *p)
{
	return p[0] >= '0' && p[0] <= '9' && p[1] >= '0' && p[1] <= '9' ? (p[0] - '0') * 10 + p[1] - '0' : -1;
}

/* Days from 1970 to a day of the calendar (Hinnant's days_from_civil). */
static int64_t days(int64_t y, int m, int d)
{
	int64_t era, yoe, doy;

	y -= m <= 2;
	era = (y >= 0 ? y : y - 399) / 400;
	yoe = y - era * 400;
	doy = (153 * (m + (m > 2 ? -3 : 9)) + 2) / 5 + d - 1;
	return era * 146097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719468;
}

static int month_days(int y, int m)
{
	static const int8_t N[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};

	return m == 2 && y % 4 == 0 && (y % 100 || y % 400 == 0) ? 29 : N[m - 1];
}

/* Go's RFC 3339, such as 2026-11-22T22:00:43.510135527+01:00, in ns since 1970: 0 before that. 1, or 0. */
static int time_of(struct text *t, int64_t *out)
{
	struct text s;
	int escaped, y, mo, d, h, mi, se, zh = 0, zm = 0, sign = 1;
	int64_t fraction = 0, scale = SECOND, seconds;

	if (!string(t, &s, &escaped) || s.end - s.p < 20)
		return 0;
	if (two(s.p) < 0 || two(s.p + 2) < 0)
		return 0;
	y = two(s.p) * 100 + two(s.p + 2);
	mo = two(s.p + 5);
	d = two(s.p + 8);
	h = two(s.p + 11);
	mi = two(s.p + 14);
	se = two(s.p + 17);
	if (s.p[4] != '-' || s.p[7] != '-' || s.p[10] != 'T' || s.p[13] != ':' || s.p[16] != ':' || !y || mo < 1 ||
	    mo > 12 || d < 1 || d > month_days(y, mo) || h < 0 || h > 23 || mi < 0 || mi > 59 || se < 0 || se > 59)
		return 0;
	s.p += 19;
	if (*s.p == '.')
		for (s.p++; s.p < s.end && *s.p >= '0' && *s.p <= '9' && scale > 1; s.p++) {
			scale /= 10;
			fraction += (*s.p - '0') * scale;
		}
	if (s.end - s.p == 6 && (*s.p == '+' || *s.p == '-') && s.p[3] == ':') {
		sign = *s.p == '+' ? 1 : -1;
		zh = two(s.p + 1);
		zm = two(s.p + 4);
		if (zh < 0 || zh > 23 || zm < 0 || zm > 59)
			return 0;
	} else if (s.end - s.p != 1 || *s.p != 'Z')
		return 0;
	seconds = days(y, mo, d) * 86400 + h * 3600 + mi * 60 + se - sign * (zh * 3600 + zm * 60);
	if (seconds < 0 || y == 1)
		seconds = 0;
	if (seconds > INT64_MAX / SECOND - 1)
		return 0;
	*out = seconds * SECOND + fraction;
	return 1;
}

static uint32_t mode_of(uint32_t m)
{
	static const uint32_t KINDS[][2] = {
		{1u << 31, S_IFDIR}, {1u << 27, S_IFLNK}, {1u << 26 | 1u << 21, S_IFCHR},
		{1u << 26, S_IFBLK}, {1u << 25, S_IFIFO}, {1u << 24, S_IFSOCK},
	};
	uint32_t kind = S_IFREG, all = 1u << 31 | 1u << 27 | 1u << 26 | 1u << 25 | 1u << 24 | 1u << 21;

	for (size_t i = 0; i < sizeof KINDS / sizeof *KINDS; i++)
		if ((m & all) == KINDS[i][0])
			kind = KINDS[i][1];
	return kind | (m & 1u << 23 ? S_ISUID : 0) | (m & 1u << 22 ? S_ISGID : 0) | (m & 1u << 20 ? S_ISVTX : 0) |
	       (m & 0777);
}

static int needle_of(struct text *t, struct chunk *c)
{
	struct text key;
	int first = 1, r, ignored;
	uint64_t v;

	if (!take(t, '{'))
		return 0;
	while ((r = member(t, &first, &key)) > 0) {
		if (is(&key, "volume_id") || is(&key, "cookie")) {
			if (!natural(t, &v) || v > UINT32_MAX)
				return 0;
			*(key.p[0] == 'v' ? &c->volume : &c->cookie) = (uint32_t)v;
		} else if (is(&key, "file_key")) {
			if (!natural(t, &c->key))
				return 0;
		} else if (!skip(t, &ignored, 0))
			return 0;
	}
	return !r && c->volume;
}

static int chunk_of(struct text *t, struct chunk *c)
{
	struct text key;
	int first = 1, r, on, fid = 0;

	*c = (struct chunk){0};
	if (!take(t, '{'))
		return 0;
	while ((r = member(t, &first, &key)) > 0) {
		int flag = is(&key, "is_compressed") ? 0 : is(&key, "cipher_key") ? 1 :
			   is(&key, "is_chunk_manifest") ? 2 : is(&key, "sse_type") ? 3 : -1;

		if (flag >= 0) {
			if (!skip(t, &on, 0))
				return 0;
			c->flags |= (uint8_t)(on << flag);
		} else if (is(&key, "fid")) {
			if (!needle_of(t, c))
				return 0;
			fid = 1;
		} else if (is(&key, "offset")) {
			if (!number(t, &c->offset) || c->offset < 0)
				return 0;
		} else if (is(&key, "modified_ts_ns")) {
			if (!number(t, &c->modified))
				return 0;
		} else if (is(&key, "size")) {
			if (!natural(t, &c->size) || c->size > 1ull << 62)
				return 0;
		} else if (!skip(t, &on, 0))
			return 0;
	}
	return !r && fid;
}

/* The number of chunks, or -1: more than are told apart here. */
static int chunks_of(struct text *t, struct chunk *chunks)
{
	int n = 0;

	blank(t);
	if (word(t, "null"))
		return 0;
	if (!take(t, '['))
		return -1;
	if (take(t, ']'))
		return 0;
	do {
		if (n == CHUNKS || !chunk_of(t, &chunks[n++]))
			return -1;
	} while (take(t, ','));
	return take(t, ']') ? n : -1;
}

/* Whether none of these names is one of an extended attribute: 1 or 0, -1. */
static int bare_of(struct text *t)
{
	struct text key;
	int first = 1, r, ignored, bare = 1;

	blank(t);
	if (word(t, "null"))
		return 1;
	if (!take(t, '{'))
		return -1;
	while ((r = member(t, &first, &key)) > 0) {
		if (key.end - key.p >= 6 && !memcmp(key.p, "xattr-", 6) && !is(&key, "xattr-user.swmld.token"))
			bare = 0;
		if (!skip(t, &ignored, 0))
			return -1;
	}
	return r ? -1 : bare;
}

/* seaweed_chunks.Layout.tag, after which interface.generation_ns and birth_ns are made. */
static void generation_of(struct sw_listed *e, const struct chunk *c, int n)
{
	const struct chunk *first = c;
	char *tag = e->tag, *p = tag, said[64], fid[48], key[20];
	int k;

	*p++ = 'L';
	for (int i = 0; i < n; i++) {
		uint32_t volume = htole32(c[i].volume), cookie = htole32(c[i].cookie);
		uint64_t words[] = {htole64(c[i].key), htole64((uint64_t)c[i].offset), htole64(c[i].size),
				    htole64((uint64_t)c[i].modified)};

		memcpy(p, &volume, 4);
		memcpy(p + 4, &words[0], 8);
		memcpy(p + 12, &cookie, 4);
		memcpy(p + 16, &words[1], 24);
		p[40] = (char)c[i].flags;
		p += CHUNK_BYTES;
		if (c[i].offset < first->offset || (c[i].offset == first->offset && c[i].modified < first->modified))
			first = &c[i];
	}
	e->a.ctime_ns = e->ctime_ns / SECOND * SECOND +
			(int64_t)(sw_blake2b8(tag, (size_t)(p - tag), "generation") % (uint64_t)SECOND);
	if (first->offset == 0) {
		k = snprintf(key, sizeof key, "%llx", (unsigned long long)first->key);
		k = snprintf(fid, sizeof fid, "%u,%s%s%08x", first->volume, k % 2 ? "0" : "", key, first->cookie);
		k = snprintf(said, sizeof said, "%lld %s", (long long)e->btime_ns, fid);
		e->a.btime_ns = (int64_t)(sw_blake2b8(said, (size_t)k, "birth") >> 1);
	} else {
		char whole[32 + 1 + CHUNKS * CHUNK_BYTES];

		k = snprintf(whole, 32, "%lld ", (long long)e->btime_ns);
		memcpy(whole + k, tag, (size_t)(p - tag));
		e->a.btime_ns = (int64_t)(sw_blake2b8(whole, (size_t)k + (size_t)(p - tag), "birth") >> 1);
	}
	if (!e->a.btime_ns)
		e->a.btime_ns = 1;
	e->tag_len = (uint16_t)(p - tag);
}

/* Room for `n` more bytes of text. */
static char *room(struct sw_listing *l, size_t n)
{
	if (l->used + n > l->room) {
		size_t more = l->room * 2 + n + 4096;
		char *p = more > UINT32_MAX ? NULL : realloc(l->text, more);

		if (!p)
			return NULL;
		l->text = p;
		l->room = more;
	}
	return l->text + l->used;
}

/* "path %d %s": seaweed_entries.attributes_of. */
static int number_of(struct sw_listing *l, struct sw_listed *e, const char *directory, size_t n, const char *name)
{
	char *p = room(l, n + e->name_len + 40);
	int k;

	if (!p)
		return 0;
	k = sprintf(p, "path %lld ", (long long)(e->btime_ns / SECOND));
	memcpy(p + k, directory, n);
	memcpy(p + k + n, name, e->name_len);
	e->a.ino = sw_blake2b8(p, (size_t)k + n + e->name_len, "") >> 1 | 1ull << 48;
	return 1;
}

/* The number of those who have it, -1. Neighbours have the same as a rule. */
static int owner_of(struct sw_listing *l, const struct sw_attrs *a)
{
	struct owner *o;

	for (uint32_t i = l->nowners; i; i--)
		if ((o = &l->owners[i - 1])->mode == a->mode && o->uid == a->uid && o->gid == a->gid)
			return (int)(i - 1);
	if (l->nowners > UINT16_MAX || !(o = realloc(l->owners, (l->nowners + 1) * sizeof *o)))
		return -1;
	l->owners = o;
	o[l->nowners] = (struct owner){a->mode, a->uid, a->gid};
	return (int)l->nowners++;
}

/* Adds an entry; `n` is how many chunks its tag is of. 0, or -ENOMEM. */
static int keep(struct sw_listing *l, const struct sw_listed *e, const char *name, int n)
{
	int owner = owner_of(l, &e->a), brief = 0;
	size_t tag_len = e->tag_len;
	uint64_t offset, size;
	char *p = room(l, e->name_len + 1u + tag_len);

	if (!p || owner < 0)
		return -ENOMEM;
	if (n == 1) {
		memcpy(&offset, e->tag + 17, 8);
		memcpy(&size, e->tag + 25, 8);
		brief = !offset && le64toh(size) == e->a.size;
	}
	l->entries[l->count++] = (struct listed){
		.ino = e->a.ino,
		.size = e->a.size,
		.mtime_ns = e->a.mtime_ns,
		.ctime_ns = e->ctime_ns,
		.btime_ns = e->btime_ns,
		.birth_ns = e->a.btime_ns,
		.generation = n ? (uint32_t)(e->a.ctime_ns - e->ctime_ns / SECOND * SECOND) : SW_UNNAMED,
		.name = (uint32_t)l->used,
		.owner = (uint16_t)owner,
		.tag_len = (uint16_t)(brief ? SHORT_BYTES : tag_len),
		.name_len = e->name_len,
		.bare = e->a.bare,
	};
	memcpy(p, name, e->name_len + 1u);
	p += e->name_len + 1;
	if (brief) {
		memcpy(p, e->tag + 1, 16);
		memcpy(p + 16, e->tag + 33, SHORT_BYTES - 16);
		tag_len = SHORT_BYTES;
	} else
		memcpy(p, e->tag, tag_len);
	l->used += e->name_len + 1u + tag_len;
	return 0;
}

void listing_entry(const sw_listing *l, uint32_t i, struct sw_listed *out)
{
	const struct listed *e = &l->entries[i];
	const struct owner *o = &l->owners[e->owner];

	out->a = (struct sw_attrs){
		.ino = e->ino,
		.size = e->size,
		.mtime_ns = e->mtime_ns,
		.ctime_ns = e->generation == SW_UNNAMED ? e->ctime_ns : e->ctime_ns / SECOND * SECOND + e->generation,
		.btime_ns = e->birth_ns,
		.mode = o->mode,
		.nlink = 1,
		.uid = o->uid,
		.gid = o->gid,
		.blksize = SW_REMOTE_BLOCK,
		.bare = e->bare,
	};
	out->ctime_ns = e->ctime_ns;
	out->btime_ns = e->btime_ns;
	out->name = e->name;
	out->name_len = e->name_len;
	out->tag_len = 0;
}

void sw_listing_entry(const sw_listing *l, uint32_t i, struct sw_listed *out)
{
	const struct listed *e = &l->entries[i];
	const char *p = l->text + e->name + e->name_len + 1;
	uint64_t size = htole64(e->size);

	listing_entry(l, i, out);
	if (e->tag_len == SHORT_BYTES) {
		out->tag[0] = 'L';
		memcpy(out->tag + 1, p, 16);
		memset(out->tag + 17, 0, 8);
		memcpy(out->tag + 25, &size, 8);
		memcpy(out->tag + 33, p + 16, SHORT_BYTES - 16);
		out->tag_len = 1 + CHUNK_BYTES;
	} else {
		memcpy(out->tag, p, e->tag_len);
		out->tag_len = e->tag_len;
	}
}

static int entry_of(struct sw_listing *l, struct text *t, const char *directory, size_t dirlen)
{
	enum { PATH = 1, MODE = 2, SIZE = 4, MTIME = 8, CRTIME = 16, UID = 32, GID = 64, ALL = 127 };
	struct sw_listed listed = {.a.bare = 1}, *e = &listed;
	struct chunk chunks[CHUNKS];
	struct text key, path;
	char name[SW_NAME_MAX + 1];
	int first = 1, r, n = 0, seen = 0, escaped = 0, on;
	int64_t v, size = 0;

	if (!take(t, '{'))
		return -EOPNOTSUPP;
	while ((r = member(t, &first, &key)) > 0) {
		int ok;

		if (is(&key, "Content") || is(&key, "HardLinkId") || is(&key, "HardLinkCounter") || is(&key, "Remote") ||
		    is(&key, "SymlinkTarget") || is(&key, "TtlSec") || is(&key, "Rdev"))
			ok = skip(t, &on, 0) && !on;
		else if (is(&key, "FullPath")) {
			ok = string(t, &path, &escaped);
			seen |= PATH;
		} else if (is(&key, "Mode")) {
			ok = number(t, &v) && v >= 0 && v <= UINT32_MAX;
			e->a.mode = ok ? mode_of((uint32_t)v) : 0;
			seen |= MODE;
		} else if (is(&key, "FileSize")) {
			ok = number(t, &size) && size >= 0;
			seen |= SIZE;
		} else if (is(&key, "Mtime")) {
			ok = time_of(t, &e->a.mtime_ns);
			seen |= MTIME;
		} else if (is(&key, "Ctime"))
			ok = time_of(t, &e->ctime_ns);
		else if (is(&key, "Crtime")) {
			ok = time_of(t, &e->btime_ns);
			seen |= CRTIME;
		} else if (is(&key, "Uid") || is(&key, "Gid")) {
			ok = number(t, &v) && v >= 0 && v <= UINT32_MAX;
			*(key.p[0] == 'U' ? &e->a.uid : &e->a.gid) = (uint32_t)v;
			seen |= key.p[0] == 'U' ? UID : GID;
		} else if (is(&key, "chunks")) {
			n = chunks_of(t, chunks);
			ok = n >= 0;
		} else if (is(&key, "Extended")) {
			on = bare_of(t);
			ok = on >= 0;
			e->a.bare = on > 0;
		} else
			ok = skip(t, &on, 0);
		if (!ok)
			return -EOPNOTSUPP;
	}
	if (r || seen != ALL || !(S_ISREG(e->a.mode) || S_ISDIR(e->a.mode)))
		return -EOPNOTSUPP;
	e->name_len = (uint16_t)last_part(&path, escaped, name);
	if (!e->name_len || memchr(name, '/', e->name_len))
		return -EOPNOTSUPP;
	name[e->name_len] = 0;
	if (!e->ctime_ns)
		e->ctime_ns = e->a.mtime_ns;
	e->a.ctime_ns = e->ctime_ns;
	e->a.btime_ns = e->btime_ns;
	if (S_ISREG(e->a.mode)) {
		for (int i = 0; i < n; i++)
			if (chunks[i].offset + (int64_t)chunks[i].size > size)
				size = chunks[i].offset + (int64_t)chunks[i].size;
		e->a.size = (uint64_t)size;
		if (n)
			generation_of(e, chunks, n);
	} else
		n = 0;
	if (!number_of(l, e, directory, dirlen, name))
		return -ENOMEM;
	return keep(l, e, name, n);
}

static int listed_name(const struct sw_listing *l, const struct listed *e, const char *name, size_t n)
{
	int r = memcmp(l->text + e->name, name, e->name_len < n ? e->name_len : n);

	return r ? r : (e->name_len > n) - (e->name_len < n);
}

static int entries_of(struct sw_listing *l, struct text *t, uint32_t limit, const char *directory, size_t dirlen)
{
	uint32_t have = 0;
	int r, on;

	blank(t);
	if (word(t, "null"))
		return 0;
	if (!take(t, '['))
		return -EOPNOTSUPP;
	if (take(t, ']'))
		return 0;
	do {
		if (l->count == limit) { /* one more was asked for, to know whether there is one */
			if (!skip(t, &on, 0))
				return -EOPNOTSUPP;
			l->beyond = 1;
			continue;
		}
		if (l->count == have) {
			struct listed *e = realloc(l->entries, (have = have * 2 + 64) * sizeof *e);

			if (!e)
				return -ENOMEM;
			l->entries = e;
		}
		r = entry_of(l, t, directory, dirlen);
		if (r < 0)
			return r;
		/* What is looked for in it is looked for by halves. */
		if (l->count > 1) {
			struct listed *e = &l->entries[l->count - 1];

			if (listed_name(l, e - 1, l->text + e->name, e->name_len) >= 0)
				return -EOPNOTSUPP;
		}
	} while (take(t, ','));
	return take(t, ']') ? 0 : -EOPNOTSUPP;
}

sw_listing *sw_listing_parse(const char *json, size_t n, const char *directory, uint32_t limit, int *err)
{
	struct text t = {json, json + n}, key;
	sw_listing *l = calloc(1, sizeof *l);
	int first = 1, r, on;

	*err = l ? -EOPNOTSUPP : -ENOMEM;
	if (!l)
		return NULL;
	l->refs = 1;
	if (take(&t, '{')) {
		while ((r = member(&t, &first, &key)) > 0) {
			if (is(&key, "Entries")) {
				if (l->count || (*err = entries_of(l, &t, limit, directory, strlen(directory))) < 0)
					break;
			} else if (!skip(&t, &on, 0))
				break;
			else if (is(&key, "ShouldDisplayLoadMore"))
				l->load_more = (uint8_t)on;
		}
		blank(&t);
		if (!r && t.p == t.end) {
			void *fitting = realloc(l->entries, (l->count + !l->count) * sizeof *l->entries);

			l->entries = fitting ? fitting : l->entries;
			fitting = realloc(l->text, l->used + 1);
			l->text = fitting ? fitting : l->text;
			*err = 0;
			return l;
		}
		if (!*err)
			*err = -EOPNOTSUPP;
	}
	sw_listing_free(l);
	return NULL;
}

void sw_listing_free(sw_listing *l)
{
	if (l && atomic_fetch_sub(&l->refs, 1) == 1) {
		free(l->entries);
		free(l->owners);
		free(l->text);
		free(l);
	}
}

uint32_t sw_listing_count(const sw_listing *l)
{
	return l->count;
}

int sw_listing_more(const sw_listing *l)
{
	return l->count && (l->beyond || l->load_more);
}

const char *sw_listing_text(const sw_listing *l)
{
	return l->text;
}

int64_t sw_listing_find(const sw_listing *l, const char *name, size_t n)
{
	uint32_t low = 0, high = l->count;

	while (low < high) {
		uint32_t mid = low + (high - low) / 2;
		int r = listed_name(l, &l->entries[mid], name, n);

		if (!r)
			return mid;
		if (r < 0)
			low = mid + 1;
		else
			high = mid;
	}
	return -1;
}
