use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{self, File},
    path::PathBuf,
    time::{Duration, Instant},
};

use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use weir_tests::node::{Agent, ENDPOINTS, Node, Ran, eventually};

use crate::{
    damage::{self, Damage},
    live::Watch,
};

/// Documents beyond those of the node and its two endpoints.
const REMOTE: usize = 24;
const FILTERS: usize = 16;
const POLICIES: usize = 16;

/// Larger than any state here, small enough to be filled in a moment.
const DISK: &str = "size=48m";

/// A node with a state of its own file system, an agent, and a watch on the live tables.
pub struct World<'a> {
    node: &'a Node,
    random: fastrand::Rng,
    agent: Option<Agent>,
    watch: Watch,
    /// What the one filter that changes says now.
    edition: u32,
    backup: PathBuf,
    /// What happened in the last round.
    last: String,
    /// How often the status told of what.
    /// Where the log of the agent that runs begins.
    logged: usize,
    told: BTreeMap<&'static str, u32>,
}

pub fn mount_state(node: &Node) {
    fs::create_dir_all(node.state()).unwrap();
    mount(Some("tmpfs"), &node.state(), Some("tmpfs"), MsFlags::empty(), Some(DISK)).unwrap();
}

/// Every object in a file of its own.
pub fn write_documents(node: &Node) {
    node.write("node.yaml", ENDPOINTS);
    node.write("node2.yaml", "apiVersion: weir/v1alpha1\nkind: Node\nmetadata: {name: node2}\nspec: {addresses: [192.0.2.2], endpointCIDRs: [10.20.0.0/24]}\n");
    for n in 0..REMOTE {
        node.write(
            &format!("endpoints/remote-{n:02}.yaml"),
            &format!(
                "apiVersion: weir/v1alpha1\nkind: Endpoint\nmetadata: {{name: remote-{n:02}, labels: {{app: remote, \
                 shard: s{n}}}}}\nspec: {{node: node2, addresses: [10.20.0.{}], attach: {{netns: remote-{n:02}}}}}\n",
                n + 10
            ),
        );
    }
    for n in 0..FILTERS {
        let mut text = filter(&format!("drop-{n:02}"));
        for entry in 0..8 {
            writeln!(text, "  - 203.{n}.{entry}.0/24").unwrap();
        }
        node.write(&format!("filters/drop-{n:02}.yaml"), &text);
    }
    for n in 0..POLICIES {
        let target = if n % 2 == 0 { "web" } else { "db" };
        node.write(
            &format!("policies/shard-{n:02}.yaml"),
            &format!(
                "apiVersion: weir/v1alpha1\nkind: NetworkPolicy\nmetadata: {{name: shard-{n:02}}}\nspec:\n  \
                 endpointSelector: {{matchLabels: {{app: {target}}}}}\n  ingress:\n  - fromEndpoints: [{{matchLabels: \
                 {{shard: s{n}}}}}]\n    toPorts: [{{ports: [{{port: {}, protocol: TCP}}]}}]\n",
                8000 + n
            ),
        );
    }
    node.write(
        "policies/open.yaml",
        r"
apiVersion: weir/v1alpha1
kind: NetworkPolicy
metadata: {name: open}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
  - fromCIDR: [192.0.2.0/24, '2001:db8:0:1::/64']
    toPorts: [{ports: [{port: 80, protocol: UDP}]}]
",
    );
    edit(node, 0);
}

fn filter(name: &str) -> String {
    format!(
        "apiVersion: weir/v1alpha1\nkind: CidrFilter\nmetadata: {{name: {name}}}\nspec:\n  interfaces: \
         [uplink0]\n  cidrs:\n"
    )
}

/// The one entry that changes.
fn entry(edition: u32) -> String {
    let [.., high, low] = edition.to_be_bytes();
    format!("204.{high}.{low}.0/24")
}

fn edit(node: &Node, edition: u32) {
    node.write("filters/edited.yaml", &format!("{}  - {}\n", filter("edited"), entry(edition)));
}

