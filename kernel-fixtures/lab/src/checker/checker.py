"""The checker in Python: threads that ask for the time in the ways that Python has, and hold each
value against system calls.

    checker.py PAGE...

Python asks the C library, and so the vDSO; `syscall` of the C library makes the system calls. The
page is that of checker.c. For each further page there is a child that does the same.
"""

import ctypes
import mmap
import os
import signal
import sys
import threading
import time

MAGIC = 0x6B636568636C6162
SIZE = 8192
BURST = 64
RANDOMS = 64
MESSAGES_AT, MESSAGES, MESSAGE = 1024, 56, 128

# Words of the page.
READY, EPOCH, TICKS, HANDLED, MESSAGE_COUNT, RANDOM_COUNT, WORKER_COUNT = 0, 2, 3, 4, 5, 6, 7
CALLS, WRONG, PROGRESS, RANDOM = 8, 20, 32, 48

MONOTONIC, REALTIME, MONOTONIC_COARSE, REALTIME_COARSE, MONOTONIC_RAW, BOOTTIME, TAI = range(7)
GETTIMEOFDAY, TIME, GETRES, GETCPU, GETRANDOM = range(7, 12)

# Each clock's number, and that of the clock that bounds it: the kernel tells the vDSO of a tick an
# instant before its own system calls know of it, so a coarse clock's upper bound is the clock that
# does not wait for ticks.
CLOCKS = {
    MONOTONIC: (1, 1),
    REALTIME: (0, 0),
    MONOTONIC_COARSE: (6, 1),
    REALTIME_COARSE: (5, 0),
    MONOTONIC_RAW: (4, 4),
    BOOTTIME: (7, 7),
    TAI: (11, 11),
}

# The lab writes the system calls' numbers here.
SYSTEM_CALLS = {}

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
libc.time.restype = ctypes.c_long


class Pair(ctypes.Structure):
    """`struct timespec`, and `struct timeval`."""

    _fields_ = [("seconds", ctypes.c_long), ("fraction", ctypes.c_long)]

    def nanoseconds(self):
        return self.seconds * 1_000_000_000 + self.fraction


def system_call(name, *arguments):
    return libc.syscall(ctypes.c_long(SYSTEM_CALLS[name]), *arguments)


def kernel_time(clock):
    now = Pair()
    system_call("clock_gettime", ctypes.c_int(clock), ctypes.byref(now))
    return now.nanoseconds()


def kernel_resolution(clock):
    found = Pair()
    system_call("clock_getres", ctypes.c_int(clock), ctypes.byref(found))
    return found.nanoseconds() / 1e9


class Counts:
    """The page. The lock keeps sums whole: several threads count the same function. A handler of
    signals runs in the first thread, which must not hold the lock then."""

    def __init__(self, name):
        with open(name, "r+b") as file:
            self.bytes = mmap.mmap(file.fileno(), SIZE)
        self.words = memoryview(self.bytes).cast("Q")
        self.lock = threading.Lock()

    def add(self, word, more=1):
        with self.lock:
            self.words[word] += more
            return self.words[word]

    def wrong(self, function, text):
        self.add(WRONG + function)
        place = self.add(MESSAGE_COUNT) - 1
        if place < MESSAGES:
            at = MESSAGES_AT + place * MESSAGE
            text = ("Python: " + text).encode()[: MESSAGE - 1]
            self.bytes[at : at + len(text)] = text


def spin(counts, function, name, kernel, ask, bound=None):
    """No value is earlier than the one before it; all lie between two system calls."""
    last = kernel()
    for _ in range(BURST):
        found = ask()
        if found < last:
            counts.wrong(function, f"{name}: {found} after {last}")
        else:
            last = found
    after = (bound or kernel)()
    if after < last:
        counts.wrong(function, f"{name} ahead: {last}, the system call {after}")
    counts.add(CALLS + function, BURST)


def spin_clock(counts, function):
    clock, bound = CLOCKS[function]
    spin(
        counts,
        function,
        f"clock {clock}",
        lambda: kernel_time(clock),
        lambda: time.clock_gettime_ns(clock),
        lambda: kernel_time(bound),
    )


def spin_time(counts):
    spin(counts, REALTIME, "time.time_ns", lambda: kernel_time(0), time.time_ns)
    # As fractions of seconds these lose less than a microsecond.
    low = kernel_time(0) / 1e9 - 1e-6
    found = time.time()
    high = kernel_time(0) / 1e9 + 1e-6
    if not low <= found <= high:
        counts.wrong(REALTIME, f"time.time: {found} between {low} and {high}")
    counts.add(CALLS + REALTIME)


