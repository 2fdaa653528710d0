use std::io;

use tracing_subscriber::{
    EnvFilter, Layer as _, Registry, filter::Targets, fmt::layer, layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use crate::args::{Global, LogFormat, Verb};

/// Logs go to standard error. Verbs are quiet unless something is wrong; the agent says what it does.
pub fn start(global: &Global, verb: &Verb) {
    let usual = if let Verb::Run { .. } = verb { "warn,weir_agent=info,weir=info" } else { "warn" };
    let filter = global.log.as_deref().unwrap_or(usual);
    // What names no span needs no regular expressions, which take longer to make than a small plan.
    let filter = match filter.parse::<Targets>() {
        Ok(targets) => targets.boxed(),
        Err(_) => EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("warn")).boxed(),
    };
    let layer = layer::<Registry>().with_writer(io::stderr).with_target(false);
    let layer = match global.log_format {
        LogFormat::Json => layer.json().boxed(),
        LogFormat::Text => layer.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).boxed(),
    };
    // A second start is impossible: main calls this once.
    let _ = tracing_subscriber::registry().with(layer).with(filter).try_init();
}
