// Ends as many spans as its argument says, each from a goroutine of its own.
package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

func main() {
	count := 1
	if len(os.Args) > 1 {
		given, err := strconv.Atoi(os.Args[1])
		if err != nil {
			panic(err)
		}
		count = given
	}
	tracer := sdktrace.NewTracerProvider().Tracer("spans")
	var all sync.WaitGroup
	for range count {
		all.Add(1)
		go func() {
			defer all.Done()
			_, span := tracer.Start(context.Background(), "span")
			span.End()
		}()
	}
	all.Wait()
	fmt.Println(count)
}
