//! Findings for people and for scripts.

use std::fmt::Write as _;

use clap::builder::styling::{AnsiColor, Style};
use serde::Serialize;

use super::{Finding, Severity};

/// What `--json` prints.
#[derive(Debug, Serialize)]
pub(super) struct Report<'a> {
    /// No problem was found.
    fit: bool,
    problems: usize,
    warnings: usize,
    findings: &'a [Finding],
}

impl<'a> Report<'a> {
    pub(super) fn new(findings: &'a [Finding]) -> Self {
        let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
        let (problems, warnings) = (count(Severity::Problem), count(Severity::Warning));
        Self { fit: problems == 0, problems, warnings, findings }
    }

    fn summary(&self) -> String {
        let plural = |count: usize, noun: &str| format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
        let fitness = if self.fit { "fit" } else { "not fit" };
        let (problems, warnings) = (plural(self.problems, "problem"), plural(self.warnings, "warning"));
        format!("this host is {fitness}: {problems}, {warnings}")
    }
}

/// One line a finding, its mend on the next one, a summary at the end. Colours are escape sequences: print it
/// through anstream, which drops them where there is no terminal.
pub(super) fn table(findings: &[Finding]) -> String {
    let width = |text: fn(&Finding) -> &str| findings.iter().map(|finding| text(finding).len()).max().unwrap_or(0);
    let (checks, subjects) = (width(|finding| finding.check), width(|finding| &finding.subject));
    let mut table = String::new();
    for finding in findings {
        let style = style(finding.severity);
        let severity = finding.severity.as_str();
        // Writing to a String does not fail.
        let _ = writeln!(
            table,
            "{style}{severity:<7}{style:#}  {:<checks$}  {:<subjects$}  {}",
            finding.check, finding.subject, finding.message
        );
        if let Some(mend) = &finding.mend {
            let bold = Style::new().bold();
            let _ = writeln!(table, "{:9}{bold}{mend}{bold:#}", "");
        }
    }
    let _ = writeln!(table, "{}", Report::new(findings).summary());
    table
}

fn style(severity: Severity) -> Style {
    match severity {
        Severity::Ok => AnsiColor::Green.on_default(),
        Severity::Warning => AnsiColor::Yellow.on_default(),
        Severity::Problem => AnsiColor::Red.on_default().bold(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_and_a_report_of_the_same_findings() {
        let finding = |check, subject: &str, severity, message: &str, mend: Option<&str>| Finding {
            check,
            subject: subject.into(),
            severity,
            message: message.into(),
            mend: mend.map(str::to_owned),
        };
        let findings = [
            finding("kernel", "host", Severity::Ok, "Linux 6.1", None),
            finding(
                "forwarding",
                "lb0",
                Severity::Problem,
                "it is off",
                Some("sysctl -w net.ipv4.conf.lb0.forwarding=1"),
            ),
        ];
        let plain = anstream::adapter::strip_str(&table(&findings)).to_string();
        assert_eq!(
            plain,
            "ok       kernel      host  Linux 6.1\n\
             problem  forwarding  lb0   it is off\n\
             \x20        sysctl -w net.ipv4.conf.lb0.forwarding=1\n\
             this host is not fit: 1 problem, 0 warnings\n"
        );
        let report = serde_json::to_value(Report::new(&findings[..1])).unwrap();
        assert_eq!(
            report,
            serde_json::json!({
                "fit": true,
                "problems": 0,
                "warnings": 0,
                "findings": [
                    {"check": "kernel", "subject": "host", "severity": "ok", "message": "Linux 6.1", "mend": null}
                ]
            })
        );
    }
}
