//! Devices that send records and heartbeats.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use tokio::task::JoinSet;
use ultra_tests::hub::Device;

use crate::Times;

/// A device that is told to come back later waits as long as the Hub says and up to a quarter more, as gateways
/// do.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// One that got no answer, or came too often, waits so long.
const PAUSE: Duration = Duration::from_millis(20);

/// Records of a batch of what happens now.
const LIVE: u64 = 5;

/// What was kept was recorded in so much time.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// What there is when pages are opened was recorded in so many days, by so many gateways of each task.
const FILLED: Duration = Duration::from_secs(30 * 24 * 3600);
const FILLING: u64 = 12;

/// A deploy key links so many gateways at once, before it has to wait.
pub(crate) const LINKED_BY_KEY: usize = 900;

/// Where devices come from: a Hub, and keys to link them with.
#[derive(Clone)]
pub(crate) struct Fleet {
    pub(crate) hub: String,
    pub(crate) keys: Arc<[String]>,
    pub(crate) linked: Arc<AtomicUsize>,
}

impl Fleet {
    /// Links devices with connections of their own.
    async fn link(&self, count: u32, name: &str) -> Vec<Device> {
        let mut devices = Vec::new();
        for number in 0..count {
            let client = ultra_tests::hub::client().build().expect("a client");
            devices.push(self.link_one(client, &format!("{name}-{number}")).await);
        }
        devices
    }

    /// Links devices that share their connections: more than can be open at a time.
    async fn link_many(&self, count: u32, name: &str) -> Vec<Device> {
        let client = ultra_tests::hub::client().build().expect("a client");
        let mut devices = Vec::new();
        for number in 0..count {
            devices.push(self.link_one(client.clone(), &format!("{name}-{number}")).await);
        }
        devices
    }

    async fn link_one(&self, client: reqwest::Client, name: &str) -> Device {
        let linked = self.linked.fetch_add(1, Ordering::Relaxed);
        let key = &self.keys[linked / LINKED_BY_KEY % self.keys.len()];
        Device::link_over(client, &self.hub, key, name).await
    }
}

/// Sends until it is taken.
async fn send(device: &Device, body: &[u8], times: &mut Times) {
    loop {
        let begun = Instant::now();
        match device.send(body.to_vec()).await {
            Some((200, _)) => {
                times.note(begun);
                return;
            }
            Some((503, _)) => {
                let pause = RETRY_AFTER.mul_f64(1.0 + rand::random::<f64>() / 4.0);
                tokio::time::sleep(pause).await;
            }
            Some((429, _)) | None => tokio::time::sleep(PAUSE).await,
            Some((status, answer)) => panic!("{status} {answer}"),
        }
    }
}

pub(crate) async fn full_speed(fleet: &Fleet, devices: u32, batch: u64, time: Duration) -> Value {
    let mut tasks = JoinSet::new();
    let begun = Instant::now();
    let taken = Arc::new(AtomicU64::new(0));
    for device in fleet.link(devices, "load").await {
        let taken = Arc::clone(&taken);
        tasks.spawn(async move {
            let mut times = Times::default();
            let mut first = 1;
            while begun.elapsed() < time {
                let body = device.traces(first, batch);
                send(&device, &body, &mut times).await;
                first += batch as i64;
                taken.fetch_add(batch, Ordering::Relaxed);
            }
            times
        });
    }
    let mut times = Times::default();
    while let Some(done) = tasks.join_next().await {
        times.add(done.expect("a device"));
    }
    let rate = taken.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64();
    json!({"records_per_s": rate.round(), "acks": times.report()})
}

pub(crate) async fn backlog(fleet: &Fleet, devices: u32, records: u64) -> Value {
    let live = fleet.link(10, "live").await;
    let late = kept(fleet.link(devices, "late").await, records).await;
    let alone = live_lane(&live, 1, Duration::from_secs(10), None).await;
    let over = Arc::new(AtomicBool::new(false));
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for (device, bodies) in late {
        tasks.spawn(async move {
            let mut times = Times::default();
            for body in bodies {
                send(&device, &body, &mut times).await;
            }
            times
        });
    }
    let lane = {
        let (live, over) = (live.clone(), Arc::clone(&over));
        let first = 1_000_000;
        tokio::spawn(
            async move { live_lane(&live, first, Duration::from_secs(3600), Some(over)).await },
        )
    };
    let mut times = Times::default();
    while let Some(done) = tasks.join_next().await {
        times.add(done.expect("a device"));
    }
    let took = begun.elapsed();
    over.store(true, Ordering::Relaxed);
    let meanwhile = lane.await.expect("the live lane");
    json!({
        "backlog_records": u64::from(devices) * records,
        "caught_up_s": took.as_secs_f64().round(),
        "live_alone": alone.report(),
        "live_meanwhile": meanwhile.report(),
        "backlog_acks": times.report(),
    })
}

