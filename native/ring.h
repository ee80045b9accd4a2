/* ring.h: what ring.c (requests and answers) and queues.c (making and ending) share. */
#ifndef SWML_RING_H
#define SWML_RING_H
#include "internal.h"
#include "uring.h"

#include <sys/uio.h>

/* Of the kernel's include/uapi/linux/fuse.h, 7.42. */
struct ring_in_out {
	uint64_t flags, commit_id;
	uint32_t payload_sz, padding;
	uint64_t reserved;
};
struct ring_header {
	char in_out[128];              /* struct fuse_in_header, or fuse_out_header */
	char op_in[128];               /* the operation's own struct; what follows it is in the payload */
	struct ring_in_out ent;
};
struct ring_cmd {                      /* in the second half of an SQE of 128 bytes */
	uint64_t flags, commit_id;
	uint16_t qid;
	uint8_t padding[6];
};
enum { CMD_REGISTER = 1, CMD_COMMIT_AND_FETCH = 2 };

#define HEAD 4096                      /* in front of the payload: the header, and room to join a message in */
#define PAYLOAD SW_MSG_MAX
#define EACH (HEAD + ((PAYLOAD + 4095) & ~4095ul))
#define HELD 1024
#define MAX_CPUS 1024
#define WORKERS 8

struct entry {
	struct queue *q;
	struct entry *held;            /* next in the bucket */
	struct entry *next;            /* in `done`, or in `work` */
	uint64_t unique;
	struct ring_header *header;
	char *payload, *msg;
	struct iovec iov[2];
};

struct queue {
	struct ring *ring;
	int id, wakefd, err, alive;
	struct uring u;
	pthread_t thread;
	uint64_t woken, slow_until;
	char *arena;
	struct entry *entries;
	pthread_mutex_t lock;
	struct entry *done;            /* answered by other threads */
};

struct ring {
	sw_session *s;
	int nqueues, depth, nworkers;
	int ready, started;            /* under lock: queues that are set up, then registered */
	_Atomic int stopping;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	pthread_mutex_t held_lock;
	struct entry *held[HELD];      /* by unique: requests without an answer */
	pthread_t workers[WORKERS];
	pthread_mutex_t work_lock;
	pthread_cond_t more;
	struct entry *work, **work_tail;
	struct queue queues[];
};

/* queues.c */
int queue_open(struct queue *q);       /* in the queue's own thread: what submits an entry is its owner */

/* ring.c: the threads */
void *queue_thread(void *arg);
void *worker_thread(void *arg);
#endif
