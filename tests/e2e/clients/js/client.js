// Makes the spans that tests/e2e/clients/__init__.py describes, with the JavaScript SDK:
//     node client.js PROTOCOL COMPRESSION SUBJECT REFERENCE
// Each goes to both URLs: to the subject over PROTOCOL (grpc, http/protobuf or http/json), to the reference over gRPC.
// Prints one line of JSON with the ids of all spans.
import { SpanKind, SpanStatusCode, context, trace } from "@opentelemetry/api";
import { OTLPTraceExporter as GrpcExporter } from "@opentelemetry/exporter-trace-otlp-grpc";
import { OTLPTraceExporter as JsonExporter } from "@opentelemetry/exporter-trace-otlp-http";
import { OTLPTraceExporter as ProtobufExporter } from "@opentelemetry/exporter-trace-otlp-proto";
import { resourceFromAttributes } from "@opentelemetry/resources";
import { BasicTracerProvider, BatchSpanProcessor } from "@opentelemetry/sdk-trace-base";

const TRACES = 20;

const [protocol, compression, subject, reference] = process.argv.slice(2);

function exporter() {
  const path = `${subject}/v1/traces`;
  switch (protocol) {
    case "grpc":
      return new GrpcExporter({ url: subject, compression });
    case "http/protobuf":
      return new ProtobufExporter({ url: path, compression });
    case "http/json":
      return new JsonExporter({ url: path, compression });
  }
  throw new Error(`unknown protocol ${protocol}`);
}

const ids = [];
const noted = {
  onStart() {},
  onEnd(span) {
    const { traceId, spanId } = span.spanContext();
    ids.push(traceId + spanId);
  },
  forceFlush: async () => {},
  shutdown: async () => {},
};
const provider = new BasicTracerProvider({
  resource: resourceFromAttributes({ "service.name": "client-js", "service.tags": ["größe", "大小"] }),
  spanProcessors: [
    noted,
    new BatchSpanProcessor(exporter()),
    new BatchSpanProcessor(new GrpcExporter({ url: reference })),
  ],
});
const tracer = provider.getTracer("client", "1.2.3", { schemaUrl: "https://opentelemetry.io/schemas/1.30.0" });

function attributes(number) {
  return {
    text: "plain", unicode: "Grüße, 世界 🌍", empty: "", yes: true, no: false, number,
    negative: -7, large: 2 ** 52, double: 0.1, texts: ["a", "", "ü"], flags: [true, false], numbers: [1, -2, 3],
    doubles: [0.5, -1.25], nothing: [],
  };
}

function child(parent, name, kind) {
  return tracer.startSpan(name, { kind, attributes: { name } }, trace.setSpan(context.active(), parent));
}

for (let number = 0; number < TRACES; number++) {
  const links = ids.length
    ? [{ context: { traceId: ids[0].slice(0, 32), spanId: ids[0].slice(32), traceFlags: 1 }, attributes: { why: "前" } }]
    : [];
  const server = tracer.startSpan("GET /größe", { kind: SpanKind.SERVER, attributes: attributes(number), links });
  const inner = child(server, "inner", SpanKind.INTERNAL);
  inner.addEvent("found", { count: number, of: "größe" });
  inner.addEvent("nothing more");
  const client = child(inner, "call", SpanKind.CLIENT);
  client.setStatus({ code: SpanStatusCode.ERROR, message: "refusé 拒绝" });
  client.recordException(new Error("refusé"));
  client.end();
  inner.setStatus({ code: SpanStatusCode.OK });
  inner.end();
  for (const kind of [SpanKind.PRODUCER, SpanKind.CONSUMER]) child(server, "queue", kind).end();
  server.end();
}
await provider.forceFlush();
await provider.shutdown();
console.log(JSON.stringify({ ids }));
