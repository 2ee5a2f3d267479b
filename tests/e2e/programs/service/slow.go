package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"net/http"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"workload/clock"
)

// slowServers answer after the time they are told. They are not instrumented.
type slowServers struct {
	http, https, http2 string // URLs
	grpc               string // host:port
	authorities        *x509.CertPool
}

// releasedHeader tells when the answer was sent, in CLOCK_MONOTONIC.
const releasedHeader = "Released-Ns"

func answerSlowly(w http.ResponseWriter, r *http.Request) {
	pause, _ := strconv.ParseInt(r.URL.Query().Get("ns"), 10, 64)
	if pause > 0 {
		time.Sleep(time.Duration(pause))
	}
	w.Header().Set(releasedHeader, strconv.FormatInt(clock.NowNS(), 10))
	w.Write([]byte("done\n"))
}

func startSlowServers() (servers slowServers, err error) {
	certificate, authorities, err := selfSigned()
	if err != nil {
		return servers, err
	}
	servers.authorities = authorities
	serve := func(scheme string, protocols ...string) string {
		listener, _ := listen()
		if protocols != nil {
			listener = tls.NewListener(listener, &tls.Config{
				Certificates: []tls.Certificate{certificate}, NextProtos: protocols,
			})
		}
		server := &http.Server{
			Handler: http.HandlerFunc(answerSlowly),
			HTTP2:   &http.HTTP2Config{MaxConcurrentStreams: 4096},
		}
		go server.Serve(listener)
		return scheme + "://" + listener.Addr().String()
	}
	servers.http, servers.https, servers.http2 = serve("http"), serve("https", "http/1.1"), serve("https", "h2")
	listener, _ := listen()
	servers.grpc = listener.Addr().String()
	server := grpc.NewServer(grpc.MaxConcurrentStreams(4096))
	server.RegisterService(&slowService, nil)
	go server.Serve(listener)
	return servers, nil
}

// selfSigned is a certificate for 127.0.0.1 and what a client has to trust for it.
func selfSigned() (certificate tls.Certificate, authorities *x509.CertPool, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return certificate, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return certificate, nil, err
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return certificate, nil, err
	}
	authorities = x509.NewCertPool()
	authorities.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, authorities, nil
}

var slowService = grpc.ServiceDesc{
	ServiceName: "workload.Slow",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Do",
		Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			request := &wrapperspb.StringValue{}
			if err := decode(request); err != nil {
				return nil, err
			}
			pause, err := strconv.ParseInt(request.Value, 10, 64)
			time.Sleep(time.Duration(pause))
			return wrapperspb.String("done"), err
		},
	}},
}
