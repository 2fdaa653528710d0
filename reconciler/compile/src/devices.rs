//! Which of the node's devices a pattern means.
use std::collections::BTreeSet;

use globset::Glob;
use weir_plan::{InterfaceFacts, InterfaceName, NodeFacts, Pending};

use crate::{
    config::NodeSettings,
    error::{CompileError, code},
    objects::{ObjectId, Objects},
};

/// The devices that a list of globs names, among those that Weir did not make, `lo` excepted; and the globs that name
/// none.
pub(crate) fn matching<'f>(
    globs: &[String],
    facts: &'f NodeFacts,
    object: ObjectId,
    path: &str,
    objects: &Objects<'_>,
) -> Result<(Vec<&'f InterfaceFacts>, Vec<usize>), Box<CompileError>> {
    let mut found = BTreeSet::new();
    let mut idle = Vec::new();
    for (index, glob) in globs.iter().enumerate() {
        let matcher = Glob::new(glob)
            .map_err(|error| {
                Box::new(CompileError {
                    code: code::INVALID_GLOB,
                    object: Some(objects.reference(object).clone()),
                    path: Some(format!("{path}[{index}]")),
                    message: format!("`{glob}` is no pattern for device names: {}", error.kind()),
                    help: Some(
                        "`*`, `?`, `[ab]` and `{a,b}` have a meaning; everything else stands for itself".to_owned(),
                    ),
                })
            })?
            .compile_matcher();
        let before = found.len();
        let mut any = false;
        for (at, interface) in facts.interfaces.iter().enumerate() {
            if !interface.loopback && !interface.ours && matcher.is_match(&*interface.name.0) {
                found.insert(at);
                any = true;
            }
        }
        debug_assert!(any || before == found.len());
        if !any {
            idle.push(index);
        }
    }
    Ok((found.into_iter().map(|at| &facts.interfaces[at]).collect(), idle))
}

/// The network devices of the node: `devices` of its configuration, or every device that is nobody's endpoint.
pub(crate) fn network_devices<'f>(
    settings: &NodeSettings,
    facts: &'f NodeFacts,
    endpoint_interfaces: &BTreeSet<&InterfaceName>,
    objects: &Objects<'_>,
    pending: &mut Vec<Pending>,
) -> Result<Vec<&'f InterfaceFacts>, Box<CompileError>> {
    let mut devices: Vec<&InterfaceFacts> = match &settings.devices {
        None => facts.interfaces.iter().filter(|interface| !interface.loopback && !interface.ours).collect(),
        Some((object, globs)) => {
            let (found, _) = matching(globs, facts, *object, "spec.devices", objects)?;
            if found.is_empty() && !globs.is_empty() {
                pending.push(Pending {
                    object: objects.reference(*object).clone(),
                    code: code::INTERFACE_MISSING,
                    message: format!("no device matches spec.devices ({})", globs.join(", ")),
                });
            }
            found
        }
    };
    devices.retain(|interface| !endpoint_interfaces.contains(&interface.name));
    Ok(devices)
}
