//! The last frames and events before something broke, printed when `STREAMVS_SIM_TRACE` is set.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt::Display;

const LINES: usize = 2000;

thread_local! {
    static LAST: RefCell<Option<VecDeque<String>>> = const { RefCell::new(None) };
}

/// Prints the trace when it is dropped by a panic.
#[derive(Debug)]
pub(crate) struct Trace;

impl Trace {
    pub(crate) fn begin() -> Self {
        let wanted = std::env::var_os("STREAMVS_SIM_TRACE").is_some();
        LAST.set(wanted.then(VecDeque::new));
        Self
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let last = LAST.take();
        if std::thread::panicking() {
            last.iter().flatten().for_each(|line| println!("{line}"));
        }
    }
}

/// Adds a line.
pub(crate) fn line(line: impl Display) {
    LAST.with_borrow_mut(|last| {
        if let Some(last) = last {
            if last.len() == LINES {
                last.pop_front();
            }
            last.push_back(line.to_string());
        }
    });
}
