//! Random faults on a fleet and its servers, one after the other, each undone after a while.
//!
//! The same seed gives the same faults in the same order at the same times; what they hit depends on who is there.

use crate::artifacts::{copy_plugin, replace, variant};
use crate::cluster::NatsCluster;
use crate::fleet::Fleet;
use crate::folder::Folder;
use crate::proxy::Proxy;
use crate::server::NatsServer;
use async_nats::jetstream::Context;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::{Instant, sleep_until};

/// Milliseconds from one fault to the next.
const EVERY: RangeInclusive<u64> = 1000..=2000;

/// Workers that run when nothing is broken.
const WORKERS: usize = 5;

/// Most workers that are broken at once.
const BROKEN: usize = 3;

/// How long the servers stay whole at least: nobody is judged dead before a leader has seen them whole for `heartbeatTtl`.
const WHOLE: Duration = Duration::from_secs(12);

/// Which faults there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deck {
    /// Every kind.
    Full,
    /// Half of them are swaps; the others kill and cut workers, and make the fleet larger and smaller.
    Swaps,
}

impl Deck {
    fn cards(self) -> Vec<Kind> {
        match self {
            Self::Full => FULL.to_vec(),
            Self::Swaps => SWAPS.to_vec(),
        }
    }
}

/// What can happen, as often as it is written here.
const FULL: [Kind; 16] = [
    Kind::Kill,
    Kind::Kill,
    Kind::Kill,
    Kind::ShortPause,
    Kind::ShortPause,
    Kind::LongPause,
    Kind::Cut,
    Kind::Cut,
    Kind::Stall,
    Kind::Mute,
    Kind::Join,
    Kind::Leave,
    Kind::Leave,
    Kind::Server,
    Kind::Swap,
    Kind::Swap,
];

/// The same, where it is about swaps.
const SWAPS: [Kind; 8] =
    [Kind::Swap, Kind::Swap, Kind::Swap, Kind::Swap, Kind::Kill, Kind::Cut, Kind::Join, Kind::Leave];

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// SIGKILL of a worker, and a new process.
    Kill,
    /// SIGSTOP of a worker, shorter than any lease, then SIGCONT.
    ShortPause,
    /// The same, longer than every lease.
    LongPause,
    /// The connections of a worker are reset, and refused for a while.
    Cut,
    /// The connections of a worker stand and pass nothing.
    Stall,
    /// A worker hears and is not heard.
    Mute,
    /// A further worker joins.
    Join,
    /// A worker leaves gracefully.
    Leave,
    /// A server is killed and started again with its data: in a cluster, the one that leads a stream.
    Server,
    /// Another version of the handler comes into the plugin directory: a good one, or one whose every call fails.
    Swap,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::ShortPause => "short pause",
            Self::LongPause => "long pause",
            Self::Cut => "cut",
            Self::Stall => "stall",
            Self::Mute => "mute",
            Self::Join => "join",
            Self::Leave => "leave",
            Self::Server => "server",
            Self::Swap => "swap",
        }
    }

    /// How many milliseconds it lasts.
    fn lasts(self) -> RangeInclusive<u64> {
        match self {
            // Until a new process starts.
            Self::Kill | Self::Leave => 0..=3000,
            Self::ShortPause => 200..=4000,
            // `workerIdTtl` is 30 s by default.
            Self::LongPause => 32_000..=36_000,
            Self::Cut | Self::Stall | Self::Mute => 300..=12_000,
            Self::Join | Self::Swap => 0..=0,
            Self::Server => 100..=3000,
        }
    }
}

/// What ends a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Undo {
    Start,
    Thaw(usize),
    Heal(usize),
    Server(usize),
}

/// The servers of a fleet.
pub enum Servers {
    /// A single one. Workers reach it through proxies.
    One(NatsServer),
    /// A cluster. Workers connect to all of it themselves.
    Cluster(NatsCluster),
}