impl<'a> World<'a> {
    pub fn new(node: &'a Node, seed: u64) -> Self {
        mount_state(node);
        write_documents(node);
        let agent = node.agent(&["--verify", "2s", "--catch-up", "1s"]);
        eventually("the agent converges", || (agent.status()["state"] == "converged").then_some(()));
        let watch = Watch::start(node);
        let backup = node.directory().join("backup");
        damage::copy(&node.state(), &backup);
        let random = fastrand::Rng::with_seed(seed);
        let mut world = Self {
            node,
            random,
            agent: Some(agent),
            watch,
            edition: 0,
            backup,
            last: String::new(),
            logged: 0,
            told: BTreeMap::new(),
        };
        // One that was copied while it was written to may be damaged as well; a whole one is more of a trap.
        world.stop();
        damage::clear(&world.backup);
        damage::copy(&node.state(), &world.backup);
        world.start();
        // Whoever is asked to stop before it listens just ends.
        eventually("the agent answers", || world.status("at first").map(drop));
        world
    }

    pub fn round(&mut self, round: u32, damage: Damage) {
        self.stop();
        // Told apart from those of earlier rounds.
        for quarantine in self.quarantines() {
            fs::remove_dir_all(quarantine).unwrap();
        }
        let state = self.node.state();
        if round % 20 == 19 {
            damage::clear(&self.backup);
            damage::copy(&state, &self.backup);
        }
        let edited = self.random.u8(..3) == 0;
        if edited {
            let (former, next) = (self.edition, self.edition + 1);
            self.edition = next;
            self.watch.allow(&format!("filter {}", entry(former)), &format!("filter {}", entry(next)));
            edit(self.node, next);
        }
        let mut context = format!("round {round}, {damage:?}, edited: {edited}");
        match damage {
            Damage::FullDisk => self.full(&context),
            Damage::ReadOnly => self.read_only(&context),
            Damage::Lock => self.locked(&context),
            _ => {
                let place = damage::inflict(damage, &state, &self.backup, &mut self.random);
                write!(context, ": {place}").unwrap();
                self.alone(&context);
            }
        }
        if self.agent.is_none() {
            self.start();
        }
        self.converges(&context);
        self.last = context;
    }

    pub fn last(&self) -> &str {
        &self.last
    }

