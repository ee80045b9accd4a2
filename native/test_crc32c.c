/* crc32c: hardware equals software equals the published vectors, at every alignment and over every block border. */
#include "test_kit.h"

/* One bit at a time, from the definition. */
static uint32_t by_bit(uint32_t crc, const unsigned char *p, size_t n)
{
	crc = ~crc;
	while (n--) {
		crc ^= *p++;
		for (int i = 0; i < 8; i++)
			crc = crc & 1 ? (crc >> 1) ^ 0x82f63b78u : crc >> 1;
	}
	return ~crc;
}

static void vectors(void) /* RFC 3720 appendix B.4 */
{
	unsigned char b[48] = {0};
	static const unsigned char scsi_read[48] = {
		0x01, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x14, 0, 0, 0, 0, 0, 0x04, 0,
		0, 0, 0, 0x14, 0, 0, 0, 0x18, 0x28, 0, 0, 0, 0, 0, 0, 0, 0x02, 0, 0, 0, 0, 0, 0, 0};

	EQUAL(sw_crc32c(0, b, 32), 0x8a9136aa);
	memset(b, 0xff, 32);
	EQUAL(sw_crc32c(0, b, 32), 0x62a8ab43);
	for (int i = 0; i < 32; i++)
		b[i] = (unsigned char)i;
	EQUAL(sw_crc32c(0, b, 32), 0x46dd794e);
	for (int i = 0; i < 32; i++)
		b[i] = (unsigned char)(31 - i);
	EQUAL(sw_crc32c(0, b, 32), 0x113fdb5c);
	EQUAL(sw_crc32c(0, scsi_read, 48), 0xd9963a56);
	EQUAL(sw_crc32c(0, "123456789", 9), 0xe3069283);
	EQUAL(sw_crc32c(0, b, 0), 0);
	EQUAL(sw_crc32c(0x12345678, b, 0), 0x12345678);
}

static void every_way(const unsigned char *p, size_t n)
{
	uint32_t want = by_bit(0, p, n);

	EQUAL(sw_crc32c(0, p, n), want);
	EQUAL(sw_crc32c_soft(0, p, n), want);
}

int main(void)
{
	size_t size = 3 * 3 * 4096 + 64; /* three rounds of the three-stream loop */
	unsigned char *p = malloc(size);
	uint32_t x = 1;

	for (size_t i = 0; i < size; i++) {
		x = x * 1664525 + 1013904223;
		p[i] = (unsigned char)(x >> 24);
	}
	vectors();
	for (size_t at = 0; at < 16; at++) /* exact allocations: a byte read too far is seen by ASan */
		for (size_t n = 0; n < 80; n++) {
			unsigned char *q = malloc(at + n + 1);

			memcpy(q + at, p, n);
			every_way(q + at, n);
			free(q);
		}
	for (size_t round = 1; round <= 3; round++)
		for (int d = -9; d <= 9; d++) {
			size_t n = (size_t)((long)(round * 3 * 4096) + d);

			every_way(p + (n & 7), n);
		}
	for (size_t cut = 0; cut <= size; cut += 997) /* in two parts */
		EQUAL(sw_crc32c(sw_crc32c(0, p, cut), p + cut, size - cut), sw_crc32c_soft(0, p, size));
	free(p);
	return kit_done();
}
