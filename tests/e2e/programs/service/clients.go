package main

import (
	"context"
	"crypto/tls"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"

	"workload/clock"
)

// clients call slow servers. Their connections are made before the first request, so that none is made inside one,
// but where that is asked for.
type clients struct {
	truth                  *truth
	plain, tls, http2, new http.RoundTripper
	servers                slowServers
	grpc                   *grpc.ClientConn
	database               *sql.DB
}

func startClients(t *truth, slow *upstreams) (*clients, error) {
	servers, err := startSlowServers()
	if err != nil {
		return nil, err
	}
	c := &clients{truth: t, servers: servers, database: sql.OpenDB(slowDatabase{slow})}
	connections := func(change func(*http.Transport)) http.RoundTripper {
		transport := &http.Transport{
			MaxIdleConns: poolSize, MaxIdleConnsPerHost: poolSize, MaxConnsPerHost: poolSize,
			TLSClientConfig: &tls.Config{RootCAs: servers.authorities},
		}
		change(transport)
		return otelhttp.NewTransport(tracedTransport{transport})
	}
	c.plain = connections(func(*http.Transport) {})
	c.tls = connections(func(*http.Transport) {})
	c.new = connections(func(t *http.Transport) { t.DisableKeepAlives, t.DialContext = true, dialRecorded })
	c.http2 = connections(func(t *http.Transport) {
		t.ForceAttemptHTTP2, t.DialContext = true, dialRecorded
	})
	if c.grpc, err = dialSlowGRPC(servers.grpc); err != nil {
		return nil, err
	}
	c.database.SetMaxOpenConns(poolSize)
	c.database.SetMaxIdleConns(poolSize)
	return c, c.connect()
}

// connect makes all connections that there will be. The spans of it are of no interest.
func (c *clients) connect() error {
	const pause = 300 * time.Millisecond
	ctx := trace.ContextWithSpanContext(context.Background(), unsampled)
	nobody := &record{}
	connect := func(call func(context.Context, *record, time.Duration) error, times int) error {
		failures := make(chan error, times)
		for range times {
			go func() { failures <- call(ctx, nobody, pause) }()
		}
		var err error
		for range times {
			err = errors.Join(err, <-failures)
		}
		return err
	}
	discarded := &clients{
		plain: c.plain, tls: c.tls, http2: c.http2, servers: c.servers, grpc: c.grpc, database: c.database,
	}
	return errors.Join(
		connect(discarded.overHTTP, poolSize), connect(discarded.overHTTPS, poolSize), connect(discarded.query, poolSize),
		connect(discarded.overHTTP2, 1), connect(discarded.overGRPC, 1),
	)
}

// unsampled is a parent of spans that are not to be.
var unsampled = trace.NewSpanContext(trace.SpanContextConfig{
	TraceID: trace.TraceID{1}, SpanID: trace.SpanID{1}, Remote: true,
})

// clientCall is one call as far as it has come. Different goroutines know of it.
type clientCall struct {
	span       trace.SpanContext
	connection *recordedConn // nil: not recorded
	// It was made for this call, from wantedNS on: its goroutines are of those that the span has made.
	dialed   bool
	wantedNS int64
	// From when on the reader of the connection waited for it, at the earliest and at the latest.
	startNS, begunNS atomic.Int64
	// When the first byte of the answer had come.
	answeredNS atomic.Int64
	// When the span had not ended yet, and when it had.
	openNS, endedNS int64
}

type callKey struct{}

func callOf(ctx context.Context) *clientCall {
	call, _ := ctx.Value(callKey{}).(*clientCall)
	return call
}

// tracedTransport is inside of otelhttp's, where the span is known.
type tracedTransport struct{ http.RoundTripper }

func (t tracedTransport) RoundTrip(request *http.Request) (*http.Response, error) {
	call := callOf(request.Context())
	call.span = trace.SpanContextFromContext(request.Context())
	ctx := httptrace.WithClientTrace(request.Context(), &httptrace.ClientTrace{
		GetConn: func(string) { call.wantedNS = clock.NowNS() },
		GotConn: func(got httptrace.GotConnInfo) {
			conn := got.Conn
			if tunnel, encrypted := conn.(*tls.Conn); encrypted {
				conn = tunnel.NetConn()
			}
			call.connection, _ = conn.(*recordedConn)
			call.dialed = !got.Reused
			call.startNS.Store(clock.NowNS())
		},
		WroteHeaders:         func() { call.begunNS.Store(clock.NowNS()) },
		GotFirstResponseByte: func() { call.answeredNS.Store(clock.NowNS()) },
	})
	return t.RoundTripper.RoundTrip(request.WithContext(ctx))
}

func (c *clients) overHTTP(ctx context.Context, r *record, pause time.Duration) error {
	return c.call(ctx, r, c.plain, c.servers.http, pause)
}

func (c *clients) overHTTPS(ctx context.Context, r *record, pause time.Duration) error {
	return c.call(ctx, r, c.tls, c.servers.https, pause)
}

func (c *clients) overHTTP2(ctx context.Context, r *record, pause time.Duration) error {
	return c.call(ctx, r, c.http2, c.servers.http2, pause)
}

func (c *clients) dialAnew(ctx context.Context, r *record, pause time.Duration) error {
	return c.call(ctx, r, c.new, c.servers.http, pause)
}

// leaveIdle has an answer at once, and then does something else, while the reader waits for the next one.
func (c *clients) leaveIdle(ctx context.Context, r *record, pause time.Duration) error {
	err := c.call(ctx, r, c.plain, c.servers.http, 0)
	time.Sleep(pause)
	return err
}

func (c *clients) call(
	ctx context.Context, r *record, transport http.RoundTripper, url string, pause time.Duration,
) error {
	call := &clientCall{}
	request, err := http.NewRequestWithContext(
		context.WithValue(ctx, callKey{}, call), http.MethodGet, fmt.Sprintf("%s/?ns=%d", url, pause), http.NoBody)
	if err != nil {
		return err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return err
	}
	call.openNS = clock.NowNS()
	_, err = io.Copy(io.Discard, response.Body)
	err = errors.Join(err, response.Body.Close())
	call.endedNS = clock.NowNS()
	releasedNS, parsed := strconv.ParseInt(response.Header.Get(releasedHeader), 10, 64)
	c.ended(r, call, releasedNS)
	return errors.Join(err, parsed)
}

// ended writes down what the span of a call waited for.
func (c *clients) ended(r *record, call *clientCall, releasedNS int64) {
	if c.truth == nil {
		return
	}
	client := r.inner(call.span, "client")
	startNS, begunNS, answeredNS := call.startNS.Load(), call.begunNS.Load(), call.answeredNS.Load()
	if call.connection != nil {
		client.Waits = call.connection.waits(call, startNS, begunNS)
	} else {
		if begunNS == 0 || begunNS > answeredNS { // the answer can be quicker than who tells of the request
			begunNS = answeredNS
		}
		client.Waits = []wait{{
			Syscalls: []string{"read"}, Kind: "parked", Through: byConnection,
			StartNS: startNS, BegunNS: begunNS, ReleasedNS: releasedNS, EndNS: answeredNS,
		}}
	}
	r.enclose(client)
	c.truth.add(client)
}
