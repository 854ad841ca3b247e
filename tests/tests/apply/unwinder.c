/*
 * Asks unwinders for its callers at every instruction that it executes in its vDSO, or cancels threads there.
 *
 *   unwinder walk [with-state]   says "ready", waits for a line, executes every function step by step, and says at which
 *                                offsets of which mapping which unwinder did not find the caller
 *   unwinder cancel COUNT        the same beginning, then cancels that many threads, and says how many missed their cleanup
 *   unwinder spin                the same beginning, then calls until it is killed, from the function `spinning`
 *
 * An unwinder is right at an instruction if it comes from there to the call, with the stack pointer and all registers that a
 * function preserves as they were at the call, and from there to the start of the program; and if there is nothing but code of
 * the function in between: in the mapping of the vDSO ("text"), of the kernel's own ("new"), or of stubs ("stubs").
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>
#include <unwind.h>

/* No vDSO is larger. */
#define EXTENT 0x10000
#define DEPTH 64
#define PRESERVED 6

typedef long (*function)(long, long, long, long, long);

/* Where it begins. */
static uintptr_t base;

/* Mappings that functions execute. */
#define REGIONS 3
enum { TEXT, NEW, STUBS };
static const char *const named[REGIONS] = { "text", "new", "stubs" };
static struct {
	/* Offsets are from `from`. */
	uintptr_t start, end, from;
} regions[REGIONS];

/* DWARF's numbers of the registers that functions preserve, and where a signal frame has them. */
static const int dwarf[PRESERVED] = { 3, 6, 12, 13, 14, 15 };
static const int saved[PRESERVED] = { REG_RBX, REG_RBP, REG_R12, REG_R13, REG_R14, REG_R15 };

/* The call that is being executed. */
static struct {
	uintptr_t entry, returns_to, frame, preserved[PRESERVED];
	int is_known;
} call;

/* What an unwinder has found. */
struct trace {
	int depth;
	uintptr_t pc[DEPTH], frame[DEPTH], preserved[DEPTH][PRESERVED];
};

static _Unwind_Reason_Code add(struct _Unwind_Context *context, void *argument)
{
	struct trace *trace = argument;
	if (trace->depth == DEPTH)
		return _URC_END_OF_STACK;
	int at = trace->depth++;
	trace->pc[at] = _Unwind_GetIP(context);
	trace->frame[at] = _Unwind_GetCFA(context);
	for (int i = 0; i < PRESERVED; i++)
		trace->preserved[at][i] = _Unwind_GetGR(context, dwarf[i]);
	return _URC_NO_REASON;
}

static void by_libgcc(ucontext_t *context, struct trace *trace)
{
	(void)context;
	_Unwind_Backtrace(add, trace);
}

/* The other libunwind, whose headers need not be there. */
static int (*unw_init)(void *, ucontext_t *, int);
static int (*unw_step)(void *);
static int (*unw_get)(void *, int, uintptr_t *);

static void by_libunwind(ucontext_t *context, struct trace *trace)
{
	static _Alignas(16) char cursor[16384];
	if (unw_init(cursor, context, 1) < 0)
		return;
	do {
		int at = trace->depth;
		unw_get(cursor, 16, &trace->pc[at]);
		unw_get(cursor, 7, &trace->frame[at]);
		for (int i = 0; i < PRESERVED; i++)
			unw_get(cursor, dwarf[i], &trace->preserved[at][i]);
		trace->depth++;
	} while (trace->depth < DEPTH && unw_step(cursor) > 0);
}

struct unwinder {
	const char *name;
	void (*trace)(ucontext_t *, struct trace *);
	/* Frames behind the call, as they are at the entry. */
	int behind;
	unsigned char seen[REGIONS][EXTENT], bad[REGIONS][EXTENT];
};

static struct unwinder unwinders[2] = { { .name = "libgcc", .trace = by_libgcc }, { .name = "libunwind" } };

static sigjmp_buf crashed;

