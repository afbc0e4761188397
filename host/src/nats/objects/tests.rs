//! The object store of large snapshots, against real servers.

use super::*;
use crate::nats::ConnectOptions;
use crate::nats::api::NoArguments;
use crate::nats::testing::{Release, TestServer, in_time, options};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * i % 251) as u8).collect()
}

async fn messages(objects: &Objects) -> u64 {
    let info: Value =
        objects.inner.nats.api(&format!("STREAM.INFO.{}", objects.inner.stream), &NoArguments {}).await.unwrap();
    info["state"]["messages"].as_u64().unwrap()
}

#[tokio::test]
async fn what_is_put_is_read_back_whole_and_nothing_is_left_of_what_is_deleted() {
    for release in Release::ALL {
        let server = TestServer::start(release).await;
        let nats = server.connect().await;
        let (objects, warnings) = Objects::open(&nats, "snapshots", 1).await.unwrap();
        assert_eq!(warnings, []);
        let key = "odd key.*>=Ω";
        let name = |epoch: u64, digest: &str| format!("{key}/{epoch}/{digest}");
        for (n, size) in [(1, 0), (2, 1), (3, CHUNK), (4, 3 * CHUNK + 7)] {
            objects.put(&name(n, "a"), &bytes(size)).await.unwrap();
            assert_eq!(objects.get(&name(n, "a")).await, Ok(bytes(size)), "{size} bytes on {release:?}");
        }
        // Once more under the same name, as after an answer that was lost.
        objects.put(&name(4, "a"), &bytes(3 * CHUNK + 7)).await.unwrap();
        assert_eq!(objects.get(&name(4, "a")).await, Ok(bytes(3 * CHUNK + 7)));
        // NATS' own tools can read it.
        let theirs = nats.inner.jetstream.get_object_store("snapshots").await.unwrap();
        let mut read = Vec::new();
        theirs.get(name(4, "a")).await.unwrap().read_to_end(&mut read).await.unwrap();
        assert_eq!(read, bytes(3 * CHUNK + 7));

        objects.put("another/2/a", &bytes(9)).await.unwrap();
        objects.put(&name(5, "b"), &bytes(9)).await.unwrap();
        objects.delete(key, &[name(5, "b"), name(5, "never")], Some(Epoch(4))).await.unwrap();
        for gone in [name(2, "a"), name(3, "a"), name(5, "b")] {
            assert!(matches!(objects.get(&gone).await, Err(ObjectError::Missing { .. })), "{gone}");
        }
        assert_eq!(objects.get(&name(4, "a")).await, Ok(bytes(3 * CHUNK + 7)));
        assert_eq!(objects.get("another/2/a").await, Ok(bytes(9)));
        objects.delete(key, &[name(4, "a"), name(1, "a")], None).await.unwrap();
        objects.delete("another", &[], Some(Epoch(3))).await.unwrap();
        assert_eq!(messages(&objects).await, 0, "on {release:?}");
    }
}

#[tokio::test]
async fn half_an_object_is_never_taken_for_a_whole_one_and_is_cleared_away_with_the_rest() {
    let server = TestServer::start(Release::Newest).await;
    let nats = server.connect().await;
    let (objects, _) = Objects::open(&nats, "snapshots", 1).await.unwrap();
    // Killed in the midst of a put.
    let chunk = objects.chunks(&format!("{}.lost", objects.place("p/1/a").unwrap()));
    nats.publish_and_confirm(&chunk, PublishMessage::build().payload("half".into())).await.unwrap();
    assert!(matches!(objects.get("p/1/a").await, Err(ObjectError::Missing { .. })));
    objects.delete("p", &[], Some(Epoch(2))).await.unwrap();
    assert_eq!(messages(&objects).await, 0);

    objects.put("p/2/a", &bytes(2 * CHUNK)).await.unwrap();
    let ask = json!({ "seq": 2, "no_erase": true });
    let _: Value = nats.api("STREAM.MSG.DELETE.OBJ_snapshots", &ask).await.unwrap();
    assert!(matches!(objects.get("p/2/a").await, Err(ObjectError::Damaged { .. })));
    let odd = objects.put("no name", b"x").await;
    assert!(matches!(odd, Err(ObjectError::Failed { why: ApiError::Failed(_), .. })), "{odd:?}");
}

