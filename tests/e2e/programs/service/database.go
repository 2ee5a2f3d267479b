package main

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// query has the caller's own goroutine read, in a span of kind client as instrumented drivers make it.
func (c *clients) query(ctx context.Context, r *record, pause time.Duration) error {
	ctx, span := tracer.Start(ctx, "query", trace.WithSpanKind(trace.SpanKindClient))
	client := r.inner(span.SpanContext(), "client")
	result := &queryWaits{}
	var answer int64
	row := c.database.QueryRowContext(context.WithValue(ctx, queryKey{}, result), "wait", int64(pause))
	err := row.Scan(&answer)
	span.End()
	if c.truth == nil || err != nil {
		return err
	}
	client.Waits = append(client.Waits, result.waits...)
	r.enclose(client)
	c.truth.add(client)
	return nil
}

// slowDatabase is a driver of database/sql whose queries are answered by the upstreams.
type slowDatabase struct{ upstreams *upstreams }

type queryKey struct{}

// queryWaits is where a query leaves what it measured.
type queryWaits struct{ waits []wait }

func (d slowDatabase) Connect(context.Context) (driver.Conn, error) {
	conn, err := d.upstreams.dial()
	return databaseConn{conn}, err
}
func (d slowDatabase) Driver() driver.Driver            { return d }
func (d slowDatabase) Open(string) (driver.Conn, error) { return d.Connect(context.Background()) }

type databaseConn struct{ upstream upstream }

func (c databaseConn) QueryContext(ctx context.Context, _ string, args []driver.NamedValue) (driver.Rows, error) {
	pause := time.Duration(args[0].Value.(int64))
	if err := c.upstream.ask(pause); err != nil {
		return nil, err
	}
	waits, err := c.upstream.readAnswer()
	ctx.Value(queryKey{}).(*queryWaits).waits = waits
	return &answerRow{}, err
}

var errOnlyQueries = errors.New("only queries")

func (c databaseConn) Prepare(string) (driver.Stmt, error) { return nil, errOnlyQueries }
func (c databaseConn) Begin() (driver.Tx, error)           { return nil, errOnlyQueries }
func (c databaseConn) Close() error                        { return c.upstream.conn.Close() }

// answerRow is one row of one number.
type answerRow struct{ read bool }

func (r *answerRow) Columns() []string { return []string{"answer"} }
func (r *answerRow) Close() error      { return nil }
func (r *answerRow) Next(to []driver.Value) error {
	if r.read {
		return io.EOF
	}
	r.read, to[0] = true, int64(1)
	return nil
}
