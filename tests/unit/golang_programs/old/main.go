// Ends one span, in a language and with an SDK of old.
package main

import (
	"context"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

func main() {
	_, span := sdktrace.NewTracerProvider().Tracer("old").Start(context.Background(), "span")
	span.End()
}
