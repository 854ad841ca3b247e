/*
 * Two threads that hold libc's calls against system calls, in a program without shared libraries. It says "ready", and at the end
 * of its standard input "right" with the number of rounds, or what was wrong. After a line on standard input functions have to
 * be right that CRIU's jumps do not cover.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static atomic_int linked, ended;
static atomic_long rounds;

static long long nanoseconds(struct timespec time)
{
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static long long kernel(long number, int clock)
{
	struct timespec time;

	if (syscall(number, clock, &time) != 0)
		abort();
	return nanoseconds(time);
}

static void wrong(const char *what, int clock, long long found, long long before, long long after)
{
	printf("%s(%d): %lld, and the kernel says %lld and %lld\n", what, clock, found, before, after);
	fflush(stdout);
	_exit(1);
}

static void check(void)
{
	static const int clocks[] = { CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_MONOTONIC_COARSE, CLOCK_BOOTTIME };
	struct timespec time;

	for (unsigned i = 0; i < sizeof(clocks) / sizeof(*clocks); i++) {
		long long before = kernel(SYS_clock_gettime, clocks[i]);

		if (clock_gettime(clocks[i], &time) != 0)
			abort();
		long long after = kernel(SYS_clock_gettime, clocks[i]), found = nanoseconds(time);

		if (found < before || found > after)
			wrong("clock_gettime", clocks[i], found, before, after);
		if (!atomic_load(&linked))
			continue;
		before = kernel(SYS_clock_getres, clocks[i]);
		if (clock_getres(clocks[i], &time) != 0)
			abort();
		if (nanoseconds(time) != before)
			wrong("clock_getres", clocks[i], nanoseconds(time), before, before);
	}
}

static void *run(void *unused)
{
	while (!atomic_load(&ended)) {
		check();
		atomic_fetch_add(&rounds, 1);
	}
	return unused;
}

int main(void)
{
	pthread_t threads[2];
	char line[80];

	for (int i = 0; i < 2; i++)
		if (pthread_create(&threads[i], NULL, run, NULL) != 0)
			return 1;
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin) != NULL)
		atomic_store(&linked, 1);
	atomic_store(&ended, 1);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	printf("right %ld\n", atomic_load(&rounds));
	return 0;
}
