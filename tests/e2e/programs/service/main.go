// service is a Go service under test: HTTP and gRPC, instrumented by the OTel SDK, whose handlers block in the
// way a request asks for and write down what they measured of it. Its spans go to two receivers, the one
// under test and a reference.
//
// It prints one line of JSON with its ports when it is ready, and ends when its standard input does.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "service:", err)
		os.Exit(1)
	}
}

// exportTo adds a batching exporter that loses nothing as long as the process lives: it waits for a receiver
// that is away.
func exportTo(ctx context.Context, endpoint string) (sdktrace.TracerProviderOption, error) {
	exporter, err := otlptracegrpc.New(ctx,
		otlptracegrpc.WithInsecure(), otlptracegrpc.WithEndpoint(endpoint), otlptracegrpc.WithTimeout(time.Minute),
		otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{
			Enabled: true, InitialInterval: 100 * time.Millisecond, MaxInterval: time.Second, MaxElapsedTime: time.Minute,
		}))
	if err != nil {
		return nil, err
	}
	return sdktrace.WithBatcher(exporter, sdktrace.WithBatchTimeout(200*time.Millisecond),
		sdktrace.WithExportTimeout(time.Minute), sdktrace.WithMaxQueueSize(1<<17)), nil
}

func startTracing(ctx context.Context, share float64, endpoints ...string) (*sdktrace.TracerProvider, error) {
	options := []sdktrace.TracerProviderOption{
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", "workload"), attribute.Int("process.pid", os.Getpid()))),
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(share))),
	}
	for _, endpoint := range endpoints {
		option, err := exportTo(ctx, endpoint)
		if err != nil {
			return nil, err
		}
		options = append(options, option)
	}
	provider := sdktrace.NewTracerProvider(options...)
	otel.SetTracerProvider(provider)
	otel.SetTextMapPropagator(propagation.TraceContext{})
	return provider, nil
}

func listen() (net.Listener, int) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	return listener, listener.Addr().(*net.TCPAddr).Port
}

func main() {
	subject := flag.String("subject", "", "host:port of the OTLP/gRPC receiver under test")
	reference := flag.String("reference", "", "host:port of the OTLP/gRPC receiver that keeps the spans as they are")
	truthPath := flag.String("truth", "", "file for what the handlers measured")
	share := flag.Float64("sampled", 1, "the share of traces that are sampled, where no parent has decided that")
	flag.Parse()

	ctx := context.Background()
	provider, err := startTracing(ctx, *share, *subject, *reference)
	check(err)
	measurements, err := openTruth(*truthPath)
	check(err)
	slow, err := startUpstreams()
	check(err)
	locks, err := openLockFiles()
	check(err)
	check(startBackground())

	callers, err := startClients(measurements, slow)
	check(err)
	a := &actor{upstreams: slow, locks: locks, workers: startWorkers(), clients: callers, truth: measurements}
	httpListener, httpPort := listen()
	grpcListener, grpcPort := listen()
	httpServer := serveHTTP(httpListener, a)
	grpcServer := serveGRPC(grpcListener, a)
	check(json.NewEncoder(os.Stdout).Encode(map[string]int{"http": httpPort, "grpc": grpcPort, "pid": os.Getpid()}))

	io.Copy(io.Discard, os.Stdin)
	httpServer.Shutdown(ctx)
	grpcServer.GracefulStop()
	check(provider.Shutdown(ctx))
	measurements.close()
}
