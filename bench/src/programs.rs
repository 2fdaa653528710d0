//! The benchmark's own programs, loaded: prologues, floors, and slots for the programs under test.
use std::{ffi::CString, time::Instant};

use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    maps::{Array, HashMap, LpmTrie, Map, MapData, ProgramArray, lpm_trie::Key},
    programs::{ProgramFd, SchedClassifier, TcAttachType, TestRun, TestRunAttrs, TestRunOptions, Xdp},
};
use weir_abi::{FrontendInfo, FrontendKey};
use weir_datapath::sys::bytes_of;

use crate::{
    flows::{Control, FLOWS, Flow, SLOTS},
    measure::{BenchError, Doing, last_error},
};

/// Which of the two kinds of program a slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layer {
    Xdp,
    Tc,
}

/// A program in its slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    layer: Layer,
    index: u32,
    prologue: &'static str,
}

impl Slot {
    /// The same program behind another prologue than its layer's.
    pub(crate) const fn behind(self, prologue: &'static str) -> Self {
        Self { prologue, ..self }
    }
}

/// Which flows a run sends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pass {
    pub base: u32,
    /// A power of two.
    pub flows: u32,
    /// Packets; also how far `counter` goes.
    pub packets: u32,
    /// Every pass through the list has source ports of its own.
    pub fresh: bool,
    pub start: u64,
}

/// The floor of delivery between two devices of the calling thread's network namespace, for as long as it is held.
pub(crate) struct Redirect {
    _ebpf: Ebpf,
}

impl Redirect {
    pub(crate) fn between(devices: [&str; 2]) -> Result<Self, BenchError> {
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("LRU", 64)
            .map_max_entries("LPM4", 1)
            .map_max_entries("LPM6", 1)
            .load(include_bytes_aligned!(env!("WEIR_BENCH_PROGRAMS")))
            .doing("loading the benchmark's programs")?;
        let index = |name: &str| {
            let text = CString::new(name).doing("naming a device")?;
            // SAFETY: the text is held, and ends with a zero.
            match unsafe { libc::if_nametoindex(text.as_ptr()) } {
                0 => Err(last_error()).doing(format!("looking for {name}")),
                index => Ok(index),
            }
        };
        let [one, other] = [index(devices[0])?, index(devices[1])?];
        let mut peers = Array::<_, u32>::try_from(ebpf.map_mut("PEERS").ok_or("PEERS").doing("finding a map")?)
            .doing("opening PEERS")?;
        for (from, to) in [(one, other), (other, one)] {
            peers.set(from, to, 0).doing("writing PEERS")?;
        }
        let program = ebpf.program_mut("bare_redirect").ok_or("bare_redirect").doing("finding a floor")?;
        let program: &mut SchedClassifier = program.try_into().doing("loading bare_redirect")?;
        program.load().doing("loading bare_redirect")?;
        for device in devices {
            program.attach(device, TcAttachType::Ingress).doing(format!("attaching to {device}"))?;
        }
        Ok(Self { _ebpf: ebpf })
    }
}

pub(crate) struct Programs {
    ebpf: Ebpf,
    flows: Array<MapData, [u8; size_of::<Flow>()]>,
    control: Array<MapData, [u8; size_of::<Control>()]>,
    slots: [ProgramArray<MapData>; 2],
    used: [u32; 2],
    last: [u8; LARGEST],
    device: u32,
}

/// No packet here is larger.
const LARGEST: usize = 128;

impl Programs {
    /// `lru` and `lpm` are the sizes of the floors' tables.
    pub(crate) fn load(lru: u32, lpm: u32) -> Result<Self, BenchError> {
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("LRU", lru)
            .map_max_entries("LPM4", lpm)
            .map_max_entries("LPM6", lpm)
            .load(include_bytes_aligned!(env!("WEIR_BENCH_PROGRAMS")))
            .doing("loading the benchmark's programs")?;
        for (name, program) in ebpf.programs_mut() {
            let doing = format!("loading {name}");
            if name.ends_with("_xdp") {
                let program: &mut Xdp = program.try_into().doing(doing.clone())?;
                program.load().doing(doing)?;
            } else {
                let program: &mut SchedClassifier = program.try_into().doing(doing.clone())?;
                program.load().doing(doing)?;
            }
        }
        let flows = Array::try_from(take(&mut ebpf, "FLOW_LIST")?).doing("opening FLOW_LIST")?;
        let control = Array::try_from(take(&mut ebpf, "CONTROL")?).doing("opening CONTROL")?;
        let slots = [
            ProgramArray::try_from(take(&mut ebpf, "XDP_SLOTS")?).doing("opening XDP_SLOTS")?,
            ProgramArray::try_from(take(&mut ebpf, "TC_SLOTS")?).doing("opening TC_SLOTS")?,
        ];
        Ok(Self { ebpf, flows, control, slots, used: [0; 2], last: [0; LARGEST], device: 0 })
    }

