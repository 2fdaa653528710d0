//! Bugs, planted: each must be seen as a disagreement, or the comparison proves nothing.
//!
//! A bug of the parser or the compiler is planted by compiling other manifests than the evaluator reads, one of the
//! tables or of the programs by changing tables after they were compiled.
use ipnet::IpNet;
use serde_json::{Value, json};
use weir_abi::{PolicyEntry, PolicyKey, SubjectInfo, identity, policy_verdict, settings_flags};
use weir_plan::{Table, Tables};

#[derive(Clone, Copy, Debug)]
pub enum Plant {
    Manifests(fn(&mut Vec<Value>)),
    Tables(fn(&mut Tables)),
}

#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub name: &'static str,
    pub plant: Plant,
    /// It changes no verdict, only which rule is named.
    pub renames_only: bool,
}

pub const FAULTS: &[Fault] = &[
    manifests("a range ends one port early", |all| ranges(all, |_, last| *last -= 1)),
    manifests("a range ends one port late", |all| ranges(all, |_, last| *last = last.saturating_add(1).min(65535))),
    manifests("a range begins one port late", |all| ranges(all, |first, _| *first += 1)),
    manifests("`except` is ignored", |all| every_object(all, |object| drop(object.remove("except")))),
    manifests("ingress and egress are swapped", |all| swap_directions(all)),
    manifests("IPv6 prefixes are ignored", |all| prefixes(all, |prefix| matches!(prefix, IpNet::V4(_)))),
    manifests("IPv4 prefixes are ignored", |all| prefixes(all, |prefix| matches!(prefix, IpNet::V6(_)))),
    manifests("the policy's namespace is forgotten", forget_namespaces),
    manifests("the peers' namespace is forgotten", |all| lists(all, &["fromEndpoints", "toEndpoints"], everywhere)),
    manifests("default deny is forgotten", |all| {
        specs(all, |spec| {
            spec["enableDefaultDeny"] = json!({"ingress": false, "egress": false});
        })
    }),
    manifests("enableDefaultDeny is ignored", |all| {
        specs(all, |spec| {
            spec.as_object_mut().map(|spec| spec.remove("enableDefaultDeny"));
        })
    }),
    manifests("deny rules are forgotten", |all| {
        specs(all, |spec| {
            for (section, allow) in [("ingressDeny", "ingress"), ("egressDeny", "egress")] {
                if spec.as_object_mut().and_then(|spec| spec.remove(section)).is_some() && spec.get(allow).is_none() {
                    spec[allow] = json!([]);
                }
            }
        })
    }),
    manifests("`cluster` is taken for `world`", |all| rename(all, "cluster", "world")),
    manifests("`world` is taken for `all`", |all| rename(all, "world", "all")),
    manifests("`world-ipv6` is taken for `world`", |all| rename(all, "world-ipv6", "world")),
    manifests("`remote-node` is taken for `host`", |all| rename(all, "remote-node", "host")),
    manifests("the ICMP family is swapped", |all| {
        lists(all, &["fields"], |field| {
            field["family"] = if field.get("family").is_some() { json!("IPv4") } else { json!("IPv6") };
        })
    }),
    manifests("any protocol is TCP", |all| {
        lists(all, &["toPorts"], |rule| {
            for port in rule["ports"].as_array_mut().into_iter().flatten() {
                if port.get("protocol").is_none_or(|protocol| protocol == "ANY") {
                    port["protocol"] = json!("TCP");
                }
            }
        })
    }),
    manifests("named ports are resolved on the wrong side", |all| rotate_named_ports(all)),
    manifests("NotIn is taken for In", |all| operator(all, "NotIn", "In")),
    manifests("matchExpressions are ignored", |all| {
        every_object(all, |object| drop(object.remove("matchExpressions")))
    }),
    manifests("the empty rule allows everybody", |all| {
        sections(all, |item| {
            if item.as_object().is_some_and(serde_json::Map::is_empty) {
                *item = json!({"fromEntities": ["all"]});
            }
        })
    }),
    manifests("only the first of several specs counts", |all| {
        for document in all {
            if let Some(specs) = document.get_mut("specs").and_then(Value::as_array_mut) {
                specs.truncate(1);
            }
        }
    }),
    manifests("a podSelector beside a namespaceSelector is ignored", |all| {
        lists(all, &["from", "to"], |peer| {
            if peer.get("namespaceSelector").is_some() {
                peer.as_object_mut().map(|peer| peer.remove("podSelector"));
            }
        })
    }),
    manifests("namespaces have no labels", |all| all.retain(|document| document["kind"] != "Namespace")),
    manifests("policyTypes are ignored", |all| {
        specs(all, |spec| {
            spec.as_object_mut().map(|spec| spec.remove("policyTypes"));
        })
    }),
    manifests("other nodes are the world", |all| {
        all.retain(|document| document["kind"] != "Node" || document["metadata"]["name"] == super::topology::NODE);
    }),
    manifests("a filter's exceptions are ignored", |all| {
        kind(all, "CidrFilter", |spec| {
            spec.as_object_mut().map(|spec| spec.remove("allow"));
        })
    }),
    manifests("a filter looks at the other end", |all| {
        kind(all, "CidrFilter", |spec| {
            spec["match"] = if spec["match"] == "destination" { json!("source") } else { json!("destination") };
        })
    }),
    manifests("unknown destinations pass", |all| {
        kind(all, "CidrFilter", |spec| {
            spec["dropUnknownDestinations"] = json!(false);
        })
    }),
    tables("allow comes before deny", allow_before_deny),
    tables("the direction bit is inverted", |tables| keys(tables, |key| key.direction_class ^= 0x80)),
    tables("ports are in the wrong byte order", |tables| keys(tables, |key| key.port = key.port.swap_bytes())),
    tables("the least specific class is not probed", |tables| {
        subjects(tables, |info| {
            for classes in info.allow_classes.iter_mut().chain(&mut info.deny_classes) {
                if *classes != 0 {
                    *classes ^= 1 << (63 - classes.leading_zeros());
                }
            }
        })
    }),
    tables("the most specific class is not probed", |tables| {
        subjects(tables, |info| {
            for classes in info.allow_classes.iter_mut().chain(&mut info.deny_classes) {
                *classes &= classes.wrapping_sub(1);
            }
        })
    }),
    tables("deny classes are not probed", |tables| subjects(tables, |info| info.deny_classes = [0; 2])),
    tables("default deny stands in the other direction", |tables| {
        subjects(tables, |info| info.default_deny.swap(0, 1))
    }),
    tables("IPv6 addresses have no identity", |tables| tables.ipcache6 = Table::new()),
    tables("long prefixes of the ipcache are lost", |tables| {
        tables.ipcache4 = tables.ipcache4.iter().filter(|(prefix, _)| prefix.length < 32).copied().collect();
    }),
    tables("remote nodes have the host's identity", |tables| {
        let host = |(prefix, number): &(_, u32)| {
            (*prefix, if *number == identity::REMOTE_NODE { identity::HOST } else { *number })
        };
        tables.ipcache4 = tables.ipcache4.iter().map(host).collect();
    }),
    tables("the host's policy is switched off", |tables| {
        if let Some(settings) = tables.settings.get(&0).copied() {
            let flags = settings.flags & !settings_flags::HOST_POLICY;
            tables.settings.insert(0, weir_abi::Settings { flags, ..settings });
        }
    }),
    Fault {
        renames_only: true,
        ..tables("entries name the wrong rule", |tables| entries(tables, |entry| entry.rule += 1))
    },
];