def spin_monotonic(counts):
    spin(counts, MONOTONIC, "monotonic", lambda: kernel_time(1), time.monotonic_ns)
    spin(counts, MONOTONIC, "perf_counter", lambda: kernel_time(1), time.perf_counter_ns)


def spin_day(counts):
    now = Pair()

    def kernel():
        system_call("gettimeofday", ctypes.byref(now), None)
        return now.seconds * 1_000_000 + now.fraction

    def ask():
        if libc.gettimeofday(ctypes.byref(now), None) != 0:
            return -1
        return now.seconds * 1_000_000 + now.fraction

    spin(counts, GETTIMEOFDAY, "gettimeofday", kernel, ask)


def spin_second(counts):
    spin(
        counts,
        TIME,
        "time",
        lambda: kernel_time(5) // 1_000_000_000,
        lambda: libc.time(None),
        lambda: kernel_time(0) // 1_000_000_000,
    )


def spin_resolution(counts):
    for clock in (0, 1, 4, 5, 6, 7, 11):
        before = kernel_resolution(clock)
        found = time.clock_getres(clock)
        after = kernel_resolution(clock)
        if found not in (before, after):
            counts.wrong(GETRES, f"clock_getres({clock}): {found} instead of {before} or {after}")
        counts.add(CALLS + GETRES)


def check_cpu(counts):
    def ask(function):
        cpu, node = ctypes.c_uint(70), ctypes.c_uint(80)
        code = function(ctypes.byref(cpu), ctypes.byref(node))
        return (code, cpu.value, node.value)

    def kernel():
        return ask(lambda *places: system_call("getcpu", *places, None))

    before, found, after = kernel(), ask(libc.getcpu), kernel()
    counts.add(CALLS + GETCPU)
    # The thread may have moved in between.
    if before == after and found != before:
        counts.wrong(GETCPU, f"getcpu: {found} instead of {before}")


class Random:
    def __init__(self):
        self.last, self.epoch = 0, 0

    def spin(self, counts):
        words = counts.words
        for _ in range(BURST):
            # os.getrandom is a call of the C library's function.
            found = int.from_bytes(os.getrandom(8), sys.byteorder)
            if found in (0, self.last):
                counts.wrong(GETRANDOM, f"getrandom: {found:x} after {self.last:x}")
            self.last = found
            if words[EPOCH] != self.epoch:
                words[RANDOM_COUNT] = 0
            self.epoch = words[EPOCH]
            place = words[RANDOM_COUNT]
            if place < RANDOMS:
                words[RANDOM + place] = found
                words[RANDOM_COUNT] = place + 1
        counts.add(CALLS + GETRANDOM, BURST)


def both(counts, *functions):
    for function in functions:
        spin_clock(counts, function)


# What each thread but the first one does again and again.
WORK = [
    spin_time,
    spin_monotonic,
    lambda counts: both(counts, MONOTONIC_COARSE, REALTIME_COARSE),
    lambda counts: both(counts, MONOTONIC_RAW, BOOTTIME, TAI),
    lambda counts: (spin_day(counts), spin_second(counts)),
    lambda counts: (spin_resolution(counts), check_cpu(counts)),
    Random().spin,
]


def run(counts, worker):
    while True:
        WORK[worker - 1](counts)
        counts.words[PROGRESS + worker] += 1


def handle_signals(counts):
    """The C library's calls of the first thread are interrupted every 5 ms. Python's own handler
    runs afterwards, in the same thread, so it uses no lock."""

    def handler(number, frame):
        before = kernel_time(1)
        found = time.monotonic_ns()
        after = kernel_time(1)
        if before <= found <= after:
            counts.words[HANDLED] += 1
        else:
            late.append(f"in a handler: {found} between {before} and {after}")

    late = []
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
    return late


def main(pages):
    for further in pages[1:]:
        if os.fork() == 0:
            pages = [further]
            break
    counts = Counts(pages[0])
    counts.words[WORKER_COUNT] = 1 + len(WORK)
    late = handle_signals(counts)
    for worker in range(1, 1 + len(WORK)):
        threading.Thread(target=run, args=(counts, worker), daemon=True).start()
    counts.words[READY] = MAGIC
    while True:
        # A while of calls that signals interrupt, and one asleep.
        end = time.monotonic() + 0.02
        while time.monotonic() < end:
            time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        time.sleep(0.02)
        while late:
            counts.wrong(MONOTONIC, late.pop())
        counts.words[TICKS] += 1
        counts.words[PROGRESS] += 1


main(sys.argv[1:])
