//! Every verb and flag: help and completions come from here.
use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use weir_agent::{Error, parse_protocol};

/// GitOps for the Linux network datapath: manifests in, eBPF prefilter, firewall and policy out, in one atomic flip.
#[derive(Debug, Parser)]
#[command(name = "weir", version, max_term_width = 100, disable_help_subcommand = true)]
#[command(after_help = "\
Exit codes: diff: 0 none, 1 change or drift, above 1 error. Others: 0 done or nothing to do, 1 failed at run time,
64 usage, 65 invalid manifests, overflow or guard, 66 source unreadable, 69 agent unreachable, 75 another writer or
a foreign XDP program, 77 missing capability, 78 kernel, bpffs, cgroup2 or BTF missing.")]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Args, Clone, Debug)]
pub struct Global {
    /// Where the history and the identities are kept
    #[arg(long, global = true, env = "WEIR_STATE_DIR", default_value = "/var/lib/weir", value_name = "DIR")]
    pub state_dir: PathBuf,
    /// Where tables and links are pinned; must be below a bpffs
    #[arg(long, global = true, env = "WEIR_PIN_DIR", default_value = "/sys/fs/bpf/weir", value_name = "DIR")]
    pub pin_dir: PathBuf,
    /// The agent's socket
    #[arg(long, global = true, env = "WEIR_SOCKET", default_value = "/run/weir/agent.sock", value_name = "PATH")]
    pub socket: PathBuf,
    /// The node that this is; the host name by default
    #[arg(long, global = true, env = "WEIR_NODE", value_name = "NAME")]
    pub node: Option<String>,
    /// How to print
    #[arg(short, long, global = true, env = "WEIR_OUTPUT", default_value = "text", value_name = "FORMAT")]
    pub output: Format,
    /// How long the agent may take to answer
    #[arg(long, global = true, env = "WEIR_TIMEOUT", default_value = "1m", value_name = "DURATION", value_parser = duration)]
    pub timeout: Duration,
    /// How to write the log, on standard error
    #[arg(long, global = true, env = "WEIR_LOG_FORMAT", default_value = "text", value_name = "FORMAT")]
    pub log_format: LogFormat,
    /// What to log: error, warn, info, debug, trace, or filters such as `weir_agent=debug`
    #[arg(long, global = true, env = "WEIR_LOG", value_name = "FILTER")]
    pub log: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Text,
    Json,
    Yaml,
    Name,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// The whole desired state: what it lacks is deleted.
#[derive(Args, Clone, Debug)]
pub struct SourceArgs {
    /// A directory (read recursively) or a manifest; repeatable; `-` is standard input
    #[arg(short = 'f', long = "filename", value_name = "PATH", env = "WEIR_FILENAME")]
    pub filenames: Vec<String>,
    /// The same as a source: `dir:PATH`, `git+file:///PATH`, `git+https://HOST/PATH`, `git+ssh://USER@HOST/PATH` (after
    /// `#` a branch, a tag or a full commit id), `etcd://HOST:2379[,HOST2:2379]/PREFIX/` (`etcds://` for TLS)
    #[arg(long, value_name = "SOURCE", env = "WEIR_SOURCE")]
    pub source: Option<String>,
    /// Of a git source, only what is below this directory
    #[arg(long, value_name = "DIR", env = "WEIR_PATH")]
    pub path: Option<String>,
    /// Of a git source, accept only commits signed by somebody on this list: ssh-keygen's allowed signers, or OpenPGP
    /// public keys; repeatable
    #[arg(long, value_name = "FILE", env = "WEIR_VERIFY_SIGNATURES", value_delimiter = ',')]
    pub verify_signatures: Vec<PathBuf>,
    /// Skip objects of other systems' groups instead of refusing them
    #[arg(long, env = "WEIR_IGNORE_FOREIGN")]
    pub ignore_foreign: bool,
    #[command(flatten)]
    pub etcd: EtcdArgs,
}

/// How etcd is spoken to. Passwords and keys are named by their files, which are read at each connection.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "etcd")]
pub struct EtcdArgs {
    /// The user's name
    #[arg(long, env = "WEIR_ETCD_USER", value_name = "NAME")]
    pub etcd_user: Option<String>,
    /// A file that holds the user's password
    #[arg(long, env = "WEIR_ETCD_PASSWORD_FILE", value_name = "FILE", requires = "etcd_user")]
    pub etcd_password_file: Option<PathBuf>,
    /// Certificates (PEM) of the authorities that servers are trusted by; the system's by default
    #[arg(long, env = "WEIR_ETCD_CA", value_name = "FILE")]
    pub etcd_ca: Option<PathBuf>,
    /// The client's certificate (PEM)
    #[arg(long, env = "WEIR_ETCD_CERT", value_name = "FILE", requires = "etcd_key")]
    pub etcd_cert: Option<PathBuf>,
    /// The client's key (PEM)
    #[arg(long, env = "WEIR_ETCD_KEY", value_name = "FILE", requires = "etcd_cert")]
    pub etcd_key: Option<PathBuf>,
    /// How long an answer of etcd may take; silent for twice as long, it is tried anew
    #[arg(long, env = "WEIR_ETCD_TIMEOUT", default_value = "5s", value_name = "DURATION", value_parser = duration)]
    pub etcd_timeout: Duration,
}

impl SourceArgs {
    /// Both are named: whichever the environment names gives way to the command line.
    pub fn one_of_two(&self) -> Result<(&[String], Option<&str>), Error> {
        let (filenames, source) = (self.filenames.as_slice(), self.source.as_deref());
        let from_environment = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found == value);
        match (filenames, source) {
            ([], source) => Ok((&[], source)),
            (filenames, None) => Ok((filenames, None)),
            (filenames, Some(source)) if from_environment("WEIR_SOURCE", source) => Ok((filenames, None)),
            ([filename], Some(source)) if from_environment("WEIR_FILENAME", filename) => Ok((&[], Some(source))),
            _ => Err(Error::Usage { what: "-f and --source both name the whole desired state: use one".to_owned() }),
        }
    }
}

