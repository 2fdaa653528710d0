//! The least that hands a packet to another endpoint: it looks at nothing but the device that the packet came by.
use aya_ebpf::{
    bindings::TC_ACT_OK,
    btf_maps::Array,
    helpers::generated::bpf_redirect_peer,
    macros::{btf_map, classifier},
    programs::TcContext,
};

/// By the device that a packet comes by, the one whose other end gets it; 0 for none.
#[btf_map]
static PEERS: Array<u32, 4096> = Array::new();

#[classifier]
fn bare_redirect(context: TcContext) -> i32 {
    // SAFETY: the context is valid for the whole run.
    let (ifindex, protocol) = unsafe { ((*context.skb.skb).ifindex, (*context.skb.skb).protocol) };
    match PEERS.get(ifindex) {
        // SAFETY: the helper only notes where the packet goes.
        Some(&peer) if peer != 0 && protocol == u32::from(0x0800u16.to_be()) => unsafe {
            bpf_redirect_peer(peer, 0) as i32
        },
        _ => TC_ACT_OK,
    }
}