/* Which mapping it is in, or -1. */
static int region(uintptr_t pc)
{
	for (int i = 0; i < REGIONS; i++)
		if (regions[i].start <= pc && pc < regions[i].end)
			return i;
	return -1;
}

/* How many frames are behind the call, or why the trace is wrong. */
static int judge(const struct trace *trace, uintptr_t pc, const char **fault)
{
	int at = 0;
	*fault = "it never comes to the instruction";
	while (at < trace->depth && trace->pc[at] != pc)
		at++;
	if (at == trace->depth)
		return -1;
	*fault = "it never comes to the call";
	while (at < trace->depth && trace->pc[at] != call.returns_to)
		if (region(trace->pc[at++]) < 0) {
			*fault = "it goes astray";
			return -1;
		}
	if (at == trace->depth)
		return -1;
	*fault = "another frame";
	if (trace->frame[at] != call.frame)
		return -1;
	*fault = "other registers";
	if (memcmp(trace->preserved[at], call.preserved, sizeof call.preserved))
		return -1;
	return trace->depth - at;
}

static void ask(struct unwinder *unwinder, ucontext_t *context, uintptr_t pc)
{
	static struct trace trace;
	const char *volatile fault = "a crash";
	volatile int behind = -1;
	int in = region(pc);
	uintptr_t offset = pc - regions[in].from;
	if (unwinder->seen[in][offset])
		return;
	unwinder->seen[in][offset] = 1;
	trace.depth = 0;
	if (!sigsetjmp(crashed, 1)) {
		unwinder->trace(context, &trace);
		const char *why;
		behind = judge(&trace, pc, &why);
		fault = why;
	}
	if (pc == call.entry)
		unwinder->behind = behind;
	if (behind >= 0 && behind != unwinder->behind) {
		fault = "it does not come to the start";
		behind = -1;
	}
	if (behind < 0) {
		unwinder->bad[in][offset] = 1;
		printf("bad %s %s %#lx %s\n", unwinder->name, named[in], offset, fault);
	}
}

static void crash(int signal)
{
	(void)signal;
	siglongjmp(crashed, 1);
}

static void step(int signal, siginfo_t *info, void *argument)
{
	ucontext_t *context = argument;
	greg_t *registers = context->uc_mcontext.gregs;
	uintptr_t pc = registers[REG_RIP];
	(void)signal, (void)info;
	if (region(pc) < 0)
		return;
	if (pc == call.entry) {
		call.returns_to = *(uintptr_t *)registers[REG_RSP];
		call.frame = registers[REG_RSP] + 8;
		for (int i = 0; i < PRESERVED; i++)
			call.preserved[i] = registers[saved[i]];
		call.is_known = 1;
		/* How far it is from there depends on who calls. */
		for (int i = 0; i < 2; i++)
			unwinders[i].seen[region(pc)][pc - regions[region(pc)].from] = 0;
	}
	if (call.is_known)
		for (int i = 0; i < 2; i++)
			if (unwinders[i].trace)
				ask(&unwinders[i], context, pc);
}

/* Calls a function with the trap flag set. */
static __attribute__((noinline)) long stepped(function called, long a, long b, long c, long d, long e)
{
	long result;
	register long fourth asm("rcx") = d;
	register long fifth asm("r8") = e;
	call.entry = (uintptr_t)called;
	call.is_known = 0;
	asm volatile("pushfq\n\t"
		     "orq $0x100, (%%rsp)\n\t"
		     "popfq\n\t"
		     "call *%%rax\n\t"
		     "pushfq\n\t"
		     "andq $~0x100, (%%rsp)\n\t"
		     "popfq"
		     : "=a"(result), "+D"(a), "+S"(b), "+d"(c), "+r"(fourth), "+r"(fifth)
		     : "0"(called)
		     : "r9", "r10", "r11", "cc", "memory");
	return result;
}

/* Finds out where the mappings are that functions execute. What is behind the vDSO may be another one. Stubs are in a mapping
 * without a file; the entry of a prepared function is a jump to one. */
