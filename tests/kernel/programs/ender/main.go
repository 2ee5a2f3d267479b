// Command ender ends as many spans as each line of its standard input says, each on a goroutine of its own, and says
// on standard output which: trace id and span id.
package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strconv"

	"go.opentelemetry.io/otel/sdk/trace"
)

func main() {
	tracer := trace.NewTracerProvider().Tracer("ender")
	ended := make(chan string)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		count, err := strconv.Atoi(lines.Text())
		if err != nil {
			panic(err)
		}
		for range count {
			go func() {
				_, span := tracer.Start(context.Background(), "span")
				span.End()
				ended <- fmt.Sprint(span.SpanContext().TraceID(), " ", span.SpanContext().SpanID())
			}()
		}
		for range count {
			fmt.Println(<-ended)
		}
	}
}
