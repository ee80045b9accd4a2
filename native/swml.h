/* swml.h: the public face of native/. Everything between the CDEF marks is what Python sees through cffi.
 *
 * Conventions: a function returns 0 or a count, or -errno; it never prints and never calls back. `s` is a session.
 * Times are nanoseconds. "May block" marks calls that touch the source: Python makes them in worker threads. */
#ifndef SWML_H
#define SWML_H
#include <stddef.h>
#include <stdint.h>

/* CDEF begin */
/* ---- buffers.c, crc32c.c: bytes ---- */
uint32_t sw_crc32c(uint32_t crc, const void *data, size_t n);
uint32_t sw_crc32c_soft(uint32_t crc, const void *data, size_t n);
void *sw_buffer_alloc(size_t n); /* page-aligned, zeroed; NULL when out of memory */
void sw_buffer_free(void *p, size_t n);
int sw_syncfs(int fd);
int sw_fsetid(int on);
int64_t sw_pwrite(int fd, const void *p, size_t n, int64_t off); /* without CAP_FSETID: the source clears setuid bits */
int sw_ftruncate(int fd, int64_t size);
int sw_renameat2(int olddir, const char *oldname, int newdir, const char *newname, unsigned flags);
/* CDEF end */
#endif
