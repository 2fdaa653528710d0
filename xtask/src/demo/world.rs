//! A node, two endpoints, a client and somebody unwanted outside, as network namespaces.
//!
//! Runs inside mount and network namespaces of its own: the outer network namespace is the node. `/run` is a file
//! system in memory, so names of namespaces, sockets and state are gone with the process, however it ends.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use super::{
    probe::Service,
    table::{Cell, Column, Table},
};
use crate::{command::Call, failure::Failure};

/// Everything that the demo writes.
pub const DIRECTORY: &str = "/run/weir-demo";
const BPFFS: &str = "/sys/fs/bpf";
/// The node's devices towards the outside: who is there, and the node's own addresses on it.
const UPLINKS: [(&str, Place, [&str; 2]); 2] = [
    ("uplink0", Place::Client, ["192.0.2.1", "2001:db8:0:1::1"]),
    ("uplink1", Place::Scanner, ["198.51.100.1", "2001:db8:bad::1"]),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Outside, and welcome.
    Client,
    /// Outside, in the networks of the drop list.
    Scanner,
    Web,
    Db,
    Node,
}

impl Place {
    pub const ALL: [Self; 5] = [Self::Client, Self::Scanner, Self::Web, Self::Db, Self::Node];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Scanner => "scanner",
            Self::Web => "web",
            Self::Db => "db",
            Self::Node => "node",
        }
    }

    /// As in `examples/quickstart`.
    const fn addresses(self) -> [&'static str; 2] {
        match self {
            Self::Client => ["192.0.2.10", "2001:db8:0:1::10"],
            Self::Scanner => ["198.51.100.66", "2001:db8:bad::66"],
            Self::Web => ["10.10.0.2", "fd00:10::2"],
            Self::Db => ["10.10.0.3", "fd00:10::3"],
            Self::Node => ["192.0.2.1", "2001:db8:0:1::1"],
        }
    }

    /// `call`, where this place is.
    fn inside(self, program: &Path) -> Call {
        match self {
            Self::Node => Call::new(program),
            _ => Call::new("ip").args(["netns", "exec", self.name()]).args([program]),
        }
    }
}

/// The running world; its servers end when it is dropped.
pub struct World {
    servers: Vec<Child>,
    program: PathBuf,
    /// What a BPF file system holds when it is new: some kernels put iterators there.
    pins: Vec<PathBuf>,
}

impl World {
    /// Makes the node, the client and the two empty namespaces that Weir is to attach.
    pub fn build(program: &Path) -> Result<Self, Failure> {
        let run = |line: &str| {
            let words: Vec<&str> = line.split(' ').collect();
            Call::new(words[0]).args(&words[1..]).show().run()
        };
        run("mount -t tmpfs tmpfs /run")?;
        run(&format!("mount -t bpf bpf {BPFFS}"))?;
        let directory = Path::new(DIRECTORY);
        fs::create_dir_all(directory).map_err(Failure::file("making", directory))?;
        run("ip link set lo up")?;
        run("sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")?;
        for place in [Place::Client, Place::Scanner, Place::Web, Place::Db] {
            run(&format!("ip netns add {}", place.name()))?;
            run(&format!("ip -netns {} link set lo up", place.name()))?;
        }
        for (uplink, outside, gateway) in UPLINKS {
            let name = outside.name();
            run(&format!("ip link add {uplink} type veth peer name eth0 netns {name}"))?;
            for (netns, device, [v4, v6]) in
                [(String::new(), uplink, gateway), (format!("-netns {name} "), "eth0", outside.addresses())]
            {
                run(&format!("ip {netns}address add {v4}/24 dev {device}"))?;
                run(&format!("ip {netns}address add {v6}/64 dev {device} nodad"))?;
                run(&format!("ip {netns}link set {device} up"))?;
            }
            for address in gateway {
                run(&format!("ip -netns {name} route add default via {address}"))?;
            }
        }
        Ok(Self { servers: Vec::new(), program: program.to_owned(), pins: entries(Path::new(BPFFS))? })
    }

