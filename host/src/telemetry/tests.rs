//! Exports to a real collector on loopback: gRPC by the generated services, HTTP by hyper.

use std::net::SocketAddr;
use std::time::Duration;

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::metrics::v1::{Metric, metric, number_data_point};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use ultra_store::{FieldValue, MetricValue, Status};
use uuid::Uuid;

use super::*;
use crate::config::OtlpProtocol::{self, Grpc, HttpProtobuf};

mod collector;

use collector::{Behaviour, Collector, Received};

/// Faster than in life, and a little more patient than a busy machine is slow.
fn hasty() -> Timing {
    Timing {
        batch_wait: Duration::from_millis(20),
        metrics_period: Duration::from_millis(50),
        attempt_limit: Duration::from_millis(500),
        backoff: Duration::from_millis(20),
        ..Timing::default()
    }
}

/// Sends nothing of itself before it is shut down.
fn lazy() -> Timing {
    Timing {
        batch_wait: Duration::from_secs(3_600),
        metrics_period: Duration::from_secs(3_600),
        ..hasty()
    }
}

fn settings(endpoint: String, protocol: OtlpProtocol) -> Observability {
    Observability {
        enabled: true,
        endpoint,
        protocol,
        service_name: "ultra-test".into(),
        headers: [("x-api-key".into(), "k1".into())].into(),
    }
}

fn facts() -> Facts {
    Facts { transport: "stdio", redactor: Redactor::new(["s3cret".to_owned()]) }
}

fn start(address: SocketAddr, protocol: OtlpProtocol, timing: Timing) -> Exporter {
    let endpoint = format!("http://{address}");
    Exporter::start_with(&settings(endpoint, protocol), facts(), timing, None).unwrap()
}

fn trace() -> Trace {
    Trace {
        id: Uuid::now_v7(),
        trace_id: 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c,
        span_id: 0xb7ad_6b71_6920_3331,
        parent_span_id: Some(0x00f0_67aa_0ba9_02b7),
        operation: "tool_call",
        method: "tools/call".into(),
        upstream: Some("files".into()),
        name: Some("read".into()),
        request: Some(bytes::Bytes::from_static(b"{\"name\":\"read\"}")),
        response: Some(bytes::Bytes::from_static(b"{\"content\":[]}")),
        status: Status::Success,
        error: None,
        duration_ns: 1_500_000,
        started_unix_ns: 1_790_000_000_000_000_000,
        principal: "inspector/1.2.3".into(),
        session_id: "session-1".into(),
        transport: Some("stdio"),
        metadata: vec![
            ("cache.hit".into(), FieldValue::Bool(true)),
            ("attempt".into(), FieldValue::Int(2)),
            ("ratio".into(), FieldValue::Float(0.5)),
            ("note".into(), FieldValue::Text("with s3cret".into())),
        ],
    }
}

fn failed(error: Option<&str>, response: Option<&'static str>) -> Trace {
    Trace {
        status: Status::Error,
        error: error.map(str::to_owned),
        response: response.map(|json| bytes::Bytes::from_static(json.as_bytes())),
        ..trace()
    }
}

fn counter(operation: &'static str, name: &str, value: u64) -> MetricDelta {
    MetricDelta {
        instrument: "mcp.calls".into(),
        unit: "{call}".into(),
        operation,
        upstream: Some("files".into()),
        name: Some(name.into()),
        value: MetricValue::Counter(value),
    }
}

fn duration(sum: f64, buckets: Vec<u64>) -> MetricDelta {
    MetricDelta {
        instrument: "mcp.call.duration".into(),
        unit: "s".into(),
        value: MetricValue::Histogram {
            count: buckets.iter().sum(),
            sum,
            bounds: Arc::from([0.01, 0.1]),
            buckets,
        },
        ..counter("tool_call", "read", 0)
    }
}

