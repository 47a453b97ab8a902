//! The comparison as tables (which are Markdown) and as JSON: medians over the rounds with their range, and what each
//! contender adds to the cost of no balancer at all, paired within a round.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::contender::{Contender, Offloads};
use super::cpu::Used;
use super::workload::{Done, Workload};
use crate::bench::figures::{Samples, table};

/// One workload through one contender in one round.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) round: u32,
    pub(super) offloads: Offloads,
    pub(super) contender: &'static str,
    pub(super) workload: Workload,
    pub(super) done: Done,
    pub(super) used: Used,
}

impl Sample {
    /// Microseconds of CPU time.
    fn cpu_per_unit(&self) -> f64 {
        self.used.cpu.as_secs_f64() * 1e6 / self.done.units
    }

    fn is_of(&self, offloads: Offloads, contender: &str, workload: Workload) -> bool {
        (self.offloads, self.contender, self.workload) == (offloads, contender, workload)
    }
}

#[derive(Debug)]
pub(super) struct Report {
    pub(super) machine: String,
    pub(super) cpu: &'static str,
    pub(super) rounds: u32,
    pub(super) seconds: u32,
    pub(super) backends: u16,
    pub(super) offloads: Vec<Offloads>,
    pub(super) workloads: Vec<Workload>,
    /// The first is what the others are measured against.
    pub(super) contenders: Vec<Contender>,
    /// Names of what cannot be run here, and the package that would mend it.
    pub(super) skipped: Vec<(&'static str, &'static str)>,
    pub(super) samples: Vec<Sample>,
    pub(super) failures: Vec<String>,
}

impl Report {
    pub(super) fn markdown(&self) -> String {
        let mut text = format!(
            "Live traffic from a client to {} backends in network namespaces: medians (and ranges) over {} interleaved \
             {}, {} s each; {}.\n",
            self.backends,
            self.rounds,
            if self.rounds == 1 { "round" } else { "rounds" },
            self.seconds,
            self.machine
        );
        for offloads in &self.offloads {
            let how = match offloads {
                Offloads::Off => "Offloads off (tx checksum, TSO, GSO, GRO, at every end of every veth)",
                Offloads::Default => "Offloads as the kernel makes a veth",
            };
            let first = self.contenders[0].name;
            let _ = write!(text, "\n## {how}\n\nThroughput; × is the ratio to `{first}` in the same round.\n\n");
            let heading = self.workloads.iter().map(|workload| workload.rate_heading().to_owned());
            text += &self.table(heading, |contender, workload| self.rate_cell(*offloads, contender, workload));
            let _ = write!(text, "\nCPU, µs per unit: of `{first}`, and what the others add to it.\n\n");
            let heading = self.workloads.iter().map(|workload| workload.unit().to_owned());
            text += &self.table(heading, |contender, workload| self.cpu_cell(*offloads, contender, workload));
        }
        text + &self.notes()
    }

    fn table(
        &self,
        heading: impl Iterator<Item = String>,
        cell: impl Fn(&Contender, Workload) -> Option<String>,
    ) -> String {
        let heading: Vec<_> = std::iter::once("contender".to_owned()).chain(heading).collect();
        let line = |contender: &Contender| -> Vec<String> {
            let name = std::iter::once(contender.name.to_owned());
            let cells = self.workloads.iter().map(|workload| {
                let missing = if contender.carries(*workload) { "failed" } else { "–" };
                cell(contender, *workload).unwrap_or_else(|| missing.to_owned())
            });
            name.chain(cells).collect()
        };
        table(&heading, &self.contenders.iter().map(line).collect::<Vec<_>>())
    }

    fn rate_cell(&self, offloads: Offloads, contender: &Contender, workload: Workload) -> Option<String> {
        let rate = |sample: &Sample| workload.rate(sample.done.per_second);
        let rates = self.each(offloads, contender.name, workload, rate)?;
        let mut cell = with_range(&rates, short);
        if !self.is_reference(contender)
            && let Some(ratios) = self.paired(offloads, contender.name, workload, |own, first| rate(own) / rate(first))
        {
            let _ = write!(cell, " ×{:.2}", ratios.median());
        }
        let lost: Samples = self.of(offloads, contender.name, workload).filter_map(|one| one.done.lost).collect();
        // Less is one buffer that ran over once.
        const WORTH_SAYING: f64 = 0.005;
        if lost.median() >= WORTH_SAYING {
            let _ = write!(cell, ", {:.0}% lost", lost.median() * 100.0);
        }
        Some(cell)
    }

    fn cpu_cell(&self, offloads: Offloads, contender: &Contender, workload: Workload) -> Option<String> {
        if self.is_reference(contender) {
            return Some(with_range(&self.each(offloads, contender.name, workload, Sample::cpu_per_unit)?, short));
        }
        Some(with_range(&self.added(offloads, contender.name, workload)?, signed))
    }

