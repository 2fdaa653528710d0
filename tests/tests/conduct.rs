//! What the agent tells those that watch over it: the service manager, and whoever reads its log.
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::{
    fs::{self, File},
    os::unix::net::UnixDatagram,
    path::Path,
    process::{Child, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use weir_abi::Side;
use weir_tests::node::{Agent, ENDPOINTS, Node, eventually, kernel::RawMap};

const RULES: &str = r"
apiVersion: weir/v1alpha1
kind: NetworkPolicy
metadata: {name: web}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
  - toPorts: [{ports: [{port: 80, protocol: UDP}]}]
";

/// `weir run` as a service manager starts it.
struct Service {
    child: Child,
    messages: UnixDatagram,
    told: Vec<String>,
}

impl Service {
    fn start(node: &Node, words: &[&str]) -> Self {
        let socket = node.directory().join("notify.sock");
        let messages = UnixDatagram::bind(&socket).unwrap();
        messages.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let log = File::create(node.directory().join("service.log")).unwrap();
        let mut command = node.command(&["run", "-f", "."]);
        command.args(words).env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "400000");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Self { child, messages, told: Vec::new() }
    }

    /// Reads on until a line begins so; gives the line.
    fn until(&mut self, begins: &str) -> String {
        loop {
            let mut buffer = [0; 4096];
            let length = self
                .messages
                .recv(&mut buffer)
                .unwrap_or_else(|error| panic!("no `{begins}`: {error}; what came: {:?}", self.told));
            let message = String::from_utf8(buffer[..length].to_vec()).unwrap();
            self.told.extend(message.lines().map(str::to_owned));
            if let Some(line) = message.lines().find(|line| line.starts_with(begins)) {
                return line.to_owned();
            }
        }
    }

    fn stop(mut self) -> Vec<String> {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM).unwrap();
        self.until("STOPPING=1");
        assert!(eventually("it stops", || self.child.try_wait().unwrap()).success());
        std::mem::take(&mut self.told)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Already gone is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_service_manager_is_told() {
    Node::run(|node| {
        node.write("endpoints.yaml", ENDPOINTS);
        node.write("rules.yaml", RULES);
        let mut service = Service::start(node, &[]);
        service.until("READY=1");
        // Ready means that what was wanted is live.
        let status = node.expect(0, &["status", "-o", "json"]).json();
        assert_eq!((&status["state"], &status["commit"]["sequence"]), (&"converged".into(), &1.into()), "{status}");
        assert_eq!(service.told[0], "READY=1", "nothing before");
        assert!(service.told[1].starts_with("STATUS=Live: revision "), "{:?}", service.told);
        for _ in 0..3 {
            service.until("WATCHDOG=1");
        }
        node.write("rules.yaml", "kind: NetworkPolice\n");
        let line = service.until("STATUS=");
        assert!(line.contains("InvalidManifests"), "{line}");
        node.write("rules.yaml", RULES);
        let line = service.until("STATUS=");
        assert!(line.starts_with("STATUS=Live"), "{line}");
        let told = service.stop();
        assert_eq!(told.iter().filter(|line| *line == "READY=1").count(), 1);
    });
}

#[test]
fn a_start_that_cannot_be_followed_is_ready_all_the_same() {
    Node::run(|node| {
        node.write("rules.yaml", "kind: NetworkPolice\n");
        let mut service = Service::start(node, &[]);
        service.until("READY=1");
        assert!(service.told[1].contains("InvalidManifests"), "{:?}", service.told);
        service.stop();
    });
}

/// A process that hangs gives no sign of life.
#[test]
fn an_agent_that_hangs_gives_no_sign_of_life() {
    Node::run(|node| {
        node.write("endpoints.yaml", ENDPOINTS);
        let mut service = Service::start(node, &[]);
        service.until("WATCHDOG=1");
        let pid = Pid::from_raw(service.child.id().cast_signed());
        kill(pid, Signal::SIGSTOP).unwrap();
        // What was sent before it stopped.
        service.messages.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let mut buffer = [0; 4096];
        while service.messages.recv(&mut buffer).is_ok() {}
        kill(pid, Signal::SIGCONT).unwrap();
        service.messages.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        service.until("WATCHDOG=1");
        service.stop();
    });
}

/// The log's events, as a machine reads them.
fn events(log: &Path) -> Vec<Value> {
    let text = fs::read_to_string(log).unwrap_or_default();
    // The last line may still be on its way.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let lines = whole.lines().map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|_| panic!("{line}")));
    lines.map(|line| line["fields"].clone()).filter(|fields| !fields["event"].is_null()).collect()
}

#[test]
fn the_log_tells_what_happened_to_which_object() {
    Node::run(|node| {
        node.write("endpoints.yaml", &ENDPOINTS.replace("netns: db", "netns: later"));
        node.write("rules.yaml", RULES);
        let agent = node.agent(&["--log-format", "json", "--verify", "500ms"]);
        let log = node.directory().join("agent.log");
        let event = |what: &str, holds: &dyn Fn(&Value) -> bool| -> Value {
            eventually(what, || events(&log).into_iter().find(|event| event["event"] == what && holds(event)))
        };
        let applied = event("applied", &|_| true);
        let epoch = agent.status()["generation"]["epoch"].clone();
        assert_eq!(
            (&applied["operation"], &applied["sequence"], &applied["epoch"]),
            (&"apply".into(), &1.into(), &epoch)
        );
        let object = event("object", &|event| event["object"] == "NetworkPolicy default/web");
        assert_eq!(
            (&object["operation"], &object["sequence"], &object["action"]),
            (&"apply".into(), &1.into(), &"Create".into())
        );
        let pending = event("pending", &|_| true);
        assert_eq!((&pending["object"], &pending["code"]), (&"Endpoint default/db".into(), &"netns-missing".into()));
        event("condition", &|event| event["condition"] == "Degraded" && event["status"] == "True");

        // No message of rtnetlink tells of a namespace.
        node.ip("netns add later");
        event("attached", &|event| event["object"] == "Endpoint default/db");

        // Somebody takes an endpoint's device away.
        let endpoints = node.expect(0, &["get", "endpoints", "web", "-o", "json"]).json();
        node.ip(&format!("link del {}", endpoints["items"][0]["interface"].as_str().unwrap()));
        let drift = event("drift", &|event| !event["sequence"].is_null() && event["object"] == "Endpoint default/web");
        let healed = event("healed", &|event| event["sequence"] == drift["sequence"]);
        assert_eq!(healed["operation"], "heal");

        node.expect(0, &["suspend", "--reason", "a test"]);
        assert_eq!(event("suspended", &|_| true)["reason"], "a test");
        node.expect(0, &["resume"]);
        event("resumed", &|_| true);

        node.write("rules.yaml", &RULES.replace("80", "81"));
        let second =
            event("object", &|event| event["action"] == "Update" && event["object"] == "NetworkPolicy default/web");
        node.expect(0, &["rollback"]);
        let back = event("applied", &|event| event["operation"] == "rollback");
        assert!(back["sequence"].as_u64() > second["sequence"].as_u64(), "{back}");
        node.expect(0, &["resume"]);

        let away = node.directory().join("away");
        fs::rename(node.manifests(), &away).unwrap();
        assert_eq!(event("source-stale", &|_| true)["code"], "source-missing");
        fs::rename(&away, node.manifests()).unwrap();
        event("source-back", &|_| true);
        assert!(agent.stop().success());
        event("stopping", &|_| true);
    });
}

/// What is annotated stays, though the source no longer has it; and so does what somebody else made of it.
#[test]
fn annotations_keep_an_object_and_what_others_made_of_it() {
    Node::run(|node| {
        let annotated =
            |annotations: &str| RULES.replace("{name: web}", &format!("{{name: web, annotations: {{{annotations}}}}}"));
        node.write("endpoints.yaml", ENDPOINTS);
        node.write("rules.yaml", &annotated(r#"weir/prun: "false", weir/heal: "no""#));
        let refused = node.expect(65, &["validate", "-f", "."]).to_string();
        assert!(refused.contains("error[invalid-annotation]"), "{refused}");
        assert!(refused.contains("did you mean `weir/prune`?"), "{refused}");

        node.write("rules.yaml", &annotated(r#"weir/prune: "false", weir/heal: "false""#));
        let agent = node.agent(&["--verify", "300ms", "--log-format", "json"]);
        let log = node.directory().join("agent.log");
        let applied = |agent: &Agent, sequence: u64| {
            eventually("it is applied", || (agent.status()["commit"]["sequence"] == sequence).then_some(()));
        };
        applied(&agent, 1);

        // The mass deletion guard has nothing to say: the only policy stays.
        node.remove("rules.yaml");
        let kept = |status: &Value| status["kept"][0]["object"]["name"] == "web";
        let status = eventually("it is kept", || Some(agent.status()).filter(kept));
        assert_eq!((&status["state"], &status["commit"]["sequence"]), (&"converged".into(), &1.into()), "{status}");
        let diff = node.expect(0, &["diff", "-f", "."]);
        let expected = "= NetworkPolicy default/web  kept: weir/prune is \"false\", and it is no longer in the source";
        assert!(diff.to_string().contains(expected), "{diff}");
        assert!(node.expect(0, &["status"]).to_string().contains(expected.trim_start_matches("= ")));

        // A later revision keeps it, and a restart too.
        node.write("endpoints.yaml", &ENDPOINTS.replace("{app: db}", "{app: db, tier: data}"));
        applied(&agent, 2);
        assert!(agent.stop().success());
        let agent = node.agent(&["--verify", "300ms", "--log-format", "json"]);
        let converged = |status: &Value| kept(status) && status["state"] == "converged";
        let status = eventually("it is kept", || Some(agent.status()).filter(converged));
        assert_eq!(status["commit"]["sequence"], 2);

        // Somebody else takes its entries away.
        let side = if status["generation"]["side"] == 0 { Side::A } else { Side::B };
        let table = RawMap::side(node, "POLICY", side);
        let keys = table.keys();
        assert!(!keys.is_empty());
        keys.iter().for_each(|key| table.delete(key));
        let drifted = |status: &Value| status["drift"] == keys.len() && status["state"] == "drifted";
        let status = eventually("it is seen", || Some(agent.status()).filter(drifted));
        let condition = |kind: &str| {
            let mut conditions = status["conditions"].as_array().unwrap().iter();
            let found = conditions.find(|condition| condition["type"] == kind).unwrap();
            (found["status"].as_str().unwrap().to_owned(), found["reason"].as_str().unwrap().to_owned())
        };
        assert_eq!(condition("Drifted"), ("True".to_owned(), "LeftAsChanged".to_owned()), "{status}");
        assert_eq!(condition("Ready").0, "True", "{status}");
        let drift = || events(&log).into_iter().find(|event| event["event"] == "drift" && !event["object"].is_null());
        assert_eq!(eventually("it is told", drift)["object"], "NetworkPolicy default/web");
        let before = status["agent"]["verifiedUnixMs"].as_u64();
        eventually("it is verified again", || {
            (agent.status()["agent"]["verifiedUnixMs"].as_u64() > before).then_some(())
        });
        assert!(table.keys().is_empty(), "nobody wrote it again");
        assert_eq!(agent.status()["commit"]["sequence"], 2);

        // Back in the source without its annotations: written again, and from then on it can go.
        node.write("rules.yaml", RULES);
        eventually("it is live", || Some(agent.status()).filter(|s| s["state"] == "converged" && s["kept"].is_null()));
        node.write("rules.yaml", &format!("{RULES}---\n{}", RULES.replace("name: web", "name: other")));
        applied(&agent, 4);
        node.write("rules.yaml", &RULES.replace("name: web", "name: other"));
        applied(&agent, 5);
        let policies = node.expect(0, &["get", "policies", "-o", "json"]).json();
        assert_eq!(policies["items"].as_array().unwrap().len(), 1, "{policies}");
        assert!(agent.stop().success());
    });
}