/// Attributes as sorted lines, so that one comparison shows all of them.
fn lines(attributes: &[KeyValue]) -> Vec<String> {
    let value = |attribute: &KeyValue| match attribute.value.clone().unwrap().value.unwrap() {
        Value::StringValue(text) => text,
        Value::BoolValue(truth) => truth.to_string(),
        Value::IntValue(number) => number.to_string(),
        Value::DoubleValue(number) => format!("{number:?}"),
        other => panic!("{other:?}"),
    };
    let mut lines: Vec<_> = attributes
        .iter()
        .map(|attribute| format!("{}={}", attribute.key, value(attribute)))
        .collect();
    lines.sort();
    lines
}

fn span_of(trace: &Trace) -> Span {
    Call::new(trace).span(&facts(), &semconv::Sessions::default())
}

fn attribute(span: &Span, key: &str) -> Option<String> {
    lines(&span.attributes)
        .iter()
        .find_map(|line| line.strip_prefix(&format!("{key}=")).map(str::to_owned))
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait)
        .await
        .unwrap_or_else(|_| panic!("{what}: never"));
}

async fn spans_arrive(protocol: OtlpProtocol) {
    let mut collector = Collector::start().await;
    let exporter = start(collector.address, protocol, hasty());

    exporter.session(Session { id: "session-1".into(), protocol_version: "2025-11-25".into() });
    exporter.span(&trace());

    let (request, headers) = collector.traces().await;
    assert_eq!(headers["x-api-key"], "k1");
    assert_eq!(headers["user-agent"], concat!("ultra/", env!("CARGO_PKG_VERSION")));
    let [resource_spans] = &request.resource_spans[..] else { panic!("{request:?}") };
    assert_resource(resource_spans.resource.as_ref().unwrap());
    let [scope_spans] = &resource_spans.scope_spans[..] else { panic!("{request:?}") };
    assert_eq!(scope_spans.scope.as_ref().unwrap().name, "ultra");
    assert_eq!(scope_spans.scope.as_ref().unwrap().version, env!("CARGO_PKG_VERSION"));
    let [span] = &scope_spans.spans[..] else { panic!("{request:?}") };
    assert_eq!(span.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes());
    assert_eq!(span.span_id, 0xb7ad_6b71_6920_3331_u64.to_be_bytes());
    assert_eq!(span.parent_span_id, 0x00f0_67aa_0ba9_02b7_u64.to_be_bytes());
    assert_eq!(span.flags, 0x301);
    assert_eq!(span.name, "tools/call read");
    assert_eq!(span.kind, 2);
    assert_eq!(span.start_time_unix_nano, 1_790_000_000_000_000_000);
    assert_eq!(span.end_time_unix_nano, 1_790_000_000_001_500_000);
    assert_eq!(span.status, None);
    assert_eq!(
        lines(&span.attributes),
        [
            "attempt=2",
            "cache.hit=true",
            "gen_ai.operation.name=execute_tool",
            "gen_ai.tool.name=read",
            "mcp.method.name=tools/call",
            "mcp.protocol.version=2025-11-25",
            "mcp.session.id=session-1",
            "network.transport=pipe",
            "note=with [redacted]",
            "ratio=0.5",
            "ultra.operation=tool_call",
            "ultra.principal=inspector/1.2.3",
            "ultra.upstream.transport=stdio",
            "ultra.upstream=files",
        ]
    );
    eventually("the export is counted", || exporter.health().exported == 1).await;
    assert_eq!(exporter.health(), Health { exported: 1, ..Health::default() });
}

fn assert_resource(resource: &Resource) {
    let lines = lines(&resource.attributes);
    let keys: Vec<_> = lines.iter().map(|line| line.split_once('=').unwrap().0).collect();
    assert_eq!(
        keys,
        [
            "host.arch",
            "host.name",
            "os.type",
            "process.executable.name",
            "process.pid",
            "service.instance.id",
            "service.name",
            "service.version",
        ]
    );
    assert!(lines.contains(&"service.name=ultra-test".to_owned()));
    assert!(lines.contains(&format!("service.version={}", env!("CARGO_PKG_VERSION"))));
    assert!(lines.contains(&format!("process.pid={}", std::process::id())));
}

