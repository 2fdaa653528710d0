//! What users, disks and other programs do wrong. Every mistake has a stable code, says where it is and how to mend
//! it, ends with the documented exit code, and changes nothing.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::chown,
    path::Path,
    process::Command,
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use weir_tests::node::{
    ENDPOINTS, Node, Ran, UPLINK, WEB, eventually, kernel,
    traffic::{Way, reaches},
};

/// Lets the client reach web on udp/80, and nobody anything else.
const POLICY: &str = r"
apiVersion: weir/v1alpha1
kind: NetworkPolicy
metadata: {name: web}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
  - fromCIDR: [192.0.2.0/24]
    toPorts: [{ports: [{port: 80, protocol: UDP}]}]
";

/// Brings `from_network` and `to_network` to the uplink.
const HOST_POLICY: &str = r"
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: host}
spec:
  nodeSelector: {}
  ingress:
  - fromEntities: [world]
    toPorts: [{ports: [{port: 22, protocol: TCP}]}]
";

/// A node with endpoints and a policy that are live.
fn started(node: &Node) {
    node.write("endpoints.yaml", ENDPOINTS);
    node.write("policy.yaml", POLICY);
    node.apply();
    node.expect(0, &["diff", "-f", "."]);
}

/// The code, and what `needles` say: the place or the resource, and how to mend it.
fn says(ran: &Ran, code: &str, needles: &[&str]) {
    let text = format!("{}{}", ran.stdout, ran.stderr);
    for needle in needles.iter().copied().chain([&*format!("[{code}]")]) {
        assert!(text.contains(needle), "it does not say `{needle}`: {ran}");
    }
}

/// `text` beside good manifests: refused by every verb that reads it, and nothing changes.
fn refused(text: &'static str, code: &'static str, needles: &'static [&'static str]) {
    Node::run(move |node| {
        started(node);
        let history = node.expect(0, &["history", "-o", "json"]).stdout;
        node.write("bad.yaml", text);
        for verb in ["validate", "plan", "apply"] {
            says(&node.expect(65, &[verb, "-f", "."]), code, needles);
        }
        says(&node.expect(65, &["diff", "-f", "."]), code, needles);
        node.remove("bad.yaml");
        node.expect(0, &["diff", "-f", "."]);
        assert_eq!(node.expect(0, &["history", "-o", "json"]).stdout, history, "nothing was recorded");
    });
}

#[test]
fn wrong_yaml() {
    refused(
        "apiVersion: weir/v1alpha1\nkind: Node\nmetadata: {name: \"n\n",
        "yaml-syntax",
        &["bad.yaml:3:", "= help:"],
    );
}

#[test]
fn unknown_kind() {
    let text = "# comment\napiVersion: weir/v1alpha1\nkind: NetworkPolcy\nmetadata: {name: x}\nspec: {}\n";
    refused(text, "unknown-kind", &["bad.yaml:3:7", "= help: did you mean `NetworkPolicy`"]);
}

#[test]
fn unknown_field() {
    let text = "apiVersion: weir/v1alpha1\nkind: CidrFilter\nmetadata: {name: x}\nspec:\n  cidr: [10.0.0.0/8]\n";
    refused(text, "unknown-field", &["bad.yaml:5:3", "= help: did you mean `cidrs`"]);
}

#[test]
fn inverted_port_range() {
    let text = r"apiVersion: weir/v1alpha1
kind: NetworkPolicy
metadata: {name: x}
spec:
  endpointSelector: {}
  ingress:
  - toPorts:
    - ports:
      - {port: 443, endPort: 80, protocol: TCP}
";
    refused(text, "inverted-range", &["bad.yaml:9:", "443", "80", "= help:"]);
}

#[test]
fn host_bits() {
    let text = "apiVersion: weir/v1alpha1\nkind: CidrFilter\nmetadata: {name: x}\nspec:\n  cidrs:\n  - 10.0.0.0/8\n  - 10.1.2.3/16\n";
    refused(text, "host-bits", &["bad.yaml:7:5", "= help: write `10.1.0.0/16`"]);
}

#[test]
fn duplicate_object() {
    refused(POLICY, "duplicate-object", &["bad.yaml:4:", "policy.yaml:4:", "web", "= help:"]);
}

#[test]
fn every_error_of_every_file_at_once() {
    Node::run(|node| {
        node.write("a.yaml", "apiVersion: weir/v1alpha1\nkind: Nod\nmetadata: {name: a}\n");
        node.write(
            "b/b.yaml",
            "apiVersion: weir/v1alpha1\nkind: CidrFilter\nmetadata: {name: b}\nspec: {cidrs: [x]}\n",
        );
        let ran = node.expect(65, &["apply", "-f", "."]);
        says(&ran, "unknown-kind", &["a.yaml:2:7"]);
        says(&ran, "invalid-cidr", &["b/b.yaml:4:16"]);
        let json = node.weir(&["validate", "-f", ".", "-o", "json"]);
        let text = format!("{}{}", json.stdout, json.stderr);
        assert!(text.contains("\"invalid-cidr\"") && text.contains("\"unknown-kind\""), "{json}");
    });
}

