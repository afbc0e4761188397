//! A guest can harm only itself.

use super::*;
use parti_coordination::{CloseReason, Completed, Outcome};
use std::time::Duration;

fn short() -> Limits {
    Limits { call_timeout: Duration::from_millis(150), ..Limits::default() }
}

const SPIN: &str = "(loop $for-ever (br $for-ever))";
const UNREACHABLE: &str = "(unreachable)";
/// Publish 5 bytes to `out.x`, caused by the message with sequence 1.
const SEND: &str = "(call $send (i64.const 1) (i32.const 128) (i32.const 5) (i32.const 0) (i32.const 0) \
                     (i32.const 128) (i32.const 5) (i32.const 640))";

/// The same, if it is `invalid`; what the refusal says is the error of `open` or `snapshot`.
fn send_and_fail() -> String {
    format!(
        "{SEND} (if (i32.or (i32.eqz (i32.load8_u (i32.const 640))) (i32.load8_u (i32.const 644))) (then (unreachable)))
         (i32.store8 (i32.const 256) (i32.const 1))
         (i32.store (i32.const 260) (i32.load (i32.const 648))) (i32.store (i32.const 264) (i32.load (i32.const 652)))"
    )
}

/// The code, `count` times.
fn repeat(count: u32, code: &str) -> String {
    format!(
        "(global.set $i (i32.const {count}))
         (loop $again {code} (global.set $i (i32.sub (global.get $i) (i32.const 1))) (br_if $again (global.get $i)))"
    )
}

async fn handle(plugin: &HandlerPlugin) -> Result<Handled, CallError> {
    open(plugin).await.unwrap().handle(&messages(3)).await
}

#[tokio::test]
async fn a_busy_guest_does_not_keep_its_neighbour_on_the_same_thread_from_being_served() {
    let engine = PluginEngine::new().unwrap();
    let patient = Limits { call_timeout: Duration::from_secs(30), ..Limits::default() };
    let spinner = load(&engine, patient, &[("handle", SPIN)]);
    let mut neighbour = open(&load(&engine, Limits::default(), &[])).await.unwrap();
    let spinning = tokio::spawn(async move { handle(&spinner).await });
    for _ in 0..10 {
        tokio::task::yield_now().await;
        neighbour.handle(&messages(1)).await.unwrap();
    }
    assert!(!spinning.is_finished());
    spinning.abort();
}

#[tokio::test]
async fn a_busy_guest_is_stopped_at_its_limit_and_the_error_says_where_it_was() {
    let engine = PluginEngine::new().unwrap();
    let spinner = load(&engine, short(), &[("handle", SPIN)]);
    let stopped = handle(&spinner).await.unwrap_err();
    let CallError::Timeout { limit, ref backtrace, .. } = stopped else { panic!("{stopped:?}") };
    assert_eq!(limit, short().call_timeout);
    assert!(backtrace.contains("wasm function"), "{backtrace}");
    assert_eq!(spinner.version().stats().timeouts, 1);
}

#[tokio::test]
async fn a_guest_that_waits_for_ever_in_a_host_call_is_stopped() {
    let engine = PluginEngine::new().unwrap();
    let code = "(call $block (call $subscribe (i64.const 3600000000000)))";
    let stopped = handle(&load(&engine, short(), &[("handle", code)])).await.unwrap_err();
    assert!(matches!(stopped, CallError::Timeout { ref backtrace, .. } if backtrace.is_empty()), "{stopped:?}");
    assert!(stopped.to_string().contains("handler.callTimeout, which is 150ms"), "{stopped}");
}

#[tokio::test]
async fn every_call_is_bounded_from_instantiation_to_close() {
    let engine = PluginEngine::new().unwrap();
    let start = format!("(func $start {SPIN}) (start $start)");
    for place in [("module", start.as_str()), ("open", SPIN)] {
        let stopped = open(&load(&engine, short(), &[place])).await.unwrap_err();
        assert!(matches!(stopped, CallError::Timeout { .. }), "{stopped:?}");
    }
    let mut instance = open(&load(&engine, short(), &[("snapshot", SPIN)])).await.unwrap();
    assert!(matches!(instance.snapshot().await, Err(CallError::Timeout { .. })));
    let instance = open(&load(&engine, short(), &[("close", SPIN)])).await.unwrap();
    assert!(matches!(instance.close(CloseReason::Revoked).await, Err(CallError::Timeout { .. })));
}