#[tokio::test]
async fn spans_arrive_over_grpc() {
    spans_arrive(Grpc).await;
}

#[tokio::test]
async fn spans_arrive_over_http() {
    spans_arrive(HttpProtobuf).await;
}

async fn metrics_arrive(protocol: OtlpProtocol) {
    let mut collector = Collector::start().await;
    let exporter = start(collector.address, protocol, lazy());

    exporter.metrics(&[counter("tool_call", "read", 2), duration(0.2, vec![1, 0, 1])]);
    exporter.metrics(&[counter("tool_call", "read", 3), counter("resource_read", "file:///a", 1)]);
    exporter.metrics(&[counter("resource_read", "file:///b", 1), duration(0.05, vec![0, 1, 0])]);
    assert!(exporter.shutdown().await);

    let (request, headers) = collector.metrics().await;
    assert_eq!(headers["x-api-key"], "k1");
    let [resource_metrics] = &request.resource_metrics[..] else { panic!("{request:?}") };
    assert_resource(resource_metrics.resource.as_ref().unwrap());
    let [scope_metrics] = &resource_metrics.scope_metrics[..] else { panic!("{request:?}") };
    assert_eq!(scope_metrics.scope.as_ref().unwrap().name, "ultra");
    let [duration, calls] = &scope_metrics.metrics[..] else { panic!("{request:?}") };
    assert_duration(duration);
    assert_calls(calls);
}

fn assert_duration(metric: &Metric) {
    assert_eq!((&*metric.name, &*metric.unit), ("mcp.server.operation.duration", "s"));
    let Some(metric::Data::Histogram(histogram)) = &metric.data else { panic!("{metric:?}") };
    assert_eq!(histogram.aggregation_temporality, 2);
    let [point] = &histogram.data_points[..] else { panic!("{metric:?}") };
    assert_eq!(point.count, 3);
    assert_eq!(point.sum, Some(0.25));
    assert_eq!(point.explicit_bounds, [0.01, 0.1]);
    assert_eq!(point.bucket_counts, [1, 1, 1]);
    assert!(point.start_time_unix_nano > 0 && point.start_time_unix_nano < point.time_unix_nano);
    assert_eq!(
        lines(&point.attributes),
        [
            "gen_ai.operation.name=execute_tool",
            "gen_ai.tool.name=read",
            "mcp.method.name=tools/call",
            "ultra.upstream=files",
        ]
    );
}

fn assert_calls(metric: &Metric) {
    assert_eq!((&*metric.name, &*metric.unit), ("mcp.calls", "{call}"));
    let Some(metric::Data::Sum(sum)) = &metric.data else { panic!("{metric:?}") };
    assert_eq!((sum.aggregation_temporality, sum.is_monotonic), (2, true));
    let points: Vec<_> =
        sum.data_points.iter().map(|point| (lines(&point.attributes), point.value)).collect();
    let attributes = |lines: &[&str]| lines.iter().map(|line| line.to_string()).collect::<Vec<_>>();
    assert_eq!(
        points,
        [
            // Two URIs, one stream: they are too many to be told apart.
            (
                attributes(&["mcp.method.name=resources/read", "ultra.upstream=files"]),
                Some(number_data_point::Value::AsInt(2))
            ),
            (
                attributes(&[
                    "gen_ai.operation.name=execute_tool",
                    "gen_ai.tool.name=read",
                    "mcp.method.name=tools/call",
                    "ultra.upstream=files",
                ]),
                Some(number_data_point::Value::AsInt(5))
            ),
        ]
    );
}

#[tokio::test]
async fn metrics_arrive_over_grpc_as_sums_since_the_start() {
    metrics_arrive(Grpc).await;
}

#[tokio::test]
async fn metrics_arrive_over_http_as_sums_since_the_start() {
    metrics_arrive(HttpProtobuf).await;
}

