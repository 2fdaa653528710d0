use std::fs;

use weir_agent::{Error, Exit};
use weir_datapath::Kernel;

use crate::{
    context::{self, Context},
    out,
};

/// Removes what is Weir's from the kernel. Whoever writes there must be gone: the store's lock proves it.
pub async fn run(context: &Context, purge: bool) -> Result<Exit, Error> {
    if let Some(agent) = context.agent().await? {
        let pid = agent.status().await?.agent.map_or(0, |agent| agent.pid);
        return Err(Error::AgentRuns { pid, what: "stop it first: it would put everything back" });
    }
    let store = context::open_store(&context.global.state_dir)?;
    let mut kernel = Kernel::open(weir_datapath::Options::new(&context.global.pin_dir))?;
    kernel.uninstall()?;
    drop(store);
    let remove = |path: &std::path::Path, result: std::io::Result<()>| match result {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::Failed { what: format!("remove {}", path.display()), cause: error.to_string() })
        }
        _ => Ok(()),
    };
    let socket = &context.global.socket;
    remove(socket, fs::remove_file(socket))?;
    if purge {
        let state = &context.global.state_dir;
        remove(state, fs::remove_dir_all(state))?;
    }
    let kept = if purge { "nothing is left" } else { "the history is kept (--purge deletes it)" };
    out::print(|out| writeln!(out, "uninstalled: no pin, link, filter or device of Weir is left; {kept}"))?;
    Ok(Exit::DONE)
}
