//! XDP on a network device, before the kernel has made anything of the frame: the prefilter, and the load balancer's
//! fast path.
use aya_ebpf::{helpers::generated::bpf_xdp_get_buff_len, macros::xdp, programs::XdpContext};
use weir_abi::{InterfaceInfo, Reason, interface_flags, next_hook, xdp_action};

use crate::{
    account, balance,
    case::Case,
    flow::{Ends, ICMPV6, SCTP, TCP, UDP},
    parse::{self, Part, Window, ip, link},
    prefilter::{self, Hit},
    run::Run,
    tables,
};

const WATCHED: u32 = interface_flags::PREFILTER_SOURCE | interface_flags::PREFILTER_DESTINATION;

#[xdp(frags)]
fn xdp_ingress(context: XdpContext) -> u32 {
    let Some(run) = Run::begin() else { return xdp_action::DROP };
    let ifindex = context.ingress_ifindex() as u32;
    let Some(interface) = tables::interface(run, ifindex) else { return xdp_action::PASS };
    let watched = interface.flags & WATCHED != 0;
    let network = interface.flags & interface_flags::NETWORK != 0;
    if !(watched || network && balance::is_on(run)) {
        return xdp_action::PASS;
    }
    let Some(case) = Case::begin(run, next_hook::XDP_INGRESS, ifindex) else { return xdp_action::DROP };
    let mut ends = Ends::NONE;
    match judge(&context, case, interface, &mut ends) {
        Ok(reason) => {
            if watched {
                account::passed(case, reason, if network { next_hook::FROM_NETWORK } else { next_hook::STACK });
            }
            if reason == Reason::PrefilterPass && network {
                let case = case.settled();
                case.packet.flow.set_addresses(ends);
                if balance::balance(context.ctx, case) {
                    return xdp_action::TX;
                }
            }
            xdp_action::PASS
        }
        Err(Dropped { reason, tell }) => {
            account::refused_telling(case, reason, tell);
            xdp_action::DROP
        }
    }
}

/// Why, and whether the case says of what, for an event: most drops of a flood have none.
struct Dropped {
    reason: Reason,
    tell: bool,
}

/// `Ok`: as what the frame is counted.
#[inline(always)]
fn judge(context: &XdpContext, case: &mut Case, interface: &InterfaceInfo, ends: &mut Ends) -> Result<Reason, Dropped> {
    let mut window = Window { data: context.data(), end: context.data_end(), length: 0 };
    window.length = (window.end - window.data) as u32;
    let mut network = look(case, &window, ends);
    if network == Err(Reason::Truncated) {
        // A frame in several buffers is longer than its first one.
        // SAFETY: the context is valid for the whole run.
        window.length = unsafe { bpf_xdp_get_buff_len(context.ctx) } as u32;
        network = look(case, &window, ends);
    }
    let case = case.settled();
    let hit = match network {
        Ok(Network::Ip) => prefilter::filter(case.run, interface, *ends),
        Ok(Network::Arp) => return Ok(Reason::ForwardedLink),
        Ok(Network::Other) => return Ok(Reason::PrefilterPass),
        // Nothing is filtered here: what is wrong with it is for tc to say.
        Err(_) if interface.flags & WATCHED == 0 => return Ok(Reason::Forwarded),
        Err(reason) => Some(Hit { reason, rule: 0 }),
    };
    let Some(Hit { reason, rule }) = hit else { return Ok(Reason::PrefilterPass) };
    case.rule = rule;
    let tell = account::may_tell(case);
    if tell {
        case.packet.flow.set_addresses(*ends);
    }
    if network.is_ok() && show_transport(case, &window, tell) {
        case.rule = 0;
        return Ok(Reason::ForwardedLink);
    }
    Err(Dropped { reason, tell })
}

#[derive(PartialEq, Eq)]
enum Network {
    Ip,
    Arp,
    Other,
}

/// Parses as far as the addresses. They stay out of the case as long as nobody is told of the packet: only an event asks
/// for a flow, whose ends are in order.
#[inline(always)]
fn look(case: &mut Case, window: &Window, ends: &mut Ends) -> Result<Network, Reason> {
    let packet = &mut case.packet;
    packet.length = window.length;
    let frame = link::link(window)?;
    match frame.ethertype {
        link::IPV4 => ip::ipv4(window, frame.offset, packet, ends)?,
        link::IPV6 => ip::ipv6(window, frame.offset, packet, ends)?,
        link::ARP => return Ok(Network::Arp),
        // A third VLAN tag would carry an address past the filter.
        other if link::is_tag(other) => return Err(Reason::UnknownEthertype),
        _ => return Ok(Network::Other),
    }
    Ok(Network::Ip)
}

/// Takes the ports, for an event, where they are plain to see. True for neighbour discovery: addresses are resolved
/// whatever the filter says.
#[inline(always)]
fn show_transport(case: &mut Case, window: &Window, tell: bool) -> bool {
    let packet = &mut case.packet;
    if packet.fragment.of == Part::Later || packet.payload < 8 {
        return false;
    }
    let Ok(header) = window.at(packet.transport, 8) else { return false };
    match packet.flow.protocol() {
        TCP | UDP | SCTP if tell => {
            packet.flow.set_ports(header.u16_be::<0>(), header.u16_be::<2>());
            false
        }
        ICMPV6 => parse::is_neighbour_discovery(packet, header.u8::<0>()),
        _ => false,
    }
}
