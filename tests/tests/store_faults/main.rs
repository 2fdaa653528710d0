//! Whatever happens to the state on the disk, the agent starts, the live tables hold the right entries at every look,
//! traffic that may pass passes, other traffic does not, and the status says what became of the state.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod cache;
mod damage;
mod live;
mod world;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime},
};

use damage::{Damage, KINDS};
use world::World;

use weir_tests::node::{
    Node, WEB, rounds,
    traffic::{Stream, Way},
};

fn seed() -> u64 {
    match std::env::var("WEIR_SEED") {
        Ok(text) => text.parse().unwrap(),
        Err(_) => SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs(),
    }
}

#[test]
fn no_damage_of_the_state_is_felt_by_the_traffic() {
    Node::run(|node| {
        let (count, seed) = (rounds(15, 105, 1005), seed());
        println!("campaign: {count} rounds, seed {seed}");
        let mut world = World::new(node, seed);
        let open = Way { from: "client", to: "web", address: WEB[0], port: 80 };
        let allowed = Stream::start(node, open, Duration::from_millis(2), true);
        let allowed6 = Stream::start(node, Way { address: WEB[1], ..open }, Duration::from_millis(5), true);
        let denied = Stream::start(node, Way { port: 81, ..open }, Duration::from_millis(2), false);

        let mut times: BTreeMap<Damage, Vec<Duration>> = BTreeMap::new();
        for round in 0..count {
            let damage = KINDS[round as usize % KINDS.len()];
            let begun = Instant::now();
            world.round(round, damage);
            println!("{:.2?} {}", begun.elapsed(), world.last());
            times.entry(damage).or_default().push(begun.elapsed());
        }

        let denied = denied.finish();
        assert!(denied.sent > 100);
        assert_eq!(denied.received, 0, "denied throughout: {denied:?}");
        for (family, account) in [("IPv4", allowed.finish()), ("IPv6", allowed6.finish())] {
            println!("{family}: {} sent, {} received", account.sent, account.received);
            assert!(account.lost.is_empty(), "allowed throughout: {} of {} lost", account.lost.len(), account.sent);
        }
        for (damage, times) in &mut times {
            times.sort();
            println!("{damage:?}: {} times, {:.2?} median", times.len(), times[times.len() / 2]);
        }
        println!("{}", world.finish());
    });
}
