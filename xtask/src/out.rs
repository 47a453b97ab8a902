//! Standard output. A reader that has gone is an error and not a panic, so that whoever prints still clears up.

use std::io::Write as _;

use anyhow::{Context as _, Result};

/// Prints a line at once. Colours may be in it: they are taken out where nobody can see them.
pub(crate) fn say(text: &str) -> Result<()> {
    let mut out = anstream::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).context("writing to standard output")
}
