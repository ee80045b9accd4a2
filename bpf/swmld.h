/* swmld.h: what the probes keep and say. Shared by the BPF programs, by native/ (which keeps the same books for reads
 * that FUSE sees) and, as struct formats, by daemon/swmld/observe/records.py (a test compares them).
 *
 * Times are CLOCK_MONOTONIC in nanoseconds; where the name ends in `_ns` and no wait is meant they come from the coarse
 * clock (4 ms at 250 Hz). Offsets and sizes are pages of 4 KiB. All structs are free of padding. */
#ifndef SWMLD_PROBE_H
#define SWMLD_PROBE_H

/* CDEF begin */
enum swp_kind { /* how a stream is read, as far as single reads tell */
	SWP_NEW = 0, SWP_SEQUENTIAL = 1, SWP_REVERSE = 2, SWP_STRIDED = 3, SWP_RANDOM = 4,
};

enum swp_event_kind {
	SWP_EV_FIRST = 1,  /* first read of this file by this process since its cursor was made */
	SWP_EV_PASS = 2,   /* begins at page 0 again after the last page had been read */
	SWP_EV_KIND = 3,   /* the stream is read another way, or with another stride */
	SWP_EV_BREAK = 4,  /* one read elsewhere in a sequential or reverse stream: it goes on from there */
	SWP_EV_WINDOW = 5, /* SWP_WINDOW pages since the last event */
	SWP_EV_CLOSE = 6,  /* FUSE alone knows: nobody has the file open any more; pid 0 */
	SWP_EV_FORK = 7,   /* a process made another: pid, and `ino` is the child */
	SWP_EV_EXEC = 8,
	SWP_EV_EXIT = 9,   /* of the whole process */
	SWP_EV_OPEN = 11,  /* FUSE alone knows: a file of SWP_FOLIO pages and more; pid is that of a thread */
	SWP_EV_MET = 10,   /* a process that has read nothing writes: to be known by name while it lives */
};

enum { /* swp_event.flags */
	SWP_FAULT = 1,     /* a page fault of a mapping */
	SWP_DIRECT = 2,    /* O_DIRECT, seen by FUSE */
	SWP_COLD = 4,      /* the read waited for its first page */
	SWP_WHOLE = 8,     /* this one read covers the file */
};

#define SWP_WINDOW 1024    /* pages: 4 MiB, the default chunk */
#define SWP_FOLIO 512      /* pages of the largest folio, 2 MiB */
#define SWP_EARLY 8
#define SWP_PAUSE_NS 1000000000ull /* without a write of the stream: the next one begins a burst */
#define SWP_ABOVE 3         /* ancestors of a process that are noted, beside its parent */
#define SWP_BUCKETS 24     /* waits: bucket b counts [2^b, 2^(b+1)) microseconds; bucket 0 also less, the last also more */
#define SWP_FILTER_BITS 262144
#define SWP_ESTIMATED 8    /* in swp_cursor.missed */
#define SWP_ENDED 0x80000000 /* in swp_key.dev: these books were ended. No device has this bit */

struct swp_key { /* one stream: a file as read by a process */
	unsigned long long ino;
	unsigned int dev;  /* kernel's encoding: major << 20 | minor */
	unsigned int pid;  /* thread group */
};

struct swp_cursor {
	/* What each read touches, with the key in two cache lines: the pages that a reader copies push them out of the first
	 * cache. They begin a line as long as a swp_row fills whole ones: hence `pad`. */
	unsigned long long next;      /* page after the last one read */
	unsigned long long start;     /* first page of the last read */
	unsigned long long asked;     /* last page that the last read asked for, not cut at the end of the file */
	long long stride;             /* from start to start of the last two reads */
	unsigned long long size;      /* pages; 0: not known */
	unsigned long long low, high; /* lowest and highest page read */
	unsigned long long last_ns;
	unsigned long long pages;     /* read; a page read again by the next small read is counted once */
	unsigned long long event_pages; /* value of pages at the last event */
	unsigned int run;             /* reads in a row that fit `guess` */
	unsigned int tid;             /* thread of the last read */
	unsigned short kind;          /* enum swp_kind, established */
	unsigned short guess;         /* what the last read looked like */
	unsigned int pending;         /* reads under way that missed a page */
	unsigned char shared;         /* threads read it at once */
	unsigned char missed;         /* flags of the current read: 1 cold, 2 partial; of the stream: 4 its faults read
				       * ahead, 8 (SWP_ESTIMATED) some of its counts are estimated */
	unsigned short slice;         /* swp_config.slice, its lower half, at the last read that is not a fault */
	unsigned int epoch;           /* swp_filter.epoch when `node` was last looked up */
	/* Reads by how they lie to the one before; with the first read and the passes they are `reads`. */
	unsigned long long random, sequential, strided, reverse, same;
	unsigned long long reads;     /* read calls and faults; = hits + cold + partial; summed up when it is asked for */
	unsigned long long node;      /* nodeid where the file is a cache file; 0: the mount's own inode */
	unsigned long long first_ns;
	unsigned long long event_ns;  /* of the last event */
	unsigned long long cold;      /* reads whose first page was not in the page cache */
	unsigned long long partial;   /* reads that missed a later page only */
	unsigned long long faults;    /* of the reads: page faults */
	unsigned long long direct;    /* of the reads: O_DIRECT */
	unsigned long long wait_ns;   /* asleep for pages of it, exact clock */
	unsigned long long written;   /* bytes that the process wrote, or made dirty: see writes.h */
	unsigned long long written_ns; /* the last of it; 0: it has written nothing */
	unsigned long long bursts;    /* of writes, with pauses of SWP_PAUSE_NS and more between them */
	unsigned int passes;          /* times begun anew at page 0 after the last page was read */
	unsigned int early_reads;     /* how many of `early` are set */
	unsigned int early[SWP_EARLY]; /* first pages of the first reads, 0xffffffff: none or beyond */
	unsigned long long pad[3];
};