    /// Starts a server at `place` for each of its columns.
    pub fn serve(&mut self, place: Place, columns: &[Column]) -> Result<(), Failure> {
        let services: Vec<String> =
            columns.iter().filter(|column| column.to == place).map(|column| column.service.to_string()).collect();
        if services.is_empty() {
            return Ok(());
        }
        let mut command = match place {
            Place::Node => Command::new(&self.program),
            _ => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", place.name()]).arg(&self.program);
                command
            }
        };
        command.arg("serve").args(&services).stdin(Stdio::piped()).stdout(Stdio::piped());
        let start = |cause| Failure::Start { program: format!("the servers of {}", place.name()), cause };
        let mut child = command.spawn().map_err(start)?;
        let mut ready = String::new();
        if let Some(stdout) = child.stdout.take() {
            BufReader::new(stdout).read_line(&mut ready).map_err(start)?;
        }
        self.servers.push(child);
        if ready.trim() == "ready" {
            println!("{} answers on {}", place.name(), services.join(", "));
            return Ok(());
        }
        Err(Failure::Machine(format!("the servers of {} did not start", place.name())))
    }

    /// Every place asks every other, in both families, all at once.
    pub fn who_reaches_whom(&self, columns: &[Column]) -> Result<Table, Failure> {
        let mut rows = Vec::new();
        for place in Place::ALL {
            let asked = columns.iter().filter(|column| column.to != place);
            let targets: Vec<String> = asked
                .flat_map(|column| column.to.addresses().map(|address| format!("{address},{}", column.service)))
                .collect();
            let text = place.inside(&self.program).args(["probe"]).args(&targets).text()?;
            let mut answers = text.lines().map(|line| line == "yes");
            let mut next = || answers.next().unwrap_or(false);
            let cell = |column: &Column| (column.to != place).then(|| Cell { v4: next(), v6: next() });
            rows.push((place, columns.iter().map(cell).collect()));
        }
        Ok(Table { columns: columns.to_vec(), rows })
    }

    /// Devices and filters that were not there before Weir came.
    pub fn residue(&self) -> Result<Vec<String>, Failure> {
        let mut residue = Vec::new();
        for (place, expected) in
            [(Place::Node, &["lo", "uplink0", "uplink1"][..]), (Place::Web, &["lo"]), (Place::Db, &["lo"])]
        {
            let text = place.inside(Path::new("ip")).args(["-brief", "link"]).text()?;
            for device in text.lines().filter_map(|line| line.split([' ', '@']).next()) {
                if !expected.contains(&device) {
                    residue.push(format!("device {device} in {}", place.name()));
                }
            }
        }
        let attached = Call::new("bpftool").args(["-j", "net", "list"]).text()?;
        if attached.contains("\"id\":") || attached.contains("\"prog_id\":") {
            residue.push(format!("attached programs: {}", attached.trim()));
        }
        let qdiscs = Call::new("tc").args(["qdisc", "show"]).text()?;
        residue.extend(qdiscs.lines().filter(|line| line.contains("clsact")).map(|line| format!("qdisc {line}")));
        let left = entries(Path::new(BPFFS))?.into_iter().filter(|pin| !self.pins.contains(pin));
        residue.extend(left.map(|pin| format!("pin {}", pin.display())));
        Ok(residue)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for mut server in self.servers.drain(..) {
            // Its standard input ends, and then it does; killed all the same, so that nothing waits for it.
            drop(server.stdin.take());
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

/// The services that the table asks for.
pub fn columns() -> Vec<Column> {
    let column = |to, service| Column { to, service };
    vec![
        column(Place::Web, Service::Tcp(80)),
        column(Place::Web, Service::Tcp(8080)),
        column(Place::Web, Service::Ping),
        column(Place::Db, Service::Tcp(5432)),
        column(Place::Db, Service::Udp(53)),
        column(Place::Client, Service::Tcp(443)),
        column(Place::Node, Service::Tcp(22)),
    ]
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let entries = fs::read_dir(directory).map_err(Failure::file("reading", directory))?;
    Ok(entries.flatten().map(|entry| entry.path()).collect())
}
