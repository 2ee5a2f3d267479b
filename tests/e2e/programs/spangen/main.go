// spangen sends encoded spans over OTLP/gRPC, flat out or at a fixed rate, and prints one line of JSON with what
// became of them. Told to come back later, it does, as an SDK would.
//
// With -evidence it also plays the kernel: before it sends a request, it writes to that file what probes would
// have seen of its spans, as records of probes/events.h: for each span its end, for some of them a wait.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"workload/wire"
)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "spangen:", err)
		os.Exit(1)
	}
}

// response reads how many spans were rejected out of an ExportTraceServiceResponse.
type response struct{ rejected uint64 }

func (r *response) Read(message []byte) error {
	if rejected := wire.Field(wire.Field(message, 1), 1); rejected != nil {
		r.rejected, _ = protowire.ConsumeVarint(rejected)
	}
	return nil
}

type report struct {
	Seconds      float64        `json:"seconds"`
	AckedSpans   int64          `json:"acked_spans"`
	RefusedSpans int64          `json:"refused_spans"` // for good
	Retries      int            `json:"retries"`       // requests sent again
	Errors       map[string]int `json:"errors"`
	BytesPerSpan int            `json:"bytes_per_span"`
}

// retryDelay is how long to wait before a refused request is sent again; false: it is not to be.
func retryDelay(err error) (time.Duration, bool) {
	refusal := status.Convert(err)
	for _, detail := range refusal.Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok {
			return info.RetryDelay.AsDuration(), true
		}
	}
	return 100 * time.Millisecond, refusal.Code() == codes.Unavailable
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
	evidencePath := flag.String("evidence", "", "file, usually a pipe, for the records")
	every := flag.Int("every", 20, "with -evidence: one of so many spans has waited")
	flag.Parse()

	var evidence *os.File
	if *evidencePath != "" {
		file, err := os.OpenFile(*evidencePath, os.O_WRONLY, 0)
		check(err)
		evidence = file
	}
	conns := make([]*grpc.ClientConn, *connections)
	for i := range conns {
		conn, err := grpc.NewClient(*target, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.ForceCodecV2(wire.Codec{})))
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
				var answer response
				err := conn.Invoke(ctx, wire.ExportMethod, r.bytes, &answer, grpc.WaitForReady(true))
				retries := 0
				for delay, again := retryDelay(err); err != nil && again; delay, again = retryDelay(err) {
					time.Sleep(delay)
					retries++
					err = conn.Invoke(ctx, wire.ExportMethod, r.bytes, &answer, grpc.WaitForReady(true))
				}
				mu.Lock()
				sent.Retries += retries
				if err != nil {
					sent.RefusedSpans += int64(*spans)
					sent.Errors[status.Code(err).String()]++
				} else {
					sent.RefusedSpans += int64(answer.rejected)
					sent.AckedSpans += int64(*spans) - int64(answer.rejected)
				}
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	sent.Seconds = time.Since(steps.begin).Seconds()
	check(json.NewEncoder(os.Stdout).Encode(sent))
}