static void measure(uintptr_t entry)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	uintptr_t start, end, stub = 0;
	char line[512], name[256];
	if (*(uint8_t *)entry == 0xe9)
		stub = entry + 5 + *(int32_t *)(entry + 1);
	while (maps && fgets(line, sizeof line, maps)) {
		int known = sscanf(line, "%lx-%lx %*s %*s %*s %*s %255s", &start, &end, name);
		int in = -1;
		if (known < 2)
			continue;
		if (start <= base && base < end)
			in = TEXT;
		else if (known == 3 && !strcmp(name, "[vdso]"))
			in = NEW;
		else if (start <= stub && stub < end)
			in = STUBS;
		if (in < 0)
			continue;
		regions[in].start = start;
		regions[in].end = end;
		regions[in].from = in == TEXT ? base : start;
		if (end - start > EXTENT)
			regions[TEXT].start = 0;
	}
	if (!maps || fclose(maps) || !regions[TEXT].start) {
		fprintf(stderr, "the mappings of vDSOs are unknown\n");
		exit(1);
	}
}

static void *vdso;

static function find(const char *name)
{
	return (function)dlvsym(vdso, name, "LINUX_2.6");
}

/* `struct vgetrandom_opaque_params`. */
struct parameters {
	uint32_t size, protection, flags, reserved[13];
};

static void *state;
static long state_size;

static void make_state(function getrandom)
{
	struct parameters parameters;
	if (!getrandom || getrandom(0, 0, 0, (long)&parameters, -1))
		return;
	state_size = parameters.size;
	state = mmap(0, 4096, parameters.protection, parameters.flags, -1, 0);
	if (state == MAP_FAILED) {
		perror("mmap");
		exit(1);
	}
}

static void walk(void)
{
	static const int clocks[] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 16, 17, 24, -1, -6, 99 };
	static const int sizes[] = { 0, 1, 8, 32, 96, 100, 300, 1, 64 };
	function clock_gettime = find("__vdso_clock_gettime"), getres = find("__vdso_clock_getres");
	function gettimeofday = find("__vdso_gettimeofday"), time = find("__vdso_time");
	function getcpu = find("__vdso_getcpu"), getrandom = find("__vdso_getrandom");
	static char buffer[512];
	struct timespec value;
	struct timezone zone;
	unsigned cpu, node;
	for (unsigned i = 0; i < sizeof clocks / sizeof *clocks; i++) {
		stepped(clock_gettime, clocks[i], (long)&value, 0, 0, 0);
		stepped(getres, clocks[i], (long)&value, 0, 0, 0);
		stepped(getres, clocks[i], 0, 0, 0, 0);
	}
	stepped(gettimeofday, (long)&value, 0, 0, 0, 0);
	stepped(gettimeofday, (long)&value, (long)&zone, 0, 0, 0);
	stepped(gettimeofday, 0, (long)&zone, 0, 0, 0);
	stepped(time, 0, 0, 0, 0, 0);
	stepped(time, (long)&value, 0, 0, 0, 0);
	stepped(getcpu, (long)&cpu, (long)&node, 0, 0, 0);
	stepped(getcpu, 0, 0, 0, 0, 0);
	if (!getrandom)
		return;
	for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++)
		stepped(getrandom, (long)buffer, sizes[i], 0, (long)state, state_size);
	stepped(getrandom, (long)buffer, 8, 0, (long)state, 1);
	stepped(getrandom, (long)buffer, 8, 1 << 20, (long)state, state_size);
	stepped(getrandom, 0, 0, 0, (long)buffer, -1);
}

static atomic_int begun, cleaned;

static void clean(void *argument)
{
	(void)argument;
	cleaned = 1;
}

/* Calls until it is cancelled. Its caller has the cleanup: at a call, unwinders know of it. */
static __attribute__((noinline)) void spin(function clock_gettime, int clock)
{
	struct timespec value;
	pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, 0);
	begun = 1;
	for (;;)
		clock_gettime(clock, (long)&value, 0, 0, 0);
}

