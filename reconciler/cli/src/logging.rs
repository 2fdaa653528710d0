use std::io;

use tracing_subscriber::EnvFilter;

use crate::args::{Global, LogFormat, Verb};

/// Logs go to standard error. Verbs are quiet unless something is wrong; the agent says what it does.
pub fn start(global: &Global, verb: &Verb) {
    let usual = if let Verb::Run { .. } = verb { "warn,weir_agent=info,weir=info" } else { "warn" };
    let filter = global.log.as_deref().unwrap_or(usual);
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("warn"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false);
    // A second start is impossible: main calls this once.
    let _ = match global.log_format {
        LogFormat::Json => builder.json().try_init(),
        LogFormat::Text => builder.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).try_init(),
    };
}