const fn manifests(name: &'static str, plant: fn(&mut Vec<Value>)) -> Fault {
    Fault { name, plant: Plant::Manifests(plant), renames_only: false }
}

const fn tables(name: &'static str, plant: fn(&mut Tables)) -> Fault {
    Fault { name, plant: Plant::Tables(plant), renames_only: false }
}

fn every_object(all: &mut [Value], mut edit: impl FnMut(&mut serde_json::Map<String, Value>)) {
    fn walk(value: &mut Value, edit: &mut impl FnMut(&mut serde_json::Map<String, Value>)) {
        match value {
            Value::Object(object) => {
                edit(object);
                object.values_mut().for_each(|value| walk(value, edit));
            }
            Value::Array(list) => list.iter_mut().for_each(|value| walk(value, edit)),
            _ => {}
        }
    }
    all.iter_mut().for_each(|value| walk(value, &mut edit));
}

/// Every item of every list of these names.
fn lists(all: &mut [Value], names: &[&str], mut edit: impl FnMut(&mut Value)) {
    every_object(all, |object| {
        for (key, value) in object {
            if names.contains(&key.as_str()) {
                value.as_array_mut().into_iter().flatten().for_each(&mut edit);
            }
        }
    });
}

fn sections(all: &mut [Value], edit: impl FnMut(&mut Value)) {
    lists(all, &["ingress", "egress"], edit);
}

