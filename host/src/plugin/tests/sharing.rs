//! Partitions that share an instance share nothing else.

use super::*;
use parti_coordination::CloseReason;
use std::num::NonZeroUsize;

fn shared(plugin: Arc<HandlerPlugin>, instances: usize) -> HandlerInstances {
    HandlerInstances::new(plugin, NonZeroUsize::new(instances))
}

/// `trap` traps on payloads that begin with `trap`, and its state is the number of all others.
fn counting(engine: &PluginEngine) -> Arc<HandlerPlugin> {
    HandlerPlugin::load(engine, "p", &component("trap"), settings(Limits::default(), Map::new())).unwrap()
}

async fn open_in(instances: &HandlerInstances, key: &str) -> HandlerInstance {
    instances.open(&partition(key), OpenReason::Assigned, None, &Ownership::default()).await.unwrap()
}

async fn count(instance: &mut HandlerInstance) -> String {
    String::from_utf8(instance.snapshot().await.unwrap().unwrap().data).unwrap()
}

#[tokio::test]
async fn each_partition_in_a_shared_instance_has_a_state_of_its_own() {
    let plugin = counting(&PluginEngine::new().unwrap());
    let instances = shared(Arc::clone(&plugin), 1);
    let (mut a, mut b) = (open_in(&instances, "a").await, open_in(&instances, "b").await);
    assert_eq!(plugin.version().stats().instances, 1);
    for messages in 1..=3 {
        a.handle(&self::messages(messages)).await.unwrap();
        b.handle(&self::messages(1)).await.unwrap();
    }
    assert_eq!((count(&mut a).await, count(&mut b).await), ("6".to_owned(), "3".to_owned()));
    a.close(CloseReason::Revoked).await.unwrap();
    assert_eq!(count(&mut b).await, "3");
    drop(b);
    assert_eq!((plugin.version().stats().instances, plugin.version().stats().memory_bytes), (0, 0));
}

#[tokio::test]
async fn a_trap_ends_the_instance_for_all_that_share_it_and_is_the_fault_of_one() {
    let plugin = counting(&PluginEngine::new().unwrap());
    let instances = shared(Arc::clone(&plugin), 2);
    let (mut a, mut b, mut c) =
        (open_in(&instances, "a").await, open_in(&instances, "b").await, open_in(&instances, "c").await);
    assert_eq!(plugin.version().stats().instances, 2, "the third is where the fewest are");
    b.handle(&messages(2)).await.unwrap();
    c.handle(&messages(2)).await.unwrap();
    let committed = c.snapshot().await.unwrap();
    assert!(matches!(a.handle(&[message(1, "trap")]).await, Err(CallError::Trap { .. })));
    let lost = c.handle(&messages(1)).await.unwrap_err();
    assert!(matches!(lost, CallError::Lost { .. }), "{lost:?}");
    assert!(matches!(c.snapshot().await, Err(CallError::Lost { .. })));
    assert_eq!(count(&mut b).await, "2", "it shares nothing with the one that trapped");
    let (partition, ownership) = (partition("c"), Ownership::default());
    let again = instances.open(&partition, OpenReason::Recovered, committed.as_ref(), &ownership);
    let mut again = again.await.unwrap();
    assert_eq!(count(&mut again).await, "2");
    assert!(
        matches!(c.close(CloseReason::Lost).await, Err(CallError::Lost { .. })),
        "what is there now is not its own"
    );
    assert_eq!((count(&mut again).await, plugin.version().stats().traps), ("2".to_owned(), 1));
}

#[tokio::test]
async fn a_call_that_is_abandoned_ends_the_instance_for_all_that_share_it() {
    let engine = PluginEngine::new().unwrap();
    let code = "(if (i32.eq (local.get $length) (i32.const 2)) (then (loop $for-ever (br $for-ever))))";
    let instances = shared(load(&engine, Limits::default(), &[("handle", code)]), 1);
    let (mut a, mut b) = (open_in(&instances, "a").await, open_in(&instances, "b").await);
    {
        let batch = messages(2);
        let mut call = Box::pin(a.handle(&batch));
        assert!(futures::poll!(call.as_mut()).is_pending());
    }
    assert!(matches!(b.handle(&messages(1)).await, Err(CallError::Lost { .. })));
    open_in(&instances, "b").await.handle(&messages(1)).await.unwrap();
}

#[tokio::test]
async fn who_leaves_a_shared_instance_leaves_nothing_behind() {
    // More than the handles that one instance may have.
    const COME_AND_GO: usize = 12_000;
    let plugin = counting(&PluginEngine::new().unwrap());
    let instances = shared(Arc::clone(&plugin), 1);
    let mut stays = open_in(&instances, "stays").await;
    let mut memory = 0;
    for n in 0..COME_AND_GO {
        let goes = open_in(&instances, "goes").await;
        match n % 2 {
            0 => goes.close(CloseReason::Revoked).await.unwrap(),
            _ => drop(goes),
        }
        if n == COME_AND_GO / 10 {
            memory = plugin.version().stats().memory_bytes;
        }
    }
    stays.handle(&messages(1)).await.unwrap();
    assert_eq!((count(&mut stays).await, plugin.version().stats().memory_bytes), ("1".to_owned(), memory));
}
