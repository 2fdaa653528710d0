use weir_abi::tree::Line;

/// Where a tree lives: a mapped array in production, a vector in tests.
///
/// Every store goes through here, and is only made when it changes something: a tree that is already right is not
/// written.
pub trait Lines {
    fn len(&self) -> u32;
    fn line(&self, line: u32) -> Line;
    fn set_line(&mut self, line: u32, value: Line);
    fn word(&self, line: u32, word: u32) -> u32;
    fn set_word(&mut self, line: u32, word: u32, value: u32);

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Cell `at` of the index that begins in `first`.
    fn cell(&self, first: u32, at: u32) -> u32 {
        self.word(first + (at >> 4), at & 15)
    }

    fn set_cell(&mut self, first: u32, at: u32, value: u32) {
        self.set_word(first + (at >> 4), at & 15, value);
    }
}

impl Lines for Vec<Line> {
    fn len(&self) -> u32 {
        self.as_slice().len() as u32
    }

    fn line(&self, line: u32) -> Line {
        self[line as usize]
    }

    fn set_line(&mut self, line: u32, value: Line) {
        self[line as usize] = value;
    }

    fn word(&self, line: u32, word: u32) -> u32 {
        self[line as usize].0[word as usize]
    }

    fn set_word(&mut self, line: u32, word: u32, value: u32) {
        self[line as usize].0[word as usize] = value;
    }
}
