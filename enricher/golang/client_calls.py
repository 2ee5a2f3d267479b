"""Which function of a client is called, by whoever makes a call, with the connection that the call goes over.

A client's reads and writes are made by goroutines of the connection, so only the call tells whose they are. It is
seen at the start of the one function that all calls on a connection go through, on the caller's goroutine and with
the connection as the receiver. A function that the compiler can put into its callers would not do: in most versions
RoundTrip of HTTP/2 is such a shell around another one. scripts/make_layouts.py looks after that.

With a profile (go build -pgo) the compiler does so with much bigger functions, but never with one that has a go or
defer statement or a call of recover (cmd/compile/internal/inline). A call that is missed is worse than none seen at
all: what was done for it would seem to belong to the call before.
"""

from dataclasses import dataclass

from enricher.golang.probe_point import ProbePoint

GRPC_MODULE = "google.golang.org/grpc"
NET_MODULE = "golang.org/x/net"


@dataclass(frozen=True, slots=True)
class CallPoint:
    """At `point` a client is about to make a call on the connection in the register of the first argument (amd64
    RAX, arm64 X0). `connection_offset`: of its net.Conn, in bytes. `multiplexed`: it may carry several calls at a
    time. `over`: it gives the connection, in the second argument (RBX, X1), back instead."""

    point: ProbePoint
    connection_offset: int
    multiplexed: bool
    over: bool = False


@dataclass(frozen=True, slots=True)
class Client:
    """`structure` of `package` is a connection, its field `field` a net.Conn. Of `methods`, the innermost first, the
    first one that is linked in is the one that all calls go through. `module`: whose version the layout depends on,
    None: that of Go. `inlinable`: a profile may make the compiler put the method into some of its callers."""

    package: str
    structure: str
    field: str
    methods: tuple[str, ...]
    multiplexed: bool
    module: str | None = None
    inlinable: bool = False
    giver: str | None = None
    """The function to which a connection is given when it can take another call."""

    @property
    def connection(self) -> str:
        """The structure's name in DWARF."""
        return f"{self.package}.{self.structure}"

    @property
    def functions(self) -> tuple[str, ...]:
        """The methods' names in the function table."""
        return tuple(f"{self.package}.(*{self.structure}).{method}" for method in self.methods)


CLIENTS = (
    Client(
        "net/http",
        "persistConn",
        "conn",
        ("roundTrip",),
        multiplexed=False,
        giver="net/http.(*Transport).tryPutIdleConn",
    ),
    # HTTP/2 to Go 1.26, and from 1.27 on.
    Client("net/http", "http2ClientConn", "tconn", ("roundTrip", "RoundTrip"), multiplexed=True),
    Client("net/http/internal/http2", "ClientConn", "tconn", ("roundTrip",), multiplexed=True),
    Client(
        f"{NET_MODULE}/http2",
        "ClientConn",
        "tconn",
        ("internalRoundTrip", "roundTrip", "RoundTrip"),
        multiplexed=True,
        module=NET_MODULE,
    ),
    Client(
        f"{GRPC_MODULE}/internal/transport",
        "http2Client",
        "conn",
        ("NewStream",),
        multiplexed=True,
        module=GRPC_MODULE,
        inlinable=True,
    ),
)