/// Where nodes tell their status.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "etcd")]
pub struct FleetArgs {
    /// What the keys of the nodes' statuses begin with; empty to tell none
    #[arg(long, env = "WEIR_STATUS_PREFIX", default_value = "/weir/status/", value_name = "PREFIX")]
    pub status_prefix: String,
    /// The etcd that holds the nodes' statuses; the source's own by default, if the source is one
    #[arg(long, env = "WEIR_STATUS_TO", value_name = "ETCD")]
    pub status_to: Option<String>,
}

/// Two commits of one repository, for whoever reviews a change: no agent, kernel, privilege or state is needed.
#[derive(Args, Clone, Debug)]
pub struct RevisionArgs {
    /// Show instead what differs between two commits (here: the former) of the git source, or of the repository around
    /// the directory `-f`, by default the current one
    #[arg(long, value_name = "REV")]
    pub from: Option<String>,
    /// The latter commit
    #[arg(long, value_name = "REV", requires = "from", default_value = "HEAD")]
    pub to: String,
    /// On every node that either commit names, not only on --node
    #[arg(long, requires = "from")]
    pub all_nodes: bool,
}

#[derive(Args, Clone, Copy, Debug)]
pub struct AllowArgs {
    /// Delete everything of a kind, or over half of ten or more objects
    #[arg(long)]
    pub allow_mass_delete: bool,
    /// Cut established TCP sessions to this host
    #[arg(long)]
    pub allow_lockout: bool,
    /// Go live whatever flow tests say
    #[arg(long)]
    pub allow_failed_tests: bool,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Check manifests; touches nothing
    Validate {
        #[command(flatten)]
        source: SourceArgs,
    },
    /// Show what apply would change, and what drifted; exits 1 if there is anything
    Diff {
        #[command(flatten)]
        source: SourceArgs,
        #[command(flatten)]
        revisions: RevisionArgs,
        /// Also show which flows would change their verdict: those of flow tests, one for each pair of identities and
        /// each rule that speaks of them, and one for each client and service between which something changes
        #[arg(long)]
        flows: bool,
    },
    /// As diff, and exits 0
    Plan {
        #[command(flatten)]
        source: SourceArgs,
        /// Also show which flows would change their verdict
        #[arg(long)]
        flows: bool,
    },
    /// Make the manifests live, in one flip
    Apply {
        #[command(flatten)]
        source: SourceArgs,
        #[command(flatten)]
        allow: AllowArgs,
    },
    /// Run the agent: follow a source and keep the node so
    Run {
        #[command(flatten)]
        source: SourceArgs,
        #[command(flatten)]
        intervals: Intervals,
        #[command(flatten)]
        fleet: FleetArgs,
        /// Tell Prometheus at `http://ADDRESS:PORT/metrics`, and nothing else there, to whoever can reach it; an IPv6
        /// address stands in brackets. The agent's socket has `/metrics` as well
        #[arg(long, env = "WEIR_METRICS", value_name = "ADDRESS:PORT")]
        metrics: Option<SocketAddr>,
    },
    /// Publish manifests to etcd, the whole set at once
    Push {
        #[command(flatten)]
        source: SourceArgs,
        /// Where: `etcd://HOST:2379[,HOST2:2379]/PREFIX/`
        #[arg(long, env = "WEIR_PUSH_TO", value_name = "ETCD")]
        to: String,
    },
    /// Write what is in force in etcd into a directory
    Pull {
        /// From where: `etcd://HOST:2379[,HOST2:2379]/PREFIX/`
        #[arg(long, env = "WEIR_SOURCE", value_name = "ETCD")]
        from: String,
        /// A directory that is empty or not there yet
        directory: PathBuf,
        /// Replace all that the directory holds
        #[arg(long)]
        replace: bool,
        #[command(flatten)]
        etcd: EtcdArgs,
    },
    /// Show how the node stands, or all nodes
    Status {
        /// All nodes that tell their status to an etcd, and those that have a manifest and say nothing
        #[arg(long)]
        all: bool,
        /// With --all, the nodes' source
        #[arg(long, env = "WEIR_SOURCE", value_name = "SOURCE")]
        from: Option<String>,
        #[command(flatten)]
        fleet: FleetArgs,
        #[command(flatten)]
        etcd: EtcdArgs,
    },
    /// List what is applied, with counters and live flows
    Get {
        /// What to list
        what: Resource,
        /// Only what has this name; of `backends`, those of the service of this name
        name: Option<String>,
        #[command(flatten)]
        flows: FlowArgs,
    },
    /// Say which rule decides about a flow, and to which backends a service sends it
    Trace {
        /// An endpoint's name, an address, `host` or `world`
        source: String,
        /// An endpoint's name, an address (a service's, too), `host` or `world`
        destination: String,
        /// `tcp/80`, `udp/53`, `icmp/8`, …
        port: String,
    },
    /// Run flow tests: on the agent's live tables, or by the oracle
    Test {
        #[command(flatten)]
        source: SourceArgs,
        /// Ask the oracle, even where an agent runs: needs no privilege and no kernel
        #[arg(long)]
        oracle: bool,
        /// Without an agent, send the packets all the same, on what is live here
        #[arg(long, conflicts_with = "oracle")]
        live: bool,
    },
    /// Print dropped packets and the rules that dropped them
    Monitor {
        /// Print flows that begin, too, and the rules that allow them
        #[arg(long)]
        flows: bool,
    },
    /// List what was applied
    History {
        /// At most so many, newest first
        #[arg(long, default_value_t = 20, value_name = "N")]
        limit: usize,
    },
    /// Go back to an earlier commit, and stay there until resume
    Rollback {
        /// The commit; the newest with other manifests by default
        sequence: Option<u64>,
        #[command(flatten)]
        allow: AllowArgs,
    },
    /// Stop reconciling; drift is still reported
    Suspend {
        /// Resume by itself after this time
        #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
        duration: Option<Duration>,
        /// Why, for status
        #[arg(long, default_value = "suspended by hand", value_name = "TEXT")]
        reason: String,
    },
    /// Reconcile again
    Resume,
    /// Check kernel, capabilities, bpffs, cgroup2 and BTF
    Doctor,
    /// Print the JSON Schema of a kind, or of all
    Schema { kind: Option<String> },
    /// Remove everything that is Weir's from this node
    Uninstall {
        /// Also delete the state directory
        #[arg(long)]
        purge: bool,
    },
    /// Print a completion script
    Completions { shell: clap_complete::Shell },
}

