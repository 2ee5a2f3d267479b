package main

import (
	"context"
	"fmt"
	"math/rand"
	"runtime/debug"
	"syscall"
	"time"
	"unsafe"

	api "go.opentelemetry.io/otel/trace"
)

// call makes a system call with R14, where Go keeps the current goroutine, set to the last argument.
func call(number, first, second, third, goroutine uintptr) int

const page = 4096

// junk is memory of many kinds, none of it what it is taken for.
type junk struct {
	addresses []uintptr
	note      string
}

func newJunk() junk {
	// Pages 0 to 3: zeros, random bytes, its own address all over, and the last readable one; behind them nothing.
	memory, err := syscall.Mmap(-1, 0, 5*page, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	check(err)
	check(syscall.Mprotect(memory[4*page:], syscall.PROT_NONE))
	start := uintptr(unsafe.Pointer(&memory[0]))
	rand.New(rand.NewSource(1)).Read(memory[page : 2*page])
	words := unsafe.Slice((*uintptr)(unsafe.Pointer(&memory[2*page])), page/8)
	for i := range words {
		words[i] = start + 2*page // a g that is its own m, whose goroutine it is
	}
	// A g whose m says that it is current, and whose other fields lie beyond what can be read.
	forged := start + 4*page - 64
	words = unsafe.Slice((*uintptr)(unsafe.Pointer(&memory[3*page])), page/8)
	for i := range words {
		words[i] = forged
	}
	*(*uintptr)(unsafe.Pointer(&memory[4*page-64+48])) = start + 3*page
	for _, span := range []uintptr{page, 2 * page, 4*page - 64} {
		clear(memory[span+16 : span+24]) // the mutex of a span, which the Go runtime would not forgive
	}
	found := junk{addresses: []uintptr{
		0, 1, 8, 47, 4095,
		start, start + page, start + page + 1, start + 2*page, start + 4*page, start + 4*page - 8,
		forged,
		1 << 47, 1 << 63, 0xffffffff81000000, ^uintptr(0), ^uintptr(0) - 100,
	}}
	absent, err := absentPage()
	if err != nil {
		found.note = fmt.Sprint("no page by userfaultfd: ", err)
	} else {
		found.addresses = append(found.addresses, absent)
	}
	return found
}

// absentPage is memory that the kernel asks this process for whenever it is touched, and that never comes.
func absentPage() (uintptr, error) {
	const (
		sysUserfaultfd = 323
		api            = 0xaa
		ioAPI          = 0xc018aa3f
		ioRegister     = 0xc020aa00
		missing        = 1
	)
	fd, _, errno := syscall.RawSyscall(sysUserfaultfd, syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	hello := struct{ api, features, ioctls uint64 }{api: api}
	if _, _, errno = syscall.RawSyscall(syscall.SYS_IOCTL, fd, ioAPI, uintptr(unsafe.Pointer(&hello))); errno != 0 {
		return 0, errno
	}
	memory, err := syscall.Mmap(-1, 0, page, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	check(err)
	start := uintptr(unsafe.Pointer(&memory[0]))
	register := struct{ start, length, mode, ioctls uint64 }{uint64(start), page, missing, 0}
	if _, _, errno = syscall.RawSyscall(syscall.SYS_IOCTL, fd, ioRegister, uintptr(unsafe.Pointer(&register))); errno != 0 {
		return 0, errno
	}
	return start, nil
}

// registers makes calls of every kind with junk for a goroutine, each so many times.
func registers(count int) Done {
	junk := newJunk()
	done := Done{Note: junk.note}
	var nonblocking, blocking [2]int
	check(syscall.Pipe2(nonblocking[:], syscall.O_NONBLOCK|syscall.O_CLOEXEC))
	check(syscall.Pipe2(blocking[:], syscall.O_CLOEXEC))
	buffer := make([]byte, 8)
	first := uintptr(unsafe.Pointer(&buffer[0]))
	timed := func(number, fd, g uintptr) {
		began := time.Now()
		call(number, fd, first, 1, g)
		done.LongestNs = max(done.LongestNs, int64(time.Since(began)))
		done.Count++
	}
	for _, g := range junk.addresses {
		for i := 0; i < count; i++ {
			timed(syscall.SYS_READ, uintptr(nonblocking[0]), g) // EAGAIN
			timed(syscall.SYS_WRITE, uintptr(nonblocking[1]), g)
			timed(syscall.SYS_READ, uintptr(nonblocking[0]), g)
			timed(syscall.SYS_CLOSE, uintptr(1<<20), g)
		}
		go func() {
			time.Sleep(2 * time.Millisecond)
			syscall.Write(blocking[1], buffer[:1])
		}()
		call(syscall.SYS_READ, uintptr(blocking[0]), first, 1, g) // sleeps in the kernel
		done.Count++
	}
	return done
}

type goInterface struct {
	table *uintptr
	data  uintptr
}

// ends calls the SDK's End on junk in place of its spans, and on spans with junk in them.
func ends(count int) Done {
	debug.SetGCPercent(-1) // none of this is for its eyes
	junk := newJunk()
	done := Done{Note: junk.note}
	if junk.note == "" {
		// The program itself would wait for that page for ever.
		junk.addresses = junk.addresses[:len(junk.addresses)-1]
	}
	_, genuine := tracer.Start(context.Background(), "genuine")
	for i := 0; i < count; i++ {
		for _, address := range junk.addresses {
			span := genuine
			(*goInterface)(unsafe.Pointer(&span)).data = address
			tried := make(chan struct{})
			go func() {
				defer close(tried)
				defer func() { recover() }()
				debug.SetPanicOnFault(true)
				span.End()
			}()
			select {
			case <-tried:
			case <-time.After(20 * time.Millisecond): // the junk's mutex is locked
			}
			done.Count++
		}
		done.Count += endsOfForged(genuine)
	}
	return done
}

// endsOfForged ends copies of a span that have other bytes where its context is.
func endsOfForged(genuine api.Span) int {
	const size, context, contextSize = 1024, 192, 64
	original := unsafe.Slice((*byte)(unsafe.Pointer((*goInterface)(unsafe.Pointer(&genuine)).data)), 400)
	for i := 0; i < 10; i++ {
		forged := make([]byte, size)
		copy(forged, original)
		rand.Read(forged[context : context+contextSize])
		span := genuine
		(*goInterface)(unsafe.Pointer(&span)).data = uintptr(unsafe.Pointer(&forged[0]))
		func() {
			defer func() { recover() }()
			span.End()
		}()
	}
	return 10
}