/// Every `spec` and every one of `specs` of a policy.
fn specs(all: &mut [Value], mut edit: impl FnMut(&mut Value)) {
    let policies =
        all.iter_mut().filter(|document| document["kind"].as_str().is_some_and(|kind| kind.ends_with("Policy")));
    for document in policies {
        if let Some(spec) = document.get_mut("spec") {
            edit(spec);
        }
        if let Some(specs) = document.get_mut("specs").and_then(Value::as_array_mut) {
            specs.iter_mut().for_each(&mut edit);
        }
    }
}

fn kind(all: &mut [Value], kind: &str, edit: impl FnMut(&mut Value)) {
    all.iter_mut().filter(|document| document["kind"] == kind).map(|document| &mut document["spec"]).for_each(edit);
}

fn ranges(all: &mut [Value], edit: impl Fn(&mut u64, &mut u64)) {
    every_object(all, |object| {
        let number = |value: &Value| value.as_u64().or_else(|| value.as_str()?.parse().ok());
        let (Some(mut first), Some(mut last)) =
            (object.get("port").and_then(number), object.get("endPort").and_then(number))
        else {
            return;
        };
        edit(&mut first, &mut last);
        if first <= last {
            object.insert("port".to_owned(), json!(first));
            object.insert("endPort".to_owned(), json!(last));
        }
    });
}

fn swap_directions(all: &mut [Value]) {
    specs(all, |spec| {
        let Value::Object(old) = spec.take() else { return };
        let swapped = |key: &str| match key {
            "ingress" => "egress".to_owned(),
            "ingressDeny" => "egressDeny".to_owned(),
            "egress" => "ingress".to_owned(),
            "egressDeny" => "ingressDeny".to_owned(),
            key if key.starts_with("from") => key.replacen("from", "to", 1),
            key if key.starts_with("to") && key != "toPorts" => key.replacen("to", "from", 1),
            key => key.to_owned(),
        };
        fn rename(value: Value, swapped: &impl Fn(&str) -> String) -> Value {
            match value {
                Value::Object(object) => Value::Object(
                    object.into_iter().map(|(key, value)| (swapped(&key), rename(value, swapped))).collect(),
                ),
                Value::Array(list) => Value::Array(list.into_iter().map(|value| rename(value, swapped)).collect()),
                value => value,
            }
        }
        *spec = rename(Value::Object(old), &swapped);
        if let Some(types) = spec.get_mut("policyTypes").and_then(Value::as_array_mut) {
            for name in types {
                *name = if *name == "Ingress" { json!("Egress") } else { json!("Ingress") };
            }
        }
    });
}

fn prefixes(all: &mut [Value], keep: impl Fn(IpNet) -> bool) {
    let kept = |value: &Value| value.as_str().and_then(|text| text.parse().ok()).is_none_or(&keep);
    every_object(all, |object| {
        for (key, value) in object {
            if let Some(list) = value.as_array_mut() {
                match key.as_str() {
                    "fromCIDR" | "toCIDR" => list.retain(kept),
                    "fromCIDRSet" | "toCIDRSet" => list.retain(|set| kept(&set["cidr"])),
                    _ => {}
                }
            }
        }
    });
}