/// What an export lost, the next one carries.
#[tokio::test]
async fn metrics_survive_a_failed_export() {
    let mut collector = Collector::start().await;
    collector.behave(Behaviour::Refuse(400));
    let exporter = start(collector.address, HttpProtobuf, hasty());

    exporter.metrics(&[counter("tool_call", "read", 2)]);
    eventually("the refusal is seen", || exporter.health().metrics_error.is_some()).await;
    assert_eq!(exporter.health().metrics_error.as_deref(), Some("HTTP status 400 Bad Request"));
    collector.behave(Behaviour::Take);
    exporter.metrics(&[counter("tool_call", "read", 1)]);

    eventually("the collector has all calls", || {
        collector.try_metrics().is_some_and(|request| {
            let metric = &request.resource_metrics[0].scope_metrics[0].metrics[0];
            let Some(metric::Data::Sum(sum)) = &metric.data else { panic!("{metric:?}") };
            sum.data_points[0].value == Some(number_data_point::Value::AsInt(3))
        })
    })
    .await;
    eventually("the error is over", || exporter.health().metrics_error.is_none()).await;
}

async fn exports_resume(protocol: OtlpProtocol) {
    let address = collector::free_address();
    let exporter = start(address, protocol, Timing { attempts_max: 2, ..hasty() });

    for _ in 0..3 {
        exporter.span(&trace());
    }
    eventually("spans are given up", || exporter.health().dropped == 3).await;
    let health = exporter.health();
    assert_eq!((health.queued, health.exported), (0, 0));
    let error = health.traces_error.unwrap();
    assert!(error.contains("Connection refused"), "{error}");

    let mut collector = Collector::start_at(address).await;
    exporter.span(&trace());
    let (request, _) = collector.traces().await;
    assert_eq!(request.resource_spans[0].scope_spans[0].spans.len(), 1);
    eventually("the error is over", || exporter.health().traces_error.is_none()).await;
    assert_eq!(exporter.health(), Health { exported: 1, dropped: 3, ..Health::default() });
}

#[tokio::test]
async fn exports_resume_when_the_collector_comes_over_grpc() {
    exports_resume(Grpc).await;
}

#[tokio::test]
async fn exports_resume_when_the_collector_comes_over_http() {
    exports_resume(HttpProtobuf).await;
}

/// A span that was tried once is not lost while tries are left.
#[tokio::test]
async fn a_batch_outlives_a_short_absence_of_the_collector() {
    let address = collector::free_address();
    let exporter = start(address, Grpc, Timing { attempts_max: 50, ..hasty() });

    exporter.span(&trace());
    eventually("the absence is seen", || exporter.health().traces_error.is_some()).await;
    let mut collector = Collector::start_at(address).await;

    collector.traces().await;
    eventually("the export is counted", || exporter.health().exported == 1).await;
    assert_eq!(exporter.health().dropped, 0);
}

async fn connection_is_made_again(protocol: OtlpProtocol) {
    let mut collector = Collector::start().await;
    let exporter = start(collector.address, protocol, Timing { attempts_max: 50, ..hasty() });
    exporter.span(&trace());
    collector.traces().await;

    let mut collector = collector.restart().await;
    exporter.span(&trace());

    collector.traces().await;
    eventually("both are counted", || exporter.health().exported == 2).await;
    assert_eq!(exporter.health().dropped, 0);
}

#[tokio::test]
async fn connection_is_made_again_over_grpc_when_the_collector_restarts() {
    connection_is_made_again(Grpc).await;
}

#[tokio::test]
async fn connection_is_made_again_over_http_when_the_collector_restarts() {
    connection_is_made_again(HttpProtobuf).await;
}

/// The collector takes the connection and the request, and says nothing.
#[tokio::test]
async fn calls_do_not_wait_when_the_collector_hangs() {
    let collector = Collector::start().await;
    collector.behave(Behaviour::Hang);
    let exporter = start(
        collector.address,
        Grpc,
        Timing { attempt_limit: Duration::from_secs(60), ..hasty() },
    );
    let trace = trace();
    exporter.span(&trace);
    eventually("an export is under way", || collector.requests() == 1).await;

    let started = std::time::Instant::now();
    for _ in 0..QUEUE_MAX + 100 {
        exporter.span(&trace);
    }

    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    assert_eq!(
        exporter.health(),
        Health { queued: QUEUE_MAX as u64, dropped: 100, ..Health::default() }
    );
}