    /// One of the floors, by its program's name.
    pub(crate) fn floor(&mut self, name: &str) -> Result<Slot, BenchError> {
        let layer = if name.ends_with("_xdp") { Layer::Xdp } else { Layer::Tc };
        let program = self.ebpf.program(name).ok_or(name).doing("finding a floor")?;
        let fd = match layer {
            Layer::Xdp => <&Xdp>::try_from(program).doing(name)?.fd().doing(name)?,
            Layer::Tc => <&SchedClassifier>::try_from(program).doing(name)?.fd().doing(name)?,
        };
        let fd = fd.try_clone().doing(name)?;
        self.shipped(layer, &fd)
    }

    /// A shipped program.
    pub(crate) fn shipped(&mut self, layer: Layer, fd: &ProgramFd) -> Result<Slot, BenchError> {
        let at = layer as usize;
        let index = self.used[at];
        if index as usize >= SLOTS {
            return Err(BenchError::Wrong { what: "no slot is left".to_owned() });
        }
        self.slots[at].set(index, fd, 0).doing("putting a program into its slot")?;
        self.used[at] += 1;
        let prologue = match layer {
            Layer::Xdp => "prologue_xdp",
            Layer::Tc => "prologue_tc",
        };
        Ok(Slot { layer, index, prologue })
    }

    /// From here on packets come by this device, not by `lo`.
    pub(crate) const fn on_device(&mut self, device: u32) {
        self.device = device;
    }

    pub(crate) fn set_flows(&mut self, base: u32, flows: &[Flow]) -> Result<(), BenchError> {
        if base as usize + flows.len() > FLOWS {
            return Err(BenchError::Wrong { what: format!("{} flows from {base} do not fit", flows.len()) });
        }
        for (at, flow) in (base..).zip(flows) {
            let mut bytes = [0; size_of::<Flow>()];
            bytes[..16].copy_from_slice(&flow.source.0);
            bytes[16..32].copy_from_slice(&flow.destination.0);
            bytes[32..34].copy_from_slice(&flow.source_port_be.to_ne_bytes());
            bytes[34..36].copy_from_slice(&flow.destination_port_be.to_ne_bytes());
            self.flows.set(at, bytes, 0).doing("writing a flow")?;
        }
        Ok(())
    }

    pub(crate) fn fill_lpm4(&mut self, prefixes: &[weir_plan::Prefix4]) -> Result<(), BenchError> {
        let mut trie: LpmTrie<_, [u8; 4], u32> = self.map("LPM4")?;
        prefixes.iter().try_for_each(|prefix| {
            let key = Key::new(u32::from(prefix.length), prefix.bits.to_be_bytes());
            trie.insert(&key, 1, 0).doing("filling the trie")
        })
    }

    pub(crate) fn fill_lpm6(&mut self, prefixes: &[weir_plan::Prefix6]) -> Result<(), BenchError> {
        let mut trie: LpmTrie<_, [u8; 16], u32> = self.map("LPM6")?;
        prefixes.iter().try_for_each(|prefix| {
            let key = Key::new(u32::from(prefix.length), prefix.bits().to_be_bytes());
            trie.insert(&key, 1, 0).doing("filling the trie")
        })
    }

    pub(crate) fn fill_frontends(
        &mut self,
        frontends: impl Iterator<Item = (FrontendKey, FrontendInfo)>,
    ) -> Result<(), BenchError> {
        let mut hash: HashMap<_, [u8; size_of::<FrontendKey>()], [u8; size_of::<FrontendInfo>()]> =
            self.map("FRONTENDS")?;
        for (key, info) in frontends {
            let (mut key_bytes, mut value) = ([0; size_of::<FrontendKey>()], [0; size_of::<FrontendInfo>()]);
            key_bytes.copy_from_slice(bytes_of(&key));
            value.copy_from_slice(bytes_of(&info));
            hash.insert(key_bytes, value, 0).doing("filling the frontends")?;
        }
        Ok(())
    }

