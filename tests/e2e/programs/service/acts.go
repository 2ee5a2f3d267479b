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

var tracer = otel.Tracer("workload/service")

// actor does what a request asks for, on the goroutine that serves it.
type actor struct {
	upstreams *upstreams
	locks     *lockFiles
	truth     *truth
}

// act blocks the calling goroutine in the way the cause names, for about the time asked, and returns the
// measured waits. The causes that need the response are done by the HTTP handler itself.
func (a *actor) act(ctx context.Context, r *record, pause time.Duration) error {
	var w wait
	var err error
	switch r.Cause {
	case causes.Upstream:
		w, err = a.callUpstream(ctx, r, pause)
	case causes.PipeParked:
		w, err = writeFullPipe(pause, unix.O_NONBLOCK|unix.O_CLOEXEC)
	case causes.PipeKernel, causes.PipeFlush:
		w, err = writeFullPipe(pause, unix.O_CLOEXEC)
	case causes.Flock:
		w, err = a.waitForLock(pause)
	case causes.Sleep:
		time.Sleep(pause)
		return nil
	case causes.Busy:
		for begin := time.Now(); time.Since(begin) < pause; {
		}
		return nil
	case causes.Nothing, causes.Flush, causes.FlushLong:
		return nil
	default:
		return fmt.Errorf("unknown cause %q", r.Cause)
	}
	r.Waits = append(r.Waits, w)
	return err
}

// callUpstream waits on a socket inside a child span: both spans ran on this goroutine, both waited.
func (a *actor) callUpstream(ctx context.Context, outer *record, pause time.Duration) (w wait, err error) {
	_, span := tracer.Start(ctx, "upstream", trace.WithSpanKind(trace.SpanKindInternal))
	inner := newRecord(span.SpanContext(), "upstream", outer.Protocol, outer.Cause, outer.Step)
	conn := a.upstreams.take()
	defer a.upstreams.give(conn)
	releasedNS := clock.NowNS() + int64(pause)
	if err = conn.ask(pause); err == nil {
		w, err = measured("parked", "read", releasedNS, conn.readAnswer)
	}
	span.End()
	inner.Waits = append(inner.Waits, w)
	a.truth.add(inner)
	return w, err
}

// writeFullPipe fills a pipe, and then writes into it one page that fits only when the other end has been
// read, which another goroutine does after the pause. Both ends stay open until both are done.
func writeFullPipe(pause time.Duration, flags int) (w wait, err error) {
	var fds [2]int
	if err = unix.Pipe2(fds[:], flags); err != nil {
		return w, err
	}
	capacity, err := unix.FcntlInt(uintptr(fds[1]), unix.F_GETPIPE_SZ, 0)
	if err != nil {
		return w, err
	}
	kind := "kernel"
	var reader io.ReadCloser = descriptor(fds[0])
	var writer io.WriteCloser = descriptor(fds[1])
	if flags&unix.O_NONBLOCK != 0 { // os.NewFile gives such descriptors to the poller
		kind = "parked"
		reader, writer = os.NewFile(uintptr(fds[0]), "pipe"), os.NewFile(uintptr(fds[1]), "pipe")
	}
	defer reader.Close()
	defer writer.Close()
	if _, err = writer.Write(make([]byte, capacity)); err != nil {
		return w, err
	}
	drained := make(chan error, 1)
	releasedNS := clock.NowNS() + int64(pause)
	time.AfterFunc(pause, func() {
		_, err := io.CopyN(io.Discard, reader, int64(capacity))
		drained <- err
	})
	page := make([]byte, os.Getpagesize())
	w, err = measured(kind, "write", releasedNS, func() error {
		_, err := writer.Write(page)
		return err
	})
	return w, errors.Join(err, <-drained)
}

// descriptor is a file in blocking mode whose calls go to the kernel and nowhere else.
type descriptor int

func (d descriptor) Read(p []byte) (int, error)  { return syscall.Read(int(d), p) }
func (d descriptor) Write(p []byte) (int, error) { return syscall.Write(int(d), p) }
func (d descriptor) Close() error                { return syscall.Close(int(d)) }

func (a *actor) waitForLock(pause time.Duration) (wait, error) {
	file := a.locks.take()
	defer a.locks.give(file)
	if err := unix.Flock(file.holder, unix.LOCK_EX); err != nil {
		return wait{}, err
	}
	releasedNS := clock.NowNS() + int64(pause)
	time.AfterFunc(pause, func() { check(unix.Flock(file.holder, unix.LOCK_UN)) })
	w, err := measured("kernel", "flock", releasedNS, func() error { return unix.Flock(file.waiter, unix.LOCK_EX) })
	if err != nil {
		return w, err
	}
	return w, unix.Flock(file.waiter, unix.LOCK_UN)
}