#[tokio::test]
async fn a_memory_bomb_is_contained_and_named() {
    let engine = PluginEngine::new().unwrap();
    let code = "(loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) (unreachable)";
    let plugin = load(&engine, Limits::default(), &[("handle", code)]);
    let mut instance = open(&plugin).await.unwrap();
    let stopped = instance.handle(&messages(1)).await.unwrap_err();
    let CallError::Memory { limit, wanted, .. } = stopped else { panic!("{stopped:?}") };
    assert_eq!(limit, 64 << 20);
    assert!(wanted > limit && wanted <= limit + (1 << 20), "{wanted}");
    assert!(stopped.to_string().contains("handler.limits.memory allows 64 MiB"), "{stopped}");
    assert_eq!(plugin.version().stats().instances, 1);
    assert!(plugin.version().stats().memory_bytes <= limit);
    drop(instance);
    assert_eq!(plugin.version().stats(), PluginStats { over_limit: 1, ..PluginStats::default() });
}

#[tokio::test]
async fn a_guest_that_lives_with_less_memory_goes_on() {
    let engine = PluginEngine::new().unwrap();
    let plugin = load(&engine, Limits::default(), &[("handle", "(drop (memory.grow (i32.const 60000)))")]);
    assert_eq!(handle(&plugin).await.unwrap().outcome.done.len(), 3);
}

#[tokio::test]
async fn memory_is_limited_over_all_memories_and_failed_growth_wins_nothing_back() {
    let engine = PluginEngine::new().unwrap();
    // 1 page in the first memory, 1 of at most 10 in the second: 14 pages of 16 remain.
    let limits = Limits { memory: 16 << 16, ..Limits::default() };
    let failing = repeat(20, "(drop (memory.grow $second (i32.const 65000)))");
    let code = format!(
        "(if (i32.eq (memory.grow $second (i32.const 9)) (i32.const -1)) (then (unreachable)))
         (if (i32.eq (memory.grow 0 (i32.const 5)) (i32.const -1)) (then (unreachable)))
         {failing}
         (if (i32.ne (memory.grow 0 (i32.const 1)) (i32.const -1)) (then (return (i32.const 0))))
         (unreachable)"
    );
    let plugin = load(&engine, limits, &[("module", "(memory $second 1 10)"), ("handle", &code)]);
    let stopped = handle(&plugin).await.unwrap_err();
    assert!(matches!(stopped, CallError::Memory { wanted, .. } if wanted == 17 << 16), "{stopped:?}");
}

#[tokio::test]
async fn what_a_component_declares_counts_too() {
    let engine = PluginEngine::new().unwrap();
    let refused = open(&load(&engine, Limits::default(), &[("module", "(memory 2000)")])).await.unwrap_err();
    assert!(matches!(refused, CallError::Memory { .. }), "{refused:?}");
    let refused = open(&load(&engine, Limits::default(), &[("module", "(table 200000 funcref)")])).await.unwrap_err();
    assert!(matches!(refused, CallError::Tables { limit: 100_000, wanted: 200_000, .. }), "{refused:?}");
    let few = Limits { core_instances: 1, ..Limits::default() };
    assert!(matches!(open(&load(&engine, few, &[])).await, Err(CallError::Trap { .. })));
}

