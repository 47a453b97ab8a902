//! The doctor finds what keeps packets from arriving, and names the command that mends it.

use anyhow::{Result, ensure};
use lb_tests::agent::Agent;
use lb_tests::config::{Config, Service};
use lb_tests::lab::{Lab, Offloads, Options, with_lab};

fn findings(agent: &Agent<'_>, file: &str) -> Result<serde_json::Value> {
    let finished = agent.cli(["doctor", "-c", file, "--json"])?;
    Ok(serde_json::from_str(&finished.out)?)
}

/// The mends of what is wrong with the checksum offload of `device`.
fn mends(findings: &serde_json::Value, device: &str) -> Vec<String> {
    let all = findings["findings"].as_array().into_iter().flatten();
    let about = all.filter(|finding| {
        finding["check"] == "tx-checksum-offload" && finding["subject"] == device && finding["severity"] == "problem"
    });
    about.filter_map(|finding| finding["mend"].as_str().map(str::to_owned)).collect()
}

fn examine(lab: &Lab) -> Result<()> {
    let agent = Agent::prepare(lab, Config::for_lab(lab, vec![Service::web(lab)]))?;
    let file = agent.file().display().to_string();
    for device in lab.devices() {
        let before = mends(&findings(&agent, &file)?, &device);
        ensure!(before == [format!("ethtool -K {device} tx off")], "{device}: {before:?}");
        // The command is followed to the letter.
        let mut words = before[0].split(' ');
        let mut command = std::process::Command::new(words.next().unwrap_or_default());
        command.args(words);
        lab.balancer.run(command)?.success()?;
        let after = mends(&findings(&agent, &file)?, &device);
        ensure!(after.is_empty(), "{device} after its mend: {after:?}");
    }
    Ok(())
}

#[test]
fn checksum_offload_on_a_veth_is_named_and_the_command_mends_it() {
    with_lab(Options { offloads: Offloads::KernelDefault, backends: 1, ..Options::default() }, examine);
}
