// spangen sends encoded spans over OTLP/gRPC or OTLP/HTTP, flat out or at a fixed rate, and prints one line of JSON
// with what became of them. Told to come back later, it does, as an SDK would; not so with -impatient, which drops
// what is refused, so that what is offered does not shrink to what is taken.
//
// With -evidence it also plays the kernel: before it sends a request, it writes to that file what probes would
// have seen of its spans, as records of probes/events.h: for each span its end, for some of them a wait.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "spangen:", err)
		os.Exit(1)
	}
}

type report struct {
	Seconds      float64        `json:"seconds"`
	AckedSpans   int64          `json:"acked_spans"`
	RefusedSpans int64          `json:"refused_spans"` // for good
	Retries      int            `json:"retries"`       // requests sent again
	Errors       map[string]int `json:"errors"`
	BytesPerSpan int            `json:"bytes_per_span"`
}

// pace gives each request its time.
type pace struct {
	begin    time.Time
	interval time.Duration // 0: as fast as they are answered
	slots    atomic.Int64
}

// next waits for the next time. One that has passed was missed because all senders waited for their answers:
// the spans are as old as if they had been sent then.
func (p *pace) next() time.Time {
	if p.interval == 0 {
		return time.Now()
	}
	slot := p.begin.Add(time.Duration(p.slots.Add(1)-1) * p.interval)
	if wait := time.Until(slot); wait > 0 {
		time.Sleep(wait)
		return time.Now()
	}
	return slot
}

func main() {
	target := flag.String("to", "127.0.0.1:4317", "where to send")
	spans := flag.Int("spans", 64, "spans in a request")
	concurrency := flag.Int("concurrency", 16, "requests in flight at most")
	connections := flag.Int("connections", 4, "TCP connections")
	rate := flag.Float64("rate", 0, "spans a second; 0: flat out")
	duration := flag.Duration("duration", 4*time.Second, "how long")
	protocol := flag.String("protocol", "grpc", "grpc or http")
	compressed := flag.String("compression", "none", "none, gzip or zstd")
	impatient := flag.Bool("impatient", false, "drop what is refused instead of sending it again")
	evidencePath := flag.String("evidence", "", "file, usually a pipe, for the records")
	version := flag.Int("events-version", eventsVersion, "with -evidence: of the records that are wanted")
	every := flag.Int("every", 20, "with -evidence: one of so many spans has waited; 0: none")
	flag.Parse()

	var evidence *os.File
	if *evidencePath != "" {
		if *version != eventsVersion {
			check(fmt.Errorf("records of version %d are wanted, these are of %d", *version, eventsVersion))
		}
		file, err := os.OpenFile(*evidencePath, os.O_WRONLY, 0)
		check(err)
		evidence = file
	}
	conns := make([]connection, *connections)
	for i := range conns {
		conn, err := connect(*protocol, *target, *compressed)
		check(err)
		conns[i] = conn
	}
	requests := make([]*request, *concurrency)
	for i := range requests {
		requests[i] = newRequest(*spans, uint64(i))
	}

	sent := report{Errors: map[string]int{}, BytesPerSpan: len(requests[0].bytes) / *spans}
	var mu sync.Mutex // guards sent, and keeps the records of a request together
	steps := pace{begin: time.Now()}
	if *rate > 0 {
		steps.interval = time.Duration(float64(*spans) / *rate * 1e9)
	}
	// A target that has gone must not hold a benchmark up for ever.
	ctx, cancel := context.WithTimeout(context.Background(), *duration+time.Minute)
	defer cancel()
	var workers sync.WaitGroup
	for i, r := range requests {
		conn := conns[i%len(conns)]
		workers.Go(func() {
			for {
				now := steps.next()
				if time.Since(steps.begin) > *duration {
					return
				}
				r.stamp(now)
				if evidence != nil {
					records := r.evidence(i, *every)
					mu.Lock()
					_, err := evidence.Write(records)
					check(err)
					mu.Unlock()
				}
				rejected, err := conn.send(ctx, r.bytes)
				retries := 0
				for no := (*refusal)(nil); errors.As(err, &no) && no.again && !*impatient; retries++ {
					time.Sleep(no.delay)
					rejected, err = conn.send(ctx, r.bytes)
				}
				mu.Lock()
				sent.Retries += retries
				if err != nil {
					sent.RefusedSpans += int64(*spans)
					sent.Errors[err.Error()]++
				} else {
					sent.RefusedSpans += int64(rejected)
					sent.AckedSpans += int64(*spans) - int64(rejected)
				}
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	sent.Seconds = time.Since(steps.begin).Seconds()
	check(json.NewEncoder(os.Stdout).Encode(sent))
}
