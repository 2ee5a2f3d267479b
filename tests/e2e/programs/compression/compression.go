// Package compression gives gRPC clients and servers that import it gzip and zstd, and tells how a message of either
// kind is made. The levels are what SDKs and collectors written in Go use: gzip's default (6), zstd's fastest default.
package compression

import (
	"bytes"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/gzip" // registers itself
)

// Zstd is its name on the wire.
const Zstd = "zstd"

// Known says whether a name is one of those that can be asked for; "none" is.
func Known(name string) error {
	if name != "none" && encoding.GetCompressor(name) == nil {
		return fmt.Errorf("compression %q is none of none, gzip, zstd", name)
	}
	return nil
}

// Compress replaces the content of `into` by the compressed message.
func Compress(name string, message []byte, into *bytes.Buffer) error {
	into.Reset()
	writer, err := encoding.GetCompressor(name).Compress(into)
	if err != nil {
		return err
	}
	if _, err = writer.Write(message); err != nil {
		return err
	}
	return writer.Close()
}

func init() { encoding.RegisterCompressor(&zstdCompressor{}) }

// zstdCompressor keeps encoders and decoders: one costs more to make than a message costs to compress.
type zstdCompressor struct{ encoders, decoders sync.Pool }

func (*zstdCompressor) Name() string { return Zstd }

func (c *zstdCompressor) Compress(w io.Writer) (io.WriteCloser, error) {
	if kept, ok := c.encoders.Get().(*writer); ok {
		kept.Reset(w)
		return kept, nil
	}
	encoder, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
	return &writer{encoder, c}, err
}

func (c *zstdCompressor) Decompress(r io.Reader) (io.Reader, error) {
	if kept, ok := c.decoders.Get().(*reader); ok {
		return kept, kept.Reset(r)
	}
	decoder, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
	return &reader{decoder, c}, err
}

type writer struct {
	*zstd.Encoder
	of *zstdCompressor
}

func (w *writer) Close() error {
	err := w.Encoder.Close()
	w.of.encoders.Put(w)
	return err
}

type reader struct {
	*zstd.Decoder
	of *zstdCompressor
}

// Read gives the decoder back at the end of the message: gRPC reads each to its end.
func (r *reader) Read(into []byte) (int, error) {
	n, err := r.Decoder.Read(into)
	if err == io.EOF {
		r.of.decoders.Put(r)
	}
	return n, err
}
