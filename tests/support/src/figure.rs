//! Figures that tests come by, for people to see.

use std::fs::File;
use std::io::Write as _;

/// Prints a figure, and adds it as a line to the file that `STREAMVS_FIGURES` names. `scripts/test`
/// shows that file at its end, because what a test prints is dropped when it passes.
///
/// # Panics
/// When that file cannot be written.
pub fn report(figure: &str) {
    println!("{figure}");
    if let Some(path) = std::env::var_os("STREAMVS_FIGURES") {
        let file = File::options().create(true).append(true).open(path);
        // One write, so that tests that run beside each other do not mix their lines.
        file.and_then(|mut file| file.write_all(format!("{figure}\n").as_bytes()))
            .expect("the file of figures takes a line");
    }
}
