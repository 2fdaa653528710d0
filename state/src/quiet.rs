//! sled panics on some kinds of damage. Here that is an outcome like any other, not a message on somebody's terminal.
use std::{
    cell::Cell,
    panic::{self, AssertUnwindSafe},
    sync::Once,
};

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

static HOOK: Once = Once::new();

/// Runs `act`; a panic in it on this thread becomes its message, and nothing is printed.
pub(crate) fn catch<T>(act: impl FnOnce() -> T) -> Result<T, String> {
    HOOK.call_once(|| {
        let others = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            // sled's own threads carry its name; what they meet reaches us as an error of the next operation.
            let of_sled = std::thread::current().name().is_some_and(|name| name.starts_with("sled-"));
            if !QUIET.get() && !of_sled {
                others(info);
            }
        }));
    });
    let before = QUIET.replace(true);
    // Whatever was touched is dropped by the caller and opened anew: nothing half-changed is seen again.
    let result = panic::catch_unwind(AssertUnwindSafe(act));
    QUIET.set(before);
    result.map_err(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message").to_owned()
    })
}