    fn added(&self, offloads: Offloads, contender: &str, workload: Workload) -> Option<Samples> {
        self.paired(offloads, contender, workload, |own, first| own.cpu_per_unit() - first.cpu_per_unit())
    }

    fn notes(&self) -> String {
        let mut text = String::from("\n");
        let mut note = |line: String| {
            let _ = writeln!(text, "- {line}");
        };
        note(format!("CPU: {}. Ranges that overlap are no difference.", self.cpu));
        note(self.noise());
        for contender in &self.contenders {
            note(format!("`{}`: {}.", contender.name, contender.what));
            for offloads in &self.offloads {
                if let Some(more) = contender.note(*offloads) {
                    note(format!("`{}`, offloads {}: {more}.", contender.name, offloads.name()));
                }
            }
        }
        self.workloads.iter().for_each(|workload| note(format!("{}: {}.", workload.name(), workload.what())));
        for contender in &self.contenders {
            let own = || self.samples.iter().filter(|sample| sample.contender == contender.name);
            let errors: u64 = own().map(|sample| sample.done.errors).sum();
            if errors > 0 {
                note(format!("`{}`: {errors} requests failed or timed out in all rounds together.", contender.name));
            }
        }
        for (name, package) in &self.skipped {
            note(format!("`{name}` was skipped: install {package} (scripts/setup --bench does it)."));
        }
        self.failures.iter().for_each(|failure| note(format!("failed: {failure}")));
        text
    }

    fn noise(&self) -> String {
        let percent = |samples: &Samples| {
            let (_, worst) = samples.range();
            format!("median {:.0}%, worst {:.0}% of the CPUs", samples.median() * 100.0, worst * 100.0)
        };
        let others: Samples = self.samples.iter().filter_map(|sample| sample.used.others).collect();
        let stolen: Samples = self.samples.iter().map(|sample| sample.used.stolen).collect();
        let others = if others.is_empty() { "not known".to_owned() } else { percent(&others) };
        format!("Others' work on this machine meanwhile: {others}; stolen by the hypervisor: {}.", percent(&stolen))
    }

    pub(super) fn json(&self) -> Value {
        let contender = |one: &Contender| {
            let notes: serde_json::Map<_, _> =
                self.offloads.iter().map(|offloads| (offloads.name().to_owned(), json!(one.note(*offloads)))).collect();
            json!({ "name": one.name, "what": one.what, "notes": notes })
        };
        json!({
            "machine": self.machine,
            "rounds": self.rounds,
            "seconds": self.seconds,
            "backends": self.backends,
            "cpu": self.cpu,
            "contenders": self.contenders.iter().map(contender).collect::<Vec<_>>(),
            "skipped": self.skipped.iter().map(|(name, package)| json!({ "name": name, "package": package }))
                .collect::<Vec<_>>(),
            "figures": self.figures(),
            "samples": self.samples.iter().map(sample).collect::<Vec<_>>(),
            "failures": self.failures,
        })
    }

    fn figures(&self) -> Vec<Value> {
        let mut figures = Vec::new();
        for offloads in &self.offloads {
            for contender in &self.contenders {
                for workload in &self.workloads {
                    let own = |value: fn(&Sample) -> f64| self.each(*offloads, contender.name, *workload, value);
                    let Some(rate) = own(|sample| sample.workload.rate(sample.done.per_second)) else { continue };
                    figures.push(json!({
                        "offloads": offloads.name(),
                        "contender": contender.name,
                        "workload": workload.name(),
                        "rate_unit": workload.rate_heading(),
                        "rate": rate.json(),
                        "unit": workload.unit(),
                        "cpu_us_per_unit": own(Sample::cpu_per_unit).map(|samples| samples.json()),
                        "added_cpu_us_per_unit": self.added(*offloads, contender.name, *workload)
                            .map(|samples| samples.json()),
                    }));
                }
            }
        }
        figures
    }

    fn is_reference(&self, contender: &Contender) -> bool {
        self.contenders[0].name == contender.name
    }

    fn of(&self, offloads: Offloads, contender: &str, workload: Workload) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |sample| sample.is_of(offloads, contender, workload))
    }

    /// Nothing if there is no sample.
    fn each(
        &self,
        offloads: Offloads,
        contender: &str,
        workload: Workload,
        value: impl Fn(&Sample) -> f64,
    ) -> Option<Samples> {
        let samples: Samples = self.of(offloads, contender, workload).map(value).collect();
        (!samples.is_empty()).then_some(samples)
    }

    /// The contender's samples, each with the reference's of the same round.
    fn paired(
        &self,
        offloads: Offloads,
        contender: &str,
        workload: Workload,
        value: impl Fn(&Sample, &Sample) -> f64,
    ) -> Option<Samples> {
        let first = self.contenders[0].name;
        let samples: Samples = self
            .of(offloads, contender, workload)
            .filter_map(|own| {
                let found = self.of(offloads, first, workload).find(|reference| reference.round == own.round);
                found.map(|reference| value(own, reference))
            })
            .collect();
        (!samples.is_empty()).then_some(samples)
    }
}