struct swp_row { /* one stream and its books */
	struct swp_key key;           /* ino 0: free, as far as it matters who reads it; all zero: never used */
	struct swp_cursor cursor;
};

struct swp_event {
	unsigned long long ns;        /* coarse */
	unsigned long long ino;
	unsigned long long node;
	unsigned long long first;     /* the read that caused it, in pages */
	unsigned long long last;      /* last page of it, cut at the end of the file */
	unsigned long long size;      /* pages; 0: not known */
	long long stride;
	unsigned int dev;
	unsigned int pid;
	unsigned short kind;          /* enum swp_event_kind */
	unsigned short flags;
	unsigned int shape;           /* enum swp_kind of the stream from now on */
};

struct swp_process { /* by pid */
	unsigned long long seen_ns;
	unsigned long long cgroup;    /* id, the inode number of its directory */
	unsigned long long wait_ns, waits;           /* asleep for a page, while reading files of the mount */
	unsigned long long meta_ns, metas;           /* FUSE requests other than READ and WRITE */
	unsigned long long fuse_read_ns, fuse_reads; /* FUSE READs that this process itself waited for or caused */
	unsigned long long fuse_write_ns, fuse_writes;
	unsigned long long histogram[SWP_BUCKETS];   /* of single waits */
	unsigned int parent;          /* pid; 0: not known */
	unsigned int session;         /* pid of its leader, as the initial namespace numbers it; 0: not known */
	unsigned int above[SWP_ABOVE]; /* the parent's parent and so on; 0: not known, or there is none */
	unsigned int ended;           /* these are the books of one that is gone: the pid may be another's by now */
	char comm[16];
};

struct swp_stranger { /* by pid: FUSE requests of a process that has neither read nor written yet, or child of one that has */
	unsigned long long meta_ns, metas;
};

struct swp_thread { /* by tid: what a thread is in the middle of; made at its first miss or read of many pages */
	struct swp_key stream;        /* the one it read last, as far as is known here */
	unsigned long long start, asked; /* that read: one of many pages comes in pieces */
	unsigned long long asleep_ns; /* since when it waits, exact clock; 0: it does not */
	unsigned long long ahead;     /* page where readahead went on */
	unsigned long long from;      /* first page of the read under way that was told of */
	unsigned long long around;    /* last page of a fault's window, which begins at `from` */
	unsigned int missed;          /* what tears the read under way into pieces: see books.h */
	unsigned int fault;           /* it is in a page fault, and may have waited there */
	unsigned int torn;            /* `missed` of the last read */
	unsigned int visit;           /* how far a fault is told */
	unsigned int slice;           /* swp_config.slice when `missed` was begun */
	unsigned int narrow;          /* first page of a folio that faults do not map in full, plus 1, its lower half */
	unsigned long long room;      /* of the programs: see unknown */
};

struct swp_request { /* by address of the kernel's request */
	unsigned long long ns;        /* exact clock */
	unsigned int pid, opcode;
};

struct swp_config { /* one element */
	unsigned int mount_dev, cache_dev, source_dev;
	unsigned int self;            /* pid whose reads are not looked at */
	unsigned int slice;           /* counts how often reads were looked at again after a pause: see on_read */
	unsigned int weight;          /* reads that one which is seen stands for; 1: all are seen */
	unsigned long long tick, tick_ns; /* of the last read: see coarse_ns */
};

struct swp_file { unsigned long long ino; unsigned int dev, pad; };

struct swp_filter { /* by inode number, 64 of them in an element: most files of a disk are none of ours */
	unsigned long long bits;      /* of those that are, or were, watched */
	unsigned int epoch;           /* counts what is watched and no longer: numbers are used again for other files */
	unsigned int pad;
};

struct swp_watch { /* by swp_file: the cache files and source files that passthrough reads and writes; under device 0 those
		    * of the mount's own inodes whose nodeid is not their number */
	unsigned long long node;
};

enum { SWP_LOST_EVENTS = 0, SWP_LOST_CURSORS = 1, SWP_LOST_PROCESSES = 2, SWP_LOST_MAX = 4 }; /* counters of what did not fit */

/* CDEF end */
#endif