/// The rest is applied; the object waits, and is attached when what it waits for comes.
#[test]
fn an_interface_that_is_not_there() {
    Node::run(|node| {
        started(node);
        let endpoint = "apiVersion: weir/v1alpha1\nkind: Endpoint\nmetadata: {name: late, labels: {app: late}}\nspec: \
            {node: node1, addresses: [10.10.0.9], attach: {interface: late0}}\n";
        node.write("late.yaml", endpoint);
        says(
            &node.expect(1, &["apply", "-f", "."]),
            "interface-missing",
            &["late0", "Endpoint default/late", "takes effect when"],
        );
        assert!(reaches(node, Way { from: "client", to: "web", address: WEB[0], port: 80 }), "the rest is applied");
        node.ip("link add late0 type veth peer name late1");
        node.ip("link set late0 up");
        node.apply();
        node.expect(0, &["diff", "-f", "."]);
    });
}

#[test]
fn a_network_namespace_that_is_not_there() {
    Node::run(|node| {
        started(node);
        let endpoint = "apiVersion: weir/v1alpha1\nkind: Endpoint\nmetadata: {name: late, labels: {app: late}}\nspec: \
            {node: node1, addresses: [10.10.0.9], attach: {netns: late}}\n";
        node.write("late.yaml", endpoint);
        says(
            &node.expect(1, &["apply", "-f", "."]),
            "netns-missing",
            &["no network namespace `late`", "Endpoint default/late", "takes effect when"],
        );
        node.ip("netns add late");
        node.ip("-netns late link set lo up");
        node.apply();
        assert!(reaches(node, Way { from: "node", to: "late", address: "10.10.0.9", port: 5000 }));
    });
}

#[test]
fn an_overfull_table() {
    Node::run(|node| {
        started(node);
        let cidrs: String = (0..200).map(|n| format!("  - 10.9.{n}.0/24\n")).collect();
        let filter = |name: &str| {
            format!(
                "---\napiVersion: weir/v1alpha1\nkind: CidrFilter\nmetadata: {{name: {name}}}\nspec:\n  cidrs:\n{cidrs}"
            )
        };
        node.write("filter.yaml", &filter("greedy"));
        let limits =
            "apiVersion: weir/v1alpha1\nkind: NodeConfig\nmetadata: {name: tight}\nspec: {limits: {prefilter: 100}}\n";
        node.write("limits.yaml", limits);
        says(
            &node.expect(65, &["apply", "-f", "."]),
            "table-full",
            &["table prefilter", "100", "CidrFilter default/greedy", "spec.limits.prefilter"],
        );
        node.remove("filter.yaml");
        node.remove("limits.yaml");
        node.expect(0, &["diff", "-f", "."]);
    });
}

#[test]
fn an_empty_directory() {
    Node::run(|node| {
        started(node);
        node.remove("endpoints.yaml");
        node.remove("policy.yaml");
        says(&node.expect(65, &["apply", "-f", "."]), "mass-delete", &["--allow-mass-delete"]);
        node.write("endpoints.yaml", ENDPOINTS);
        node.write("policy.yaml", POLICY);
        node.expect(0, &["diff", "-f", "."]);
    });
}

#[test]
fn a_missing_directory() {
    Node::run(|node| {
        started(node);
        says(&node.expect(66, &["apply", "-f", "../elsewhere"]), "source-missing", &["elsewhere", "= help:"]);
        node.expect(0, &["diff", "-f", "."]);
    });
}

#[test]
fn sources_that_are_not_there() {
    Node::run(|node| {
        let diff = |exit, source: &str| node.expect(exit, &["diff", "--timeout", "5s", "--source", source]);
        says(&diff(64, "etcd://127.0.0.1:2379/x"), "etcd-address", &["must end in `/`", "= help:"]);
        says(&diff(69, "etcd://127.0.0.1:1/x/"), "etcd-unreachable", &["127.0.0.1:1", "= help:"]);
        says(&diff(66, "git+file:///nowhere/at/all"), "source-missing", &["/nowhere/at/all", "= help:"]);
        says(&diff(64, "s3://bucket"), "source-unknown", &["s3://bucket", "= help:"]);
    });
}

#[test]
fn no_privileges() {
    Node::run(|node| {
        node.write("endpoints.yaml", ENDPOINTS);
        fs::create_dir_all(node.state()).unwrap();
        chown(node.state(), Some(65534), Some(65534)).unwrap();
        let weir = node.command(&["apply", "-f", "."]);
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(weir.get_program());
        command.args(weir.get_args()).current_dir(node.manifests());
        weir.get_envs().for_each(|(name, value)| {
            command.env(name, value.unwrap_or_default());
        });
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(77), "{stderr}");
        assert!(stderr.contains("[missing-capability]") && stderr.contains("= help:"), "{stderr}");
        assert!(stderr.contains("CAP_"), "{stderr}");
        assert!(!node.pins().exists());
    });
}

