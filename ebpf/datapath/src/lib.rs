#[allow(dead_code, reason = "used by attach and wiring as they arrive")]
mod netlink;
pub mod prefix_tree;
