use serde::Serialize;
use weir_agent::{Error, Exit, FORMAT_VERSION};
use weir_datapath::Machine;

use crate::{
    context::Context,
    doctor::{self, Check, Verified},
    out::{self, Ink},
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DoctorDocument {
    format_version: &'static str,
    ok: bool,
    checks: Vec<Check>,
    notes: Vec<String>,
    /// Empty where something is missing that loading needs.
    programs: Vec<Verified>,
}

pub fn run(context: &Context) -> Result<Exit, Error> {
    let pin_dir = &context.global.pin_dir;
    let machine = Machine::examine(pin_dir);
    let checks = doctor::checks(&machine, pin_dir);
    let failed = |exit: Exit| checks.iter().any(|check| !check.ok && check.exit == exit);
    // What is missing of the kernel cannot be seen without the capabilities: they come first.
    let exit = match () {
        () if failed(Exit::CAPABILITY) => Exit::CAPABILITY,
        () if failed(Exit::KERNEL) => Exit::KERNEL,
        () => Exit::DONE,
    };
    let programs = if exit == Exit::DONE { doctor::verified(pin_dir)? } else { Vec::new() };
    let notes = doctor::notes(&machine);
    let document = DoctorDocument { format_version: FORMAT_VERSION, ok: exit == Exit::DONE, checks, notes, programs };
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
        document.notes.iter().try_for_each(|note| writeln!(out, "    {note}"))?;
        if document.programs.is_empty() {
            return Ok(());
        }
        writeln!(out)?;
        let mut rows = vec![["PROGRAM", "VERIFIED INSTRUCTIONS", "MACHINE CODE"].map(str::to_owned).to_vec()];
        rows.extend(document.programs.iter().map(|program| {
            let instructions = program.instructions.to_string();
            vec![program.program.to_owned(), instructions, format!("{} bytes", program.jited_bytes)]
        }));
        out::columns(&rows, out)
    })?;
    Ok(exit)
}
