//! What plugins say of themselves in the worker's metrics, and what the worker tells them of where they run.

use async_nats::HeaderMap;
use parti_tests::{Fleet, NatsServer, eventually, eventually_is, messages, read_stream, subject};

const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[tokio::test]
async fn a_handler_shows_its_numbers_beside_the_worker_s_and_knows_whom_it_works_for() {
    let (server, context) = NatsServer::with_streams(&["work", "out"]).await;
    let mut fleet = Fleet::new(&server, 4, "reporter");
    fleet.start_settled(1).await;
    let mut headers = HeaderMap::new();
    headers.insert("traceparent", TRACE);
    let sent = context.publish_with_headers(subject(0), headers, "where".into()).await.expect("a publish");
    sent.await.expect("a confirmation");
    eventually_is("an answer", 1, async || messages(&context, "out").await).await;
    let said = String::from_utf8(read_stream(&context, "out").await[0].payload.to_vec()).expect("text");
    assert_eq!(said, format!("worker-0 default Some(\"work\") Some(1) Some(\"{TRACE}\") true"));

    for n in 0..4 {
        let sent = context.publish(subject(n), "count a a b".into()).await.expect("a publish");
        sent.await.expect("a confirmation");
    }
    // All instances of a worker count together.
    for (word, count) in [("a", 8), ("b", 4)] {
        let series = format!(r#"plugin_reporter_done_total{{word="{word}"}}"#);
        eventually_is(&series, count, async || fleet.sum(&series).await).await;
    }
    let page = eventually("the worker's metrics", async || fleet.workers[0].get("/metrics").await).await;
    assert!(page.body.contains("# HELP plugin_reporter_done_total Messages by what they say."), "{}", page.body);
}