    /// What the last run made of its last packet.
    pub(crate) const fn last_packet(&self) -> &[u8] {
        &self.last
    }

    fn map<'a, T: TryFrom<&'a mut Map>>(&'a mut self, name: &str) -> Result<T, BenchError>
    where
        T::Error: std::fmt::Display,
    {
        let map = self.ebpf.map_mut(name).ok_or(name).doing("finding a table")?;
        T::try_from(map).doing(name)
    }

    /// Sends `packets` live frames out of the device, and says how many nanoseconds each took, its reception included:
    /// the device's peer runs on this CPU, between the batches.
    pub(crate) fn send(&mut self, device: u32, packet: &[u8], pass: Pass) -> Result<f64, BenchError> {
        self.set_control(pass, device)?;
        let program = self.ebpf.program("generator_xdp").ok_or("generator_xdp").doing("finding the generator")?;
        let program = <&Xdp>::try_from(program).doing("generator_xdp")?;
        let mut options = TestRunOptions::new();
        options.data_in = Some(packet);
        options.repeat = pass.packets;
        options.attrs = TestRunAttrs::new().xdp_live_frames(64);
        let begin = Instant::now();
        program.test_run(options).doing("sending live frames")?;
        Ok(begin.elapsed().as_nanos() as f64 / f64::from(pass.packets))
    }

    fn set_control(&mut self, pass: Pass, slot: u32) -> Result<(), BenchError> {
        let mut bytes = [0; size_of::<Control>()];
        bytes[..8].copy_from_slice(&pass.start.to_ne_bytes());
        let words = [pass.flows - 1, pass.base, slot, u32::from(pass.fresh)];
        for (at, word) in words.into_iter().enumerate() {
            bytes[8 + at * 4..12 + at * 4].copy_from_slice(&word.to_ne_bytes());
        }
        self.control.set(0, bytes, 0).doing("writing the control word")
    }

    /// Runs `slot` behind its prologue; nanoseconds a packet. Every packet must be answered with `expect`, as far as the
    /// last one tells.
    pub(crate) fn run(&mut self, slot: Slot, packet: &[u8], pass: Pass, expect: u32) -> Result<f64, BenchError> {
        self.set_control(pass, slot.index)?;
        let name = slot.prologue;
        let context = match (self.device, slot.layer) {
            (0, _) => Vec::new(),
            // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
            (device, Layer::Xdp) => [0, packet.len() as u32, 0, device, 0, 0].map(u32::to_ne_bytes).concat(),
            // struct __sk_buff as far as ifindex, its eleventh word.
            (device, Layer::Tc) => {
                [[0; 10].as_slice(), &[device, 0]].concat().into_iter().flat_map(u32::to_ne_bytes).collect()
            }
        };
        let program = self.ebpf.program(name).ok_or(name).doing("finding the prologue")?;
        let mut options = TestRunOptions::new();
        options.data_in = Some(packet);
        options.data_out = Some(&mut self.last);
        options.ctx_in = (!context.is_empty()).then_some(&context);
        options.repeat = pass.packets;
        let result = match slot.layer {
            Layer::Xdp => <&Xdp>::try_from(program).doing(name)?.test_run(options),
            Layer::Tc => <&SchedClassifier>::try_from(program).doing(name)?.test_run(options),
        };
        let result = result.doing(format!("running slot {} of {name}", slot.index))?;
        if result.return_value != expect {
            return Err(BenchError::Wrong {
                what: format!("slot {} of {name} answered {}, not {expect}", slot.index, result.return_value),
            });
        }
        Ok(result.duration.as_nanos() as f64)
    }
}

fn take(ebpf: &mut Ebpf, name: &str) -> Result<Map, BenchError> {
    ebpf.take_map(name).ok_or(name).doing("finding a table")
}

/// A TCP segment with ACK set; the prologue fills in addresses and ports.
pub(crate) fn tcp(v6: bool) -> Vec<u8> {
    let mut packet = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    if v6 {
        packet.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 64]);
        packet.extend([0; 32]);
    } else {
        packet.extend([0x08, 0x00, 0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0]);
        packet.extend([0; 8]);
    }
    packet.extend([0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
    packet.resize(packet.len().max(64), 0);
    packet
}
