//! The Hub as a process, with devices that play gateways: what it takes it keeps, whatever happens to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use ultra_tests::cluster::Cluster;
use ultra_tests::hub::{Device, Hub, Owner, Storage};

/// Times that the Hub is killed.
const KILLS: usize = 50;

/// Times that its database crashes.
const CRASHES: usize = 15;

/// Devices, and the records of each.
const DEVICES: i64 = 4;
const RECORDS: i64 = 4_000;

/// Of one batch at most.
const BATCH: i64 = 120;

/// Returns databases to run a test on: SQLite, and PostgreSQL where it is installed.
async fn storages() -> Vec<Storage> {
    let cluster =
        tokio::task::spawn_blocking(Cluster::shared).await.expect("it starts or is not there");
    let postgres = cluster.map(|cluster| Storage::Postgres(cluster.database()));
    std::iter::once(Storage::Sqlite).chain(postgres).collect()
}

/// Returns all records in runs, cut at random, each one to five times, out of order.
fn batches(random: &mut SmallRng) -> Vec<(i64, u64)> {
    let mut batches = Vec::new();
    for cuts in 0..2 {
        // Cut twice in different ways, so that runs overlap.
        let mut first = 1;
        while first <= RECORDS {
            let count = random.random_range(1..=BATCH).min(RECORDS + 1 - first);
            let times =
                if cuts == 0 { random.random_range(1..=5) } else { random.random_range(0..=1) };
            batches.extend(std::iter::repeat_n((first, count as u64), times));
            first += count;
        }
    }
    // Near each other, as retries are: a stream may have a thousand gaps, not all of them at once.
    for window in batches.chunks_mut(64) {
        window.shuffle(random);
    }
    batches
}

/// Sends everything, and again, until the Hub was killed often enough.
async fn play(device: Device, seed: u64, killed: Arc<AtomicBool>) {
    let mut random = SmallRng::seed_from_u64(seed);
    loop {
        send_all(&device, &mut random).await;
        if killed.load(Ordering::Relaxed) {
            return;
        }
    }
}

/// Sends batches in their order until each was taken; cuts some short on the way.
async fn send_all(device: &Device, random: &mut SmallRng) {
    for (first, count) in batches(random) {
        let body = device.traces(first, count);
        loop {
            if random.random_ratio(1, 20) {
                let cut = random.random_range(0..body.len());
                let refused = device.send(body[..cut].to_vec()).await;
                assert!(
                    refused.is_none_or(|(status, _)| status != 200),
                    "a batch that was cut is taken"
                );
            }
            match device.send(body.clone()).await {
                Some((200, _)) => break,
                // Away, starting, or full.
                None | Some((429 | 503, _)) => tokio::time::sleep(Duration::from_millis(20)).await,
                Some((status, answer)) => panic!("{status} {answer}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_is_killed_again_and_again_has_every_record_once() {
    for storage in storages().await {
        let mut hub = Hub::start(storage.clone());
        let key = Owner::set_up(&hub).await.deploy_key("load").await;
        let (mut tasks, mut devices) = (JoinSet::new(), Vec::new());
        let killed = Arc::new(AtomicBool::new(false));
        for number in 0..DEVICES {
            let device = Device::link(&hub.url(""), &key, &format!("device {number}")).await;
            tasks.spawn(play(device.clone(), number as u64, Arc::clone(&killed)));
            devices.push(device);
        }
        let hub = tokio::task::spawn_blocking(move || {
            let mut random = SmallRng::seed_from_u64(7);
            for _ in 0..KILLS {
                std::thread::sleep(Duration::from_millis(random.random_range(20..300)));
                hub.kill();
                hub.run();
            }
            killed.store(true, Ordering::Relaxed);
            hub
        });
        let hub = hub.await.expect("a Hub that starts each time");
        while let Some(played) = tasks.join_next().await {
            played.expect("a device");
        }

        for device in devices {
            let all = vec![(1, RECORDS)];
            assert_eq!(device.spans("traces").await, all, "what the Hub says that it has");
        }
        let (count, distinct) = counted(&hub, &storage);
        assert_eq!((count, distinct), (DEVICES * RECORDS, DEVICES * RECORDS));
    }
}

/// PostgreSQL ends all connections and recovers; the Hub goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_crashes_again_and_again_has_every_record_once() {
    let started = tokio::task::spawn_blocking(|| Cluster::start(&[])).await;
    let Some(cluster) = started.expect("it starts or is not there") else { return };
    let url = cluster.database();
    let name = url.rsplit('=').next().unwrap_or_default().to_owned();
    let hub = Hub::start(Storage::Postgres(url));
    let key = Owner::set_up(&hub).await.deploy_key("load").await;
    let crashed = Arc::new(AtomicBool::new(false));
    let (mut tasks, mut devices) = (JoinSet::new(), Vec::new());
    for number in 0..DEVICES {
        let device = Device::link(&hub.url(""), &key, &format!("device {number}")).await;
        tasks.spawn(play(device.clone(), 100 + number as u64, Arc::clone(&crashed)));
        devices.push(device);
    }
    let database = name.clone();
    let cluster = tokio::task::spawn_blocking(move || {
        let mut random = SmallRng::seed_from_u64(8);
        for _ in 0..CRASHES {
            std::thread::sleep(Duration::from_millis(random.random_range(100..500)));
            cluster.crash(&database);
        }
        crashed.store(true, Ordering::Relaxed);
        cluster
    });
    let cluster = cluster.await.expect("a server that recovers each time");
    while let Some(played) = tasks.join_next().await {
        played.expect("a device");
    }

    for device in devices {
        assert_eq!(device.spans("traces").await, vec![(1, RECORDS)]);
    }
    let counted = cluster.psql_after_recovery(&name, COUNT);
    assert_eq!(counted, format!("{0}|{0}", DEVICES * RECORDS));
}

/// How many traces there are, and how many different ones.
const COUNT: &str = "SELECT count(*), count(DISTINCT id) FROM traces";

/// Returns how many traces there are, and how many different ones.
fn counted(hub: &Hub, storage: &Storage) -> (i64, i64) {
    let sql = COUNT;
    match storage {
        Storage::Sqlite => {
            let database = rusqlite::Connection::open(hub.database()).expect("the Hub's file");
            database.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).expect("a count")
        }
        Storage::Postgres(url) => {
            let name = url.rsplit('=').next().unwrap_or_default();
            let text = Cluster::shared().expect("it was there").psql(name, sql);
            let (count, distinct) = text.split_once('|').expect("two columns");
            (count.parse().expect("a number"), distinct.parse().expect("a number"))
        }
    }
}