impl Servers {
    /// Where they listen, separated by commas.
    #[must_use]
    pub fn urls(&self) -> String {
        match self {
            Self::One(server) => server.url(),
            Self::Cluster(cluster) => cluster.urls(),
        }
    }

    /// A connection to them.
    pub async fn jetstream(&self) -> Context {
        match self {
            Self::One(server) => server.jetstream().await,
            Self::Cluster(cluster) => cluster.jetstream().await,
        }
    }

    /// Kills a server, and tells which.
    async fn kill(&mut self, context: &Context, stream: &str) -> Option<usize> {
        match self {
            Self::One(server) => {
                server.kill();
                Some(0)
            }
            Self::Cluster(cluster) => {
                let leader = cluster.leader(context, stream).await?;
                cluster.kill(leader);
                Some(leader)
            }
        }
    }

    async fn restart(&mut self, number: usize) {
        match self {
            Self::One(server) => server.restart().await,
            Self::Cluster(cluster) => cluster.restart(number).await,
        }
    }
}

/// What is known of a worker.
struct Seat {
    proxy: Option<Proxy>,
    is_broken: bool,
    is_leaving: bool,
}

/// The versions of a handler that follow each other.
struct Versions {
    folder: Folder,
    plugin: String,
    good: Vec<u8>,
    /// It opens for every state, and every call of it fails.
    bad: Vec<u8>,
    count: usize,
}

impl Versions {
    fn of(plugin: &str) -> Self {
        let (good, bad) = (copy_plugin(plugin), copy_plugin("too-many"));
        let versions = Self { folder: Folder::new(), plugin: plugin.to_owned(), good, bad, count: 0 };
        versions.put(&versions.good);
        versions
    }

    /// Puts the next one into the plugin directory.
    fn swap(&mut self, to_a_good_one: bool) {
        self.count += 1;
        let component = if to_a_good_one { &self.good } else { &self.bad };
        self.put(&variant(component, self.count));
    }

    fn put(&self, component: &[u8]) {
        replace(self.folder.path(), &format!("{}.wasm", self.plugin), component);
    }
}

/// A fleet with faults.
pub struct Faults {
    /// The fleet.
    pub fleet: Fleet,
    /// Its servers.
    pub servers: Servers,
    context: Context,
    versions: Versions,
    random: StdRng,
    cards: Vec<Kind>,
    deck: Vec<Kind>,
    seats: Vec<Seat>,
    undo: Vec<(Instant, Undo)>,
    /// When the next server may be killed; nothing while one is down.
    server_from: Option<Instant>,
    counts: BTreeMap<Kind, u64>,
    begun: Instant,
    story: Vec<String>,
}

impl Faults {
    /// Starts the workers, which have this handler, and waits until each is ready.
    pub async fn start(fleet: Fleet, servers: Servers, plugin: &str, deck: Deck, seed: u64) -> Self {
        let (context, versions) = (servers.jetstream().await, Versions::of(plugin));
        let mut faults = Self {
            fleet: fleet.with(json!({ "plugins": { "directory": versions.folder.path() } })),
            servers,
            context,
            versions,
            random: StdRng::seed_from_u64(seed),
            cards: deck.cards(),
            // So that it is over before the end of a short run.
            deck: deck.cards().into_iter().filter(|kind| *kind == Kind::LongPause).collect(),
            seats: Vec::new(),
            undo: Vec::new(),
            server_from: Some(Instant::now()),
            counts: BTreeMap::new(),
            begun: Instant::now(),
            story: Vec::new(),
        };
        for _ in 0..WORKERS {
            faults.add_worker().await;
        }
        for worker in &faults.fleet.workers {
            worker.ready().await;
        }
        faults.begun = Instant::now();
        faults
    }

    async fn add_worker(&mut self) {
        let proxy = match &self.servers {
            Servers::One(server) => Some(Proxy::to(server).await),
            Servers::Cluster(_) => None,
        };
        match &proxy {
            Some(proxy) => self.fleet.start_behind(proxy),
            None => self.fleet.start(),
        };
        self.seats.push(Seat { proxy, is_broken: false, is_leaving: false });
    }

