package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sys/unix"

	"workload/causes"
	"workload/clock"
)

const earlyPause = 50 * time.Millisecond

var tracer = otel.Tracer("workload/service")

// actor does what a request asks for, on the goroutine that serves it.
type actor struct {
	upstreams *upstreams
	locks     *lockFiles
	workers   workers
	clients   *clients
	truth     *truth
}

// act blocks the calling goroutine, or others for it, in the way the cause names, for about the time asked, and
// adds the measured waits to the record. The causes that need the request or the response are done by the HTTP
// handler itself.
func (a *actor) act(ctx context.Context, r *record, pause time.Duration) error {
	switch r.Cause {
	case causes.Upstream:
		return a.waitInSpan(ctx, r, "upstream", func() ([]wait, error) { return a.ask(pause) })
	case causes.PipeParked:
		return r.add(writeFullPipe(pause, unix.O_NONBLOCK|unix.O_CLOEXEC))
	case causes.PipeKernel, causes.PipeFlush:
		return r.add(writeFullPipe(pause, unix.O_CLOEXEC))
	case causes.Flock:
		return r.add(a.waitForLock(pause))
	case causes.Early:
		begin := time.Now()
		err := r.add(a.ask(earlyPause))
		time.Sleep(time.Until(begin.Add(pause)))
		return err
	case causes.Sleep, causes.PostBody:
		time.Sleep(pause)
		return nil
	case causes.Busy:
		for begin := time.Now(); time.Since(begin) < pause; {
		}
		return nil
	case causes.Nothing, causes.PostSlow, causes.Flush, causes.FlushLong:
		return nil
	}
	acts := map[string]func(context.Context, *record, time.Duration) error{
		causes.Child:        a.waitOnChild,
		causes.Grandchild:   a.waitOnGrandchild,
		causes.Group:        a.waitOnGroup,
		causes.LeftBehind:   a.leaveBehind,
		causes.Nested:       a.nest,
		causes.FanOut:       a.fanOut,
		causes.EndTwice:     a.endTwice,
		causes.EndedByChild: a.endByChild,
		causes.HandedOver:   a.handOver,
		causes.NeverEnded:   a.neverEnd,
		causes.GivenTimes:   a.giveTimes,
		causes.Pool:         a.employ,
		causes.PoolSpan:     a.employInSpan,
		causes.ClientHTTP:   a.clients.overHTTP,
		causes.ClientHTTPS:  a.clients.overHTTPS,
		causes.ClientHTTP2:  a.clients.overHTTP2,
		causes.ClientGRPC:   a.clients.overGRPC,
		causes.ClientDial:   a.clients.dialAnew,
		causes.ClientIdle:   a.clients.leaveIdle,
		causes.Database:     a.clients.query,
	}
	act, known := acts[r.Cause]
	if !known {
		return fmt.Errorf("unknown cause %q", r.Cause)
	}
	return act(ctx, r, pause)
}

// add takes over waits, if there was no error.
func (r *record) add(waits []wait, err error) error {
	if err == nil {
		r.Waits = append(r.Waits, waits...)
	}
	return err
}

// waitInSpan waits in a span inside the record's: both wait.
func (a *actor) waitInSpan(
	ctx context.Context, outer *record, name string, do func() ([]wait, error),
) error {
	_, span := tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindInternal))
	inner := outer.inner(span.SpanContext(), name)
	err := inner.add(do())
	span.End()
	outer.enclose(inner)
	a.truth.add(inner)
	return err
}

// ask waits on a socket for an upstream that takes its time to answer.
func (a *actor) ask(pause time.Duration) ([]wait, error) {
	conn := a.upstreams.take()
	defer a.upstreams.give(conn)
	if err := conn.ask(pause); err != nil {
		return nil, err
	}
	return conn.readAnswer()
}

// writeFullPipe fills a pipe, and then writes into it one page that fits only when the other end has been
// read, which another goroutine does after the pause. Both ends stay open until both are done.
func writeFullPipe(pause time.Duration, flags int) (waits []wait, err error) {
	var fds [2]int
	if err = unix.Pipe2(fds[:], flags); err != nil {
		return nil, err
	}
	capacity, err := unix.FcntlInt(uintptr(fds[1]), unix.F_GETPIPE_SZ, 0)
	if err != nil {
		return nil, err
	}
	var reader io.ReadCloser = descriptor(fds[0])
	var writer io.WriteCloser = descriptor(fds[1])
	if flags&unix.O_NONBLOCK != 0 { // os.NewFile gives such descriptors to the poller
		reader, writer = os.NewFile(uintptr(fds[0]), "pipe"), os.NewFile(uintptr(fds[1]), "pipe")
	}
	defer reader.Close()
	defer writer.Close()
	if _, err = writer.Write(make([]byte, capacity)); err != nil {
		return nil, err
	}
	drained := make(chan error, 1)
	releasedNS := clock.NowNS() + int64(pause)
	time.AfterFunc(pause, func() {
		_, err := io.CopyN(io.Discard, reader, int64(capacity))
		drained <- err
	})
	page := make([]byte, os.Getpagesize())
	if file, parks := writer.(*os.File); parks {
		waits, err = writeParked(file, page)
	} else {
		waits, err = measured("kernel", "write", releasedNS, func() error {
			_, err := writer.Write(page)
			return err
		})
	}
	return waits, errors.Join(err, <-drained)
}

func writeParked(file *os.File, page []byte) (waits []wait, err error) {
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, err
	}
	err = parking(raw.Write, func(fd int) error {
		_, err := syscall.Write(fd, page)
		return err
	}, func(p park) { waits = append(waits, p.wait("write")) })
	return waits, err
}

// descriptor is a file in blocking mode whose calls go to the kernel and nowhere else.
type descriptor int

func (d descriptor) Read(p []byte) (int, error)  { return syscall.Read(int(d), p) }
func (d descriptor) Write(p []byte) (int, error) { return syscall.Write(int(d), p) }
func (d descriptor) Close() error                { return syscall.Close(int(d)) }

func (a *actor) waitForLock(pause time.Duration) ([]wait, error) {
	file := a.locks.take()
	defer a.locks.give(file)
	if err := unix.Flock(file.holder, unix.LOCK_EX); err != nil {
		return nil, err
	}
	releasedNS := clock.NowNS() + int64(pause)
	time.AfterFunc(pause, func() { check(unix.Flock(file.holder, unix.LOCK_UN)) })
	waits, err := measured("kernel", "flock", releasedNS, func() error { return unix.Flock(file.waiter, unix.LOCK_EX) })
	if err != nil {
		return nil, err
	}
	return waits, unix.Flock(file.waiter, unix.LOCK_UN)
}
