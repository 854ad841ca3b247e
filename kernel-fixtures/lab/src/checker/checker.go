// The checker in Go: goroutines that ask for the time as Go programs do, and hold each value against
// system calls that they make themselves.
//
//	checker PAGE...
//
// Go's runtime calls the vDSO without any C library and on a stack of its own, and its scheduler
// interrupts threads by signals wherever they are, also inside of the vDSO. The page is that of
// checker.c. For each further page there is a child that does the same.
//
// Processors of the runtime are more than those of the machine, so that several threads run Go code.
package main

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// The functions that the page counts, in its order; those that Go calls.
const (
	monotonic    = 0
	realtime     = 1
	gettimeofday = 7
	second       = 8
	getrandom    = 11
	functions    = 12
)

const (
	magic       = 0x6b636568636c6162
	slots       = 16
	workers     = 13
	processors  = 4
	burst       = 64
	randoms     = 64
	messages    = 56
	messageSize = 128
	pageSize    = 8192
)

// The kernel's numbers of clocks.
const (
	clockRealtime       = 0
	clockMonotonic      = 1
	clockRealtimeCoarse = 5
)

type page struct {
	magic, begun, epoch, ticks, handled, messages, randoms, workers uint64

	calls    [functions]uint64
	wrong    [functions]uint64
	progress [slots]uint64
	random   [randoms]uint64
	padding  [128]byte
	message  [messages][messageSize]byte
}

// Fails to compile if the page is not as mod.rs has it.
var _ [pageSize]byte = [unsafe.Sizeof(page{})]byte{}

var shared *page

// The runtime's own monotonic clock, by its absolute value.
//
//go:linkname nanotime runtime.nanotime
func nanotime() int64

func kernelTime(clock uintptr) int64 {
	var now syscall.Timespec
	syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clock, uintptr(unsafe.Pointer(&now)), 0)
	return now.Nano()
}

func kernelDay() int64 {
	var now syscall.Timeval
	syscall.RawSyscall(syscall.SYS_GETTIMEOFDAY, uintptr(unsafe.Pointer(&now)), 0, 0)
	return now.Sec*1_000_000 + int64(now.Usec)
}

func called(function int, calls uint64) {
	atomic.AddUint64(&shared.calls[function], calls)
}

func wrong(function int, format string, values ...any) {
	atomic.AddUint64(&shared.wrong[function], 1)
	place := atomic.AddUint64(&shared.messages, 1) - 1
	if place < messages {
		text := fmt.Sprintf("Go: "+format, values...)
		copy(shared.message[place][:messageSize-1], text)
	}
}

// No value is earlier than the one before it; the first and the last lie between system calls.
func spin(function int, name string, kernel, ask func() int64) {
	last := kernel()
	for range burst {
		found := ask()
		if found < last {
			wrong(function, "%s: %d after %d", name, found, last)
		} else {
			last = found
		}
	}
	if after := kernel(); after < last {
		wrong(function, "%s ahead: %d, the system call %d", name, last, after)
	}
	called(function, burst)
}

func spinMonotonic() {
	kernel := func() int64 { return kernelTime(clockMonotonic) }
	spin(monotonic, "nanotime", kernel, nanotime)
}

func spinNow() {
	kernel := func() int64 { return kernelTime(clockRealtime) }
	spin(realtime, "time.Now", kernel, func() int64 { return time.Now().UnixNano() })
}

// A value of time.Now has both clocks, and differences are those of the monotonic one.
func spinSince() {
	low := kernelTime(clockMonotonic)
	begin := time.Now()
	middle := kernelTime(clockMonotonic)
	last := time.Duration(0)
	for range burst {
		since := time.Since(begin)
		if since < last {
			wrong(monotonic, "time.Since: %d after %d", since, last)
		}
		last = since
	}
	if longest := kernelTime(clockMonotonic) - low; int64(last) > longest {
		wrong(monotonic, "time.Since: %d, the system call %d", last, longest)
	}
	end := kernelTime(clockMonotonic)
	if shortest, since := end-middle, time.Since(begin); int64(since) < shortest {
		wrong(monotonic, "time.Since: %d, at least %d", since, shortest)
	}
	called(monotonic, burst+1)
}

func spinDay() {
	spin(gettimeofday, "Gettimeofday", kernelDay, func() int64 {
		var now syscall.Timeval
		if err := syscall.Gettimeofday(&now); err != nil {
			wrong(gettimeofday, "Gettimeofday: %v", err)
		}
		return now.Sec*1_000_000 + int64(now.Usec)
	})
}

