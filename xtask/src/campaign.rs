use crate::command::Call;

/// How much of the long campaigns (property, crash, drift) a test run does. The tests read it from `WEIR_CAMPAIGN`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Campaign {
    /// Enough to see that a campaign works.
    Quick,
    /// The counts that every change must pass.
    Ci,
    /// Full counts.
    Soak,
}

impl Campaign {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Quick => "quick",
            Self::Ci => "ci",
            Self::Soak => "soak",
        }
    }

    /// `call` with what its tests need to know.
    pub fn tell(self, call: Call) -> Call {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let call = call
            .env("WEIR_CAMPAIGN", self.name())
            // Most tests wait: for RCU, for timeouts of packets that must not come. Each has its own namespaces.
            .env("RUST_TEST_THREADS", (cpus * 3).to_string())
            .env("WEIR_BIN", crate::workspace::target().join("release/weir"))
            .env("WEIR_RESULTS", crate::workspace::root().join("bench/results"));
        match crate::privilege::test_runner() {
            Some((variable, runner)) => call.env(variable, runner),
            None => call,
        }
    }
}