static void *cleaned_up(void *argument)
{
	/* Coarse clocks, and those that follow no frequency, have code of their own. */
	static const int clocks[] = { 6, 5, 1, 4 };
	static unsigned next;
	pthread_cleanup_push(clean, 0);
	spin((function)argument, clocks[next++ % 4]);
	pthread_cleanup_pop(0);
	return 0;
}

static void cancel(long count)
{
	function clock_gettime = find("__vdso_clock_gettime");
	long missed = 0;
	unsigned random = 1;
	for (long i = 0; i < count; i++) {
		pthread_t thread;
		begun = cleaned = 0;
		if (pthread_create(&thread, 0, cleaned_up, (void *)clock_gettime)) {
			perror("pthread_create");
			exit(1);
		}
		while (!begun)
			sched_yield();
		random = random * 1664525 + 1013904223;
		for (volatile unsigned wait = random >> 20; wait; wait--)
			;
		pthread_cancel(thread);
		pthread_join(thread, 0);
		missed += !cleaned;
	}
	printf("missed %ld of %ld\n", missed, count);
}

static __attribute__((noinline)) void spinning(function clock_gettime)
{
	struct timespec value;
	for (;;) {
		for (volatile int wait = 10000; wait; wait--)
			;
		/* A coarse clock. */
		clock_gettime(6, (long)&value, 0, 0, 0);
	}
}

int main(int count, char **arguments)
{
	struct sigaction on_step = { .sa_sigaction = step, .sa_flags = SA_SIGINFO };
	struct sigaction on_crash = { .sa_handler = crash, .sa_flags = SA_NODEFER };
	void *libunwind = dlopen("libunwind.so.8", RTLD_NOW);
	int walks = count > 1 && !strcmp(arguments[1], "walk");
	if (count < 2)
		return 2;
	base = getauxval(AT_SYSINFO_EHDR);
	vdso = dlopen("linux-vdso.so.1", RTLD_NOW | RTLD_NOLOAD);
	if (!vdso) {
		fprintf(stderr, "%s\n", dlerror());
		return 1;
	}
	if (libunwind) {
		unw_init = dlsym(libunwind, "_ULx86_64_init_local2");
		unw_step = dlsym(libunwind, "_ULx86_64_step");
		unw_get = dlsym(libunwind, "_ULx86_64_get_reg");
		if (unw_init && unw_step && unw_get)
			unwinders[1].trace = by_libunwind;
	}
	if (!strcmp(arguments[1], "unwinders")) {
		for (int i = 0; i < 2; i++)
			if (unwinders[i].trace)
				printf("%s\n", unwinders[i].name);
		return 0;
	}
	if (walks && count > 2)
		make_state(find("__vdso_getrandom"));
	/* The first trace loads what unwinders need. */
	struct trace trace = { 0 };
	by_libgcc(0, &trace);
	printf("ready\n");
	fflush(stdout);
	if (getchar() != '\n')
		return 2;
	if (walks) {
		measure((uintptr_t)find("__vdso_clock_gettime"));
		sigaction(SIGTRAP, &on_step, 0);
		sigaction(SIGSEGV, &on_crash, 0);
		sigaction(SIGBUS, &on_crash, 0);
		walk();
		for (int i = 0; i < 2; i++) {
			for (int in = 0; in < REGIONS; in++) {
				long places = 0;
				for (int at = 0; at < EXTENT; at++)
					places += unwinders[i].seen[in][at];
				if (places && unwinders[i].trace)
					printf("asked %s %s %ld\n", unwinders[i].name, named[in], places);
			}
		}
	} else if (!strcmp(arguments[1], "spin")) {
		spinning(find("__vdso_clock_gettime"));
	} else {
		cancel(atol(arguments[2]));
	}
	printf("done\n");
	return 0;
}
