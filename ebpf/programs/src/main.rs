//! The eBPF programs: one file per hook, each of which reads from top to bottom as the packet's way.
//!
//! They promise that one run judges its packet by one generation: the generation word is loaded once, at entry, and
//! every table is read on that side. They promise that every packet they drop is counted under one reason and
//! reported, and that what does not parse is dropped.
//!
//! They must never write to a table that manifests fill, never read the generation word twice, never wait for user
//! space, and never lose a packet because an event, a fragment or a flow could not be recorded.
//!
//! Built for Linux 6.1 and later, in Rust for BPF's instruction set v3; user space makes the maps ([`maps`]).
#![no_std]
#![no_main]
#![allow(
    clippy::needless_borrows_for_generic_args,
    reason = "a key that is passed by value is a second copy of it, on a stack of 512 bytes"
)]
#![feature(asm_experimental_arch)]

mod account;
mod admit;
mod balance;
mod case;
mod conntrack;
mod deliver;
mod flow;
mod fragment;
mod hairpin;
mod hooks;
mod hop;
mod maps;
mod nat;
mod parse;
mod policy;
mod prefilter;
mod reject;
mod run;
mod service;
mod skb;
mod socket;
mod tables;
mod translate;
mod words;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // Never reached: the verifier refuses a program that has this loop in it.
    loop {}
}

/// What the kernel is told. It asks for the GPL where a program looks into its routes and its devices' MTUs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