#[derive(Args, Clone, Copy, Debug)]
pub struct Intervals {
    /// Look at the whole source again, events or not
    #[arg(long, env = "WEIR_RESYNC", default_value = "1m", value_name = "DURATION", value_parser = duration)]
    pub resync: Duration,
    /// Compare every live table with what it should be, and heal it; `weir diff` asks for that at once
    #[arg(long, env = "WEIR_VERIFY", default_value = "1m", value_name = "DURATION", value_parser = duration)]
    pub verify: Duration,
    /// Whether what somebody else changed in the kernel is healed. With `false` it is only reported (status, conditions,
    /// log) until `weir apply`, until the source changes, or until a device that Weir is attached to does
    #[arg(long, env = "WEIR_HEAL", default_value_t = true, action = clap::ArgAction::Set, value_name = "true|false")]
    pub heal: bool,
    /// After this long the standby side is brought up to date; until then a rollback is one flip
    #[arg(long, env = "WEIR_CATCH_UP", default_value = "1m", value_name = "DURATION", value_parser = duration)]
    pub catch_up: Duration,
    /// How often a remote git repository is asked
    #[arg(long, env = "WEIR_POLL", default_value = "1m", value_name = "DURATION", value_parser = duration)]
    pub poll: Duration,
    /// How long the source must be at rest before it is believed: 50ms by default; 10ms for keys in etcd, each of which
    /// is whole by itself
    #[arg(long, env = "WEIR_REST", value_name = "DURATION", value_parser = duration)]
    pub rest: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Resource {
    Endpoints,
    Services,
    Backends,
    Identities,
    Policies,
    Filters,
    Rules,
    Tables,
    Metrics,
    Flows,
}

/// Which flows.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
#[command(next_help_heading = "Flows")]
pub struct FlowArgs {
    /// At most so many: 1000 by default; how many more there are is said
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Only those of which either end is this address, or in this CIDR
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub address: Option<IpNet>,
    /// Only those of which either end has this port
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// Only those of this protocol: tcp, udp, icmp, icmpv6, sctp or a number
    #[arg(long, value_name = "PROTOCOL", value_parser = parse_protocol)]
    pub protocol: Option<u8>,
}

fn duration(text: &str) -> Result<Duration, humantime::DurationError> {
    humantime::parse_duration(text)
}

fn address(text: &str) -> Result<IpNet, String> {
    let net = text.parse().or_else(|_| text.parse().map(|address: IpAddr| address.into()));
    net.map_err(|_| "neither an address nor a CIDR".to_owned())
}
