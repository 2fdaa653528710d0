use crate::measure::{BenchError, Doing, last_error};

/// From here on this thread, and every one that it starts, runs on the first CPU only.
pub(crate) fn stay_on_first() -> Result<(), BenchError> {
    // SAFETY: a CPU set is plain bits, zero is the empty one; the call reads it within its size.
    let result = unsafe {
        let mut cpus: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(0, &mut cpus);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &cpus)
    };
    if result == 0 { Ok(()) } else { Err(last_error()).doing("staying on one CPU") }
}
