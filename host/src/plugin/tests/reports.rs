//! What plugins say of themselves, and what they are told about where they run.

use super::*;
use crate::telemetry::{Format, Metrics, WorkerLabel};
use parti_coordination::Epoch;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

fn reporter(home: Home, limits: Limits) -> Arc<HandlerPlugin> {
    let engine = PluginEngine::new().unwrap().at(home);
    HandlerPlugin::load(&engine, "reporter", &component("reporter"), settings(limits, Map::new())).unwrap()
}

#[tokio::test]
async fn a_handler_knows_where_and_for_whom_it_runs() {
    let worker = WorkerLabel::default();
    worker.set("worker-7");
    let home = Home { worker, group: "demo".to_owned(), stream: Some("work".to_owned()), ..Home::default() };
    let plugin = reporter(home, Limits::default());
    let ownership = Ownership { epoch: Some(Epoch(9)), ..Ownership::default() };
    let mut instance = plugin.open(&partition("a"), OpenReason::Assigned, None, &ownership).await.unwrap();
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = vec![("Traceparent".into(), trace.as_bytes())];
    let batch = [message(1, "where"), Message { headers, ..message(2, "where") }];
    let handled = instance.handle(&batch).await.unwrap();
    let said: Vec<&[u8]> = handled.publishes.iter().map(|publish| &*publish.payload).collect();
    let here = "worker-7 demo Some(\"work\") Some(9)";
    assert_eq!(said, [format!("{here} None true"), format!("{here} Some(\"{trace}\") true")].map(String::into_bytes));

    // As in a rehearsal.
    let handled = open(&plugin).await.unwrap().handle(&[message(1, "where")]).await.unwrap();
    assert_eq!(handled.publishes[0].payload, "worker-7 demo Some(\"work\") None None true");
}

#[tokio::test]
async fn metrics_of_all_instances_add_up_and_are_shown_by_the_worker() {
    let metrics = Metrics::new(WorkerLabel::default()).unwrap();
    let home = Home { metrics: metrics.declared.clone(), ..Home::default() };
    let plugin = reporter(home, Limits { metric_series: 10, ..Limits::default() });
    for _ in 0..2 {
        let mut instance = open(&plugin).await.unwrap();
        instance.handle(&[message(1, "count a a b")]).await.unwrap();
    }
    let text = metrics.render(Format::Text).unwrap();
    for line in [
        r#"plugin_reporter_done_total{worker_id="",word="a"} 4"#,
        r#"plugin_reporter_done_total{worker_id="",word="b"} 2"#,
        r#"plugin_reporter_size_bytes_bucket{worker_id="",le="100"} 2"#,
        r#"plugin_reporter_last_sequence{worker_id=""} 1"#,
    ] {
        assert!(text.lines().any(|shown| shown == line), "{text}");
    }

    // Four series so far.
    open(&plugin).await.unwrap().handle(&[message(5, "series 1000")]).await.unwrap();
    assert_eq!(plugin.version().stats().metric_values_dropped, 994);
    let text = metrics.render(Format::Text).unwrap();
    assert_eq!(text.lines().filter(|line| line.starts_with("plugin_reporter_done_total{")).count(), 8);
}

#[tokio::test]
async fn a_handler_that_nobody_waits_for_is_told_so() {
    let plugin = reporter(Home::default(), Limits { call_timeout: Duration::from_secs(60), ..Limits::default() });
    let ownership = Ownership { cancelled: Arc::new(AtomicBool::new(false)), ..Ownership::default() };
    let mut instance = plugin.open(&partition("a"), OpenReason::Assigned, None, &ownership).await.unwrap();
    let batch = [message(1, "linger")];
    let mut call = Box::pin(instance.handle(&batch));
    assert!(futures::poll!(call.as_mut()).is_pending());
    ownership.cancelled.store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(call.await.unwrap().outcome.retry, Some(None));
}

#[tokio::test]
async fn a_line_without_end_is_cut_on_every_way_to_the_log() {
    let plugin = reporter(Home::default(), Limits { memory: 512 << 20, ..Limits::default() });
    let subscriber = tracing_subscriber::fmt().with_writer(std::io::sink).finish();
    let _default = tracing::subscriber::set_default(subscriber);
    open(&plugin).await.unwrap().handle(&[message(1, "log 1000000")]).await.unwrap();
    assert_eq!(plugin.version().stats().log_lines_cut, 2);
    // Through the log interface, a line is one argument of a call of the host.
    let refused = open(&plugin).await.unwrap().handle(&[message(1, "log 100000000")]).await.unwrap_err();
    assert!(refused.to_string().contains("handler.limits.hostCallBytes"), "{refused}");
}
