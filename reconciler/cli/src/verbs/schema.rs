use serde_json::{Map, Value};
use weir_agent::{Error, Exit};

use crate::{args::Format, context::Context, out};

/// One kind's schema, or an object of all by file name.
pub fn run(context: &Context, kind: Option<&str>) -> Result<Exit, Error> {
    let schemas = weir_schema::json_schemas();
    let value = match kind {
        None => Value::Object(schemas.into_iter().collect::<Map<_, _>>()),
        Some(kind) => {
            let wanted = kind.to_lowercase();
            let names: Vec<String> =
                schemas.iter().map(|(name, _)| name.trim_end_matches(".json").to_owned()).collect();
            let found = schemas.into_iter().find(|(name, schema)| {
                name.trim_end_matches(".json") == wanted
                    || (name.trim_end_matches(".json").ends_with(&format!("-{wanted}"))
                        && schema["title"].as_str().is_some_and(|title| title.to_lowercase() == wanted))
            });
            let missing =
                || Error::Usage { what: format!("there is no kind `{kind}`; there are {}", names.join(", ")) };
            found.ok_or_else(missing)?.1
        }
    };
    match context.global.output {
        Format::Yaml => out::print(|out| serde_yaml::to_writer(out, &value).map_err(std::io::Error::other))?,
        _ => out::print(|out| {
            serde_json::to_writer_pretty(&mut *out, &value)?;
            writeln!(out)
        })?,
    }
    Ok(Exit::DONE)
}
