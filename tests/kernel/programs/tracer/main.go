// Command tracer starts and ends spans, makes goroutines, calls servers and sets labels, as it is told on standard
// input, and says on standard output what it did, as it saw it itself.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Span is what the program knows of one. Start and end lie between two readings of CLOCK_MONOTONIC each.
type Span struct {
	Name         string   `json:"name"`
	TraceID      string   `json:"trace_id"`
	SpanID       string   `json:"span_id"`
	ParentSpanID string   `json:"parent_span_id"`
	Start        [2]int64 `json:"start"`
	End          [2]int64 `json:"end"`
	StartGoid    uint64   `json:"start_goid"`
	EndGoid      uint64   `json:"end_goid"`

	span trace.Span
}

// Wait is a read that was blocked for 5 ms, between the two readings of Read. Made: when the goroutine was made by
// Maker.
type Wait struct {
	Name  string   `json:"name"`
	Goid  uint64   `json:"goid"`
	Maker uint64   `json:"maker"`
	Made  [2]int64 `json:"made"`
	Fd    int      `json:"fd"`
	Read  [2]int64 `json:"read"`
}

// Call is a request of a client; Fd, Local and Peer are of the connection it was given.
type Call struct {
	Name string   `json:"name"`
	Goid uint64   `json:"goid"`
	Fd   int      `json:"fd"`
	Peer string   `json:"peer"`
	Made [2]int64 `json:"made"`
}

// Done is what one action did.
type Done struct {
	Spans []*Span `json:"spans"`
	Waits []*Wait `json:"waits"`
	Calls []*Call `json:"calls"`

	mutex sync.Mutex
}

var tracer = sdk.NewTracerProvider().Tracer("tracer")

func now() int64 {
	var t syscall.Timespec
	syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, 1, uintptr(unsafe.Pointer(&t)), 0)
	return t.Nano()
}

func goid() uint64 {
	line := make([]byte, 64)
	line = line[:runtime.Stack(line, false)]
	id, err := strconv.ParseUint(strings.Fields(string(line))[1], 10, 64)
	check(err)
	return id
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func (d *Done) start(ctx context.Context, name string, options ...trace.SpanStartOption) (context.Context, *Span) {
	before := now()
	ctx, span := tracer.Start(ctx, name, options...)
	made := &Span{
		Name: name, Start: [2]int64{before, now()}, StartGoid: goid(), span: span,
		TraceID: span.SpanContext().TraceID().String(), SpanID: span.SpanContext().SpanID().String(),
	}
	if read, ok := span.(sdk.ReadOnlySpan); ok {
		made.ParentSpanID = read.Parent().SpanID().String()
	}
	d.mutex.Lock()
	defer d.mutex.Unlock()
	d.Spans = append(d.Spans, made)
	return ctx, made
}

func (s *Span) end() {
	s.EndGoid = goid()
	s.End[0] = now()
	s.span.End()
	s.End[1] = now()
}

// wait blocks the goroutine on a pipe.
func (d *Done) wait(name string) *Wait {
	read, write, err := os.Pipe()
	check(err)
	defer read.Close()
	time.AfterFunc(5*time.Millisecond, func() { write.Write([]byte("x")); write.Close() })
	return d.timed(name, descriptor(read), func() error { _, err := read.Read(make([]byte, 1)); return err })
}

// waitInKernel blocks the thread, on a descriptor that the runtime's poller does not know.
func (d *Done) waitInKernel(name string) *Wait {
	var fds [2]int
	check(syscall.Pipe(fds[:]))
	defer syscall.Close(fds[0])
	defer syscall.Close(fds[1])
	time.AfterFunc(5*time.Millisecond, func() { syscall.Write(fds[1], []byte("x")) })
	return d.timed(name, fds[0], func() error { _, err := syscall.Read(fds[0], make([]byte, 1)); return err })
}

// timed notes the wait that read is.
func (d *Done) timed(name string, fd int, read func() error) *Wait {
	before := now()
	err := read()
	made := &Wait{Name: name, Goid: goid(), Fd: fd, Read: [2]int64{before, now()}}
	if err != io.EOF {
		check(err)
	}
	d.mutex.Lock()
	defer d.mutex.Unlock()
	d.Waits = append(d.Waits, made)
	return made
}

// goes runs f on a goroutine of its own; f says what it waited for, or nothing. The function returned waits for it.
func goes(f func() *Wait) func() {
	maker := goid()
	over := make(chan *Wait, 1)
	before := now()
	go func() { over <- f() }()
	after := now()
	return func() {
		if wait := <-over; wait != nil {
			wait.Maker, wait.Made = maker, [2]int64{before, after}
		}
	}
}

func descriptor(conn syscall.Conn) int {
	raw, err := conn.SyscallConn()
	check(err)
	found := -1
	check(raw.Control(func(fd uintptr) { found = int(fd) }))
	return found
}

var actions = map[string]func(*Done){}

func main() {
	out := json.NewEncoder(os.Stdout)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		action, known := actions[lines.Text()]
		if !known {
			check(fmt.Errorf("no action %q", lines.Text()))
		}
		var done Done
		over := make(chan struct{})
		go func() {
			action(&done)
			close(over)
		}()
		<-over
		check(out.Encode(&done))
	}
}