#[tokio::test]
async fn an_export_has_a_deadline_of_its_own() {
    let mut collector = Collector::start().await;
    collector.behave(Behaviour::Hang);
    let timing = Timing { attempt_limit: Duration::from_millis(100), attempts_max: 50, ..hasty() };
    let exporter = start(collector.address, Grpc, timing);

    exporter.span(&trace());
    eventually("the deadline is seen", || exporter.health().traces_error.is_some()).await;
    assert_eq!(exporter.health().traces_error.as_deref(), Some("no answer within 0.1 s"));
    collector.behave(Behaviour::Take);

    collector.traces().await;
    eventually("the error is over", || exporter.health().traces_error.is_none()).await;
}

#[tokio::test]
async fn a_refused_batch_is_dropped_at_once() {
    for (protocol, behaviour, error) in [
        (HttpProtobuf, Behaviour::Refuse(400), "HTTP status 400 Bad Request"),
        (HttpProtobuf, Behaviour::Refuse(404), "HTTP status 404 Not Found"),
        (Grpc, Behaviour::Refuse(16), "gRPC status Unauthenticated: no"),
    ] {
        let collector = Collector::start().await;
        collector.behave(behaviour);
        let exporter = start(collector.address, protocol, hasty());

        exporter.span(&trace());
        eventually("the batch is dropped", || exporter.health().dropped == 1).await;

        assert_eq!(collector.requests(), 1);
        assert_eq!(exporter.health().traces_error.as_deref(), Some(error));
    }
}

#[tokio::test]
async fn a_batch_put_off_is_tried_five_times() {
    for (protocol, behaviour) in [
        (HttpProtobuf, Behaviour::Refuse(503)),
        (HttpProtobuf, Behaviour::Refuse(429)),
        (Grpc, Behaviour::Refuse(14)),
    ] {
        let collector = Collector::start().await;
        collector.behave(behaviour);
        let exporter = start(collector.address, protocol, hasty());

        exporter.span(&trace());
        eventually("the batch is dropped", || exporter.health().dropped == 1).await;

        assert_eq!(collector.requests(), 5);
    }
}

#[tokio::test]
async fn spans_refused_in_part_are_counted() {
    for protocol in [Grpc, HttpProtobuf] {
        let collector = Collector::start().await;
        collector.behave(Behaviour::TakePart(2));
        let exporter = start(collector.address, protocol, lazy());

        for _ in 0..5 {
            exporter.span(&trace());
        }
        assert!(exporter.shutdown().await);

        let health = exporter.health();
        assert_eq!((health.exported, health.dropped), (3, 2));
        assert_eq!(health.traces_error.as_deref(), Some("refused 2 of the last: too old"));
    }
}

#[tokio::test]
async fn full_batches_are_sent_before_their_time() {
    let mut collector = Collector::start().await;
    let exporter = start(collector.address, Grpc, Timing { batch_max: 8, ..lazy() });

    for _ in 0..8 {
        exporter.span(&trace());
    }

    let (request, _) = collector.traces().await;
    assert_eq!(request.resource_spans[0].scope_spans[0].spans.len(), 8);
}

#[tokio::test]
async fn what_waits_is_sent_at_the_end() {
    for protocol in [Grpc, HttpProtobuf] {
        let mut collector = Collector::start().await;
        let exporter = start(collector.address, protocol, lazy());
        for _ in 0..1_000 {
            exporter.span(&trace());
        }
        exporter.metrics(&[counter("tool_call", "read", 1)]);

        assert!(exporter.shutdown().await);

        assert_eq!(exporter.health(), Health { exported: 1_000, ..Health::default() });
        let mut arrived = 0;
        while arrived < 1_000 {
            let (request, _) = collector.traces().await;
            let size = request.resource_spans[0].scope_spans[0].spans.len();
            assert!(size <= 512, "{size}");
            arrived += size;
        }
        assert_eq!(arrived, 1_000);
        collector.metrics().await;
        exporter.span(&trace());
        assert_eq!(exporter.health().dropped, 1);
    }
}