    fn quarantines(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.node.state()).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("quarantine-")).collect()
    }

    fn start(&mut self) {
        self.logged = std::fs::read(self.node.directory().join("agent.log")).map_or(0, |log| log.len());
        self.agent = Some(Agent::spawn(self.node, &["--verify", "2s", "--catch-up", "1s"]));
    }

    /// Asked, or killed.
    fn stop(&mut self) {
        let agent = self.agent.take().unwrap();
        if self.random.bool() {
            assert!(agent.stop().success());
        } else {
            agent.murder();
        }
    }

    /// Sometimes a verb that works alone meets the damage first.
    fn alone(&mut self, context: &str) {
        let words: &[&str] = match self.random.u8(..6) {
            0 => &["apply", "-f", "."],
            1 => &["status", "-o", "json"],
            2 => &["history"],
            3 => &["plan", "-f", "."],
            _ => return,
        };
        let ran = self.node.weir(words);
        assert_eq!(ran.code(), 0, "{context}: {ran}");
        self.told("damage met by a verb alone");
    }

    fn told(&mut self, what: &'static str) {
        *self.told.entry(what).or_default() += 1;
    }

    /// `None`: it does not answer. Panics where it is gone.
    fn status(&mut self, context: &str) -> Option<Value> {
        let agent = self.agent.as_mut().unwrap();
        assert!(agent.runs(), "{context}: the agent did not start:\n{}", agent.log());
        // Without an agent, the verb would work alone, and keep the agent from the state.
        if !self.node.directory().join("agent.sock").exists() {
            return None;
        }
        let ran = self.node.weir(&["status", "-o", "json"]);
        (ran.code() == 0).then(|| ran.json()).filter(|status| !status["agent"].is_null())
    }

    fn converges(&mut self, context: &str) {
        let begun = Instant::now();
        let status = loop {
            let status = self.status(context);
            if let Some(status) = &status
                && status["state"] == "converged"
                && !status["agent"]["revision"].is_null()
                && !status["agent"]["verifiedUnixMs"].is_null()
            {
                break status.clone();
            }
            let log = || self.agent.as_ref().unwrap().log();
            assert!(begun.elapsed() < Duration::from_secs(60), "{context}: does not converge: {status:?}\n{}", log());
            std::thread::sleep(Duration::from_millis(20));
        };
        self.watch.settle(context);
        assert_eq!(status["drift"], 0, "{context}");
        assert!(status["commit"]["sequence"].as_u64().is_some_and(|sequence| sequence > 0), "{context}: {status}");
        let notes = status["notes"].to_string();
        for (sign, what) in [("begins empty", "begun anew"), ("was repaired", "repaired")] {
            if notes.contains(sign) {
                self.told(what);
            }
        }
        // Every quarantine was said by the agent or by the verb that met the damage before it.
        let log = self.agent.as_ref().unwrap().log().split_off(self.logged);
        for quarantine in self.quarantines() {
            let name = quarantine.file_name().unwrap().to_string_lossy().into_owned();
            assert!(!log.contains(&name) || notes.contains(&name), "{context}: {name} is not in the status: {notes}");
        }
    }

    /// Starts on a disk on which nothing can be written, until `mend` is called.
    fn on_a_bad_disk(&mut self, context: &str, mend: impl FnOnce()) {
        self.start();
        // Until it has said what it thinks of that.
        let begun = Instant::now();
        let gone = loop {
            if !self.agent.as_mut().unwrap().runs() {
                break true;
            }
            if let Some(status) = self.status(context)
                && (status["state"] == "converged" || status["state"] == "failing")
            {
                break false;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{context}: the agent says nothing");
            std::thread::sleep(Duration::from_millis(20));
        };
        mend();
        if gone {
            self.told("ended on a bad disk");
            self.agent = None;
        }
    }

    fn full(&mut self, context: &str) {
        let filler = self.node.state().join("filler");
        damage::fill(&filler);
        self.on_a_bad_disk(context, || fs::remove_file(filler).unwrap());
    }

    fn read_only(&mut self, context: &str) {
        let state = self.node.state();
        remount(&state, MsFlags::MS_RDONLY);
        self.on_a_bad_disk(context, || remount(&state, MsFlags::empty()));
    }

    /// Somebody else has the state open: said at once, with its own code, and nothing is touched.
    fn locked(&mut self, context: &str) {
        let lock = self.node.state().join("lock");
        let file = File::options().read(true).write(true).create(true).truncate(false).open(lock).unwrap();
        let held = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno).unwrap();
        let before = self.digest();
        let verb = if self.random.bool() { "apply" } else { "run" };
        let ran: Ran = self.node.weir(&[verb, "-f", "."]);
        assert_eq!(ran.code(), OTHER_WRITER, "{context}: {ran}");
        assert!(ran.stderr.contains("in use by another process"), "{context}: {ran}");
        assert_eq!(self.digest(), before, "{context}: the state was touched");
        drop(held);
        self.told("somebody else's lock respected");
    }

    fn digest(&self) -> Vec<(PathBuf, [u8; 32])> {
        let files = damage::files(&self.node.state());
        files.into_iter().map(|file| (file.clone(), Sha256::digest(fs::read(file).unwrap()).into())).collect()
    }

    pub fn finish(self) -> String {
        let mut text = self.watch.finish();
        for (what, times) in &self.told {
            write!(text, "\n{what}: {times} times").unwrap();
        }
        text
    }
}

/// Exit code.
const OTHER_WRITER: i32 = 75;

fn remount(state: &std::path::Path, flags: MsFlags) {
    // sled's threads may outlive their process by a moment.
    eventually("the state can be remounted", || {
        mount(None::<&str>, state, None::<&str>, MsFlags::MS_REMOUNT | flags, None::<&str>).ok()
    });
}