#[tokio::test]
async fn a_trap_poisons_its_instance_and_no_other() {
    let engine = PluginEngine::new().unwrap();
    // Traps on batches of two.
    let code = "(if (i32.eq (local.get $length) (i32.const 2)) (then (unreachable)))";
    let plugin = load(&engine, Limits::default(), &[("handle", code)]);
    let (mut first, mut second) = (open(&plugin).await.unwrap(), open(&plugin).await.unwrap());
    first.handle(&messages(1)).await.unwrap();
    let trap = first.handle(&messages(2)).await.unwrap_err();
    let CallError::Trap { ref message, ref backtrace, .. } = trap else { panic!("{trap:?}") };
    assert!(message.contains("unreachable"), "{message}");
    assert!(backtrace.contains("wasm function"), "{backtrace}");
    assert!(matches!(first.handle(&messages(1)).await, Err(CallError::Poisoned { .. })));
    assert!(matches!(first.snapshot().await, Err(CallError::Poisoned { .. })));
    assert!(matches!(first.close(CloseReason::Revoked).await, Err(CallError::Poisoned { .. })));
    second.handle(&messages(1)).await.unwrap();
    assert_eq!(plugin.version().stats().traps, 1);
}

#[tokio::test]
async fn a_call_abandoned_midway_poisons_its_instance() {
    let engine = PluginEngine::new().unwrap();
    let mut instance = open(&load(&engine, Limits::default(), &[("handle", SPIN)])).await.unwrap();
    {
        let batch = messages(1);
        let mut call = Box::pin(instance.handle(&batch));
        assert!(futures::poll!(call.as_mut()).is_pending());
    }
    assert!(matches!(instance.snapshot().await, Err(CallError::Poisoned { .. })));
}

#[tokio::test]
async fn wrong_answers_are_refused_and_the_instance_with_its_state_is_gone() {
    let engine = PluginEngine::new().unwrap();
    let too_many = "(i32.store (i32.const 324) (i32.add (local.get $length) (i32.const 1)))";
    let retry_of_nothing = "(i32.store8 (i32.const 328) (i32.const 1))";
    for (code, part) in [(too_many, "4 messages done in a batch of 3"), (retry_of_nothing, "all 3 messages")] {
        let plugin = load(&engine, Limits::default(), &[("handle", code)]);
        let mut instance = open(&plugin).await.unwrap();
        let refused = instance.handle(&messages(3)).await.unwrap_err();
        assert!(matches!(refused, CallError::WrongAnswer { ref detail, .. } if detail.contains(part)), "{refused:?}");
        assert!(matches!(instance.snapshot().await, Err(CallError::Poisoned { .. })));
        assert_eq!(plugin.version().stats().wrong_answers, 1);
    }
}

#[tokio::test]
async fn a_prefix_with_a_reject_and_a_retry_is_understood() {
    let engine = PluginEngine::new().unwrap();
    let code = "(i32.store (i32.const 320) (i32.const 512)) (i32.store (i32.const 324) (i32.const 2))
                (i32.store8 (i32.const 524) (i32.const 1))
                (i32.store (i32.const 528) (i32.const 144)) (i32.store (i32.const 532) (i32.const 2))
                (i32.store8 (i32.const 328) (i32.const 1)) (i32.store8 (i32.const 336) (i32.const 1))
                (i64.store (i32.const 344) (i64.const 1500))";
    let handled = handle(&load(&engine, Limits::default(), &[("handle", code)])).await.unwrap();
    let done = vec![Completed::Ack, Completed::Reject("no".to_owned())];
    assert_eq!(handled.outcome, Outcome { done, retry: Some(Some(Duration::from_millis(1500))) });
}

