// Ends a span, in which it makes a goroutine and a call with each of the clients that are known, in their versions of old.
package main

import (
	"context"
	"fmt"
	"net/http"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

const nobody = "127.0.0.1:1"

func main() {
	ctx, span := sdktrace.NewTracerProvider().Tracer("clients").Start(context.Background(), "span")
	defer span.End()
	done := make(chan error)
	go func() {
		connection, err := grpc.Dial(nobody, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err == nil {
			err = connection.Invoke(ctx, "/service/method", nil, nil)
		}
		done <- err
	}()
	fmt.Println(<-done)
	for _, transport := range []http.RoundTripper{http.DefaultTransport, &http2.Transport{}} {
		client := http.Client{Transport: transport}
		_, err := client.Get("http://" + nobody)
		fmt.Println(err)
	}
}
