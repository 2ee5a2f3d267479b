// Requests to itself, with the header that OpenTelemetry's own instrumentation sends. For each command on standard
// input, "http1 COUNT", "https COUNT", "h2c COUNT" or "grpc COUNT", it prints a line of JSON for every request: the
// header as the handler got it, the goroutine of the handler, and the descriptors of both ends of the connection.
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

const atOnce = 8

type done struct {
	Traceparent string `json:"traceparent"`
	Goid        uint64 `json:"goid"`
	ServerFd    int    `json:"server_fd"`
	ClientFd    int    `json:"client_fd"`
}

// Descriptors by the client's end of their connection: those of servers and those of clients.
var accepted, dialled sync.Map

func remember(in *sync.Map, client net.Addr, connection net.Conn) net.Conn {
	raw, err := connection.(*net.TCPConn).SyscallConn()
	if err != nil {
		log.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { in.Store(client.String(), int(fd)) }); err != nil {
		log.Fatal(err)
	}
	return connection
}

type listener struct{ net.Listener }

func (l listener) Accept() (net.Conn, error) {
	connection, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return remember(&accepted, connection.RemoteAddr(), connection), nil
}

func listen() net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	return listener{l}
}

func dial(ctx context.Context, _, address string) (net.Conn, error) {
	connection, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return remember(&dialled, connection.LocalAddr(), connection), nil
}

func goid() uint64 {
	stack := make([]byte, 64)
	fields := bytes.Fields(stack[:runtime.Stack(stack, false)])
	id, err := strconv.ParseUint(string(fields[1]), 10, 64)
	if err != nil {
		log.Fatal(err)
	}
	return id
}

var (
	mutex   sync.Mutex
	handled []done
)

func note(traceparent, client string) {
	server, _ := accepted.Load(client)
	other, _ := dialled.Load(client)
	mutex.Lock()
	defer mutex.Unlock()
	handled = append(handled, done{traceparent, goid(), server.(int), other.(int)})
}

func handle(w http.ResponseWriter, r *http.Request) {
	note(r.Header.Get("Traceparent"), r.RemoteAddr)
	io.Copy(io.Discard, r.Body)
	fmt.Fprintln(w, "done")
}

type health struct {
	grpc_health_v1.UnimplementedHealthServer
}

func (health) Check(ctx context.Context, _ *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	from, _ := peer.FromContext(ctx)
	note(metadata.ValueFromIncomingContext(ctx, "traceparent")[0], from.Addr.String())
	return &grpc_health_v1.HealthCheckResponse{}, nil
}

func httpClient(transport *http.Transport, url string) func() error {
	transport.DialContext = dial
	transport.MaxIdleConnsPerHost = atOnce
	client := http.Client{Transport: otelhttp.NewTransport(transport)}
	return func() error {
		response, err := client.Post(url, "text/plain", strings.NewReader("GET / HTTP/1.1\r\ntraceparent: none\r\n\r\n"))
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, response.Body)
		response.Body.Close()
		return err
	}
}

func protocols(http2 bool) *http.Protocols {
	chosen := new(http.Protocols)
	chosen.SetHTTP1(!http2)
	chosen.SetUnencryptedHTTP2(http2)
	return chosen
}

func clients() map[string]func() error {
	handler := otelhttp.NewHandler(http.HandlerFunc(handle), "handle")
	plain, h2c := listen(), listen()
	go (&http.Server{Handler: handler}).Serve(plain)
	go (&http.Server{Handler: handler, Protocols: protocols(true)}).Serve(h2c)
	secure := httptest.NewUnstartedServer(handler)
	secure.Listener = listen()
	secure.StartTLS()

	server := grpc.NewServer(grpc.StatsHandler(otelgrpc.NewServerHandler()))
	grpc_health_v1.RegisterHealthServer(server, health{})
	calls := listen()
	go server.Serve(calls)
	connection, err := grpc.NewClient("passthrough:///"+calls.Addr().String(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithStatsHandler(otelgrpc.NewClientHandler()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return dial(ctx, "", address) }))
	if err != nil {
		log.Fatal(err)
	}
	return map[string]func() error{
		"http1": httpClient(&http.Transport{}, "http://"+plain.Addr().String()),
		"h2c":   httpClient(&http.Transport{Protocols: protocols(true)}, "http://"+h2c.Addr().String()),
		"https": httpClient(&http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, secure.URL),
		"grpc": func() error {
			_, err := grpc_health_v1.NewHealthClient(connection).Check(context.Background(), &grpc_health_v1.HealthCheckRequest{})
			return err
		},
	}
}

func main() {
	otel.SetTracerProvider(sdk.NewTracerProvider())
	otel.SetTextMapPropagator(propagation.TraceContext{})
	request := clients()
	input, output := bufio.NewScanner(os.Stdin), json.NewEncoder(os.Stdout)
	for input.Scan() {
		var protocol string
		var count int
		if _, err := fmt.Sscan(input.Text(), &protocol, &count); err != nil {
			log.Fatal(err)
		}
		var running sync.WaitGroup
		for range atOnce {
			running.Go(func() {
				for range count / atOnce {
					if err := request[protocol](); err != nil {
						log.Fatal(err)
					}
				}
			})
		}
		running.Wait()
		for _, one := range handled {
			output.Encode(one)
		}
		handled = nil
	}
}
