// sdkclient is the client of the Go SDK: sdkclient PROTOCOL COMPRESSION SUBJECT REFERENCE. What it sends, and what it
// prints, is the same for the clients of all SDKs: tests/e2e/clients/__init__.py says it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

const (
	traces   = 20
	patience = 20 * time.Second
)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "sdkclient:", err)
		os.Exit(1)
	}
}

func exporter(ctx context.Context, protocol, compression, to string) (*otlptrace.Exporter, error) {
	switch protocol {
	case "grpc":
		options := []otlptracegrpc.Option{otlptracegrpc.WithEndpointURL(to)}
		if compression != "none" {
			options = append(options, otlptracegrpc.WithCompressor(compression))
		}
		return otlptracegrpc.New(ctx, options...)
	case "http/protobuf":
		options := []otlptracehttp.Option{otlptracehttp.WithEndpointURL(to + "/v1/traces")}
		if compression == "gzip" {
			options = append(options, otlptracehttp.WithCompression(otlptracehttp.GzipCompression))
		}
		return otlptracehttp.New(ctx, options...)
	}
	return nil, fmt.Errorf("unknown protocol %q", protocol)
}

// client makes spans and keeps the contexts of those that have ended.
type client struct {
	tracer trace.Tracer
	ended  []trace.SpanContext
}

func (c *client) trace(number int) {
	options := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(attributes(number)...)}
	if len(c.ended) > 0 {
		options = append(options, trace.WithLinks(trace.Link{
			SpanContext: c.ended[0], Attributes: []attribute.KeyValue{attribute.String("why", "前")}}))
	}
	inServer, server := c.tracer.Start(context.Background(), "GET /größe", options...)
	inInner, inner := c.child(inServer, "inner", trace.SpanKindInternal)
	inner.AddEvent("found", trace.WithAttributes(attribute.Int("count", number), attribute.String("of", "größe")))
	inner.AddEvent("nothing more")
	_, call := c.child(inInner, "call", trace.SpanKindClient)
	call.SetStatus(codes.Error, "refusé 拒绝")
	call.RecordError(errors.New("refusé"))
	c.end(call)
	inner.SetStatus(codes.Ok, "")
	c.end(inner)
	for _, kind := range []trace.SpanKind{trace.SpanKindProducer, trace.SpanKindConsumer} {
		_, queue := c.child(inServer, "queue", kind)
		c.end(queue)
	}
	c.end(server)
}

func (c *client) child(parent context.Context, name string, kind trace.SpanKind) (context.Context, trace.Span) {
	return c.tracer.Start(parent, name, trace.WithSpanKind(kind), trace.WithAttributes(attribute.String("name", name)))
}

func (c *client) end(span trace.Span) {
	span.End()
	c.ended = append(c.ended, span.SpanContext())
}

func attributes(number int) []attribute.KeyValue {
	return []attribute.KeyValue{
		attribute.String("text", "plain"), attribute.String("unicode", "Grüße, 世界 🌍"), attribute.String("empty", ""),
		attribute.Bool("yes", true), attribute.Bool("no", false),
		attribute.Int("number", number), attribute.Int("negative", -7), attribute.Int64("large", 1<<62),
		attribute.Float64("double", 0.1),
		attribute.StringSlice("texts", []string{"a", "", "ü"}), attribute.BoolSlice("flags", []bool{true, false}),
		attribute.IntSlice("numbers", []int{1, -2, 3}), attribute.Float64Slice("doubles", []float64{0.5, -1.25}),
		attribute.IntSlice("nothing", []int{}),
	}
}

func main() {
	if len(os.Args) != 5 {
		check(errors.New("wanted: PROTOCOL COMPRESSION SUBJECT REFERENCE"))
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	subject, err := exporter(ctx, os.Args[1], os.Args[2], os.Args[3])
	check(err)
	reference, err := exporter(ctx, "grpc", "none", os.Args[4])
	check(err)
	from := resource.NewSchemaless(
		attribute.String("service.name", "client-go"), attribute.StringSlice("service.tags", []string{"größe", "大小"}))
	provider := sdktrace.NewTracerProvider(sdktrace.WithResource(from),
		sdktrace.WithBatcher(subject), sdktrace.WithBatcher(reference))
	c := client{tracer: provider.Tracer("client", trace.WithInstrumentationVersion("1.2.3"),
		trace.WithSchemaURL("https://opentelemetry.io/schemas/1.30.0"))}
	for number := range traces {
		c.trace(number)
	}
	check(provider.ForceFlush(ctx))
	check(provider.Shutdown(ctx))
	ids := make([]string, len(c.ended))
	for i, span := range c.ended {
		ids[i] = span.TraceID().String() + span.SpanID().String()
	}
	check(json.NewEncoder(os.Stdout).Encode(map[string][]string{"ids": ids}))
}
