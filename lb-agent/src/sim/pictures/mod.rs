//! Pictures of a study, each as SVG and as PNG: how latency, throughput and regret went for all contenders, what one policy
//! decided and believes, and how all compare over the scenarios.

mod chart;
mod figure;
mod series;

use std::path::Path;

use super::play::{Contender, play};
use super::study::{Outcome, Study};
use super::world::World;

/// Draws everything that there is to see of a study into a directory; `drawn` hears of each figure.
pub(super) fn draw(study: &Study, outcomes: &[Outcome], directory: &Path, drawn: &dyn Fn()) -> anyhow::Result<()> {
    figure::register_font()?;
    for &backends in &study.backends {
        for scenario in &study.scenarios {
            let world = World::new(scenario, backends, 1);
            let whose = std::iter::once(Contender::Oracle).chain(study.contenders.iter().copied());
            let plays: Vec<series::Played> = whose
                .map(|contender| {
                    let (recording, trace) = play(&world, contender, true);
                    series::Played { contender, recording, trace: trace.unwrap_or_default() }
                })
                .collect();
            series::compared(scenario, backends, &plays).write(directory)?;
            drawn();
            if let Some(played) = series::explained(&plays) {
                series::inside(scenario, backends, played).write(directory)?;
            }
            drawn();
        }
        series::overview(study, outcomes, backends).write(directory)?;
        drawn();
    }
    Ok(())
}

/// Figures that [`draw`] writes.
pub(super) fn count(study: &Study) -> u64 {
    (study.backends.len() * (2 * study.scenarios.len() + 1)) as u64
}
