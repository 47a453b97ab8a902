//! The table: each program's dearest configuration by each figure.

use std::collections::BTreeMap;

use comfy_table::{CellAlignment, Table, presets};

use super::budget::Loaded;

pub(super) fn render(loaded: &[Loaded]) -> String {
    let mut programs: BTreeMap<&str, Vec<&Loaded>> = BTreeMap::new();
    for one in loaded {
        programs.entry(&one.cost.program).or_default().push(one);
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["program", "loaded", "verified", "instructions", "machine code", "calls", "dearest with"]);
    for (program, loaded) in programs {
        // Of equally dear ones the first.
        let dearest = loaded.iter().rev().max_by_key(|loaded| loaded.cost.verified);
        table.add_row([
            program.to_owned(),
            loaded.len().to_string(),
            range(loaded.iter().map(|loaded| u64::from(loaded.cost.verified))),
            range(loaded.iter().map(|loaded| loaded.cost.instructions as u64)),
            range(loaded.iter().map(|loaded| u64::from(loaded.cost.jited_bytes))),
            range(loaded.iter().map(|loaded| loaded.cost.calls as u64)),
            dearest.map(|loaded| loaded.configuration.to_string()).unwrap_or_default(),
        ]);
    }
    for column in table.column_iter_mut() {
        let text = matches!(column.index, 0 | 6);
        column.set_cell_alignment(if text { CellAlignment::Left } else { CellAlignment::Right });
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// `least to most`, or the one number that all have.
fn range(numbers: impl Iterator<Item = u64> + Clone) -> String {
    match (numbers.clone().min(), numbers.max()) {
        (Some(least), Some(most)) if least != most => format!("{least} to {most}"),
        (least, _) => least.unwrap_or(0).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use lb_agent::dataplane::kernel::{Configuration, Cost};

    use super::*;

    #[test]
    fn one_line_a_program() {
        let loaded = |verified, seed| Loaded {
            cost: Cost { program: "balance".into(), verified, instructions: 9, jited_bytes: 40, calls: 0 },
            configuration: Configuration { seed, ..Configuration::default() },
        };
        let expected = "\
program  loaded    verified  instructions  machine code  calls  dearest with
balance       3  100 to 200             9            40      0  1048576 flows, 1024 backends, 250 Hz, key 2, ports 16384-32767";
        assert_eq!(render(&[loaded(100, 1), loaded(200, 2), loaded(200, 3)]), expected);
    }
}