/// Makes the batches of so many records that devices kept: these machines have other things to do when
/// batches are sent.
async fn kept(devices: Vec<Device>, records: u64) -> Vec<(Device, Vec<Vec<u8>>)> {
    let begun = SystemTime::now() - KEPT;
    let at = move |seq: i64| begun + KEPT.mul_f64(seq as f64 / records as f64);
    let bodies = move |device: Device| {
        let counts =
            (1..=records).step_by(1000).map(|first| (first, 1000.min(records + 1 - first)));
        let bodies =
            counts.map(|(first, count)| device.traces_at(first as i64, count, at)).collect();
        (device, bodies)
    };
    let made =
        devices.into_iter().map(|device| tokio::task::spawn_blocking(move || bodies(device)));
    let mut all = Vec::new();
    for made in made.collect::<Vec<_>>() {
        all.push(made.await.expect("batches"));
    }
    all
}

/// Each device sends a few records every second.
async fn live_lane(
    devices: &[Device],
    first: i64,
    time: Duration,
    over: Option<Arc<AtomicBool>>,
) -> Times {
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for device in devices {
        let (device, over) = (device.clone(), over.clone());
        tasks.spawn(async move {
            let mut times = Times::default();
            let mut first = first;
            let mut ticks = tokio::time::interval(Duration::from_secs(1));
            while begun.elapsed() < time
                && !over.as_ref().is_some_and(|over| over.load(Ordering::Relaxed))
            {
                ticks.tick().await;
                send(&device, &device.traces(first, LIVE), &mut times).await;
                first += LIVE as i64;
            }
            times
        });
    }
    let mut times = Times::default();
    while let Some(done) = tasks.join_next().await {
        times.add(done.expect("a device"));
    }
    times
}

pub(crate) async fn heartbeats(fleet: &Fleet, devices: u32, time: Duration, pids: &[u32]) -> Value {
    let devices = fleet.link(devices, "beat").await;
    let period = Duration::from_secs(30);
    let begun = Instant::now();
    let before = cpu(pids);
    let count = devices.len() as u32;
    let mut tasks = JoinSet::new();
    for (number, device) in devices.into_iter().enumerate() {
        tasks.spawn(async move {
            let mut times = Times::default();
            // Spread over the period, as jitter spreads them.
            tokio::time::sleep(period * number as u32 / count).await;
            let mut ticks = tokio::time::interval(period);
            let process = uuid::Uuid::now_v7().to_string();
            while begun.elapsed() < time {
                ticks.tick().await;
                let sent = Instant::now();
                match device.heartbeat(&process).await {
                    Some((200, _)) => times.note(sent),
                    other => panic!("{other:?}"),
                }
            }
            times
        });
    }
    tokio::time::sleep(time).await;
    let spent = cpu(pids).saturating_sub(before);
    let share = spent.as_secs_f64() / begun.elapsed().as_secs_f64();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut times = Times::default();
    while let Some(done) = tasks.join_next().await {
        times.add(done.expect("a device"));
    }
    json!({
        "percent_of_machine": (share / cores as f64 * 10_000.0).round() / 100.0,
        "cores": cores,
        "acks": times.report(),
    })
}

/// Returns the time on a processor that processes had, with all that they started.
fn cpu(pids: &[u32]) -> Duration {
    let mut ticks = 0;
    let mut family: Vec<u32> = pids.to_vec();
    let mut next = 0;
    while let Some(pid) = family.get(next).copied() {
        next += 1;
        let Some(stat) = stat(pid) else { continue };
        // Its own, and that of children that ended.
        ticks += stat.iter().skip(11).take(4).sum::<u64>();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let children = children.unwrap_or_default();
        family.extend(children.split(' ').filter_map(|child| child.parse::<u32>().ok()));
    }
    // Linux counts in hundredths of a second, whatever the kernel's own clock.
    Duration::from_millis(ticks * 10)
}

/// Returns what stands behind the name of a process in its `stat`, its state first.
fn stat(pid: u32) -> Option<Vec<u64>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    Some(rest.split(' ').map(|field| field.parse().unwrap_or_default()).collect())
}

/// Fills a Hub: so many gateways, some of which have so many traces together, of a month.
pub(crate) async fn fill(fleet: &Fleet, traces: u64, gateways: u32) {
    const SENDING: u64 = 8;
    let mut tasks = JoinSet::new();
    let begun = SystemTime::now() - FILLED;
    for part in 0..SENDING {
        let fleet = fleet.clone();
        let gateways = (gateways / SENDING as u32).max(FILLING as u32);
        tasks.spawn(async move {
            let devices = fleet.link_many(gateways, &format!("fill-{part}")).await;
            for device in &devices {
                // A third of them is not there.
                if device.database.as_bytes().last().is_some_and(|last| last % 3 != 0) {
                    device.heartbeat(&uuid::Uuid::now_v7().to_string()).await;
                }
            }
            let mut times = Times::default();
            let records = traces / SENDING / FILLING;
            let at = |seq: i64| begun + FILLED.mul_f64(seq as f64 / records as f64);
            for first in (1..=records).step_by(1000) {
                for device in devices.iter().take(FILLING as usize) {
                    let count = 1000.min(records + 1 - first);
                    let body = device.traces_at(first as i64, count, at);
                    send(device, &body, &mut times).await;
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("a device");
    }
}
