"""Threads that ask for the time in every way that Python has, held against the system call.

Reads words from standard input: "linked" says that every function has to be right from now on, and not only those that
CRIU's jumps cover; its end says that this is the end.
"""

import ctypes
import os
import sys
import threading
import time

THREADS = 4
ATTEMPTS = 4
CLOCK_GETTIME = 228
CLOCK_GETRES = 229
SETTABLE = (0, 5, 11)
CLOCKS = (0, 1, 4, 5, 6, 7, 11)


class Timespec(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]


syscall = ctypes.CDLL(None, use_errno=True).syscall
syscall.restype = ctypes.c_long
ended = threading.Event()
linked = threading.Event()
wrong = []
calls = [0] * THREADS


def ask(number, clock):
    answer = Timespec()
    if syscall(ctypes.c_long(number), ctypes.c_int(clock), ctypes.byref(answer)) != 0:
        raise OSError(ctypes.get_errno(), "system call")
    return answer.seconds * 1_000_000_000 + answer.nanoseconds


def between(name, clock, function):
    attempts = ATTEMPTS if clock in SETTABLE else 1
    for _ in range(attempts):
        before = ask(CLOCK_GETTIME, clock)
        found = function()
        after = ask(CLOCK_GETTIME, clock)
        if before <= found <= after:
            return found
    raise ValueError(f"{name}: {found} is not between {before} and {after}")


def check(last):
    for clock in CLOCKS:
        name = f"clock_gettime({clock})"
        found = between(name, clock, lambda: time.clock_gettime_ns(clock))
        if clock not in SETTABLE and found < last.get(clock, 0):
            raise ValueError(f"{name}: {found} after {last[clock]}")
        last[clock] = found
    between("time", 0, time.time_ns)
    between("monotonic", 1, time.monotonic_ns)
    between("perf_counter", 1, time.perf_counter_ns)
    first = time.monotonic()
    if time.monotonic() < first:
        raise ValueError("monotonic went backwards")
    seconds = time.time()
    if abs(seconds - ask(CLOCK_GETTIME, 0) / 1e9) > 60:
        raise ValueError(f"time: {seconds}")
    bytes_now = os.urandom(32)
    if len(bytes_now) != 32 or bytes_now == last.get("random"):
        raise ValueError("the same random bytes again")
    last["random"] = bytes_now
    if linked.is_set():
        for clock in (0, 1, 4, 7):
            found = time.clock_getres(clock)
            if found != ask(CLOCK_GETRES, clock) / 1e9:
                raise ValueError(f"clock_getres({clock}): {found}")


def run(number):
    last = {}
    try:
        while not ended.is_set():
            check(last)
            calls[number] += 1
    except Exception as error:
        wrong.append(str(error))
        ended.set()


threads = [threading.Thread(target=run, args=(number,)) for number in range(THREADS)]
for thread in threads:
    thread.start()
print("ready", flush=True)
for line in sys.stdin:
    if line.strip() == "linked":
        linked.set()
ended.set()
for thread in threads:
    thread.join()
print(wrong[0] if wrong else f"right {sum(calls)}")
