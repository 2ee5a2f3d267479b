// labels is a Go service that labels its goroutines with their spans, and whose handlers are blocked in ways that
// tell right labels from wrong ones. Every answer is JSON: the spans of the request, and for how long each was blocked.
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
	"strconv"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"enricher/contrib/go/enricherlabels"
)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "labels:", err)
		os.Exit(1)
	}
}

func main() {
	to := flag.String("to", "", "host:port of an OTLP/gRPC receiver")
	flag.Parse()

	ctx := context.Background()
	exporter, err := otlptracegrpc.New(ctx, otlptracegrpc.WithInsecure(), otlptracegrpc.WithEndpoint(*to))
	check(err)
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter, sdktrace.WithBatchTimeout(100*time.Millisecond)))
	otel.SetTracerProvider(enricherlabels.NewTracerProvider(provider))

	go waitAllTheTime()
	for range workers {
		go work()
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	server := &http.Server{Handler: otelhttp.NewHandler(http.HandlerFunc(serve), "request")}
	go server.Serve(listener)
	check(json.NewEncoder(os.Stdout).Encode(map[string]int{"port": listener.Addr().(*net.TCPAddr).Port}))

	io.Copy(io.Discard, os.Stdin)
	server.Shutdown(ctx)
	check(provider.Shutdown(ctx))
}

func serve(w http.ResponseWriter, r *http.Request) {
	act, known := acts[r.URL.Query().Get("act")]
	milliseconds, err := strconv.Atoi(r.URL.Query().Get("ms"))
	if !known || err != nil {
		http.Error(w, "no such act", http.StatusBadRequest)
		return
	}
	var told story
	told.begun(r.Context(), "server")
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	act(r.Context(), &told, time.Duration(milliseconds)*time.Millisecond)
	check(json.NewEncoder(w).Encode(told.spans))
}
