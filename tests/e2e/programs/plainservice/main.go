// plainservice is what the cost of being watched is measured on: net/http and otelhttp, every request sampled,
// a handler that does nothing.
//
// It prints one line of JSON with its port and pid when it is ready, and ends when its standard input does.
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

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "plainservice:", err)
		os.Exit(1)
	}
}

func main() {
	to := flag.String("to", "", "host:port of an OTLP/gRPC receiver")
	flag.Parse()

	ctx := context.Background()
	exporter, err := otlptracegrpc.New(ctx, otlptracegrpc.WithInsecure(), otlptracegrpc.WithEndpoint(*to))
	check(err)
	otel.SetTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter)))

	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "done\n") })
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	go http.Serve(listener, otelhttp.NewHandler(handler, "request"))
	check(json.NewEncoder(os.Stdout).Encode(
		map[string]int{"port": listener.Addr().(*net.TCPAddr).Port, "pid": os.Getpid()}))
	io.Copy(io.Discard, os.Stdin)
}
