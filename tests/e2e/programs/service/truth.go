package main

import (
	"bufio"
	"encoding/json"
	"os"

	"go.opentelemetry.io/otel/trace"

	"workload/clock"
)

// wait is one call that blocked, as the program that made it measured it: the clock is read on the same
// goroutine right before and right after the call.
//
// The goroutine can be late to go on after the call has been over: on a busy machine, Go or the kernel has others
// to run first. So it is also told when the wait was over at the earliest, by what let it go on. Where somebody
// else waits on behalf of the goroutine, the same holds for the beginning.
type wait struct {
	Syscalls   []string `json:"syscalls"`    // the kernel may see any of these
	Kind       string   `json:"kind"`        // parked or kernel
	StartNS    int64    `json:"start_ns"`    // had not begun before
	BegunNS    int64    `json:"begun_ns"`    // had begun by then
	ReleasedNS int64    `json:"released_ns"` // not over before; before BegunNS: perhaps there was no wait
	EndNS      int64    `json:"end_ns"`      // over by then
	AfterEnd   bool     `json:"after_end"`   // the span had ended already
	InChild    bool     `json:"in_child"`    // a span inside this one waited
	// How it can be told that it is the span's: one of its goroutines waited, or one of a client's connection.
	Through []string `json:"through"`
}

var (
	byGoroutine  = []string{"goroutine"}
	byConnection = []string{"connection"}
	byEither     = []string{"goroutine", "connection"} // the connection was made for the span
)

// record is what one span did. No waits: the span must arrive unmarked.
type record struct {
	TraceID  string `json:"trace_id"`
	SpanID   string `json:"span_id"`
	Name     string `json:"name"`
	Protocol string `json:"protocol"`
	Cause    string `json:"cause"`
	Step     string `json:"step"`    // place in the driver's sequence, for whoever reads a failure
	Sampled  bool   `json:"sampled"` // otherwise it never arrives
	// Nobody can tell from outside which waits of its time are the span's own.
	HandedOver bool   `json:"handed_over"`
	Waits      []wait `json:"waits"`
}

func newRecord(span trace.SpanContext, name, protocol, cause, step string) *record {
	return &record{
		TraceID: span.TraceID().String(), SpanID: span.SpanID().String(), Sampled: span.IsSampled(),
		Name: name, Protocol: protocol, Cause: cause, Step: step, Waits: []wait{},
	}
}

// inner is the record of a span inside this one.
func (r *record) inner(span trace.SpanContext, name string) *record {
	return newRecord(span, name, r.Protocol, r.Cause, r.Step)
}

// enclose takes over what a span inside this one has waited for, which so this one has, too.
func (r *record) enclose(inner *record) {
	for _, w := range inner.Waits {
		w.InChild = true
		r.Waits = append(r.Waits, w)
	}
}

// measured runs one call and tells how long the goroutine was away in it.
func measured(kind, syscall string, releasedNS int64, call func() error) ([]wait, error) {
	start := clock.NowNS()
	err := call()
	return []wait{{
		Syscalls: []string{syscall}, Kind: kind, Through: byGoroutine,
		StartNS: start, BegunNS: start, ReleasedNS: releasedNS, EndNS: clock.NowNS(),
	}}, err
}

// truth writes records as lines of JSON from a goroutine of its own: a handler that wrote to a disk could
// block there, and its record would not say so.
type truth struct {
	records chan *record
	written chan struct{}
}

func openTruth(path string) (*truth, error) {
	file, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	// As many as a test makes: a handler that waited for room here would wait unmeasured.
	t := &truth{records: make(chan *record, 1<<17), written: make(chan struct{})}
	go t.write(file)
	return t, nil
}

func (t *truth) write(file *os.File) {
	defer close(t.written)
	defer file.Close()
	buffer := bufio.NewWriter(file)
	encoder := json.NewEncoder(buffer)
	for r := range t.records {
		check(encoder.Encode(r))
		if len(t.records) == 0 {
			check(buffer.Flush())
		}
	}
	check(buffer.Flush())
}

func (t *truth) add(r *record) { t.records <- r }

func (t *truth) close() {
	close(t.records)
	<-t.written
}