fn sample(sample: &Sample) -> Value {
    json!({
        "round": sample.round,
        "offloads": sample.offloads.name(),
        "contender": sample.contender,
        "workload": sample.workload.name(),
        "units": sample.done.units,
        "units_per_second": sample.done.per_second,
        "errors": sample.done.errors,
        "lost": sample.done.lost,
        "cpu_seconds": sample.used.cpu.as_secs_f64(),
        "others_share": sample.used.others,
        "stolen_share": sample.used.stolen,
    })
}

/// Of a single round there is no range.
fn with_range(samples: &Samples, write: impl Fn(f64) -> String) -> String {
    let median = write(samples.median());
    match samples.range() {
        (min, max) if min < max => format!("{median} ({}–{})", write(min), write(max)),
        _ => median,
    }
}

/// Three digits that mean something.
pub(super) fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 99_950.0 => format!("{:.0}k", value / 1000.0),
        size if size >= 9_995.0 => format!("{:.1}k", value / 1000.0),
        size if size >= 999.5 => format!("{:.2}k", value / 1000.0),
        size if size >= 99.95 => format!("{value:.0}"),
        size if size >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn signed(value: f64) -> String {
    if value < 0.0 { short(value) } else { format!("+{}", short(value)) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::contender;
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        let cases = [
            (0.126, "0.13"),
            (9.999, "10.0"),
            (99.96, "100"),
            (999.6, "1.00k"),
            (47_449.0, "47.4k"),
            (99_960.0, "100k"),
            (-7.0, "-7.00"),
        ];
        for (value, expected) in cases {
            assert_eq!(short(value), expected);
        }
        assert_eq!((signed(7.0).as_str(), signed(-7.0).as_str()), ("+7.00", "-7.00"));
    }

    fn sample_of(round: u32, contender: &'static str, per_second: f64, cpu: u64) -> Sample {
        let done = Done { units: 1000.0, per_second, errors: 0, lost: Some(0.0) };
        let used = Used { cpu: Duration::from_micros(cpu), others: Some(0.25), stolen: 0.0 };
        Sample { round, offloads: Offloads::Off, contender, workload: Workload::Http, done, used }
    }

    fn report() -> Report {
        let named = |name| *contender::ALL.iter().find(|one| one.name == name).expect("a contender");
        let (direct, haproxy, lb) = (named("direct"), named("haproxy"), named("lb"));
        Report {
            machine: "a machine".into(),
            cpu: "CPU time",
            rounds: 2,
            seconds: 1,
            backends: 3,
            offloads: vec![Offloads::Off],
            workloads: vec![Workload::Http, Workload::Udp],
            contenders: vec![direct, haproxy, lb],
            skipped: vec![("nginx", "libnginx-mod-stream")],
            samples: vec![
                sample_of(1, direct.name, 40_000.0, 10_000),
                sample_of(1, lb.name, 20_000.0, 15_000),
                // The second round was a slow one, for both.
                sample_of(2, direct.name, 20_000.0, 20_000),
                sample_of(2, lb.name, 15_000.0, 23_000),
            ],
            failures: Vec::new(),
        }
    }

    #[test]
    fn what_is_added_is_paired_within_a_round() {
        let text = report().markdown();
        let rows: Vec<_> = text.lines().filter(|line| line.starts_with("| lb ")).collect();
        assert_eq!(rows.len(), 2, "{text}");
        assert!(rows[0].contains("17.5k (15.0k–20.0k) ×0.62"), "{}", rows[0]);
        assert!(rows[1].contains("+4.00 (+3.00–+5.00)"), "{}", rows[1]);
        assert!(text.contains("| direct") && text.contains("15.0 (10.0–20.0)"), "{text}");
    }

    #[test]
    fn what_is_missing_is_told_from_what_cannot_be() {
        let text = report().markdown();
        let row = text.lines().find(|line| line.starts_with("| haproxy")).expect("a row");
        assert!(row.contains("failed") && row.ends_with(" – |"), "{row}");
        assert!(text.contains("`nginx` was skipped: install libnginx-mod-stream"), "{text}");
    }

    #[test]
    fn the_json_has_medians_and_all_samples() {
        let json = report().json();
        assert_eq!(json["samples"].as_array().map(Vec::len), Some(4));
        let lb = json["figures"].as_array().and_then(|all| all.iter().find(|one| one["contender"] == "lb"));
        assert_eq!(lb.expect("figures of lb")["added_cpu_us_per_unit"]["median"], 4.0);
    }
}
