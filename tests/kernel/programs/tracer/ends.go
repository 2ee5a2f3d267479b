package main

import (
	"net"
	"os"
	"time"
)

func init() {
	actions["end of file"] = endOfFile
	actions["more to come"] = moreToCome
}

func pair() (net.Conn, net.Conn) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	check(err)
	defer listener.Close()
	near, err := net.Dial("tcp4", listener.Addr().String())
	check(err)
	far, err := listener.Accept()
	check(err)
	return near, far
}

// endOfFile waits on a socket and on a pipe whose other end is closed.
func endOfFile(d *Done) {
	near, far := pair()
	defer near.Close()
	time.AfterFunc(5*time.Millisecond, func() { far.Close() })
	d.timed("socket", descriptor(near.(*net.TCPConn)), func() error { _, err := near.Read(make([]byte, 1)); return err })
	read, write, err := os.Pipe()
	check(err)
	defer read.Close()
	time.AfterFunc(5*time.Millisecond, func() { write.Close() })
	d.timed("pipe", descriptor(read), func() error { _, err := read.Read(make([]byte, 1)); return err })
}

// moreToCome waits on a socket that then has data, and for an empty datagram.
func moreToCome(d *Done) {
	near, far := pair()
	defer near.Close()
	defer far.Close()
	time.AfterFunc(5*time.Millisecond, func() { far.Write([]byte("x")) })
	d.timed("socket", descriptor(near.(*net.TCPConn)), func() error { _, err := near.Read(make([]byte, 1)); return err })
	listener, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	check(err)
	defer listener.Close()
	sender, err := net.DialUDP("udp4", nil, listener.LocalAddr().(*net.UDPAddr))
	check(err)
	defer sender.Close()
	time.AfterFunc(5*time.Millisecond, func() { sender.Write(nil) })
	d.timed("datagram", descriptor(listener), func() error { _, _, err := listener.ReadFrom(make([]byte, 1)); return err })
}
