// methods is a Go service whose spans have to be told by something else than their ends: labels of its goroutines, which
// it sets itself with -label, headers and connections of its requests, or its process. Every answer is JSON: the spans of
// the request, and for how long each was blocked.
//
// It prints one line of JSON with its port when it is ready, and ends when its standard input does.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime/pprof"
	"strconv"
	"syscall"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

type span struct {
	Name      string `json:"name"`
	TraceID   string `json:"trace_id"`
	SpanID    string `json:"span_id"`
	BlockedNS int64  `json:"blocked_ns"`
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "methods:", err)
		os.Exit(1)
	}
}

func told(ctx context.Context, name string, blocked time.Duration) span {
	ids := trace.SpanContextFromContext(ctx)
	return span{name, ids.TraceID().String(), ids.SpanID().String(), blocked.Nanoseconds()}
}

// The goroutine is parked: a pipe gets its byte late.
func readPipe(pause time.Duration) time.Duration {
	reader, writer, err := os.Pipe()
	check(err)
	defer reader.Close()
	defer writer.Close()
	time.AfterFunc(pause, func() { writer.Write([]byte{1}) })
	began := time.Now()
	_, err = reader.Read(make([]byte, 1))
	check(err)
	return time.Since(began)
}

// The thread sleeps inside the call: somebody else has the lock.
func lockFile(pause time.Duration) time.Duration {
	file, err := os.CreateTemp("", "lock")
	check(err)
	defer os.Remove(file.Name())
	defer file.Close()
	other, err := os.Open(file.Name())
	check(err)
	check(syscall.Flock(int(other.Fd()), syscall.LOCK_EX))
	time.AfterFunc(pause, func() { other.Close() })
	began := time.Now()
	check(syscall.Flock(int(file.Fd()), syscall.LOCK_EX))
	return time.Since(began)
}

func serve(w http.ResponseWriter, r *http.Request) {
	milliseconds, err := strconv.Atoi(r.URL.Query().Get("ms"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	pause, ctx := time.Duration(milliseconds)*time.Millisecond, r.Context()
	var spans []span
	switch r.URL.Query().Get("act") {
	case "sleep":
		time.Sleep(pause)
		spans = append(spans, told(ctx, "server", 0))
	case "pipe":
		spans = append(spans, told(ctx, "server", readPipe(pause)))
	case "child":
		blocked := make(chan time.Duration)
		go func() { blocked <- readPipe(pause) }()
		spans = append(spans, told(ctx, "server", <-blocked))
	case "inner":
		inner, open := otel.Tracer("methods").Start(ctx, "inner")
		blocked := lockFile(pause)
		open.End()
		spans = append(spans, told(ctx, "server", blocked), told(inner, "inner", blocked))
	default:
		http.Error(w, "no such act", http.StatusBadRequest)
		return
	}
	check(json.NewEncoder(w).Encode(spans))
}

func labelled(w http.ResponseWriter, r *http.Request) {
	id := trace.SpanContextFromContext(r.Context()).SpanID().String()
	pprof.Do(r.Context(), pprof.Labels("span_id", id, "route", "any"), func(ctx context.Context) {
		serve(w, r.WithContext(ctx))
	})
}

func main() {
	to := flag.String("to", "", "host:port of an OTLP/gRPC receiver")
	label := flag.Bool("label", false, "label goroutines with the server span they are in")
	flag.Parse()

	ctx := context.Background()
	exporter, err := otlptracegrpc.New(ctx, otlptracegrpc.WithInsecure(), otlptracegrpc.WithEndpoint(*to))
	check(err)
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter, sdktrace.WithBatchTimeout(100*time.Millisecond)))
	otel.SetTracerProvider(provider)
	otel.SetTextMapPropagator(propagation.TraceContext{})

	handler := http.HandlerFunc(serve)
	if *label {
		handler = labelled
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	server := &http.Server{Handler: otelhttp.NewHandler(handler, "request")}
	go server.Serve(listener)
	check(json.NewEncoder(os.Stdout).Encode(map[string]int{"port": listener.Addr().(*net.TCPAddr).Port}))

	io.Copy(io.Discard, os.Stdin)
	server.Shutdown(ctx)
	check(provider.Shutdown(ctx))
}
