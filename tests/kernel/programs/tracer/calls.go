package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

func init() {
	actions["http1"] = func(d *Done) { callHTTP(d, "http1", plain(), nil) }
	actions["http1_tls"] = func(d *Done) { callHTTP(d, "http1_tls", secure(false), nil) }
	actions["http2_tls"] = func(d *Done) { callHTTP(d, "http2_tls", secure(true), nil) }
	actions["http1_wrapped"] = func(d *Done) { callHTTP(d, "http1_wrapped", plain(), wrapped) }
	actions["http1_hidden"] = func(d *Done) { callHTTP(d, "http1_hidden", plain(), hidden) }
	actions["http1_unix"] = callUnix
	actions["http1_ipv6"] = func(d *Done) { callHTTP(d, "http1_ipv6", onIPv6(), nil) }
	actions["grpc"] = func(d *Done) { callGRPC(d, "grpc", false) }
	actions["grpc_tls"] = func(d *Done) { callGRPC(d, "grpc_tls", true) }
}

var handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })

func plain() *httptest.Server { return httptest.NewServer(handler) }

func secure(http2 bool) *httptest.Server {
	server := httptest.NewUnstartedServer(handler)
	server.EnableHTTP2 = http2
	server.StartTLS()
	return server
}

func onIPv6() *httptest.Server {
	listener, err := net.Listen("tcp6", "[::1]:0")
	check(err)
	server := &httptest.Server{Listener: listener, Config: &http.Server{Handler: handler}}
	server.Start()
	return server
}

// A Conn around another one, as rate limiters and counters are.
type counting struct {
	net.Conn
	reads int
}

func wrapped(conn net.Conn) net.Conn { return &counting{Conn: conn} }

// A Conn that hides the one it has.
type hiding struct {
	reads int
	net.Conn
}

func hidden(conn net.Conn) net.Conn { return &hiding{Conn: conn} }

// innermost is the connection under those that wrap it.
func innermost(conn net.Conn) net.Conn {
	for {
		switch outer := conn.(type) {
		case *tls.Conn:
			conn = outer.NetConn()
		case *counting:
			conn = outer.Conn
		case *hiding:
			conn = outer.Conn
		default:
			return conn
		}
	}
}

func (d *Done) call(name string, made [2]int64, conn net.Conn) {
	conn = innermost(conn)
	d.mutex.Lock()
	defer d.mutex.Unlock()
	d.Calls = append(d.Calls, &Call{
		Name: name, Goid: goid(), Made: made,
		Fd: descriptor(conn.(syscall.Conn)), Peer: conn.RemoteAddr().String(),
	})
}

func fetch(d *Done, name string, client *http.Client, url string) {
	var conn net.Conn
	trace := &httptrace.ClientTrace{GotConn: func(got httptrace.GotConnInfo) { conn = got.Conn }}
	ctx, span := d.start(httptrace.WithClientTrace(context.Background(), trace), name)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	check(err)
	before := now()
	response, err := client.Do(request)
	check(err)
	after := now()
	_, err = io.Copy(io.Discard, response.Body)
	check(err)
	response.Body.Close()
	span.end()
	d.call(name, [2]int64{before, after}, conn)
}

// callHTTP makes four calls: two one after the other, on one connection, then two at once.
func callHTTP(d *Done, name string, server *httptest.Server, wrap func(net.Conn) net.Conn) {
	defer server.Close()
	client := server.Client()
	if wrap != nil {
		client.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return wrap(conn), nil
		}
	}
	fetch(d, name, client, server.URL)
	fetch(d, name, client, server.URL)
	var group sync.WaitGroup
	for i := 0; i < 2; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			fetch(d, name, client, server.URL)
		}()
	}
	group.Wait()
}

func callUnix(d *Done) {
	directory, err := os.MkdirTemp("", "tracer")
	check(err)
	defer os.RemoveAll(directory)
	path := filepath.Join(directory, "socket")
	listener, err := net.Listen("unix", path)
	check(err)
	server := &http.Server{Handler: handler}
	go server.Serve(listener)
	defer server.Close()
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
	}}
	fetch(d, "http1_unix", client, "http://unix/")
}

func callGRPC(d *Done, name string, isTLS bool) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	check(err)
	var options []grpc.ServerOption
	client := insecure.NewCredentials()
	if isTLS {
		certified := httptest.NewUnstartedServer(handler)
		certified.StartTLS()
		defer certified.Close()
		options = append(options, grpc.Creds(credentials.NewServerTLSFromCert(&certified.TLS.Certificates[0])))
		pool := x509.NewCertPool()
		pool.AddCert(certified.Certificate())
		client = credentials.NewClientTLSFromCert(pool, "example.com")
	}
	server := grpc.NewServer(options...)
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	go server.Serve(listener)
	defer server.Stop()
	dialed := make(chan net.Conn, 1)
	dialer := func(ctx context.Context, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp4", address)
		if err != nil {
			return nil, err
		}
		select {
		case dialed <- conn:
		default:
			return nil, errors.New("dialed twice")
		}
		return conn, nil
	}
	conn, err := grpc.Dial(listener.Addr().String(), grpc.WithTransportCredentials(client), grpc.WithContextDialer(dialer))
	check(err)
	defer conn.Close()
	_, err = grpc_health_v1.NewHealthClient(conn).Check(context.Background(), &grpc_health_v1.HealthCheckRequest{})
	check(err)
	used := <-dialed
	var group sync.WaitGroup
	for i := 0; i < 8; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			ctx, span := d.start(context.Background(), name)
			before := now()
			_, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
			check(err)
			after := now()
			span.end()
			d.call(name, [2]int64{before, after}, used)
		}()
	}
	group.Wait()
}
