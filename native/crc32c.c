/* crc32c (Castagnoli, RFC 3720 appendix B.4): the checksum of a cache chunk.
 *
 * With SSE4.2 or the ARMv8 CRC extension three independent streams hide the instruction's latency of three cycles;
 * they are joined by multiplying with x^(8*BLOCK) mod P, done here with a table made at load time. Elsewhere a
 * slicing-by-8 table does it. Which one runs is decided by asking the processor. */
#include "swml.h"

#include <string.h>

#define POLY 0x82f63b78u /* reversed Castagnoli polynomial */
#define BLOCK 4096

static uint32_t slice[8][256];
static uint32_t shift_block[4][256]; /* multiplies a crc by x^(8*BLOCK) */

static uint32_t soft(uint32_t crc, const uint8_t *p, size_t n)
{
	while (n && ((uintptr_t)p & 7)) {
		crc = slice[0][(crc ^ *p++) & 0xff] ^ (crc >> 8);
		n--;
	}
	while (n >= 8) {
		uint64_t v;

		memcpy(&v, p, 8);
		v ^= crc;
		crc = slice[7][v & 0xff] ^ slice[6][(v >> 8) & 0xff] ^ slice[5][(v >> 16) & 0xff] ^
		      slice[4][(v >> 24) & 0xff] ^ slice[3][(v >> 32) & 0xff] ^ slice[2][(v >> 40) & 0xff] ^
		      slice[1][(v >> 48) & 0xff] ^ slice[0][v >> 56];
		p += 8;
		n -= 8;
	}
	while (n--)
		crc = slice[0][(crc ^ *p++) & 0xff] ^ (crc >> 8);
	return crc;
}

static uint32_t shifted(uint32_t crc)
{
	return shift_block[0][crc & 0xff] ^ shift_block[1][(crc >> 8) & 0xff] ^
	       shift_block[2][(crc >> 16) & 0xff] ^ shift_block[3][crc >> 24];
}

__attribute__((constructor)) static void make_tables(void)
{
	static const uint8_t zeros[BLOCK];

	for (uint32_t i = 0; i < 256; i++) {
		uint32_t c = i;

		for (int k = 0; k < 8; k++)
			c = c & 1 ? (c >> 1) ^ POLY : c >> 1;
		slice[0][i] = c;
	}
	for (int t = 1; t < 8; t++)
		for (int i = 0; i < 256; i++)
			slice[t][i] = slice[0][slice[t - 1][i] & 0xff] ^ (slice[t - 1][i] >> 8);
	for (int t = 0; t < 4; t++)
		for (uint32_t i = 0; i < 256; i++)
			shift_block[t][i] = soft(i << (8 * t), zeros, BLOCK);
}

#if defined(__x86_64__)
#define HARD __attribute__((target("sse4.2")))
#define STEP8(c, p) ((uint32_t)__builtin_ia32_crc32di((c), load8(p)))
#define STEP1(c, p) __builtin_ia32_crc32qi((c), *(p))
static int have_hard(void) { return __builtin_cpu_supports("sse4.2"); }
#elif defined(__aarch64__) && defined(__ARM_FEATURE_CRC32)
#include <arm_acle.h>
#define HARD
#define STEP8(c, p) __crc32cd((c), load8(p))
#define STEP1(c, p) __crc32cb((c), *(p))
static int have_hard(void) { return 1; }
#endif

#ifdef HARD
static inline uint64_t load8(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, 8);
	return v;
}

HARD static uint32_t hard(uint32_t crc, const uint8_t *p, size_t n)
{
	while (n >= 3 * BLOCK) {
		uint32_t b = 0, c = 0;

		for (size_t i = 0; i < BLOCK; i += 8) {
			crc = STEP8(crc, p + i);
			b = STEP8(b, p + BLOCK + i);
			c = STEP8(c, p + 2 * BLOCK + i);
		}
		crc = shifted(shifted(crc) ^ b) ^ c;
		p += 3 * BLOCK;
		n -= 3 * BLOCK;
	}
	for (; n >= 8; p += 8, n -= 8)
		crc = STEP8(crc, p);
	for (; n; p++, n--)
		crc = STEP1(crc, p);
	return crc;
}
#endif

uint32_t sw_crc32c(uint32_t crc, const void *data, size_t n)
{
	crc = ~crc;
#ifdef HARD
	if (have_hard())
		return ~hard(crc, data, n);
#endif
	return ~soft(crc, data, n);
}

uint32_t sw_crc32c_soft(uint32_t crc, const void *data, size_t n)
{
	return ~soft(~crc, data, n);
}