#[tokio::test]
async fn the_end_takes_at_most_two_seconds() {
    let collector = Collector::start().await;
    collector.behave(Behaviour::Hang);
    let exporter = start(collector.address, Grpc, Timing::default());
    for _ in 0..1_000 {
        exporter.span(&trace());
    }

    let started = std::time::Instant::now();
    let ended = exporter.shutdown().await;

    assert!(started.elapsed() < Duration::from_millis(2_200), "{:?}", started.elapsed());
    assert!(ended);
    assert_eq!(exporter.health().dropped, 1_000);
}

/// An hour of absence is two log lines per signal, not thousands.
#[tokio::test]
#[ignore = "alone in its process, by `log_has_one_line_per_change`"]
async fn log_has_one_line_per_change_alone() {
    let address = collector::free_address();
    let log = collector::Log::default();
    let subscriber =
        tracing_subscriber::fmt().with_ansi(false).without_time().with_writer(log.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let endpoint = Endpoint::new(&settings(address.to_string(), Grpc)).unwrap();
    let shared = Arc::new(Shared::new(Timing { attempts_max: 2, ..hasty() }));
    let worker = Worker::new(
        shared.clone(),
        Client::new(endpoint, None),
        facts(),
        semconv::resource("ultra-test"),
    );
    // On this thread, where the log is caught.
    let worker = tokio::spawn(worker.run());

    for dropped in 1..=3 {
        shared.push(Call::new(&trace()));
        eventually("a span is given up", || shared.dropped.load(Ordering::Relaxed) == dropped)
            .await;
    }
    let mut collector = Collector::start_at(address).await;
    for _ in 0..3 {
        shared.push(Call::new(&trace()));
        collector.traces().await;
    }
    shared.stop.cancel();
    worker.await.unwrap();

    let lines = log.lines("ultra::telemetry");
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert!(lines[0].contains("WARN") && lines[0].contains("does not take spans"), "{lines:#?}");
    assert!(lines[0].contains("Connection refused"), "{lines:#?}");
    assert!(
        lines[1].contains("INFO") && lines[1].contains("takes spans again, 3 spans were dropped"),
        "{lines:#?}"
    );
}

async fn tls(protocol: OtlpProtocol) {
    let mut collector = Collector::start_tls().await;
    let endpoint = format!("https://localhost:{}", collector.address.port());
    let config = settings(endpoint, protocol);
    let trusting =
        Exporter::start_with(&config, facts(), hasty(), Some(collector::roots())).unwrap();
    let strict = Exporter::start_with(&config, facts(), hasty(), None).unwrap();

    trusting.span(&trace());
    strict.span(&trace());

    collector.traces().await;
    eventually("the export is counted", || trusting.health().exported == 1).await;
    eventually("the certificate is refused", || strict.health().traces_error.is_some()).await;
    let error = strict.health().traces_error.unwrap();
    assert!(error.contains("invalid peer certificate"), "{error}");
}

#[tokio::test]
async fn tls_is_spoken_over_grpc_to_collectors_with_a_trusted_certificate() {
    tls(Grpc).await;
}

#[tokio::test]
async fn tls_is_spoken_over_http_to_collectors_with_a_trusted_certificate() {
    tls(HttpProtobuf).await;
}

#[test]
fn nothing_starts_when_the_endpoint_is_no_address() {
    let config = settings("ftp://localhost".into(), Grpc);

    assert!(Exporter::start(&config, facts()).is_none());
}

#[test]
fn switched_off_it_starts_no_thread() {
    alone("switched_off_it_starts_no_thread_alone");
}

#[test]
#[ignore = "alone in its process, by `switched_off_it_starts_no_thread`"]
fn switched_off_it_starts_no_thread_alone() {
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let config = settings("localhost:9".into(), Grpc);
    let before = threads();

    assert!(
        Exporter::start(&Observability { enabled: false, ..config.clone() }, facts()).is_none()
    );
    assert_eq!(threads(), before);

    let _exporter = Exporter::start(&config, facts()).unwrap();
    assert_eq!(threads(), before + 1);
}

#[test]
fn log_has_one_line_per_change() {
    alone("log_has_one_line_per_change_alone");
}

/// Runs an ignored test in a process of its own: threads and log lines belong to the whole process.
fn alone(test: &str) {
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("telemetry::tests::{test}"), "--ignored", "--test-threads=1"])
        .output()
        .unwrap();

    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
