import io.opentelemetry.api.common.AttributeKey;
import io.opentelemetry.api.common.Attributes;
import io.opentelemetry.api.trace.Span;
import io.opentelemetry.api.trace.SpanBuilder;
import io.opentelemetry.api.trace.SpanContext;
import io.opentelemetry.api.trace.SpanKind;
import io.opentelemetry.api.trace.StatusCode;
import io.opentelemetry.api.trace.Tracer;
import io.opentelemetry.context.Context;
import io.opentelemetry.exporter.otlp.http.trace.OtlpHttpSpanExporter;
import io.opentelemetry.exporter.otlp.trace.OtlpGrpcSpanExporter;
import io.opentelemetry.sdk.resources.Resource;
import io.opentelemetry.sdk.trace.SdkTracerProvider;
import io.opentelemetry.sdk.trace.export.BatchSpanProcessor;
import io.opentelemetry.sdk.trace.export.SpanExporter;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;

/** The client of the Java SDK: {@code java Client PROTOCOL COMPRESSION SUBJECT REFERENCE}. See ../__init__.py. */
public final class Client {
    private static final int TRACES = 20;

    private final Tracer tracer;
    private final List<SpanContext> ended = new ArrayList<>();

    private Client(Tracer tracer) {
        this.tracer = tracer;
    }

    public static void main(String[] arguments) {
        SpanExporter subject = exporter(arguments[0], arguments[1], arguments[2]);
        SpanExporter reference = exporter("grpc", "none", arguments[3]);
        SdkTracerProvider provider = SdkTracerProvider.builder()
                .setResource(Resource.getDefault().merge(Resource.create(Attributes.of(
                        AttributeKey.stringKey("service.name"), "client-java",
                        AttributeKey.stringArrayKey("service.tags"), List.of("größe", "大小")))))
                .addSpanProcessor(BatchSpanProcessor.builder(subject).build())
                .addSpanProcessor(BatchSpanProcessor.builder(reference).build())
                .build();
        Client client = new Client(provider.tracerBuilder("client")
                .setInstrumentationVersion("1.2.3")
                .setSchemaUrl("https://opentelemetry.io/schemas/1.30.0")
                .build());
        for (int number = 0; number < TRACES; number++) {
            client.trace(number);
        }
        boolean exported = provider.forceFlush().join(10, TimeUnit.SECONDS).isSuccess();
        if (!exported || !provider.shutdown().join(10, TimeUnit.SECONDS).isSuccess()) {
            System.err.println("not everything was exported");
            System.exit(1);
        }
        List<String> ids = new ArrayList<>();
        client.ended.forEach(span -> ids.add('"' + span.getTraceId() + span.getSpanId() + '"'));
        System.out.println("{\"ids\": [" + String.join(", ", ids) + "]}");
        System.exit(0); // the HTTP client's idle threads would keep it for a minute
    }

    private static SpanExporter exporter(String protocol, String compression, String to) {
        return switch (protocol) {
            case "grpc" -> OtlpGrpcSpanExporter.builder().setEndpoint(to).setCompression(compression).build();
            case "http/protobuf" -> OtlpHttpSpanExporter.builder()
                    .setEndpoint(to + "/v1/traces").setCompression(compression).build();
            default -> throw new IllegalArgumentException(protocol);
        };
    }

    private void trace(int number) {
        SpanBuilder builder = tracer.spanBuilder("GET /größe").setNoParent().setSpanKind(SpanKind.SERVER)
                .setAllAttributes(attributes(number));
        if (!ended.isEmpty()) {
            builder.addLink(ended.get(0), Attributes.of(AttributeKey.stringKey("why"), "前"));
        }
        Span server = builder.startSpan();
        Span inner = child(server, "inner", SpanKind.INTERNAL);
        inner.addEvent("found", Attributes.of(
                AttributeKey.longKey("count"), (long) number, AttributeKey.stringKey("of"), "größe"));
        inner.addEvent("nothing more");
        Span call = child(inner, "call", SpanKind.CLIENT);
        call.setStatus(StatusCode.ERROR, "refusé 拒绝");
        call.recordException(new IllegalStateException("refusé"));
        end(call);
        inner.setStatus(StatusCode.OK);
        end(inner);
        end(child(server, "queue", SpanKind.PRODUCER));
        end(child(server, "queue", SpanKind.CONSUMER));
        end(server);
    }

    private Span child(Span parent, String name, SpanKind kind) {
        return tracer.spanBuilder(name).setParent(Context.root().with(parent)).setSpanKind(kind)
                .setAttribute("name", name).startSpan();
    }

    private void end(Span span) {
        span.end();
        ended.add(span.getSpanContext());
    }

    private static Attributes attributes(int number) {
        return Attributes.builder()
                .put("text", "plain").put("unicode", "Grüße, 世界 🌍").put("empty", "")
                .put("yes", true).put("no", false)
                .put("number", number).put("negative", -7).put("large", 1L << 62).put("double", 0.1)
                .put("texts", "a", "", "ü").put("flags", true, false)
                .put("numbers", 1, -2, 3).put("doubles", 0.5, -1.25)
                .put(AttributeKey.longArrayKey("nothing"), List.of())
                .build();
    }
}