// syscall.Time asks for the time of day and leaves out what is less than a second.
func spinSecond() {
	last := kernelTime(clockRealtimeCoarse) / 1_000_000_000
	for range burst {
		found, err := syscall.Time(nil)
		if err != nil || int64(found) < last {
			wrong(second, "Time: %d after %d, %v", found, last, err)
		} else {
			last = int64(found)
		}
	}
	if after := kernelTime(clockRealtime) / 1_000_000_000; after < last {
		wrong(second, "Time ahead: %d, the system call %d", last, after)
	}
	called(second, burst)
}

// The last random number, and the epoch that it is of. One goroutine uses them.
var lastRandom, lastEpoch uint64

func spinRandom() {
	for range burst {
		var bytes [8]byte
		_, err := rand.Read(bytes[:])
		found := binary.LittleEndian.Uint64(bytes[:])
		if err != nil || found == lastRandom || found == 0 {
			wrong(getrandom, "random: %x after %x, %v", found, lastRandom, err)
		}
		lastRandom = found
		now := atomic.LoadUint64(&shared.epoch)
		if now != lastEpoch {
			atomic.StoreUint64(&shared.randoms, 0)
		}
		lastEpoch = now
		if place := atomic.LoadUint64(&shared.randoms); place < randoms {
			atomic.StoreUint64(&shared.random[place], found)
			atomic.StoreUint64(&shared.randoms, place+1)
		}
	}
	called(getrandom, burst)
}

// What the garbage collector has to do: it stops all goroutines, by signals.
var garbage [64][]byte

func litter() {
	for place := range garbage {
		garbage[place] = make([]byte, 64<<10)
	}
	time.Sleep(2 * time.Millisecond)
}

// One clock's value after each signal that the runtime hands on.
func handle(alarms chan os.Signal) {
	<-alarms
	before := kernelTime(clockMonotonic)
	found := nanotime()
	after := kernelTime(clockMonotonic)
	called(monotonic, 1)
	if found < before || after < found {
		wrong(monotonic, "after a signal: %d between %d and %d", found, before, after)
	}
	atomic.AddUint64(&shared.handled, 1)
}

// Asks for SIGALRM every 5 ms.
func askForSignals() {
	value := [4]int64{0, 5000, 0, 5000}
	const real = 0
	_, _, errno := syscall.Syscall(syscall.SYS_SETITIMER, real, uintptr(unsafe.Pointer(&value)), 0)
	if errno != 0 {
		wrong(monotonic, "no timer: %v", errno)
	}
}

func run(worker int, alarms chan os.Signal, begun *sync.WaitGroup) {
	begun.Done()
	for {
		switch worker {
		case 1, 2, 3:
			spinMonotonic()
		case 4, 5:
			spinNow()
		case 6, 7:
			spinSince()
		case 8:
			spinDay()
		case 9:
			spinSecond()
		case 10:
			spinRandom()
		case 11:
			litter()
		case 12:
			handle(alarms)
		}
		atomic.AddUint64(&shared.progress[worker], 1)
	}
}

func fail(what string, err error) {
	fmt.Fprintf(os.Stderr, "checker: %s: %v\n", what, err)
	os.Exit(2)
}

// A child of this thread for each further page.
func startChildren(pages []string) {
	for _, further := range pages {
		files := []uintptr{0, 1, 2}
		attributes := &syscall.ProcAttr{Env: os.Environ(), Files: files}
		if _, err := syscall.ForkExec(os.Args[0], []string{os.Args[0], further}, attributes); err != nil {
			fail("no child", err)
		}
	}
}

func mapPage(name string) {
	file, err := syscall.Open(name, syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		fail(name, err)
	}
	bytes, err := syscall.Mmap(file, 0, pageSize, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		fail(name, err)
	}
	syscall.Close(file)
	shared = (*page)(unsafe.Pointer(&bytes[0]))
}

// The lab finds children by the thread that they are children of: the first one.
func init() {
	runtime.LockOSThread()
}

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "checker: no page")
		os.Exit(2)
	}
	startChildren(os.Args[2:])
	mapPage(os.Args[1])
	runtime.GOMAXPROCS(processors)
	atomic.StoreUint64(&shared.workers, workers)
	alarms := make(chan os.Signal, 1)
	signal.Notify(alarms, syscall.SIGALRM)
	askForSignals()
	var begun sync.WaitGroup
	begun.Add(workers - 1)
	for worker := 1; worker < workers; worker++ {
		go run(worker, alarms, &begun)
	}
	begun.Wait()
	atomic.StoreUint64(&shared.magic, magic)
	for {
		time.Sleep(50 * time.Millisecond)
		atomic.AddUint64(&shared.ticks, 1)
		atomic.AddUint64(&shared.progress[0], 1)
	}
}