    /// Lets faults happen for this long, then undoes all that are left. Panics if a worker ends that nobody has ended.
    pub async fn run(&mut self, time: Duration) {
        let end = Instant::now() + time;
        let mut next = Instant::now();
        loop {
            let undo = self.undo.iter().map(|(at, _)| *at).min();
            let at = undo.into_iter().fold(next, Instant::min);
            if at >= end {
                break;
            }
            sleep_until(at).await;
            self.look_after();
            if undo == Some(at) {
                let place = self.undo.iter().position(|(due, _)| *due == at).expect("what is due");
                let (_, undo) = self.undo.swap_remove(place);
                self.undo(undo).await;
            } else {
                self.strike().await;
                next = at + self.milliseconds(EVERY);
            }
        }
        sleep_until(end).await;
        for (_, undo) in std::mem::take(&mut self.undo) {
            self.undo(undo).await;
        }
    }

    /// The sum of a series over the workers that run and stay.
    pub async fn sum(&self, series: &str) -> u64 {
        let mut sum = 0;
        for worker in self.present() {
            sum += self.fleet.workers[worker].metric(series).await;
        }
        sum
    }

    /// How many faults of each kind there were, by name.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.counts.iter().map(|(kind, count)| (kind.name(), *count)).collect()
    }

    /// How long after the beginning a moment was that is told as time since 1970.
    #[must_use]
    pub fn after(&self, moment: Duration) -> f64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
        self.begun.elapsed().as_secs_f64() - (now.as_secs_f64() - moment.as_secs_f64())
    }

    /// What happened, with the seconds since the beginning.
    #[must_use]
    pub fn story(&self) -> &[String] {
        &self.story
    }

    /// Waits until everybody who was asked to leave has left. Who is kept by faults from handing over within `shutdownTimeout` says
    /// so; what it held is taken over.
    pub async fn leavers_have_left(&mut self) {
        for worker in self.fleet.running() {
            if self.seats[worker].is_leaving {
                let process = &mut self.fleet.workers[worker];
                let status = process.exit().await;
                let is_late = status == Some(1) && process.log().contains("ErrShutdownTimeout");
                assert!(status == Some(0) || is_late, "process {worker} has left with {status:?}");
            }
        }
    }

    /// Asks everybody to leave, and waits for them.
    pub async fn end(&mut self) {
        for worker in self.present() {
            self.fleet.workers[worker].terminate();
            self.seats[worker].is_leaving = true;
        }
        self.leavers_have_left().await;
    }

    fn milliseconds(&mut self, range: RangeInclusive<u64>) -> Duration {
        Duration::from_millis(self.random.random_range(range))
    }

    fn note(&mut self, text: &str) {
        self.story.push(format!("[T+{:5.1}s] {text}", self.begun.elapsed().as_secs_f64()));
    }

    /// Starts workers again that gave up because faults kept them from becoming ready for as long as `startupTimeout`, as a
    /// supervisor does. Panics if one has ended for another reason.
    fn look_after(&mut self) {
        for worker in self.present() {
            let process = &mut self.fleet.workers[worker];
            if process.has_ended() {
                assert!(process.log().contains("ErrStartupTimeout"), "process {worker} has ended by itself");
                process.kill();
                self.note(&format!("process {worker} has given up: it was not ready in time"));
                self.undo.push((Instant::now(), Undo::Start));
            }
        }
    }

    /// Workers that run and stay.
    fn present(&self) -> Vec<usize> {
        self.fleet.running().into_iter().filter(|worker| !self.seats[*worker].is_leaving).collect()
    }

    /// Workers that nothing is wrong with, unless as many as may be are broken.
    fn victims(&self) -> Vec<usize> {
        let (broken, whole): (Vec<_>, Vec<_>) =
            self.present().into_iter().partition(|worker| self.seats[*worker].is_broken);
        if broken.len() < BROKEN && whole.len() > 1 { whole } else { Vec::new() }
    }

    /// The next fault that is possible now, if one is.
    async fn strike(&mut self) {
        if self.deck.is_empty() {
            self.deck.clone_from(&self.cards);
            self.deck.shuffle(&mut self.random);
        }
        for place in (0..self.deck.len()).rev() {
            let kind = self.deck[place];
            if self.happen(kind).await {
                self.deck.remove(place);
                *self.counts.entry(kind).or_default() += 1;
                return;
            }
        }
    }

    /// Whether it could happen.
    async fn happen(&mut self, kind: Kind) -> bool {
        let lasts = self.milliseconds(kind.lasts());
        let victim = self.victims().choose(&mut self.random).copied();
        let (what, undo) = match (kind, victim) {
            (Kind::Join, _) if self.present().len() <= WORKERS => {
                self.add_worker().await;
                self.note(&format!("process {} joins", self.seats.len() - 1));
                return true;
            }
            (Kind::Server, _) if self.server_from.is_some_and(|from| from <= Instant::now()) => {
                let streams = ["work", "out", "KV_parti-ownership", "KV_parti-assignments"];
                let stream = *streams.choose(&mut self.random).expect("a stream");
                let Some(server) = self.servers.kill(&self.context, stream).await else { return false };
                self.server_from = None;
                (format!("server {server} is killed"), Undo::Server(server))
            }
            (Kind::Swap, _) => {
                let (number, is_good) = (self.versions.count + 1, self.random.random_bool(0.6));
                self.versions.swap(is_good);
                self.note(&format!(
                    "version {number} of the handler comes; it {}",
                    if is_good { "does" } else { "fails" }
                ));
                return true;
            }
            (Kind::Join | Kind::Server, _) | (_, None) => return false,
            (Kind::Kill, Some(worker)) => {
                self.fleet.workers[worker].kill();
                (format!("process {worker} is killed"), Undo::Start)
            }
            (Kind::Leave, Some(worker)) => {
                self.fleet.workers[worker].terminate();
                self.seats[worker].is_leaving = true;
                let replaced = self.present().len() < WORKERS;
                self.note(&format!("process {worker} leaves"));
                if replaced {
                    self.undo.push((Instant::now() + lasts, Undo::Start));
                }
                return true;
            }
            (Kind::ShortPause | Kind::LongPause, Some(worker)) => {
                self.fleet.workers[worker].freeze();
                self.seats[worker].is_broken = true;
                (format!("process {worker} is frozen"), Undo::Thaw(worker))
            }
            (Kind::Cut | Kind::Stall | Kind::Mute, Some(worker)) => {
                let Some(proxy) = &self.seats[worker].proxy else { return false };
                match kind {
                    Kind::Cut => proxy.cut(),
                    Kind::Stall => proxy.stall(),
                    _ => proxy.mute(),
                }
                self.seats[worker].is_broken = true;
                (format!("process {worker}: {}", kind.name()), Undo::Heal(worker))
            }
        };
        self.note(&format!("{what} for {:.1} s", lasts.as_secs_f64()));
        self.undo.push((Instant::now() + lasts, undo));
        true
    }

    async fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Start => {
                self.add_worker().await;
                self.note(&format!("process {} starts", self.seats.len() - 1));
            }
            // Frozen processes do not end by themselves.
            Undo::Thaw(worker) => {
                self.fleet.workers[worker].thaw();
                self.seats[worker].is_broken = false;
                self.note(&format!("process {worker} runs on"));
            }
            Undo::Heal(worker) => {
                self.seats[worker].proxy.iter().for_each(Proxy::heal);
                self.seats[worker].is_broken = false;
                self.note(&format!("process {worker} is connected again"));
            }
            Undo::Server(server) => {
                self.servers.restart(server).await;
                self.server_from = Some(Instant::now() + WHOLE);
                self.note(&format!("server {server} is back"));
            }
        }
    }
}
