package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"workload/compression"
	"workload/wire"
)

// connection is one TCP connection to the target. send returns how many of the spans were rejected.
type connection interface {
	send(ctx context.Context, request []byte) (rejected uint64, err error)
}

// refusal is an answer that says no. again: the same request may be sent once more, after the delay.
type refusal struct {
	name  string
	delay time.Duration
	again bool
}

func (r *refusal) Error() string { return r.name }

// unasked is the delay where the refusal names none.
const unasked = 100 * time.Millisecond

func connect(protocol, target, compressed string) (connection, error) {
	if err := compression.Known(compressed); err != nil {
		return nil, err
	}
	switch protocol {
	case "grpc":
		return newGRPC(target, compressed)
	case "http":
		return newHTTP(target, compressed), nil
	}
	return nil, fmt.Errorf("protocol %q is none of grpc, http", protocol)
}

type overGRPC struct{ conn *grpc.ClientConn }

func newGRPC(target, compressed string) (*overGRPC, error) {
	options := []grpc.CallOption{grpc.ForceCodecV2(wire.Codec{}), grpc.WaitForReady(true)}
	if compressed != "none" {
		options = append(options, grpc.UseCompressor(compressed))
	}
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(options...))
	return &overGRPC{conn}, err
}

func (c *overGRPC) send(ctx context.Context, request []byte) (uint64, error) {
	var answer response
	err := c.conn.Invoke(ctx, wire.ExportMethod, request, &answer)
	if err == nil {
		return answer.rejected, nil
	}
	said := status.Convert(err)
	found := &refusal{said.Code().String(), unasked, said.Code() == codes.Unavailable}
	for _, detail := range said.Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok {
			found.delay, found.again = info.RetryDelay.AsDuration(), true
		}
	}
	return 0, found
}

// response reads how many spans were rejected out of an ExportTraceServiceResponse.
type response struct{ rejected uint64 }

func (r *response) Read(message []byte) error {
	if rejected := wire.Field(wire.Field(message, 1), 1); rejected != nil {
		r.rejected, _ = protowire.ConsumeVarint(rejected)
	}
	return nil
}

// overHTTP is OTLP over HTTP/1.1 with protobuf. A connection carries one request at a time, so there are as many as
// there are senders that share it.
type overHTTP struct {
	client     http.Client
	url        string
	compressed string
}

func newHTTP(target, compressed string) *overHTTP {
	return &overHTTP{http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}},
		"http://" + target + "/v1/traces", compressed}
}

func (c *overHTTP) send(ctx context.Context, request []byte) (uint64, error) {
	if c.compressed != "none" {
		var into bytes.Buffer
		if err := compression.Compress(c.compressed, request, &into); err != nil {
			return 0, err
		}
		request = into.Bytes()
	}
	call, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(request))
	if err != nil {
		return 0, err
	}
	call.Header.Set("Content-Type", "application/x-protobuf")
	if c.compressed != "none" {
		call.Header.Set("Content-Encoding", c.compressed)
	}
	answer, err := c.client.Do(call)
	if err != nil {
		return 0, &refusal{"no answer", unasked, ctx.Err() == nil}
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, &refusal{"no answer", unasked, ctx.Err() == nil}
	}
	if answer.StatusCode == http.StatusOK {
		var read response
		err = read.Read(body)
		return read.rejected, err
	}
	return 0, refusedBy(answer)
}

// refusedBy: as OTLP says, four codes may be tried again.
func refusedBy(answer *http.Response) error {
	found := &refusal{name: strconv.Itoa(answer.StatusCode), delay: unasked}
	switch answer.StatusCode {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		found.again = true
	}
	if seconds, err := strconv.Atoi(answer.Header.Get("Retry-After")); err == nil {
		found.delay = time.Duration(seconds) * time.Second
	}
	return found
}