fn failures_have_the_types_of_the_conventions() {
    for (trace, error_type, code, message) in [
        (
            failed(None, Some(r#"{"content":[{"type":"text","text":"no"}],"isError":true}"#)),
            "tool_error",
            None,
            "",
        ),
        (
            failed(None, Some(r#"{"code":-32602,"message":"no s3cret"}"#)),
            "-32602",
            Some("-32602"),
            "no [redacted]",
        ),
        (failed(Some("gone"), Some(r#"{"code":-32000}"#)), "-32000", Some("-32000"), "gone"),
        (
            failed(Some("denied by `guard`: s3cret"), None),
            "_OTHER",
            None,
            "denied by `guard`: [redacted]",
        ),
        (failed(Some("odd"), Some("[1]")), "_OTHER", None, "odd"),
        (failed(None, Some(r#"{"code":"x"}"#)), "_OTHER", None, ""),
    ] {
        let span = span_of(&trace);

        let status = span.status.clone().unwrap();
        assert_eq!((status.code, &*status.message), (2, message), "{trace:?}");
        assert_eq!(attribute(&span, "error.type").as_deref(), Some(error_type), "{trace:?}");
        assert_eq!(attribute(&span, "rpc.response.status_code").as_deref(), code, "{trace:?}");
    }
}

/// The host knows more than a reply shows, such as that a call ran out of time.
#[test]
fn a_field_named_like_an_attribute_takes_its_place() {
    let mut trace = failed(Some("no answer within 60 s"), None);
    trace.metadata = vec![
        ("error.type".into(), FieldValue::Text("timeout".into())),
        ("ultra.upstream".into(), FieldValue::Text("forged".into())),
    ];

    let span = span_of(&trace);

    assert_eq!(attribute(&span, "error.type").as_deref(), Some("timeout"));
    assert_eq!(attribute(&span, "ultra.upstream").as_deref(), Some("files"));
}

#[test]
fn names_and_targets_follow_the_method() {
    for (method, name, span_name, target) in [
        ("tools/call", "read", "tools/call read", "gen_ai.tool.name=read"),
        ("prompts/get", "review", "prompts/get review", "gen_ai.prompt.name=review"),
        (
            "resources/read",
            "file:///s3cret",
            "resources/read",
            "mcp.resource.uri=file:///[redacted]",
        ),
        ("resources/subscribe", "file:///a", "resources/subscribe", "mcp.resource.uri=file:///a"),
        ("completion/complete", "review", "completion/complete", "ultra.target=review"),
    ] {
        let span = span_of(&Trace { method: method.into(), name: Some(name.into()), ..trace() });

        assert_eq!(span.name, span_name);
        assert!(lines(&span.attributes).contains(&target.to_owned()), "{span:?}");
        assert_eq!(attribute(&span, "gen_ai.operation.name").is_some(), method == "tools/call");
    }
}

#[test]
fn a_root_span_has_no_remote_parent() {
    let span = span_of(&Trace { parent_span_id: None, ..trace() });

    assert_eq!((span.parent_span_id.as_slice(), span.flags), (&[][..], 0x101));
}

#[test]
fn texts_are_cut_and_secrets_at_the_cut_are_not_split() {
    let uri = format!("{}s3cret{}", "ü".repeat(510), "x".repeat(10_000));
    let trace =
        Trace { method: "resources/read".into(), name: Some(uri.as_str().into()), ..trace() };

    let sent = attribute(&span_of(&trace), "mcp.resource.uri").unwrap();

    assert_eq!(sent, format!("{}[red", "ü".repeat(510)));
}

#[test]
fn streams_beyond_the_limit_share_one() {
    let mut meters = Meters::new(1);
    for index in 0..2_010 {
        meters.add(&counter("tool_call", &format!("tool-{index}"), 1));
    }

    let metrics = meters.collect(2);

    let Some(metric::Data::Sum(sum)) = &metrics[0].data else { panic!("{metrics:?}") };
    assert_eq!(sum.data_points.len(), 2_001);
    let overflow = sum.data_points.last().unwrap();
    assert_eq!(lines(&overflow.attributes), ["otel.metric.overflow=true"]);
    assert_eq!(overflow.value, Some(number_data_point::Value::AsInt(10)));
}

#[test]
fn an_instrument_with_new_bounds_starts_anew() {
    let mut meters = Meters::new(1);
    meters.add(&duration(0.2, vec![1, 0, 1]));
    let mut finer = duration(0.3, vec![0, 1]);
    if let MetricValue::Histogram { bounds, .. } = &mut finer.value {
        *bounds = Arc::from([0.5]);
    }
    meters.add(&finer);

    let metrics = meters.collect(u64::MAX);

    let Some(metric::Data::Histogram(histogram)) = &metrics[0].data else { panic!("{metrics:?}") };
    let point = &histogram.data_points[0];
    assert_eq!((point.count, &point.bucket_counts[..]), (1, &[0, 1][..]));
    assert!(point.start_time_unix_nano > 1);
}

#[test]
fn endpoints_are_read_or_refused_with_a_reason() {
    for (endpoint, protocol, expected) in [
        ("localhost:4317", Grpc, Ok(())),
        ("http://host:4317", Grpc, Ok(())),
        ("http://host:4317/", Grpc, Ok(())),
        ("https://host", Grpc, Ok(())),
        ("[::1]:4317", Grpc, Ok(())),
        ("http://host:4318/otlp", HttpProtobuf, Ok(())),
        ("", Grpc, Err("must name a collector")),
        ("http://", Grpc, Err("no URL")),
        ("ftp://host", Grpc, Err("`http` or `https`")),
        ("http://me:pw@host", Grpc, Err("observability.headers")),
        ("http://host/otlp", Grpc, Err("gRPC takes no path")),
        ("http://host/?a=b", HttpProtobuf, Err("no query")),
        ("a b", Grpc, Err("no URL")),
    ] {
        let outcome = check(&settings(endpoint.into(), protocol));

        match expected {
            Ok(()) => assert_eq!(outcome, Ok(()), "{endpoint}"),
            Err(reason) => {
                let error = outcome.unwrap_err().to_string();
                assert!(error.contains(reason), "{endpoint}: {error}");
            }
        }
    }
}

#[test]
fn headers_of_the_protocol_are_refused() {
    for name in ["content-type", "Host", "te", "grpc-timeout", "key-bin", "no space"] {
        let mut config = settings("localhost".into(), Grpc);
        config.headers = [(name.to_owned(), "v".to_owned())].into();

        assert!(matches!(check(&config), Err(EndpointError::Header { .. })), "{name}");
    }
}

#[tokio::test]
async fn a_path_is_a_base_path() {
    for (path, expected) in [
        ("", "/v1/traces"),
        ("/", "/v1/traces"),
        ("/otlp", "/otlp/v1/traces"),
        ("/otlp/", "/otlp/v1/traces"),
        ("/otlp/v1/traces", "/otlp/v1/traces"),
        ("/v1/metrics", "/v1/traces"),
    ] {
        let mut collector = Collector::start().await;
        let endpoint = format!("http://{}{path}", collector.address);
        let exporter =
            Exporter::start_with(&settings(endpoint, HttpProtobuf), facts(), hasty(), None)
                .unwrap();

        exporter.span(&trace());

        let Received { path, .. } = collector.received().await;
        assert_eq!(path, expected);
    }
}
