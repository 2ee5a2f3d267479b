package main

import (
	"context"
	"net"
	"net/url"
	"strconv"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// do serves workload.Work/Do: the request is a URL query like the HTTP one's.
func (a *actor) do(ctx context.Context, request *wrapperspb.StringValue) (*wrapperspb.StringValue, error) {
	query, err := url.ParseQuery(request.Value)
	if err != nil {
		return nil, err
	}
	milliseconds, _ := strconv.Atoi(query.Get("ms"))
	r := newRecord(trace.SpanContextFromContext(ctx), "server", "grpc", query.Get("cause"), query.Get("step"))
	err = a.act(ctx, r, time.Duration(milliseconds)*time.Millisecond)
	a.truth.add(r)
	return wrapperspb.String("done"), err
}

// The service description is written by hand so that building it needs no protoc.
var workService = grpc.ServiceDesc{
	ServiceName: "workload.Work",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Do",
		Handler: func(server any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			request := &wrapperspb.StringValue{}
			if err := decode(request); err != nil {
				return nil, err
			}
			return server.(*actor).do(ctx, request)
		},
	}},
}

func serveGRPC(listener net.Listener, a *actor) *grpc.Server {
	server := grpc.NewServer(grpc.StatsHandler(otelgrpc.NewServerHandler()))
	server.RegisterService(&workService, a)
	go server.Serve(listener)
	return server
}
