//! Drops on a real veth pair, beside ipset with the same set: live frames from one end, a filter on the other, all of it
//! on one CPU.
use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
    thread,
};

use weir_abi::Address;
use weir_plan::Prefix4;

use crate::{
    Options, cpu,
    flows::Flow,
    measure::{BenchError, Doing, Rounds},
    node::Node,
    prefilter::{Set, flow, tables},
    programs::{Pass, Programs, tcp},
    report::Report,
    sets,
};

const COUNT: usize = 524_288;
const KEYS: u32 = 131_072;

pub(crate) fn run(options: &Options, report: &mut Report) -> Result<(), BenchError> {
    // In a thread of its own: what is measured later may run anywhere.
    let joined = thread::scope(|scope| scope.spawn(|| on_one_cpu(options, report)).join());
    joined.unwrap_or_else(|_| Err(BenchError::Wrong { what: "the drops' thread panicked".to_owned() }))
}

fn on_one_cpu(options: &Options, report: &mut Report) -> Result<(), BenchError> {
    cpu::stay_on_first()?;
    let set = sets::mixed4(COUNT);
    let mut programs = Programs::load(1, 1)?;
    let sources = sets::hits4(&set, KEYS as usize);
    let flows: Vec<Flow> = sources.into_iter().map(|bits| flow(Address::from_v4(bits.to_be_bytes()))).collect();
    programs.set_flows(0, &flows)?;

    // Two pairs, one for each filter.
    let weir = pair("weir-tx", "weir-rx")?;
    let ipset = pair("ipset-tx", "ipset-rx")?;
    let mut node = Node::new("drop", &tables("weir-rx", Set::V4(set.clone())))?;
    node.attach_xdp("weir-rx")?;
    load_ipset(&set)?;
    shell("iptables-legacy -t raw -A PREROUTING -i ipset-rx -m set --match-set weir-bench src -j DROP")?;

    let packet = tcp(false);
    let pass = Pass { base: 0, flows: KEYS, packets: KEYS, fresh: false, start: 0 };
    let names = ["weir", "ipset"];
    let mut counter = |index| if index == 0 { node.drops() } else { ipset_drops() };
    let rounds = Rounds::interleaved(options.rounds, &names, |index| {
        let before = counter(index)?;
        let ns = programs.send([weir, ipset][index], &packet, pass)?;
        let dropped = counter(index)? - before;
        // What the device's queue had no room for was not filtered.
        if dropped < u64::from(KEYS) / 2 {
            return Err(BenchError::Wrong {
                what: format!("{}: {dropped} of {KEYS} packets were dropped", names[index]),
            });
        }
        Ok(ns * f64::from(KEYS) / dropped as f64)
    })?;
    for figure in rounds.figures(&format!("drop on veth, {COUNT} CIDRs:"), "ns") {
        report.figure(figure);
    }
    report.at_least("drop on veth: rate / ipset's".to_owned(), rounds.per_round(|ns| ns[1] / ns[0]), 4.0);
    shell("iptables-legacy -t raw -F PREROUTING")?;
    shell("ipset destroy weir-bench")?;
    Ok(())
}

fn ipset_drops() -> Result<u64, BenchError> {
    let text = shell("iptables-legacy -t raw -L PREROUTING -v -x -n")?;
    text.lines()
        .find(|line| line.contains("weir-bench"))
        .and_then(|line| line.split_whitespace().next()?.parse().ok())
        .ok_or("no rule")
        .doing("reading ipset's counter")
}

/// A veth pair that is up, and the first device's index. Generic receive offload gives the peer a NAPI of its own,
/// without which it takes no live frames.
fn pair(one: &str, other: &str) -> Result<u32, BenchError> {
    shell(&format!("ip link add {one} type veth peer name {other}"))?;
    for device in [one, other] {
        shell(&format!("ip link set {device} up"))?;
        shell(&format!("ethtool -K {device} gro on"))?;
    }
    // Where the frames go to: what is for another station dies before any rule.
    shell(&format!("ip link set {other} address 02:00:00:00:00:01"))?;
    let path = format!("/sys/class/net/{one}/ifindex");
    match fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().doing(path),
        // /sys belongs to the namespace that it was mounted in.
        Err(_) => {
            let text = shell(&format!("ip -o link show {one}"))?;
            text.split(':').next().unwrap_or_default().trim().parse().doing("reading an ifindex")
        }
    }
}

fn load_ipset(set: &[Prefix4]) -> Result<(), BenchError> {
    shell("ipset create weir-bench hash:net maxelem 1048576 hashsize 262144")?;
    let mut child = Command::new("ipset").arg("restore").stdin(Stdio::piped()).spawn().doing("starting ipset")?;
    let mut text = String::new();
    for prefix in set {
        text.push_str(&format!("add weir-bench {prefix}\n"));
    }
    if let Some(mut input) = child.stdin.take() {
        input.write_all(text.as_bytes()).doing("filling the ipset")?;
    }
    let status = child.wait().doing("waiting for ipset")?;
    if status.success() { Ok(()) } else { Err(status).doing("ipset restore") }
}

fn shell(command: &str) -> Result<String, BenchError> {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap_or_default()).args(words).output().doing(command)?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()).doing(command);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