#[test]
fn no_bpf_file_system() {
    Node::run(|node| {
        node.write("endpoints.yaml", ENDPOINTS);
        umount2("/sys/fs/bpf", MntFlags::MNT_DETACH).unwrap();
        let ran = node.expect(78, &["apply", "-f", "."]);
        assert!(ran.stderr.contains("[no-bpffs]"), "{ran}");
        assert!(ran.stderr.contains("mount -t bpf bpf /sys/fs/bpf"), "it says which command would: {ran}");
        let none = None::<&str>;
        mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), none).unwrap();
        node.apply();
    });
}

#[test]
fn a_foreign_xdp_program() {
    Node::run(|node| {
        node.write("endpoints.yaml", ENDPOINTS);
        node.write("policy.yaml", POLICY);
        let filter = "apiVersion: weir/v1alpha1\nkind: CidrFilter\nmetadata: {name: x}\nspec: {interfaces: [uplink0], cidrs: [203.0.113.0/24]}\n";
        node.write("filter.yaml", filter);
        let foreign = kernel::ForeignProgram::xdp();
        foreign.attach_xdp(UPLINK);
        let id = foreign.id().to_string();
        says(&node.expect(75, &["apply", "-f", "."]), "foreign-xdp", &[UPLINK, &id, "ip link set dev uplink0 xdp off"]);
        assert_eq!(kernel::xdp_on(UPLINK), Some(foreign.id()), "it is still there");
        node.ip("link set dev uplink0 xdp off");
        node.apply();
        node.expect(0, &["diff", "-f", "."]);
    });
}

/// At tc there is room for both: it is left alone.
#[test]
fn a_foreign_tcx_program() {
    Node::run(|node| {
        let foreign = kernel::ForeignProgram::tc();
        let link = foreign.attach_tcx_ingress(UPLINK);
        node.write("host.yaml", HOST_POLICY);
        started(node);
        let programs = kernel::tcx_ingress_on(UPLINK);
        assert!(programs.len() == 2 && programs.contains(&foreign.id()), "{programs:?}");
        node.expect(0, &["uninstall"]);
        assert_eq!(kernel::tcx_ingress_on(UPLINK), [foreign.id()]);
        drop(link);
    });
}

#[test]
fn a_second_agent() {
    Node::run(|node| {
        started(node);
        let agent = node.agent(&[]);
        let ran = node.expect(75, &["run", "-f", "."]);
        assert!(ran.stderr.contains(&agent.pid().to_string()), "it names who is there: {ran}");
        assert!(ran.stderr.contains("= help:"), "{ran}");
        // Another source than the agent's.
        fs::create_dir(node.directory().join("other")).unwrap();
        fs::write(node.directory().join("other/a.yaml"), ENDPOINTS).unwrap();
        says(&node.expect(75, &["apply", "-f", "../other"]), "other-source", &["manifests", "= help:"]);
        assert!(agent.stop().success());
    });
}

#[test]
fn a_full_disk() {
    Node::run(|node| {
        fs::create_dir_all(node.state()).unwrap();
        mount(Some("tmpfs"), &node.state(), Some("tmpfs"), MsFlags::empty(), Some("size=24m")).unwrap();
        started(node);
        let reach = |port| reaches(node, Way { from: "client", to: "web", address: WEB[0], port });
        assert!(reach(80) && !reach(81));
        let filler = node.state().join("filler");
        fill(&filler);
        node.write("policy.yaml", &POLICY.replace("port: 80", "port: 81"));
        says(&node.expect(1, &["apply", "-f", "."]), "disk-full", &["state", "= help:"]);
        assert!(reach(80) && !reach(81), "nothing went live that could not be recorded");
        fs::remove_file(filler).unwrap();
        node.apply();
        assert!(reach(81) && !reach(80));
        node.expect(0, &["diff", "-f", "."]);
    });
}

fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    let mut block = vec![0u8; 1 << 20];
    while !block.is_empty() {
        if file.write_all(&block).is_err() {
            block.truncate(block.len() / 2);
        }
    }
}

/// The last good revision stays live, whatever is written into the directory.
#[test]
fn an_agent_whose_source_turns_bad() {
    Node::run(|node| {
        started(node);
        let agent = node.agent(&["--resync", "1s", "--verify", "1s"]);
        let open = || reaches(node, Way { from: "client", to: "web", address: WEB[0], port: 80 });
        assert!(open());
        node.write("policy.yaml", &POLICY.replace("NetworkPolicy", "NetworkPolcy"));
        eventually("status says what is wrong", || agent.status().to_string().contains("unknown-kind").then_some(()));
        assert!(open());
        fs::rename(node.manifests(), node.directory().join("gone")).unwrap();
        eventually("status says that it is gone", || {
            agent.status().to_string().contains("source-missing").then_some(())
        });
        assert!(open());
        fs::rename(node.directory().join("gone"), node.manifests()).unwrap();
        node.write("policy.yaml", &POLICY.replace("192.0.2.0/24", "198.51.100.0/24"));
        eventually("the mended policy is live", || (!open()).then_some(()));
        assert!(agent.stop().success());
    });
}
