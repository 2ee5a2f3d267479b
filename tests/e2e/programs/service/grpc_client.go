package main

import (
	"context"
	"net"
	"strconv"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/stats"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"workload/clock"
)

func (c *clients) overGRPC(ctx context.Context, r *record, pause time.Duration) error {
	call := &clientCall{}
	request := wrapperspb.String(strconv.FormatInt(int64(pause), 10))
	err := c.grpc.Invoke(context.WithValue(ctx, callKey{}, call), "/workload.Slow/Do", request, &wrapperspb.StringValue{})
	if err != nil {
		return err
	}
	c.ended(r, call, 0)
	return nil
}

// dialSlowGRPC makes the one connection for all calls.
func dialSlowGRPC(address string) (*grpc.ClientConn, error) {
	times := &callTimes{}
	dial := func(ctx context.Context, address string) (net.Conn, error) {
		conn, err := dialRecorded(ctx, "tcp", address)
		times.connection = conn
		return conn, err
	}
	return grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(dial),
		grpc.WithStatsHandler(otelgrpc.NewClientHandler()), grpc.WithStatsHandler(times))
}

// callTimes comes after otelgrpc's handler: the span is known when a call begins, and over when it ends.
type callTimes struct {
	connection net.Conn // written once, before the first call gets an answer
}

func (*callTimes) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context {
	callOf(ctx).span = trace.SpanContextFromContext(ctx)
	return ctx
}

func (t *callTimes) HandleRPC(ctx context.Context, s stats.RPCStats) {
	call := callOf(ctx)
	switch s.(type) {
	case *stats.Begin:
		call.startNS.Store(clock.NowNS())
	case *stats.OutHeader: // the request is on its way
		call.begunNS.Store(clock.NowNS())
	case *stats.InPayload:
		call.openNS = clock.NowNS()
	case *stats.End:
		call.endedNS = clock.NowNS()
		call.connection, _ = t.connection.(*recordedConn)
	}
}

func (*callTimes) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (*callTimes) HandleConn(context.Context, stats.ConnStats)                       {}
