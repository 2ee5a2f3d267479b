// Ends one span and calls C, so that the C linker lays the binary out.
package main

// static int answer(void) { return 42; }
import "C"

import (
	"context"
	"fmt"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

func main() {
	_, span := sdktrace.NewTracerProvider().Tracer("cgo").Start(context.Background(), "span")
	fmt.Println(C.answer())
	span.End()
}