fn forget_namespaces(all: &mut Vec<Value>) {
    for document in all {
        let kind = document["kind"].as_str().unwrap_or_default();
        if kind == "CiliumNetworkPolicy" || (kind == "NetworkPolicy" && document["apiVersion"] == "weir/v1alpha1") {
            let name = document["metadata"]["name"].clone();
            document["apiVersion"] = json!("cilium.io/v2");
            document["kind"] = json!("CiliumClusterwideNetworkPolicy");
            document["metadata"] = json!({"name": name});
        }
    }
}

/// A selector that selects in every namespace.
fn everywhere(selector: &mut Value) {
    let text = selector.to_string();
    if !text.contains("namespace") && !text.contains("reserved:") {
        let expression = json!({"key": "io.kubernetes.pod.namespace", "operator": "Exists"});
        match selector.get_mut("matchExpressions").and_then(Value::as_array_mut) {
            Some(expressions) => expressions.push(expression),
            None => selector["matchExpressions"] = json!([expression]),
        }
    }
}

fn rename(all: &mut [Value], from: &str, to: &str) {
    lists(all, &["fromEntities", "toEntities"], |entity| {
        if *entity == from {
            *entity = json!(to);
        }
    });
}

fn operator(all: &mut [Value], from: &str, to: &str) {
    lists(all, &["matchExpressions"], |expression| {
        if expression["operator"] == from {
            expression["operator"] = json!(to);
        }
    });
}

/// Every endpoint gets the named ports of the next.
fn rotate_named_ports(all: &mut [Value]) {
    let ports = |document: &Value| document["spec"].get("ports").cloned().unwrap_or_else(|| json!([]));
    let mut of_endpoints: Vec<Value> = all.iter().filter(|d| d["kind"] == "Endpoint").map(ports).collect();
    of_endpoints.rotate_left(1);
    for (document, ports) in all.iter_mut().filter(|d| d["kind"] == "Endpoint").zip(of_endpoints) {
        document["spec"]["ports"] = ports;
    }
}

/// Every deny entry is lost that shares a packet with an allow entry.
fn allow_before_deny(tables: &mut Tables) {
    let overlap = |a: &PolicyKey, b: &PolicyKey| {
        let mask = a.class().port_mask() & b.class().port_mask();
        a.subject == b.subject
            && a.direction() == b.direction()
            && (a.class().any_peer() || b.class().any_peer() || a.peer == b.peer)
            && (a.class().any_protocol() || b.class().any_protocol() || a.protocol == b.protocol)
            && (a.class().any_protocol() || b.class().any_protocol() || a.port & mask == b.port & mask)
    };
    let allows: Vec<PolicyKey> =
        tables.policy.iter().filter(|(_, entry)| entry.verdict == policy_verdict::ALLOW).map(|(key, _)| *key).collect();
    let kept = tables.policy.iter().filter(|(key, entry)| {
        entry.verdict != policy_verdict::DENY || !allows.iter().any(|allow| overlap(allow, key))
    });
    tables.policy = kept.copied().collect();
}

fn keys(tables: &mut Tables, edit: impl Fn(&mut PolicyKey)) {
    let edited = tables.policy.iter().map(|(key, entry)| {
        let mut key = *key;
        edit(&mut key);
        (key, *entry)
    });
    tables.policy = edited.collect();
}

fn entries(tables: &mut Tables, edit: impl Fn(&mut PolicyEntry)) {
    let edited = tables.policy.iter().map(|(key, entry)| {
        let mut entry = *entry;
        edit(&mut entry);
        (*key, entry)
    });
    tables.policy = edited.collect();
}

fn subjects(tables: &mut Tables, edit: impl Fn(&mut SubjectInfo)) {
    let edited = tables.subjects.iter().map(|(number, info)| {
        let mut info = *info;
        edit(&mut info);
        (*number, info)
    });
    tables.subjects = edited.collect();
}
