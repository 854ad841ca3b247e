"""Forks, and holds functions of libc against the system call, in the parent and in its latest child.

Each line of standard input is a command: "fork" is answered with the number of the child; "parent WHAT" and "child WHAT", where
WHAT is "all" or "covered" (the functions that CRIU's jumps cover), with "right" or with what is wrong.
"""

import ctypes
import os
import sys
import time

CLOCK_GETTIME = 228
CLOCK_GETRES = 229
ROUNDS = 300


class Timespec(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]


syscall = ctypes.CDLL(None, use_errno=True).syscall
syscall.restype = ctypes.c_long


def ask(number, clock):
    answer = Timespec()
    if syscall(ctypes.c_long(number), ctypes.c_int(clock), ctypes.byref(answer)) != 0:
        raise OSError(ctypes.get_errno(), "system call")
    return answer.seconds * 1_000_000_000 + answer.nanoseconds


def check(what):
    for _ in range(ROUNDS):
        for clock in (1, 4, 6, 7):
            before = ask(CLOCK_GETTIME, clock)
            found = time.clock_gettime_ns(clock)
            after = ask(CLOCK_GETTIME, clock)
            if not before <= found <= after:
                return f"clock {clock}: {found} is not between {before} and {after}"
        if what == "all":
            for clock in (0, 1, 4, 7):
                found = time.clock_getres(clock)
                if found != ask(CLOCK_GETRES, clock) / 1e9:
                    return f"clock_getres({clock}): {found}"
    return "right"


def say(line):
    os.write(1, f"{line}\n".encode())


def serve(commands):
    """A child: it ends when its parent does."""
    for line in commands:
        say(check(line.strip()))
    os._exit(0)


child = None
for line in sys.stdin:
    words = line.split()
    if words == ["fork"]:
        reader, writer = os.pipe()
        number = os.fork()
        if number == 0:
            os.close(writer)
            serve(os.fdopen(reader, "r"))
        os.close(reader)
        child = os.fdopen(writer, "w", buffering=1)
        say(number)
    elif words[0] == "child":
        child.write(f"{words[1]}\n")
        child.flush()
    else:
        say(check(words[1]))
