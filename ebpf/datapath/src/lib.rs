#[allow(dead_code, reason = "used by the kernel as it arrives")]
mod wiring;
#[allow(dead_code, reason = "used by wiring as it arrives")]
mod attach;
#[allow(dead_code, reason = "used by attach and wiring as they arrive")]
mod netlink;
pub mod prefix_tree;
#[allow(dead_code, unused_imports, reason = "used by the kernel's tables as they arrive")]
pub mod sys;