#[tokio::test]
async fn a_bucket_that_is_deleted_is_an_error_that_names_it_and_is_made_anew() {
    let server = TestServer::start(Release::Newest).await;
    let nats = server.connect().await;
    let (objects, _) = Objects::open(&nats, "snapshots", 1).await.unwrap();
    objects.put("p/1/a", b"state").await.unwrap();
    let _: Value = nats.api("STREAM.DELETE.OBJ_snapshots", &NoArguments {}).await.unwrap();
    let error = objects.get("p/1/a").await.unwrap_err();
    assert!(error.to_string().contains("snapshots"), "{error}");
    in_time(async {
        while let Err(error) = objects.put("p/1/b", b"state").await {
            assert!(matches!(error, ObjectError::Failed { .. }), "{error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let error = objects.get("p/1/a").await.unwrap_err();
    assert!(matches!(&error, ObjectError::Missing { .. }) && error.to_string().contains("--discard-state"), "{error}");
}

/// The network to a server. It can break in the middle of what the client says, or carry nothing back any more.
struct Wire {
    url: String,
    line: Arc<Line>,
}

struct Line {
    /// Bytes from the client that have reached the server.
    passed: AtomicU64,
    /// After so many of them the connection breaks, once.
    breaks_at: AtomicU64,
    /// After so many of them the client hears nothing more, as long as the connection lasts.
    deaf_at: AtomicU64,
}

/// Never.
const NEVER: u64 = u64::MAX;

impl Wire {
    async fn to(server: &TestServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("nats://{}", listener.local_addr().unwrap());
        let target = server.url().trim_start_matches("nats://").to_owned();
        let line = Line { passed: 0.into(), breaks_at: NEVER.into(), deaf_at: NEVER.into() };
        let line = Arc::new(line);
        let carried = Arc::clone(&line);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (line, server) = (Arc::clone(&carried), TcpStream::connect(&target).await.unwrap());
                tokio::spawn(async move { line.carry(client, server).await });
            }
        });
        Self { url, line }
    }

    fn passed(&self) -> u64 {
        self.line.passed.load(SeqCst)
    }

    fn break_after(&self, bytes: u64) {
        self.line.breaks_at.store(self.passed() + bytes, SeqCst);
    }

    fn deafen_after(&self, bytes: u64) {
        self.line.deaf_at.store(self.passed() + bytes, SeqCst);
    }

    /// Breaks what there is; new connections carry everything.
    fn heal(&self) {
        self.line.deaf_at.store(NEVER, SeqCst);
        self.break_after(1);
    }
}

impl Line {
    async fn carry(&self, client: TcpStream, server: TcpStream) {
        let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
            (client.into_split(), server.into_split());
        let up = async {
            let mut buffer = vec![0; 16 << 10];
            while let Ok(n @ 1..) = from_client.read(&mut buffer).await {
                let room = self.breaks_at.load(SeqCst).saturating_sub(self.passed.load(SeqCst));
                let n = n.min(usize::try_from(room).unwrap_or(usize::MAX));
                if to_server.write_all(&buffer[..n]).await.is_err() {
                    return;
                }
                self.passed.fetch_add(n as u64, SeqCst);
                if n as u64 == room {
                    self.breaks_at.store(NEVER, SeqCst);
                    return;
                }
            }
        };
        let down = async {
            let mut buffer = vec![0; 16 << 10];
            while let Ok(n @ 1..) = from_server.read(&mut buffer).await {
                if self.passed.load(SeqCst) >= self.deaf_at.load(SeqCst) {
                    std::future::pending::<()>().await;
                }
                if to_client.write_all(&buffer[..n]).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = up => {}
            () = down => {}
        }
    }
}

/// Waits until the connection works.
async fn connected(nats: &Nats) {
    in_time(async { while nats.round_trip().await.is_err() {} }).await;
}

/// So many messages the bucket has ever held.
async fn ever_stored(nats: &Nats) -> u64 {
    let info: Value = nats.api("STREAM.INFO.OBJ_snapshots", &NoArguments {}).await.unwrap();
    info["state"]["last_seq"].as_u64().unwrap()
}

/// So many chunks of this object the bucket holds, whole or not.
async fn chunks(nats: &Nats, name: &str) -> u64 {
    let (key, rest) = name.split_once('/').unwrap();
    let filter = format!("$O.snapshots.C.{}.{}.>", URL_SAFE_NO_PAD.encode(key), rest.replace('/', "."));
    let info: Value = nats.api("STREAM.INFO.OBJ_snapshots", &json!({ "subjects_filter": filter })).await.unwrap();
    info["state"]["subjects"].as_object().into_iter().flatten().map(|(_, count)| count.as_u64().unwrap()).sum()
}

#[tokio::test]
async fn a_put_that_is_cut_off_leaves_nothing_behind_unless_something_may_name_it() {
    for release in Release::ALL {
        let server = TestServer::start(release).await;
        let wire = Wire::to(&server).await;
        let nats = ConnectOptions { operation_timeout: Duration::from_millis(500), ..options(&wire.url) };
        let (nats, direct) = (Nats::connect(nats).await.unwrap(), server.connect().await);
        let (objects, _) = Objects::open(&nats, "snapshots", 1).await.unwrap();
        let data = bytes(4 * CHUNK);
        let before = wire.passed();
        objects.put("p/1/kept", &data).await.unwrap();
        let whole = wire.passed() - before;
        // What names the object is cut, and cannot have arrived: but that is not known here.
        wire.break_after(whole - 60);
        objects.put("p/1/half", &data).await.unwrap_err();
        // It has arrived, and only the answer is lost.
        connected(&nats).await;
        wire.deafen_after(whole - 60);
        objects.put("p/1/done", &data).await.unwrap_err();
        wire.heal();
        // The connection breaks in the first chunk, at a later one, in the last.
        let chunk = CHUNK as u64;
        for (name, cut) in [("p/1/cut1", chunk / 2), ("p/1/cut2", chunk * 5 / 2), ("p/1/cut3", chunk * 7 / 2)] {
            connected(&nats).await;
            let before = ever_stored(&direct).await;
            wire.break_after(cut);
            objects.put(name, &data).await.unwrap_err();
            in_time(async {
                while chunks(&direct, name).await > 0 {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            })
            .await;
            assert_eq!(ever_stored(&direct).await - before, cut / chunk, "chunks of {name} were there");
        }
        // Nothing that is named, or may be, has gone with them.
        assert_eq!((chunks(&direct, "p/1/half").await, chunks(&direct, "p/1/done").await), (4, 4), "{release:?}");
        for name in ["p/1/kept", "p/1/done"] {
            assert_eq!(objects.get(name).await.as_ref(), Ok(&data), "{name} on {release:?}");
        }
        // Until their names are deleted.
        let names = ["p/1/kept", "p/1/half", "p/1/done"].map(str::to_owned);
        objects.delete("p", &names, None).await.unwrap();
        assert_eq!(messages(&objects).await, 0, "on {release:?}");
    }
}

#[tokio::test]
async fn who_waits_for_a_turn_waits_only_so_long_and_says_what_for() {
    let server = TestServer::start(Release::Newest).await;
    let limits = ConnectOptions { operation_timeout: Duration::from_millis(200), ..options(&server.url()) };
    let nats = Nats::connect(limits).await.unwrap();
    let (objects, _) = Objects::open(&nats, "snapshots", 1).await.unwrap();
    let others = objects.inner.transfers.acquire_many(u32::try_from(TRANSFERS).unwrap()).await.unwrap();
    let error = in_time(objects.put("p/1/a", b"state")).await.unwrap_err();
    assert!(matches!(error, ObjectError::Crowded { waited, .. } if waited == nats.operation_timeout()), "{error:?}");
    assert!(error.to_string().contains("8 other snapshots are on their way"), "{error}");
    let error = in_time(Box::pin(objects.get("p/1/a"))).await.unwrap_err();
    let patience = nats.operation_timeout() * READ_PATIENCE;
    assert!(matches!(error, ObjectError::Crowded { waited, .. } if waited == patience), "{error:?}");
    assert_eq!(messages(&objects).await, 0);
    drop(others);
    objects.put("p/1/a", b"state").await.unwrap();
    assert_eq!(objects.get("p/1/a").await, Ok(b"state".to_vec()));
}