#[tokio::test]
async fn an_answer_cannot_make_the_host_allocate_without_bound() {
    let engine = PluginEngine::new().unwrap();
    // 60 MiB of zeroes are 5 million acknowledgements.
    let code = "(drop (memory.grow (i32.const 960)))
                (i32.store (i32.const 320) (i32.const 65536)) (i32.store (i32.const 324) (i32.const 5000000))";
    let refused = handle(&load(&engine, Limits::default(), &[("handle", code)])).await.unwrap_err();
    assert!(
        refused.to_string().contains("handler.limits.hostCallBytes allows in one call or answer, which is 16 MiB"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_guest_that_calls_itself_without_end_traps_on_its_own_stack() {
    let engine = PluginEngine::new().unwrap();
    let down = "(func $down (result i32) (i32.add (call $down) (i32.const 1)))";
    let plugin = load(&engine, Limits::default(), &[("module", down), ("handle", "(drop (call $down))")]);
    let trap = handle(&plugin).await.unwrap_err();
    assert!(
        matches!(trap, CallError::Trap { ref message, .. } if message.contains("call stack exhausted")),
        "{trap:?}"
    );
}

#[tokio::test]
async fn a_guest_cannot_grow_the_host_with_timers() {
    let engine = PluginEngine::new().unwrap();
    let code = repeat(129, "(drop (call $subscribe (i64.const 1)))");
    let refused = handle(&load(&engine, Limits::default(), &[("handle", &code)])).await.unwrap_err();
    assert!(matches!(refused, CallError::Trap { .. }), "{refused:?}");
}

#[tokio::test]
async fn publishes_come_back_in_order_with_their_cause_and_within_limits() {
    let engine = PluginEngine::new().unwrap();
    let plugin = load(&engine, Limits::default(), &[("handle", &repeat(1_500, SEND))]);
    let mut instance = open(&plugin).await.unwrap();
    let handled = instance.handle(&messages(2)).await.unwrap();
    assert_eq!(handled.publishes.len(), 1_000);
    let one = Publish { cause: Sequence(1), subject: "out.x".to_owned(), headers: Vec::new(), payload: "out.x".into() };
    assert!(handled.publishes.iter().all(|publish| *publish == one));
    // The next batch begins anew, and sequence 1 is none of its messages.
    assert_eq!(instance.handle(&[message(2, "")]).await.unwrap().publishes, []);
}

#[tokio::test]
async fn nothing_is_published_outside_a_batch() {
    let engine = PluginEngine::new().unwrap();
    let refused = open(&load(&engine, Limits::default(), &[("open", &send_and_fail())])).await.unwrap_err();
    let CallError::Refused { call: "open", ref reason, .. } = refused else { panic!("{refused:?}") };
    assert!(reason.contains("only while `handle` runs"), "{reason}");
    let mut instance = open(&load(&engine, Limits::default(), &[("snapshot", &send_and_fail())])).await.unwrap();
    let refused = instance.snapshot().await.unwrap_err();
    assert!(matches!(refused, CallError::Refused { call: "snapshot", .. }), "{refused:?}");
    // A refusal is an answer: the instance goes on.
    instance.handle(&messages(1)).await.unwrap();
}

#[tokio::test]
async fn a_flood_of_log_lines_is_dropped_and_counted() {
    let engine = PluginEngine::new().unwrap();
    let code = repeat(1_000, "(call $write (i32.const 4) (i32.const 144) (i32.const 2))");
    let limits = Limits { log_lines_per_second: 0, ..Limits::default() };
    let plugin = load(&engine, limits, &[("handle", &code)]);
    let subscriber = tracing_subscriber::fmt().with_writer(std::io::sink).finish();
    let _default = tracing::subscriber::set_default(subscriber);
    handle(&plugin).await.unwrap();
    assert_eq!(plugin.version().stats().log_lines_dropped, 1_000);
}

#[test]
fn a_component_of_another_draft_is_refused_with_the_reason() {
    let engine = PluginEngine::new().unwrap();
    let text = r#"(component (instance $h) (export "parti:plugin/handler@0.1.0" (instance $h)))"#;
    let load = |limits: Limits| {
        HandlerPlugin::load(&engine, "p", &wat::parse_str(text).unwrap(), settings(limits, Map::new())).unwrap_err()
    };
    let refused = load(Limits::default());
    assert!(matches!(refused, LoadError::Mismatch { .. }), "{refused:?}");
    let refused = load(Limits { component_bytes: 10, ..Limits::default() });
    assert!(refused.to_string().contains("handler.limits.componentBytes allows 10 B"), "{refused}");
}

#[test]
fn bytes_that_only_begin_like_a_component_are_refused() {
    let engine = PluginEngine::new().unwrap();
    let whole = handler(&[("handle", UNREACHABLE)]);
    for length in (0..whole.len()).step_by(97) {
        let refused = HandlerPlugin::load(&engine, "p", &whole[..length], settings(Limits::default(), Map::new()));
        assert!(refused.is_err(), "{length}");
    }
}
