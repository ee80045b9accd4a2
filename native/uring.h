/* uring.h: one io_uring with SQEs of 128 bytes, as ring.c needs it; used by one thread. */
#ifndef SWML_URING_H
#define SWML_URING_H
#include <linux/io_uring.h>
#include <stddef.h>
#include <stdint.h>

struct uring {
	int fd;
	void *map, *sqes;
	size_t map_size, sqes_size;
	uint32_t *sq_tail, *cq_head, *cq_tail, sq_mask, cq_mask, unsubmitted;
	struct io_uring_cqe *cqes;
};
#define URING_NONE ((struct uring){.fd = -1})

int uring_open(struct uring *u, uint32_t entries, int file); /* file: number 0 for IOSQE_FIXED_FILE */
void uring_close(struct uring *u);
struct io_uring_sqe *uring_sqe(struct uring *u); /* the next one, zeroed: there must be room */
void uring_push(struct uring *u);                /* it is filled in */
int uring_enter(struct uring *u, unsigned wait_for); /* submits; 0 also when interrupted */
int uring_pop(struct uring *u, struct io_uring_cqe *c); /* 1: one more completion */
#endif
