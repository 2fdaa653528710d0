use serde::Serialize;
use weir_agent::{Error, Exit, FORMAT_VERSION};

use crate::{
    context::Context,
    doctor::{Check, checks},
    out::{self, Ink},
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DoctorDocument {
    format_version: &'static str,
    ok: bool,
    checks: Vec<Check>,
}

pub fn run(context: &Context) -> Result<Exit, Error> {
    let checks = checks(&context.global.pin_dir);
    // What is missing of the kernel cannot be seen without the capabilities: they come first.
    let failed = |exit: Exit| checks.iter().any(|check| !check.ok && check.exit == exit);
    let exit = match () {
        () if failed(Exit::CAPABILITY) => Exit::CAPABILITY,
        () if failed(Exit::KERNEL) => Exit::KERNEL,
        () => Exit::DONE,
    };
    let document = DoctorDocument { format_version: FORMAT_VERSION, ok: exit == Exit::DONE, checks };
    if context.print(&document)? {
        return Ok(exit);
    }
    out::print(|out| {
        for check in &document.checks {
            let (mark, ink) = if check.ok { ("ok", Ink::Green) } else { ("no", Ink::Red) };
            writeln!(out, "{}  {:12}  {}", context.paint.paint(ink, mark), check.name, check.found)?;
            if let Some(mend) = &check.mend {
                writeln!(out, "                  mend it: {mend}")?;
            }
        }
        Ok(())
    })?;
    Ok(exit)
}
